"""The cells of the sketch matrix: named here without torch, so that the test can list them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

GAS = (2, 1)  # in this order: two micro-batches first, so that the boundary of one step is also that of the other
DEFAULT_THRESHOLD = -1  # leave `stage3_param_persistence_threshold` unset


@dataclass(frozen=True)
class Cell:
    """One engine of the matrix."""

    precision: str
    checkpointing: str
    mode: str
    threshold: int

    @property
    def id(self) -> str:
        threshold = "default" if self.threshold == DEFAULT_THRESHOLD else str(self.threshold)
        return f"{self.precision}-{self.checkpointing}-{self.mode}-persist_{threshold}"


CELLS = tuple(
    Cell(*values)
    for values in itertools.product(
        ("fp32", "bf16", "fp16"), ("none", "nonreentrant", "reentrant"), ("lora", "full"), (0, DEFAULT_THRESHOLD)
    )
)
