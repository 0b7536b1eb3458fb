"""Entry: lay out all corpora, render them in worker processes, set the mark."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from data_prep.mini.alignment import lay_out_alignment
from data_prep.mini.corpora_music import lay_out_jamendo_qa, lay_out_musicnet, lay_out_musicqa
from data_prep.mini.corpora_scene import lay_out_chime_home, lay_out_cochlscene, lay_out_macs
from data_prep.mini.corpora_sound import (
    lay_out_audiocaps,
    lay_out_clotho,
    lay_out_openaqa,
    lay_out_sounddescs,
    lay_out_wavcaps,
)
from data_prep.mini.corpora_speech import lay_out_iemocap, lay_out_promptspeech, lay_out_textrolspeech
from data_prep.mini.plan import Job, Plan, run_job
from pipeline.data.manifest import write_atomic
from pipeline.errors import ConfigError, CorpusError

VERSION = 1
MARK_NAME = "mini.json"
# Present from the first to the last file of a run, so that a killed run is told from a foreign folder.
STARTED_NAME = "mini.started.json"
_JOBS_PER_TASK = 16

Progress = Callable[[int, int], None]

LAYOUTS: tuple[Callable[[Plan], None], ...] = (
    lay_out_audiocaps,
    lay_out_chime_home,
    lay_out_clotho,
    lay_out_cochlscene,
    lay_out_iemocap,
    lay_out_jamendo_qa,
    lay_out_macs,
    lay_out_musicnet,
    lay_out_musicqa,
    lay_out_openaqa,
    lay_out_promptspeech,
    lay_out_sounddescs,
    lay_out_textrolspeech,
    lay_out_wavcaps,
)


def generate(
    out: Path,
    *,
    seed: int = 14,
    jobs: int = 2,
    scale: float = 1.0,
    alignment: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write mini-14 (or, with `alignment`, the alignment collection) below `out`; returns the clips of each corpus.

    The files depend on `seed`, `scale` and `alignment` alone. A finished folder is left as it is; a run that was
    killed is completed; a folder made with other settings, or with anything else in it, is refused.

    Args:
        jobs: worker processes; 1 renders in this process.
        scale: factor on the number of clips, not on their length.
        progress: called with (recordings done, recordings in all).

    Raises:
        ConfigError: `jobs` or `scale` is out of range.
        CorpusError: `out` holds something else, or the speech synthesiser is not installed.
    """
    if jobs < 1 or not 0 < scale <= 100:
        raise ConfigError("mini corpora need jobs >= 1 and 0 < scale <= 100", got={"jobs": jobs, "scale": scale})
    settings = {"version": VERSION, "seed": seed, "scale": scale, "alignment": alignment}
    finished = _finished_counts(out, settings)
    if finished is not None:
        return finished
    plan = lay_out(seed=seed, scale=scale, alignment=alignment)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / STARTED_NAME, _json(settings))
    _remove_leftovers(out)
    all_jobs = plan.jobs()
    for done, _ in enumerate(_rendered(out, all_jobs, jobs), start=1):
        if progress is not None:
            progress(done, len(all_jobs))
    for path, content in plan.texts.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out / path, content)
    write_atomic(out / MARK_NAME, _json({**settings, "clips": plan.clips}))
    (out / STARTED_NAME).unlink()
    return plan.clips


def lay_out(*, seed: int = 14, scale: float = 1.0, alignment: bool = False) -> Plan:
    """Everything that `generate` would write, with no audio rendered."""
    plan = Plan(seed=seed, scale=scale)
    for layout in (lay_out_alignment,) if alignment else LAYOUTS:
        layout(plan)
    return plan


def _finished_counts(out: Path, settings: dict[str, Any]) -> dict[str, int] | None:
    """Counts of a finished folder, None for one that is to be (or go on being) written."""
    for name in (MARK_NAME, STARTED_NAME):
        mark = out / name
        if not mark.is_file():
            continue
        try:
            found = json.loads(mark.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        got = {key: found.get(key) for key in settings}
        if got != settings:
            raise CorpusError(
                "this folder holds mini corpora made with other settings",
                where={"file": mark},
                got=got,
                expected=settings,
                hint=f"delete {out} or choose another folder",
            )
        return dict(found["clips"]) if name == MARK_NAME else None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CorpusError(
            "the output folder is not empty and was not made by this generator",
            where={"folder": out},
            hint=f"delete {out} or choose another folder",
        )
    return None


def _remove_leftovers(out: Path) -> None:
    """Temporary files of a killed run; finished files are kept and used."""
    for path in out.rglob(".*.tmp"):
        path.unlink()


def _rendered(out: Path, all_jobs: list[Job], workers: int) -> Iterator[None]:
    """Run the jobs, one None for each that is done, in order."""
    if workers == 1:
        for job in all_jobs:
            run_job(out, job)
            yield
        return
    # Spawned, not forked: the caller may have threads (torch, a progress bar).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        groups = [all_jobs[start : start + _JOBS_PER_TASK] for start in range(0, len(all_jobs), _JOBS_PER_TASK)]
        tasks = [pool.submit(_run_jobs, out, group) for group in groups]
        try:
            for task in tasks:
                for _ in range(task.result()):
                    yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_jobs(out: Path, group: list[Job]) -> int:
    for job in group:
        run_job(out, job)
    return len(group)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
