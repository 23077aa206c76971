"""The paper's network: dilated residual blocks that say a class for each pixel, and a decoder that rebuilds the picture from the classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.nn.blocks import conv_bn_relu

DILATIONS = (2, 4, 8)
"""Of the three blocks. The paper says that they grow."""
EPS = 1e-5


def _convolution(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    # The edge is repeated outward: zeros would be a dark frame around a picture of glass, which becomes a class of its own.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, padding_mode="replicate", bias=False), nn.BatchNorm2d(outputs)
    )


class DilatedBlock(nn.Module):
    """A dilated 3 × 3 convolution and two plain ones, with their input added to their output (paper, figure 2)."""

    def __init__(self, inputs: int, width: int, dilation: int) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(_convolution(inputs, width, dilation), relu, _convolution(width, width), relu, _convolution(width, width))
        self.skip = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)
        self.radius_px = dilation + 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, width, h, w)."""
        return functional.relu(self.skip(x) + self.body(x))


class Encoder(nn.Module):
    """From colors to a response of each class at full resolution (paper, figure 3).

    Parameters
    ----------
    classes : int
    width : int
        Channels of a block.
    dilations : tuple of int
        One for each block.
    """

    def __init__(self, classes: int, width: int = 16, dilations: tuple[int, ...] = DILATIONS) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DilatedBlock(width if i else 3, width, dilation) for i, dilation in enumerate(dilations))
        self.head = nn.Conv2d(width * len(dilations), classes, 1)
        self.radius_px = sum(dilation + 2 for dilation in dilations)
        """How far away a pixel still counts."""

    def features(self, image: Tensor) -> Tensor:
        """What all blocks see (n, 3·width, h, w) of (n, 3, h, w) in 0–1."""
        seen, x = [], image - 0.5
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        return torch.cat(seen, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Responses (n, K, h, w), which have no scale yet."""
        response: Tensor = self.head(self.features(image))
        return response


class Decoder(nn.Module):
    """A small U-Net that rebuilds a picture from its classes (paper, figure 4); sides divisible by 4."""

    def __init__(self, classes: int, width: int = 8) -> None:
        super().__init__()
        self.fine = conv_bn_relu(classes, width)
        self.middle = nn.Sequential(nn.AvgPool2d(2), conv_bn_relu(width, 2 * width))
        self.coarse = nn.Sequential(nn.AvgPool2d(2), conv_bn_relu(2 * width, 4 * width), conv_bn_relu(4 * width, 2 * width))
        self.back = conv_bn_relu(4 * width, width)
        self.last = nn.Sequential(conv_bn_relu(2 * width, width), nn.Conv2d(width, 3, 1))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, probability: Tensor) -> Tensor:
        """(n, K, h, w) → colors (n, 3, h, w) in 0–1."""
        fine = self.fine(probability)
        middle = self.middle(fine)
        rebuilt = self.back(torch.cat([middle, self.up(self.coarse(middle))], 1))
        colors: Tensor = self.last(torch.cat([fine, self.up(rebuilt)], 1))
        return colors.sigmoid()


class DeepNet(nn.Module):
    """Encoder and decoder, with what a training counts and measures, so that a checkpoint and a weights file hold all of it.

    While it learns, the responses of a class have mean 0 and variance 1 over each picture (paper 3.4). A slide is seen in tiles,
    and tiles with statistics of their own would not fit together; the trained network takes the means and spreads that the
    training pictures have as a whole, ``response_mean`` and ``response_std``.

    Parameters
    ----------
    classes, width
        As in :class:`Encoder`.
    decoder, instance_norm : bool
        Have these.
    """

    response_mean: Tensor
    response_std: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    centers: Tensor
    share: Tensor
    reach: Tensor
    tally: Tensor
    epoch_loss: Tensor
    epoch_classes: Tensor

    def __init__(self, classes: int, width: int = 16, decoder: bool = True, instance_norm: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(classes, width)
        self.decoder = Decoder(classes) if decoder else None
        self.instance_norm = instance_norm
        seen = self.encoder.head.in_channels
        # Of the training pictures, for the trained network.
        self.register_buffer("response_mean", torch.zeros(classes))
        self.register_buffer("response_std", torch.ones(classes))
        self.register_buffer("feature_mean", torch.zeros(seen))
        self.register_buffer("feature_std", torch.ones(seen))
        self.register_buffer("centers", torch.zeros(classes, seen))
        self.register_buffer("share", torch.zeros(classes))
        self.register_buffer("reach", torch.ones(1))
        # Of the epoch in progress: pixels of each class, and the sum of losses; of the last one: its number of classes.
        self.register_buffer("tally", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("epoch_loss", torch.zeros(1))
        self.register_buffer("epoch_classes", torch.zeros(1, dtype=torch.int64))

    @property
    def classes(self) -> int:
        """K, dead ones among them."""
        return self.encoder.head.out_channels

    def normed(self, response: Tensor) -> Tensor:
        """Responses (n, K, h, w) at one scale: over each picture while it learns, over the training pictures afterwards."""
        if self.training:
            return functional.instance_norm(response, eps=EPS) if self.instance_norm else response
        return (response - self.response_mean[:, None, None]) / self.response_std[:, None, None]

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (n, K, h, w) of (n, 3, h, w) in 0–1."""
        return self.normed(self.encoder(image))

    def rebuild(self, image: Tensor) -> Tensor:
        """The picture (n, 3, h, w), rebuilt from how probable each class is where."""
        assert self.decoder is not None
        colors: Tensor = self.decoder(self(image).softmax(1))
        return colors

    @torch.no_grad()
    def revive(self, empty: int, largest: int, noise: Tensor) -> None:
        """Split the largest class: an empty one takes its weights, and both part by a random perturbation (paper 3.4).

        Parameters
        ----------
        empty, largest : int
        noise : (3·width,)
            In units of the root mean square of the largest one's weights.
        """
        weight, bias = self.encoder.head.weight, self.encoder.head.bias
        assert bias is not None
        scale = weight[largest].square().mean().sqrt()
        weight[empty] = weight[largest] + scale * noise.to(weight)[:, None, None]
        bias[empty] = bias[largest]
