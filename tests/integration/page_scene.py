"""A folder to look at: affinity versions from planted sketches by the real code, and runs as `gst train` logs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.affinity.compute import compute_version
from pipeline.affinity.estimator import GradientStats
from pipeline.affinity.versions import AffinityVersion, save_version
from pipeline.config.schema import AffinityConfig
from pipeline.runlog import EventLog

FOURTEEN = [
    "clotho", "audiocaps", "macs", "wavcaps", "sounddescs", "chime_home", "cochlscene",
    "musicqa", "musicnet", "jamendo_qa", "iemocap", "promptspeech", "textrolspeech", "openaqa",
]  # fmt: skip
GROUP_SIZES = {14: (7, 3, 4), 200: (60, 50, 40, 30, 20), 2: (1, 1)}
KINDS = ("encoder", "aligner", "lora_a", "lora_b")


def dataset_names(d: int) -> list[str]:
    """The 14 corpora, or as many parts of them as it takes."""
    return FOURTEEN[:d] if d <= 14 else [f"{FOURTEEN[i % 14]}_part{i // 14:02d}" for i in range(d)]


def planted_stats(
    names: list[str], sizes: tuple[int, ...], seed: int, batches: int = 12, k: int = 256
) -> GradientStats:
    """Sketches with groups of these sizes; datasets differ in noise, and the last groups oppose the first one."""
    rng = np.random.default_rng(seed)
    subspace = rng.standard_normal((48, k)) / np.sqrt(48 * k)
    towards = [rng.standard_normal(k) / np.sqrt(k) for _ in sizes]
    common = 0.45 * towards[0]
    rows, kinds = {}, []
    for number, name in enumerate(names):
        group = int(np.searchsorted(np.cumsum(sizes), number, side="right"))
        sign = -1.0 if group == len(sizes) - 1 and len(sizes) > 2 else 1.0
        mean = sign * common + towards[group] + 0.35 * rng.standard_normal(k) / np.sqrt(k)
        noise = np.exp(rng.uniform(np.log(2.0), np.log(9.0)))
        rows[name] = mean + noise * rng.standard_normal((batches, len(subspace))) @ subspace
        kinds.append(np.stack([rows[name] * (np.arange(k) % len(KINDS) == part) for part in range(len(KINDS))]))
    stats = GradientStats.from_batches(rows, spec={"k": k, "seed": 0, "version": 1, "gradient": "raw"})
    parts = np.stack(kinds)  # [D, G, B, K]
    return replace(
        stats,
        groups=list(KINDS),
        group_sum=parts.sum(2),
        group_sum_sq=np.square(parts).sum((2, 3)),
        cost={"samples": 4 * batches * len(names), "seconds": 3.2 * len(names)},
    )


def planted_version(
    folder: Path, d: int, seed: int = 0, names: list[str] | None = None, **options: Any
) -> AffinityVersion:
    """A version of `d` datasets, saved where a service of `folder` finds it."""
    names = names or dataset_names(d)
    stats = planted_stats(names, GROUP_SIZES[d], seed)
    version = compute_version(stats, AffinityConfig(**{"groups": len(GROUP_SIZES[d]), "bootstrap": 40, **options}))
    save_version(folder / "affinity", version)
    return version


class LoggedRun:
    """A run below `<folder>/arms` that logs like `gst train`, one evaluation at a call of `evaluate`."""

    def __init__(self, folder: Path, arm: str, datasets: list[str], pools: list[list[str]], **run: Any) -> None:
        self.folder = folder / "arms" / f"{arm}-s0"
        self.events = EventLog(self.folder, rank=0)
        self.datasets, self.pools = datasets, pools
        self.step = self.stage = 0
        self.entered: dict[str, int] = {}
        digests = {name: "0" * 64 for name in datasets}
        about = {
            "arm": arm,
            "seed": 0,
            "config_digest": arm,
            "data_digests": digests,
            "status": "running",
            "started": 1.7e9,
        }
        (self.folder / "run.json").write_text(json.dumps({**about, **run}))

    def enter(self, stage: int, rule: str = "plateau") -> None:
        pool = [name for group in self.pools[: stage + 1] for name in group]
        weights = {name: 1 / len(pool) if name in pool else 0.0 for name in self.datasets}
        reason = {"rule": rule} if rule == "start" else {"rule": rule, "pool_loss": 1.234, "stage_steps": 60}
        self.events.write(
            "stage", step=self.step, samples=16 * self.step, stage=stage, pool=pool, weights=weights, reason=reason
        )
        self.stage = stage
        self.entered = {**dict.fromkeys(pool, self.step), **self.entered}

    def evaluate(self, step: int, losses: dict[str, float] | None = None) -> None:
        """Log an evaluation; losses fall once a dataset is in the pool, unless they are given."""
        self.step = step
        rng = np.random.default_rng(step)
        scores = {}
        for number, name in enumerate(self.datasets):
            trained = max(0, step - self.entered.get(name, step))
            loss = 0.5 + 0.03 * (number % 9) + (2.2 + 0.1 * (number % 5)) * np.exp(-trained / (60 + 25 * (number % 7)))
            loss = (losses or {}).get(name, loss + 0.02 * rng.standard_normal())
            scores[name] = {"loss": loss, "token_accuracy": float(np.exp(-0.8 * loss)), "tokens": 400, "examples": 40}
        self.events.write(
            "eval", split="val", step=step, samples=16 * step, tokens=900 * step, wall_s=0.7 * step,
            stage=self.stage, datasets=scores,
        )  # fmt: skip


def trained_run(
    folder: Path, arm: str, datasets: list[str], pools: list[list[str]], steps: int, **run: Any
) -> LoggedRun:
    """A run with a stage for each pool, evaluated every 20 steps."""
    logged = LoggedRun(folder, arm, datasets, pools, **run)
    logged.enter(0, "start")
    length = steps // len(pools)
    for step in range(0, steps + 1, 20):
        logged.evaluate(step)
        if step and step % length == 0 and step // length < len(pools):
            logged.enter(step // length)
    return logged
