"""The ops of the energy head on the CPU: formulas, gradients of any order, compile, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coophash.kernels import energy_head, energy_head_and_grad  # noqa: E402
from coophash.kernels.energy_class import (  # noqa: E402
    class_energies,
    class_energies_and_grad,
    dfeatures,
    dweight,
)

KINDS = ["class", "several", "soft", "marginal"]


def head(batch, width, classes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((batch, width), (classes, width), (classes,))
    )
    return features, weight / math.sqrt(max(width, 1)), bias


def labels_of(kind, batch, classes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if kind == "marginal":
        return None
    first = torch.randint(classes, (batch,), generator=generator)
    if kind == "class":
        return first
    several = torch.rand(batch, classes, generator=generator)
    if kind == "soft":
        return several
    several = several < 0.3
    several[torch.arange(batch), first] = True
    return several


def oracle(features, weight, bias, labels, slope=None, temperature=1.0):
    """Energies and dE/df sample by sample, in NumPy and double precision."""
    f, w = features.double().numpy(), weight.double().numpy()
    b = np.zeros(len(w)) if bias is None else bias.double().numpy()
    energies, grads = [], []
    for i, row in enumerate(f):
        factor = np.where(row > 0, 1.0, 1.0 if slope is None else slope)
        outputs = w @ (row * factor) + b
        if labels is None:
            powers = -outputs / temperature
            energies.append(-temperature * np.logaddexp.reduce(powers))
            p = np.exp(powers - np.logaddexp.reduce(powers))
        elif labels.dim() == 1:
            energies.append(outputs[labels[i]])
            p = np.eye(len(w))[labels[i]]
        else:
            p = labels[i].double().numpy() / labels[i].double().sum().item()
            energies.append(p @ outputs)
        grads.append((p @ w) * factor)
    return np.array(energies), np.array(grads).reshape(f.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [None, 0.1, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_energies_and_gradient(kind, slope, dtype):
    arguments = head(9, 33, 5, dtype)
    labels = labels_of(kind, 9, 5)
    options = {"slope": slope} | ({"temperature": 0.7} if kind == "marginal" else {})
    expected, expected_grad = oracle(*arguments, labels, **options)
    energies, grad = energy_head_and_grad(*arguments, labels, **options)
    assert grad.dtype == dtype
    assert energies.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    double = dtype == torch.float64
    np.testing.assert_allclose(energies, expected, rtol=0, atol=1e-13 if double else 2e-6)
    eps = 1e-13 if double else 2 * torch.finfo(dtype).eps
    np.testing.assert_allclose(grad.double(), expected_grad, rtol=eps, atol=eps)
    alone = energy_head(*arguments, labels, **options)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-13 if double else 2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learning", [False, True])
def test_autocast_leaves_it_in_float32(kind, learning):
    features, weight, bias = head(6, 40, 5)
    labels = labels_of(kind, 6, 5)
    features.requires_grad_(learning)
    expected = energy_head_and_grad(features, weight, bias, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = (
            *energy_head_and_grad(features, weight, bias, labels),
            energy_head(features, weight, bias, labels),
        )
        if kind != "class":
            op = torch.ops.coophash.energy_head_mixed
            with torch.no_grad():
                found += op(features, weight, bias, labels, None, 1.0)
    expected = (*expected, *expected[:1], *expected)
    for ours, plain in zip(found, expected, strict=False):
        assert ours.dtype == torch.float32 and torch.equal(ours, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_autograd(kind):
    features, weight, bias = head(9, 33, 5)
    labels = labels_of(kind, 9, 5)
    leaf = features.clone().requires_grad_()
    pre = torch.nn.functional.leaky_relu(leaf, 0.1)
    outputs = torch.nn.functional.linear(pre, weight, bias)
    if kind == "marginal":
        expected = -torch.logsumexp(-outputs, 1)
    elif kind == "class":
        expected = outputs.gather(1, labels[:, None])[:, 0]
    else:
        expected = (outputs * labels).sum(1) / labels.sum(1)
    (expected_grad,) = torch.autograd.grad(expected.sum(), leaf)
    energies, grad = energy_head_and_grad(features, weight, bias, labels, slope=0.1)
    torch.testing.assert_close(energies, expected.detach())
    torch.testing.assert_close(grad, expected_grad)


def test_one_label_gives_the_energy_of_its_class():
    arguments, labels = head(12, 20, 6), labels_of("class", 12, 6)
    one_hot = torch.nn.functional.one_hot(labels, 6)
    for hot in (one_hot, one_hot.bool(), 3.0 * one_hot):
        torch.testing.assert_close(energy_head(*arguments, hot), energy_head(*arguments, labels))


def test_marginal_energy_is_a_soft_minimum():
    features, weight, bias = head(12, 20, 6)
    outputs = features @ weight.T + bias
    cold = energy_head(features, weight, bias, temperature=1e-4)
    torch.testing.assert_close(cold, outputs.min(1).values, rtol=0, atol=1e-3)
    assert (energy_head(features, weight, bias) < outputs.min(1).values).all()


def op_energies(*arguments, slope):
    return class_energies(*arguments, slope)


def public_energies(*arguments, slope):
    return energy_head(*arguments, slope=slope)


@pytest.mark.parametrize("function", [op_energies, public_energies])
@pytest.mark.parametrize("slope", [None, 0.1])
def test_class_gradients_of_first_and_second_order(function, slope):
    """The op's own backward, three ops deep, and plain autograd through the reference."""
    leaves = [t.double().requires_grad_() for t in head(5, 4, 3)]
    labels = torch.tensor([0, 2, 2, 0, 2])  # class 1 has no sample

    def energies(features, weight, bias):
        return function(features, weight, bias, labels, slope=slope).square()

    assert torch.autograd.gradcheck(energies, leaves)
    assert torch.autograd.gradgradcheck(energies, leaves)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [None, 0.1])
def test_gradients_of_both_results(kind, slope):
    """Where a gradient is needed, dE/df is differentiable too: gradient penalties."""
    leaves = [t.double().requires_grad_() for t in head(5, 4, 3)]
    labels = labels_of(kind, 5, 3)

    def both(features, weight, bias):
        return energy_head_and_grad(features, weight, bias, labels, slope=slope)

    assert torch.autograd.gradcheck(both, leaves)


def test_third_order():
    """The three ops close under differentiation: the backward of each is made of the others."""
    features, weight, bias = (t.double().requires_grad_() for t in head(5, 4, 3))
    labels = torch.tensor([0, 2, 2, 1, 2])
    results = []
    for function in (class_energies, lambda f, w, b, y, s: (torch.relu(f) @ w.T + b)[range(5), y]):
        loss = function(features, weight, bias, labels, 0.0).pow(3).sum()
        for leaf in (features, weight, features):
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
            loss = gradient.square().sum()
        results.append(gradient)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ops_backward_equals_the_references(dtype):
    labels = labels_of("class", 30, 4)
    upstream = torch.randn(30)
    results = []
    for function in (class_energies, lambda *a: energy_head(*a[:4], slope=a[4])):
        leaves = [t.requires_grad_() for t in head(30, 17, 4, dtype)]
        results.append(torch.autograd.grad(function(*leaves, labels, 0.1), leaves, upstream))
    for name, ours, reference in zip(("features", "weight", "bias"), *results, strict=True):
        assert ours.dtype == reference.dtype == dtype
        torch.testing.assert_close(ours, reference, msg=lambda m, name=name: f"d/d{name}: {m}")


def test_an_input_gradient_keeps_no_features():
    """A chain asks for dE/dx alone, with an op whose gradient is a row of the weight."""
    features, weight, bias = head(30, 17, 4)
    energies = class_energies(
        features.requires_grad_(), weight, bias, labels_of("class", 30, 4), None
    )
    assert energies.grad_fn.saved_tensors[0] is None


def layouts():
    features, weight, bias = head(12, 20, 6)
    return {
        "transposed": (features.t().contiguous().t(), weight.t().contiguous().t(), bias),
        "sliced": (features[:, ::3], weight[:, 1::3], bias),
        "expanded": (features[:1].expand(12, -1), weight, bias[:1].expand(6)),
        "mixed dtypes": (features.bfloat16(), weight, bias),
        "no bias": (features, weight, None),
        "no features": (features[:, :0], weight[:, :0], bias),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(layout, kind):
    arguments = layouts()[layout]
    labels = labels_of(kind, 12, 6)
    expected, expected_grad = oracle(*arguments, labels)
    energies, grad = energy_head_and_grad(*arguments, labels)
    np.testing.assert_allclose(energies, expected, rtol=0, atol=2e-6)
    tolerance = 2 * torch.finfo(grad.dtype).eps
    np.testing.assert_allclose(grad.double(), expected_grad, rtol=tolerance, atol=tolerance)
    assert grad.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_empty(kind):
    features, weight, bias = head(0, 7, 3)
    leaves = [t.requires_grad_() for t in (features, weight, bias)]
    energies = energy_head(*leaves, labels_of(kind, 0, 3))
    assert energies.shape == (0,)
    gradients = torch.autograd.grad(energies.sum(), leaves)
    assert [g.shape for g in gradients] == [(0, 7), (3, 7), (3,)]
    assert not any(g.any() for g in gradients)


def test_nan_stays_with_its_sample():
    features, weight, bias = head(4, 6, 3)
    features[1, 2] = math.nan
    for kind in KINDS:
        energies = energy_head(features, weight, bias, labels_of(kind, 4, 3), slope=0.1)
        assert energies.isnan().tolist() == [False, True, False, False]


# --- registration -----------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [None, 0.1])
def test_opcheck(slope):
    features, weight, bias = (t.requires_grad_() for t in head(6, 9, 4))
    labels, scale = labels_of("class", 6, 4), torch.rand(6, requires_grad=True)
    plain = [t.detach() for t in (features, weight, bias)]
    kept = None if slope is None else features.detach()
    torch.library.opcheck(class_energies, (features, weight, bias, labels, slope))
    torch.library.opcheck(class_energies, (plain[0].t().contiguous().t(), *plain[1:], labels, None))
    torch.library.opcheck(class_energies_and_grad, (*plain, labels, slope))
    torch.library.opcheck(dfeatures, (scale, weight, labels, kept, slope, torch.float32))
    torch.library.opcheck(dweight, (scale, features, labels, 4, slope, torch.float32))


@pytest.mark.parametrize("kind", ["several", "marginal"])
def test_opcheck_mixed(kind):
    from coophash.kernels.energy_mixed import mixed_energies_and_grad

    arguments = (*head(6, 9, 4), labels_of(kind, 6, 4), 0.1, 1.0)
    torch.library.opcheck(mixed_energies_and_grad, arguments)


def descend(features, weight, bias, labels):
    energies, grad = energy_head_and_grad(features, weight, bias, labels, slope=0.1)
    return energies, features - 0.1 * grad


@pytest.mark.parametrize("kind", KINDS)
def test_compile(kind):
    arguments, labels = head(6, 9, 4), labels_of(kind, 6, 4)
    torch._dynamo.reset()
    compiled = torch.compile(descend, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(
        compiled(*arguments, labels), descend(*arguments, labels), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_compile_backward():
    arguments, labels = [t.requires_grad_() for t in head(6, 9, 4)], labels_of("class", 6, 4)

    def loss(features, weight, bias):
        return energy_head(features, weight, bias, labels, slope=0.1).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(*arguments), arguments)
    for got, expected in zip(ours, torch.autograd.grad(loss(*arguments), arguments), strict=True):
        torch.testing.assert_close(got, expected)


def test_export_holds_the_op_on_every_device():
    class Head(torch.nn.Module):
        def forward(self, features, weight, bias, labels):
            return energy_head(features, weight, bias, labels, slope=0.1)

    batch = torch.export.Dim("batch")
    arguments = (*head(6, 9, 4), labels_of("class", 6, 4))
    program = torch.export.export(
        Head(), arguments, dynamic_shapes=({0: batch}, None, None, {0: batch})
    )
    assert "coophash.energy_head_class" in program.graph_module.code
    arguments = (*head(11, 9, 4), labels_of("class", 11, 4))
    torch.testing.assert_close(program.module()(*arguments), energy_head(*arguments, slope=0.1))


# --- bad input --------------------------------------------------------------------------------

BEYOND = torch.tensor([0, 1, 5])
NEGATIVE = torch.ones(3, 5)
NEGATIVE[1, 2] = -1
F, W, B = torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(5)
Y = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "features must be a torch.Tensor, got list", {"features": [[1.0]]}),
        (TypeError, "features must be float32.*got torch.int64", {"features": F.long()}),
        (ValueError, r"features must be \(B, D\), got \(4,\)", {"features": F[0]}),
        (ValueError, r"weight must be \(C, 4\).*got \(5, 3\)", {"weight": W[:, :3]}),
        (ValueError, "weight must have a row", {"weight": W[:0], "bias": None}),
        (ValueError, r"bias must be \(5,\) for weight, got \(4,\)", {"bias": B[:4]}),
        (TypeError, "bias must be float32", {"bias": B.int()}),
        (ValueError, "bias must be on the device of features", {"bias": B.to("meta")}),
        (TypeError, "labels must be a torch.Tensor or None, got list", {"labels": [0, 1, 2]}),
        (TypeError, "labels must be integer classes", {"labels": Y.float()}),
        (TypeError, "labels must be integer classes", {"labels": Y.bool()}),
        (ValueError, r"labels must be \(3,\) integer classes or \(3, 5\)", {"labels": Y[:2]}),
        (ValueError, "labels must be classes from 0 to 4.*got 0 to 5", {"labels": BEYOND}),
        (ValueError, "labels must be classes from 0 to 4.*got -1 to -1", {"labels": Y - 1}),
        (ValueError, "labels must be numbers >= 0.*row 0", {"labels": torch.zeros(3, 5)}),
        (ValueError, "labels must be numbers >= 0.*row 1", {"labels": NEGATIVE}),
        (ValueError, "slope must be a finite number >= 0, got -0.1", {"slope": -0.1}),
        (TypeError, "slope must be a number, got str", {"slope": "0.1"}),
        (ValueError, "temperature must be > 0", {"temperature": 0.0, "labels": None}),
        (ValueError, "temperature must be a finite", {"temperature": math.nan, "labels": None}),
        (ValueError, "temperature is of the marginal energy, got 2.0", {"temperature": 2.0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", [energy_head, energy_head_and_grad])
def test_bad_input(function, error, message, change):
    arguments = {"features": F, "weight": W, "bias": B, "labels": Y} | change
    with pytest.raises(error, match=message):
        function(**arguments)


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 256, 10), (257, 300, 21), (3000, 1000, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_triton_equals_double_precision(shape, dtype, kind):
    batch, _, classes = shape
    arguments, labels = head(*shape, dtype), labels_of(kind, batch, classes)
    on_device = [t.cuda().requires_grad_() for t in arguments]
    labels_there = None if labels is None else labels.cuda()
    upstream = torch.randn(batch, generator=torch.Generator().manual_seed(3))
    double = [t.double().requires_grad_() for t in arguments]
    expected, expected_grad = energy_head_and_grad(*double, labels, slope=0.1)
    expected_rest = torch.autograd.grad(expected, double, upstream.double())

    def near(name, ours, exact):
        eps = max(torch.finfo(ours.dtype).eps, 4e-6)
        torch.testing.assert_close(
            ours.detach().cpu().double(), exact.detach(), rtol=4 * eps,
            atol=4 * eps * exact.abs().max().item(), msg=lambda m: f"{name}: {m}",
        )  # fmt: skip

    with torch.no_grad():
        energies, grad = energy_head_and_grad(*on_device, labels_there, slope=0.1)
    near("E", energies, expected)
    near("dE/df", grad, expected_grad)
    energies = energy_head(*on_device, labels_there, slope=0.1)
    near("E in training", energies, expected)
    results = [
        torch.autograd.grad(energies, on_device, upstream.cuda(), retain_graph=True)
        for _ in range(2)
    ]
    for name, ours, again, exact in zip("fWb", *results, expected_rest, strict=True):
        near(f"d/d{name}", ours, exact)
        assert kind != "class" or torch.equal(ours, again)  # no atomics


@pytest.mark.gpu
def test_a_label_out_of_range_gives_nan_on_a_device():
    features, weight, bias = (t.cuda() for t in head(4, 6, 3))
    labels = torch.tensor([0, 3, -1, 2], device="cuda")
    energies, grad = energy_head_and_grad(features, weight, bias, labels)
    assert energies.isnan().tolist() == grad.isnan().all(1).tolist() == [False, True, True, False]
