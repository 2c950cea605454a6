"""bank_contrast on the CPU: against Eq. 3 and 4 written out, registration, autograd, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coophash import pack, unpack  # noqa: E402
from coophash.kernels import bank_contrast, bank_contrast_reference, bank_draws, contrast  # noqa: E402
from coophash.kernels.philox import philox4x32  # noqa: E402


def tensors(sets=2, batch=5, bits=24, rows=40, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(sets, batch, bits, generator=generator)
    queries = torch.nn.functional.normalize(queries, dim=-1).to(dtype)
    codes = pack(torch.randn(rows, bits, generator=generator))
    positives = torch.randint(0, rows, (batch,), generator=generator)
    return queries, codes, positives


def literal(queries, codes, positives, negatives, temperature):
    """Eq. 3 and 4 with keys of shape (B, K + 1, L), in double precision: losses and gradients."""
    bits = queries.shape[-1]
    bank = unpack(codes, bits).double()
    keys = bank[torch.cat([positives[:, None], negatives], dim=1)]  # the positive first
    keys = keys / keys.norm(dim=-1, keepdim=True)
    leaf = queries.detach().double().requires_grad_()
    losses = []
    for one in leaf:
        logits = (keys @ one[:, :, None])[..., 0] / temperature
        share = logits[:, 0].exp() / logits.exp().sum(1)
        losses.append(-share.log())
    loss = torch.stack(losses)
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), slope


def others(codes, positives):
    """(B, n - 1): every row but the positive."""
    rows = torch.arange(len(codes)).expand(len(positives), -1)
    return rows[rows != positives[:, None]].view(len(positives), -1)


def assert_near(name, actual, expected, tolerance=3e-6):
    error = (actual.double() - expected).abs().max().item() if actual.numel() else 0.0
    assert error <= tolerance, f"{name}: {error}"


# 40 rows and 5 or 1,000 draws: the reference gathers the drawn rows, or goes through all.
@pytest.mark.parametrize("count", [1, 5, 1000])
@pytest.mark.parametrize("bits", [1, 10, 24, 128])
@pytest.mark.parametrize("temperature", [0.9, 0.05])
def test_loss_and_gradient(count, bits, temperature):
    queries, codes, positives = tensors(bits=bits)
    negatives = torch.randint(0, len(codes), (5, count))
    loss, slope = literal(queries, codes, positives, negatives, temperature)
    scale = 1 / temperature
    leaf = queries.clone().requires_grad_()
    ours = bank_contrast(leaf, codes, positives, negatives, temperature=temperature)
    assert ours.shape == (2, 5) and ours.dtype == torch.float32
    ours.sum().backward()
    assert_near("loss", ours, loss, 2e-6 * scale)
    assert_near("gradient", leaf.grad, slope, 2e-6 * scale)
    found = bank_contrast_reference(queries.double(), codes, positives, negatives, temperature)
    for name, actual, expected in zip(("loss", "gradient"), found, (loss, slope), strict=True):
        assert actual.dtype == torch.float64
        assert_near(f"float64 {name}", actual, expected, 1e-12 * scale)


def test_ways_of_the_reference_are_both_taken(monkeypatch):
    taken = []
    for name in ("_over_all_rows", "_over_drawn_rows"):
        function = getattr(contrast, name)
        monkeypatch.setattr(contrast, name, lambda *a, f=function, n=name: taken.append(n) or f(*a))
    queries, codes, positives = tensors()
    for count in (5, 1000):
        bank_contrast(queries, codes, positives, count, temperature=1.0)
    assert set(taken) == {"_over_all_rows", "_over_drawn_rows"} and taken[-1] == "_over_all_rows"


@pytest.mark.parametrize("cells", [1, 60, 1 << 22])
@pytest.mark.parametrize("count", [3, 300])
def test_chunks_change_nothing(monkeypatch, cells, count):
    queries, codes, positives = tensors(rows=100, batch=7)
    options = {"temperature": 0.5, "seed": 3}
    whole = bank_contrast(queries, codes, positives, count, **options)
    monkeypatch.setattr(contrast, "_COUNTS", cells)
    monkeypatch.setattr(contrast, "_BLOCK", cells)
    chunked = bank_contrast(queries, codes, positives, count, **options)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=2e-6)


def test_all_rows_is_the_contrast_within_a_batch():
    """UCCH's warm-up: keys are the signs of the batch's own (h^x + h^y) / 2."""
    queries, _, _ = tensors(batch=9, bits=20)
    outputs = queries.mean(0)
    leaf = queries.clone().requires_grad_()
    loss = bank_contrast(leaf, pack(outputs), torch.arange(9), temperature=0.9)
    loss.sum().backward()
    keys = torch.where(outputs >= 0, 1.0, -1.0).double()
    logits = queries.double() @ keys.T / (0.9 * math.sqrt(20))  # (2, B, B)
    target = torch.arange(9).expand(2, 9)
    expected = torch.nn.functional.cross_entropy(
        logits.reshape(18, 9), target.reshape(18), reduction="none"
    )
    assert_near("loss", loss, expected.view(2, 9))
    _, slope = literal(queries, pack(outputs), torch.arange(9), others(keys, target[0]), 0.9)
    assert_near("gradient", leaf.grad, slope)


@pytest.mark.parametrize("rows", [1, 2, 700])
def test_all_rows(rows):
    queries, codes, positives = tensors(rows=rows)
    loss, _ = literal(queries, codes, positives, others(codes, positives), 0.7)
    assert_near("loss", bank_contrast(queries, codes, positives, temperature=0.7), loss)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("count", [6, 301])
def test_drawn_rows_are_those_of_the_stream(exclude, count):
    queries, codes, positives = tensors()
    stream = {"seed": 2**64 - 9, "step": 7, "chain": 3}
    drawn = torch.from_numpy(
        bank_draws(5, count, 40, positives=positives.numpy() if exclude else None, **stream)
    )
    ours = bank_contrast(
        queries, codes, positives, count, temperature=0.9, exclude_positive=exclude, **stream
    )
    given = bank_contrast(queries, codes, positives, drawn, temperature=0.9)
    torch.testing.assert_close(ours, given, rtol=0, atol=2e-6)
    as_tensors = bank_contrast(
        queries, codes, positives, count, temperature=0.9, exclude_positive=exclude,
        seed=torch.tensor(-9), step=torch.tensor([7], dtype=torch.int32), chain=3,
    )  # fmt: skip
    assert torch.equal(ours, as_tensors)


def test_stream_of_draws():
    """Word k mod 4 of counter (4⌊k/4⌋, i, step, chain), times n, over 2³²."""
    drawn = bank_draws(3, 6, 1000, seed=5, step=6, chain=7)
    words = [np.uint64(word) for word in (4, 2, 6, 7)]
    expected = [int(word) * 1000 >> 32 for word in philox4x32(*words, 5)]
    assert drawn[2, 4:].tolist() == expected[:2]
    assert np.array_equal(drawn, bank_draws(9, 70_000, 1000, seed=5, step=6, chain=7)[:3, :6])
    assert np.array_equal(drawn[1:], bank_draws(2, 6, 1000, seed=5, step=6, chain=7, first=1))
    for change in ({"seed": 6}, {"step": 7}, {"chain": 8}):
        other = bank_draws(3, 6, 1000, **({"seed": 5, "step": 6, "chain": 7} | change))
        assert not np.array_equal(drawn, other)


def test_draws_are_uniform():
    rows, samples, count = 50, 40, 5000
    drawn = bank_draws(samples, count, rows, seed=1)
    expected = samples * count / rows
    chi = ((np.bincount(drawn.reshape(-1), minlength=rows) - expected) ** 2 / expected).sum()
    assert abs(chi - (rows - 1)) < 5 * math.sqrt(2 * (rows - 1))
    positives = np.arange(samples)
    drawn = bank_draws(samples, count, rows, seed=1, positives=positives)
    assert drawn.min() == 0 and drawn.max() == rows - 1
    assert not (drawn == positives[:, None]).any()
    counts = np.stack([np.bincount(row, minlength=rows) for row in drawn])
    counts = counts[positives[:, None] != np.arange(rows)].reshape(samples, rows - 1)
    expected = count / (rows - 1)
    chi = ((counts - expected) ** 2 / expected).sum()
    freedom = samples * (rows - 2)
    assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    queries, codes, positives = tensors(dtype=dtype)
    leaf = queries.clone().requires_grad_()
    loss = bank_contrast(leaf, codes, positives, 9, temperature=0.9, seed=1)
    loss.sum().backward()
    negatives = torch.from_numpy(bank_draws(5, 9, 40, seed=1))
    expected, slope = literal(queries, codes, positives, negatives, 0.9)
    assert loss.dtype == torch.float32 and leaf.grad.dtype == dtype
    assert_near("loss", loss, expected)
    assert_near("gradient", leaf.grad, slope, torch.finfo(dtype).eps)


@pytest.mark.parametrize("negatives", [9, None])
def test_autocast_leaves_it_in_float32(negatives):
    queries, codes, positives = tensors()
    leaf = queries.clone().requires_grad_()
    expected = bank_contrast(leaf, codes, positives, negatives, temperature=0.9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = bank_contrast(leaf, codes, positives, negatives, temperature=0.9)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.sum().backward()
    assert leaf.grad.dtype == torch.float32


def test_shares_of_a_large_bank_stay_few():
    pytest.importorskip("triton")
    from coophash.kernels.contrast_triton import ALL, launch_shape, tiles_of_program

    for width, batch, count in itertools.product(
        (1, 2, 8, 16, 100, 512), (1, 7, 256, 4096), (1, 4096, 10**6, 2**31 - 1)
    ):
        shape = launch_shape(ALL, width)
        tile = shape["DEEP"] * shape["ROWS"]
        splits = -(-count // (tile * tiles_of_program(batch, count, tile)))
        assert splits <= 1024, (width, batch, count)  # the grid allows 65,535
        # Beyond what fills the device, the shares of all samples do not take ever more memory.
        assert batch * splits <= 32768


def test_one_set_and_other_layouts():
    queries, codes, positives = tensors()
    expected = bank_contrast(queries, codes, positives, 9, temperature=0.9)
    one = bank_contrast(queries[1], codes, positives, 9, temperature=0.9)
    torch.testing.assert_close(one, expected[1], rtol=0, atol=2e-6)
    three = torch.stack([*queries, queries[0]]).transpose(0, 2).contiguous().transpose(0, 2)
    strided = bank_contrast(
        three, codes.T.contiguous().T, positives.repeat_interleave(2)[::2].int(), 9, temperature=0.9
    )
    torch.testing.assert_close(strided[:2], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(strided[2], expected[0], rtol=0, atol=2e-6)
    empty = bank_contrast(queries[:, :0], codes, positives[:0], 9, temperature=0.9)
    assert empty.shape == (2, 0)


def test_extreme_logits():
    """Far from the softmax's usual range nothing overflows; the loss is the largest difference."""
    queries, codes, positives = tensors()
    negatives = torch.randint(0, 40, (5, 4))
    for count, drawn in (("few", negatives), ("many", negatives.repeat(1, 100))):
        loss = bank_contrast(1e6 * queries, codes, positives, drawn, temperature=0.5)
        assert loss.isfinite().all(), count
        bank = unpack(codes, 24).double()
        logits = torch.einsum("sbl,bkl->sbk", 2e6 * queries.double(), bank[drawn])
        own = torch.einsum("sbl,bl->sb", 2e6 * queries.double(), bank[positives])
        expected = (logits.amax(2) - own).clamp_min(0) / math.sqrt(24)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=20.0)


def test_nan_is_not_hidden():
    queries, codes, positives = tensors()
    queries[1, 2, 3] = math.nan
    for negatives in (5, 1000, None):
        loss = bank_contrast(queries, codes, positives, negatives, temperature=0.9)
        expected = torch.zeros(2, 5, dtype=torch.bool)
        expected[1, 2] = True
        assert torch.equal(loss.isnan(), expected)


@pytest.mark.parametrize("negatives", [4, 200, None])
def test_gradcheck(negatives):
    queries, codes, positives = tensors(batch=3, bits=10, dtype=torch.float64)

    def loss(queries):
        return bank_contrast(queries, codes, positives, negatives, temperature=0.6, seed=2)

    assert torch.autograd.gradcheck(loss, (queries.requires_grad_(),))


def test_gradient_of_the_gradient_says_that_there_is_none():
    queries, codes, positives = tensors()
    queries.requires_grad_()
    loss = bank_contrast(queries, codes, positives, 4, temperature=0.6)
    (slope,) = torch.autograd.grad(loss.sum(), queries, create_graph=True)
    with pytest.raises(RuntimeError, match="bank_contrast is differentiable once"):
        slope.sum().backward()


def test_nothing_is_kept_without_a_gradient():
    queries, codes, positives = tensors()
    op = torch.ops.coophash.bank_contrast.default
    _, slope = op(queries, codes, positives, None, None, 5, 0.9, False, False, 1, 2, 3)
    assert slope.numel() == 0
    with torch.no_grad():
        loss = bank_contrast(queries.requires_grad_(), codes, positives, 5, temperature=0.9)
    assert not loss.requires_grad


@pytest.mark.parametrize("case", ["drawn", "given", "all", "device numbers", "bf16", "no gradient"])
def test_opcheck(case):
    queries, codes, positives = tensors(dtype=torch.bfloat16 if case == "bf16" else torch.float32)
    drawn = torch.randint(0, 40, (5, 6)) if case == "given" else None
    rng = torch.tensor([1, 2, 3]) if case == "device numbers" else None
    count = {"given": -2, "all": -1}.get(case, 6)
    with_slope = case != "no gradient"
    queries.requires_grad_(with_slope)
    torch.library.opcheck(
        torch.ops.coophash.bank_contrast.default,
        (queries, codes, positives, drawn, rng, count, 0.9, False, with_slope, 1, 2, 3),
    )


def objective(queries, codes, positives, step):
    hidden = torch.nn.functional.normalize(torch.tanh(queries), dim=-1)
    loss = bank_contrast(hidden, codes, positives, 6, temperature=0.9, seed=1, step=step)
    return loss.mean(1).sum()


def test_one_graph_for_all_steps():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(objective, fullgraph=True, backend=counter)
    queries, codes, positives = tensors()
    for step in range(3, 7):
        slopes = []
        for function in (compiled, objective):
            leaf = queries.clone().requires_grad_()
            function(leaf, codes, positives, step).backward()
            slopes.append(leaf.grad)
        torch.testing.assert_close(*slopes)
    assert counter.frame_count <= 2


def test_export():
    class Loss(torch.nn.Module):
        def forward(self, queries, codes, positives, step):
            return bank_contrast(queries, codes, positives, 6, temperature=0.9, step=step)

    queries, codes, positives = tensors()
    batch, rows = torch.export.Dim("batch"), torch.export.Dim("rows", max=2**31 - 1)
    step = torch.tensor(4)
    program = torch.export.export(
        Loss(), (queries, codes, positives, step),
        dynamic_shapes=({1: batch}, {0: rows}, {0: batch}, None),
    )  # fmt: skip
    assert "coophash.bank_contrast" in program.graph_module.code
    queries, codes, positives = tensors(batch=3, rows=77, seed=1)
    expected = bank_contrast(queries, codes, positives, 6, temperature=0.9, step=4)
    assert torch.equal(program.module()(queries, codes, positives, step), expected)


Q, C, P = tensors(batch=2, bits=10, rows=4)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "queries must be a torch.Tensor, got list", {"queries": [1.0]}),
        (TypeError, "queries must be float32.*got torch.int64", {"queries": Q.long()}),
        (ValueError, r"queries must be \(B, L\) or", {"queries": Q[0, 0]}),
        (ValueError, "1 to 4096 bits", {"queries": torch.zeros(2, 5000)}),
        (TypeError, "codes must be a torch.Tensor", {"codes": None}),
        (TypeError, r"codes must be uint8 \(n, 2\) for 10 bits.*pack", {"codes": C.float()}),
        (ValueError, r"codes must be uint8 \(n, 2\) for 10 bits", {"codes": C[:, :1]}),
        (ValueError, "codes must have 1 to 2..31 - 1 rows, got 0", {"codes": C[:0]}),
        (ValueError, "codes must be on the device of queries, cpu", {"codes": C.to("meta")}),
        (TypeError, "positives must be int32 or int64, got torch.float32", {"positives": P / 2}),
        (ValueError, r"positives must have the shape \(2,\)", {"positives": P[:1]}),
        (ValueError, "positives must be rows of codes, 0 … 3, got 4", {"positives": P * 0 + 4}),
        (ValueError, "positives must be rows of codes, 0 … 3, got -1", {"positives": P * 0 - 1}),
        (ValueError, "negatives must be 1 to", {"negatives": 0}),
        (TypeError, "negatives must be a number of draws, .* got float", {"negatives": 2.0}),
        (TypeError, "negatives must be a number of draws, .* got bool", {"negatives": True}),
        (TypeError, "negatives must be int32", {"negatives": torch.zeros(2, 3)}),
        (ValueError, r"negatives must be \(B, K\)", {"negatives": P}),
        (ValueError, r"negatives must have the shape \(2, 3\)",
         {"negatives": torch.zeros(1, 3).long()}),
        (ValueError, "negatives must be rows of codes", {"negatives": torch.full((2, 3), 4)}),
        (ValueError, "negatives must be on the device of queries",
         {"negatives": torch.zeros(2, 3, device="meta").long()}),
        (ValueError, "exclude_positive is for draws",
         {"negatives": None, "exclude_positive": True}),
        (ValueError, "bank of at least 2 rows",
         {"codes": C[:1], "positives": P * 0, "exclude_positive": True}),
        (ValueError, "temperature must be a finite number > 0", {"temperature": 0.0}),
        (ValueError, "temperature must be a finite number > 0", {"temperature": math.nan}),
        (TypeError, "temperature must be a number", {"temperature": "1"}),
        (ValueError, "seed must be in 0", {"seed": -1}),
        (TypeError, "step must be an integer, got float", {"step": 1.0}),
        (ValueError, "chain must be an integer or a tensor of one", {"chain": torch.zeros(1)}),
    ],
)  # fmt: skip
def test_bad_input(error, message, change):
    arguments = {"queries": Q, "codes": C, "positives": P, "negatives": 3, "temperature": 0.9}
    with pytest.raises(error, match=message):
        bank_contrast(**(arguments | change))


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [10, 16, 48, 128, 512, 2056])
@pytest.mark.parametrize("sets", [1, 2, 3])
@pytest.mark.parametrize("negatives", ["drawn", "excluded", "given", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_equals_the_formula(bits, sets, negatives, dtype):
    queries, codes, positives = tensors(sets, 33, bits, 3001, dtype)
    count, excluded = 5000, negatives == "excluded"
    drawn = torch.from_numpy(
        bank_draws(33, count, 3001, seed=7, positives=positives.numpy() if excluded else None)
    )
    given = {"given": drawn.cuda().int(), "all": None}.get(negatives, count)
    leaf = queries.cuda().requires_grad_()
    loss = bank_contrast(
        leaf, codes.cuda(), positives.cuda(), given, temperature=0.9, seed=7,
        exclude_positive=excluded,
    )  # fmt: skip
    loss.sum().backward()
    expected, slope = bank_contrast_reference(
        queries.double(), codes, positives, None if negatives == "all" else drawn, 0.9
    )
    torch.testing.assert_close(loss.cpu().double(), expected, rtol=0, atol=1e-5)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(leaf.grad.cpu().double(), slope, rtol=2 * eps, atol=1e-6)


@pytest.mark.gpu
def test_triton_is_repeatable_and_marks_rows_outside():
    queries, codes, positives = (t.cuda() for t in tensors(2, 64, 128, 9001))
    losses = [bank_contrast(queries, codes, positives, 4096, temperature=0.9) for _ in range(3)]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])
    positives[5] = 9001
    loss = bank_contrast(queries, codes, positives, 4096, temperature=0.9)
    assert loss.isnan().nonzero().tolist() == [[0, 5], [1, 5]]


@pytest.mark.gpu
def test_captured_graph_draws_anew_at_each_replay():
    queries, codes, positives = (t.cuda() for t in tensors(2, 16, 64, 500))
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    options = {"temperature": 0.9, "seed": 3}
    bank_contrast(queries, codes, positives, 100, step=step, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = bank_contrast(queries, codes, positives, 100, step=step, **options)
        step += 1
    for i in range(3):
        graph.replay()
        expected = bank_contrast(
            queries.cpu(), codes.cpu(), positives.cpu(), 100, step=i, **options
        )
        torch.testing.assert_close(loss.cpu(), expected, rtol=0, atol=1e-5)
