"""Arrays in the memory of a CUDA device, whichever library they are of.

The extension takes addresses. Here they are read from torch tensors, CuPy arrays, and whatever has
`__cuda_array_interface__` or DLPack; and results are allocated by the caller's own library, on the
stream that is current there, so that its allocator knows of them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coophash import _native

Library = Literal["torch", "cupy", "none"]


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array in device memory.

    Attributes:
        pointer: its address.
        shape, dtype: as NumPy has them.
        device: the number of the device.
        stream: the stream on which it is ready: a cudaStream_t, 0 for the default stream.
        library: whose it is.
        owner: what keeps its memory alive.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    stream: int
    library: Library
    owner: Any

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """So that Numba, CuPy, torch and others take results as they are."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream or 1,
            "version": 3,
        }

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """A copy in main memory."""
        array = np.empty(self.shape, self.dtype)
        _native.cuda().cuda_wait(self.device, self.stream)
        _native.cuda().cuda_download(self.device, array, self.pointer)
        return array


def on_device(array: Any) -> bool:
    """Whether an argument lies in the memory of a CUDA device."""
    if isinstance(array, DeviceArray):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return bool(array.device.type == "cuda")
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and int(where()[0]) == 2


def describe(array: Any, name: str) -> DeviceArray:
    """An argument for which `on_device` holds, copied on its device if it is not contiguous.

    Raises:
        TypeError: it is not a dense array of numbers, or not contiguous and of a library that this
            one does not know.
    """
    if isinstance(array, DeviceArray):
        return array
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _of_torch(array, name)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        with cupy.cuda.Device(array.device.id):
            array = cupy.ascontiguousarray(array)
        stream = int(cupy.cuda.get_current_stream(array.device.id).ptr)
        return DeviceArray(
            int(array.data.ptr), tuple(array.shape), np.dtype(array.dtype), array.device.id, stream,
            "cupy", array,
        )  # fmt: skip
    if hasattr(array, "__cuda_array_interface__"):
        return _of_interface(array, name)
    return _of_dlpack(array, name)


def empty(shape: tuple[int, ...], dtype: Any, like: DeviceArray, what: str) -> DeviceArray:
    """Memory on the device and of the library of another array, for its stream.

    Raises:
        MemoryError: there is not enough; the message says for what, how much, and how much is free.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    owner: Any
    try:
        if like.library == "torch":
            torch = sys.modules["torch"]
            owner = torch.empty(shape, dtype=getattr(torch, dtype.name), device=like.owner.device)
            pointer = int(owner.data_ptr())
        elif like.library == "cupy":
            cupy = sys.modules["cupy"]
            with cupy.cuda.Device(like.device):
                owner = cupy.empty(shape, dtype)
            pointer = int(owner.data.ptr)
        else:
            owner = own_memory(like.device, size)
            pointer = int(owner.pointer)
    except Exception as error:
        if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
            raise out_of_memory(like.device, size, what) from error
        raise
    return DeviceArray(pointer, shape, dtype, like.device, like.stream, like.library, owner)


def upload(array: NDArray[Any], device: int, what: str) -> DeviceArray:
    """A copy of a NumPy array in memory of our own.

    Raises:
        MemoryError: there is not enough; the message says how much is.
    """
    array = np.ascontiguousarray(array)
    try:
        memory = own_memory(device, array.nbytes)
    except MemoryError as error:
        raise out_of_memory(device, array.nbytes, what) from error
    _native.cuda().cuda_upload(device, memory.pointer, array)
    return DeviceArray(memory.pointer, array.shape, array.dtype, device, 0, "none", memory)


def own_memory(device: int, size: int) -> Any:
    """Device memory of no other library: `CudaMemory`. What other libraries hold and do not use is
    asked back first, if there is not enough.

    Raises:
        MemoryError: there is not enough.
    """
    try:
        return _native.cuda().CudaMemory(device, size)
    except MemoryError:
        torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if cupy is not None:
            cupy.get_default_memory_pool().free_all_blocks()
        return _native.cuda().CudaMemory(device, size)


def to_host(array: Any, name: str) -> tuple[NDArray[Any], Callable[[NDArray[Any]], Any]] | None:
    """An argument on a CUDA device in main memory, and the way back; None if it is not on one.

    Raises:
        TypeError: this build cannot read it, or it is no dense array of numbers.
    """
    if not on_device(array):
        return None
    if why := _native.cuda_status():
        raise TypeError(
            f"{name} is a {type(array).__name__} on a CUDA device, which cannot be read here "
            f"({why}): copy it to main memory, or give a torch tensor"
        )
    given = describe(array, name)
    cupy = sys.modules.get("cupy")

    def restore(result: NDArray[Any]) -> Any:
        if given.library == "cupy" and cupy is not None:
            with cupy.cuda.Device(given.device):
                return cupy.asarray(result)
        return upload(result, given.device, "results")

    return given.numpy(), restore


def out_of_memory(device: int, size: int, what: str) -> MemoryError:
    """The error for `size` bytes that a device does not have."""
    free, total = _native.cuda().cuda_memory(device)
    return MemoryError(
        f"{what} take {_size(size)} on cuda:{device}, which has {_size(free)} of {_size(total)} "
        "free: ask for less, or for a part of the queries at a time"
    )


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 10**8 else f"{size / 1e6:,.1f} MB"


def _of_torch(tensor: Any, name: str) -> DeviceArray:
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_complex():
        raise TypeError(
            f"{name} must be a dense tensor of real numbers, got {tensor.dtype} {tensor.layout}"
        )
    plain = tensor.detach().contiguous()
    device = plain.device.index
    device = torch.cuda.current_device() if device is None else device
    stream = int(torch.cuda.current_stream(device).cuda_stream)
    try:
        dtype = np.dtype(str(plain.dtype).removeprefix("torch."))
    except TypeError:
        raise TypeError(f"{name} must be an array of numbers, got {plain.dtype}") from None
    return DeviceArray(
        int(plain.data_ptr()), tuple(plain.shape), dtype, device, stream, "torch", plain
    )


def _of_interface(array: Any, name: str) -> DeviceArray:
    """By `__cuda_array_interface__`, version 3: no stream means that nothing is pending."""
    interface = array.__cuda_array_interface__
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if interface.get("mask") is not None:
        raise TypeError(f"{name} must not be masked")
    _check_strides(name, shape, interface.get("strides"), dtype.itemsize)
    pointer = int(interface["data"][0])
    device = _native.cuda().cuda_pointer_device(pointer) if pointer else 0
    return DeviceArray(pointer, shape, dtype, max(0, device), int(interface.get("stream") or 0),
                       "none", array)  # fmt: skip


def _check_strides(name: str, shape: tuple[int, ...], strides: Any, item: int) -> None:
    """Raise TypeError unless strides, in bytes, are those of a contiguous array."""
    expected = item
    for length, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if length > 1 and stride != expected and 0 not in shape:
            raise TypeError(
                f"{name} must be contiguous, got strides {tuple(strides)} for shape {shape}: copy "
                "it first"
            )
        expected *= length


class _Tensor(ctypes.Structure):
    """DLTensor, of DLPack's C interface."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode


def _of_dlpack(array: Any, name: str) -> DeviceArray:
    """By a DLPack capsule, which is never consumed, so that it frees what it holds when it goes."""
    capsule = array.__dlpack__(stream=1)  # ready on the default stream
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address = pointer_of(capsule, b"dltensor")
    tensor = _Tensor.from_address(address or 0)
    if tensor.lanes != 1 or tensor.code not in _KINDS:
        raise TypeError(f"{name} must be an array of numbers, got DLPack type {tensor.code}")
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
        _check_strides(name, shape, strides, dtype.itemsize)
    pointer = int(tensor.data or 0) + int(tensor.byte_offset)
    return DeviceArray(pointer, shape, dtype, int(tensor.device_id), 0, "none", (array, capsule))
