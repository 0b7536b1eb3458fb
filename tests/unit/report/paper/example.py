"""Writes grids as `gst tables` leaves them: the shipped arms and tables with made-up runs, and small exact ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.grid import GRID_FILE, GridSpec, dump_grid, load_scale
from tests.unit.report.example import DATASETS, evaluation, score, write_probe, write_run

METRICS = {
    "clotho": {"bleu": 0.21, "chrf": 0.43, "rouge_l": 0.38, "cider_d": 0.62},
    "audiocaps": {"bleu": 0.24, "chrf": 0.46, "rouge_l": 0.41, "cider_d": 0.71},
    "iemocap": {"accuracy": 0.61, "macro_f1": 0.57},
    "cochlscene": {"accuracy": 0.72, "macro_f1": 0.70},
    "textrolspeech": {"wer": 0.18, "cer": 0.09},
    "chime_home": {"set_f1": 0.55},
}
# What an arm adds to the accuracy of Mix-all, and the share of its samples it needs.
EFFECTS = {
    "gst-g3": (0.010, 0.85), "gst-adaptive": (0.014, 0.8), "gst-g2": (0.004, 0.95), "gst-t2": (0.006, 0.95),
    "individual": (-0.03, 1.4), "sequential": (-0.12, 3.0), "gst-strict-cycle": (-0.06, 2.0), "gst-reverse": (0.0, 1.0),
}  # fmt: skip
STEPS = (0, 10, 20, 30, 40)


def write_spec(out: Path, *, seeds: Sequence[int] = (0, 1), tuned: bool = True, **changes: Any) -> GridSpec:
    """The shipped quick grid's grid.yaml, with these seeds and what the search chose."""
    spec = load_scale("quick", family="mini")
    names = [(axis, name) for axis, found in spec.search.axes.items() for name in found.candidates]
    scores = {f"{axis}: {name}": 1.9 + 0.05 * i for i, (axis, name) in enumerate(names)}
    scores[f"{names[-1][0]}: {names[-1][1]}"] = float("inf")
    chosen = {axis: next(iter(found.candidates)) for axis, found in spec.search.axes.items()}
    tree = spec.model_dump(mode="json") | {"seeds": list(seeds)} | changes
    if tuned:
        tree["tuned"] = {"chosen": chosen, "scores": scores}
    found = GridSpec.model_validate(tree)
    out.mkdir(parents=True, exist_ok=True)
    (out / GRID_FILE).write_text(dump_grid(found))
    return found


def write_arm(
    study: Path,
    arm: str,
    seed: int,
    accuracy: Mapping[str, float],
    *,
    losses: Mapping[int, float] | None = None,
    metrics: Mapping[str, Mapping[str, float]] = {},
    **info: Any,
) -> Path:
    """One run whose test accuracy is given, and whose validation losses are the same for all datasets.

    Args:
        losses: validation loss at each evaluated step; the last one is the test loss too.
    """
    curve = losses or {0: 3.0, 40: 1.0}
    final = list(curve.values())[-1]
    examples = {name: example_rows(name, value, 20 + 10 * i, final) for i, (name, value) in enumerate(accuracy.items())}
    rows = {
        name: summed(its) | {"metrics": dict(metrics.get(name, {})), "generated": 8 if name in metrics else 0}
        for name, its in examples.items()
    }
    events = [
        evaluation(step, {n: score(loss, v, examples=20 + 10 * i) for i, (n, v) in enumerate(accuracy.items())})
        for step, loss in curve.items()
    ]
    folder = write_run(study, arm, seed, events, rows, **info)
    lines = [json.dumps(row) + "\n" for its in examples.values() for row in its]
    (folder / "examples-test.jsonl").write_text("".join(lines))
    return folder


def example_rows(dataset: str, accuracy: float, n: int, loss: float) -> list[dict[str, Any]]:
    """Test examples of ten answer tokens each, of which this share is right, unevenly over the examples."""
    right = round(accuracy * 10 * n) if math.isfinite(accuracy) else 0
    rows = []
    for i in range(n):
        here = min(10, max(0, round(right / n + (3 if i % 2 else -3) * (i < n - n % 2))))
        rows.append({"dataset": dataset, "id": f"{i:04d}", "task": "t", "question": "q", "answers": ["a"],
                     "tokens": 10, "correct": here, "loss_sum": 10 * loss, "exact": here == 10,
                     "prediction": None, "metrics": None})  # fmt: skip
    # Rounding may have lost or won some: the last ones make up for it.
    for row in reversed(rows):
        missing = right - sum(r["correct"] for r in rows)
        row["correct"] = min(10, max(0, row["correct"] + missing))
        row["exact"] = row["correct"] == 10
    return rows


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The dataset's score that these examples add up to."""
    tokens = sum(row["tokens"] for row in rows)
    return score(
        sum(row["loss_sum"] for row in rows) / tokens,
        sum(row["correct"] for row in rows) / tokens,
        sum(row["exact"] for row in rows) / len(rows),
        tokens,
        len(rows),
    )


def write_grid(
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1),
    names: Sequence[str] = DATASETS,
    skip: Callable[[str, str, int], bool] = lambda study, arm, seed: False,
    rename: Callable[[str], str] = lambda name: name,
) -> Path:
    """A whole grid with plausible numbers: every arm of the shipped tables, the search, and T5's data.

    Args:
        skip: (study, arm, seed) of runs that shall be missing.
        rename: of datasets, for names that could break a page.
    """
    spec = write_spec(out, seeds=seeds)
    for study, base in (("full", 0.62), ("low", 0.5)):
        write_probe(out / study, samples=40, seconds=5.0, tokens=300)
        for arm in spec.study_arms(study):
            for seed in seeds[:1] if arm == "original" else seeds:
                if not skip(study, arm, seed):
                    _write_plausible(out / study, arm, seed, base, [rename(name) for name in names])
    for axis_name, axis in spec.search.axes.items():
        for name, overrides in axis.candidates.items():
            if overrides:
                write_arm(out / "tune", f"{axis_name}-{name}", spec.search.seed, {rename(n): 0.5 for n in names})
    write_agreement(out / "full", [rename(name) for name in names])
    return out


def write_agreement(study: Path, names: Sequence[str]) -> None:
    """T5's data: five ways of six, with groups that overlap."""
    rng = np.random.default_rng(5)
    ways = ("distance", "cosine", "distance_raw", "cosine_raw", "transferability")
    third = max(1, len(names) // 3)
    views = [
        {
            "name": way,
            "version": f"v-{way}",
            "groups": [list(names[i::3]) for i in range(min(3, third))],
            "cost": {"seconds": 41.0 if way != "transferability" else 410.0, "samples": 1376},
            "reliability": round(float(rng.uniform(0.4, 0.9)), 3) if way != "transferability" else None,
            "note": "",
        }
        for way in ways
    ]
    pairs: list[dict[str, Any]] = [
        {
            "a": a,
            "b": b,
            "ari": float(rng.uniform(-0.1, 1)),
            "spearman": float(rng.uniform(0, 1)),
            "n_pairs": 91,
            "ari_p": 0.001,
            "spearman_p": 0.2,
        }
        for i, a in enumerate(ways)
        for b in ways[i + 1 :]
    ]
    pairs[-1] |= {"ari": None, "ari_p": None}
    (study / "affinity").mkdir(parents=True, exist_ok=True)
    (study / "affinity" / "agreement.json").write_text(json.dumps({"views": views, "pairs": pairs}))


def _write_plausible(study: Path, arm: str, seed: int, base: float, names: Sequence[str]) -> None:
    rng = np.random.default_rng([seed, *arm.encode()])
    effect, pace = EFFECTS.get(arm, (0.0, 1.0))
    noise = float(rng.normal(0, 0.006)) + float(np.random.default_rng(seed).normal(0, 0.01))
    level = 0.3 if arm == "original" else base + effect + noise
    accuracy = {n: float(np.clip(level + 0.02 * (i % 5) + rng.normal(0, 0.01), 0, 1)) for i, n in enumerate(names)}
    metrics = {n: {k: v * level / base for k, v in METRICS[o].items()} for n, o in zip(names, DATASETS) if o in METRICS}  # noqa: B905
    if arm == "original":
        nothing = {"step": 0, "steps": 0, "samples": 0, "tokens": 0, "wall_s": 0.0}
        rows = {n: score(3.4, v, v / 2) | {"metrics": metrics.get(n, {}), "generated": 8} for n, v in accuracy.items()}
        write_run(study, arm, seed, [], rows, result=nothing, stop_reason="not trained")
        return
    curve = {s: 1.0 + 2.2 * float(np.exp(-s / (9 * pace))) + float(rng.normal(0, 0.004)) for s in range(0, 41, 4)}
    uses = arm.startswith("gst-") and "random-3" not in arm and arm != "gst-domain"
    write_arm(study, arm, seed, accuracy, losses=curve, metrics=metrics, uses_affinity=uses)
