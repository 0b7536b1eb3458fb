"""Preparing corpora: speed against ffmpeg, memory for a 2.3 GB annotation file, bytes after 20 kills.

speed    clips per second on one core, decode + resample to 16 kHz + FLAC + tar + side file, against ffmpeg doing the
         conversion alone
memory   `gst-data prepare` of a synthetic OpenAQA of 5.6 million questions; needs about 6 GB of disk for some minutes
kills    SIGKILL of all processes at random moments; the shards must be those of a run that nobody disturbed
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.common import describe_machine, run_benchmark
from tests.bench.prepare_kills import measure_kills
from tests.bench.prepare_memory import N_ROWS, measure_memory
from tests.bench.prepare_speed import measure_speed

PARTS = ("speed", "memory", "kills")
QUICK_ROWS = 200_000


def main(argv: Sequence[str]) -> None:
    """Run the chosen parts; a figure that misses its target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="smaller: shows that it runs, its figures are rough")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure (default: %(default)s)")
    parser.add_argument("--rows", type=int, help=f"memory: questions (default: {N_ROWS}; {QUICK_ROWS} with --quick)")
    parser.add_argument("--kills", type=int, help="kills: how many (default: 20; 5 with --quick)")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")
    options = parser.parse_args(argv)
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts: choose from {','.join(PARTS)}")
    describe_machine(("soundfile", "soxr", "webdataset", "numpy"))
    with tempfile.TemporaryDirectory(prefix="gst-bench-", dir=options.work) as temporary:
        folder = Path(temporary)
        if "speed" in parts:
            measure_speed(folder / "speed", n_clips=12 if options.quick else 60, seed=options.seed)
        if "memory" in parts:
            n_rows = options.rows or (QUICK_ROWS if options.quick else N_ROWS)
            measure_memory(folder / "memory", n_rows=n_rows, seed=options.seed)
        if "kills" in parts:
            measure_kills(folder / "kills", n_kills=options.kills or (5 if options.quick else 20), seed=options.seed)


if __name__ == "__main__":
    run_benchmark(main)
