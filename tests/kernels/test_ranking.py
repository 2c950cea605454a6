"""ranking_loss on the CPU: against Eq. 8 and 14 written out, registration, autograd, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from coophash.kernels import ranking_loss, ranking_loss_reference  # noqa: E402

OPTIONS = {"margin": 0.2, "shift": 0.1, "kappa": 1.0}


def matrix(batch=9, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(batch, 12, generator=generator).double() for _ in range(2))
    return (torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y + x).T).to(dtype)


def literal(similarity, margin, shift, kappa):
    """Eq. 8 and 14, term by term, of a double-precision matrix: (2, B)."""
    losses = []
    for m in (similarity, similarity.T):
        for i in range(len(m)):
            terms = [
                m[i, j] if (m[i, i] - m[i, j]).item() <= margin else m[i, j] - shift
                for j in range(len(m))
            ]
            total = sum((s / kappa).exp() for s in terms)
            losses.append(margin + kappa * total.log() - m[i, i])
    return torch.stack(losses).view(2, -1)


@pytest.mark.parametrize("batch", [1, 2, 9, 33])
@pytest.mark.parametrize("margin, shift, kappa", [(0.2, 0.1, 1.0), (0.2, 7.0, 0.1), (0, 0, 3.0)])
def test_loss_and_gradient(batch, margin, shift, kappa):
    options = {"margin": margin, "shift": shift, "kappa": kappa}
    leaf = matrix(batch).double().requires_grad_()
    expected = literal(leaf, **options)
    upstream = torch.linspace(-1, 2, 2 * batch, dtype=torch.float64).view(2, batch)
    (slope,) = torch.autograd.grad(expected, leaf, upstream)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        ours = leaf.detach().to(dtype).requires_grad_()
        losses = ranking_loss(ours, reduction="none", **options)
        assert losses.dtype == dtype
        (found,) = torch.autograd.grad(losses, ours, upstream.to(dtype))
        torch.testing.assert_close(losses.double(), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(found.double(), slope, rtol=0, atol=tolerance / kappa)


def test_mean_is_the_sum_of_two_means():
    leaf = matrix().requires_grad_()
    loss = ranking_loss(leaf, **OPTIONS)
    loss.backward()
    double = leaf.detach().double().requires_grad_()
    expected = literal(double, **OPTIONS).sum() / 9
    expected.backward()
    assert loss.shape == () and abs(loss.item() - expected.item()) < 1e-6
    torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=0, atol=1e-6)


def test_bounds_the_hinge():
    """Theorem 1: the sum of hinges of S is at most n times the loss."""
    m = matrix(20, torch.float64)
    losses = ranking_loss(m, reduction="none", **OPTIONS)
    own = m.diagonal()[:, None]
    s = torch.where(own - m <= 0.2, m, m - 0.1)
    hinges = (0.2 + s - own).clamp_min(0).sum(1)
    assert (hinges <= 20 * losses[0] + 1e-12).all() and (hinges > 0.2).any()


def test_half_precision_and_reference():
    for dtype in (torch.bfloat16, torch.float16):
        m = matrix(dtype=dtype)
        leaf = m.clone().requires_grad_()
        losses = ranking_loss(leaf, reduction="none", **OPTIONS)
        (slope,) = torch.autograd.grad(losses.sum(), leaf)
        assert losses.dtype == torch.float32 and slope.dtype == dtype
        torch.testing.assert_close(losses.double(), literal(m.double(), **OPTIONS), rtol=0,
                                   atol=3e-6)  # fmt: skip
        (expected,) = torch.autograd.grad(
            ranking_loss_reference(leaf.double(), **OPTIONS).sum(), leaf
        )
        torch.testing.assert_close(slope, expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded"])
def test_layouts(layout):
    m = matrix(12)
    m = {"transposed": m.T, "sliced": m[::2, 1::2], "expanded": m[:1].expand(12, 12)}[layout]
    leaf = m.detach().requires_grad_()
    losses = ranking_loss(leaf, reduction="none", **OPTIONS)
    (slope,) = torch.autograd.grad(losses.sum(), leaf)
    plain = m.clone(memory_format=torch.contiguous_format).requires_grad_()
    expected = ranking_loss(plain, reduction="none", **OPTIONS)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-6)
    (expected_slope,) = torch.autograd.grad(expected.sum(), plain)
    torch.testing.assert_close(slope, expected_slope, rtol=0, atol=1e-6)


def test_extremes():
    m = 1e4 * matrix()
    losses = ranking_loss(m, margin=0.2, shift=0.1, kappa=0.01, reduction="none")
    expected = literal(m.double() / 1e4, 0.2 / 1e4, 0.1 / 1e4, 1e-6)
    # Its exponentials overflow in double precision: the largest term alone counts.
    largest = torch.stack([m.amax(1), m.amax(0)]) - m.diagonal()
    assert losses.isfinite().all() and not expected.isfinite().all()
    torch.testing.assert_close(losses, largest + 0.2, rtol=1e-5, atol=0.1)
    m[2, 5] = math.nan
    losses = ranking_loss(m, margin=0.2, shift=0.1, reduction="none")
    assert losses.isnan().nonzero().tolist() == [[0, 2], [1, 5]]


def test_gradcheck_and_no_second_derivative():
    leaf = matrix(5, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m: ranking_loss(m, margin=0.2, shift=0.3, kappa=0.5, reduction="none"), (leaf,)
    )
    (slope,) = torch.autograd.grad(ranking_loss(leaf, **OPTIONS), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="ranking_loss is differentiable once"):
        slope.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    m = matrix(dtype=dtype)
    torch.library.opcheck(
        torch.ops.coophash.ranking_loss.default, (m.clone().requires_grad_(), 0.2, 0.1, 1.0)
    )
    _, log_sum = torch.ops.coophash.ranking_loss(m, 0.2, 0.1, 1.0)
    torch.library.opcheck(
        torch.ops.coophash.ranking_loss_backward.default,
        (torch.randn(2, 9), m.T, log_sum, 0.2, 0.1, 1.0),
    )


def objective(x, y):
    x, y = (torch.nn.functional.normalize(h, dim=1) for h in (x, y))
    return ranking_loss(x @ y.T, margin=0.2, shift=0.1)


def test_compile():
    torch._dynamo.reset()
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    x, y = torch.randn(2, 7, 5)
    slopes = []
    for function in (objective, compiled):
        leaf = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(function(leaf, y), leaf)[0])
    torch.testing.assert_close(*slopes)


def test_export():
    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return objective(x, y)

    batch = torch.export.Dim("batch")
    x, y = torch.randn(2, 7, 5)
    program = torch.export.export(Loss(), (x, y), dynamic_shapes=({0: batch}, {0: batch}))
    assert "coophash.ranking_loss" in program.graph_module.code
    x, y = torch.randn(2, 11, 5)
    torch.testing.assert_close(program.module()(x, y), objective(x, y))


M = matrix(3)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "similarity must be a torch.Tensor", {"similarity": [[1.0]]}),
        (TypeError, "similarity must be float32", {"similarity": M.int()}),
        (ValueError, r"similarity must be \(B, B\), got \(2, 3\)", {"similarity": M[:2]}),
        (ValueError, r"similarity must be \(B, B\), got \(3,\)", {"similarity": M[0]}),
        (ValueError, "at least one pair", {"similarity": M[:0, :0]}),
        (TypeError, "margin must be a number", {"margin": "1"}),
        (ValueError, "margin must be a finite number >= 0, got -0.1", {"margin": -0.1}),
        (ValueError, "shift must be a finite number >= 0, got nan", {"shift": math.nan}),
        (ValueError, "kappa must be a finite number > 0, got 0", {"kappa": 0}),
        (ValueError, "reduction must be 'mean' or 'none', got 'sum'", {"reduction": "sum"}),
    ],
)
def test_bad_input(error, message, change):
    with pytest.raises(error, match=message):
        ranking_loss(**({"similarity": M} | OPTIONS | change))


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 17, 256, 1000, 2304])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_triton_equals_the_formula(batch, dtype, transposed):
    m = matrix(batch, dtype)
    leaf = (m.cuda().T if transposed else m.cuda()).requires_grad_()
    losses = ranking_loss(leaf, margin=0.2, shift=0.5, kappa=0.2, reduction="none")
    upstream = torch.linspace(-1, 2, 2 * batch).view(2, batch)
    (slope,) = torch.autograd.grad(losses, leaf, upstream.cuda())
    double = (m.T if transposed else m).double().requires_grad_()
    expected = ranking_loss_reference(double, 0.2, 0.5, 0.2)
    (expected_slope,) = torch.autograd.grad(expected, double, upstream.double())
    torch.testing.assert_close(losses.cpu().double(), expected, rtol=0, atol=1e-5)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(slope.cpu().double(), expected_slope, rtol=2 * eps, atol=1e-5)
    again = ranking_loss(leaf, margin=0.2, shift=0.5, kappa=0.2, reduction="none")
    assert torch.equal(losses, again)
