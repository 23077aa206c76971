"""MobileNetV2 (Sandler et al. 2018) without its classifier, with torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn

from napari_histoseg.nn.imagenet import FromPixels, start_convolutions

CHANNELS = 1280
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage (their table 2)."""


def _conv(channels_in: int, channels: int, side: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to the input where the shapes agree."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        widen = [_conv(channels_in, wide, 1)] if expansion > 1 else []
        narrow = [nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = nn.Sequential(*widen, _conv(wide, wide, 3, stride, groups=wide), *narrow)
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n, channels, h / stride, w / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1 up to its last convolution; 2,223,872 parameters.

    ``features`` takes RGB in 0–1 and gives it ImageNet's mean and spread itself, which torchvision's weights were trained
    with: callers do not normalize.
    """

    channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, stride=2)]
        before = 32
        for expansion, channels, blocks, stride in STAGES:
            for i in range(blocks):
                layers.append(InvertedResidual(before, channels, stride if i == 0 else 1, expansion))
                before = channels
        self.features = FromPixels(*layers, _conv(before, CHANNELS, 1))
        start_convolutions(self)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → (n, 1280, h / 32, w / 32)."""
        features: Tensor = self.features(image)
        return features
