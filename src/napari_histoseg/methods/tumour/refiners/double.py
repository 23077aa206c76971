"""DoubleU-Net: a U-Net that looks again where another one has found something (Jha et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from napari_histoseg.methods.tumour.refiners.unet import Decoder, Encoder

FILTERS = (8, 16, 32, 64, 128, 128, 160, 256, 256)
"""Channels of each level and, last, of the bottleneck. The paper names only the parameters, which these come near to."""
RATES = (1, 2, 3)
"""Of the bottleneck's dilated convolutions; it has 4 × 4 pixels at 1024 px, so that the usual 6, 12 and 18 would see padding."""


class SqueezeExcite(nn.Module):
    """Weights for the channels from their means over the picture (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 4)
        self.weight = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True), nn.Conv2d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        weighted: Tensor = x * self.weight(x)
        return weighted


class Surroundings(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017): the features at several dilations, and their mean, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        part = channels // 4
        self.near = _dilated(channels, part, 1, 0)
        self.far = nn.ModuleList(_dilated(channels, part, 3, rate) for rate in RATES)
        # Of one value a channel there is no batch norm.
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, part, 1), nn.ReLU(inplace=True))
        self.join = _dilated(part * (2 + len(RATES)), channels, 1, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        whole = self.whole(x).expand(-1, -1, *x.shape[2:])
        joined: Tensor = self.join(torch.cat([self.near(x), *(far(x) for far in self.far), whole], 1))
        return joined


def _dilated(channels_in: int, channels: int, side: int, rate: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, side, padding=rate, dilation=max(rate, 1), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Half(nn.Module):
    """One of the two U-Nets, with squeeze and excite after every block and a pyramid of dilations at the bottleneck."""

    def __init__(self, channels_in: int, filters: Sequence[int], skipped: int) -> None:
        super().__init__()
        self.encoder = Encoder(channels_in, filters)
        self.decoder = Decoder(filters, skipped)
        for blocks in (self.encoder.blocks, self.decoder.blocks):
            for layers, channels in zip(blocks, filters, strict=False):
                cast(nn.Sequential, layers).append(SqueezeExcite(channels))
        self.surroundings = Surroundings(filters[-1])
        self.head = nn.Conv2d(filters[0], 1, 1)

    def forward(self, image: Tensor, other: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        """(n, c, h, w), and the other encoder's features for all levels → logits (n, 1, h, w) and the own encoder's features."""
        levels = self.encoder(image)
        skips = [torch.cat(both, 1) for both in zip(levels, other, strict=True)] if other else list(levels)
        skips[-1] = self.surroundings(levels[-1])
        logits: Tensor = self.head(self.decoder(skips)[0])
        return logits, levels


class DoubleUNet(nn.Module):
    """Two U-Nets in sequence: the first one's probability multiplies the input of the second, which sees both encoders' features.

    16.18 million parameters with 8 levels, in the paper 16.04.

    Jha's first encoder is a VGG-19 with ImageNet weights; here it is one as the U-Net's, trained from the beginning.

    Parameters
    ----------
    channels_in : int
    levels : int
        Poolings. Fewer than 8 leave out the deepest ones.
    """

    def __init__(self, channels_in: int = 4, levels: int = 8) -> None:
        super().__init__()
        filters = FILTERS[: levels + 1]
        self.first = Half(channels_in, filters, 1)
        self.second = Half(channels_in, filters, 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(n, c, h, w) in 0–1, sides divisible by 2^levels → the second's logits (n, 1, h, w); in training the first's follow."""
        first, features = self.first(image)
        second, _ = self.second(image * torch.sigmoid(first), features)
        return [second, first] if self.training else [second]
