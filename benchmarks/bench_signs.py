"""Packing signs: coophash beside plain PyTorch, eager and compiled.

    pytest benchmarks/bench_signs.py --benchmark-only

Each provider first passes a gate against NumPy. Bytes: the outputs read once, an eighth of their
number written. torch.compile is left out on the CPU, where the code that it makes of the eager
lines takes 14 times as long as they do.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coophash.kernels import sign_pack  # noqa: E402
from coophash.kernels._backend import triton_missing  # noqa: E402

CPU_SIZES = [(512, 48), (10_000, 64), (100_000, 128)]
GPU_SIZES = [(512, 48), (100_000, 64), (10_000_000, 64), (10_000_000, 100), (1_000_000, 1024)]


def eager(outputs):
    """What one writes without coophash, with its look for NaN left on the device."""
    rows, bits = outputs.shape
    bad = outputs.isnan().any()
    ones = torch.nn.functional.pad((outputs >= 0).to(torch.uint8), (0, -bits % 8))
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=outputs.device)
    return (ones.view(rows, -1, 8) * weights).sum(2, dtype=torch.uint8), bad


def measure(benchmark, gpu_turns, size, dtype, device) -> None:
    rows, bits = size
    benchmark.group += f", {size}"
    generator = torch.Generator(device).manual_seed(0)
    outputs = torch.randn(rows, bits, generator=generator, device=device).to(dtype)
    flag = torch.zeros(1, dtype=torch.int32, device=device)
    calls = {"ours": lambda x: sign_pack(x, nan_flag=flag), "eager": eager}
    if device == "cuda":
        torch._dynamo.reset()
        calls["torch.compile"] = torch.compile(eager)
    some = outputs[: 1 << 14].double().cpu().numpy()
    expected = np.packbits(some >= 0, axis=1, bitorder="little")
    for name, call in calls.items():
        got = call(outputs)
        codes = got[0] if isinstance(got, tuple) else got
        assert np.array_equal(codes[: 1 << 14].cpu(), expected), f"{name} packs wrong codes"
    moved = outputs.numel() * outputs.element_size() + rows * ((bits + 7) // 8)
    bound = {name: functools.partial(call, outputs) for name, call in calls.items()}
    gpu_turns(bound.pop("ours"), bound, moved=moved, device=device)


@pytest.mark.parametrize("size", CPU_SIZES, ids=str)
@pytest.mark.benchmark(group="sign and pack, CPU, fp32")
def test_sign_pack(benchmark, gpu_turns, size):
    measure(benchmark, gpu_turns, size, torch.float32, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("size", GPU_SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.benchmark(group="sign and pack, GPU")
def test_sign_pack_gpu(benchmark, gpu_turns, dtype, size):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))
    benchmark.group += f", {dtype}"
    measure(benchmark, gpu_turns, size, getattr(torch, dtype), "cuda")
