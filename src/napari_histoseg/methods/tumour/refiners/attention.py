"""AGU-Net and DAGU-Net: U-Nets with attention, the input at several scales, and deep supervision (Bouget et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.methods.tumour.refiners.unet import Decoder, Encoder
from napari_histoseg.nn.blocks import conv_bn_relu

FILTERS = (8, 16, 32, 64, 128, 128, 192, 256, 256)
"""Channels of each level and, last, of the bottleneck. The paper names only the parameters, which these come near to."""
DUAL_LEVELS = 2
"""Dual attention stands on the bottleneck and the levels above it, this many in all: a position sees every other one,
which at 1024 px and 8 levels are 16 and 64, and at a fine level would be too many."""


class Gate(nn.Module):
    """Attention gate (Oktay et al. 2018): how much of each pixel of the encoder's features the decoder lets through."""

    def __init__(self, skip: int, below: int) -> None:
        super().__init__()
        inner = max(skip // 2, 1)
        self.skip = nn.Sequential(nn.Conv2d(skip, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.signal = nn.Sequential(nn.Conv2d(below, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.weight = nn.Sequential(nn.Conv2d(inner, 1, 1, bias=False), nn.BatchNorm2d(1))

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """(n, skip, h, w) and (n, below, h, w) → (n, skip, h, w)."""
        wanted = functional.relu(self.skip(skip) + self.signal(signal))
        through: Tensor = torch.sigmoid(self.weight(wanted))
        return skip * through


class GatedDecoder(Decoder):
    """A decoder whose features from the encoder pass a gate."""

    def __init__(self, filters: Sequence[int]) -> None:
        super().__init__(filters)
        self.gates = nn.ModuleList(Gate(own, below) for own, below in pairwise(filters))

    def joined(self, level: int, x: Tensor, skip: Tensor) -> Tensor:
        """What a level's block is given: enlarged features, and the gated ones of the encoder."""
        return super().joined(level, x, self.gates[level](skip, x))


class PositionAttention(nn.Module):
    """Every pixel adds the features of all pixels that resemble it (Fu et al. 2019, §3.2); in the beginning it adds nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape, by way of (n, h w, h w)."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        alike = torch.softmax(query.transpose(1, 2) @ key, 2)
        seen: Tensor = value @ alike.transpose(1, 2)
        return x + self.share * seen.view_as(x)


class ChannelAttention(nn.Module):
    """Every channel adds all channels that resemble it (Fu et al. 2019, §3.3); in the beginning it adds nothing.

    Products are divided by the number of pixels, so that likeness does not depend on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape, by way of (n, c, c)."""
        flat = x.flatten(2)
        alike = torch.softmax(flat @ flat.transpose(1, 2) / flat.shape[2], 2)
        return x + self.share * (alike @ flat).view_as(x)


class DualAttention(nn.Module):
    """Position and channel attention side by side, added up (Fu et al. 2019, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position = nn.Sequential(*conv_bn_relu(channels, channels), PositionAttention(channels))
        self.channel = nn.Sequential(*conv_bn_relu(channels, channels), ChannelAttention())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        both: Tensor = self.position(x) + self.channel(x)
        return both


class AttentionUNet(nn.Module):
    """AGU-Net, or with ``dual`` DAGU-Net: 7.59 and 10.11 million parameters with 8 levels, in the paper 7.68 and 9.99.

    Each level of the encoder sees the input averaged to its resolution, the decoder's gates choose from the encoder's
    features, and in training every level of the decoder gives logits (deep supervision).

    Parameters
    ----------
    channels_in : int
    levels : int
        Poolings. Fewer than 8 leave out the deepest ones.
    dual : bool
        Position and channel attention on the two deepest levels of the encoder as well.
    """

    def __init__(self, channels_in: int = 4, levels: int = 8, dual: bool = False) -> None:
        super().__init__()
        filters = FILTERS[: levels + 1]
        self.encoder = Encoder(channels_in, filters, multiscale=True)
        self.attention = nn.ModuleList(DualAttention(channels) for channels in (filters[-DUAL_LEVELS:] if dual else ()))
        self.decoder = GatedDecoder(filters)
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in filters[:-1])

    def forward(self, image: Tensor) -> list[Tensor]:
        """(n, c, h, w) in 0–1, sides divisible by 2^levels → logits (n, 1, h, w); in training those of coarser levels follow."""
        levels = self.encoder(image)
        for i, attention in enumerate(self.attention, len(levels) - len(self.attention)):
            levels[i] = attention(levels[i])
        decoded = self.decoder(levels)
        logits = [self.heads[0](decoded[0])]
        if self.training:
            for head, features in zip(list(self.heads)[1:], decoded[1:], strict=True):
                logits.append(functional.interpolate(head(features), size=image.shape[2:], mode="bilinear", align_corners=False))
        return logits
