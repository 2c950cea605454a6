"""The stream of philox.py in Triton: the same words, the same polynomials."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from coophash.kernels import philox

COS_1, COS_2, COS_3, COS_4, COS_5 = (tl.constexpr(c) for c in philox.COS_PI[1:])
SIN_0, SIN_1, SIN_2, SIN_3, SIN_4 = (tl.constexpr(c) for c in philox.SIN_PI)


@triton.jit
def philox_normals(
    start, seed, step, chain, BLOCK: tl.constexpr, RUN: tl.constexpr, ALIGNED: tl.constexpr = True
):
    """The normals of the elements start … start + BLOCK - 1, RUN neighbours in one thread.

    start: int64 scalar, a multiple of BLOCK, or of RUN without ALIGNED; seed, step, chain: integer
    scalars, taken modulo 2**64 and 2**32; BLOCK: a power of two up to 2**31; RUN: 4 or 8, what a
    thread loads at once.
    """
    # The normals of a call are made by the thread that uses them and joined in its registers:
    # nothing goes through shared memory.
    first = tl.arange(0, BLOCK // RUN).to(tl.uint32) * RUN
    a0, a1, a2, a3 = _four_normals(start, first, seed, step, chain, ALIGNED)
    if RUN == 8:
        b0, b1, b2, b3 = _four_normals(start, first + 4, seed, step, chain, ALIGNED)
        a0, a1, a2, a3 = tl.join(a0, b0), tl.join(a1, b1), tl.join(a2, b2), tl.join(a3, b3)
    return tl.reshape(tl.join(tl.join(a0, a2), tl.join(a1, a3)), (BLOCK,))


@triton.jit
def _four_normals(start, first, seed, step, chain, ALIGNED: tl.constexpr):
    zero = first * 0
    low = first + start.to(tl.uint32)
    high = zero + (start >> 32).to(tl.uint32)
    if not ALIGNED:  # otherwise BLOCK divides 2**32, and the low word never wraps
        high += (low < first).to(tl.uint32)
    # tl.philox chooses Philox4x64, another stream, for 64-bit counters: cast every word.
    w0, w1, w2, w3 = tl.philox(
        seed,
        low,
        high,
        zero + step.to(tl.uint32),
        zero + chain.to(tl.uint32),
    )
    e0, e1 = box_muller(w0, w1)
    e2, e3 = box_muller(w2, w3)
    return e0, e1, e2, e3


@triton.jit
def box_muller(radius, angle):
    """Two normals from two uint32 words: see philox.box_muller."""
    u = radius.to(tl.float32) * (2.0**-32) + (2.0**-33)
    length = tl.sqrt(-2.0 * tl.log(u))
    length = (length.to(tl.uint32, bitcast=True) ^ (angle << 31)).to(tl.float32, bitcast=True)
    t = angle.to(tl.int32, bitcast=True).to(tl.float32) * (2.0**-32)
    y = t * t
    cosine = ((((COS_5 * y + COS_4) * y + COS_3) * y + COS_2) * y + COS_1) * y + 1.0
    sine = ((((SIN_4 * y + SIN_3) * y + SIN_2) * y + SIN_1) * y + SIN_0) * t
    return length * cosine, length * sine
