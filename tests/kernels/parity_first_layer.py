"""Parity of first_conv and of the layer's gradients: see parity.py."""

from __future__ import annotations

import parity
import torch

from coophash.kernels import first_conv, first_conv_bits

LAST = torch.channels_last


def integers(*shape, scale=1.0, dtype=torch.float32):
    """Small multiples of `scale`: sums are exact, so bits are equal where sums are 0 too."""
    return (torch.randint(-4, 5, shape) * scale).to(dtype)


def layer(inputs, channels, kernel, image, batch=2, dtype=torch.float32):
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x = integers(batch, inputs, *image, dtype=dtype)
    weight = integers(channels, inputs, *kernel, scale=0.125, dtype=dtype)
    return x, weight, integers(channels, scale=0.5)


torch.manual_seed(0)
layers = {
    "descriptor 3": ((3, 32, 5, (32, 32)), {"stride": 2, "padding": 2}),
    "descriptor 1": ((1, 32, 5, (28, 28)), {"stride": 2, "padding": 2}),
    "3x3": ((3, 64, 3, (9, 11)), {"padding": 1}),
    "odd": ((2, 13, 3, (7, 10)), {"stride": (2, 1), "padding": (0, 2)}),
    "4x4 of 4": ((4, 40, 4, (8, 8)), {"stride": 2, "padding": 1}),
    "2x3": ((3, 5, (2, 3), (6, 5)), {"stride": 3}),
    "wide padding": ((1, 8, 3, (4, 4)), {"stride": 1, "padding": 4}),
    "one pixel": ((3, 20, 5, (5, 5)), {}),
    # What the kernel leaves to PyTorch's convolution.
    "five inputs": ((5, 16, 3, (6, 6)), {"padding": 1}),
    "17x17": ((1, 8, 17, (20, 20)), {}),
}
for name, (shape, options) in layers.items():
    for dtype in (torch.float32, torch.bfloat16):
        x, weight, bias = layer(*shape, dtype=dtype)
        case = f"{name} {str(dtype).removeprefix('torch.')}"
        for tag, last, b in (("", False, bias), (" last", True, bias), (" no bias", False, None)):
            # x has been rounded to integers, so the result of bfloat16 is rounded once only.
            parity.compare(
                case + tag,
                lambda x=x, w=weight, b=b, last=last, o=options: first_conv_bits(
                    x, w, b, 0.125, channels_last=last, **o
                ),
                1e-6,
            )

x, weight, bias = layer(3, 16, 3, (8, 10))
options = {"slope": 0.25, "stride": 2, "padding": 1}
for case, arguments in {
    "x channels_last": (x.to(memory_format=LAST), weight, bias),
    "weight channels_last": (x, weight.to(memory_format=LAST), bias),
    "x sliced": (integers(4, 6, 16, 20)[::2, ::2, ::2, ::2], weight, bias),
    "x expanded": (x[:, :1].expand_as(x), weight, bias),
    "empty": (x[:0], weight, bias),
    "float16": (x.half(), weight.half(), bias.half()),
    "float64": (x.double(), weight.double(), bias.double()),
}.items():
    parity.compare(case, lambda a=arguments: first_conv_bits(*a, **options))


def gradients(x, weight, bias, grad, options):
    """Through autograd: PyTorch's own ops beside the kernels."""
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = first_conv(*leaves, 0.1, **options)
    found = torch.autograd.grad(y, leaves, grad, create_graph=True)
    second = torch.autograd.grad(found[0].square().sum(), leaves[1])
    return tuple(t.detach().contiguous() for t in (y, *found, *second))


for case in ("descriptor 3", "odd", "five inputs"):
    shape, options = layers[case]
    x, weight, bias = (torch.randn(t.shape) for t in layer(*shape))
    grad = torch.randn(first_conv(x, weight, bias, **options).shape)
    for last in (False, True):
        chosen = options | {"channels_last": last}
        parity.compare(
            f"gradients {case} {'last' if last else 'row-major'}",
            lambda x=x, w=weight, b=bias, g=grad, o=chosen: gradients(x, w, b, g, o),
            2e-2 if case == "descriptor 3" else 2e-3,
        )

parity.report()
