"""Parity of bias_leaky_relu and of its backward pass: see parity.py."""

from __future__ import annotations

import parity
import torch

from coophash.kernels import bias_leaky_relu, bias_leaky_relu_bits, leaky_relu_backward

LAST = torch.channels_last


def forward_and_backward(x, bias, grad, slope, bias_grad):
    y, bits = bias_leaky_relu_bits(x, bias, slope)
    passed, summed = leaky_relu_backward(grad, bits, slope, bias_grad=bias_grad)
    assert passed.stride() == y.stride()
    return (y, bits, passed) + ((summed,) if bias_grad else ())


def autograd(x, bias, grad):
    """Through the public function: PyTorch's own ops beside the kernels."""
    x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
    y = bias_leaky_relu(x, bias, 0.1)
    first = torch.autograd.grad(y, (x, bias), grad, create_graph=True)
    probe = grad.detach().clone().requires_grad_()
    (passed,) = torch.autograd.grad(bias_leaky_relu(x, bias, 0.1), x, probe, create_graph=True)
    (second,) = torch.autograd.grad(passed, probe, torch.ones_like(passed))
    return y.detach(), first[0].detach(), first[1].detach(), second


torch.manual_seed(0)
shapes = {
    "dense": ((37, 50), False),
    "dense narrow": ((300, 3), False),
    "planes 196": ((3, 5, 14, 14), False),
    "planes 15": ((4, 9, 3, 5), False),
    "planes 1024": ((2, 3, 32, 32), False),
    "one pixel": ((5, 21, 1, 1), False),
    "one dimension": ((3, 4, 13), False),
    "three dimensions": ((2, 3, 2, 3, 5), False),
    "channels last 32": ((3, 32, 5, 5), True),
    "channels last 13": ((2, 13, 4, 6), True),
    "long": ((1, 2, 40_000), False),
}
for name, (shape, last) in shapes.items():
    for dtype in (torch.float32, torch.bfloat16):
        x, grad = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        x.view(-1)[:3] = 0.0
        if last:
            x, grad = x.to(memory_format=LAST), grad.to(memory_format=LAST)
        bias = torch.randn(shape[1])
        bias[0] = 0.0  # some inputs of the activation are exactly 0, where the derivative is slope
        case = f"{name} {str(dtype).removeprefix('torch.')}"
        # A sum of many: the interpreter's order is another.
        for tag, b, summed in (("", bias, False), (" bias", bias, True), (" no bias", None, True)):
            parity.compare(
                case + tag,
                lambda x=x, b=b, grad=grad, s=summed: forward_and_backward(x, b, grad, 0.1, s),
                1e-4 if summed else 1e-6,
            )

x, grad, bias = torch.randn(3, 8, 6, 7), torch.randn(3, 8, 6, 7), torch.randn(8)
for case, arguments in {
    "sliced": (torch.randn(3, 8, 12, 7)[:, :, ::2], bias, grad[:, :, :, torch.arange(7)], 0.2),
    "grad of other layout": (x, bias, grad.to(memory_format=LAST), 0.2),
    "x of other layout": (x.to(memory_format=LAST), bias, grad, 0.2),
    "relu": (x, bias, grad, 0.0),
    "empty": (x[:0], bias, grad[:0], 0.1),
    "float16": (x.half(), bias.half(), grad.half(), 0.1),
    "float64": (x.double(), bias.double(), grad.double(), 0.1),
}.items():
    allowed = 4e-3 if case == "float16" else 1e-5
    parity.compare(
        case, lambda arguments=arguments: forward_and_backward(*arguments, True), allowed
    )
x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
parity.compare("nan", lambda: forward_and_backward(x, bias, grad, 0.1, False))
parity.compare("autograd", lambda: autograd(grad, bias, grad), 1e-4)
last = grad.to(memory_format=LAST)
parity.compare("autograd channels_last", lambda: autograd(last, bias, last), 1e-4)

parity.report()
