"""The op sign_pack on the CPU: the rule of coophash.pack, its flag, compile, export, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import coophash as ch  # noqa: E402
from coophash.codes import MAX_BITS  # noqa: E402
from coophash.kernels import raise_for_nan, sign_pack, signs  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def new_flag(device="cpu"):
    return torch.zeros(1, dtype=torch.int32, device=device)


def outputs_of(rows, bits, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(rows, bits, generator=generator)
    places = torch.rand(rows, bits, generator=generator)
    for below, value in ((0.2, -math.inf), (0.15, math.inf), (0.1, -0.0), (0.05, 0.0)):
        outputs[places < below] = value
    return outputs.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 7, 8, 9, 31, 32, 48, 64, 100, 4096])
def test_the_rule_is_that_of_pack(bits, dtype):
    outputs = outputs_of(11, bits, dtype)
    codes = sign_pack(outputs)
    assert codes.dtype == torch.uint8 and codes.is_contiguous()
    expected = np.packbits((outputs.double() >= 0).numpy(), axis=1, bitorder="little")
    np.testing.assert_array_equal(codes, expected)
    assert torch.equal(codes, ch.pack(outputs))


@pytest.mark.parametrize("layout", ["transposed", "every other", "expanded", "no rows"])
def test_layouts(layout):
    outputs = outputs_of(64, 64)
    view = {
        "transposed": outputs.t(),
        "every other": outputs[1::2, ::2],
        "expanded": outputs[:1].expand(9, -1),
        "no rows": outputs[:0],
    }[layout]
    assert torch.equal(sign_pack(view), ch.pack(view))


def test_limits_are_those_of_pack():
    assert signs.MAX_BITS == MAX_BITS


def test_nan_raises_as_pack_does():
    outputs = outputs_of(9, 20)
    outputs[4, 17] = math.nan
    with pytest.raises(ValueError) as ours:
        sign_pack(outputs)
    with pytest.raises(ValueError) as packs:
        ch.pack(outputs)
    assert "row 4, bit 17" in str(ours.value) and str(ours.value) == str(packs.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_flag_for_many_batches(dtype):
    flag = new_flag()
    batches = [outputs_of(5, 12, dtype, seed) for seed in range(3)]
    for batch in batches:
        sign_pack(batch, nan_flag=flag)
    raise_for_nan(flag)
    batches[1][0, 11] = math.nan
    for batch in batches:
        codes = sign_pack(batch, nan_flag=flag)
        assert codes.shape == (5, 2)
    assert flag.tolist() == [1]
    with pytest.raises(ValueError, match="outputs must not be NaN, one of those packed is"):
        raise_for_nan(flag)


def test_a_nan_has_bit_0():
    codes = sign_pack(torch.tensor([[math.nan, 1.0, -math.nan]]), nan_flag=new_flag())
    assert codes.tolist() == [[0b010]]


def test_no_gradient_passes():
    outputs = outputs_of(3, 8).requires_grad_()
    assert not sign_pack(outputs).requires_grad


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    op = torch.ops.coophash.sign_pack.default
    torch.library.opcheck(op, (outputs_of(5, 12, dtype), new_flag()))
    torch.library.opcheck(op, (outputs_of(12, 5, dtype).t(), new_flag()))


def head(features, weight, flag):
    return sign_pack(features @ weight, nan_flag=flag)


def test_compile():
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    features, weight, flag = outputs_of(4, 4).nan_to_num(), torch.randn(4, 12), new_flag()
    assert torch.equal(compiled(features, weight, flag), head(features, weight, flag))
    assert not flag.any()
    compiled(features * math.nan, weight, flag)
    assert flag.all()


def test_compile_needs_a_flag():
    torch._dynamo.reset()
    compiled = torch.compile(sign_pack, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="sign_pack must have nan_flag="):
        compiled(torch.ones(2, 8))


def test_export():
    class Head(torch.nn.Module):
        def forward(self, features, weight, flag):
            return head(features, weight, flag)

    batch = torch.export.Dim("batch")
    arguments = (torch.randn(4, 6), torch.randn(6, 12), new_flag())
    program = torch.export.export(Head(), arguments, dynamic_shapes=({0: batch}, None, None))
    assert "coophash.sign_pack" in program.graph_module.code
    arguments = (torch.randn(9, 6), torch.randn(6, 12), new_flag())
    assert torch.equal(program.module()(*arguments), head(*arguments))


X = torch.zeros(2, 8)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "outputs must be a torch.Tensor, got ndarray", {"outputs": np.zeros((2, 8))}),
        (TypeError, "outputs must be float32.*got torch.int64", {"outputs": X.long()}),
        (TypeError, "outputs must be float32.*got torch.bool", {"outputs": X.bool()}),
        (ValueError, r"outputs must be \(N, bits\), got \(8,\): one output", {"outputs": X[0]}),
        (ValueError, r"outputs must have 1 to 4096 bits, got \(2, 0\)", {"outputs": X[:, :0]}),
        (ValueError, "outputs must have 1 to 4096 bits", {"outputs": torch.zeros(1, 4097)}),
        (TypeError, "nan_flag must be a tensor of int32, got bool", {"nan_flag": False}),
        (TypeError, "nan_flag must be a tensor of int32, got torch.f", {"nan_flag": X}),
        (ValueError, r"nan_flag must be \(1,\)", {"nan_flag": torch.zeros(2).int()}),
        (ValueError, "nan_flag must be.*on meta", {"nan_flag": new_flag("meta")}),
    ],
)
def test_bad_input(error, message, arguments):
    with pytest.raises(error, match=message):
        sign_pack(**({"outputs": X} | arguments))


def test_a_model_encodes_as_pack_packs():
    """`encode` packs each batch where it is; the codes are those of all outputs together."""
    model = ch.CoopHash(bits=12, classes=3, image_shape=(1, 8, 8))
    images = torch.rand(7, 1, 8, 8) * 2 - 1
    expected = ch.pack(model.outputs(images))
    model.train()
    assert torch.equal(model.encode(images, batch_size=3), expected)
    np.testing.assert_array_equal(model.encode(images.numpy()), expected.numpy())
    assert model.encode(images[:0]).shape == (0, 2)
    with torch.no_grad():
        model.descriptor.hash_head.bias[5] = math.nan
    with pytest.raises(ValueError, match="outputs must not be NaN"):
        model.encode(images)
    assert model.training


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 7, 16, 32, 48, 64, 100, 128, 4096])
def test_triton_equals_numpy(bits, dtype):
    outputs = outputs_of(1001, bits, dtype)
    half = max(1, bits // 2)
    views = {
        "all": lambda x: x,
        "columns": lambda x: x[:, :half],
        "rows": lambda x: x[::2],
        "transposed": lambda x: x.t().contiguous().t(),
    }
    there = outputs.cuda()
    for name, view in views.items():  # made on each side: a copy would close the gaps
        codes = ch.pack(view(there))
        assert codes.is_cuda
        np.testing.assert_array_equal(codes.cpu(), ch.pack(view(outputs)), err_msg=name)
    outputs[1000, bits - 1] = math.nan
    flag = new_flag("cuda")
    sign_pack(outputs.cuda(), nan_flag=flag)
    assert flag.item() == 1
    with pytest.raises(ValueError, match=f"row 1000, bit {bits - 1}"):
        ch.pack(outputs.cuda())


@pytest.mark.gpu
def test_a_captured_graph_packs():
    outputs, flag = torch.ones(100, 64, device="cuda"), new_flag("cuda")
    sign_pack(outputs, nan_flag=flag)  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        codes = sign_pack(outputs, nan_flag=flag)
    outputs.copy_(outputs_of(100, 64))
    graph.replay()
    assert torch.equal(codes.cpu(), ch.pack(outputs.cpu())) and not flag.any()
    outputs[3, 4] = math.nan
    graph.replay()
    assert flag.item() == 1


@pytest.mark.gpu
@pytest.mark.slow
def test_more_than_two_billion_outputs():
    rows = (1 << 31) // 64 + 3
    if torch.cuda.mem_get_info()[0] < 8 * 2**30:
        pytest.skip("needs 8 GiB of free GPU memory")
    outputs = torch.full((rows, 64), -1.0, dtype=torch.bfloat16, device="cuda")
    outputs[-1, 63] = 1.0
    codes = sign_pack(outputs)
    assert codes[-1].tolist() == [0] * 7 + [128] and not codes[:-1].any()
