"""`gst bench prepare`, kills: `gst-data prepare` is killed at random moments until it has been killed often enough.

All its processes get SIGKILL at once, as from a job scheduler or a power cut, at a moment drawn from the time that a
whole run takes; then it is started again, with one or two jobs. A run that ends before its moment comes is compared
with a clean run, and the kills go on in a new folder.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.manifest import MANIFEST_NAME
from pipeline.errors import GstError
from tests.bench.common import ROOT, context, differing, figure, tree_digests
from tests.conftest import TONE_CORPORA, write_tone_corpora

CLIPS_PER_SHARD = 4
LOG_NAME = "log"


@dataclass(frozen=True)
class KillReport:
    """`middle` kills left shards without a manifest. `differing` are paths, over all runs that came to their end."""

    kills: int
    middle: int
    runs_to_the_end: int
    differing: tuple[str, ...]


def measure_kills(folder: Path, *, n_kills: int, seed: int) -> None:
    """Print the figures."""
    corpus = write_kill_corpus(folder / "corpus", train=240, held_out=30)
    started_s = time.monotonic()
    report = survive_kills(corpus, folder, n_kills=n_kills, seed=seed)
    context(
        f"kills: {report.kills}, of which {report.middle} left some datasets with shards and without manifest; "
        f"{report.runs_to_the_end} runs came to their end; {time.monotonic() - started_s:.0f} s"
    )
    for path in report.differing:
        context(f"differs: {path}")
    figure("kills_survived", 0 if report.differing else report.kills, "kills", target=n_kills)
    figure("kill_differences", len(report.differing), "files", target=0, better="lower")


def write_kill_corpus(folder: Path, *, train: int, held_out: int) -> Path:
    """Four corpora of tones; in each a clip is missing and one is a web page, so that there is a quarantine list."""
    write_tone_corpora(folder, train=train, held_out=held_out)
    for dataset in TONE_CORPORA:
        (folder / dataset / "audio" / f"{dataset}-train-001.flac").unlink()
        (folder / dataset / "audio" / f"{dataset}-train-002.flac").write_bytes(b"<html>not found</html>")
    return folder


def prepare_words(corpus: Path, out: Path, *more: object) -> list[str]:
    """The command line of the preparation that is killed."""
    words = [sys.executable, "-m", "data_prep.cli", "prepare", "--root", corpus, "--corpus", "jsonl", "--out", out]
    words += ["--max-clips-per-shard", CLIPS_PER_SHARD, "--max-bad-fraction", 0.1, *more]
    return [str(word) for word in words]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output into `log`."""
    with open(log, "wb") as file:
        return subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def survive_kills(corpus: Path, folder: Path, *, n_kills: int, seed: int) -> KillReport:
    """Prepare `corpus` undisturbed, then again and again below `folder` with `n_kills` kills in all.

    Raises:
        GstError: a run that was not killed failed.
    """
    log = folder / LOG_NAME
    started_s = time.monotonic()
    clean = _run_to_end(corpus, folder / "clean", log)
    usual_s = time.monotonic() - started_s
    rng = random.Random(seed)
    kills = middle = runs = 0
    wrong: list[str] = []
    while kills < n_kills:
        out = folder / f"killed-{runs}"
        process = start(prepare_words(corpus, out, "--jobs", rng.choice((1, 2))), log)
        # Most of a short run is start-up, so every other kill waits for it to have written something.
        if _is_running_later(process, out, rng, usual_s, while_writing=kills % 2 == 1):
            kill_group(process)
            kills += 1
            middle += _is_in_the_middle(out)
            continue
        _require_success(process, log)
        wrong += differing(clean, tree_digests(out))
        runs += 1
    wrong += differing(clean, _run_to_end(corpus, folder / f"killed-{runs}", log))
    return KillReport(kills, middle, runs + 1, tuple(wrong))


def _is_running_later(
    process: subprocess.Popen[bytes], out: Path, rng: random.Random, usual_s: float, *, while_writing: bool
) -> bool:
    """Let a random time go by, from the start or from the next shard on; False when the process ended in it."""
    longest_s = usual_s
    if while_writing:
        longest_s = 0.1
        before = len(list(out.glob("*/*.tar")))
        while process.poll() is None and len(list(out.glob("*/*.tar"))) <= before:
            time.sleep(0.002)
    try:
        process.wait(rng.uniform(0, longest_s))
    except subprocess.TimeoutExpired:
        return True
    return False


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process from `start` and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run_to_end(corpus: Path, out: Path, log: Path) -> dict[str, str]:
    process = start(prepare_words(corpus, out), log)
    try:
        process.wait()
    except BaseException:
        kill_group(process)
        raise
    _require_success(process, log)
    return tree_digests(out)


def _require_success(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.returncode:
        raise GstError("a preparation that was not killed failed", got=log.read_text(errors="replace")[-2000:])


def _is_in_the_middle(out: Path) -> bool:
    """Whether a dataset has shards and no manifest."""
    return any(not (tar.parent / MANIFEST_NAME).exists() for tar in out.glob("*/*.tar"))
