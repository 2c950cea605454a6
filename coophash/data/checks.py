"""The check that models put in front of images."""

from __future__ import annotations

from typing import Any

import numpy as np

# Rounding of a conversion or a resize may pass 1 by a little; anything more is another scale.
_LIMIT = 1.0001


def check_images(
    images: Any, image_shape: tuple[int, int, int] | None = None, name: str = "images"
) -> Any:
    """Images as float32 in [-1, 1], or an error that says how to get there.

    Args:
        images: (B, C, H, W), a NumPy array or a torch tensor on any device: floating in [-1, 1],
            or uint8, which is converted by x / 127.5 - 1. B may be 0.
        image_shape: (C, H, W) expected; any if None.
        name: the argument's name, for the messages.

    Returns:
        float32, (B, C, H, W); array for array, tensor for tensor on the same device, the very same
        object if it was right already. Gradients pass.

    Raises:
        TypeError: not an array or tensor, or of another dtype.
        ValueError: wrong shape, NaN or infinity, or values outside [-1, 1].
    """
    if not (isinstance(images, np.ndarray) or _is_tensor(images)):
        raise TypeError(
            f"{name} must be a NumPy array or torch tensor (B, C, H, W), "
            f"got {type(images).__name__}"
        )
    check_shape(tuple(images.shape), image_shape, name)
    tensor = not isinstance(images, np.ndarray)
    dtype = str(images.dtype).removeprefix("torch.")
    floating = images.is_floating_point() if tensor else images.dtype.kind == "f"
    if dtype == "uint8":
        return _to_float32(images, tensor) / 127.5 - 1
    if not floating:
        raise TypeError(
            f"{name} must be floating in [-1, 1], or uint8 from 0 to 255, got {dtype}: "
            "use ImageSet.float or x / 127.5 - 1"
        )
    if 0 not in images.shape:
        low, high = _range(images, tensor)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{name} must be finite, got NaN or infinity: clean the images first")
        if low < -_LIMIT or high > _LIMIT:
            raise ValueError(
                f"{name} must be in [-1, 1], got values {_extent(low, high)}: "
                "use ImageSet.float or x / 127.5 - 1"
            )
    return _to_float32(images, tensor)


def _is_tensor(value: object) -> bool:
    """Whether it is a torch tensor, without importing torch for something that is not."""
    if not type(value).__module__.startswith("torch") and not hasattr(value, "requires_grad"):
        return False
    import torch

    return isinstance(value, torch.Tensor)


def _to_float32(images: Any, tensor: bool) -> Any:
    return images.float() if tensor else np.ascontiguousarray(images, dtype=np.float32)


def _range(images: Any, tensor: bool) -> tuple[float, float]:
    """Smallest and largest value; NaN if there is one. One wait for the device, not two."""
    if tensor:
        import torch

        low, high = torch.stack(torch.aminmax(images.detach())).tolist()
        return low, high
    return float(images.min()), float(images.max())


def _extent(low: float, high: float) -> str:
    if low < -_LIMIT and high > _LIMIT:
        return f"from {low:g} to {high:g}"
    return f"up to {high:g}" if high > _LIMIT else f"down to {low:g}"


def check_shape(shape: tuple[int, ...], expected: tuple[int, int, int] | None, name: str) -> None:
    """Raise ValueError, with the mend, unless a shape is (B, *expected); None expects 4 axes."""
    if expected is None:
        if len(shape) != 4:
            raise ValueError(f"{name} must be (B, C, H, W), got {shape}")
        return
    if len(shape) == 4 and shape[1:] == tuple(expected):
        return
    channels, height, width = expected
    mend = f"the images must be {height} x {width} with {channels} channels"
    if shape == tuple(expected):
        mend = f"one image is a batch of one: {name}[None]"
    elif len(shape) == 4 and shape[1:] == (height, width, channels):
        mend = f"channels come first: {name}.transpose(0, 3, 1, 2) or .permute(0, 3, 1, 2)"
    elif channels == 1 and shape[1:] == (height, width):
        mend = f"add the channel axis: {name}[:, None]"
    elif len(shape) == 4 and shape[1] == channels:
        mend = f"resize them to {height} x {width}, or make the model for their size"
    raise ValueError(f"{name} must be (B, {channels}, {height}, {width}), got {shape}: {mend}")
