"""The op langevin_step on the CPU: its reference, registration, autograd, compile, bad input.

Triton's side is in test_interpreter.py (parity), test_cubins.py (object code) and at the end of
this file (on a GPU).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from coophash.kernels import langevin_step, langevin_step_reference, philox_normal  # noqa: E402

SIZES = [1, 63, 500, 1000, 4097]
INF = math.inf


def tensors(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, grad, noise = (torch.randn(shape, generator=generator) for _ in range(3))
    return x.to(dtype), grad.to(dtype), noise


def oracle(x, grad, noise, a, b, clamp=None, grad_clip=None, reference_std=None):
    """The step in NumPy, in double precision."""
    x, drift = x.double().numpy(), grad.double().numpy()
    if grad_clip is not None:
        drift = np.clip(drift, -grad_clip, grad_clip)
    if reference_std is not None:
        drift = drift + x / reference_std**2
    moved = x - a * drift + b * np.asarray(noise, dtype=np.float64).reshape(x.shape)
    return moved if clamp is None else np.clip(moved, *clamp)


def assert_near(name, actual, expected, dtype=torch.float32):
    """Equal up to the rounding of one result in `dtype`; the message names the worst element."""
    expected = np.asarray(expected)
    error = np.abs(actual.double().numpy() - expected)
    allowed = 4 * torch.finfo(dtype).eps * (1 + np.abs(expected))
    worst = np.unravel_index(np.argmax(error - allowed), error.shape) if error.size else ()
    assert np.all(error <= allowed), (
        f"{name} {actual.shape} {actual.dtype}: at {worst} {actual[worst]} for {expected[worst]}"
    )


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_forward(n, dtype):
    x, grad, noise = tensors(n, dtype)
    options = {"clamp": (-0.9, 1.1), "grad_clip": 0.7, "reference_std": 2.0}
    moved = langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, noise=noise, **options)
    assert moved.dtype == dtype
    near = torch.float32 if dtype == torch.float64 else dtype
    assert_near("x'", moved, oracle(x, grad, noise, 0.5, 0.1, **options), near)
    drawn = langevin_step(
        x, grad, grad_scale=0.5, noise_scale=0.1, seed=3, step=4, chain=5, **options
    )
    epsilon = philox_normal(n, seed=3, step=4, chain=5)
    assert_near("drawn", drawn, oracle(x, grad, epsilon, 0.5, 0.1, **options), near)


def test_float64_keeps_its_precision():
    x, grad, noise = tensors((3, 4), torch.float64)
    moved = langevin_step(x, grad, grad_scale=0.3, noise_scale=0.2, noise=noise.double())
    np.testing.assert_allclose(moved, oracle(x, grad, noise, 0.3, 0.2), rtol=1e-15, atol=1e-15)


def test_mixed_dtypes():
    x, grad, noise = tensors((5, 7))
    moved = langevin_step(x, grad.bfloat16(), grad_scale=0.5, noise_scale=0.1, noise=noise)
    assert moved.dtype == torch.float32
    assert_near("x'", moved, oracle(x, grad.bfloat16(), noise, 0.5, 0.1))


def layouts():
    x, grad, _ = tensors((4, 3, 8, 6))
    return {
        "channels_last": (x.to(memory_format=torch.channels_last), grad),
        "both channels_last": tuple(t.to(memory_format=torch.channels_last) for t in (x, grad)),
        "sliced": (x[:, :, ::2, 1:], grad[:, :, 1::2, :-1]),
        "transposed": (x.transpose(0, 3), grad.transpose(0, 3).contiguous()),
        "expanded gradient": (x, grad[:1, :1].expand_as(x)),
        "scalar": (x[0, 0, 0, 0], grad[0, 0, 0, 0]),
    }


@pytest.mark.parametrize("layout", layouts())
def test_layouts(layout):
    x, grad = layouts()[layout]
    moved = langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=9)
    # The noise follows the row-major order of the elements, whatever the strides.
    assert_near("x'", moved, oracle(x, grad, philox_normal(x.numel(), seed=9), 0.5, 0.1))
    assert moved.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0, 2)])
def test_empty(shape):
    x = torch.empty(shape)
    moved = langevin_step(x, x, grad_scale=0.5, noise_scale=0.1, seed=1, clamp=(-1, 1))
    assert moved.shape == x.shape and moved.dtype == x.dtype
    langevin_step(x, x, grad_scale=0.5, noise_scale=0.1, out=x)


def test_nan_and_infinity_are_not_hidden_by_the_clamp():
    x = torch.tensor([0.0, math.nan, 0.0, 0.0])
    grad = torch.tensor([0.0, 0.0, math.nan, INF])
    moved = langevin_step(x, grad, grad_scale=1.0, clamp=(-1, 1))
    assert moved.isnan().tolist() == [False, True, True, False]
    assert moved[3] == -1


def test_out_and_in_place():
    x, grad, _ = tensors((6, 10))
    expected = langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=4)
    out = torch.empty(10, 6).t()
    assert langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=4, out=out) is out
    assert torch.equal(out, expected)
    before = x.clone()
    langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=4, out=x)
    assert torch.equal(x, expected) and not torch.equal(x, before)


def test_out_that_overlaps_x_shifted():
    base = torch.randn(101)
    x, out, grad = base[:-1], base[1:], torch.randn(100)
    expected = langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=4)
    langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=4, out=out)
    assert torch.equal(out, expected)


def test_tensors_for_numbers():
    x, grad, _ = tensors((3, 50))
    expected = langevin_step(
        x, grad, grad_scale=0.5, noise_scale=0.25, seed=2**64 - 7, step=8, chain=9
    )
    as_tensors = langevin_step(
        x,
        grad,
        grad_scale=torch.tensor(0.5),
        noise_scale=torch.tensor([0.25]),
        seed=torch.tensor(-7),  # 2**64 - 7 in a signed integer
        step=torch.tensor([8], dtype=torch.int32),
        chain=torch.tensor(9),
    )
    assert torch.equal(expected, as_tensors)
    mixed = langevin_step(
        x, grad, grad_scale=torch.tensor(0.5), noise_scale=0.25, seed=2**64 - 7,
        step=torch.tensor(8), chain=9,
    )  # fmt: skip
    assert torch.equal(expected, mixed)


@pytest.mark.parametrize("given", [True, False])
def test_gradcheck(given):
    x, grad, noise = (t.double().requires_grad_() for t in tensors((3, 5)))
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.3))

    def step(x, grad, noise, a, b):
        return langevin_step(
            x, grad, grad_scale=a, noise_scale=b if given else 0.0, noise=noise if given else None,
            clamp=(-0.8, 0.8), grad_clip=0.9, reference_std=1.5,
        )  # fmt: skip

    arguments = (x, grad, noise, a, b)
    assert torch.autograd.gradcheck(step, arguments)
    moved = step(*arguments)
    assert (moved.abs() == 0.8).any() and (moved.abs() < 0.8).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_backward_equals_the_reference(dtype):
    upstream = torch.randn(4, 9)
    results = []
    for function in (langevin_step, langevin_step_reference):
        x, grad, noise = (t.requires_grad_() for t in tensors((4, 9), dtype))
        if function is langevin_step:
            moved = function(
                x, grad, grad_scale=0.5, noise_scale=0.25, noise=noise, clamp=(-1, 1),
                grad_clip=0.7, reference_std=2.0,
            )  # fmt: skip
        else:
            moved = function(x, grad, noise, 0.5, 0.25, -1, 1, 0.7, 0.25)
        (moved.float() * upstream).sum().backward()
        results.append((x.grad, grad.grad, noise.grad))
    for name, ours, reference in zip(("x", "grad", "noise"), *results, strict=True):
        assert ours.dtype == reference.dtype
        torch.testing.assert_close(ours, reference, msg=lambda m, name=name: f"d/d{name}: {m}")


def op_arguments(x, grad, noise=None, scales=None, rng=None):
    return (x, grad, noise, scales, rng, 0.5, 0.1, -1.0, 1.0, INF, 0.0, 3, 4, 5)


@pytest.mark.parametrize(
    "case", ["noise", "drawn", "device numbers", "channels_last", "bf16", "out"]
)
def test_opcheck(case):
    x, grad, noise = tensors((2, 3, 4, 5), torch.bfloat16 if case == "bf16" else torch.float32)
    op = torch.ops.coophash.langevin_step.default
    if case == "noise":
        x, grad, noise = (t.requires_grad_() for t in (x, grad, noise))
        arguments = op_arguments(x, grad, noise)
    elif case == "device numbers":
        arguments = op_arguments(x, grad, None, torch.ones(2), torch.tensor([1, 2, 3]))
    elif case == "channels_last":
        arguments = op_arguments(x.to(memory_format=torch.channels_last), grad)
    elif case == "out":
        op = torch.ops.coophash.langevin_step_out.default
        plain = op_arguments(x, grad)
        arguments = (*plain[:3], torch.empty_like(x), *plain[3:])
    else:
        arguments = op_arguments(x, grad)
    torch.library.opcheck(op, arguments)


def test_fake_checks_shapes_at_trace_time():
    with pytest.raises(RuntimeError, match="grad must have the shape"):
        torch.ops.coophash.langevin_step(
            *op_arguments(torch.empty(3, device="meta"), torch.empty(4, device="meta"))
        )


def two_steps(x, grad, step):
    x = langevin_step(x, grad, grad_scale=0.5, noise_scale=0.1, seed=1, step=step)
    out = torch.sin(x)
    langevin_step(out, grad, grad_scale=0.5, noise_scale=0.1, seed=1, step=step + 1, out=out)
    return out * 2


def test_one_graph_for_all_steps():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(two_steps, fullgraph=True, backend=counter)
    x, grad, _ = tensors((4, 65))
    for step in range(3, 9):
        assert torch.equal(compiled(x, grad, step), two_steps(x, grad, step))
    # One for the first step number, one for any other.
    assert counter.frame_count <= 2


def test_inductor():
    x, grad, _ = tensors((4, 65))
    step = torch.tensor(3)
    compiled = torch.compile(two_steps, fullgraph=True)
    torch.testing.assert_close(compiled(x, grad, step), two_steps(x, grad, step))


def test_export():
    class Step(torch.nn.Module):
        def forward(self, x, grad, rng):
            return langevin_step(
                x, grad, grad_scale=0.5, noise_scale=0.1, seed=rng[0], step=rng[1], clamp=(-1, 1)
            )

    x, grad, _ = tensors((4, 65))
    rng = torch.tensor([3, 4])
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Step(), (x, grad, rng), dynamic_shapes=({0: batch}, {0: batch}, None)
    )
    assert "coophash.langevin_step" in program.graph_module.code
    x, grad, _ = tensors((7, 65), seed=1)
    expected = langevin_step(
        x, grad, grad_scale=0.5, noise_scale=0.1, seed=3, step=4, clamp=(-1, 1)
    )
    assert torch.equal(program.module()(x, grad, rng), expected)


STATISTICS = {"clamp": (-0.9, 1.1), "grad_clip": 0.7, "reference_std": 2.0}


@pytest.mark.parametrize("shape", [(7,), (5, 3), (3, 2, 9, 7), (0, 4), (4, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_statistics(shape, dtype):
    x, grad, noise = tensors(shape, dtype)
    options = {"grad_scale": 0.5, "noise_scale": 0.1, "noise": noise, **STATISTICS}
    moved, found = langevin_step(x, grad, statistics=True, **options)
    assert torch.equal(moved, langevin_step(x, grad, **options))
    rows = (shape[0], math.prod(shape[1:]))
    step = (0.5, 0.1, None, STATISTICS["grad_clip"], STATISTICS["reference_std"])
    free = oracle(x, grad, noise, *step).reshape(rows)
    before, slope, after = (t.double().numpy().reshape(rows) for t in (x, grad, moved))
    expected = {
        "grad_square": (slope**2).sum(1),
        "update_square": ((after - before) ** 2).sum(1),
        "clamped": ((free < -0.9) | (free > 1.1)).sum(1),
        "clipped": (np.abs(slope) > 0.7).sum(1),
    }
    for name, value in found._asdict().items():
        assert value.shape == shape[:1]
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    assert found.grad_square.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.clamped.dtype == found.clipped.dtype == torch.int64


def test_statistics_of_a_step_in_place():
    x, grad, _ = tensors((6, 10))
    options = {"grad_scale": 0.5, "noise_scale": 0.1, "seed": 4, "statistics": True, **STATISTICS}
    expected, statistics = langevin_step(x, grad, **options)
    moved, in_place = langevin_step(x, grad, out=x, **options)
    assert moved is x and torch.equal(x, expected)
    assert all(torch.equal(a, b) for a, b in zip(statistics, in_place, strict=True))
    assert (statistics.clamped > 0).any() and (statistics.clipped > 0).any()


def test_nan_shows_in_the_statistics():
    x, grad = torch.zeros(3, 4), torch.zeros(3, 4)
    grad[1, 2], x[2, 0] = math.nan, math.nan
    _, found = langevin_step(x, grad, grad_scale=1.0, clamp=(-1, 1), statistics=True)
    assert found.grad_square.isnan().tolist() == [False, True, False]
    assert found.update_square.isnan().tolist() == [False, True, True]
    assert found.clamped.tolist() == [0, 0, 0]


@pytest.mark.parametrize("case", ["noise", "drawn", "channels_last", "bf16", "out", "empty"])
def test_opcheck_with_statistics(case):
    x, grad, noise = tensors((2, 3, 4, 5), torch.bfloat16 if case == "bf16" else torch.float32)
    op = torch.ops.coophash.langevin_step_statistics.default
    if case == "noise":
        arguments = op_arguments(*(t.requires_grad_() for t in (x, grad, noise)))
    elif case == "channels_last":
        arguments = op_arguments(x.to(memory_format=torch.channels_last), grad)
    elif case == "empty":
        arguments = op_arguments(x[:0], grad[:0])
    elif case == "out":
        op = torch.ops.coophash.langevin_step_statistics_out.default
        plain = op_arguments(x, grad)
        arguments = (*plain[:3], torch.empty_like(x), *plain[3:])
    else:
        arguments = op_arguments(x, grad)
    torch.library.opcheck(op, arguments)


def test_a_step_with_statistics_is_differentiable_in_x_but_not_in_them():
    results = []
    for statistics in (False, True):
        x, grad, noise = (t.requires_grad_() for t in tensors((4, 9)))
        moved = langevin_step(
            x, grad, grad_scale=0.5, noise_scale=0.1, noise=noise, statistics=statistics,
            **STATISTICS,
        )  # fmt: skip
        if statistics:
            moved, found = moved
            assert not any(t.requires_grad for t in found)
        moved.square().sum().backward()
        results.append((x.grad, grad.grad, noise.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_statistics_compile_into_one_graph():
    def watched(x, grad):
        moved, found = langevin_step(x, grad, grad_scale=0.5, clamp=(-1, 1), statistics=True)
        return moved, found.grad_square.sqrt(), found.clamped

    x, grad, _ = tensors((4, 65))
    compiled = torch.compile(watched, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(compiled(x, grad), watched(x, grad), strict=True):
        assert torch.equal(ours, expected)


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "x must be a torch.Tensor, got list", {"x": [1.0]}),
        (TypeError, "x must be float32.*got torch.int64", {"x": X.long()}),
        (TypeError, "grad must be a torch.Tensor", {"grad": 1.0}),
        (ValueError, r"grad must have the shape of x, \(2, 3\), got \(3,\)", {"grad": X[0]}),
        (ValueError, "grad must be on the device of x, cpu", {"grad": X.to("meta")}),
        (ValueError, "noise must have the shape", {"noise": X[:1]}),
        (ValueError, "out must have the shape", {"out": X[:1]}),
        (TypeError, "out must have the dtype of x", {"out": X.double()}),
        (ValueError, "out must own each of its elements", {"out": torch.zeros(1).expand(2, 3)}),
        (ValueError, "grad_scale must be a finite number >= 0, got -1", {"grad_scale": -1.0}),
        (ValueError, "noise_scale must be a finite.*got nan", {"noise_scale": math.nan}),
        (TypeError, "noise_scale must be a number", {"noise_scale": "1"}),
        (ValueError, "grad_scale must be one number", {"grad_scale": torch.ones(2)}),
        (ValueError, r"clamp must be \(low, high\)", {"clamp": 1.0}),
        (ValueError, "low <= high", {"clamp": (1, -1)}),
        (ValueError, "low <= high", {"clamp": (math.nan, 1)}),
        (ValueError, "grad_clip must be > 0", {"grad_clip": 0.0}),
        (ValueError, "reference_std must be > 0", {"reference_std": -1.0}),
        (ValueError, "seed must be in 0", {"seed": -1}),
        (ValueError, "seed must be in 0", {"seed": 2**64}),
        (ValueError, "step must be in 0", {"step": 2**32}),
        (TypeError, "chain must be an integer, got float", {"chain": 1.0}),
        (ValueError, "seed must be an integer or a tensor of one", {"seed": torch.zeros(2).long()}),
        (ValueError, "step must be an integer or a tensor of one", {"step": torch.zeros(1)}),
    ],
)  # fmt: skip
def test_bad_input(error, message, change):
    arguments = {"x": X, "grad": X, "grad_scale": 0.5, "noise_scale": 0.1} | change
    with pytest.raises(error, match=message):
        langevin_step(arguments.pop("x"), arguments.pop("grad"), **arguments)


def test_statistics_need_samples():
    with pytest.raises(ValueError, match="statistics are per sample"):
        langevin_step(X[0, 0], X[0, 0], grad_scale=0.5, statistics=True)


def test_undifferentiable_uses_say_so():
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match="draws its own noise is not differentiable"):
        langevin_step(x, x.detach(), grad_scale=0.5, noise_scale=0.1)
    with pytest.raises(ValueError, match="out= is not differentiable"):
        langevin_step(x, x.detach(), grad_scale=0.5, out=torch.empty(3))
    with torch.no_grad():
        langevin_step(x, x, grad_scale=0.5, noise_scale=0.1, out=torch.empty(3))


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("n", [*SIZES, 1 << 20, (1 << 20) + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [True, False])
def test_triton_equals_the_reference(n, dtype, given):
    x, grad, noise = tensors(n, dtype)
    options = {"grad_scale": 0.5, "noise_scale": 0.1, "seed": 3, "step": 4, "clamp": (-1, 1)}
    options |= {"grad_clip": 0.7, "reference_std": 2.0}
    expected = langevin_step(x, grad, noise=noise if given else None, **options)
    on_device = langevin_step(
        x.cuda(), grad.cuda(), noise=noise.cuda() if given else None, **options
    )
    atol = 2e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(on_device.cpu(), expected, rtol=0, atol=atol)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (1000, 784), (100_000, 2), (3, 1_000_003)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_statistics(shape, dtype):
    x, grad, _ = tensors(shape, dtype)
    options = {"grad_scale": 0.5, "noise_scale": 0.1, "seed": 3, "statistics": True, **STATISTICS}
    moved, expected = langevin_step(x, grad, **options)
    runs = [langevin_step(x.cuda(), grad.cuda(), **options) for _ in range(2)]
    atol = 2e-6 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(runs[0][0].cpu(), moved, rtol=0, atol=atol)
    assert torch.equal(
        runs[0][0], langevin_step(x.cuda(), grad.cuda(), **options | {"statistics": False})
    )
    for name, first, second in zip(expected._fields, runs[0][1], runs[1][1], strict=True):
        assert torch.equal(first, second), name  # bit for bit
        ours, reference = first.double().cpu(), getattr(expected, name).double()
        # A count may differ where an element stands within rounding of a bound.
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=2.0)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", layouts())
def test_triton_layouts(layout):
    x, grad = layouts()[layout]
    options = {"grad_scale": 0.5, "noise_scale": 0.1, "seed": 9}
    expected = langevin_step(x, grad, **options)
    # .to keeps strides, but not gaps and expansions: those are made again on the device.
    on_device = torch.as_strided(
        torch.empty(x.untyped_storage().nbytes() // 4, device="cuda").copy_(
            torch.as_strided(x, (x.untyped_storage().nbytes() // 4,), (1,), 0)
        ),
        x.shape, x.stride(), x.storage_offset(),
    )  # fmt: skip
    moved = langevin_step(on_device, grad.cuda().expand_as(on_device), **options)
    torch.testing.assert_close(moved.cpu(), expected, rtol=0, atol=2e-6)
    langevin_step(on_device, grad.cuda(), out=on_device, **options)
    torch.testing.assert_close(on_device.cpu(), expected, rtol=0, atol=2e-6)


@pytest.mark.gpu
def test_captured_graph_draws_new_noise_at_each_replay():
    x, grad = torch.zeros(1000, device="cuda"), torch.zeros(1000, device="cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    options = {"grad_scale": 0.5, "noise_scale": 1.0, "seed": 3}
    langevin_step(x, grad, step=step, **options)  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        moved = langevin_step(x, grad, step=step, **options)
        step += 1
    for i in range(3):
        graph.replay()
        expected = philox_normal(1000, seed=3, step=i)
        np.testing.assert_allclose(moved.cpu(), expected, rtol=0, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.slow
def test_more_than_two_billion_elements():
    n = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of free GPU memory")
    x = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    langevin_step(x, x, grad_scale=0.0, noise_scale=1.0, seed=3, out=x)
    # The counter of the last elements, from the oracle's own words.
    from coophash.kernels.philox import box_muller, philox4x32

    first = 2**31 + 4096
    words = philox4x32(
        np.array([first], dtype=np.uint64), np.uint64(0), np.uint64(0), np.uint64(0), 3
    )
    expected = np.concatenate(box_muller(words[0], words[1]) + box_muller(words[2], words[3]))
    np.testing.assert_allclose(x[first:].float().cpu(), expected[: n - first], rtol=0, atol=0.02)
