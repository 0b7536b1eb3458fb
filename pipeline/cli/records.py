"""`run.json` and `result.json`: what a run was and what came of it; the report reads them."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

from pipeline.atomic import write_atomic
from pipeline.cli.session import Session
from pipeline.config import Recipe, dump_recipe, recipe_digest
from pipeline.types import Clock, DatasetScore


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether this very run (same recipe digest) has its result."""
    result, run = folder / "result.json", folder / "run.json"
    if not (result.exists() and run.exists()):
        return False
    return json.loads(run.read_text()).get("config_digest") == recipe_digest(recipe)


def write_run(session: Session, folder: Path, *, status: str, started: float, **more: Any) -> None:
    """Write `run.json` and the resolved recipe; a collective, because memory is summed over ranks."""
    from pipeline.engine import trainable_count

    recipe, comm = session.recipe, session.comm
    peak = sum(comm.gather_objects(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    learning, total = trainable_count(session.engine)
    if comm.rank != 0:
        return
    record = {
        "arm": recipe.arm,
        "seed": recipe.train.seed,
        "experiment": recipe.out,
        "status": status,
        "world_size": comm.world_size,
        "started": started,
        "finished": time.time() if status == "finished" else None,
        "git_sha": git_sha(),
        "config_digest": recipe_digest(recipe),
        "data_digests": session.data.index.digests,
        "peak_rss_bytes": peak,
        "n_trainable": learning,
        "n_params": total,
        "model": recipe.model.path,
        **more,
    }
    _write_json(folder / "run.json", record)
    write_atomic(folder / "recipe.yaml", dump_recipe(recipe).encode())


def write_result(session: Session, folder: Path, clock: Clock, scores: dict[str, DatasetScore]) -> None:
    """Write `result.json` from rank 0: the run is finished once it is there."""
    if session.comm.rank != 0:
        return
    record = {
        "arm": session.recipe.arm,
        "seed": session.recipe.train.seed,
        "split": "test",
        "step": clock.step,
        "steps": clock.step,
        "samples": clock.samples,
        "tokens": clock.tokens,
        "wall_s": clock.wall_s,
        "datasets": {name: score.to_json() for name, score in scores.items()},
    }
    _write_json(folder / "result.json", record)


def git_sha() -> str:
    """Commit of this checkout, with `-dirty` when files differ; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
