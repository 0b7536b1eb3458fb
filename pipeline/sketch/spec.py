"""What identifies a sketch, and the names and seeds of parameters. Standard library only.

Two sketches may be compared or added only when their `SketchSpec`s are equal: another seed, size or version is another
random projection, another kind of gradient is another quantity, and another model has other parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.errors import SketchError

SKETCH_VERSION = 1
MIN_K = 32  # one sign word covers 32 elements and must not straddle two rows of K
MAX_K = 1 << 20

# What is sketched. `adam`: the gradient over sqrt(second moment) + eps, 0 where that moment is 0: a micro-batch's, or a
# step's, which is the mean over its micro-batches. `sign`: the elements' signs of a micro-batch's gradient.
# `sign_of_step`: the signs of the whole step's mean gradient, which is not the mean of signs.
GRADIENTS = ("raw", "adam", "sign", "sign_of_step")

_MASK64 = (1 << 64) - 1

# Name parts that wrappers insert and that say nothing about which parameter it is.
_LEADING_WRAPPERS = (("base_model", "model"), ("module",))
_INNER_WRAPPERS = frozenset(
    {"default", "base_layer", "modules_to_save", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
)


@dataclass(frozen=True)
class SketchSpec:
    """One kind of sketch: of which gradients, of which model, by which random projection.

    Attributes:
        k, seed, version: the projection's size and seed, and the version of its definition (`reference.py`).
        gradient: one of `GRADIENTS`.
        model: `model_digest` of what was trained; empty where there is only one model.

    Raises:
        SketchError: `k` is not a power of two from 32 to 2^20, the version is not the one this code computes, or the
            kind of gradient is unknown.
    """

    k: int
    seed: int
    version: int = SKETCH_VERSION
    gradient: str = "raw"
    model: str = ""

    def __post_init__(self) -> None:
        if not MIN_K <= self.k <= MAX_K or self.k & (self.k - 1):
            raise SketchError(
                "the sketch size does not fit",
                got=f"k={self.k}",
                expected=f"a power of two from {MIN_K} to {MAX_K}",
                hint="4096 is the default, 16384 for final tables",
            )
        if self.version != SKETCH_VERSION:
            raise SketchError(
                "sketches of another version cannot be computed or mixed",
                got=f"version {self.version}",
                expected=f"version {SKETCH_VERSION}",
                hint="probe again with this version",
            )
        if self.gradient not in GRADIENTS:
            raise SketchError("an unknown kind of gradient", got=self.gradient, expected=", ".join(GRADIENTS))

    @property
    def digest(self) -> str:
        """12 hex digits, equal exactly for equal specs."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def seed_of(self, name: str) -> int:
        """64-bit seed of the parameter `name` (as any wrapper calls it) under this spec."""
        return name_seed(self.seed, canonical_name(name))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SketchSpec:
        """The spec that `to_json` wrote; SketchError for another version or what is no spec."""
        try:
            return cls(
                k=int(value["k"]),
                seed=int(value["seed"]),
                version=int(value["version"]),
                gradient=str(value["gradient"]),
                model=str(value["model"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            known = ", ".join(item.name for item in fields(cls))
            raise SketchError(
                f"this does not say which sketch it is: {error!r}", got=dict(value), expected=known
            ) from None

    def require_same(self, other: SketchSpec, where: str) -> None:
        """Raise SketchError unless `other` is the same kind of sketch; it names what differs."""
        differing = [item.name for item in fields(self) if getattr(self, item.name) != getattr(other, item.name)]
        if differing:
            raise SketchError(
                f"sketches of different kinds cannot be combined: they differ in {', '.join(differing)}",
                where={"in": where},
                got=other,
                expected=self,
                hint="use one k, seed, version, kind of gradient and model for everything that is compared",
            )


def model_digest(base: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """12 hex digits for the base weights (`base`, their digest) and the shapes of all trainable parameters by name."""
    content = [base, sorted((name, list(shape)) for name, shape in shapes.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def canonical_name(name: str) -> str:
    """The parameter's name without what DDP, DeepSpeed, PEFT, torch.compile or checkpoint wrappers add.

    `module.base_model.model.layers.0.q.lora_A.default.weight` becomes `layers.0.q.lora_A.weight`, so that the same
    parameter has the same signs whatever wraps the model.
    """
    parts = name.split(".")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _LEADING_WRAPPERS:
            if tuple(parts[: len(prefix)]) == prefix and len(parts) > len(prefix):
                parts = parts[len(prefix) :]
                stripped = True
    kept = [part for part in parts if part not in _INNER_WRAPPERS]
    return ".".join(kept) or name


def name_seed(seed: int, canonical: str) -> int:
    """Stable 64-bit hash of (seed, canonical parameter name): the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{canonical}".encode(), digest_size=8).digest(), "little")


def mix64(key: int) -> int:
    """64 well-mixed bits of a micro-batch's number; equal numbers, equal bits on every rank.

    Choices between micro-batches (its half, whether it is sketched twice) come from these bits and not from the
    number's own parity: with datasets taken in turn, all of one dataset's numbers may be even.
    """
    mixed = (key * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & _MASK64
    mixed ^= mixed >> 29
    mixed = (mixed * 0xBF58476D1CE4E5B9) & _MASK64
    return mixed ^ (mixed >> 32)
