"""How much memory one rank needs, term by term, from shapes alone.

Letters: `T`, `F` trainable and frozen elements; `W` ranks; `d` bytes of the model's number format (2 or 4). A *slice*
of a parameter is what ZeRO-3 gives one rank: ceil(elements / W). Each term says where it comes from. Model states are
exact (a test compares them with the engine's own tensors); activations are a formula over the blocks of encoder and
language model (a test compares it with what autograd keeps); the context of the GPU is an allowance.

The peak is what is always held, and the largest of what only the start, only backward and only the step need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.config.activations import ENCODER, ActivationTerm, Batch, Blocks, block_terms, logits_terms
from pipeline.config.schema import Recipe
from pipeline.config.zero import ZeroSettings

GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
FP32 = 4
Phase = Literal["always", "start", "backward", "step"]
Place = Literal["gpu", "host", "node"]

# Bytes per trainable element of the fp32 state between steps, and whether every rank holds all of it.
OPTIMIZER_STATE: dict[str, tuple[float, bool, str]] = {
    "adamw": (8, False, "two moments in fp32"),
    "lion": (4, False, "one moment in fp32"),
    "sophia": (8, False, "moment and Hessian's diagonal in fp32"),
    "schedule_free": (8, False, "second moment and the point z in fp32"),
    "adafactor": (4, True, "whole weights in fp32; moments by row and column are small"),
    "lamb": (12, True, "whole weights and two moments in fp32"),
    "adam_mini": (8, True, "whole weights and one moment in fp32; second moments are few"),
    "dog": (8, True, "whole weights and their first values in fp32"),
}
CONTEXT_BYTES = 3 * GIB // 2


@dataclass(frozen=True)
class ParameterShape:
    name: str
    numel: int
    learns: bool


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model with its trainable parts set, without its weights.

    Attributes:
        parameters: every one, shared ones once.
        largest_module: elements of the module that holds the most by itself.
        blocks: the stacks of transformer blocks that keep activations, the language model's last.
        vocabulary: of the output layer.
        audio_tokens_per_s: tokens that a second of audio becomes in the language model.
        window_frames: positions of the audio encoder for one clip; 0 where it takes any length.
        stored_dtype: number format of its files, by its config; None: not known.
    """

    parameters: tuple[ParameterShape, ...]
    largest_module: int
    blocks: tuple[Blocks, ...]
    vocabulary: int
    audio_tokens_per_s: float
    window_frames: int
    stored_dtype: str | None = None

    @property
    def total(self) -> int:
        return sum(each.numel for each in self.parameters)

    @property
    def trainable(self) -> int:
        return sum(each.numel for each in self.parameters if each.learns)


@dataclass(frozen=True)
class Term:
    """One thing that takes memory on a rank's GPU, or of a node's host memory: for each rank, or (`node`) once."""

    name: str
    bytes: int
    phase: Phase
    source: str
    place: Place = "gpu"


def peak(terms: Iterable[Term], place: Place = "gpu") -> int:
    """Bytes at the worst moment."""
    sums = dict.fromkeys(get_args(Phase), 0)
    for term in terms:
        if term.place == place:
            sums[term.phase] += term.bytes
    return sums.pop("always") + max(sums.values())


def sliced(sizes: Iterable[int], world_size: int) -> int:
    """Elements of one rank's slices; ZeRO-3 pads every parameter by itself."""
    return sum(-(-numel // world_size) for numel in sizes)


def model_state_terms(shape: ModelShape, recipe: Recipe, zero: ZeroSettings, world_size: int) -> list[Term]:
    """Parameters, gradients and optimizer state between steps: what DeepSpeed's tensors hold on one rank."""
    trained = [each.numel for each in shape.parameters if each.learns]
    frozen = [each.numel for each in shape.parameters if not each.learns]
    if zero.stage == 3:
        return list(_zero3_states(trained, frozen, recipe, zero, world_size))
    return list(_lower_stage_states(sum(trained), sum(frozen), recipe, zero, world_size))


def _zero3_states(
    trained: Sequence[int], frozen: Sequence[int], recipe: Recipe, zero: ZeroSettings, world_size: int
) -> Iterator[Term]:
    size = BYTES[recipe.model.dtype]
    own, others = sliced(trained, world_size), sliced(frozen, world_size)
    params: Place = "gpu" if zero.offload_param == "none" else "host"
    states: Place = "gpu" if zero.offload_optimizer == "none" else "host"
    yield Term("trainable weights", size * own, "always", "d T/W: a slice of each (stage3.py, lp_param_buffer)", params)
    yield Term("frozen weights", size * others, "always", "d F/W: a slice of each (ds_tensor)", params)
    kept = _persistent([*trained, *frozen], zero)
    yield Term(
        "weights that stay gathered",
        size * kept,
        "always",
        f"d x parameters of at most {zero.param_persistence_threshold:,} (stage3_param_persistence_threshold)",
    )
    if zero.zero_hpz_partition_size > 1:
        copies = sliced([*trained, *frozen], zero.zero_hpz_partition_size)
        yield Term("second copy within a node", size * copies, "always", "zero_hpz_partition_size")
    yield from _master_states(own, sum(trained), recipe, states)
    # Sums of bf16 gradients are kept in fp32 (`render_deepspeed`); fp16 and fp32 keep their own format.
    accumulated = size if recipe.model.dtype == "fp16" else FP32
    yield Term(
        "gradients, reduced",
        accumulated * own,
        "always",
        "a slice of each (stage3.py, grad_partitions_flat_buffer)",
        states,
    )
    if states == "host":
        yield Term(
            "gradients of the step", FP32 * own, "always", "fp32 (stage3.py, initialize_optimizer_states)", states
        )
    else:
        at_once = min(own, max(zero.sub_group_size, 1))
        yield Term("gradients of the step", FP32 * at_once, "step", "fp32, one sub_group_size at a time (stage3.py)")


def _lower_stage_states(
    trained: int, frozen: int, recipe: Recipe, zero: ZeroSettings, world_size: int
) -> Iterator[Term]:
    size = BYTES[recipe.model.dtype]
    own = -(-trained // world_size) if zero.stage else trained
    states: Place = "gpu" if zero.offload_optimizer == "none" else "host"
    yield Term("trainable weights", size * trained, "always", f"d T: whole under stage {zero.stage}")
    yield Term("frozen weights", size * frozen, "always", f"d F: whole under stage {zero.stage}")
    if zero.stage == 0 and recipe.model.dtype == "fp32":
        yield from _optimizer_state(own, trained, recipe, states)
    else:
        yield from _master_states(own, trained, recipe, states)
    reduced = own if zero.stage == 2 else trained
    accumulated = size if recipe.model.dtype == "fp16" or not zero.stage else FP32
    yield Term(
        "gradients, reduced", accumulated * reduced, "backward", "T/W under stage 2, T below (stage_1_and_2.py)", states
    )
    if zero.stage:
        yield Term("gradients of the step", (accumulated + FP32) * own, "step", "reduced, and flat in fp32", states)


def _master_states(own: int, trained: int, recipe: Recipe, place: Place) -> Iterator[Term]:
    yield Term(
        "fp32 weights", FP32 * own, "always", "4 T/W: what the optimizer updates (fp32_partitioned_groups)", place
    )
    yield from _optimizer_state(own, trained, recipe, place)
    if recipe.train.averaging.kind == "ema":
        yield Term("average of the weights", FP32 * own, "always", "train.averaging: another fp32 slice", place)
    if recipe.train.averaging.kind == "merge":
        kept = recipe.train.averaging.last * own
        yield Term(
            "snapshots of the weights", FP32 * kept, "always", "train.averaging: fp32 slices in host memory", "host"
        )
    if recipe.train.grades is not None:
        yield Term("gradients of the step before", FP32 * own, "always", "train.grades", place)


def _optimizer_state(own: int, trained: int, recipe: Recipe, place: Place) -> Iterator[Term]:
    name = recipe.train.optimizer.name
    per_element, whole, what = OPTIMIZER_STATE[name]
    yield Term(f"state of {name}", int(per_element * (trained if whole else own)), "always", what, place)
    if whole:
        yield Term(
            "whole weights and gradients",
            5 * FP32 * trained,
            "step",
            f"{name} steps whole parameters (whole.py)",
            place,
        )


def _persistent(sizes: Sequence[int], zero: ZeroSettings) -> int:
    """Elements of small parameters that ZeRO-3 never lets go of (parameter_offload.py, mark_persistent_parameters)."""
    total = 0
    for numel in sizes:
        if numel <= zero.param_persistence_threshold and total + numel <= zero.model_persistence_threshold:
            total += numel
    return total


def communication_terms(shape: ModelShape, recipe: Recipe, zero: ZeroSettings, world_size: int) -> list[Term]:
    """Buffers of reductions, and weights gathered for the modules at work."""
    size = BYTES[recipe.model.dtype]
    sent = FP32 if recipe.model.dtype == "bf16" and zero.stage else size
    terms = []
    if zero.stage >= 2 and zero.contiguous_gradients:
        bucket = sent * zero.reduce_bucket_size
        place: Phase = "always" if zero.stage == 3 else "backward"
        copies = 1 if zero.stage == 3 else 1 + zero.overlap_comm
        terms.append(
            Term("bucket of gradients", copies * bucket, place, f"reduce_bucket_size x {sent} bytes x {copies}")
        )
        most = min(zero.reduce_bucket_size, shape.trainable)
        terms.append(Term("bucket in reduction", sent * most, "backward", "reordered for reduce-scatter"))
    if zero.stage == 3:
        partitioned = shape.total - _persistent([each.numel for each in shape.parameters], zero)
        live = min(partitioned, max(zero.max_live_parameters, shape.largest_module))
        terms.append(
            Term("weights gathered", size * live, "backward", "d x stage3_max_live_parameters, at most the model")
        )
        if world_size > 1:
            ahead = min(partitioned, max(zero.prefetch_bucket_size, shape.largest_module))
            terms.append(
                Term("weights on their way", size * ahead, "backward", "d x stage3_prefetch_bucket_size or a module")
            )
    return terms


def activation_terms(shape: ModelShape, recipe: Recipe, batch: Batch) -> list[Term]:
    """What autograd keeps of one micro-batch."""
    size, speed = BYTES[recipe.model.dtype], recipe.train.speed
    found: list[ActivationTerm] = []
    for blocks in shape.blocks:
        positions = batch.encoder_positions if blocks.name == ENCODER else batch.tokens
        found += block_terms(
            blocks,
            batch.rows,
            positions,
            size,
            checkpointing=speed.activation_checkpointing,
            eager=recipe.model.attention == "eager",
        )
    found += logits_terms(batch, shape.vocabulary, size, speed)
    return [Term(each.name, each.bytes, "backward", each.source) for each in found]


def sketch_terms(recipe: Recipe, datasets: int, groups: int) -> list[Term]:
    """The recorder's sums, on the host; what its hooks hold, on the GPU."""
    sketch = recipe.sketch
    if not sketch.enabled:
        return []
    seeds = 2 if sketch.second_seed_every else 1
    windows = (2 if sketch.form == "ema" else 1) * 2 * datasets * groups + (seeds > 1) * 4 * datasets
    hooks = seeds * (FP32 * groups * sketch.k + 64 * 2**20)
    return [
        Term(
            "sketches: open window", FP32 * windows * sketch.k, "always", "4 x 2 D G K (sketch/accumulator.py)", "host"
        ),
        Term("sketches: gradients that wait", hooks, "backward", "4 G K + 64 MiB (sketch/multi_tensor.py)"),
    ]


def loading_terms(shape: ModelShape, recipe: Recipe) -> list[Term]:
    """Host memory while the run starts, before ZeRO-3 cuts the base model up.

    Weights that are stored as they are used are mapped from their files, and all ranks of a node share these pages;
    others are cast, by every rank for itself.
    """
    size = BYTES[recipe.model.dtype] * shape.total
    if shape.stored_dtype == recipe.model.dtype:
        return [Term("base model, mapped from its files", size, "start", "d (T + F), shared by ranks", "node")]
    why = f"d (T + F) on every rank: files in {shape.stored_dtype or 'an unknown format'} are cast to model.dtype"
    return [Term("base model while loading", size, "start", why, "host")]


def context_term() -> Term:
    return Term("CUDA context, NCCL, kernels", CONTEXT_BYTES, "always", "an allowance of 1.5 GiB")


def checkpoint_bytes(shape: ModelShape, recipe: Recipe) -> tuple[int, int]:
    """Bytes on disk of a checkpoint, all ranks together, and of the most that a run keeps, with the one being written.

    Frozen weights are left out of checkpoints; `train.save_model` writes the whole model once.
    """
    size, train = BYTES[recipe.model.dtype], recipe.train
    per_element, _, _ = OPTIMIZER_STATE[train.optimizer.name]
    one = int((size + FP32 + per_element) * shape.trainable)
    one += FP32 * shape.trainable * {"none": 0, "ema": 1, "merge": train.averaging.last}[train.averaging.kind]
    kept = train.keep_checkpoints + 1 + (train.keep_best is not None)
    return one, one * kept + (size * shape.total if train.save_model else 0)


def all_terms(
    shape: ModelShape, recipe: Recipe, zero: ZeroSettings, world_size: int, batch: Batch, datasets: int, groups: int
) -> list[Term]:
    """Everything that one rank needs to train.

    Args:
        datasets, groups: D and G of the sketch.
    """
    return [
        *model_state_terms(shape, recipe, zero, world_size),
        *communication_terms(shape, recipe, zero, world_size),
        *activation_terms(shape, recipe, batch),
        *sketch_terms(recipe, datasets, groups),
        *loading_terms(shape, recipe),
        context_term(),
    ]
