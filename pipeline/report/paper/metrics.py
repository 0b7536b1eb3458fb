"""The metrics of generated answers, beside token accuracy: per dataset those that fit its tasks, and their averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.report.runs import Experiment, Run
from pipeline.report.table import Cell, Table, text
from pipeline.report.tables import arm_cells, spread_note

NOTHING = "No answers were generated in these runs (eval.generate_per_dataset), so there is nothing to show here."


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: `scale` turns the logged value into the printed one."""

    label: str
    scale: float = 100.0
    digits: int = 1
    highest: bool = True


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy, %"),
    "macro_f1": Metric("macro F1, %"),
    "set_f1": Metric("set F1, %"),
    "wer": Metric("WER, % (lower is better)", highest=False),
    "cer": Metric("CER, % (lower is better)", highest=False),
    "bleu": Metric("BLEU"),
    "chrf": Metric("chrF"),
    "rouge_l": Metric("ROUGE-L, %"),
    "cider_d": Metric("CIDEr-D (0 to 10)", scale=1.0, digits=2),
}


def metrics_table(experiment: Experiment) -> Table:
    """One row a dataset and metric, one column an arm; below, each metric's mean over the datasets that have it."""
    found = metric_names(experiment)
    rows: list[tuple[Cell, ...]] = []
    for dataset in experiment.datasets:
        for name in found:
            if any(name in scores for run in experiment.runs if (scores := _metrics(run, dataset))):
                cells = _cells(experiment, name, lambda run, d=dataset, n=name: _metrics(run, d).get(n))  # type: ignore[misc]
                rows.append((text(dataset), text(_label(name)), text(_generated(experiment, dataset)), *cells))
    first_average = len(rows)
    for name in found:
        names = [d for d in experiment.datasets if any(name in _metrics(run, d) for run in experiment.runs)]
        cells = _cells(experiment, name, lambda run, n=name, ds=names: _mean(run, n, ds))  # type: ignore[misc]
        rows.append((text(f"mean of {len(names)}"), text(_label(name)), text("-"), *cells))
    return Table(
        "metrics",
        "Metrics of generated answers on the test split",
        ("dataset", "metric", "answers", *experiment.arms),
        tuple(rows),
        (
            "Answers are generated greedily for the first examples of each dataset's test split, not for all; how many "
            "is in the column of answers. Accuracy: the normalised answer equals any reference. Which metrics a "
            "dataset has follows from its tasks. A mean is over the datasets that have the metric, all alike.",
            spread_note(experiment),
        )
        if rows
        else (NOTHING,),
        rule_before=frozenset({first_average}) if rows else frozenset(),
        text_columns=frozenset({0, 1}),
    )


def metric_names(experiment: Experiment) -> list[str]:
    """Every metric that some run has: the known ones in their order, then unknown ones by name."""
    there = {name for run in experiment.runs for d in experiment.datasets for name in _metrics(run, d)}
    return [name for name in METRICS if name in there] + sorted(there - METRICS.keys())


def _cells(experiment: Experiment, name: str, value: Callable[[Run], float | None]) -> list[Cell]:
    metric = METRICS.get(name, Metric(name, scale=1.0, digits=3))
    return arm_cells(experiment, value, scale=metric.scale, digits=metric.digits, highest=metric.highest)


def _label(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def _metrics(run: Run, dataset: str) -> Mapping[str, float]:
    """Metrics of one dataset; NaN where its test loss is: nothing sound was generated."""
    score = run.result.scores.get(dataset)
    if score is None:
        return {}
    return score.metrics if math.isfinite(score.loss) else dict.fromkeys(score.metrics, math.nan)


def _mean(run: Run, name: str, datasets: list[str]) -> float | None:
    values = [_metrics(run, dataset).get(name) for dataset in datasets]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _generated(experiment: Experiment, dataset: str) -> str:
    sizes = {run.result.scores[dataset].generated for run in experiment.runs if dataset in run.result.scores}
    return " or ".join(f"{size:,}" for size in sorted(sizes - {0})) or "-"
