"""The definition of the sketch, written to be read: slow, pure torch, any device. The fast kernels must agree with it.

The rotated fold of a parameter with elements x_i (`i` the row-major index in the whole parameter) is

    sketch[b] = sum over i with bucket(i) = b of sign(i) * x_i
    bucket(i) = (i + rotation(i // K)) mod K
    sign(i)   = -1 where bit (i mod 32) of hash(i // 32) is set, else +1

It is a CountSketch (Charikar, Chen, Farach-Colton 2002) with structured buckets: E<Sx, Sy> = <x, y> because signs are
random and independent; elements in the same row of K never collide, and elements of different rows collide with
probability 1/K because every row is rotated by its own random amount. Without the rotation ("plain fold"), a layer
whose width divides K puts an outlier input feature into one bucket in every row, and the error is an order larger.
"""

from __future__ import annotations

import torch

from pipeline.errors import SketchError

WORD_BITS = 32
ROTATION_SALT = 0x9E3779B9  # keeps the rotation's hash apart from the signs'
MAX_INDEX = 1 << 37  # 32-bit word numbers: hash(i // 32) would repeat beyond it

_MASK32 = 0xFFFFFFFF


def mix32(value: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer hash on int64 tensors holding unsigned 32-bit values ("lowbias32", C. Wellons)."""
    value = value ^ (value >> 16)
    value = (value * 0x7FEB352D) & _MASK32
    value = value ^ (value >> 15)
    value = (value * 0x846CA68B) & _MASK32
    return value ^ (value >> 16)


def hash32(seed_p: int, index: torch.Tensor, salt: int = 0) -> torch.Tensor:
    """32-bit hash of (64-bit parameter seed, index), for signs (salt 0) and rotations (`ROTATION_SALT`)."""
    low, high = seed_p & _MASK32, (seed_p >> 32) & _MASK32
    return mix32(low ^ mix32((index + (high ^ salt)) & _MASK32))


def sketch(
    grad: torch.Tensor, seed_p: int, k: int, offset: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Rotated fold of one parameter's gradient, or of a contiguous piece of it.

    Args:
        grad: any shape; read in row-major order.
        seed_p: `SketchSpec.seed_of(name)`.
        k: sketch size, a power of two.
        offset: index in the whole parameter of the piece's first element. Sketches of pieces add up to the whole's.
        dtype: of the sums and the result.

    Returns:
        [K] on `grad`'s device.
    """
    check_range(offset, grad.numel())
    values = grad.detach().reshape(-1).to(dtype)
    index = torch.arange(offset, offset + values.numel(), device=values.device)
    sign_bit = (hash32(seed_p, index // WORD_BITS) >> (index % WORD_BITS)) & 1
    bucket = (index + hash32(seed_p, index // k, ROTATION_SALT)) % k
    result = torch.zeros(k, dtype=dtype, device=values.device)
    return result.index_add_(0, bucket, torch.where(sign_bit == 1, -values, values))


def check_gradient(grad: torch.Tensor, offset: int) -> None:
    """Raise SketchError unless `grad` is a dense floating-point tensor whose elements can be numbered from `offset`."""
    if not grad.is_floating_point() or grad.layout != torch.strided:
        raise SketchError("only dense floating-point gradients can be sketched", got=f"{grad.dtype}, {grad.layout}")
    check_range(offset, grad.numel())


def check_range(offset: int, numel: int) -> None:
    """Raise SketchError unless [offset, offset + numel) are valid element indices of one parameter."""
    if offset < 0 or offset + numel > MAX_INDEX:
        raise SketchError(
            "element indices are outside the range that a sketch can number",
            got=f"offset {offset}, {numel} elements",
            expected=f"0 <= offset and offset + elements <= {MAX_INDEX}",
        )
