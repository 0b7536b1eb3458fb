"""What the weights that are not trained are, in one number: checkpoints leave them out, so a resume must prove them.

The number is of the weights in the engine, after loading, casting and partitioning, not of files: it is what the model
computes with. It does not depend on how many ranks share them.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import torch

from pipeline.dist import Comm

_BLOCK = 1 << 16  # elements; small enough for a processor's cache
_MODULUS = 1 << 64
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def frozen_digest(engine: Any, comm: Comm) -> str:
    """16 hex digits over names, shapes, types and every bit of the frozen weights; every rank calls it.

    A checksum, not a cryptographic one: the sum modulo 2^64 over all elements of (bits as integer) times an odd
    pseudo-random number of the element's place, so that one changed element always changes it. Each rank reads its own
    share, once: about as long as copying that share.
    """
    total, names = 0, hashlib.sha256()
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            continue
        numel = int(getattr(parameter, "ds_numel", parameter.numel()))
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        label = f"{name} {parameter.dtype} {shape}\n".encode()
        names.update(label)
        share = -(-numel // comm.world_size)
        start = comm.rank * share
        values = _own_share(parameter, start, min(share, max(0, numel - start)))
        total += _checksum(values, start) * (_number_of(label) | 1)
    everywhere = sum(comm.gather_objects(total % _MODULUS))
    return f"{(everywhere + _number_of(names.digest())) % _MODULUS:016x}"


def trained_digest(engine: Any) -> str:
    """16 hex digits over names and shapes of the trained weights."""
    shapes = [
        f"{name} {tuple(getattr(parameter, 'ds_shape', parameter.shape))}"
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    ]
    return f"{_number_of(chr(10).join(sorted(shapes)).encode()):016x}"


def _own_share(parameter: Any, start: int, length: int) -> torch.Tensor:
    """[length] elements from `start` on; ZeRO-3 has dealt them in just this way."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.detach().flatten()[:length]
    return parameter.detach().flatten()[start : start + length]


def _checksum(values: torch.Tensor, start: int) -> int:
    """Sum of bits times multipliers modulo 2^64; int64 arithmetic wraps, which is just that."""
    bits = values.contiguous().view(_INTEGERS[values.element_size()])
    multipliers = _multipliers(str(values.device))
    total, done = 0, 0
    while done < len(bits):
        block, place = divmod(start + done, _BLOCK)
        count = min(_BLOCK - place, len(bits) - done)
        part = (bits[done : done + count].long() * multipliers[place : place + count]).sum()
        total += int(part) * (_number_of(block.to_bytes(8, "big")) | 1)
        done += count
    return total % _MODULUS


@cache
def _multipliers(device: str) -> torch.Tensor:
    """[_BLOCK] odd numbers, the same on every machine."""
    drawn = torch.randint(-(1 << 62), 1 << 62, (_BLOCK,), generator=torch.Generator().manual_seed(0))
    return (drawn * 2 + 1).to(device)


def _number_of(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
