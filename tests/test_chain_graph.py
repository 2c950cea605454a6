"""Chains as graphs: same numbers as the loop, nothing stale, and the loop where it must be.

On the CPU a tape of recorded ops stands in for CUDA graphs (tape.py); test_chain_gpu.py runs the
real ones where there is a GPU.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import importlib.util
import math
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coophash import langevin, sampling  # noqa: E402
from coophash._chain_device import CudaDevice  # noqa: E402
from coophash._chain_graph import ChainGraphs  # noqa: E402
from coophash._reach import Watcher  # noqa: E402


def _load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tape, chains = _load("tape"), _load("chains")
Descriptor, OPTIONS = chains.Descriptor, chains.OPTIONS
assert_same, both, inputs, warm = chains.assert_same, chains.both, chains.inputs, chains.warm

GLOBAL_SCALE = 1.0


class Counting:
    """An energy that counts how often Python runs it, in a place that is not looked at."""

    calls = 0

    def __init__(self, model):
        self.model = model

    def __call__(self, x, labels):
        Counting.calls += 1
        return self.model(x, labels)


@pytest.fixture
def device(monkeypatch):
    """The tape in the place of a GPU, for every chain of a test."""
    device = tape.TapeDevice()
    device.graphs = ChainGraphs(device, size=3)
    monkeypatch.setattr(sampling, "_graphs_of", lambda _: device.graphs)
    Counting.calls = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield device


def test_captured_at_the_second_call_and_replayed_from_then_on(device):
    model = Descriptor()
    energy = Counting(model)
    for call in range(5):
        assert_same(both(energy, *inputs(call), seed=call, first_step=3 * call, chain=call))
        assert len(device.graphs) == (call > 0)
    assert device.log.count("capture") == 1 and device.log.count("replay") == 4
    before = Counting.calls
    langevin(energy, *inputs(), **OPTIONS, return_energies=True)
    assert Counting.calls == before  # no Python in a replay


def test_what_may_change_between_replays(device):
    model = Descriptor()
    warm(model, *inputs())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    previous = None
    for call in range(3):
        options = {
            "seed": 2**64 - 1 - call,
            "step_size": [0.1 + 0.1 * call] * 4,
            "noise": lambda i, call=call: 1.0 + call + i,
        }
        pair = both(model, *inputs(call), **options)
        assert_same(pair)
        if previous is not None:
            assert (pair[0][0] - previous).abs().max() > 0.1
        previous = pair[0][0]
        energy = model(*inputs(call)).sum()
        optimizer.zero_grad()
        energy.backward()
        optimizer.step()  # in place: the graph reads the new weights
    assert device.log.count("capture") == 1


def test_numbers_on_the_device(device):
    model, (x, labels) = Descriptor(), inputs()
    seed, first = torch.tensor(7), torch.tensor([2])
    scales = {"grad_scale": torch.tensor(0.2), "noise_scale": torch.linspace(0.3, 0.0, 4)}
    for call in range(3):
        pair = both(model, x, labels, seed=seed, first_step=first, chain=1, **scales)
        assert_same(pair)
        expected = langevin(
            model, x, labels, **OPTIONS, graph=False, seed=7 + call, first_step=2 + call, chain=1,
            grad_scale=0.2 + call, noise_scale=[0.3, 0.2, 0.1, 0.0],
        )  # fmt: skip
        torch.testing.assert_close(pair[0][0], expected)
        seed += 1
        first += 1
        scales["grad_scale"] += 1
    assert device.log.count("capture") == 1
    # The same graph takes numbers from the host again.
    assert_same(both(model, x, labels, seed=3))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3}, {"clamp": None}, {"grad_clip": 0.1}, {"reference_std": 1.0}, {"noise": 0.0},
        {"return_energies": False},
    ],
)  # fmt: skip
def test_other_settings_are_other_graphs(device, change):
    model = Descriptor()
    warm(model, *inputs())
    for seed in range(3):
        options = OPTIONS | {"return_energies": True} | change
        ours = langevin(model, *inputs(), **options, seed=seed)
        loop = langevin(model, *inputs(), **options, seed=seed, graph=False)
        for a, b in zip(*((r,) if torch.is_tensor(r) else r for r in (ours, loop)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert len(device.graphs) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_and_shapes(device, dtype):
    def energy(x):
        return (2.0 * (x.float() - 1.0) ** 2).flatten(1).sum(1)

    for batch in (5, 5, 3, 5, 3):
        x = inputs(batch=batch)[0].to(dtype)
        pair = both(energy, x)
        assert pair[0][0].dtype == dtype
        assert_same(pair)
    assert device.log.count("capture") == 2


def test_noise_of_the_host_is_not_captured(device, monkeypatch):
    cuda, x = CudaDevice(torch.device("cuda", 0)), torch.zeros(2, 3)
    monkeypatch.setenv("COOPHASH_BACKEND", "reference")
    assert "drawn on the host" in cuda.refusal(x, True) and cuda.refusal(x, False) is None
    monkeypatch.delenv("COOPHASH_BACKEND")
    monkeypatch.setattr("coophash.kernels._backend.has_triton", lambda: True)
    assert "drawn on the host" in cuda.refusal(x.double(), True)
    assert cuda.refusal(x, True) is None and cuda.refusal(x.double(), False) is None
    monkeypatch.setattr(device, "refusal", cuda.refusal)
    with pytest.warns(RuntimeWarning, match="step by step .*: noise is drawn on the host") as seen:
        langevin(lambda x: x.square().sum(1), x.double(), steps=2)
    assert seen[0].filename == __file__ and device.log == []


def test_results_are_the_callers_own(device):
    model = Descriptor()
    warm(model, *inputs())
    first = langevin(model, *inputs(), **OPTIONS, return_energies=True, seed=1)
    copies = [t.clone() for t in first]
    langevin(model, *inputs(3), **OPTIONS, return_energies=True, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, copies, strict=True))
    x = inputs()[0]
    samples = langevin(model, x, inputs()[1], **OPTIONS, return_energies=True)[0]
    assert samples.data_ptr() != x.data_ptr()


def test_replaced_parameters_are_seen_and_their_graph_is_freed(device):
    model = Descriptor()
    warm(model, *inputs())
    keep = model.head.weight  # so that its memory is not used again
    model.head.weight = torch.nn.Parameter(torch.randn(3, 4) * 3)
    for seed in range(3):
        assert_same(both(model, *inputs(), seed=seed))
    assert len(device.graphs) == 1 and device.log.count("capture") == 2
    model.load_state_dict(Descriptor().state_dict())  # in place: the graph stays
    model.to(torch.float32)
    assert_same(both(model, *inputs()))
    assert device.log.count("capture") == 2 and keep is not model.head.weight


def change_attribute(model):
    model.temperature = 5.0


def change_mode(model):
    model.drop.p = 1.0
    model.train(not model.training)


def change_layer(model):
    model.norm = torch.nn.Softsign()


def change_hook(model):
    model.head.register_forward_hook(lambda module, args, out: out * 3)


def change_global(model):
    global GLOBAL_SCALE
    GLOBAL_SCALE = 4.0


@pytest.mark.parametrize(
    "change", [change_attribute, change_mode, change_layer, change_hook, change_global]
)
def test_settings_in_python_are_never_stale(device, monkeypatch, change):
    monkeypatch.setitem(globals(), "GLOBAL_SCALE", 1.0)
    model = Descriptor().eval()

    def energy(x, labels):
        return model(x, labels) * GLOBAL_SCALE

    warm(energy, *inputs())
    before = langevin(energy, *inputs(), **OPTIONS)
    change(model)
    for _ in range(3):
        torch.manual_seed(3)
        ours = langevin(energy, *inputs(), **OPTIONS, return_energies=True)
        torch.manual_seed(3)
        assert_same((ours, langevin(energy, *inputs(), **OPTIONS, return_energies=True,
                                    graph=False)))  # fmt: skip
    assert not torch.equal(before, ours[0])


def test_a_function_made_anew_at_each_call_is_the_same_energy(device):
    model = Descriptor()
    for call in range(4):
        scale = 2.0
        assert_same(both(lambda x, c, scale=scale: model(x, c) * scale, *inputs(), seed=call))
        assert_same(both(model.energy, *inputs(), seed=call))
    assert device.log.count("capture") == 2


def test_energies_that_cannot_be_hashed_or_referred_to_weakly(device):
    @dataclasses.dataclass
    class Unhashable:
        scale: float

        def __call__(self, x, labels):
            return x.flatten(1).square().sum(1) * self.scale

    energy = Unhashable(1.0)
    for scale in (1.0, 1.0, 3.0, 3.0, 1.0):
        energy.scale = scale
        assert_same(both(energy, *inputs()))
    assert len(device.graphs) == 2


@pytest.mark.parametrize("kind", ["slots", "array", "list", "deque", "partial", "nested"])
def test_numbers_wherever_they_are_kept(device, kind):
    class Slotted:
        __slots__ = ("scale",)

        def __call__(self, x, labels):
            return x.flatten(1).square().sum(1) * self.scale

    def scaled(x, labels, held=None):
        return x.flatten(1).square().sum(1) * float(held[0])

    slotted, array, numbers, queue = Slotted(), np.ones(3), [1.0], collections.deque([1.0])
    for scale in (1.0, 1.0, 3.0, 3.0, 1.0):
        slotted.scale = array[0] = numbers[0] = queue[0] = scale
        energy = {
            "slots": slotted,
            "array": lambda x, c: scaled(x, c, array),
            "list": lambda x, c: scaled(x, c, numbers),
            "deque": functools.partial(scaled, held=queue),
            "partial": functools.partial(scaled, held=(scale,)),
            "nested": types.MethodType(Slotted.__call__, types.SimpleNamespace(scale=scale)),
        }[kind]
        assert_same(both(energy, *inputs()))
    assert "replay" in device.log


def test_a_large_array(device):
    table = np.ones(100_000)

    def energy(x, labels):
        return x.flatten(1).square().sum(1) * float(table[0])

    refused(device, energy, "a NumPy array of 800,000 bytes")


def test_a_tensor_on_another_device_would_be_frozen():
    held = torch.tensor(2.0)
    with Watcher(torch.device("cuda"), [held], []) as watcher:
        held * 3
    assert "on cpu, whose value it would freeze" in watcher.reason


def test_a_closure_with_another_number_is_another_energy(device):
    model = Descriptor()
    for scale in (1.0, 1.0, 3.0, 3.0, 1.0):
        assert_same(both(lambda x, c, scale=scale: model(x, c) * scale, *inputs()))


def test_batch_norm_and_dropout_in_training_mode(device):
    """Warming up and capturing leave no trace: statistics and random numbers as by the loop."""
    results = []
    for graph in (True, False):
        model = Descriptor(norm=True, dropout=0.5)
        torch.manual_seed(1)
        runs = [langevin(model, *inputs(i), **OPTIONS, seed=i, graph=graph) for i in range(4)]
        results.append([*runs, model.norm.running_mean, model.norm.num_batches_tracked])
    assert "replay" in device.log
    for ours, loop in zip(*results, strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-5, atol=1e-5)


def test_spectral_normalisation_moves_between_replays(device):
    from coophash import CoopHash, spectral

    model = CoopHash(8, 3, (1, 8, 8), base_channels=2, features=8, spectral_norm="both")
    descriptor = model.descriptor.train()

    def energy(x, labels):  # by autograd: the way by hand is another one on a GPU
        return descriptor(x, labels)

    warm(energy, *inputs())
    for call in range(3):
        with torch.no_grad():  # an optimiser's step, and the one of the power iteration
            for parameter in descriptor.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        spectral.advance(descriptor)
        assert_same(both(energy, *inputs(call), seed=call))
    assert device.log.count("capture") == 1


def test_a_counter_on_the_device_counts_replays_alone(device):
    class Ticking(Descriptor):
        def __init__(self):
            super().__init__()
            self.ticks = torch.zeros(())  # no buffer

        def forward(self, x, labels):
            self.ticks += 1
            return super().forward(x, labels)

    model = Ticking()
    for call in range(1, 5):
        langevin(model, *inputs(), **OPTIONS)
        assert model.ticks == 4 * call
    assert "replay" in device.log


def test_autocast_sees_new_weights(device):
    model = Descriptor()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warm(model, *inputs())
        assert_same(both(model, *inputs()))
        with torch.no_grad():
            model.head.weight.mul_(-3)
        torch.clear_autocast_cache()
        assert_same(both(model, *inputs()))
    assert device.log.count("capture") == 1
    langevin(model, *inputs(), **OPTIONS, return_energies=True)  # outside: another graph
    assert_same(both(model, *inputs()))
    assert device.log.count("capture") == 2 and torch.is_autocast_cache_enabled()


def refused(device, energy, reason, **options):
    expected = f"step by step instead of as a CUDA graph: .*{reason}"
    with pytest.warns(RuntimeWarning, match=expected) as said:
        warm(energy, *inputs(), **options)
    assert [Path(warning.filename).name for warning in said] == ["chains.py"]
    for seed in range(3):  # said once, and right
        assert_same(both(energy, *inputs(), seed=seed, **options))
    assert len(device.graphs) == 0


def test_hidden_tensors_are_not_captured(device):
    hidden = types.ModuleType("hidden")
    hidden.weight = torch.tensor([1.0, 2.0, 3.0])

    def energy(x, labels):
        return x.flatten(1).square().sum(1) * hidden.weight[labels]

    refused(device, energy, r"reads a tensor of shape \(3,\) on cpu that was not found")
    hidden.weight = hidden.weight * 5  # what a graph would have missed
    assert_same(both(energy, *inputs()))


def test_an_energy_that_waits_for_the_device(device):
    def energy(x, labels):
        return x.flatten(1).square().sum(1) * (1.0 if x.abs().max().item() > 1 else 2.0)

    refused(device, energy, "_local_scalar_dense.* waits for the device")


def test_an_energy_whose_shapes_depend_on_values(device):
    def energy(x, labels):
        return x.flatten(1).square().sum(1) + x[x > 0].sum() * 0

    refused(device, energy, "waits for the device")


def test_too_much_to_look_at(device):
    heap = [object() for _ in range(30_000)]

    def energy(x, labels):
        return x.flatten(1).square().sum(1) * len(heap)

    refused(device, energy, "more than 20,000 objects")


def test_a_capture_that_fails(device):
    device.fail = RuntimeError("operation not permitted when stream is capturing\nmore")
    model = Descriptor()
    refused(device, model, "RuntimeError: operation not permitted when stream is capturing")
    assert device.log.count("capture") == 1  # not tried again


def test_the_first_of_several_errors_is_named_and_not_the_callers(device):
    def capture(call):
        try:
            raise ValueError("the cause")
        except ValueError:
            raise RuntimeError("the capture is broken")  # noqa: B904

    device.capture = capture
    try:
        raise KeyError("what the caller handles")
    except KeyError:
        refused(device, Descriptor(), "ValueError: the cause")


def test_an_error_of_the_energy_is_raised_as_it_is(device):
    def energy(x, labels):
        if broken:
            raise LookupError("no such class")
        return x.flatten(1).square().sum(1)

    broken = False
    langevin(energy, *inputs(), **OPTIONS)
    broken = True
    with pytest.raises(LookupError, match="no such class"):
        langevin(energy, *inputs(), **OPTIONS)


def test_where_no_graph_may_be_used(device):
    model, (x, labels) = Descriptor(), inputs()
    warm(model, x, labels)
    replays = device.log.count("replay")
    langevin(model, x, labels, **OPTIONS, return_energies=True, graph=False)
    device.capturing = True  # within somebody's capture
    langevin(model, x, labels, **OPTIONS, return_energies=True)
    device.capturing = False
    with tape.Recorder() as watched:  # somebody looks at the ops
        langevin(model, x, labels, **OPTIONS, return_energies=True)
    assert watched.ops
    langevin(model, x, labels, **OPTIONS | {"steps": 0})
    assert device.log.count("replay") == replays


def test_the_graphs_are_few_and_can_be_freed(device):
    model = Descriptor()
    for batch in range(2, 9):
        warm(model, *inputs(batch=batch))
    assert len(device.graphs) == 3
    assert [entry[0] for entry in device.log if isinstance(entry, tuple)].count("finish") == 4
    assert_same(both(model, *inputs(batch=8)))
    device.graphs.clear()
    assert len(device.graphs) == 0
    assert_same(both(model, *inputs(batch=8)))


def test_a_graph_goes_with_its_model(device):
    model = Descriptor()
    warm(model, *inputs())
    del model
    gc.collect()
    other = Descriptor()
    langevin(other, *inputs(), **OPTIONS)
    langevin(other, *inputs(), **OPTIONS)
    assert len(device.graphs) == 1


def test_replays_wait_for_the_one_before(device):
    model = Descriptor()
    warm(model, *inputs())
    del device.log[:]
    for _ in range(3):
        langevin(model, *inputs(), **OPTIONS, return_energies=True)
    marks = [3 * i for i in range(1, 4)]
    assert device.log[::3][1:] == [("wait", mark) for mark in marks[:-1]]
    assert device.log[1::3] == ["replay"] * 3


def test_threads(device):
    model = Descriptor()
    warm(model, *inputs())
    expected = [langevin(model, *inputs(i), **OPTIONS, return_energies=True, seed=i, graph=False)
                for i in range(8)]  # fmt: skip
    failures = []

    def work(i):
        for _ in range(5):
            ours = langevin(model, *inputs(i), **OPTIONS, return_energies=True, seed=i)
            if not torch.allclose(ours[0], expected[i][0], atol=1e-6):
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and device.log.count("capture") == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_mode_does_not_matter(device, mode):
    model = Descriptor()
    with mode():
        for seed in range(3):
            x, labels = inputs(seed)
            assert_same(both(model, x.clone(), labels.clone(), seed=seed))
    assert "replay" in device.log


def test_divergence_is_found_after_a_replay(device):
    def energy(x):
        return x.flatten(1).square().sum(1)

    x = inputs()[0]
    options = {"steps": 60, "noise": 0.0}
    for scale in (0.1, 0.1, 0.1):
        langevin(energy, x, **options, grad_scale=scale)
    with pytest.raises(FloatingPointError, match=r"after step \d+ of 60, .* scaled by 100"):
        langevin(energy, x, **options, grad_scale=100.0)
    assert not langevin(energy, x, **options, grad_scale=100.0, check_finite=False).isfinite().all()
    with pytest.raises(FloatingPointError, match="before the first step"):
        langevin(energy, x * math.nan, **options, grad_scale=0.1)
    assert "replay" in device.log
