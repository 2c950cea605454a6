"""UCCH's cross-modal ranking loss, forward and backward, beside the same in eager PyTorch.

    pytest benchmarks/bench_ranking.py --benchmark-only

From the similarity matrix to its gradient. Every provider first gives the reference's losses and
gradients in float64. Bytes are counted from the code (kernels/README.md).
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from coophash.kernels import ranking_loss, ranking_loss_reference  # noqa: E402
from coophash.kernels._backend import triton_missing  # noqa: E402

MARGIN, SHIFT = 0.2, 0.1
BATCHES = [256, 1024]
GPU_BATCHES = [256, 1024, 8192]


def eager(m):
    """Eq. 14 as anyone would write it."""
    places = torch.arange(len(m), device=m.device)
    # Not m.diagonal(): torch 2.13 compiles that, together with `where`, to a wrong gradient.
    own, loss = m[places, places], 0.0
    for dim, limit in ((1, own[:, None]), (0, own[None, :])):
        s = torch.where(m >= limit - MARGIN, m, m - SHIFT)
        loss = loss + (MARGIN + s.logsumexp(dim) - own).mean()
    return loss


def coophash(m):
    return ranking_loss(m, margin=MARGIN, shift=SHIFT)


PROVIDERS = {"coophash": coophash, "eager": eager, "torch.compile": eager}


def make(provider):
    if provider != "torch.compile":
        return PROVIDERS[provider]
    torch._dynamo.reset()
    return torch.compile(eager, fullgraph=True)


def step(function, m):
    return torch.autograd.grad(function(m), m)[0]


def matrix(batch, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(batch, 128, generator=generator) for _ in range(2))
    x, y = (torch.nn.functional.normalize(h, dim=1) for h in (x, y + 0.5 * x))
    return (x @ y.T).to(device, dtype).requires_grad_()


def gate(function, m):
    """Refuse to time wrong losses or gradients."""
    double = m.detach().double().cpu().requires_grad_()
    expected = ranking_loss_reference(double, MARGIN, SHIFT).mean(1).sum()
    half = m.dtype != torch.float32
    loss = function(m).detach().double().cpu()
    torch.testing.assert_close(loss, expected.detach(), rtol=0.01 if half else 1e-5, atol=0)
    found, slope = step(function, m).double().cpu(), torch.autograd.grad(expected, double)[0]
    # A similarity on the very edge of the margin may fall to either side.
    wrong = (found - slope).abs() > (0.02 if half else 1e-5) * slope.abs() + 1e-6 / len(m)
    assert wrong.sum() <= (0.01 * wrong.numel() if half else 2)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.benchmark(group="ranking loss, forward and backward, CPU")
def test_ranking(benchmark, provider, batch):
    benchmark.group += f", {batch}"
    function, m = make(provider), matrix(batch)
    gate(function, m)
    benchmark.pedantic(lambda: step(function, m), rounds=50, warmup_rounds=5)
    benchmark.extra_info["threads"] = torch.get_num_threads()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", GPU_BATCHES)
@pytest.mark.benchmark(group="ranking loss, forward and backward, GPU")
def test_ranking_gpu(gpu_turns, batch, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch sees no CUDA device")
    if triton_missing("cuda"):
        pytest.skip(triton_missing("cuda"))
    m = matrix(batch, "cuda", getattr(torch, dtype))
    gate(coophash, m)
    compiled = make("torch.compile")
    gpu_turns(
        lambda: step(coophash, m),
        {"eager": lambda: step(eager, m), "torch.compile": lambda: step(compiled, m)},
        moved=3 * m.numel() * m.element_size(),
    )
