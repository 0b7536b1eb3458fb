"""A loader in a process of its own: `python -m tests.bench.loader_peers.serve LOADER convert|serve ...`.

`serve` answers each line of its standard input with one line `ANSWER {json}`:

    check FILE       read until every clip of FILE (id -> digest) was there once; fails when one is not as it should be
    measure N WARM   seconds for N clips, after WARM batches that do not count
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.loader_peers.contract import Batch, digests

ANSWER = "ANSWER "
MAX_PASSES = 20  # of shuffled reading, in which every clip must have come; some loaders mix the clips of many passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loader", help="name of a module beside this one")
    parser.add_argument("action", choices=("convert", "serve"))
    parser.add_argument("folder", type=Path, help="the loader's own data; our shards for `convert`")
    parser.add_argument("--target", type=Path, help="convert: where to")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    module: Any = importlib.import_module(f"tests.bench.loader_peers.{options.loader}")
    if options.action == "convert":
        module.convert(options.folder, options.target)
        answer({"version": importlib.metadata.version(module.PACKAGE) if module.PACKAGE else "this commit"})
        return
    batches = module.batches(options.folder, options.micro_batch, options.seed)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "check":
            answer(check(batches, json.loads(Path(words[0]).read_text())))
        else:
            answer(measure(batches, int(words[0]), int(words[1])))


def check(batches: Iterator[Batch], expected: dict[str, str]) -> dict[str, int]:
    """How many clips it took until all had come; raises ValueError at one that is not as expected."""
    missing, read = set(expected), 0
    for batch in batches:
        for clip, found in digests(batch).items():
            if found != expected.get(clip):
                raise ValueError(f"clip {clip} is not what was stored")
            missing.discard(clip)
        read += len(batch.ids)
        if not missing:
            break
        if read >= MAX_PASSES * len(expected):
            raise ValueError(f"{len(missing)} of {len(expected)} clips did not come among {read}")
    return {"read": read}


def measure(batches: Iterator[Batch], n: int, warm_up: int) -> dict[str, float]:
    """Seconds for at least `n` clips, and how many they were."""
    for _ in range(warm_up):
        next(batches)
    read, started_s = 0, time.perf_counter()
    while read < n:
        read += len(next(batches).ids)
    return {"clips": read, "seconds": time.perf_counter() - started_s}


def answer(value: dict[str, Any]) -> None:
    print(ANSWER + json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
