"""Console, per-rank JSONL (the truth) and MLflow."""

from pipeline.runlog.console import RunConsole
from pipeline.runlog.jsonl import EventLog
from pipeline.runlog.mlflow_log import MlflowLog, default_tracking_uri, flat_numbers

__all__ = ["EventLog", "MlflowLog", "RunConsole", "default_tracking_uri", "flat_numbers"]
