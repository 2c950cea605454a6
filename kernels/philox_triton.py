"""The stream of philox.py in Triton: the same words, the same polynomials, the same layout."""

from __future__ import annotations

import triton
import triton.language as tl

from coophash.kernels import philox

GROUP = tl.constexpr(philox.GROUP)
RUN = tl.constexpr(philox.RUN)
COS_1, COS_2, COS_3, COS_4, COS_5 = (tl.constexpr(c) for c in philox.COS_PI[1:])
SIN_0, SIN_1, SIN_2, SIN_3, SIN_4 = (tl.constexpr(c) for c in philox.SIN_PI)


@triton.jit
def first_elements(CALLS: tl.constexpr):
    """Of each Philox call of a block, the first of its four elements; the others follow by RUN."""
    call = tl.arange(0, CALLS)
    return call // RUN * GROUP + call % RUN


@triton.jit
def philox_normals(start, first, seed, step, chain):
    """Four normals for the elements start + first + (0, 1, 2, 3) · RUN.

    start: int64 scalar, a multiple of the block; first: int32 block below 2**32 - start % 2**32.
    seed, step, chain: integer scalars, taken modulo 2**64 and 2**32.
    """
    # tl.philox chooses Philox4x64, another stream, for 64-bit counters: cast every word.
    zero = (first * 0).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(
        seed,
        first.to(tl.uint32) + start.to(tl.uint32),
        zero + (start >> 32).to(tl.uint32),
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
