"""`run.json` and `result.json`: what a run was and what came of it; the report reads them."""

from __future__ import annotations

import json
import resource
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from pipeline.atomic import write_atomic
from pipeline.cli.code_digest import code_digest
from pipeline.cli.session import Session
from pipeline.config import Recipe, dump_recipe, recipe_digest
from pipeline.dist import Comm
from pipeline.eval.examples import ScoredExample, SplitResults, summarise, write_examples
from pipeline.types import Clock

EXAMPLES = "examples-test.jsonl"


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether this very run (same recipe digest) has its result."""
    result, run = folder / "result.json", folder / "run.json"
    if not (result.exists() and run.exists()):
        return False
    return json.loads(run.read_text()).get("config_digest") == recipe_digest(recipe)


def write_run(session: Session, folder: Path, *, status: str, started: float, fresh: bool = False, **more: Any) -> None:
    """Write `run.json` and the resolved recipe; a collective, because memory is summed over ranks.

    Args:
        fresh: the run begins anew, whatever is in its folder.
    """
    from pipeline.engine import trainable_count

    recipe, comm, index = session.recipe, session.comm, session.data.index
    peak = sum(comm.gather_objects(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    learning, total = trainable_count(session.engine)
    if comm.rank != 0:
        return
    record = {
        "arm": recipe.arm,
        "seed": recipe.train.seed,
        "run_id": _run_id(folder, recipe, fresh),
        "experiment": recipe.out,
        "status": status,
        "world_size": comm.world_size,
        "started": started,
        "finished": time.time() if status == "finished" else None,
        "git_sha": git_sha(),
        "code_digest": code_digest(),
        "config_digest": recipe_digest(recipe),
        "data_digests": index.digests,
        "examples": {name: {split: index.n_examples(name, split) for split in index.splits} for name in index.datasets},
        "peak_rss_bytes": peak,
        "n_trainable": learning,
        "n_params": total,
        "model": recipe.model.path,
        **more,
    }
    _write_json(folder / "run.json", record)
    write_atomic(folder / "recipe.yaml", dump_recipe(recipe).encode())


def results_of(session: Session, examples: list[ScoredExample]) -> SplitResults | None:
    """What the examples of a test add up to; None on other ranks than the first."""
    if session.comm.rank != 0:
        return None
    return summarise(examples, session.data.datasets, session.recipe.eval.kinds)


def write_result(session: Session, folder: Path, clock: Clock, results: SplitResults) -> None:
    """Write the results, from rank 0, `result.json` last: the run is finished once it is there."""
    write_examples(folder / EXAMPLES, results.examples)
    record = {
        "arm": session.recipe.arm,
        "seed": session.recipe.train.seed,
        "split": "test",
        "step": clock.step,
        "steps": clock.step,
        "samples": clock.samples,
        "tokens": clock.tokens,
        "wall_s": clock.wall_s,
        "datasets": results.to_json(),
    }
    _write_json(folder / "result.json", record)


def forget_result(comm: Comm, folder: Path) -> None:
    """Remove `result.json`: the run in `folder` is trained again and is not finished any more. Every rank calls it."""
    if comm.rank == 0:
        (folder / "result.json").unlink(missing_ok=True)
    comm.barrier()


def git_sha() -> str:
    """Commit of this checkout, with `-dirty` when files differ; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _run_id(folder: Path, recipe: Recipe, fresh: bool) -> str:
    """Names this training wherever it is logged: kept over every resume, new for another recipe or a fresh start."""
    run = folder / "run.json"
    there = json.loads(run.read_text()) if run.exists() and not fresh else {}
    if there.get("config_digest") == recipe_digest(recipe) and there.get("run_id"):
        return str(there["run_id"])
    return uuid.uuid4().hex


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
