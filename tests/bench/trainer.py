"""Our training step against HF `Trainer`'s: same model, batches and DeepSpeed JSON; and what padding to 30 s costs.

One process a rank holds both engines. HF `Trainer` runs through one `train()`; at the end of each window of steps it
waits while our trainer does a window of the same micro-batches, already encoded, which both have in memory. The figure
is the median over rounds of the windows' ratio. HF's logging, saving and progress bar are off; our log, and the
accounts by dataset and of throughput in it, are on. In the end the two ways' weights are compared: they trained alike.

By default on the CPU with 2 ranks, ZeRO-3 and the mini model under LoRA. With --gpu on one GPU a model of 100 M
parameters in bf16 takes the place of the mini one, and a random model of the sizes of Qwen2-Audio-7B trains under LoRA
for two minutes; it needs about 20 GB of disk for that.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from tests.bench.common import context, describe_machine, figure, not_measured, ratio, run_benchmark
from tests.bench.mini_data import Mini, add_mini_options, measure_on_ranks, open_mini, run_step
from tests.bench.trainer_models import write_model

WORKER = "tests.bench.trainer_worker"
ROUNDS, WINDOW = 7, 10
TARGET_CPU, TARGET_GPU = 1.0, 1.3
SECONDS_7B = 120
CONSTANT = (
    "train.lr_schedule={kind: constant, warmup_steps: 0}",
    "sketch.enabled=false",
)
GPU = (*CONSTANT, "model.dtype=bf16", "engine.deepspeed=zero3.json", "data.workers=4")


def main(argv: Sequence[str]) -> None:
    """Print the figures; a missed target is reported as missed and is no error."""
    parser = argparse.ArgumentParser("gst bench trainer", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few short windows: shows that it runs")
    parser.add_argument("--rounds", type=int, help=f"pairs of windows (default: {ROUNDS}; 2 with --quick)")
    parser.add_argument("--window", type=int, help=f"steps of a window (default: {WINDOW}; 3 with --quick)")
    parser.add_argument("--gpu", action="store_true", help="on one GPU, with larger models")
    parser.add_argument("--seconds-7b", type=float, default=SECONDS_7B, help=f"with --gpu (default: {SECONDS_7B})")
    add_mini_options(parser)
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else ROUNDS)
    options.window = options.window or (3 if options.quick else WINDOW)
    describe_machine(("torch", "deepspeed", "transformers", "accelerate", "peft"))
    with open_mini(options) as mini:
        if options.gpu:
            on_gpu(mini, options)
        else:
            on_cpu(mini, options)


def on_cpu(mini: Mini, options: argparse.Namespace) -> None:
    """Two ranks, ZeRO-3, the mini model."""
    words = ("mini-mix-all", *mini.overrides(), *CONSTANT)
    numbers = against_hf(options, words, ranks=2)
    if numbers is not None:
        against = ratio(numbers["seconds"]["ours"], numbers["seconds"]["hf"])
        context(f"ours over HF Trainer: {against}")
        figure("step_over_hf_trainer", against.median, "ratio", target=TARGET_CPU, better="lower")
    model = mini.out.parent / "model-30s"
    write_model(mini.model, model, "mini")
    against_padded(options, (*words, f"model.path={model}", "model.pad_audio=longest"), ranks=2)


def on_gpu(mini: Mini, options: argparse.Namespace) -> None:
    """One rank on a GPU."""
    folder = mini.out.parent
    words = ("mini-mix-all", *mini.overrides(), *GPU, "train.global_batch=32", "train.micro_batch=16")
    for size in ("100m", "7b"):
        run_step("python", "-m", "tests.bench.trainer_models", "--size", size, mini.model, folder / size, gpu=True)
    sized = (*words, f"model.path={folder / '100m'}", "model.pad_audio=longest")
    for name, overrides in {"": (), "_full": ("model.parts={encoder: full, aligner: full, llm: full}",)}.items():
        numbers = against_hf(options, (*sized, *overrides), ranks=1, gpu=True)
        if numbers is not None:
            against = ratio(numbers["seconds"]["hf"], numbers["seconds"]["ours"])
            context(f"samples/s, ours over HF Trainer{name}: {against}")
            figure(f"samples_per_second_over_hf_trainer{name}", against.median, "ratio", target=TARGET_GPU)
    against_padded(options, sized, ranks=1, gpu=True)
    large = (f"model.path={folder / '7b'}", "model.pad_audio=longest", "train.speed.activation_checkpointing=true")
    numbers = measure_on_ranks(
        WORKER, "--peer", "none", "--seconds", options.seconds_7b, *words, *large, ranks=1, gpu=True
    )
    context(f"7B-shaped, LoRA, ZeRO-3, {options.seconds_7b:.0f} s: {numbers}")
    for name, unit in (("samples_per_s", "samples/s"), ("tokens_per_s", "tokens/s"), ("mfu", "share")):
        if name in numbers["throughput"]:
            figure(f"lora_7b_{name}", numbers["throughput"][name], unit)


def against_hf(options: Any, words: Sequence[str], *, ranks: int, gpu: bool = False) -> dict[str, Any] | None:
    """Windows of both ways; None, with a word about it, where `accelerate` is missing."""
    try:
        import accelerate  # noqa: F401 - what HF Trainer runs on
    except ImportError:
        not_measured("step_over_hf_trainer", "accelerate is not installed: pip install -e '.[bench]'")
        return None
    numbers = measure_on_ranks(
        *(WORKER, "--peer", "hf", "--rounds", options.rounds, "--window", options.window, *words), ranks=ranks, gpu=gpu
    )
    tell(numbers, options)
    context(f"weights of the two ways apart by {numbers['apart']:.1e} of how far training moved them")
    return numbers


def against_padded(options: Any, words: Sequence[str], *, ranks: int, gpu: bool = False) -> None:
    numbers = measure_on_ranks(
        *(WORKER, "--peer", "padded", "--rounds", options.rounds, "--window", options.window, *words),
        ranks=ranks,
        gpu=gpu,
    )
    tell(numbers, options)
    against = ratio(numbers["seconds"]["padded"], numbers["seconds"]["as_long_as_clips"])
    frames = numbers["frames"]
    context(
        f"samples/s over those padded to 30 s: {against}; {frames['padded'] / frames['as_long_as_clips']:.1f}x frames"
    )
    figure("samples_per_second_over_padded", against.median, "ratio")


def tell(numbers: dict[str, Any], options: Any) -> None:
    """The windows behind a figure."""
    sizes = numbers["parameters"]
    context(f"{sizes['all']:,} parameters, {sizes['trained']:,} trained; windows of {options.window} steps")
    for name, seconds in numbers["seconds"].items():
        median = statistics.median(seconds)
        context(f"{name}: {1e3 * median / options.window:.1f} ms a step, {numbers['samples'] / median:.2f} samples/s")


if __name__ == "__main__":
    run_benchmark(main)
