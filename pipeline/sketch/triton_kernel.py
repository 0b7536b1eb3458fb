"""The rotated fold on a GPU: two Triton kernels, launched by `multi_tensor.py`. Read `reference.py` first.

`fold` sums the rows of one piece of a gradient; `add_rows` adds the sums of all pieces of one parameter group to its
sketch. There are no atomics and every sum has a fixed order, so the same launch gives the same bits again.

How `fold` reads fast. Eight neighbouring elements (`VECTOR`) are a *group*: one lane reads them together and hashes one
sign word for them. Rotations are not multiples of eight: a group lands `rotation % 8` buckets behind a boundary of
eight. Nothing is moved between lanes for that: a lane owns eight buckets and keeps fifteen sums, eight for its own
buckets and seven for what runs over into the next lane's. All lanes of a row have the same displacement, so which sums
the eight elements go to is a branch that all lanes take together.

Shape letters: `G` groups that a program owns (a strip of 8G buckets), `K` sketch dimension.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.sketch.reference import ROTATION_SALT

VECTOR = 8
PIECE_FIELDS = 5  # address, number of elements, offset in the parameter, seed, slot
ROW_FIELDS = 3  # row of the result, first slot, slot behind the last

_V = tl.constexpr(VECTOR)
_SALT = tl.constexpr(ROTATION_SALT)
_PIECE_FIELDS = tl.constexpr(PIECE_FIELDS)
_ROW_FIELDS = tl.constexpr(ROW_FIELDS)


@triton.jit
def _mix32(value: tl.tensor) -> tl.tensor:
    """`reference.mix32` on uint32."""
    value = value ^ (value >> 16)
    value = value * 0x7FEB352D
    value = value ^ (value >> 15)
    value = value * 0x846CA68B
    return value ^ (value >> 16)


@triton.jit
def _hash32(low: tl.tensor, high: tl.tensor, index: tl.tensor) -> tl.tensor:
    """`reference.hash32` on uint32; the caller has put the salt into `high`."""
    return _mix32(low ^ _mix32(index + high))


@triton.jit
def _load_signed(
    data: tl.tensor,
    numel: tl.tensor,
    first: tl.tensor,
    bits: tl.tensor,
    COLUMN: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """[G, COLUMNS] elements from `first` [G] + COLUMN on, with their signs; elements outside the piece are 0."""
    column = COLUMN + tl.arange(0, COLUMNS)
    index = first[:, None] + column[None, :]
    if ALIGNED:  # noqa: SIM108 - a group lies wholly inside or outside the piece
        inside = ((first >= 0) & (first < numel))[:, None]
    else:
        inside = (index >= 0) & (index < numel)
    values = tl.load(data + index, mask=inside, other=0.0).to(tl.float32)
    flip = (bits[:, None] << (31 - column).to(tl.uint32)[None, :]) & 0x80000000
    return (values.to(tl.uint32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)


@triton.jit
def _columns4(x: tl.tensor, G: tl.constexpr) -> tl.tensor:
    """The four columns of [G, 4], each [G]."""
    even, odd = tl.split(tl.reshape(x, [G, 2, 2]))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _signed_row(
    data: tl.tensor,
    numel: tl.tensor,
    offset: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    row: tl.tensor,
    home: tl.tensor,
    K: tl.constexpr,
    G: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """The elements of one row as eight columns [G] with their signs, and their displacement 0..7.

    `home` [G] numbers the groups of eight buckets that the lanes own. Positions are 64-bit, hashes 32-bit.
    """
    row_number = row.to(tl.uint32)
    rotation = _hash32(low, high ^ _SALT, row_number) & (K - 1)
    group = (home - (rotation // _V).to(tl.int32)) & (K // _V - 1)
    word = _hash32(low, high, row_number * (K // 32) + (group // 4).to(tl.uint32))
    bits = word >> ((group % 4) * _V).to(tl.uint32)
    if ALIGNED:  # noqa: SIM108 - so written, the compiler sees a multiple of eight and loads 16 bytes at once
        first = (row * (K // _V) - offset // _V + group) * _V
    else:
        first = row * K - offset + group * _V
    if WIDE:  # a load is at most 16 bytes: two loads for eight elements of four bytes
        x0, x1, x2, x3 = _columns4(_load_signed(data, numel, first, bits, 0, 4, ALIGNED), G)
        x4, x5, x6, x7 = _columns4(_load_signed(data, numel, first, bits, 4, 4, ALIGNED), G)
    else:
        x = _load_signed(data, numel, first, bits, 0, 8, ALIGNED)
        even, odd = tl.split(tl.reshape(x, [G, 4, 2]))
        x0, x2, x4, x6 = _columns4(even, G)
        x1, x3, x5, x7 = _columns4(odd, G)
    return x0, x1, x2, x3, x4, x5, x6, x7, rotation % _V


@triton.jit
def _add8(x, s0, s1, s2, s3, s4, s5, s6, s7):  # type: ignore[no-untyped-def]
    x0, x1, x2, x3, x4, x5, x6, x7, _ = x
    return s0 + x0, s1 + x1, s2 + x2, s3 + x3, s4 + x4, s5 + x5, s6 + x6, s7 + x7


@triton.jit
def _add_displaced(x, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14):  # type: ignore[no-untyped-def]
    """The fifteen sums, with the eight columns of `x` (what `_signed_row` returns) added from its displacement on."""
    by = x[8]
    if by < 4:
        if by < 2:
            if by < 1:
                s0, s1, s2, s3, s4, s5, s6, s7 = _add8(x, s0, s1, s2, s3, s4, s5, s6, s7)
            else:
                s1, s2, s3, s4, s5, s6, s7, s8 = _add8(x, s1, s2, s3, s4, s5, s6, s7, s8)
        else:
            if by < 3:
                s2, s3, s4, s5, s6, s7, s8, s9 = _add8(x, s2, s3, s4, s5, s6, s7, s8, s9)
            else:
                s3, s4, s5, s6, s7, s8, s9, s10 = _add8(x, s3, s4, s5, s6, s7, s8, s9, s10)
    else:
        if by < 6:
            if by < 5:
                s4, s5, s6, s7, s8, s9, s10, s11 = _add8(x, s4, s5, s6, s7, s8, s9, s10, s11)
            else:
                s5, s6, s7, s8, s9, s10, s11, s12 = _add8(x, s5, s6, s7, s8, s9, s10, s11, s12)
        else:
            if by < 7:
                s6, s7, s8, s9, s10, s11, s12, s13 = _add8(x, s6, s7, s8, s9, s10, s11, s12, s13)
            else:
                s7, s8, s9, s10, s11, s12, s13, s14 = _add8(x, s7, s8, s9, s10, s11, s12, s13, s14)
    return s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14


@triton.jit
def _store(target, home, K: tl.constexpr, G: tl.constexpr, s):  # type: ignore[no-untyped-def]
    """Write the fifteen sums to `target` [2, K]: the lanes' own buckets, and what runs over into the next eight."""
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14 = s
    own = target + home * _V
    following = target + K + ((home + 1) & (K // _V - 1)) * _V
    tl.store(own, s0)
    tl.store(own + 1, s1)
    tl.store(own + 2, s2)
    tl.store(own + 3, s3)
    tl.store(own + 4, s4)
    tl.store(own + 5, s5)
    tl.store(own + 6, s6)
    tl.store(own + 7, s7)
    tl.store(following, s8)
    tl.store(following + 1, s9)
    tl.store(following + 2, s10)
    tl.store(following + 3, s11)
    tl.store(following + 4, s12)
    tl.store(following + 5, s13)
    tl.store(following + 6, s14)
    tl.store(following + 7, tl.zeros([G], dtype=tl.float32))


@triton.jit(do_not_specialize=["pieces"])
def fold(
    pieces: tl.tensor,
    part: tl.tensor,
    K: tl.constexpr,
    G: tl.constexpr,
    ELEMENT: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> None:
    """One program: the fold of one piece into one strip of 8G buckets.

    Args:
        pieces: [pieces, PIECE_FIELDS] int64.
        part: [slots, 2, K] float32; every bucket is written. [slot, 0] holds what falls into a lane's own buckets,
            [slot, 1] what runs over from the lane before; their sum is the sketch of the piece.
        ELEMENT: element type of the gradients.
        WIDE: elements have more than two bytes.
        ALIGNED: every piece's address is a multiple of 16 bytes and its size and offset are multiples of VECTOR.
    """
    strips: tl.constexpr = K // (_V * G)
    strip = tl.program_id(0) % strips
    entry = pieces + (tl.program_id(0) // strips).to(tl.int64) * _PIECE_FIELDS
    data = tl.load(entry).to(tl.pointer_type(ELEMENT))
    if ALIGNED:
        data = tl.multiple_of(data, 16)
    numel = tl.load(entry + 1)
    offset = tl.load(entry + 2)
    seed = tl.load(entry + 3)
    slot = tl.load(entry + 4)
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    home = strip * G + tl.arange(0, G)

    s0 = tl.zeros([G], dtype=tl.float32)
    s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14 = s0, s0, s0, s0, s0, s0, s0, s0, s0, s0, s0, s0, s0, s0
    first_row = offset // K
    for done in range(0, (offset + numel + K - 1) // K - first_row, 4):
        # Four rows at a time, so that many loads are under way; rows past the end have no elements inside.
        row = first_row + done
        x0 = _signed_row(data, numel, offset, low, high, row, home, K, G, WIDE, ALIGNED)
        x1 = _signed_row(data, numel, offset, low, high, row + 1, home, K, G, WIDE, ALIGNED)
        x2 = _signed_row(data, numel, offset, low, high, row + 2, home, K, G, WIDE, ALIGNED)
        x3 = _signed_row(data, numel, offset, low, high, row + 3, home, K, G, WIDE, ALIGNED)
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14 = _add_displaced(
            x0, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14
        )
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14 = _add_displaced(
            x1, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14
        )
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14 = _add_displaced(
            x2, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14
        )
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14 = _add_displaced(
            x3, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14
        )
    _store(part + slot * (2 * K), home, K, G, (s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14))


@triton.jit(do_not_specialize=["rows", "scale"])
def add_rows(
    part: tl.tensor,
    rows: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    K: tl.constexpr,
    BUCKETS: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """One program: add `scale` times the sum of one row's slots to BUCKETS buckets of that row of the result.

    Args:
        part: what `fold` wrote.
        rows: [rows, ROW_FIELDS] int64.
        out: [any, K] float32.
        PARTS: how many vectors [K] of `part` are read at once.
    """
    entry = rows + tl.program_id(1) * _ROW_FIELDS
    target = out + tl.load(entry) * K
    end = tl.load(entry + 2) * 2
    bucket = tl.program_id(0) * BUCKETS + tl.arange(0, BUCKETS)
    total = tl.zeros([BUCKETS], dtype=tl.float32)
    for start in range(tl.load(entry + 1) * 2, end, PARTS):
        number = start + tl.arange(0, PARTS)
        tile = tl.load(part + (number * K)[:, None] + bucket[None, :], mask=(number < end)[:, None], other=0.0)
        total += tl.sum(tile, axis=0)
    tl.store(target + bucket, tl.load(target + bucket) + scale * total)
