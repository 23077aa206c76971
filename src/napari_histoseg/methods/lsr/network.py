"""The network: a U-Net (Zhao et al. 2020, §3.3: "U-net-like") whose first level has half the resolution."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.nn.blocks import conv_bn_relu

WIDTHS = (1, 2, 4, 6)
"""Channels of the levels, in units of the first one's."""
STRIDE_PX = 2 ** len(WIDTHS)
"""Tiles start at multiples of this, and input sides are multiples of it."""
HALO_PX = 112
"""A pixel's output depends on no pixel farther away than this (tested)."""


class UNet(nn.Module):
    """Class logits at the resolution of the picture, from an encoder that halves four times, with skips.

    The first halving gathers four pixels into channels, and the answer is enlarged again: a quarter of the work of a U-Net
    that starts at full resolution, and outlines that are smooth over two pixels.

    Parameters
    ----------
    classes : int
    width : int
        Channels of the first level.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        widths = [width * k for k in WIDTHS]
        self.stem = nn.PixelUnshuffle(2)
        self.down = nn.ModuleList([_double(above, below) for above, below in pairwise([12, *widths])])
        self.up = nn.ModuleList([_double(below + above, above) for above, below in pairwise(widths)])
        self.answer = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → class logits (n, classes, h, w); h and w divisible by 16."""
        x = self.stem(image - 0.5)
        levels = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else functional.max_pool2d(x, 2))
            levels.append(x)
        x = levels.pop()
        for up in reversed(self.up):
            x = up(torch.cat([levels.pop(), functional.interpolate(x, scale_factor=2.0, mode="nearest")], 1))
        return functional.interpolate(self.answer(x), scale_factor=2.0, mode="bilinear", align_corners=False)


def _double(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn_relu(channels_in, channels), *conv_bn_relu(channels, channels))
