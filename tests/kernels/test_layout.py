"""Walking tensors of any strides: offsets against PyTorch's own, and which writes may collide."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from coophash.kernels._layout import collapse, overlaps_partly  # noqa: E402


def offsets(sizes, strides):
    """Memory offset of each element in row-major order."""
    grid = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))
    return (grid * torch.tensor(strides)).sum(1)


@st.composite
def views(draw):
    """Two tensors of one shape: slices, permutations and expansions of memory that counts up."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    tensors = []
    for _ in range(2):
        steps = [draw(st.integers(1, 2)) for _ in shape]
        expanded = [draw(st.integers(0, 5)) == 0 for _ in shape]
        order = draw(st.permutations(range(len(shape))))
        own = [1 if e else s * step for s, step, e in zip(shape, steps, expanded, strict=True)]
        memory = torch.empty([own[d] for d in order])
        torch.arange(memory.numel(), out=memory.view(-1))
        view = memory.permute(*[order.index(d) for d in range(len(shape))])
        cut = view[tuple(slice(None, None, s) for s in steps)]
        tensors.append(cut.expand(shape))
    return tensors


@given(views())
@settings(max_examples=200, deadline=None)
def test_offsets_equal_those_of_pytorch(tensors):
    found = collapse(tensors)
    if found is None:
        assert tensors[0].dim() > 4
        return
    sizes, strides = found
    for tensor, stride in zip(tensors, strides, strict=True):
        expected = tensor.reshape(-1).long()  # each element holds its own offset
        if stride is None:
            assert torch.equal(torch.arange(tensor.numel()), expected)
        else:
            assert torch.equal(offsets(sizes, stride), expected)


def test_dimensions_that_hold_together_are_merged():
    x = torch.empty(2, 3, 4, 5, 6, 7, 8)[:, :, 1:]
    # Two dimensions: what is before the slice, and the slice with all that follows it.
    strides = (0, 0, 4 * 1680, 1)
    assert collapse([x, None, x]) == ((1, 1, 6, 3 * 1680), [strides, None, strides])
    assert collapse([torch.empty(2, 3), torch.empty(2, 3)]) == (None, [None, None])
    assert collapse([torch.empty(4, 4, 4, 4, 4)[::2, ::2, ::2, ::2, ::2]]) is None


def test_overlaps():
    base = torch.empty(10)
    assert not overlaps_partly(base[1:], None)
    assert not overlaps_partly(base[1:], torch.empty(9))
    assert not overlaps_partly(base[1:], base[1:])
    assert overlaps_partly(base[1:], base[:-1])
    square = torch.empty(3, 3)
    assert overlaps_partly(square, square.t())
    assert overlaps_partly(base, base.view(torch.int32))
