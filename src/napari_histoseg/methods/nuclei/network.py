"""The two networks: a compact one for CPUs and the paper's U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.nn.compact import CompactNet

MARGIN_STRIDE = 16
"""Tiles must start at multiples of this many pixels, so that pooling falls on the same grid in every tile."""


class PaperUNet(nn.Module):
    """U-Net of Yuan & Suh (§2.2): 4 down, 4 up, two 3 × 3 convolutions + ReLU a level, skip concatenation.

    Output channels: logits of background, nucleus, nuclear boundary. At width 32 a 144 × 144 tile is 512 × 9 × 9 at the bottom.
    """

    channels_out = 3

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(5)]
        self.down = nn.ModuleList([_two_convs(3 if i == 0 else widths[i - 1], w) for i, w in enumerate(widths)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[:-1]])
        self.merge = nn.ModuleList([_two_convs(2 * w, w) for w in widths[:-1]])
        self.head = nn.Conv2d(width, self.channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → (n, 3, h, w); h and w divisible by 16."""
        x = x - 0.5
        levels = []
        for i, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if i else x)
            levels.append(x)
        for i in range(len(self.up) - 1, -1, -1):
            x = self.merge[i](torch.cat([levels[i], self.up[i](x)], 1))
        out: Tensor = self.head(x)
        return out


def _two_convs(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def build(architecture: str, width: int = 32) -> nn.Module:
    """An untrained network by its name (``compact`` or ``unet``)."""
    return {"compact": CompactNet, "unet": PaperUNet}[architecture](width)
