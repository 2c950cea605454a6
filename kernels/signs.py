"""Signs of real outputs, packed: the step from a hash head to an index, in one pass.

    bit j of a code = 1 where output j >= 0;  it is bit j % 8 of byte j // 8;  spare bits are 0

the rule of `coophash.pack` (-0.0 is >= 0, infinities have signs, a NaN has none). A NaN is told by
a flag on the device, so that many batches can be packed without waiting for any of them.

Traffic: the outputs read once, one byte written for eight of them. The Triton kernel is in
signs_triton.py. The linear layer in front is a product of matrices, and left to its library.
Check it, time it: pytest tests/kernels/test_signs.py && pytest benchmarks/bench_signs.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from coophash.kernels._library import register

MAX_BITS = 4096  # coophash.codes has the same; that module does without torch
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def sign_pack_reference(outputs: Tensor) -> Tensor:
    """(N, bits) real -> (N, ceil(bits / 8)) uint8 by NumPy, in main memory. A NaN has bit 0."""
    positive = np.ascontiguousarray((outputs >= 0).cpu().numpy())
    packed = np.packbits(positive, axis=1, bitorder="little")
    return outputs.new_empty(packed.shape, dtype=torch.uint8).copy_(torch.from_numpy(packed))


def _run_reference(outputs: Tensor, nan_flag: Tensor) -> Tensor:
    nan_flag.bitwise_or_(outputs.isnan().any().to(nan_flag.dtype))
    return sign_pack_reference(outputs)


def _fake(outputs: Tensor, nan_flag: Tensor) -> Tensor:
    rows, bits = outputs.shape
    return outputs.new_empty((rows, (bits + 7) // 8), dtype=torch.uint8)


_sign_pack = register(
    "sign_pack(Tensor outputs, Tensor(a!) nan_flag) -> Tensor",
    reference=_run_reference,
    triton="coophash.kernels.signs_triton:sign_pack",
    fake=_fake,
)


def sign_pack(outputs: Tensor, *, nan_flag: Tensor | None = None) -> Tensor:
    """Pack the signs of real outputs into codes, on the device where they are.

    `coophash.pack` takes more (NumPy, integers, booleans) and uses this on a GPU. Codes are
    integers: no gradient passes through them, and none is recorded.

    Args:
        outputs: (N, bits) float32, bfloat16, float16 or float64, any strides, 1 to 4096 bits.
        nan_flag: (1,) int32 on the device of outputs, set to 1 where a NaN is found and left as it
            is where none is. Then this function does not wait for the device and does not raise:
            give one flag, `torch.zeros(1, dtype=torch.int32, device=...)`, to many calls and to
            `raise_for_nan` at the end. Without it, the check waits here.

    Returns:
        (N, ceil(bits / 8)) uint8, contiguous: codes for `coophash.HammingIndex`. A NaN has bit 0.

    Raises:
        TypeError: outputs are not floating point, or the flag is not of int32.
        ValueError: a wrong shape or device; a NaN, unless `nan_flag` is given.
    """
    _check(outputs, nan_flag)
    outputs = outputs.detach()
    if nan_flag is not None:
        return _sign_pack(outputs, nan_flag)  # type: ignore[no-any-return]
    if torch.compiler.is_compiling():
        raise ValueError(
            "sign_pack must have nan_flag= in a compiled or exported program, where a look at a "
            "value is not possible: give one, and call raise_for_nan(nan_flag) afterwards"
        )
    nan_flag = torch.zeros(1, dtype=torch.int32, device=outputs.device)
    codes: Tensor = _sign_pack(outputs, nan_flag)
    if outputs.device.type != "meta" and bool(nan_flag):
        row, bit = (int(i) for i in outputs.isnan().nonzero()[0])
        raise ValueError(f"outputs must not be NaN, row {row}, bit {bit} is: {_MEND}")
    return codes


_MEND = "a NaN has no sign; look for it in the model that made them"


def raise_for_nan(nan_flag: Tensor) -> None:
    """Raise ValueError if one of the calls of `sign_pack` that got this flag met a NaN.

    Waits for the device, once for all of the calls.
    """
    if bool(nan_flag):
        raise ValueError(f"outputs must not be NaN, one of those packed is: {_MEND}")


def _check(outputs: Any, nan_flag: Any) -> None:
    if not isinstance(outputs, Tensor):
        raise TypeError(f"outputs must be a torch.Tensor, got {type(outputs).__name__}")
    if outputs.dtype not in _DTYPES:
        raise TypeError(
            f"outputs must be float32, bfloat16, float16 or float64, got {outputs.dtype}: "
            "coophash.pack takes integers and booleans"
        )
    if outputs.dim() != 2:
        mend = ": one output is outputs[None]" if outputs.dim() == 1 else ""
        raise ValueError(f"outputs must be (N, bits), got {tuple(outputs.shape)}{mend}")
    if not 1 <= outputs.shape[1] <= MAX_BITS:
        raise ValueError(f"outputs must have 1 to {MAX_BITS} bits, got {tuple(outputs.shape)}")
    if nan_flag is None:
        return
    if not isinstance(nan_flag, Tensor) or nan_flag.dtype != torch.int32:
        got = nan_flag.dtype if isinstance(nan_flag, Tensor) else type(nan_flag).__name__
        raise TypeError(f"nan_flag must be a tensor of int32, got {got}")
    if nan_flag.shape != (1,) or nan_flag.device != outputs.device:
        raise ValueError(
            f"nan_flag must be (1,) on the device of outputs, {outputs.device}, got "
            f"{tuple(nan_flag.shape)} on {nan_flag.device}"
        )
