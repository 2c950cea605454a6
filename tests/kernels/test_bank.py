"""bank_update on the CPU: against Eq. 5 written out row by row, registration, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coophash import pack  # noqa: E402
from coophash.kernels import bank_update, bank_update_reference  # noqa: E402


def tensors(sets=2, batch=4, bits=20, items=11, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.normalize(torch.randn(items, bits, generator=generator), dim=1)
    outputs = torch.randn(sets, batch, bits, generator=generator)
    outputs = torch.nn.functional.normalize(outputs, dim=2)
    rows = torch.randperm(items, generator=generator)[:batch]
    return values.to(dtype), pack(values), rows, outputs.to(dtype)


def literal(values, rows, outputs, momentum, normalize):
    """Eq. 5, one row after the other, in double precision; all from the values before."""
    before, after = values.double().numpy(), values.double().numpy().copy()

    def unit(x):
        return x / max(math.sqrt(float((x * x).sum())), 1e-12)

    for place, row in enumerate(rows.tolist()):
        u = sum(h[place].double().numpy() for h in outputs) / len(outputs)
        u = unit(u) if normalize else u
        v = momentum * before[row] + (1 - momentum) * u
        after[row] = unit(v) if normalize else v
    return after


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sets", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_update(dtype, sets, momentum, normalize):
    values, codes, rows, outputs = tensors(sets, dtype=dtype)
    expected = literal(values, rows, outputs, momentum, normalize)
    untouched = torch.ones(len(values), dtype=torch.bool)
    untouched[rows] = False
    before = values.clone()
    bank_update(values, codes, rows, outputs, momentum=momentum, normalize=normalize)
    eps = torch.finfo(dtype).eps if dtype != torch.float32 else 1e-6
    np.testing.assert_allclose(values.double().numpy(), expected, rtol=eps, atol=eps)
    assert torch.equal(values[untouched], before[untouched])
    assert torch.equal(codes, pack(values))


def test_one_set_without_a_dimension():
    values, codes, rows, outputs = tensors(1)
    expected = literal(values, rows, outputs, 0.4, True)
    bank_update(values, codes, rows.int(), outputs[0], momentum=0.4)
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("rows", [[3, 7, 3, 3], [5, 5, 5, 5], [0, 10, 10, 0]])
def test_of_equal_rows_the_last_counts(rows):
    values, codes, _, outputs = tensors()
    # Row by row, from the values before: the last one overwrites.
    expected = literal(values, torch.tensor(rows), outputs, 0.4, True)
    bank_update(values, codes, torch.tensor(rows), outputs, momentum=0.4)
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-6)
    assert torch.equal(codes, pack(values))


def test_the_warm_up_does_not_read_the_old_values():
    values, codes, rows, outputs = tensors()
    expected = literal(values, rows, outputs, 0.0, True)
    values[rows] = math.nan
    bank_update(values, codes, rows, outputs, momentum=0)
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-6)


def test_zeros_stay_and_count_as_plus_one():
    values, codes, rows, outputs = tensors(bits=11)
    values.zero_()
    bank_update(values, codes, rows, outputs * 0, momentum=0.4)
    assert (values == 0).all()
    assert (codes[rows] == torch.tensor([255, 7], dtype=torch.uint8)).all()


def test_codes_are_those_of_the_values_as_stored():
    values, codes, rows, outputs = tensors(dtype=torch.float16)
    values.zero_()
    bank_update(values, codes, rows, outputs * 0 - 1e-7, momentum=0.9, normalize=False)
    assert torch.equal(codes[rows], pack(values[rows]))


def test_strides_and_empty():
    values, codes, rows, outputs = tensors()
    apart, flat = torch.zeros(20, 22).T[::2], torch.zeros(3, 11, dtype=torch.uint8).T
    apart.copy_(values)
    flat.copy_(codes)
    twisted = outputs.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    bank_update(apart, flat, rows.repeat_interleave(2)[::2], twisted, momentum=0.4)
    bank_update(values, codes, rows, outputs, momentum=0.4)
    torch.testing.assert_close(apart, values, rtol=0, atol=1e-6)
    assert torch.equal(flat, codes)
    before = values.clone()
    bank_update(values, codes, rows[:0], outputs[:, :0], momentum=0.4)
    assert torch.equal(before, values)


def test_no_gradient_is_recorded():
    values, codes, rows, outputs = tensors()
    bank_update(values, codes, rows, outputs.requires_grad_(), momentum=0.4)
    assert not values.requires_grad


def test_opcheck():
    values, codes, rows, outputs = tensors()
    torch.library.opcheck(
        torch.ops.coophash.bank_update.default, (values, codes, rows, outputs, 0.4, True)
    )


def test_compile():
    def step(values, codes, rows, outputs):
        bank_update(values, codes, rows, torch.tanh(outputs), momentum=0.4)
        return values.sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (step, compiled):
        values, codes, rows, outputs = tensors()
        results.append((function(values, codes, rows, outputs), values, codes))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_export():
    class Update(torch.nn.Module):
        def __init__(self):
            super().__init__()
            values, codes, _, _ = tensors()
            self.register_buffer("values", values)
            self.register_buffer("codes", codes)

        def forward(self, rows, outputs):
            bank_update(self.values, self.codes, rows, outputs, momentum=0.4)
            return self.values.sum()

    _, _, rows, outputs = tensors()
    program = torch.export.export(Update(), (rows, outputs))
    assert "coophash.bank_update" in program.graph_module.code
    assert program.module()(rows, outputs) == Update()(rows, outputs)


V, C, R, H = tensors(batch=2, bits=10)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "values must be a torch.Tensor", {"values": V.numpy()}),
        (TypeError, "values must be float32", {"values": V.long()}),
        (ValueError, r"values must be \(11, 10\)", {"values": V[:5]}),
        (ValueError, "values must own each", {"values": V[:1].expand(11, 10)}),
        (ValueError, "values must not require", {"values": V.clone().requires_grad_()}),
        (TypeError, "codes must be uint8", {"codes": C.int()}),
        (ValueError, r"codes must be uint8 \(n, 2\)", {"codes": C[:, :1]}),
        (ValueError, "codes must be on the device of values", {"codes": C.to("meta")}),
        (TypeError, "rows must be int32 or int64", {"rows": R.float()}),
        (ValueError, r"rows must have the shape \(2,\)", {"rows": R[:1]}),
        (ValueError, "rows must be rows of values, 0 … 10, got 11", {"rows": R * 0 + 11}),
        (TypeError, "outputs must be a torch.Tensor", {"outputs": None}),
        (TypeError, "outputs must be float32", {"outputs": H.int()}),
        (ValueError, r"outputs must be \(B, L\) or", {"outputs": H[0, 0]}),
        (ValueError, "outputs must be finite", {"outputs": H / 0}),
        (ValueError, "momentum must be in 0 … 1, got 1.5", {"momentum": 1.5}),
        (ValueError, "momentum must be in 0 … 1, got nan", {"momentum": math.nan}),
        (TypeError, "momentum must be a number", {"momentum": "1"}),
    ],
)
def test_bad_input(error, message, change):
    arguments = {"values": V.clone(), "codes": C.clone(), "rows": R, "outputs": H, "momentum": 0.4}
    with pytest.raises(error, match=message):
        bank_update(**(arguments | change))
    if "values" not in change and "codes" not in change:
        assert torch.equal(arguments["values"], V) and torch.equal(arguments["codes"], C)


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [10, 48, 128, 512, 1030])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sets", [1, 2])
def test_triton_equals_the_reference(bits, normalize, sets):
    values, codes, _, outputs = tensors(sets, 300, bits, 1000)
    rows = torch.arange(300) * 7 % 250  # some come twice
    on_device = [t.cuda() for t in (values, codes, rows, outputs)]
    bank_update(*on_device, momentum=0.4, normalize=normalize)
    bank_update_reference(values, codes, rows, outputs, 0.4, normalize)
    torch.testing.assert_close(on_device[0].cpu(), values, rtol=0, atol=1e-6)
    assert torch.equal(on_device[1].cpu(), pack(on_device[0].cpu()))
