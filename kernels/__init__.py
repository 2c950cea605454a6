"""Training kernels: each op with its reference, its Triton kernel and its registration.

Names are loaded on first use; Triton is imported when a kernel first runs on a device.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> module that defines it
_NAMES = {
    "LangevinStatistics": "coophash.kernels.langevin",
    "bank_contrast": "coophash.kernels.contrast",
    "bank_contrast_reference": "coophash.kernels.contrast",
    "bank_draws": "coophash.kernels.draws",
    "bank_update": "coophash.kernels.bank",
    "bank_update_reference": "coophash.kernels.bank",
    "bias_leaky_relu": "coophash.kernels.leaky_relu",
    "bias_leaky_relu_bits": "coophash.kernels.leaky_relu",
    "bias_leaky_relu_reference": "coophash.kernels.leaky_relu",
    "energy_head": "coophash.kernels.energy",
    "energy_head_and_grad": "coophash.kernels.energy",
    "first_conv": "coophash.kernels.first_layer",
    "first_conv_bits": "coophash.kernels.first_layer",
    "first_conv_input_grad": "coophash.kernels.first_layer",
    "first_conv_langevin": "coophash.kernels.first_layer_langevin",
    "first_conv_reference": "coophash.kernels.first_layer",
    "langevin_step": "coophash.kernels.langevin",
    "langevin_step_reference": "coophash.kernels.langevin",
    "leaky_relu_backward": "coophash.kernels.leaky_relu",
    "philox_normal": "coophash.kernels.philox",
    "raise_for_nan": "coophash.kernels.signs",
    "ranking_loss": "coophash.kernels.ranking",
    "ranking_loss_reference": "coophash.kernels.ranking",
    "sign_pack": "coophash.kernels.signs",
    "triton_missing": "coophash.kernels._backend",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'coophash.kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from coophash.kernels._backend import triton_missing as triton_missing
    from coophash.kernels.bank import bank_update as bank_update
    from coophash.kernels.bank import bank_update_reference as bank_update_reference
    from coophash.kernels.contrast import bank_contrast as bank_contrast
    from coophash.kernels.contrast import bank_contrast_reference as bank_contrast_reference
    from coophash.kernels.draws import bank_draws as bank_draws
    from coophash.kernels.energy import energy_head as energy_head
    from coophash.kernels.energy import energy_head_and_grad as energy_head_and_grad
    from coophash.kernels.first_layer import first_conv as first_conv
    from coophash.kernels.first_layer import first_conv_bits as first_conv_bits
    from coophash.kernels.first_layer import first_conv_input_grad as first_conv_input_grad
    from coophash.kernels.first_layer import first_conv_reference as first_conv_reference
    from coophash.kernels.first_layer_langevin import first_conv_langevin as first_conv_langevin
    from coophash.kernels.langevin import LangevinStatistics as LangevinStatistics
    from coophash.kernels.langevin import langevin_step as langevin_step
    from coophash.kernels.langevin import langevin_step_reference as langevin_step_reference
    from coophash.kernels.leaky_relu import bias_leaky_relu as bias_leaky_relu
    from coophash.kernels.leaky_relu import bias_leaky_relu_bits as bias_leaky_relu_bits
    from coophash.kernels.leaky_relu import (
        bias_leaky_relu_reference as bias_leaky_relu_reference,
    )
    from coophash.kernels.leaky_relu import leaky_relu_backward as leaky_relu_backward
    from coophash.kernels.philox import philox_normal as philox_normal
    from coophash.kernels.ranking import ranking_loss as ranking_loss
    from coophash.kernels.ranking import ranking_loss_reference as ranking_loss_reference
    from coophash.kernels.signs import raise_for_nan as raise_for_nan
    from coophash.kernels.signs import sign_pack as sign_pack
