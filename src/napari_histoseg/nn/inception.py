"""InceptionV3 (Szegedy et al. 2016) without its classifiers, with torchvision's names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.nn.imagenet import start_convolutions

CHANNELS = 2048
Side = int | tuple[int, int]


class Conv(nn.Sequential):
    """Convolution, batch norm, ReLU; with ``same`` the resolution is kept, else a border is lost."""

    def __init__(self, channels_in: int, channels: int, side: Side, stride: int = 1, same: bool = False) -> None:
        high, wide = (side, side) if isinstance(side, int) else side
        padding = (high // 2, wide // 2) if same else (0, 0)
        super().__init__(
            OrderedDict(
                conv=nn.Conv2d(channels_in, channels, (high, wide), stride, padding, bias=False),
                bn=nn.BatchNorm2d(channels, eps=0.001),
                relu=nn.ReLU(inplace=True),
            )
        )


def _same(channels_in: int, channels: int, side: Side) -> Conv:
    return Conv(channels_in, channels, side, same=True)


def _through(x: Tensor, layers: Iterable[nn.Module]) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _mean3(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1)


class InceptionA(nn.Module):
    """1 × 1, 5 × 5, twice 3 × 3, and pooling, side by side (their figure 5)."""

    def __init__(self, channels_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(channels_in, 64, 1)
        self.branch5x5_1 = Conv(channels_in, 48, 1)
        self.branch5x5_2 = _same(48, 64, 5)
        self.branch3x3dbl_1 = Conv(channels_in, 64, 1)
        self.branch3x3dbl_2 = _same(64, 96, 3)
        self.branch3x3dbl_3 = _same(96, 96, 3)
        self.branch_pool = Conv(channels_in, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, 224 + pooled, h, w)."""
        five = _through(x, (self.branch5x5_1, self.branch5x5_2))
        double = _through(x, (self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_mean3(x))], 1)


class InceptionB(nn.Module):
    """Halves the resolution by 3 × 3, twice 3 × 3, and pooling."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(channels_in, 384, 3, 2)
        self.branch3x3dbl_1 = Conv(channels_in, 64, 1)
        self.branch3x3dbl_2 = _same(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, 480 + channels_in, (h - 1) // 2, (w - 1) // 2)."""
        double = _through(x, (self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """1 × 1, 7 × 7 and twice 7 × 7 in rows and columns, and pooling, side by side (their figure 6)."""

    def __init__(self, channels_in: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(channels_in, 192, 1)
        self.branch7x7_1 = Conv(channels_in, inner, 1)
        self.branch7x7_2 = _same(inner, inner, row)
        self.branch7x7_3 = _same(inner, 192, column)
        self.branch7x7dbl_1 = Conv(channels_in, inner, 1)
        self.branch7x7dbl_2 = _same(inner, inner, column)
        self.branch7x7dbl_3 = _same(inner, inner, row)
        self.branch7x7dbl_4 = _same(inner, inner, column)
        self.branch7x7dbl_5 = _same(inner, 192, row)
        self.branch_pool = Conv(channels_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, 768, h, w)."""
        seven = _through(x, (self.branch7x7_1, self.branch7x7_2, self.branch7x7_3))
        start = (self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3)
        double = _through(x, (*start, self.branch7x7dbl_4, self.branch7x7dbl_5))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_mean3(x))], 1)


class InceptionD(nn.Module):
    """Halves the resolution by 3 × 3, 7 × 7 then 3 × 3, and pooling."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(channels_in, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, 2)
        self.branch7x7x3_1 = Conv(channels_in, 192, 1)
        self.branch7x7x3_2 = _same(192, 192, (1, 7))
        self.branch7x7x3_3 = _same(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, 512 + channels_in, (h - 1) // 2, (w - 1) // 2)."""
        three = _through(x, (self.branch3x3_1, self.branch3x3_2))
        seven = _through(x, (self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4))
        return torch.cat([three, seven, functional.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """1 × 1, 3 × 3 and twice 3 × 3 that end in a row beside a column, and pooling, side by side (their figure 7)."""

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.branch1x1 = Conv(channels_in, 320, 1)
        self.branch3x3_1 = Conv(channels_in, 384, 1)
        self.branch3x3_2a = _same(384, 384, row)
        self.branch3x3_2b = _same(384, 384, column)
        self.branch3x3dbl_1 = Conv(channels_in, 448, 1)
        self.branch3x3dbl_2 = _same(448, 384, 3)
        self.branch3x3dbl_3a = _same(384, 384, row)
        self.branch3x3dbl_3b = _same(384, 384, column)
        self.branch_pool = Conv(channels_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, 2048, h, w)."""
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        threes = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        doubles = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *threes, *doubles, self.branch_pool(_mean3(x))], 1)


class InceptionV3(nn.Module):
    """InceptionV3 up to its last mixed layer, without the auxiliary head; 21,785,568 parameters.

    :meth:`features` takes RGB in 0–1 and maps it to 2 x - 1, between -1 and 1: the weights were trained by Google with that.
    torchvision's ``transform_input``, which its published weights switch on, arrives at the same: it expects ImageNet's mean
    and spread to have been applied, undoes both, and maps to 2 x - 1.
    """

    channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _same(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        start_convolutions(self)

    def features(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) in 0–1, at least 75 px a side → (n, 2048, about h / 32 - 2, about w / 32 - 2); 6 × 6 from 256 px."""
        # The layers stand in the order in which they are passed.
        return _through(2 * image - 1, self.children())

    def forward(self, image: Tensor) -> Tensor:
        """The same as :meth:`features`."""
        return self.features(image)
