"""Network blocks with more than one user."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def conv_bn_relu(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """3 × 3 convolution, batch norm, ReLU; ``stride`` 2 halves the resolution."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch norm around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        return functional.relu(x + self.second(self.first(x)))
