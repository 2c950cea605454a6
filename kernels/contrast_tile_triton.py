"""A tile of packed keys against two queries: what the kernel of contrast_triton.py is made of.

Tiles are (DEEP, ROWS, UNITS): a warp spans ROWS keys of UNITS 8-, 16- or 32-bit units, DEEP stays
within a thread. They are loaded as vectors of one element a thread and then reshaped: how Triton
lays out a loaded tensor of more dimensions depends on what it knows of the addresses, and on its
version. A query's bits, and the sums of signs, are tuples of (GROUP, 1, ROWS, UNITS): GROUP
bits of a unit, UNIT / GROUP times, in the registers of the thread that holds this unit of the keys.
(A tensor for every bit compiles to the same and takes ten seconds longer.)
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_signs(words, minus_one, j: tl.constexpr, GROUP: tl.constexpr):
    """Bits j … j + GROUP - 1 of each word as ±1, (GROUP, DEEP, ROWS, UNITS): shifted to the place
    of the sign, and one three-way LOP3."""
    shift = (31 - j) - tl.arange(0, GROUP)[:, None, None, None]
    sign = (words[None] << shift.to(tl.uint32)) & 0x80000000
    return (sign ^ minus_one).to(tl.float32, bitcast=True)


@triton.jit
def query_bits(
    pointer, L, stride, ROWS: tl.constexpr, UNITS: tl.constexpr, UNIT: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """A query's bits unit · UNIT + j, (GROUP, 1, ROWS, UNITS) for each group of j."""
    element = tl.arange(0, GROUP * ROWS * UNITS)
    first = element % UNITS * UNIT + element // (ROWS * UNITS)
    bits = ()
    for j in tl.static_range(0, UNIT, GROUP):
        group = tl.load(pointer + (first + j).to(tl.int64) * stride, first + j < L, 0.0).to(
            tl.float32
        )
        bits += (tl.reshape(group, (GROUP, 1, ROWS, UNITS)),)
    return bits


@triton.jit
def drawn_rows(quad, q, sample, seed, step, chain, range_):
    """Row ⌊w · range / 2³²⌋ of word q of the Philox call of keys quad … quad + 3."""
    zero = quad * 0
    # tl.philox chooses Philox4x64, another stream, for 64-bit counters: cast every word.
    w0, w1, w2, w3 = tl.philox(
        seed, quad, zero + sample.to(tl.uint32), zero + step.to(tl.uint32),
        zero + chain.to(tl.uint32),
    )  # fmt: skip
    # q is the same for all lanes at each place of a thread: the compiler makes one call of four.
    word = tl.where(q == 0, w0, tl.where(q == 1, w1, tl.where(q == 2, w2, w3)))
    return tl.umulhi(word, zero + range_.to(tl.uint32)).to(tl.int32)


@triton.jit
def dots(
    words, minus_one, bits_0, bits_1, UNIT: tl.constexpr, GROUP: tl.constexpr, SETS: tl.constexpr
):
    """A thread's share of <h, s> of each key, for both queries: (DEEP, ROWS, UNITS)."""
    signs = to_signs(words, minus_one, 0, GROUP)
    dot_0 = tl.sum(signs * bits_0[0], axis=0)
    dot_1 = dot_0
    if SETS == 2:
        dot_1 = tl.sum(signs * bits_1[0], axis=0)
    for j in tl.static_range(GROUP, UNIT, GROUP):
        signs = to_signs(words, minus_one, j, GROUP)
        dot_0 += tl.sum(signs * bits_0[j // GROUP], axis=0)
        if SETS == 2:
            dot_1 += tl.sum(signs * bits_1[j // GROUP], axis=0)
    return dot_0, dot_1


@triton.jit
def weigh(dot, inside, scale2, largest, total, UNITS: tl.constexpr):
    """One step of the online softmax: weights (DEEP, ROWS, 1), what shrinks the past, and both
    sums."""
    # A unit at a time, before the sum over units: a sum with -inf is -inf.
    logits = tl.where(inside, dot * scale2, float("-inf"))
    if UNITS > 1:
        logits = tl.sum(logits, axis=2, keep_dims=True)
    new = tl.maximum(largest, tl.max(logits, axis=0, keep_dims=True))
    shrink, weights = tl.exp2(largest - new), tl.exp2(logits - new)
    return weights, shrink, new, total * shrink + tl.sum(weights, axis=0, keep_dims=True)


@triton.jit
def gather(
    words, minus_one, weights_0, weights_1, sums_0, sums_1, shrink_0, shrink_1,
    UNIT: tl.constexpr, GROUP: tl.constexpr, SETS: tl.constexpr,
):  # fmt: skip
    """sums · shrink + Σ over DEEP of weights · signs, for both queries."""
    new_0, new_1 = (), ()
    for j in tl.static_range(0, UNIT, GROUP):
        signs = to_signs(words, minus_one, j, GROUP)
        gathered = tl.sum(signs * weights_0[None], axis=1, keep_dims=True)
        new_0 += (sums_0[j // GROUP] * shrink_0[None] + gathered,)
        if SETS == 2:
            gathered = tl.sum(signs * weights_1[None], axis=1, keep_dims=True)
            new_1 += (sums_1[j // GROUP] * shrink_1[None] + gathered,)
    return new_0, new_1


@triton.jit
def zeros(ROWS: tl.constexpr, UNITS: tl.constexpr, UNIT: tl.constexpr, GROUP: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(0, UNIT, GROUP):
        zeros += (tl.zeros((GROUP, 1, ROWS, UNITS), tl.float32),)
    return zeros


@triton.jit
def finish(
    parts_ptr, part, largest, total, sums,
    UNIT: tl.constexpr, UNITS: tl.constexpr, GROUP: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Merge the ROWS and write: largest logit, total, then the sums by (bit of the unit, unit)."""
    most = tl.max(largest, axis=1, keep_dims=True)
    share = tl.exp2(largest - most)
    start = parts_ptr + part * (2 + UNIT * UNITS if SLOPE else 2)
    nothing = tl.zeros((1, 1, 1), tl.int32)
    tl.store(start + nothing, most)
    tl.store(start + 1 + nothing, tl.sum(total * share, axis=1, keep_dims=True))
    if SLOPE:
        place = tl.arange(0, GROUP)[:, None, None, None] * UNITS
        place += tl.arange(0, UNITS)[None, None, None, :]
        for j in tl.static_range(0, UNIT, GROUP):
            merged = tl.sum(sums[j // GROUP] * share[None], axis=2, keep_dims=True)
            tl.store(start + 2 + j * UNITS + place, merged)
