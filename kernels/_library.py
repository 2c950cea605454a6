"""Registration of the ops with torch.library: schema, fake, reference, Triton, autograd.

`Library.define` and `Library.impl`, not `custom_op`: a call costs about 25 µs less, and an op is
called at each step of a chain. Not `triton_op`: it fails opcheck on a machine without a driver.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from coophash.kernels._backend import use_triton

_library = torch.library.Library("coophash", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(
    schema: str,
    *,
    reference: Callable[..., Any],
    triton: str,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Define the op `coophash::<schema>` and give it its implementations.

    Args:
        schema: of torch.library, without the namespace. Its first argument is a tensor, whose
            device chooses the implementation.
        reference: plain PyTorch or NumPy; runs on the CPU and wherever Triton does not.
        triton: "module:function" of the launcher, imported when it is first needed.
        fake: shapes, dtypes and checks at trace time.
        backward, setup_context: as in torch.library.register_autograd.

    Returns:
        The op, ready to be called.
    """
    name = schema.split("(")[0]
    _library.define(  # type: ignore[no-untyped-call]
        schema, tags=(torch.Tag.pt2_compliant_tag,)
    )

    def run(*args: Any) -> Any:
        kind = args[0].device.type
        with full_precision(kind):  # a launcher may run the reference too
            if use_triton(kind):
                return _load(triton)(*args)
            return reference(*args)

    # One entry for every device: those without a kernel of their own run the reference.
    _library.impl(  # type: ignore[no-untyped-call]
        name, run, "CompositeExplicitAutograd"
    )
    torch.library.register_fake(f"coophash::{name}", fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(
            f"coophash::{name}", backward, setup_context=setup_context, lib=_library
        )
    return getattr(torch.ops.coophash, name).default  # type: ignore[no-any-return]


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Without autocast: it would run a reference's matrix products in bfloat16, not in float32."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


_loaded: dict[str, Callable[..., Any]] = {}


def _load(path: str) -> Callable[..., Any]:
    if path not in _loaded:
        module, function = path.split(":")
        _loaded[path] = getattr(importlib.import_module(module), function)
    return _loaded[path]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, name: str) -> torch.Tensor:
        ctx.name = name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        raise RuntimeError(
            f"{ctx.name} is differentiable once, and a gradient of its gradient was asked for: "
            "leave out create_graph=True, or use the formula in plain PyTorch"
        )


def once_differentiable(value: torch.Tensor, name: str) -> torch.Tensor:
    """`value`, whose own gradient raises: for what a backward takes as a constant, but is not.

    PyTorch's decorator of this name lets a gradient pass as 0 where the upstream is a constant.
    """
    return _Once.apply(value.detach().requires_grad_(), name)  # type: ignore[no-untyped-call,no-any-return]
