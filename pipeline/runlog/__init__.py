"""Console, per-rank JSONL (the truth) and MLflow."""

from pipeline.runlog.console import RunConsole
from pipeline.runlog.jsonl import EventLog
from pipeline.runlog.metrics import metrics_of
from pipeline.runlog.mlflow_log import MlflowLog
from pipeline.runlog.run_folder import RunFolder, default_tracking_uri

__all__ = ["EventLog", "MlflowLog", "RunConsole", "RunFolder", "default_tracking_uri", "metrics_of"]
