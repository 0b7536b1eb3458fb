"""Writes experiment folders as training does: a plausible one, and small ones with exact numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report.figures import AffinityView

DATASETS = (
    "audiocaps",
    "chime_home",
    "clotho",
    "cochlscene",
    "iemocap",
    "jamendo_qa",
    "macs",
    "musicnet",
    "musicqa",
    "openaqa",
    "promptspeech",
    "sounddescs",
    "textrolspeech",
    "wavcaps",
)
GROUPS = [
    ["audiocaps", "clotho", "macs", "sounddescs", "wavcaps", "openaqa"],
    ["jamendo_qa", "musicnet", "musicqa"],
    ["chime_home", "cochlscene", "iemocap", "promptspeech", "textrolspeech"],
]
BATCH = 16
DIGESTS = {name: f"{i:02d}" * 32 for i, name in enumerate(DATASETS)}


def score(loss: float, accuracy: float = 0.5, exact: float = 0.25, tokens: int = 100, examples: int = 10) -> dict:
    return {"loss": loss, "token_accuracy": accuracy, "exact_match": exact, "tokens": tokens, "examples": examples}


def evaluation(step: int, losses: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """An eval event at `step`, with 10 samples, 100 tokens and 2 seconds a step."""
    rows = {name: value if isinstance(value, dict) else score(value) for name, value in losses.items()}
    clock = {"step": step, "samples": 10 * step, "tokens": 100 * step, "wall_s": 2.0 * step}
    return {"event": "eval", "t": 0.0, "split": "val", **clock, "stage": 0, "datasets": rows, **more}


def sketch_event(step: int, pool: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """A window's sketch event on the datasets in `pool`; a lone dataset has no pairs, one noise scale is unknown."""
    event: dict[str, Any] = {"event": "sketch", "t": 0.0, "step": step, "micro_batches": 200, "datasets": len(pool)}
    event["dropped"] = 0
    if len(pool) < 2:
        return event
    names = sorted(pool)
    cosine = {a: {b: round(float(rng.normal(0.2, 0.3)), 4) for b in names[i + 1 :]} for i, a in enumerate(names[:-1])}
    values = [value for row in cosine.values() for value in row.values()]
    return event | {
        "cosine": cosine,
        "negative_share": float(np.mean([value < 0 for value in values])),
        "mean_cosine": float(np.mean(values)),
        "noise_scale": {name: 4.0 + i for i, name in enumerate(names[1:])},
        "second_seed": {"micro_batches": 20, "pairs": len(values), "cosine_error": 0.015, "expected_error": 0.0156},
    }


def write_run(
    out: Path,
    arm: str,
    seed: int,
    events: Sequence[dict[str, Any]],
    test: Mapping[str, Any],
    *,
    steps: int = 40,
    recipe: Mapping[str, Any] | None = None,
    tail: str = "",
    result: Mapping[str, Any] | None = None,
    **info: Any,
) -> Path:
    """One run folder; `tail` is raw text after the last event, as a crash may leave it."""
    folder = out / "arms" / f"{arm}-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "arm": arm,
        "seed": seed,
        "experiment": str(out.name),
        "status": "finished",
        "world_size": 2,
        "started": 1.0,
        "finished": 2.0,
        "git_sha": "0123456789ab",
        "config_digest": f"{arm}-{seed}",
        "data_digests": {name: DIGESTS.get(name, name) for name in test},
        "mlflow_run_id": f"ml-{arm}-{seed}",
        "peak_rss_bytes": 2**30,
        "stop_reason": "budget",
        "uses_affinity": False,
        "n_trainable": 1000,
        "n_params": 2000,
        "model": "runs/base/model",
        **info,
    }
    (folder / "run.json").write_text(json.dumps(run))
    tree = {"arm": arm, "out": str(out), "train": {"seed": seed, "max_steps": steps}, **(recipe or {})}
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    if events:
        (folder / "events-rank0.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + tail)
    rows = {name: value if isinstance(value, dict) else score(value) for name, value in test.items()}
    used = {"step": steps, "steps": steps, "samples": 10 * steps, "tokens": 100 * steps, "wall_s": 2.0 * steps}
    content = {"arm": arm, "seed": seed, "split": "test", **used, "datasets": rows, **(result or {})}
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def write_probe(out: Path, **cost: float) -> None:
    (out / "probe").mkdir(parents=True, exist_ok=True)
    (out / "probe" / "probe.json").write_text(json.dumps({"cost": cost}))


def write_example(out: Path, *, seeds: Sequence[int] = (0, 1), names: Sequence[str] = DATASETS) -> Path:
    """Original, mix_all, gst-g3 and gst-random-3 with falling curves; arms differ a little, seeds too."""
    groups = [[names[DATASETS.index(name)] for name in group] for group in GROUPS]
    rng = np.random.default_rng(7)
    shuffled = [names[i] for i in rng.permutation(len(names))]
    sizes = np.cumsum([len(group) for group in groups])[:-1]
    random_groups = [part.tolist() for part in np.split(np.array(shuffled, dtype=object), sizes)]
    plans = {"mix_all": [list(names)], "gst-g3": groups, "gst-random-3": random_groups}
    write_probe(out, samples=1376, steps=30, seconds=41.0, backwards=224, tokens=9000)
    for seed in seeds:
        for arm, plan in plans.items():
            _write_example_run(out, arm, seed, plan, names)
    rows = {name: _example_score(3.2 + 0.1 * (i % 5), i) for i, name in enumerate(names)}
    nothing = {"step": 0, "steps": 0, "samples": 0, "tokens": 0, "wall_s": 0.0}
    write_run(out, "original", seeds[0], [], rows, result=nothing, stop_reason="not trained")
    return out


def example_affinity(names: Sequence[str] = DATASETS) -> AffinityView:
    """Blocks of similar datasets with noise, and intervals around them."""
    rng = np.random.default_rng(3)
    groups = [[names[DATASETS.index(name)] for name in group] for group in GROUPS]
    of = {name: number for number, group in enumerate(groups) for name in group}
    noise = rng.normal(0, 0.05, (len(names), len(names)))
    same = np.array([[of[a] == of[b] for b in names] for a in names])
    similarity = np.clip(np.where(same, 0.6, 0.3) + (noise + noise.T) / 2, 0, 1)
    np.fill_diagonal(similarity, 1.0)
    half = 0.03 + 0.04 * rng.random(similarity.shape)
    half = (half + half.T) / 2
    return AffinityView(names, similarity, groups, similarity - half, similarity + half, "v-example", "3 groups.")


def _example_score(loss: float, index: int) -> dict[str, Any]:
    accuracy = float(np.clip(1.02 - 0.28 * loss, 0, 1))
    return score(loss, accuracy, accuracy / 2, tokens=400 + 30 * index, examples=40 + 15 * index)


def _write_example_run(out: Path, arm: str, seed: int, plan: list[list[str]], names: Sequence[str]) -> None:
    """Loss falls with the samples a dataset was given: floor + range * exp(-seen / scale)."""
    steps, every = 400, 20
    rng = np.random.default_rng([seed, len(arm)])
    speed = 0.9 if arm == "gst-g3" else 1.0
    scale = {name: speed * (90 + 22 * (i % 6)) for i, name in enumerate(names)}
    seen = dict.fromkeys(names, 0)
    stage_steps = [int(share * steps) for share in (0.0, 0.15, 0.3)][: len(plan)]
    events: list[dict[str, Any]] = []
    pool: list[str] = []
    samples = tokens = 0
    for step in range(steps + 1):
        if step:
            drawn = rng.choice(len(pool), 4)
            counts: dict[str, int] = {}
            for pick in drawn:
                counts[pool[pick]] = counts.get(pool[pick], 0) + 4
                seen[pool[pick]] += 4
            samples, tokens = samples + BATCH, tokens + 9 * BATCH
            clock = {"step": step, "samples": samples, "tokens": tokens, "wall_s": 0.7 * step}
            rows = {name: {"n": n, "loss": 2.0} for name, n in counts.items()}
            events.append({"event": "step", "t": 0.0, **clock, "loss": 2.0, "lr": 1e-3, "datasets": rows})
        if step and step % 50 == 0:
            events.append(sketch_event(step, pool, rng))
        if step % every == 0:
            rows = {}
            for i, name in enumerate(names):
                loss = 0.5 + 0.12 * (i % 5) + 2.6 * np.exp(-seen[name] / scale[name]) + rng.normal(0, 0.012)
                rows[name] = _example_score(float(loss), i)
            clock = {"step": step, "samples": samples, "tokens": tokens, "wall_s": 0.7 * step + 0.01}
            events.append({"event": "eval", "t": 0.0, "split": "val", **clock, "stage": 0, "datasets": rows})
        if step in stage_steps:
            number = stage_steps.index(step)
            pool = [*pool, *plan[number]]
            reason = {"rule": "plateau", "pool_loss": 1.234567, "stage_steps": step} if step else {"rule": "start"}
            weights = {name: 1 / len(pool) if name in pool else 0.0 for name in names}
            entry = {"step": step, "samples": samples, "stage": number, "pool": pool, "weights": weights}
            events.append({"event": "stage", "t": 0.0, **entry, "reason": reason})
    last = next(event for event in reversed(events) if event["event"] == "eval")
    used = {"step": steps, "steps": steps, "samples": samples, "tokens": tokens, "wall_s": 0.7 * steps}
    affine = arm == "gst-g3"
    write_run(out, arm, seed, events, last["datasets"], steps=steps, result=used, uses_affinity=affine, tail='{"ev')
