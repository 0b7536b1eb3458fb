"""How many seconds of audio are padding, without and with `data.bucket`, on the mini corpora or shards of yours.

Each clip is as long as the longest of its micro-batch; the share of that which is padding, over three epochs of each
dataset. No audio is read. A model that wants windows of one length (as Whisper does, 30 s) pads in any order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.index import ShardIndex
from pipeline.data.pools import Pool, bucketed, dataset_pools
from tests.bench.common import context, figure, run_benchmark
from tests.bench.mini_data import add_mini_options, open_mini

BUCKETS = (None, 4, 16, 64)
EPOCHS = 3


def main(argv: Sequence[str]) -> None:
    """Print a figure for each size of bucket."""
    parser = argparse.ArgumentParser("gst bench padding", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="nothing to leave out: it takes a second")
    parser.add_argument("--micro-batch", type=int, default=8, help="default: 8")
    parser.add_argument("--max-duration-s", type=float, default=30.0, help="default: 30")
    parser.add_argument("--seed", type=int, default=0)
    add_mini_options(parser)
    options = parser.parse_args(argv)
    with open_mini(options) as mini:
        index = ShardIndex(mini.shards, splits=("train",), max_duration_s=options.max_duration_s)
    sizes = {name: index.n_examples(name, "train") for name in index.datasets}
    context(f"{len(sizes)} datasets of {min(sizes.values())} to {max(sizes.values())} examples")
    context(f"micro-batches of {options.micro_batch}")
    for bucket in BUCKETS:
        padded_s = audio_s = 0.0
        for name, pool in dataset_pools(index, sizes, "train").items():
            if bucket is not None:
                pool = bucketed(pool, index, "train", options.micro_batch, bucket)
            lengths_s = _durations_s(index, name, pool, options)
            audio_s += lengths_s.sum()
            padded_s += (lengths_s.max(axis=1, keepdims=True) - lengths_s).sum()
        figure(f"padded_share_bucket_{bucket or 'none'}", padded_s / (audio_s + padded_s), "share")


def _durations_s(index: ShardIndex, name: str, pool: Pool, options: argparse.Namespace) -> NDArray[np.float32]:
    """[micro-batches, B] seconds of the clips of some epochs, in the order in which they are drawn."""
    durations_s = np.minimum(index.durations_s(name, "train"), options.max_duration_s)
    whole = EPOCHS * len(pool) // options.micro_batch * options.micro_batch
    numbers = [pool.at(options.seed, position)[1] for position in range(whole)]
    return np.asarray(durations_s[numbers].reshape(-1, options.micro_batch), dtype=np.float32)


if __name__ == "__main__":
    run_benchmark(main)
