"""The descriptor's gradient by hand: that of autograd, on every way that it can run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

import coophash as ch  # noqa: E402
from coophash import _descriptor_gradient as by_hand  # noqa: E402
from coophash._chain_energy import StepArguments, by_autograd  # noqa: E402

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 9, 13), (1, 64, 33)]


def setting(shape, batch=5, dtype=torch.float64):
    """In double precision: a sign that flips by rounding would change a gradient for good."""
    model = ch.CoopHash(bits=8, classes=4, image_shape=shape, base_channels=4, features=24)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, *shape, generator=generator, dtype=dtype).mul_(2).sub_(1)
    return model.descriptor.to(dtype), x, torch.arange(batch) % 4


def assert_same(found, expected, rtol=1e-9):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=rtol * scale)


STEP = StepArguments(None, None, 3.0, 0.1, -1.0, 1.0, 0.5, 0.2, 7, 3, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fused", [False, True])
def test_equals_autograd(monkeypatch, shape, fused):
    """fused: the way of the kernels, by their references, as they run on float64."""
    monkeypatch.setattr(by_hand, "fuses", lambda x: fused)
    descriptor, x, labels = setting(shape)
    parts = descriptor.base, descriptor.energy_head, x, labels
    expected = by_autograd(lambda x: descriptor(x, labels), x)
    with torch.no_grad():
        assert_same(by_hand.energy_and_grad(*parts), expected)
        if fused:
            moved = torch.ops.coophash.langevin_step(x, expected[1], None, *STEP)
            assert_same(by_hand.energy_and_update(*parts, STEP), (expected[0], moved))


@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
def test_layouts(layout):
    descriptor, x, labels = setting((3, 12, 12))
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    else:
        x = torch.rand(10, 3, 12, 24, dtype=torch.float64)[::2, :, :, ::2]
    expected = by_autograd(lambda x: descriptor(x, labels), x)
    assert_same(descriptor.energy_and_grad(x, labels), expected)


@pytest.mark.parametrize("kernel, pad", [(1, 0), (2, 0), (3, 0), (3, 1), (4, 1), (5, 2), (7, 3)])
@pytest.mark.parametrize("size", [7, 8])
def test_strided_convolution(kernel, pad, size):
    x = torch.randn(2, 3, size, size + 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    y = F.conv2d(x, weight, stride=2, padding=pad)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, grad)
    found = by_hand._strided_conv_input_grad(x.shape, weight, grad, pad)
    torch.testing.assert_close(found, expected)


def test_the_descriptor_offers_it_without_a_graph_or_weight_gradients():
    descriptor, x, labels = setting((1, 28, 28), dtype=torch.float32)
    assert by_hand.applies(descriptor.base, descriptor.energy_head, x)
    energies, grad = descriptor.energy_and_grad(x, labels)
    assert energies.shape == (5,) and grad.shape == x.shape and grad.is_contiguous()
    assert not energies.requires_grad and not grad.requires_grad
    assert all(p.grad is None for p in descriptor.parameters())
    expected = by_autograd(lambda x: descriptor(x, labels), x)
    torch.testing.assert_close(energies, expected[0])
    # But for signs that flip by rounding, which move few pixels, and each a little.
    difference = (grad - expected[1]).abs() / expected[1].abs().max()
    assert difference.median() < 1e-6 and difference.max() < 0.1


def test_autocast():
    descriptor, x, labels = setting((3, 16, 16), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        energies, grad = descriptor.energy_and_grad(x, labels)
        expected = by_autograd(lambda x: descriptor(x, labels), x)
    torch.testing.assert_close(energies.float(), expected[0].float(), rtol=0.05, atol=0.02)
    cosine = F.cosine_similarity(grad.float().flatten(), expected[1].flatten(), dim=0)
    assert cosine > 0.99


def test_the_chain_takes_it():
    descriptor, x, labels = setting((1, 12, 12))
    options = {"steps": 4, "step_size": 2.0, "clamp": (-1, 1), "seed": 3, "return_energies": True}
    ours = ch.langevin(descriptor, x, labels, **options)
    plain = ch.langevin(lambda x, c: descriptor(x, c), x, labels, **options)
    torch.testing.assert_close(ours, plain)
    assert (ours[0] - x).abs().mean() > 1e-3


PARITY = """
import json, os, torch
import coophash as ch
from coophash import _descriptor_gradient as by_hand
from coophash._chain_energy import StepArguments, by_autograd

found = {}
for shape in ((1, 8, 8), (3, 9, 13)):
    for cast in (False, True):
        model = ch.CoopHash(bits=8, classes=4, image_shape=shape, base_channels=8, features=24)
        descriptor, labels = model.descriptor, torch.arange(3)
        step = StepArguments(None, None, 3.0, 0.1, -1.0, 1.0, 0.5, 0.2, 7, 3, 1)
        x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            os.environ["COOPHASH_BACKEND"] = "triton"
            assert by_hand.fuses(x)
            energies, grad = descriptor.energy_and_grad(x, labels)
            again, moved = descriptor.energy_and_update(x, labels, step)
            os.environ["COOPHASH_BACKEND"] = "reference"
            assert descriptor.energy_and_update(x, labels, step) is NotImplemented
            expected = by_autograd(lambda x: descriptor(x, labels), x)
            update = torch.ops.coophash.langevin_step(x, expected[1], None, *step)
        assert torch.equal(energies, again)
        pairs = zip((energies, grad, moved), (*expected, update))
        found[f"{shape} {cast}"] = [((a - b).abs().max() / b.abs().max()).item() for a, b in pairs]
print(json.dumps(found))
"""


@pytest.mark.interpreter
def test_kernels_in_the_interpreter():
    """The pieces put together, with their kernels instead of their references."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "COOPHASH_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", PARITY], capture_output=True, text=True, check=False,
        env=environment | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 4
    for case, differences in found.items():
        assert max(differences) < (0.1 if case.endswith("True") else 1e-5), (case, differences)


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(descriptor):
    descriptor.base.convolutions[0].register_forward_hook(lambda m, args, out: 2 * out)


def replaced(descriptor):
    old = descriptor.base.dense
    descriptor.base.dense = Doubled(old.in_features, old.out_features).double()
    descriptor.base.dense.load_state_dict(old.state_dict())


def another_base(descriptor):
    descriptor.base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 24)).double()


@pytest.mark.parametrize("change", [hooked, replaced, another_base])
def test_a_changed_descriptor_is_differentiated_by_autograd(change):
    descriptor, x, labels = setting((1, 12, 12))
    before = descriptor.energy_and_grad(x, labels)
    change(descriptor)
    assert not by_hand.applies(descriptor.base, descriptor.energy_head, x)
    found = descriptor.energy_and_grad(x, labels)
    assert_same(found, by_autograd(lambda x: descriptor(x, labels), x))
    assert not torch.allclose(found[0], before[0])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_double_precision(shape, dtype):
    descriptor, x, labels = setting(shape, batch=64)
    expected = by_autograd(lambda x: descriptor(x, labels), x)
    descriptor, x, labels = descriptor.float().cuda(), x.float().cuda(), labels.cuda()
    assert by_hand.applies(descriptor.base, descriptor.energy_head, x)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        energies, grad = descriptor.energy_and_grad(x, labels)
    tolerance = 5e-3 if dtype == torch.float32 else 0.05
    assert_same([energies.double().cpu()], expected[:1], rtol=tolerance)
    difference = (grad.double().cpu() - expected[1]).norm() / expected[1].norm()
    assert difference < (0.02 if dtype == torch.float32 else 0.2)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_chain_with_the_fused_update(shape):
    descriptor, x, labels = setting(shape, batch=64, dtype=torch.float32)
    options = {"steps": 3, "step_size": 2.0, "clamp": (-1, 1), "seed": 3}
    descriptor, x, labels = descriptor.cuda(), x.cuda(), labels.cuda()
    assert descriptor.energy_and_update(x, labels, STEP) is not NotImplemented
    plain = ch.langevin(lambda x, c: descriptor(x, c), x, labels, **options)
    for _ in range(3):  # step by step, captured, replayed
        ours = ch.langevin(descriptor, x, labels, **options)
        assert (ours - plain).abs().mean() < 1e-3 * (plain - x).abs().mean() + 1e-5
