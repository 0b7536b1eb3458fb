"""What benchmarks of training start from: the fourteen mini corpora as shards, and a small random model for them."""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, TrainingError
from tests.bench.common import context
from tests.launching import run_command, run_ranks

RANKS = 2
TIMEOUT_S = 1800
MARK = "NUMBERS "  # begins the line in which a worker hands back what it has measured
_LAST_CHARACTERS = 2000


@dataclass(frozen=True)
class Mini:
    """Shards, the folder of a model, and a folder for a benchmark's own runs."""

    shards: Path
    model: Path
    out: Path

    def overrides(self) -> list[str]:
        """Of a shipped mini recipe, so that it runs on these."""
        return [f"out={self.out}", f"data.shards={self.shards}", f"model.path={self.model}", "logging.mlflow=false"]


def add_mini_options(parser: ArgumentParser) -> None:
    """Options for `open_mini`."""
    parser.add_argument("--shards", type=Path, help="prepared mini corpora (default: make them, about a minute)")
    parser.add_argument("--model", type=Path, help="folder of the model (default: a small random one)")
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")


@contextmanager
def open_mini(options: Namespace) -> Iterator[Mini]:
    """What the options name, the rest made in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="gst-bench-", dir=options.work) as temporary:
        folder = Path(temporary)
        shards, model = options.shards, options.model
        for given in filter(None, (shards, model)):
            if not given.is_dir():
                raise ConfigError("no such folder", where={"folder": given})
        if shards is None:
            shards = folder / "shards"
            context("making the mini corpora, seed 14")
            run_step("gst-data", "mini", "--out", folder / "corpora")
            run_step("gst-data", "prepare", "--root", folder / "corpora", "--out", shards)
        if model is None:
            model = folder / "model"
            run_step("gst", "model", "tiny", "--shards", shards, "--out", model)
        yield Mini(shards.resolve(), model.resolve(), folder / "out")


def measure_on_ranks(module: str, *words: object, ranks: int = RANKS, gpu: bool = False) -> dict[str, Any]:
    """Run `module` under the real launcher; the numbers that its rank 0 hands back.

    Raises:
        TrainingError: a rank failed; with the end of what it said.
    """
    done = run_ranks(module, *words, ranks=ranks, timeout_s=TIMEOUT_S, gpu=gpu)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        raise TrainingError(
            f"the ranks of a benchmark failed: {(done.stdout + done.stderr)[-_LAST_CHARACTERS:]}",
            where={"module": module, "exit code": done.returncode},
        )
    numbers: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return numbers


def run_step(*words: object, gpu: bool = False) -> None:
    """Run a command that a benchmark needs; TrainingError, with the end of what it said, when it fails."""
    done = run_command(*words, timeout_s=TIMEOUT_S, gpu=gpu)
    if done.returncode:
        raise TrainingError(
            f"a command of a benchmark failed: {(done.stdout + done.stderr)[-_LAST_CHARACTERS:]}",
            where={"command": " ".join(map(str, words)), "exit code": done.returncode},
        )
