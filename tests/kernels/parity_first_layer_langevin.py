"""Parity of first_conv_input_grad and first_conv_langevin: see parity.py."""

from __future__ import annotations

import parity
import torch

from coophash.kernels import first_conv_bits, first_conv_input_grad, first_conv_langevin

LAST = torch.channels_last
SLOPE = 0.125  # exact, since the interpreter cuts bfloat16 off instead of rounding it


def layer(inputs, channels, kernel, image, batch=2, dtype=torch.float32, last=False, **options):
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x = torch.randn(batch, inputs, *image)
    weight = torch.randn(channels, inputs, *kernel).to(dtype)
    y, bits = first_conv_bits(x.to(dtype), weight, None, SLOPE, channels_last=last, **options)
    return x, torch.randn_like(y), bits, weight


torch.manual_seed(0)
layers = {
    "descriptor 3": ((3, 32, 5, (16, 16)), {"stride": 2, "padding": 2}),
    "descriptor 1": ((1, 32, 5, (28, 28)), {"stride": 2, "padding": 2}),
    "3x3": ((3, 40, 3, (9, 11)), {"padding": 1}),
    "5x5": ((3, 16, 5, (8, 12)), {"padding": 2}),
    "odd": ((2, 13, 3, (7, 10)), {"stride": (2, 1), "padding": (0, 2)}),
    "4x4 of 4": ((4, 8, 4, (8, 8)), {"stride": 2, "padding": 1}),
    "stride 4": ((3, 8, 4, (16, 12)), {"stride": 4}),
    "gaps": ((1, 8, 1, (9, 9)), {"stride": 2}),
    "wide padding": ((1, 8, 3, (4, 4)), {"padding": 4}),
    "one pixel": ((3, 20, 5, (5, 5)), {}),
    # What the kernel leaves to PyTorch's transposed convolution.
    "five inputs": ((5, 16, 3, (6, 6)), {"padding": 1}),
    "stride 3": ((3, 5, (2, 3), (6, 5)), {"stride": 3}),
    "7x7": ((1, 8, 7, (12, 12)), {"padding": 3}),
}
for name, (shape, options) in layers.items():
    for dtype, last in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, True)):
        x, grad, bits, weight = layer(*shape, dtype=dtype, last=last, **options)
        case = f"{name} {str(dtype).removeprefix('torch.')}{' last' if last else ''}"
        parity.compare(
            case,
            lambda g=grad, b=bits, w=weight, o=options, x=x: first_conv_input_grad(
                g, b, w, SLOPE, size=tuple(x.shape[2:]), **o
            ),
            1e-4,
        )
    parity.compare(
        name + " step",
        lambda g=grad, b=bits, w=weight, o=options, x=x: first_conv_langevin(
            x, g, b, w, SLOPE, grad_scale=0.01, noise_scale=1.0, seed=2**64 - 5, step=9, **o
        ),
        1e-5,
    )

shape, options = layers["descriptor 3"]
x, grad, bits, weight = layer(*shape, **options)
everything = {"clamp": (-0.9, 1.1), "grad_clip": 7.0, "reference_std": 2.0, "grad_scale": 0.05}


def step(x, **more):
    return first_conv_langevin(x, grad, bits, weight, SLOPE, **options, **(everything | more))


noise = torch.randn(x.shape)
wide = torch.randn(2, 3, 32, 16)
for case, call in {
    "no noise": lambda: step(x),
    "given": lambda: step(x, noise_scale=0.3, noise=noise),
    "given bfloat16 channels_last": lambda: step(
        x, noise_scale=0.3, noise=noise.bfloat16().to(memory_format=LAST)
    ),
    "drawn": lambda: step(x, noise_scale=0.3, seed=3, step=2**32 - 1, chain=7),
    "device numbers": lambda: step(
        x, noise_scale=torch.tensor(0.3), seed=torch.tensor(-4), step=torch.tensor(3),
        grad_scale=torch.tensor(0.02),
    ),
    "x channels_last": lambda: step(x.to(memory_format=LAST), noise_scale=0.3),
    "x sliced": lambda: step(wide[:, :, ::2], noise_scale=0.3),
    "x bfloat16": lambda: step(x.bfloat16(), noise_scale=0.3),
    "x float64": lambda: step(x.double(), noise_scale=0.3),
    "out": lambda: step(x, noise_scale=0.3, out=torch.zeros(2, 16, 16, 3).permute(0, 3, 1, 2)),
    "in place": lambda: (lambda fresh: step(fresh, noise_scale=0.3, out=fresh))(x.clone()),
    "shifted": lambda: (lambda m: step(m[:-1].view(x.shape), out=m[1:].view(x.shape)))(
        torch.linspace(-1, 1, x.numel() + 1)
    ),
}.items():  # fmt: skip
    parity.compare(case, call, 1e-5)


def with_gradient(memory):
    found = memory()
    return step(x, noise_scale=0.3, seed=3, input_grad=found), found


parity.compare("gradient kept", lambda: with_gradient(lambda: torch.empty_like(x)), 1e-4)
parity.compare(
    "gradient kept channels_last",
    lambda: with_gradient(lambda: torch.empty_like(x, memory_format=LAST)), 1e-4,
)  # fmt: skip
empty = first_conv_bits(x[:0], weight, None, SLOPE, **options)
parity.compare("empty", lambda: first_conv_langevin(
    x[:0], empty[0], empty[1], weight, SLOPE, grad_scale=0.1, **options))  # fmt: skip
x[0, 0, 2, 3], x[1, 2, 0, 1] = float("nan"), float("inf")
parity.compare("nan", lambda: step(x, noise_scale=0.3), 1e-5)

parity.report()
