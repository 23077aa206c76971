"""The refiner that the paper settles on: a deep, narrow U-Net (H2G-Net §2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.nn.blocks import conv_bn_relu

FILTERS = (8, 16, 32, 64, 128, 128, 256, 256, 512)
"""Channels of each level and, last, of the bottleneck."""
DROPPED = 0.1


def block(channels_in: int, channels: int, dropped: float = 0.0) -> nn.Sequential:
    """Two 3 × 3 convolutions with batch norm and ReLU, each followed by spatial dropout where some is asked for."""
    layers: list[nn.Module] = []
    for before in (channels_in, channels):
        layers += conv_bn_relu(before, channels)
        if dropped:
            layers.append(nn.Dropout2d(dropped))
    return nn.Sequential(*layers)


def doubled(x: Tensor) -> Tensor:
    """(n, c, h, w) → (n, c, 2 h, 2 w), every pixel repeated, as in the released code."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Encoder(nn.Module):
    """Blocks with 2 × 2 max pooling between them.

    Parameters
    ----------
    channels_in : int
    filters : sequence of int
        Channels of each level and of the bottleneck.
    multiscale : bool
        Every level below the first sees the input too, averaged to its resolution.
    """

    def __init__(self, channels_in: int, filters: Sequence[int], multiscale: bool = False) -> None:
        super().__init__()
        self.multiscale = multiscale
        seen = channels_in if multiscale else 0
        first, *others = (block(a + (seen if i else 0), b) for i, (a, b) in enumerate(pairwise((channels_in, *filters))))
        self.blocks = nn.ModuleList([first, *others])

    def forward(self, image: Tensor) -> list[Tensor]:
        """(n, c, h, w) → the features of each level, finest first; the bottleneck's last."""
        levels: list[Tensor] = []
        for layers in self.blocks:
            x = image
            if levels:
                x = functional.max_pool2d(levels[-1], 2)
                if self.multiscale:
                    image = functional.avg_pool2d(image, 2)
                    x = torch.cat([x, image], 1)
            levels.append(layers(x))
        return levels


class Decoder(nn.Module):
    """Enlarge, join the encoder's features, convolve; with spatial dropout.

    Parameters
    ----------
    filters : sequence of int
        Channels of each level and of the bottleneck.
    skipped : int
        How many encoders the features of a level come from.
    """

    def __init__(self, filters: Sequence[int], skipped: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(below + skipped * own, own, DROPPED) for own, below in pairwise(filters))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's features, finest first → those of the decoder, finest first, without the bottleneck's."""
        x = levels[-1]
        decoded: list[Tensor] = []
        for level in reversed(range(len(self.blocks))):
            x = self.blocks[level](self.joined(level, doubled(x), levels[level]))
            decoded.insert(0, x)
        return decoded

    def joined(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """What a level's block is given: enlarged features, and those of the encoder."""
        return torch.cat([x, skip], 1)


class UNet(nn.Module):
    """The U-Net of the paper; with 8 levels 11.56 million parameters, in the paper 11.58.

    Parameters
    ----------
    channels_in : int
    levels : int
        Poolings. Fewer than 8 leave out the deepest ones.
    """

    def __init__(self, channels_in: int = 4, levels: int = 8) -> None:
        super().__init__()
        filters = FILTERS[: levels + 1]
        self.encoder = Encoder(channels_in, filters)
        self.decoder = Decoder(filters)
        self.head = nn.Conv2d(filters[0], 1, 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(n, c, h, w) in 0–1, sides divisible by 2^levels → the logits (n, 1, h, w)."""
        return [self.head(self.decoder(self.encoder(image))[0])]
