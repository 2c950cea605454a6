"""Convolutional networks for images of 8 to 64 pixels: the descriptor's base and the generator.

Both are plain modules without side effects; sizes follow from the image shape alone.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


class ConvBase(nn.Module):
    """f0(x; theta_0): strided convolutions to a map of at most 4 x 4, then one dense layer.

    No normalisation: the energy of one image must not depend on its batch, and the Langevin chain
    differentiates through every layer.

    Args:
        image_shape: (C, H, W).
        channels: of the first convolution; doubles at each one that follows.
        features: width of the output.
    """

    slope = 0.1  # leaky ReLU

    def __init__(self, image_shape: Shape, channels: int = 32, features: int = 256) -> None:
        super().__init__()
        inputs, height, width = image_shape
        convolutions: list[nn.Module] = []
        kernel = 5  # the first one sees raw pixels: a wider window, still the cheapest layer
        while max(height, width) > 4:
            convolutions.append(nn.Conv2d(inputs, channels, kernel, stride=2, padding=kernel // 2))
            inputs, channels, kernel = channels, channels * 2, 3
            height, width = (height + 1) // 2, (width + 1) // 2
        self.convolutions = nn.ModuleList(convolutions)
        self.dense = nn.Linear(inputs * height * width, features)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) in [-1, 1] -> (B, features)."""
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), self.slope)
        return F.leaky_relu(self.dense(x.flatten(1)), self.slope)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a gain and a bias per class and channel.

    The initial spread of the gains makes the classes differ from the first update on; without it
    the generator was seen to ignore the label.
    """

    spread = 0.3

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)
        nn.init.normal_(self.gain.weight, 1.0, self.spread)
        nn.init.normal_(self.bias.weight, 0.0, self.spread)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """x: (B, channels, H, W), labels -> (B, channels, H, W).

        labels: classes (B,); or (B, classes), the weights of each label of an image, which sum to
        1: the gain is then the mean of their gains.
        """
        if labels.dim() == 1:
            gain, bias = self.gain(labels), self.bias(labels)
        else:
            gain, bias = labels @ self.gain.weight, labels @ self.bias.weight
        return torch.addcmul(bias[:, :, None, None], self.norm(x), gain[:, :, None, None])


class ConvGenerator(nn.Module):
    """g(c, z; Lambda): the label and the latent, concatenated, to an image in (-1, 1).

    A dense layer makes a small map; each stage convolves and then doubles it by nearest neighbour.
    Convolving before the doubling costs a quarter of the other order at the same number of
    channels, and unlike transposed convolutions it leaves no checkerboard.

    Args:
        image_shape: (C, H, W).
        classes: number of labels.
        latent_dim: d, width of z.
        channels: of the image-sized end; doubles towards the small end.
    """

    smallest = 8  # the dense layer's map is at most this many pixels high and wide

    def __init__(self, image_shape: Shape, classes: int, latent_dim: int, channels: int) -> None:
        super().__init__()
        outputs, height, width = image_shape
        stages = 1
        while max(height, width) > self.smallest << stages:
            stages += 1
        self.classes, self.size = classes, (height, width)
        self.small = (-(-height >> stages) or 1, -(-width >> stages) or 1)
        widths = [channels << (stages - i) for i in range(stages + 1)]
        self.dense = nn.Linear(latent_dim + classes, widths[0] * self.small[0] * self.small[1])
        self.first_norm = ConditionalBatchNorm(widths[0], classes)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(ConditionalBatchNorm(b, classes) for b in widths[1:])
        self.last = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, labels: Tensor, latent: Tensor) -> Tensor:
        """labels: (B,) or multi-hot (B, classes), latent: (B, d) -> (B, C, H, W) in (-1, 1)."""
        if labels.dim() == 1:
            hot = F.one_hot(labels, self.classes).to(latent.dtype)
        else:
            hot = labels.to(latent.dtype)
            labels = hot / hot.sum(1, keepdim=True)
        x = self.dense(torch.cat([latent, hot], 1)).unflatten(1, (-1, *self.small))
        x = F.relu(self.first_norm(x, labels))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.interpolate(F.relu(norm(convolution(x), labels)), scale_factor=2.0)
        height, width = self.size  # sides that are no multiple of 2^stages are cropped
        return torch.tanh(self.last(x)[:, :, :height, :width])
