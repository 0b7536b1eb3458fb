"""What all benchmarks share: fair timing of several ways to do one thing, figures, peak memory, comparing folders."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, GstError

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5
SAMPLE_EVERY_S = 0.1


def run_benchmark(main: Callable[[Sequence[str]], None]) -> None:
    """What `python -m` of a benchmark does: `main` with the command line, errors of ours without a traceback."""
    try:
        main(sys.argv[1:])
    except GstError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two timings, measured once a round; both timings of a round saw the same machine."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({min(self.rounds):.3f} to {max(self.rounds):.3f} over {len(self.rounds)} rounds)"


def alternate(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, tuple[float, ...]]:
    """Seconds of each way in each round, after one round that does not count.

    Each round runs every way once, and the next one begins with another way: what else the machine does, and what one
    way leaves in its caches, meets all of them alike.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started_s = time.perf_counter()
            ways[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - started_s)
    return {name: tuple(values) for name, values in seconds.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """`above / below`, round by round."""
    return Ratio(tuple(a / b for a, b in zip(above, below, strict=True)))


def geometric_mean(ratios: Sequence[Ratio]) -> Ratio:
    """The geometric mean of several ratios, round by round."""
    by_round = zip(*(one.rounds for one in ratios), strict=True)
    return Ratio(tuple(math.exp(statistics.fmean(map(math.log, values))) for values in by_round))


def figure(name: str, value: float, unit: str, *, target: float | None = None, better: str = "higher") -> bool:
    """Print `FIGURE name value unit`, then how it compares with its target; returns whether that is met."""
    assert better in ("higher", "lower") and not set(" \n") & set(name + unit)
    print(f"FIGURE {name} {value:.4g} {unit}", flush=True)
    if target is None:
        return True
    is_met = value >= target if better == "higher" else value <= target
    sign = ">=" if better == "higher" else "<="
    context(f"{name}: target {sign} {target:g} {unit}: {'met' if is_met else 'MISSED'}")
    return is_met


def not_measured(name: str, why: object) -> None:
    """Say that a figure is missing, which is no error: a peer is not installed, there is no GPU."""
    context(f"{name}: NOT MEASURED: {why}")


def context(text: str) -> None:
    """A line for people; programs read the lines that begin with FIGURE."""
    print(f"  {text}", flush=True)


def describe_machine(packages: Sequence[str]) -> None:
    """Print what the figures depend on: commit, processor, load, versions."""
    one_minute, five_minutes, _ = os.getloadavg()
    context(f"commit {_commit()}")
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    context(f"{_processor()}, {len(os.sched_getaffinity(0))} cores; {memory_bytes / 2**30:.0f} GiB")
    context(f"load before: {one_minute:.1f} (1 minute), {five_minutes:.1f} (5 minutes)")
    context(", ".join([f"Python {platform.python_version()}", *map(_version, packages)]))


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} not installed"


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def find_ffmpeg() -> str:
    """ffmpeg on the PATH, else that of the package imageio-ffmpeg; ConfigError without either."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ConfigError("this benchmark compares with ffmpeg", hint="pip install -e '.[bench]'") from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@dataclass(frozen=True)
class Measured:
    """A command that has ended: its exit code, output, seconds, and the most memory its processes held at one time."""

    exit_code: int
    output: str
    seconds: float
    peak_bytes: int


def measure_command(words: Sequence[object], log: Path, *, env: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end, its output into `log`, and sample the memory of its tree of processes."""
    started_s = time.monotonic()
    peak_bytes = 0
    with open(log, "wb") as file:
        process = subprocess.Popen(list(map(str, words)), cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                peak_bytes = max(peak_bytes, tree_bytes(process.pid))
                time.sleep(SAMPLE_EVERY_S)
        finally:
            process.kill()
            process.wait()
    seconds = time.monotonic() - started_s
    return Measured(process.returncode, log.read_text(errors="replace"), seconds, peak_bytes)


def tree_bytes(pid: int) -> int:
    """Memory of a process and all below it, shared pages counted once (PSS); resident bytes where PSS is not known."""
    import psutil  # here, because benchmarks of the sketch run on bare GPU machines

    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(map(_process_bytes, tree))


def _process_bytes(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        pass
    except psutil.Error:
        return 0
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def tree_digests(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file below `folder`, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Paths that are in only one of two `tree_digests`, or differ."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
