"""Chains as CUDA graphs, where there is a GPU: the numbers of the loop and of the CPU, on two
streams, inside another capture, and the loop where nothing can be captured.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from coophash import langevin, sampling  # noqa: E402

_spec = importlib.util.spec_from_file_location("chains", Path(__file__).with_name("chains.py"))
chains = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chains)
Descriptor, OPTIONS, both, inputs, warm = (
    chains.Descriptor, chains.OPTIONS, chains.both, chains.inputs, chains.warm
)  # fmt: skip

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu():
    sampling.clear_graphs()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield
    sampling.clear_graphs()


def on_gpu(seed=0, batch=5):
    return tuple(t.cuda() for t in inputs(seed, batch))


def graphs_kept():
    return sum(len(graphs) for graphs in sampling._graphs.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graph_equals_the_loop(gpu, dtype):
    model = Descriptor().cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        for call in range(4):
            x, labels = on_gpu(call)
            options = {"seed": call, "first_step": call, "step_size": [0.3, 0.2, 0.1, 0.1 * call]}
            ours, loop = both(model, x, labels, **options)
            torch.testing.assert_close(ours, loop, rtol=0, atol=1e-5)
            with torch.no_grad():
                model.head.weight.mul_(-1.1)
            torch.clear_autocast_cache()
    assert graphs_kept() == 1


def test_graph_equals_the_cpu(gpu):
    model = Descriptor()
    expected = langevin(model, *inputs(), **OPTIONS, seed=5)
    model.cuda()
    for _ in range(3):
        ours = langevin(model, *on_gpu(), **OPTIONS, seed=5)
        torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-3)
    assert graphs_kept() == 1


def test_replaced_parameters(gpu):
    model = Descriptor().cuda()
    warm(model, *on_gpu())
    keep = model.head.weight
    model.head.weight = torch.nn.Parameter(torch.randn(3, 4, device="cuda") * 3)
    for seed in range(3):
        ours, loop = both(model, *on_gpu(), seed=seed)
        torch.testing.assert_close(ours, loop, rtol=0, atol=1e-5)
    assert graphs_kept() == 1 and keep is not model.head.weight


def test_batch_norm_and_dropout(gpu):
    results = []
    for graph in (True, False):
        model = Descriptor(norm=True, dropout=0.5).cuda()
        torch.manual_seed(1)
        runs = [langevin(model, *on_gpu(i), **OPTIONS, seed=i, graph=graph) for i in range(4)]
        results.append([*runs, model.norm.running_mean, model.norm.num_batches_tracked])
    for ours, loop in zip(*results, strict=True):
        torch.testing.assert_close(ours, loop, rtol=0, atol=1e-4)


def test_two_streams_and_an_outer_capture(gpu):
    model = Descriptor().cuda()
    warm(model, *on_gpu())
    expected = [
        langevin(model, *on_gpu(i), **OPTIONS, return_energies=True, seed=i, graph=False)
        for i in range(6)
    ]
    data = [on_gpu(i) for i in range(6)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    found = []
    for i in range(6):
        with torch.cuda.stream(streams[i % 2]):
            found.append(langevin(model, *data[i], **OPTIONS, return_energies=True, seed=i,
                                  check_finite=False))  # fmt: skip
    torch.cuda.synchronize()
    for ours, loop in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, loop, rtol=0, atol=1e-5)
    outer = torch.cuda.CUDAGraph()
    x, labels = data[0]
    with torch.cuda.graph(outer):
        captured = langevin(model, x, labels, **OPTIONS, return_energies=True, seed=0)
    outer.replay()
    torch.testing.assert_close(captured, expected[0], rtol=0, atol=1e-5)


def test_what_cannot_be_captured_says_why_and_breaks_nothing():
    sampling.clear_graphs()

    def waits(x):
        return x.flatten(1).square().sum(1) * float(x.abs().max() > 0)

    def synchronizes(x):  # not an op, so nothing sees it before the capture, which it breaks
        torch.cuda.synchronize()
        return x.flatten(1).square().sum(1) + torch.rand(len(x), device="cuda")

    for energy in (waits, synchronizes):
        with pytest.warns(RuntimeWarning, match="step by step instead of as a CUDA graph"):
            for _ in range(2):
                langevin(energy, on_gpu()[0], **OPTIONS)
        torch.randn(3, device="cuda")  # the default generator still works
        langevin(energy, on_gpu()[0], **OPTIONS)
    model = Descriptor().cuda()
    warm(model, *on_gpu())
    assert graphs_kept() == 1
