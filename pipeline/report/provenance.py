"""Where every number comes from: runs, digests, what was left out and why, and what that means for the reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.report.cost import Judgement
from pipeline.report.examples import RunExamples
from pipeline.report.runs import Experiment, Run
from pipeline.report.stats import MIN_PAIRS
from pipeline.report.table import Cell, Table, count, duration, text


def runs_table(experiment: Experiment) -> Table:
    """One row a run: identity, code, recipe, resources."""
    rows = []
    for run in experiment.runs:
        info = run.info
        peak = info.get("peak_rss_bytes")
        rows.append(
            (
                text(run.id),
                text(info.get("mlflow_run_id") or "-"),
                text(info.get("git_sha", "unknown")),
                text(run.code_digest[:12]),
                text(str(info.get("config_digest", "unknown"))[:12]),
                text(info.get("model", "unknown")),
                _whole(info.get("world_size")),
                count(run.result.steps),
                Cell(duration(run.result.wall_s), run.result.wall_s),
                text("-") if peak is None else Cell(f"{peak / 2**30:.2f} GiB", float(peak)),
                _whole(info.get("n_trainable")),
                _whole(info.get("n_params")),
                count(run.torn_lines),
            )
        )
    columns = (
        "run",
        "MLflow run",
        "code",
        "code digest",
        "recipe digest",
        "model",
        "ranks",
        "steps",
        "training time",
        "peak memory, all ranks",
        "trainable",
        "parameters",
        "torn log lines",
    )
    return Table("runs", "Runs", columns, tuple(rows), text_columns=frozenset({0, 1, 2, 3, 4, 5}))


def data_table(experiment: Experiment) -> Table:
    """Digest and test size of each dataset, and examples no rank could use (they bias a comparison)."""
    rows = []
    for name in experiment.datasets:
        digests = {str((run.info.get("data_digests") or {}).get(name, "unknown"))[:12] for run in experiment.runs}
        sizes = {run.result.scores[name].examples for run in experiment.runs if name in run.result.scores}
        skipped = {run.id: run.skipped.get(name, 0) for run in experiment.runs}
        worst = max(skipped.values())
        rows.append(
            (
                text(name),
                text(", ".join(sorted(digests))),
                text(" or ".join(f"{size:,}" for size in sorted(sizes))),
                Cell(f"{worst:,}", worst),
            )
        )
    columns = ("dataset", "manifest digest", "test examples", "skipped examples (worst run)")
    return Table("data", "Data", columns, tuple(rows), text_columns=frozenset({0, 1}))


def problems_table(
    experiment: Experiment, judgement: Judgement, examples: Mapping[str, RunExamples] | None = None
) -> Table:
    """Runs that are missing or not used, or whose single `examples` are not, each with its reason."""
    rows = [(text(item.run), text("missing"), text(item.reason)) for item in experiment.missing]
    rows += [(text(item.run), text("excluded"), text(item.reason)) for item in experiment.excluded]
    for run in judgement.unjudged:
        rows.append((text(run), text("no cost"), text(f"no evaluations, or no {judgement.baseline} run with its seed")))
    for held in (examples or {}).values():
        if held.problem:
            rows.append((text(held.run), text("no examples"), text(held.problem)))
    return Table(
        "problems",
        "Missing and excluded runs",
        ("run", "state", "reason"),
        tuple(rows),
        () if rows else ("None: every expected run is there and used.",),
        text_columns=frozenset({0, 1, 2}),
    )


def caveats(experiment: Experiment, judgement: Judgement) -> list[str]:
    """What speaks against believing these tables, the project's own first."""
    n = len(experiment.seeds)
    found = [
        "Affinity between datasets that share little input may be noise (arXiv 2604.07848), few gradient conflicts are "
        "seen in training of language models (PiKE, arXiv 2502.06244), and no earlier mixing method beats stratified "
        "sampling consistently (Aioli). The random-groups control is there to test this: progression alone may explain "
        "what looks like an effect of affinity.",
        f"The target is set by {judgement.baseline}'s own best, picked over many noisy evaluations, and its sampling "
        "weights and learning rate matter as much as a schedule does. Beating an untuned baseline shows nothing.",
        "Time to target is known only to the evaluation interval. Wall time holds for this machine and its load alone.",
        "Every arm's learning-rate schedule ends with its budget. A target reached before that decay, or only because "
        "of it, may come earlier or later with another budget.",
    ]
    if n < MIN_PAIRS:
        found.insert(
            0, f"{n} seed(s): the method asks for at least {MIN_PAIRS} paired seeds before anything is believed."
        )
    for label, value in _SAME_EVERYWHERE.items():
        values = sorted({value(run) for run in experiment.runs})
        if len(values) > 1:
            found.append(f"The runs differ in {label}: {', '.join(values)}.")
    if len({run.code_digest for run in experiment.runs}) > 1:
        found.append(
            "Runs made by different code are compared, because that was asked for: a difference between arms may be "
            "one between versions of the code. The runs table has each run's code digest."
        )
    partial = sorted({run.arm for run in experiment.runs if run.result.scores.keys() != set(experiment.datasets)})
    if partial:
        found.append(f"Not every dataset is in every run of: {', '.join(partial)}. Averages leave these runs out.")
    if any(run.info.get("git_sha", "").endswith("-dirty") for run in experiment.runs):
        found.append("Some runs were made from uncommitted code (`-dirty`), which cannot be looked up again.")
    bad = sorted(
        {name for run in experiment.runs for name, score in run.result.scores.items() if score.loss != score.loss}
    )
    if bad:
        found.append(
            f"A test loss is NaN for: {', '.join(bad)}. NaN is marked where it occurs and never averaged away."
        )
    if experiment.probe is not None and experiment.probe.tokens is None:
        found.append("The probe did not count answer tokens, so the token cost of affinity arms is unknown.")
    skipped = sum(sum(run.skipped.values()) for run in experiment.runs)
    if skipped:
        found.append(f"{skipped:,} examples could not be used in these runs; see the data table.")
    return found


_SAME_EVERYWHERE: dict[str, Callable[[Run], str]] = {
    "number of ranks": lambda run: str(run.info.get("world_size", "unknown")),
    "code": lambda run: str(run.info.get("git_sha", "unknown")),
    "model": lambda run: str(run.info.get("model", "unknown")),
}


def _whole(value: object) -> Cell:
    return count(float(value)) if isinstance(value, int | float) else text("-")
