"""The Triton kernels of the contrast against packed keys. The op is in contrast.py.

A program takes one sample, both of its queries and a share of its keys; a second kernel merges the
shares of a sample and adds the positive, as flash decoding does, in a fixed order.

A thread holds one 8-, 16- or 32-bit unit of a key at a time and the same bits of the queries, in
registers, for all keys of its program. Tiles of keys are (DEEP, ROWS, UNITS): a warp spans ROWS
keys of UNITS units, DEEP stays within a thread. So sums over DEEP need no exchange, and the softmax
runs apart in each of the ROWS until the end.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from coophash.kernels._backend import interpreting
from coophash.kernels.contrast import ALL_ROWS, GIVEN_ROWS, run_reference
from coophash.kernels.contrast_tile_triton import (
    dots,
    drawn_rows,
    finish,
    gather,
    query_bits,
    weigh,
    zeros,
)
from coophash.kernels.cubins import Variant

DRAWN, GIVEN, ALL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
LOWEST = tl.constexpr(-3.0e38)  # below every logit; -inf - -inf would be NaN
LOG2_E, LN_2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2.0))
GROUP = 8
MINUS_ONE = -0x40800000  # 0xBF800000, the bits of -1.0, as a signed integer


# Taken as they come. Specialized strides would say which elements are neighbours, and neighbours
# would be loaded by neighbouring threads or several at a time: not the layout of the tiles.
INTEGERS = [
    *("batch", "rows", "count", "units", "width", "L", "splits", "tiles"),
    *("set_stride", "sample_stride", "bit_stride", "table_stride", "draw_stride"),
    *("seed", "step", "chain", "minus_one", "nothing"),
]


@triton.jit(do_not_specialize=INTEGERS)
def bank_contrast_kernel(
    queries_ptr,  # (SETS, batch, L) of any strides
    codes_ptr,  # (rows, units) of UNIT bits
    positives_ptr,  # (batch,)
    drawn_ptr,  # (batch, count) of any strides, or None
    rng_ptr,  # (3,) int64 or None: added to seed, step and chain
    parts_ptr,  # (SETS, batch, splits, 2 + UNIT * UNITS) float32
    batch, rows, count, units, L, splits, tiles,
    set_stride, sample_stride, bit_stride, table_stride, draw_stride,
    scale2,  # log2(e) / (temperature sqrt(L)): logits to base 2
    seed, step, chain,
    minus_one, nothing,  # the bits of -1.0, and 0: numbers that the compiler must not know
    MODE: tl.constexpr, EXCLUDE: tl.constexpr, SETS: tl.constexpr, SLOPE: tl.constexpr,
    UNIT: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr, DEEP: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    sample, split = tl.program_id(0), tl.program_id(1)
    element = tl.arange(0, DEEP * ROWS * UNITS)
    deep, unit = element // (ROWS * UNITS), element % UNITS
    place = (deep // 4) * (4 * ROWS) + element // UNITS % ROWS * 4
    positive = tl.load(positives_ptr + sample).to(tl.int32)  # the merge looks for rows outside
    if MODE == DRAWN:
        seed, step, chain = seed.to(tl.int64), step.to(tl.int64), chain.to(tl.int64)
        if rng_ptr is not None:
            seed += tl.load(rng_ptr)
            step += tl.load(rng_ptr + 1)
            chain += tl.load(rng_ptr + 2)
    table = drawn_ptr
    if MODE == GIVEN:
        table += sample.to(tl.int64) * table_stride
    query = queries_ptr + sample.to(tl.int64) * sample_stride
    minus_one, nothing = minus_one.to(tl.uint32), nothing.to(tl.uint32)
    bits_0 = query_bits(query, L, bit_stride, ROWS, UNITS, UNIT, GROUP)
    bits_1 = bits_0
    if SETS == 2:
        bits_1 = query_bits(query + set_stride, L, bit_stride, ROWS, UNITS, UNIT, GROUP)
    largest_0 = tl.full((1, ROWS, 1), LOWEST, tl.float32)
    total_0 = tl.zeros((1, ROWS, 1), tl.float32)
    largest_1, total_1 = largest_0, total_0
    sums_0, sums_1 = (), ()
    if SLOPE:
        sums_0 = zeros(ROWS, UNITS, UNIT, GROUP)
        if SETS == 2:
            sums_1 = zeros(ROWS, UNITS, UNIT, GROUP)
    for tile in range(tiles):
        quad = (split * tiles + tile) * (DEEP * ROWS) + place
        key = quad + deep % 4
        inside = key < count
        held = inside & (unit < units)
        if MODE == GIVEN:
            which = tl.load(table + key.to(tl.int64) * draw_stride, inside, 0)
            known = (which >= 0) & (which < rows)
            held = held & known
            which = which.to(tl.int32)
        elif MODE == ALL:
            which = key
            inside = inside & (key != positive)
        else:
            which = drawn_rows(
                quad.to(tl.uint32), deep % 4, sample, seed, step, chain, rows - EXCLUDE
            )
            if EXCLUDE:
                which += (which >= positive).to(tl.int32)
        # One unit to a thread, since nobody knows of alignment: a thread that loaded 128 bits would
        # need four times the registers.
        offset = which.to(tl.int64) * units + unit
        words = tl.load(codes_ptr + offset, held, 0).to(tl.uint32)
        words = tl.reshape(words, (DEEP, ROWS, UNITS))
        inside = tl.reshape(inside, (DEEP, ROWS, UNITS))
        dot_0, dot_1 = dots(words, minus_one, bits_0, bits_1, UNIT, GROUP, SETS)
        if MODE == GIVEN:
            known = tl.reshape(known, (DEEP, ROWS, UNITS))
            dot_0 = tl.where(known, dot_0, float("nan"))
            dot_1 = tl.where(known, dot_1, float("nan"))
        weights_0, shrink_0, largest_0, total_0 = weigh(
            dot_0, inside, scale2, largest_0, total_0, UNITS
        )
        weights_1, shrink_1 = weights_0, shrink_0
        if SETS == 2:
            weights_1, shrink_1, largest_1, total_1 = weigh(
                dot_1, inside, scale2, largest_1, total_1, UNITS
            )
        if SLOPE:
            # Without `nothing` the compiler would keep the 512 signs of a thread from the products
            # above, spilling them, instead of making them again by two instructions each.
            sums_0, sums_1 = gather(
                words ^ nothing, minus_one, weights_0, weights_1, sums_0, sums_1,
                shrink_0, shrink_1, UNIT, GROUP, SETS,
            )  # fmt: skip
    part = sample.to(tl.int64) * splits + split
    finish(parts_ptr, part, largest_0, total_0, sums_0, UNIT, UNITS, GROUP, SLOPE)
    if SETS == 2:
        part += batch.to(tl.int64) * splits
        finish(parts_ptr, part, largest_1, total_1, sums_1, UNIT, UNITS, GROUP, SLOPE)


@triton.jit(do_not_specialize=INTEGERS)
def bank_contrast_merge_kernel(
    queries_ptr, codes_ptr, positives_ptr, parts_ptr,
    loss_ptr,  # (SETS, batch) float32
    slope_ptr,  # (SETS, batch, L) float32
    batch, rows, width, L, splits, set_stride, sample_stride, bit_stride, scale,
    SLOPE: tl.constexpr, UNIT: tl.constexpr, UNITS: tl.constexpr, SPLITS: tl.constexpr,
    BITS: tl.constexpr,
):  # fmt: skip
    """The shares of one query and its positive: loss and gradient."""
    program = tl.program_id(1) * batch + tl.program_id(0)
    positive = tl.load(positives_ptr + tl.program_id(0)).to(tl.int64)
    known = (positive >= 0) & (positive < rows)
    bit = tl.arange(0, BITS)
    inside = bit < L
    byte = tl.load(codes_ptr + positive * width + bit // 8, inside & known, 0).to(tl.int32)
    sign = ((byte >> (bit % 8)) & 1).to(tl.float32) * 2.0 - 1.0
    query = queries_ptr + tl.program_id(1) * set_stride.to(tl.int64)
    query += tl.program_id(0).to(tl.int64) * sample_stride + bit.to(tl.int64) * bit_stride
    own = tl.sum(tl.load(query, inside, 0.0).to(tl.float32) * sign, axis=0) * (scale * LOG2_E)
    own = tl.where(known, own, float("nan"))
    size = 2 + UNIT * UNITS if SLOPE else 2
    start = parts_ptr + program.to(tl.int64) * splits * size
    largest = tl.full((SPLITS,), LOWEST, tl.float32)
    total = tl.zeros((SPLITS,), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        here = start + split * size
        one = tl.load(here, split < splits, LOWEST)
        new = tl.maximum(largest, one)
        share = tl.load(here + 1, split < splits, 0.0) * tl.exp2(one - new)
        total = total * tl.exp2(largest - new) + share
        largest = new
    most = tl.maximum(tl.max(largest, axis=0), own)
    own_weight = tl.exp2(own - most)
    total = tl.sum(total * tl.exp2(largest - most), axis=0) + own_weight
    tl.store(loss_ptr + program, (tl.log2(total) + (most - own)) * LN_2)
    if SLOPE:
        place = (bit % UNIT) * UNITS + bit // UNIT
        gathered = own_weight * sign
        for i in range(splits):
            share = tl.exp2(tl.load(start + i * size) - most)
            gathered += share * tl.load(start + i * size + 2 + place, inside, 0.0)
        slope = (gathered / total - sign) * scale
        tl.store(slope_ptr + program.to(tl.int64) * L + bit, slope, inside)


def launch_shape(mode: tl.constexpr, width: int) -> dict[str, int]:
    """Constants of the kernel for codes of `width` bytes."""
    unit = 32 if width % 4 == 0 else 16 if width % 2 == 0 else 8
    units = triton.next_power_of_2(8 * width // unit)
    deep = 4 if mode == ALL or units > 32 else 8  # more would be spilled
    shape = {"UNIT": unit, "UNITS": units, "ROWS": max(1, 32 // units)}
    return shape | {"DEEP": deep, "GROUP": GROUP}


def tiles_of_program(batch: int, count: int, tile: int) -> int:
    """So many that some 2,048 programs are left, 8 of which a multiprocessor holds by their
    registers, at most 1,024 for a sample, and not many beyond 16,384, since their shares take
    memory. By counts, not yet by a measurement."""
    if interpreting():  # its time goes by programs, and the loop is to be seen
        return 4
    wanted = min(batch * count // (2048 * tile), 64)
    return max(1, wanted, triton.cdiv(count, 1024 * tile), batch * count // (16384 * tile))


_UNITS = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


def bank_contrast(
    queries: Tensor,
    codes: Tensor,
    positives: Tensor,
    drawn: Tensor | None,
    rng: Tensor | None,
    negatives: int,
    temperature: float,
    exclude_positive: bool,
    with_slope: bool,
    *integers: int,
) -> tuple[Tensor, Tensor]:
    """Op `bank_contrast` on a device."""
    if queries.dtype == torch.float64:  # for checks alone; the kernel computes in float32
        return run_reference(
            queries, codes, positives, drawn, rng, negatives, temperature, exclude_positive,
            with_slope, *integers,
        )  # fmt: skip
    codes, positives = codes.contiguous(), positives.contiguous()
    sets, batch, bits = queries.shape
    loss = torch.empty((sets, batch), dtype=torch.float32, device=queries.device)
    slope = loss.new_empty(queries.shape if with_slope else (0,))
    if batch == 0:
        return loss, slope
    mode = {ALL_ROWS: ALL, GIVEN_ROWS: GIVEN}.get(negatives, DRAWN)
    count = negatives
    if mode == ALL:
        count = len(codes)
    elif drawn is not None:
        count = drawn.shape[1]
    table = (0, 0) if drawn is None else drawn.stride()
    shape = launch_shape(mode, codes.shape[1])
    if codes.data_ptr() % 4 or codes.storage_offset() % 4:
        codes = codes.clone()  # a view that starts within a word
    words = codes.view(_UNITS[shape["UNIT"]])
    tile = shape["DEEP"] * shape["ROWS"]
    tiles = tiles_of_program(batch, count, tile)
    splits = triton.cdiv(count, tiles * tile)
    scale = 1.0 / (temperature * math.sqrt(bits))
    size = 2 + shape["UNIT"] * shape["UNITS"] if with_slope else 2
    parts = loss.new_empty((min(sets, 2), batch, splits, size))
    with torch.cuda.device(queries.device) if queries.is_cuda else contextlib.nullcontext():
        for start in range(0, sets, 2):
            pair = queries[start : start + 2]
            bank_contrast_kernel[(batch, splits)](
                pair, words, positives, drawn, rng, parts, batch, len(codes), count,
                words.shape[1], bits, splits, tiles, *pair.stride(), *table, scale * LOG2_E.value,
                *integers, MINUS_ONE, 0,
                MODE=mode, EXCLUDE=exclude_positive, SETS=len(pair), SLOPE=with_slope, **shape,
                num_warps=max(1, shape["UNITS"] // 32),
            )  # fmt: skip
            bank_contrast_merge_kernel[(batch, len(pair))](
                pair, codes, positives, parts, loss[start:],
                slope[start:] if with_slope else None,
                batch, len(codes), codes.shape[1], bits, splits, *pair.stride(), scale,
                SLOPE=with_slope, UNIT=shape["UNIT"], UNITS=shape["UNITS"],
                SPLITS=32, BITS=triton.next_power_of_2(bits),
                num_warps=1 if bits <= 256 else 4,
            )  # fmt: skip
    return loss, slope


def cubin_variants() -> list[Variant]:
    """Of both kernels, for UCCH's batch of 256 and 4,096 draws."""

    def main(kind: str, bits: int, sets: int = 2, queries: str = "fp32") -> Variant:
        mode = {"given": GIVEN, "all": ALL}.get(kind, DRAWN)
        shape = launch_shape(mode, bits // 8)
        warps = max(1, shape["UNITS"] // 32)
        integer = dict.fromkeys(("batch", "rows", "count", "units", "L", "splits", "tiles"), "i32")
        integer |= dict.fromkeys(("set_stride", "sample_stride", "bit_stride"), "i32")
        integer |= dict.fromkeys(("table_stride", "draw_stride"), "i32")
        integer |= dict.fromkeys(("minus_one", "nothing"), "i32")
        types = {"queries_ptr": f"*{queries}", "codes_ptr": f"*i{shape['UNIT']}"}
        types |= {"positives_ptr": "*i64", "parts_ptr": "*fp32", "scale2": "fp32"}
        types |= {"seed": "i64", "step": "i32", "chain": "i32"} | integer
        if kind == "given":
            types["drawn_ptr"] = "*i32"
        if kind == "captured":
            types["rng_ptr"] = "*i64"
        constants = {"MODE": mode.value, "EXCLUDE": kind == "captured", "SETS": sets, "SLOPE": True}
        tile = shape["DEEP"] * shape["ROWS"] * shape["UNITS"] * shape["UNIT"]
        return Variant(
            f"bank_contrast {queries} {bits} bits x {sets} {kind}",
            bank_contrast_kernel,
            types,
            constants | shape,
            warps,
            # Pairs of a query's bit and a key's that a thread works on, in the one tile that the
            # code holds.
            sets * tile // (32 * warps),
        )

    merge = launch_shape(DRAWN, 16)
    types = {"queries_ptr": "*fp32", "codes_ptr": "*u8", "positives_ptr": "*i64"}
    types |= dict.fromkeys(("parts_ptr", "loss_ptr", "slope_ptr"), "*fp32")
    types |= dict.fromkeys(("batch", "rows", "width", "L", "splits"), "i32") | {"scale": "fp32"}
    types |= dict.fromkeys(("set_stride", "sample_stride", "bit_stride"), "i32")
    constants = {"SLOPE": True, "UNIT": merge["UNIT"], "UNITS": merge["UNITS"]}
    return [
        main("captured", 128),  # all that the kernel can do
        main("given", 128),
        main("all", 128),
        main("drawn", 32, sets=1, queries="bf16"),
        main("drawn", 2048),
        Variant(
            "bank_contrast merge 128 bits", bank_contrast_merge_kernel, types,
            constants | {"SPLITS": 32, "BITS": 128}, 1, 4,
        ),
    ]  # fmt: skip
