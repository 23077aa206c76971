"""ResNet-18 up to its third layer, and torchvision's ImageNet weights for it where they are found."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.errors import WeightsError
from napari_histoseg.nn.imagenet import MEAN, SPREAD, load_imagenet, start_convolutions

RESNET_WIDTH = 64


class Block(nn.Module):
    """ResNet's basic block, with torchvision's names."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels_in != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, channels, h / stride, w / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)) + identity, inplace=True)


class Encoder(nn.Module):
    """ResNet-18 up to and including its third layer, with torchvision's names, so that its checkpoints load.

    Parameters
    ----------
    width : int
        Channels of the first layer; ResNet-18's is 64, and the third layer has four times as many.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int = RESNET_WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None], persistent=False)
        start_convolutions(self)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, h, w) in 0–1 → the three layers' features, at 1/4, 1/8 and 1/16 of the resolution."""
        x = functional.relu(self.bn1(self.conv1((image - self.mean) / self.spread)), inplace=True)
        first = self.layer1(functional.max_pool2d(x, 3, 2, 1))
        second = self.layer2(first)
        return first, second, self.layer3(second)


def load_encoder(encoder: Encoder, path: Path) -> None:
    """Load torchvision's ResNet-18 checkpoint into an encoder of width 64.

    Raises
    ------
    WeightsError
        If the file is damaged, is none of these, or the encoder has another width.
    """
    if encoder.conv1.out_channels != RESNET_WIDTH:
        raise WeightsError(
            f"ImageNet weights have width {RESNET_WIDTH}, and this network {encoder.conv1.out_channels}. Set width to {RESNET_WIDTH}, or encoder to scratch."
        )
    load_imagenet(encoder, path, "resnet18")
