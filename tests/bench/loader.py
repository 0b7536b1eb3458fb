"""Clips per second of our loader, one worker, against webdataset, Energon, Lhotse Shar, mosaicml-streaming, litdata.

The same generated clips, FLAC of 2 to 10 s, are written once by `gst-data prepare` and converted into each loader's own
form by its own writer; this is not timed. Each loader runs in a process of its own, with one worker, shuffled, at the
settings that its documentation recommends (see `tests/bench/loader_peers/`), and hands over padded float32 audio with
each clip's question and answer. Before anything is timed every clip is compared with what was stored, which also brings
the files into the page cache. Then the loaders read by turns, as many clips as there are in each round, after some
batches that do not count; the next round begins with another loader.

loader_samples_per_second           ours
loader_encoded_samples_per_second   ours, encoded for a small model as in training
loader_over_NAME                    ours over a peer's, median of the rounds' ratios

A peer that is not installed, fails, or hands over anything else is reported as not measured. mosaicml-streaming needs
transformers < 5 and cannot be installed beside this package: install all peers elsewhere, from
tests/bench/loader_peers/requirements.txt, and give that Python by --python PATH (or --python PEER=PATH).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pipeline.models.tiny import write_tiny_model
from tests.bench.common import ROUNDS, context, describe_machine, figure, not_measured, ratio, run_benchmark
from tests.bench.loader_data import expected_digests, write_shards
from tests.bench.loader_process import Loader, LoaderFailed, convert, pythons

OURS, ENCODED = "ours", "encoded"
SPEEDS = {OURS: "loader_samples_per_second", ENCODED: "loader_encoded_samples_per_second"}
# Name of the figure -> module in loader_peers.
PEERS = {
    "webdataset": "webdataset",
    "energon": "energon",
    "lhotse": "lhotse_shar",
    "mosaic": "mosaic",
    "litdata": "litdata_chunks",
}
TARGET = 1.0
CLIPS, QUICK_CLIPS = 2000, 200


def main(argv: Sequence[str]) -> None:
    """Print the figures; one that misses its target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench loader", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CLIPS} clips, 2 rounds: shows that it runs")
    parser.add_argument("--clips", type=int, help=f"how many (default: {CLIPS})")
    parser.add_argument("--rounds", type=int, help=f"that count (default: {ROUNDS})")
    parser.add_argument("--least-s", type=float, default=2.0, help="shortest clip (default: %(default)s)")
    parser.add_argument("--most-s", type=float, default=10.0, help="longest clip (default: %(default)s)")
    parser.add_argument("--micro-batch", type=int, default=8, help="clips in a batch (default: %(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="which (default: %(default)s)")
    parser.add_argument("--python", action="append", default=[], metavar="[PEER=]PATH", help="Python of the peers")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")
    options = parser.parse_args(argv)
    peers = [name for name in options.peers.split(",") if name]
    if not set(peers) <= set(PEERS):
        parser.error(f"--peers: choose from {','.join(PEERS)}")
    describe_machine(("torch", "soundfile", "numpy"))
    n_clips = options.clips or (QUICK_CLIPS if options.quick else CLIPS)
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    with tempfile.TemporaryDirectory(prefix="gst-bench-", dir=options.work) as temporary, ExitStack() as open_loaders:
        folder = Path(temporary)
        shards = write_shards(folder, n_clips, options.least_s, options.most_s, options.seed)
        expected = expected_digests(shards)
        if len(expected) != n_clips:
            parser.error(f"only {len(expected)} of {n_clips} clips could be prepared: choose other lengths")
        context(f"{n_clips} clips of {options.least_s:g} to {options.most_s:g} s, batches of {options.micro_batch}")
        model = folder / "model"
        write_tiny_model("qwen2_audio", ["What is to be heard in recording 0? tones and bursts of noise"], model)
        start = partial(Loader, micro_batch=options.micro_batch, seed=options.seed, log_folder=folder)
        loaders = {
            OURS: open_loaders.enter_context(start("ours", shards)),
            ENCODED: open_loaders.enter_context(start("ours", shards, name=ENCODED, model=model)),
        }
        loaders[OURS].check(expected)
        loaders |= open_peers(peers, shards, folder, expected, start, open_loaders, pythons(options.python, PEERS))
        report(measure(loaders, n_clips, rounds), peers)


def open_peers(
    names: Sequence[str],
    shards: Path,
    folder: Path,
    expected: Mapping[str, str],
    start: Callable[..., Loader],
    stack: ExitStack,
    python: Mapping[str, str],
) -> dict[str, Loader]:
    """The peers that hand over every clip as it was stored; of the others, says why not."""
    found = {}
    for name in names:
        target = folder / name
        try:
            version = convert(PEERS[name], shards, target, python[name], folder)
            loader = stack.enter_context(start(PEERS[name], target, name=name, python=python[name]))
            read = loader.check(expected)
        except LoaderFailed as error:
            not_measured(f"loader_over_{name}", error)
            continue
        context(f"{name}: {version}; all clips as stored, among the first {read} that it read")
        found[name] = loader
    return found


def measure(loaders: Mapping[str, Loader], n_clips: int, rounds: int) -> dict[str, tuple[float, ...]]:
    """Clips per second of each loader in each round; a loader that fails is left out from then on."""
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(rounds):
        names = list(rates)
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            try:
                rates[name].append(loaders[name].clips_per_second(n_clips))
            except LoaderFailed as error:
                not_measured(SPEEDS.get(name, f"loader_over_{name}"), error)
                del rates[name]
    return {name: tuple(values) for name, values in rates.items()}


def report(rates: Mapping[str, tuple[float, ...]], peers: Sequence[str]) -> None:
    """Print what each loader reached, and ours over the peers'."""
    for name, values in rates.items():
        shown = " ".join(f"{value:.0f}" for value in values)
        context(f"{name}: {statistics.median(values):.0f} clips/s, median of {shown}")
    for name, what in SPEEDS.items():
        if name in rates:
            figure(what, statistics.median(rates[name]), "clips/s")
    for name in peers:
        if name in rates and OURS in rates:
            against = ratio(rates[OURS], rates[name])
            context(f"ours over {name}: {against}")
            figure(f"loader_over_{name}", against.median, "ratio", target=TARGET)


if __name__ == "__main__":
    run_benchmark(main)
