"""Parity of langevin_step and of the random stream: see parity.py."""

from __future__ import annotations

import numpy as np
import parity
import torch
import triton
import triton.language as tl

from coophash.kernels import langevin_step
from coophash.kernels.philox import box_muller, philox4x32
from coophash.kernels.philox_triton import philox_normals


def compare(case, x, grad, allowed=1e-6, out=None, **options):
    def moved():
        result = langevin_step(
            x, grad, out=None if out is None else out(x), grad_scale=0.5, **options
        )
        assert result.dtype == x.dtype and result.shape == x.shape, case
        if out is None:
            assert result.stride() == torch.empty_like(x).stride(), case
        return result

    parity.compare(case, moved, allowed)


def tensors(shape, dtype=torch.float32):
    x, grad, noise = (torch.randn(shape) for _ in range(3))
    return x.to(dtype), grad.to(dtype), noise


torch.manual_seed(0)
everything = {"clamp": (-0.9, 1.1), "grad_clip": 0.7, "reference_std": 2.0}
for n in (1, 63, 500, 1000, 4097, 70_001):
    for dtype in (torch.float32, torch.bfloat16):
        x, grad, noise = tensors(n, dtype)
        name = f"{n} {str(dtype).removeprefix('torch.')}"
        large = {"seed": 2**64 - 5, "step": 2**32 - 1, "chain": 2**31 + 3}
        compare(f"{name} drawn", x, grad, noise_scale=1.0, **large)
        compare(f"{name} given", x, grad, noise_scale=0.1, noise=noise, **everything)
        compare(f"{name} none", x, grad, **everything)

x, grad, noise = tensors((4, 3, 8, 6))
last = torch.channels_last
layouts = {
    "channels_last": (x.to(memory_format=last), grad, noise),
    "all channels_last": tuple(t.to(memory_format=last) for t in (x, grad, noise)),
    "sliced": (x[:, :, ::2, 1:], grad[:, :, 1::2, :-1], noise[:, :, ::2, :-1]),
    "transposed": (x.transpose(0, 3), grad.reshape(6, 3, 8, 4), noise.reshape(6, 3, 8, 4)),
    "expanded": (x, grad[:1, :1].expand_as(x), noise[:, :1].expand_as(x)),
    "scalar": (x[0, 0, 0, 0], grad[0, 0, 0, 0], noise[0, 0, 0, 0]),
    "empty": (x[:0], grad[:0], noise[:0]),
}
x, grad, noise = tensors((2, 3, 4, 3, 2, 6))
layouts["six dimensions"] = (x[..., ::2], grad.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)[..., ::2],
                             noise.flip(0)[..., ::2])  # fmt: skip
layouts["six that do not collapse"] = tuple(
    torch.randn(4, 6, 4, 6, 4, 6)[::2, ::2, ::2, ::2, ::2, ::2] for _ in range(3)
)
for name, (x, grad, noise) in layouts.items():
    compare(f"{name} drawn", x, grad, noise_scale=0.3, seed=7)
    compare(f"{name} given", x, grad, noise_scale=0.3, noise=noise)

x, grad, _ = tensors((5, 40))
compare("out", x, grad, noise_scale=0.3, seed=7, out=torch.empty_like)
compare("out transposed", x, grad, noise_scale=0.3, seed=7, out=lambda x: torch.empty(40, 5).t())
compare("mixed dtypes", x, grad.bfloat16(), noise_scale=0.3, seed=7)
compare("float16", x.half(), grad.half(), allowed=4e-3, noise_scale=0.3, seed=7)
compare("float64", x.double(), grad.double(), allowed=0.0, noise_scale=0.3, seed=7)

base = torch.randn(101)


def shifted(x):
    fresh = base.clone()
    return fresh[1:]


compare("out of other memory", base[:-1], torch.randn(100), noise_scale=0.3, out=shifted)


def in_memory_of_x(case):
    fresh, grad = torch.linspace(-1, 1, 101), torch.linspace(2, 3, 100)
    x = fresh[:-1]
    expected = x - 0.5 * grad
    out = x if case == "in place" else fresh[1:]
    langevin_step(x, grad, grad_scale=0.5, out=out)
    return (out - expected).abs().max().item()


for case in ("in place", "shifted"):
    for backend, difference in zip(
        ("reference", "triton"), parity.by_both(lambda case=case: in_memory_of_x(case)), strict=True
    ):
        parity.record(f"{case} {backend}", difference, 1e-6)

x, grad, _ = tensors(900)
compare(
    "device numbers", x, grad, noise_scale=torch.tensor(0.3), seed=torch.tensor(-4),
    step=torch.tensor(2**32 - 1), chain=5,
)  # fmt: skip
x[3], grad[4] = float("nan"), float("nan")
compare("nan", x, grad, noise_scale=0.1, seed=1, **everything)


# Statistics, in the scale of one element: a sum over a sample divided by its elements.
for shape in ((5, 3, 8, 6), (3, 784), (7,), (2, 70_001), (40, 5), (1, 2, 3, 4, 5)):
    for dtype in (torch.float32, torch.bfloat16):
        x, grad, noise = tensors(shape, dtype)
        for kind in ("drawn", "given", "in place", "plain"):
            options = {} if kind == "plain" else {"noise_scale": 0.3, "seed": 11, "step": 5}
            options |= {"noise": noise} if kind == "given" else {}
            options |= {} if kind == "plain" else everything

            def statistics(kind=kind, options=options, x=x, grad=grad):
                fresh, elements = x.clone(), x[0].numel()
                moved, found = langevin_step(
                    fresh, grad, grad_scale=0.5, out=fresh if kind == "in place" else None,
                    statistics=True, **options,
                )  # fmt: skip
                assert torch.equal(moved, langevin_step(x, grad, grad_scale=0.5, **options))
                update = found.update_square
                if x.dtype == torch.bfloat16:  # of x' as stored, which the interpreter cuts off
                    update = update - (moved.float() - x.float()).reshape(len(x), -1).square().sum(
                        1
                    )
                sums = found.grad_square / elements, update / elements
                return moved, *sums, found.clamped, found.clipped

            name = f"statistics {tuple(shape)} {str(dtype).removeprefix('torch.')} {kind}"
            parity.compare(name, statistics, 2e-6 if dtype == torch.float32 else 4e-6)
x, grad, _ = tensors((6, 4, 10))
sliced = (x[:, ::2, 1:], grad.transpose(0, 1).reshape(6, 10, 4).transpose(1, 2)[:, ::2, 1:])
for name, (a, b) in {"sliced": sliced, "empty": (x[:0], grad[:0]), "no elements":
                     (x[:, :0], grad[:, :0])}.items():  # fmt: skip

    def of_layout(a=a, b=b):
        moved, found = langevin_step(a, b, grad_scale=0.5, noise_scale=0.3, statistics=True,
                                     **everything)  # fmt: skip
        return moved, *found

    parity.compare(f"statistics {name}", of_layout, 2e-5)


@triton.jit
def draw(
    out_ptr, start_ptr, seed, step, chain,
    BLOCK: tl.constexpr, RUN: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    # From memory: the interpreter makes 32 bits of an integer argument below 2**32.
    normals = philox_normals(tl.load(start_ptr), seed, step, chain, BLOCK, RUN, ALIGNED)
    tl.store(out_ptr + tl.arange(0, BLOCK), normals)


# Counters that no tensor of a test reaches: beyond 2**32 elements.
words = [np.uint64(word) for word in (2**32 - 2, 3)]
for run in (4, 8):
    # The last two are no multiples of the block of 64; one of them has 2**32 within it.
    for start in (0, 2**31, 2**32 - 64, 5 * 2**32 + 128, 2**32 - 24, 7 * 2**32 + 8):
        out = torch.empty(64)
        draw[(1,)](out, torch.tensor([start]), 2**63 - 9, 2**32 - 2, 3, 64, run, start % 64 == 0)
        first = np.arange(0, 64, 4, dtype=np.uint64) + np.uint64(start)
        w0, w1, w2, w3 = philox4x32(
            first & np.uint64(2**32 - 1), first >> np.uint64(32), *words, 2**63 - 9
        )
        expected = np.stack(box_muller(w0, w1) + box_muller(w2, w3), axis=1).reshape(-1)
        worst = np.abs(out.numpy() - expected).max().item()
        parity.record(f"start {start} run {run}", worst, 1e-6)

parity.report()
