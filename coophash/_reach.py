"""What a Python function reads: the tensors, and everything else that it may compute with.

A captured graph reads tensors where they lie in memory and holds everything else as it was at
capture. So a graph may be replayed for a call only if the energy would do the same again: `reach`
looks at all that can be found from it, and gives marks that are equal as long as the modules have
the same settings and their tensors lie at the same places. Values in tensors may change: an
optimiser's update in place leaves the marks alone, a replaced parameter does not.

What cannot be found this way (what an object hides in C, a module's attribute) is caught by looking
at the tensors that really come along: `Watcher`.
"""

from __future__ import annotations

import collections
import enum
import functools
import types
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PLAIN = (
    int, float, complex, bool, str, bytes, type(None), range, enum.Enum,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip
_MODULE_FIELDS = frozenset(torch.nn.Module().__dict__)
_HOOKS = tuple(name for name in _MODULE_FIELDS if name.endswith("hooks"))
_ARRAY = 1 << 16  # bytes
_LIMIT = 20_000  # objects; beyond, looking would cost more than a graph saves


class OutOfReach(Exception):
    """Why an energy cannot be followed."""


class Reach:
    """What can be found from one value.

    Attributes:
        marks: hashable; equal when a graph captured with one may stand for the other.
        tensors: found, parameters and buffers of modules among them.
        buffers: of modules.
        kept: objects known by their identity alone, which must outlive the marks.

    Raises:
        OutOfReach: there is too much to look at, or a tensor without memory of its own.
    """

    def __init__(self, value: Any) -> None:
        self.tensors: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self.kept: list[Any] = []
        self._marks: list[Any] = []
        self._seen: dict[int, int] = {}
        self._walk(value)
        self.marks = tuple(self._marks)

    def _walk(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, _PLAIN):
            self._marks.append((kind, value))
            return
        if id(value) in self._seen:
            self._marks.append(self._seen[id(value)])
            return
        if len(self._seen) >= _LIMIT:
            raise OutOfReach(f"it leads to more than {_LIMIT:,} objects")
        self._seen[id(value)] = len(self._seen)
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, torch.nn.Module):
            self._module(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._marks.append(kind)
            self._walk(value.__func__)
            self._walk(value.__self__)
        elif isinstance(value, functools.partial):
            self._marks.append(kind)
            self._all((value.func, value.args, value.keywords))
        elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
            self._marks.append((kind, len(value)))
            self._all(value)
        elif isinstance(value, dict):
            self._marks.append((kind, len(value)))
            self._all(value.keys())
            self._all(value.values())
        elif isinstance(value, (types.ModuleType, type)):
            self._identity(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif hasattr(value, "__dict__") or hasattr(kind, "__slots__"):
            self._marks.append(kind)
            self._walk(getattr(value, "__dict__", None))
            for name in _slots(kind):  # type: ignore[arg-type]
                self._walk(getattr(value, name, None))
        else:
            self._identity(value)

    def _all(self, values: Any) -> None:
        for value in values:
            self._walk(value)

    def _identity(self, value: Any) -> None:
        self._marks.append((type(value), id(value)))
        self.kept.append(value)

    def _tensor(self, value: Tensor) -> None:
        try:
            place = value.data_ptr()
        except RuntimeError as error:
            raise OutOfReach(f"a tensor has no memory of its own: {error}") from None
        self._marks.append((place, value.shape, value.stride(), value.dtype, value.device))
        self.tensors.append(value)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        if value.nbytes > _ARRAY or value.dtype.hasobject:
            raise OutOfReach(
                f"it leads to a NumPy array of {value.nbytes:,} bytes, whose values may change"
            )
        self._marks.append((value.shape, value.dtype.str, value.tobytes()))

    def _module(self, value: torch.nn.Module) -> None:
        fields = value.__dict__
        self._marks.append((type(value), value.training))
        self._all(fields["_parameters"].values())
        self._all(fields["_buffers"].values())
        self.buffers += [t for t in fields["_buffers"].values() if t is not None]
        for name in _HOOKS:
            if fields.get(name):
                self._all(fields[name].values())
        for name, field in fields.items():
            if name not in _MODULE_FIELDS:
                self._marks.append(name)
                self._walk(field)
        for name, child in fields["_modules"].items():
            self._marks.append(name)
            self._walk(child)

    def _function(self, value: types.FunctionType) -> None:
        self._marks.append(value.__code__)
        self._all(value.__defaults__ or ())
        self._all((value.__kwdefaults__ or {}).values())
        for cell in value.__closure__ or ():
            try:
                self._walk(cell.cell_contents)
            except ValueError:  # not yet assigned
                self._marks.append(None)
        for name in _global_names(value.__code__):
            if name in value.__globals__:
                self._walk(value.__globals__[name])


@functools.lru_cache(maxsize=256)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Names that a function, or one defined in it, may look up in its module."""
    inner = [_global_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(dict.fromkeys(name for names in (code.co_names, *inner) for name in names))


@functools.lru_cache(maxsize=256)
def _slots(kind: Hashable) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:  # type: ignore[attr-defined]
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the ops of a call: why it cannot be captured, and which tensors it reads.

    Args:
        device: on which the call is to be captured.
        known: tensors that may be read.
        buffers: those of them that the call may change; `restore` undoes it.

    Attributes:
        reason: the first thing seen that a graph cannot hold, or None.
    """

    def __init__(self, device: torch.device, known: list[Tensor], buffers: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.reason: str | None = None
        self._known = {_storage(t) for t in known}
        self._held = frozenset(self._known)
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        # Normalisation writes its statistics without saying so in the op's schema.
        for tensor in buffers:
            self._before[_storage(tensor)] = (tensor, tensor.clone())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        made_here = func is torch.ops.aten.lift_fresh.default  # torch.tensor(numbers)
        for tensor in given:
            if self.reason is None and tensor.numel():
                self.reason = self._wrong(func, tensor, made_here)
            if made_here:
                self._known.add(_storage(tensor))
        if self.reason is None and not _LOOKS.isdisjoint(func.tags):
            self.reason = f"{func} looks at values of tensors, for which it waits for the device"
        if self.reason is None and len({t.device.type for t in given if t.dim()}) > 1:
            self.reason = f"{func} copies between {' and '.join(_devices(given))}"
        self._save(func, args, kwargs)
        result = func(*args, **kwargs)
        made = _tensors(result)
        if self.reason is None and func in _COPIES and len(_devices([*given, *made])) > 1:
            self.reason = f"{func} copies between {' and '.join(_devices([*given, *made]))}"
        self._known.update(_storage(t) for t in made)
        return result

    def _save(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keep what is about to be written over."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in _tensors(value):
                place = _storage(tensor)
                if place in self._held and place not in self._before:
                    self._before[place] = (tensor, tensor.clone())

    def restore(self) -> None:
        """Give the tensors known beforehand the values that they had before the call."""
        for tensor, before in self._before.values():
            tensor.copy_(before)

    def _wrong(self, func: Any, tensor: Tensor, made_here: bool) -> str | None:
        size = f"of shape {tuple(tensor.shape)} on {tensor.device}"
        if made_here:
            if tensor.device.type != self.device.type or self.device.type == "cpu":
                return None
            return f"it makes a tensor {size} from Python numbers: make it once, as a buffer"
        if _storage(tensor) in self._held and tensor.device.type != self.device.type:
            return f"{func} reads a tensor {size}, whose value it would freeze: move it to the GPU"
        if _storage(tensor) in self._known:
            return None
        return (
            f"{func} reads a tensor {size} that was not found among what the energy holds: make it "
            "a buffer or an attribute of the energy, on the device of x"
        )


_LOOKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _devices(tensors: list[Tensor]) -> list[str]:
    return sorted({t.device.type for t in tensors})


def _tensors(value: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
