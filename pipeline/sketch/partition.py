"""Sketches of gradients after reduction: each rank sketches the slice that ZeRO-3 left it, 1/W of the work.

The reduced gradient is the mean over all micro-batches of an optimizer step, so it belongs to one dataset only where
all of them did; `recorder.PartitionRecorder` sees to that. Sketches of slices add up to the sketch of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from pipeline.sketch.hooks import default_group_of, full_shapes, signs_of, trainable_by_name
from pipeline.sketch.projector import sketch_partition
from pipeline.sketch.spec import SketchSpec, canonical_name
from pipeline.types import GradientPartition


class PartitionSketcher:
    """Sketches this rank's slices of all trainable parameters' gradients.

    With `spec.gradient` = `adam` an element is divided by Adam's own sqrt(second moment) + eps, which is what the hooks
    of a probe do with each micro-batch. Unlike the update direction that LESS (Xia et al. 2024) takes, this leaves the
    first moment out: it is a trace of all datasets before, which would make every pair look alike, and without it the
    sketch stays linear in the gradient.

    Args:
        named_parameters: of the engine's module; fixes groups and shapes.
        spec: `raw`, `adam` or `sign_of_step` gradients.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        spec: SketchSpec,
        group_of: Callable[[str], str] | None = None,
    ) -> None:
        group_of = group_of or default_group_of()
        trainable = trainable_by_name(named_parameters)
        self.spec = spec
        self.shapes = full_shapes(trainable)
        self.groups: list[str] = sorted({group_of(name) for name in trainable})
        self._row = {name: self.groups.index(group_of(name)) for name in trainable}

    def sketch(self, partitions: Iterable[GradientPartition]) -> torch.Tensor:
        """[G, K] float32: this rank's part; the sum over ranks is the sketch of the step's mean gradient."""
        result: torch.Tensor | None = None
        for part in partitions:
            name = canonical_name(part.name)
            if result is None:
                result = torch.zeros(len(self.groups), self.spec.k, device=part.gradient.device)
            values = self._transformed(part)
            sketch_partition(name, values, part.offset, self.spec, result[self._row[name]], numel=part.numel)
        return torch.zeros(len(self.groups), self.spec.k) if result is None else result

    def _transformed(self, part: GradientPartition) -> torch.Tensor:
        if self.spec.gradient == "adam":
            assert part.denominator is not None, part.name
            return part.gradient / part.denominator
        return signs_of(part.gradient) if self.spec.gradient == "sign_of_step" else part.gradient
