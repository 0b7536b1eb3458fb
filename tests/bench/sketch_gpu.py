"""The gradient sketch on a GPU: share of the copy bandwidth, and what it adds to a LoRA backward. Skips without one.

fraction_of_copy_bandwidth  bytes a second that the sketch reads from a bfloat16 gradient of 2^30 elements, k = 4096,
                            over those that a device copy of the same gradient reads and writes
lora_sketch_over_backward   what the sketch of 448 LoRA tensors (32 layers, 7 projections, A and B; rank 16) adds to
                            one backward of 4,096 tokens of a model of 7B's shape, hooks and all:
                            (with - without) / without, by turns
Runs with torch, triton and numpy alone: python -m tests.bench.sketch_gpu
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from pipeline.errors import ConfigError
from pipeline.sketch import gpu
from pipeline.sketch.hooks import GradientSketcher
from pipeline.sketch.projector import add_sketch, sketch_rows
from pipeline.sketch.spec import SketchSpec
from tests.bench.common import alternate, context, describe_machine, figure, not_measured, ratio, run_benchmark
from tests.bench.lora_stack import lora_stack

FRACTION = "fraction_of_copy_bandwidth"
LORA = "lora_sketch_over_backward"
K = 4096
SEED_P = 0xDEAD_BEEF_1234_5678
ELEMENTS = 1 << 30
CALLS = 20  # of what takes a millisecond, in a timing
ROUNDS = 9
BACKWARDS = 5
TOKENS = 4096
LAYERS = 32
# Width of the residual stream -> free memory for the weights and what a backward of TOKENS keeps, estimated amply.
WIDTHS = {4096: 48 << 30, 2048: 16 << 30, 1024: 6 << 30}


def main(argv: Sequence[str]) -> None:
    """Print the figures; one that misses its target is reported as missed, one without a GPU as not measured."""
    parser = argparse.ArgumentParser("gst bench sketch-gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="fewer elements and layers: shows that it runs")
    parser.add_argument("--device", default="cuda:0")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    describe_machine(("torch", "triton", "numpy"))
    problem = why_not(device)
    if problem:
        for name in (FRACTION, LORA):
            not_measured(name, problem)
        return
    context(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    elements = 1 << 24 if options.quick else ELEMENTS
    figure(FRACTION, bandwidth(device, elements, torch.bfloat16), "ratio", target=0.7)
    bandwidth(device, elements // 2, torch.float32)  # for context
    width = widest(device)
    if width is None:
        not_measured(LORA, f"less than {min(WIDTHS.values()) / 2**30:.0f} GiB of the GPU's memory are free")
        return
    added = lora_backward(device, width, 4 if options.quick else LAYERS, TOKENS)
    figure(LORA, added, "ratio", target=0.01, better="lower")


def why_not(device: torch.device) -> str | None:
    """What keeps the benchmark from measuring the GPU kernel; None when nothing does."""
    if device.type != "cuda":
        raise ConfigError("this benchmark is of GPUs", got=device, expected="cuda:0 or another CUDA device")
    if not torch.cuda.is_available():
        return "there is no GPU here that torch can use"
    problem = gpu.triton_problem(device)
    return f"the Triton kernel does not work here: {problem}" if problem else None


def bandwidth(device: torch.device, elements: int, dtype: torch.dtype) -> float:
    """Bytes a second of the sketch's reading over those of a copy's reading and writing."""
    grad = torch.randn(elements, device=device, dtype=dtype)
    target, out = torch.empty_like(grad), torch.zeros(K, device=device)
    ways = {
        "sketch": repeated(device, lambda: add_sketch(grad, SEED_P, out)),
        "copy": repeated(device, lambda: target.copy_(grad)),
    }
    seconds = {way: [value / CALLS for value in values] for way, values in alternate(ways, ROUNDS).items()}
    fraction = ratio([value / 2 for value in seconds["copy"]], seconds["sketch"])
    sketch_s, copy_s = statistics.median(seconds["sketch"]), statistics.median(seconds["copy"])
    context(
        f"{dtype}, {elements:,} elements: sketch {1e3 * sketch_s:.3f} ms, {grad.nbytes / sketch_s / 1e12:.2f} TB/s "
        f"read; copy {1e3 * copy_s:.3f} ms, {2 * grad.nbytes / copy_s / 1e12:.2f} TB/s read and written"
    )
    context(f"{dtype}: fraction of the copy's bandwidth: {fraction}")
    return fraction.median


def lora_backward(device: torch.device, width: int, layers: int, tokens: int) -> float:
    """(with - without) / without of a backward's seconds: the median over rounds."""
    model = lora_stack(width, layers, device)
    inputs = torch.randn(1, tokens, width, device=device, dtype=torch.bfloat16)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(-1, ROUNDS):  # the first round does not count
        for is_sketched in (True, False) if number % 2 else (False, True):
            median_s = backward_seconds(model, inputs, is_sketched=is_sketched)
            if number >= 0:
                seconds[is_sketched].append(median_s)
    added = ratio([a - b for a, b in zip(seconds[True], seconds[False], strict=True)], seconds[False])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    context(
        f"LoRA: {len(trained)} tensors, {sum(map(torch.numel, trained)):,} elements; width {width}, {layers} layers, "
        f"{tokens:,} tokens; backward {1e3 * statistics.median(seconds[False]):.2f} ms"
    )
    context(f"the sketch adds, over a backward: {added}")
    alone_s = alone_seconds(trained)
    context(
        f"the same gradients sketched while nothing else runs: {1e3 * alone_s:.2f} ms, "
        f"{alone_s / statistics.median(seconds[False]):.4f} of a backward"
    )
    return added.median


def backward_seconds(model: torch.nn.Module, inputs: torch.Tensor, *, is_sketched: bool) -> float:
    """Median over BACKWARDS; hooks are registered only where the sketch is taken."""
    sketcher = GradientSketcher(model.named_parameters(), SketchSpec(k=K, seed=0)) if is_sketched else None
    seconds = []
    for _ in range(BACKWARDS):
        model.zero_grad(set_to_none=True)
        loss = model(inputs).float().square().mean()
        synchronize(inputs.device)
        started_s = time.perf_counter()
        if sketcher is None:
            loss.backward()
        else:
            with sketcher.micro_batch():
                loss.backward()
            sketcher.take()
        synchronize(inputs.device)
        seconds.append(time.perf_counter() - started_s)
    if sketcher is not None:
        sketcher.close()
    return statistics.median(seconds)


def alone_seconds(trained: Sequence[torch.Tensor]) -> float:
    """Sketching the gradients that are there already, from the first one's arrival to the result."""
    grads = [parameter.grad for parameter in trained if parameter.grad is not None]
    device = grads[0].device

    def sketch() -> None:
        rows = sketch_rows(torch.zeros(2, K, device=device))
        for number, grad in enumerate(grads):
            rows.add(grad, SEED_P + number, number % 2)
        rows.result()
        synchronize(device)

    return statistics.median(alternate({"alone": sketch}, ROUNDS)["alone"])


def repeated(device: torch.device, call: Callable[[], object]) -> Callable[[], None]:
    """`call` CALLS times, until the device is done."""

    def run() -> None:
        for _ in range(CALLS):
            call()
        synchronize(device)

    return run


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def widest(device: torch.device) -> int | None:
    """The widest model for which memory is free."""
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return next((width for width, needed in WIDTHS.items() if needed <= free_bytes), None)


if __name__ == "__main__":
    run_benchmark(main)
