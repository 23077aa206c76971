"""VGG-16 (Simonyan & Zisserman 2015) without its classifier, with torchvision's names."""

from __future__ import annotations

from torch import Tensor, nn

from napari_histoseg.nn.imagenet import FromPixels, start_convolutions

CHANNELS = 512
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions before each pooling (their configuration D)."""


class Vgg16(nn.Module):
    """The 13 convolutions of VGG-16; 14,714,688 parameters.

    ``features`` takes RGB in 0–1 and gives it ImageNet's mean and spread itself, which torchvision's weights were trained
    with: callers do not normalize.
    """

    channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, convolutions in STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
                before = channels
            layers.append(nn.MaxPool2d(2, 2))
        self.features = FromPixels(*layers)
        start_convolutions(self)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1 → (n, 512, h / 32, w / 32)."""
        features: Tensor = self.features(image)
        return features
