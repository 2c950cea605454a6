"""Binary codes: packing real outputs to bits, and the checks that every use of codes shares.

A code of `bits` bits is `width = ceil(bits / 8)` bytes. Bit j is bit j % 8 of byte j // 8, least
significant first: `np.packbits(x >= 0, bitorder="little")`, which is faiss's own rule. Spare bits
of the last byte are 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BITS = 4096

__all__ = ["MAX_BITS", "as_numpy", "check_bits", "check_codes", "pack", "unpack", "width_of"]


def pack(outputs: Any) -> Any:
    """Pack the signs of real outputs into bits: bit 1 where an output is >= 0, so sign(0) = +1.

    Args:
        outputs: (N, bits), 1 to 4096 bits: floats, or integers of -1 and +1, or booleans, which are
            taken as the bits themselves. A NumPy array, a torch tensor on any device, or anything
            with DLPack.

    Returns:
        uint8 (N, ceil(bits / 8)), C-contiguous: a tensor on the same device for a tensor, else a
        NumPy array.

    Raises:
        TypeError: outputs are not real numbers, or are unsigned (packed already?).
        ValueError: a wrong shape, a NaN, or 0 and 1 alone, whose signs are all alike.
    """
    if _is_elsewhere(outputs):
        return _pack_torch(outputs)
    array, restore = as_numpy(outputs, "outputs")
    _check_outputs(tuple(array.shape), array.dtype.kind, str(array.dtype))
    rows, bits = array.shape
    packed = np.empty((rows, width_of(bits)), np.uint8)
    step = max(1, (1 << 20) // bits)  # the booleans in between stay in cache
    for start in range(0, rows, step):
        part = array[start : start + step]
        if part.dtype.kind == "f":
            nan = np.isnan(part)
            if nan.any():
                row, bit = (int(i[0]) for i in np.nonzero(nan))
                raise ValueError(_nan_message(start + row, bit))
        positive = part if part.dtype.kind == "b" else part >= 0
        packed[start : start + step] = np.packbits(positive, axis=1, bitorder="little")
    if array.dtype.kind == "i" and rows and array.min() == 0 and array.max() <= 1:
        raise ValueError(_ZERO_ONE)
    floats = array.dtype.kind == "f" and rows > 0
    # One row says no at once; ones alone, or zeros, may be meant.
    if floats and _zero_one(array[0]) and _zero_one(array) and array.min() != array.max():
        raise ValueError(_ZERO_ONE)
    return restore(packed)


def _zero_one(values: NDArray[Any]) -> bool:
    """Whether there is nothing but 0 and 1."""
    return bool(((values == 1) | (values == 0)).all())


def unpack(codes: Any, bits: int) -> Any:
    """Unpack codes to signs, the inverse of `pack`.

    Args:
        codes: uint8 (N, ceil(bits / 8)).
        bits: length of a code, 1 to 4096.

    Returns:
        int8 (N, bits) of -1 and +1, of the kind and on the device of `codes`.

    Raises:
        TypeError, ValueError: codes are not codes of that many bits.
    """
    bits = check_bits(bits)
    if _is_elsewhere(codes):
        return _unpack_torch(codes, bits)
    array, restore = as_numpy(codes, "codes")
    array = check_codes(array, "codes", bits)
    signs = np.unpackbits(array, axis=1, count=bits, bitorder="little").view(np.int8)
    signs *= 2
    signs -= 1
    return restore(signs)


def width_of(bits: int) -> int:
    """Bytes of a code of `bits` bits."""
    return (bits + 7) // 8


def check_bits(bits: Any) -> int:
    """`bits` as an int, if it is a length that a code can have."""
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer):
        raise TypeError(f"bits must be a whole number, got {type(bits).__name__}")
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be 1 to {MAX_BITS}, got {bits}")
    return int(bits)


def check_codes(codes: NDArray[Any], name: str, bits: int | None = None) -> NDArray[np.uint8]:
    """Codes as C-contiguous uint8 (N, width), copied at most once, or an error with the mend.

    Args:
        codes: the array, as `as_numpy` gives it.
        name: what the caller's argument is called.
        bits: length of a code where it is known. Then the width must fit, and spare bits must be 0.
    """
    check_layout(str(codes.dtype), codes.shape, name, bits)
    if bits is not None:
        check_spare(codes[:, -1], name, bits)
    return np.ascontiguousarray(codes)


def as_numpy(array: Any, name: str) -> tuple[NDArray[Any], Callable[[NDArray[Any]], Any]]:
    """Anything array-like as NumPy, and the way back.

    NumPy arrays and CPU tensors are not copied. torch is not imported unless a tensor is given.

    Args:
        array: a NumPy array, a torch tensor on any device, anything with DLPack in main memory or
            on a CUDA device, anything with `__cuda_array_interface__`, or nested lists of numbers.
        name: what the caller's argument is called.

    Returns:
        The array, and a function that turns a result into what the caller gave: a tensor on the
        same device for a tensor, an array on its device for one on a CUDA device, else the NumPy
        array itself.

    Raises:
        TypeError: not an array of numbers, or not in main memory.
    """
    if isinstance(array, np.ndarray):
        return _checked(np.asarray(array), name), _unchanged
    if _is_torch(array):
        return _from_torch(array, name)
    if hasattr(array, "__cuda_array_interface__") or hasattr(array, "__dlpack_device__"):
        from coophash._device_arrays import to_host

        if (found := to_host(array, name)) is not None:
            return _checked(found[0], name), found[1]
    if hasattr(array, "__dlpack__"):
        if hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] not in (1, 3):
            raise TypeError(
                f"{name} is a {type(array).__name__} on another device: copy it to main memory, or "
                "give a torch tensor"
            )
        try:
            return _checked(np.from_dlpack(array), name), _unchanged
        except (BufferError, RuntimeError, ValueError) as error:
            raise TypeError(f"{name} cannot be read through DLPack: {error}") from None
    try:
        return _checked(np.asarray(array), name), _unchanged
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"{name} must be an array: {error}") from None


def _unchanged(result: NDArray[Any]) -> NDArray[Any]:
    return result


def _checked(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, got {array.dtype}")
    return array


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _is_elsewhere(array: Any) -> bool:
    """Whether it is a dense tensor that torch can work on where it is, not in main memory."""
    if not _is_torch(array):
        return False
    return array.device.type not in ("cpu", "meta") and str(array.layout) == "torch.strided"


def _from_torch(tensor: Any, name: str) -> tuple[NDArray[Any], Callable[[NDArray[Any]], Any]]:
    import torch

    device = tensor.device

    def restore(result: NDArray[Any]) -> Any:
        return torch.from_numpy(result).to(device)

    if tensor.layout != torch.strided or device.type == "meta" or tensor.is_complex():
        raise TypeError(
            f"{name} must be a dense tensor of real numbers, got {tensor.dtype} {tensor.layout} "
            f"on {device}"
        )
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if plain.dtype in (torch.bfloat16, *_float8(torch)):
        plain = plain.float()  # NumPy has no such type, and every value is a float32
    return _checked(plain.numpy(), name), restore


def _float8(torch: Any) -> list[Any]:
    names = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    return [getattr(torch, name) for name in names if hasattr(torch, name)]


_ZERO_ONE = (
    "outputs holds 0 and 1 alone, which all have the sign +1: pack bits as booleans "
    "(outputs == 1), or signs as 2 * outputs - 1"
)


def _nan_message(row: int, bit: int) -> str:
    return (
        f"outputs must not be NaN, row {row}, bit {bit} is: a NaN has no sign; look for it in the "
        "model that made them"
    )


def _check_outputs(shape: tuple[int, ...], kind: str, dtype: str) -> None:
    if kind == "u":
        raise TypeError(
            f"outputs must be real (N, bits), got {dtype} {_shape(shape)}: unsigned numbers have "
            "no sign; are they packed already?"
        )
    if len(shape) != 2:
        mend = ": one output is outputs[None]" if len(shape) == 1 else ""
        raise ValueError(f"outputs must be real (N, bits), got {dtype} {_shape(shape)}{mend}")
    if not 1 <= shape[1] <= MAX_BITS:
        raise ValueError(f"outputs must have 1 to {MAX_BITS} bits, got {dtype} {_shape(shape)}")


def check_layout(dtype: str, shape: tuple[int, ...], name: str, bits: int | None) -> None:
    """Raise TypeError or ValueError unless an array of this type and shape can hold codes."""
    most = width_of(MAX_BITS)
    want = f"uint8 (N, {width_of(bits)}) for {bits} bits" if bits else f"uint8 (N, 1 to {most})"
    message = f"{name} must be {want}, got {dtype} {_shape(shape)}"
    pack_first = f": call coophash.pack({name}) first"
    if dtype != "uint8":
        raise TypeError(message + pack_first)
    if len(shape) != 2:
        raise ValueError(message + (f": one code is {name}[None]" if len(shape) == 1 else ""))
    if bits is None and not 1 <= shape[1] <= most:
        raise ValueError(message)
    if bits is not None and shape[1] != width_of(bits):
        raise ValueError(message + (pack_first if shape[1] == bits else ""))


def check_spare(last_bytes: NDArray[np.uint8], name: str, bits: int) -> None:
    """Raise ValueError unless the bits of a code's last byte that are behind its end are 0."""
    if bits % 8 == 0:
        return
    spare = last_bytes >> np.uint8(bits % 8)
    if spare.any():
        raise spare_error(name, bits, int(np.flatnonzero(spare)[0]))


def spare_error(name: str, bits: int, row: int) -> ValueError:
    """The error for codes of which one, the first at `row`, has spare bits that are not 0."""
    return ValueError(
        f"{name} must be 0 in the {8 - bits % 8} spare bits of the last byte for {bits} bits, "
        f"row {row} is not: clear them with {name}[:, -1] &= {(1 << bits % 8) - 1} if they are "
        "padding, or give the right number of bits"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _pack_torch(outputs: Any) -> Any:
    """`pack` where the tensor is, for tensors that are not in main memory."""
    import torch

    from coophash.kernels.signs import sign_pack

    if outputs.is_complex():
        raise TypeError(f"outputs must be an array of real numbers, got {outputs.dtype}")
    kind = "b" if outputs.dtype == torch.bool else "f" if outputs.is_floating_point() else "i"
    kind = "u" if outputs.dtype == torch.uint8 else kind
    _check_outputs(tuple(outputs.shape), kind, str(outputs.dtype).removeprefix("torch."))
    values = outputs.detach()
    if kind == "i" and len(values) and values.min() == 0 and values.max() <= 1:
        raise ValueError(_ZERO_ONE)
    if kind != "f":  # to signs, which every floating-point type holds
        values = (values if kind == "b" else values >= 0).to(torch.bfloat16) - 0.5
    elif values.dtype in _float8(torch):
        values = values.to(torch.bfloat16)
    return sign_pack(values)


def _unpack_torch(codes: Any, bits: int) -> Any:
    """`unpack` by torch operations, for tensors that are not in main memory."""
    import torch

    check_layout(str(codes.dtype).removeprefix("torch."), tuple(codes.shape), "codes", bits)
    check_spare(codes[:, -1].cpu().numpy(), "codes", bits)
    shifts = torch.arange(8, dtype=torch.uint8, device=codes.device)
    ones = (codes.detach()[:, :, None] >> shifts) & 1
    return ones.reshape(codes.shape[0], -1)[:, :bits].to(torch.int8) * 2 - 1
