"""Parity of bank_contrast, its draws and its gradient: see parity.py."""

from __future__ import annotations

import os

import parity
import torch

from coophash import pack
from coophash.kernels import bank_contrast


def bank(rows, bits):
    return pack(torch.randn(rows, bits))


def compare(case, queries, codes, positives, negatives, allowed=3e-6, **options):
    """The losses and their gradients; a gradient that differs from sample to sample comes in."""

    def both():
        leaf = queries.detach().requires_grad_()
        loss = bank_contrast(leaf, codes, positives, negatives, **{"temperature": 0.9} | options)
        upstream = torch.linspace(-1, 2, loss.numel()).view(loss.shape)
        (slope,) = torch.autograd.grad(loss, leaf, upstream)
        return loss.detach(), slope.contiguous()

    parity.compare(case, both, allowed)


torch.manual_seed(0)
# bits: units of 32, 16 and 8 bits, some that are not full, one unit and several warps.
for bits in (1, 8, 10, 16, 31, 32, 48, 64, 100, 128, 200, 2056):
    sets = 1 if bits in (8, 48, 200) else 2
    dtype = torch.bfloat16 if bits in (10, 64) else torch.float32
    queries = torch.nn.functional.normalize(torch.randn(sets, 3, bits), dim=-1).to(dtype)
    codes = bank(29, bits)
    positives = torch.tensor([5, 28, 0])
    name = f"{bits} bits x {sets} {str(dtype).removeprefix('torch.')}"
    stream = {"seed": 2**64 - 5, "step": 2**32 - 1, "chain": 2**31 + 3}
    count = 70 if bits < 1000 else 21
    compare(f"{name} drawn", queries, codes, positives, count, **stream)
    compare(f"{name} without the positive", queries, codes, positives, 33,
            exclude_positive=True, **stream)  # fmt: skip
    drawn = torch.randint(0, 29, (3, 41), dtype=torch.int32 if bits % 16 else torch.int64)
    compare(f"{name} given", queries, codes, positives.int(), drawn, temperature=0.07,
            allowed=1e-5)  # fmt: skip
    compare(f"{name} all", queries, codes, positives, None)

queries = torch.nn.functional.normalize(torch.randn(3, 2, 40), dim=-1)
codes, positives = bank(9, 40), torch.tensor([3, 8])
compare("three sets", queries, codes, positives, 11, seed=3)
compare("no set dimension", queries[0], codes, positives, 11, seed=3)
compare("empty batch", queries[:, :0], codes, positives[:0], 11)
compare("one row", queries, codes[:1], positives * 0, None)
compare("strides", queries.transpose(0, 1).contiguous().transpose(0, 1), codes.T.contiguous().T,
        positives.repeat(2)[::2] * 0 + positives, 11, seed=4)  # fmt: skip
shifted = torch.empty(9 * 5 + 1, dtype=torch.uint8)[1:].view(9, 5)
shifted.copy_(codes)
table = torch.randint(0, 9, (3, 14))[:, ::2].T[:2]
compare("strides of a table", queries, codes, positives, table)
compare("codes within a word", queries, shifted, positives, 11, seed=4)
compare("device numbers", queries, codes, positives, 11, seed=torch.tensor(-4),
        step=torch.tensor(2**32 - 1), chain=5)  # fmt: skip
compare("float16", queries.half(), codes, positives, 11, seed=4, allowed=2e-3)
compare("float64", queries.double(), codes, positives, 11, seed=4, allowed=0.0)
compare(
    "large logits", 3000 * queries, codes, positives, 300, temperature=0.5, seed=4, allowed=1e-2
)
queries = queries.clone()
queries[1, 0, 7] = float("nan")
compare("nan", queries, codes, positives, 11, seed=4)
# A share of keys with several tiles, and a second share: beyond what the small cases reach.
queries = torch.nn.functional.normalize(torch.randn(2, 1, 24), dim=-1)
compare("several shares", queries, bank(300, 24), torch.tensor([7]), 9001, seed=11)
compare("all of several shares", queries, bank(700, 24), torch.tensor([690]), None)


def outside(positives, negatives):
    queries = torch.randn(2, 3, 40, requires_grad=True)
    loss = bank_contrast(queries, codes, positives, negatives, temperature=1.0)
    return loss.detach().isnan()


# The reference raises; the kernel makes NaN of these samples, and of no other.
os.environ["COOPHASH_BACKEND"] = "triton"
found = outside(torch.tensor([0, 9, 2]), torch.tensor([[1, 2], [3, 4], [5, -1]]))
parity.record("rows outside", float((found != torch.tensor([False, True, True])).sum()), 0.0)
found = outside(torch.tensor([0, -1, 2]), torch.tensor([[1, 9], [3, 4], [5, 8]]))
parity.record("rows outside 2", float((found != torch.tensor([True, True, False])).sum()), 0.0)

parity.report()
