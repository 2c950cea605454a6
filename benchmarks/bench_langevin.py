"""One Langevin step: coophash beside the eager line and torch.compile.

    pytest benchmarks/bench_langevin.py --benchmark-only

Each provider first passes a gate: those that draw coophash's stream must give the reference's
numbers, the others the right drift and standard normal noise. Bytes are what the step must move
through memory, counted from the code (kernels/README.md), so GB/s = bytes / time.
"""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from coophash.kernels import langevin_step, langevin_step_reference, philox_normal  # noqa: E402
from coophash.kernels._backend import triton_missing  # noqa: E402

GRAD_SCALE, NOISE_SCALE, LOW, HIGH = 0.05, 0.01, -1.0, 1.0
SHAPES = {"64x1x28x28": (64, 1, 28, 28), "256x3x32x32": (256, 3, 32, 32)}
GPU_SHAPES = SHAPES | {"1024x3x64x64": (1024, 3, 64, 64)}
# Steps between two looks at the clock on a GPU, where a launch returns before the work is done.
LAUNCHES = 50


def eager(x, grad, step):
    return (x - GRAD_SCALE * grad + NOISE_SCALE * torch.randn_like(x)).clamp_(LOW, HIGH)


def coophash(x, grad, step):
    return langevin_step(
        x, grad, grad_scale=GRAD_SCALE, noise_scale=NOISE_SCALE, seed=1, step=step,
        clamp=(LOW, HIGH),
    )  # fmt: skip


# provider: function, passes over x or its like in memory, draws coophash's stream
PROVIDERS = {
    "coophash": (coophash, 3, True),
    "eager": (eager, 13, False),
    "torch.compile": (eager, 3, False),
}


def gate(run, x, grad, ours: bool) -> None:
    """Refuse to time a wrong step."""
    moved = run(x, grad, 7).float().cpu()
    x, grad = x.float().cpu(), grad.float().cpu()
    if ours:
        noise = torch.from_numpy(philox_normal(x.numel(), seed=1, step=7)).view_as(x)
        expected = langevin_step_reference(x, grad, noise, GRAD_SCALE, NOISE_SCALE, LOW, HIGH)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-2 if run.bf16 else 1e-5)
        return
    free = (moved > LOW) & (moved < HIGH)
    noise = ((moved - (x - GRAD_SCALE * grad)) / NOISE_SCALE)[free]
    assert free.float().mean() > 0.5
    tolerance = 6 / math.sqrt(len(noise)) + (0.5 if run.bf16 else 0)
    assert abs(noise.mean()) < tolerance and abs(noise.std() - 1) < tolerance


class Run:
    """One provider on one device: called with (x, grad, step)."""

    def __init__(self, provider: str, dtype: torch.dtype) -> None:
        self.function, self.passes, self.ours = PROVIDERS[provider]
        if provider == "torch.compile":
            torch._dynamo.reset()
            self.function = torch.compile(self.function, fullgraph=True)
        self.bf16 = dtype == torch.bfloat16

    def __call__(self, x, grad, step):
        return self.function(x, grad, step)


def measure(benchmark, provider, shape, dtype, device) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator).mul_(1.8).sub_(0.9).to(device, dtype)
    grad = torch.randn(shape, generator=generator).to(device, dtype)
    run = Run(provider, dtype)
    with torch.no_grad():
        gate(run, x, grad, run.ours)
        launches = 1 if device == "cpu" else LAUNCHES

        def steps():
            for step in range(launches):
                run(x, grad, step)
            if device != "cpu":
                torch.cuda.synchronize()

        benchmark.pedantic(steps, rounds=50, iterations=1, warmup_rounds=5)
    benchmark.extra_info |= {
        "threads": torch.get_num_threads(),
        "steps_per_round": launches,
        "bytes_per_element": run.passes * x.element_size(),
    }
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.median / launches
        moved = run.passes * x.element_size() * x.numel()
        benchmark.extra_info |= {
            "us_per_step": round(seconds * 1e6, 1),
            "gb_per_s": round(moved / seconds / 1e9, 1),
        }


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.benchmark(group="langevin step, CPU, fp32")
def test_langevin_step(benchmark, provider, shape):
    benchmark.group += f", {shape}"
    measure(benchmark, provider, SHAPES[shape], torch.float32, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", GPU_SHAPES)
@pytest.mark.benchmark(group="langevin step, GPU")
def test_langevin_step_gpu(benchmark, provider, shape, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))
    benchmark.group += f", {dtype}, {shape}"
    measure(benchmark, provider, GPU_SHAPES[shape], getattr(torch, dtype), "cuda")
