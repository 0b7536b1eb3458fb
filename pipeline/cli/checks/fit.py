"""Whether a recipe's model, optimizer and batch fit into GPUs, host memory and disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from pipeline.cli.checks.lengths import Longest
from pipeline.cli.checks.machine import existing
from pipeline.cli.checks.row import Row, State
from pipeline.config import Recipe
from pipeline.config.memory import GIB, ModelShape, Place, Term, all_terms, checkpoint_bytes, model_state_terms, peak
from pipeline.config.zero import ZeroSettings
from pipeline.sketch.hooks import default_group_of

TIGHT = 0.9  # of a GPU's memory: the rest goes to the allocator's gaps


@dataclass(frozen=True)
class Cluster:
    """Where a run is to go; memory in GiB, None where it is not known."""

    world_size: int
    gpus_per_node: int
    gpu_gib: float | None
    host_gib: float | None

    @property
    def ranks_per_node(self) -> int:
        return min(self.gpus_per_node, self.world_size)

    @property
    def nodes(self) -> int:
        return -(-self.world_size // self.ranks_per_node)


@dataclass(frozen=True)
class Estimate:
    """What a run needs, in bytes: of a GPU, of a node's host memory, on disk; and DeepSpeed's own figures beside."""

    shape: ModelShape
    longest: Longest
    terms: list[Term]
    gpu: int
    gpu_states: int
    host: int
    checkpoint: int
    checkpoints: int
    deepspeed_gpu: int | None
    deepspeed_host: int | None


def estimate(
    recipe: Recipe, tree: dict[str, Any], shape: ModelShape, longest: Longest, cluster: Cluster, datasets: int
) -> Estimate:
    """Every term of a recipe on a cluster.

    Args:
        tree: the rendered DeepSpeed configuration.
        datasets: number of datasets, D of the sketch.
    """
    from pipeline.engine.estimate import deepspeed_estimate  # importing DeepSpeed takes seconds

    zero = ZeroSettings.of(tree)
    group_of = default_group_of(recipe.sketch.group_by)
    groups = len({group_of(each.name) for each in shape.parameters if each.learns})
    terms = all_terms(shape, recipe, zero, cluster.world_size, longest.batch, datasets, groups)
    theirs = deepspeed_estimate(
        shape.total,
        shape.largest_module,
        cluster.ranks_per_node,
        cluster.nodes,
        zero.stage,
        zero.offload_optimizer != "none",
        zero.offload_param != "none",
    )
    one, most = checkpoint_bytes(shape, recipe)
    return Estimate(
        shape=shape,
        longest=longest,
        terms=terms,
        gpu=peak(terms),
        gpu_states=peak(model_state_terms(shape, recipe, zero, cluster.world_size)),
        host=peak(terms, "host") * cluster.ranks_per_node + peak(terms, "node"),
        checkpoint=one,
        checkpoints=most,
        deepspeed_gpu=theirs[1] if theirs else None,
        deepspeed_host=theirs[0] if theirs else None,
    )


def fit_rows(found: Estimate, cluster: Cluster, out: Path) -> Iterator[Row]:
    """The verdicts: GPU, host memory, disk."""
    batch = found.longest.batch
    yield Row("model", "ok", f"{_count(found.shape.total)} parameters, {_count(found.shape.trainable)} of them learn")
    yield Row(
        "longest example", "ok", f"{batch.tokens} tokens, {batch.answer_tokens} of the answer; {found.longest.source}"
    )
    yield _memory_row(
        "memory of a GPU", found.gpu, cluster.gpu_gib, "--gpu NAME or --gpu-memory GIB", _gpu_advice(found)
    )
    yield _memory_row(
        "host memory of a node",
        found.host,
        cluster.host_gib,
        "--host-memory GIB",
        _host_advice(found),
    )
    free = shutil.disk_usage(existing(out)).free
    needs = f"{found.checkpoints / GIB:.1f} GiB for checkpoints ({found.checkpoint / GIB:.1f} each)"
    yield Row(
        "disk of runs",
        "ok" if free > found.checkpoints else "bad",
        f"{needs}; {free / GIB:.1f} GiB free in {existing(out)}",
        "" if free > found.checkpoints else "set out=DIR on a larger disk, or train.keep_checkpoints lower",
    )


def _memory_row(name: str, needed: int, gib: float | None, option: str, advice: str) -> Row:
    if gib is None:
        return Row(name, "ok", f"{needed / GIB:.1f} GiB", f"give {option} to have it judged")
    share = needed / (gib * GIB)
    state: State = "bad" if share > 1 else "warn" if share > TIGHT else "ok"
    return Row(name, state, f"{needed / GIB:.1f} of {gib:g} GiB ({share:.0%})", "" if state == "ok" else advice)


def _gpu_advice(found: Estimate) -> str:
    """What would help most: against the largest term."""
    largest = max((term for term in found.terms if term.place == "gpu"), key=lambda term: term.bytes)
    name = largest.name
    if name.startswith("activations"):
        advice = "train.speed.activation_checkpointing=true, or a smaller train.micro_batch"
    elif name.startswith(("logits", "loss")):
        advice = "train.speed.cross_entropy=chunked, or a smaller train.micro_batch"
    elif name.startswith("weights gathered"):
        advice = "a lower stage3_max_live_parameters"
    else:
        advice = "more ranks, ZeRO-3, or engine.deepspeed=zero3_offload.json"
    return f"the largest part is {name}: {advice}"


def _host_advice(found: Estimate) -> str:
    """What would help most: against the largest term."""
    largest = max((term for term in found.terms if term.place != "gpu"), key=lambda term: term.bytes)
    if largest.phase == "start" and largest.place == "host":
        return "a copy of the base model stored in model.dtype: it is mapped, and shared by the ranks of a node"
    return "fewer ranks on a node, or another engine.deepspeed without offload"


def terms_table(found: Estimate, world_size: int) -> Table:
    """Every term with its source; then the sums, with DeepSpeed's own estimate beside the part it knows."""
    table = Table(title=f"memory of one of {world_size} ranks", title_justify="left")
    for column in ("where", "what", "GiB", "when", "why"):
        table.add_column(column, justify="right" if column == "GiB" else "left", overflow="fold")
    for place in get_args(Place):
        for term in sorted((term for term in found.terms if term.place == place), key=lambda term: -term.bytes):
            table.add_row(place, term.name, f"{term.bytes / GIB:.3f}", term.phase, term.source)
    table.add_section()
    theirs = (
        ""
        if found.deepspeed_gpu is None
        else f"DeepSpeed's estimator: {found.deepspeed_gpu / GIB:.3f}, as if all learned"
    )
    table.add_row("gpu", "model states", f"{found.gpu_states / GIB:.3f}", "peak", theirs)
    table.add_row("gpu", "all", f"{found.gpu / GIB:.3f}", "peak", "always + the larger of backward and step")
    theirs = "" if found.deepspeed_host is None else f"DeepSpeed's estimator: {found.deepspeed_host / GIB:.3f}"
    table.add_row("host", "all, whole node", f"{found.host / GIB:.3f}", "peak", theirs)
    return table


def to_json(found: Estimate) -> dict[str, Any]:
    """Bytes throughout."""
    return {
        "parameters": found.shape.total,
        "trainable_parameters": found.shape.trainable,
        "longest": {**asdict(found.longest.batch), "source": found.longest.source},
        "terms": [asdict(term) for term in found.terms],
        "gpu_bytes": found.gpu,
        "gpu_model_state_bytes": found.gpu_states,
        "host_bytes": found.host,
        "checkpoint_bytes": found.checkpoint,
        "checkpoints_bytes": found.checkpoints,
        "deepspeed_gpu_bytes": found.deepspeed_gpu,
        "deepspeed_host_bytes": found.deepspeed_host,
    }


def _count(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
