"""How a kernel walks tensors of any strides: row-major element number -> offset in each tensor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Sizes = tuple[int, int, int, int]


def collapse(tensors: Sequence[Tensor | None]) -> tuple[Sizes | None, list[Sizes | None]] | None:
    """Sizes and strides of tensors of one shape over the fewest dimensions that hold for all.

    Returns:
        (sizes, strides of each tensor), filled up to four dimensions in front; None for a tensor
        that is None, and None for all where every tensor is row-major without gaps. None instead of
        the pair where four dimensions do not suffice.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if all(tensor.is_contiguous() for tensor in given):
        return None, [None] * len(tensors)
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in given]
    for dim, size in enumerate(given[0].shape):
        if size == 1:
            continue
        here = [tensor.stride(dim) for tensor in given]
        if sizes and all(known[-1] == size * s for known, s in zip(strides, here, strict=True)):
            sizes[-1] *= size
            for known, s in zip(strides, here, strict=True):
                known[-1] = s
            continue
        sizes.append(size)
        for known, s in zip(strides, here, strict=True):
            known.append(s)
    if len(sizes) > 4:
        return None
    filled = iter(_fill(known, 0) for known in strides)
    return _fill(sizes, 1), [None if tensor is None else next(filled) for tensor in tensors]


def _fill(values: list[int], value: int) -> Sizes:
    a, b, c, d = [value] * (4 - len(values)) + values
    return a, b, c, d


def overlaps_partly(out: Tensor, other: Tensor | None) -> bool:
    """Whether writing `out` element by element may change elements of `other` not yet read."""
    if other is None or out.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    same = out.data_ptr() == other.data_ptr() and out.stride() == other.stride()
    return not (same and out.dtype == other.dtype)
