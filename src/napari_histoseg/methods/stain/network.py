"""The stain transfer network (Yuan & Suh 2018, §3.1, after Iizuka et al. 2016): lightness in, the two color components out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.errors import SettingsError
from napari_histoseg.nn.blocks import conv_bn_relu

PAPER_WIDTH = 256
STRIDE_PX = 8
"""The encoder halves three times: input sides are multiples of this."""
HALO_PX = 72
"""The color of a pixel depends on no lightness farther away than this (tested)."""
AB_UNIT = 50.0
"""a* and b* are learned in units of this, so that they are of the order of one."""


class StainNetwork(nn.Module):
    """Encoder, global branch, fusion and decoder.

    Parameters
    ----------
    width : int
        Channels of the encoder's last layer and length of the global vector; the paper's is 256.
    classes : int
        Image classes that the global branch tells apart; 0 leaves the class head out.
    skips : bool
        Hand the encoder's features at 1/2 and 1/4 resolution to the decoder, so that colors end where lightness does at a
        small width. The paper's network has none.
    """

    mean_vector: Tensor

    def __init__(self, width: int = 64, classes: int = 0, skips: bool = True) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise SettingsError(f"The setting 'width' is wrong: it is a multiple of 8 from 8. Got {width} instead.")
        self.width, self.classes, self.skips = width, classes, skips
        w = width
        self.to_half = nn.Sequential(conv_bn_relu(1, w // 4, 2), conv_bn_relu(w // 4, w // 2))
        self.to_quarter = nn.Sequential(conv_bn_relu(w // 2, w // 2, 2), conv_bn_relu(w // 2, w))
        self.to_eighth = nn.Sequential(
            conv_bn_relu(w, w, 2), conv_bn_relu(w, 2 * w), conv_bn_relu(2 * w, 2 * w), conv_bn_relu(2 * w, w)
        )
        self.overall = nn.Sequential(
            conv_bn_relu(w, 2 * w, 2), conv_bn_relu(2 * w, 2 * w), conv_bn_relu(2 * w, 2 * w, 2), conv_bn_relu(2 * w, 2 * w)
        )
        self.connected = nn.Sequential(_linear(2 * w, 2 * w), _linear(2 * w, w))
        self.category = nn.Linear(w, classes) if classes else None
        self.fusion = nn.Sequential(nn.Conv2d(2 * w, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True))
        self.decode_eighth = conv_bn_relu(w, w // 2)
        self.decode_quarter = nn.Sequential(conv_bn_relu(w // 2 + (w if skips else 0), w // 4), conv_bn_relu(w // 4, w // 4))
        self.decode_half = conv_bn_relu(w // 4 + (w // 2 if skips else 0), w // 4)
        self.color = nn.Conv2d(w // 4, 2, 3, padding=1)
        self.register_buffer("mean_vector", torch.zeros(w))

    def forward(self, lightness: Tensor) -> Tensor:
        """Color components and class scores of a training batch.

        Every second picture is colored with the batch's mean global vector, because a slide's tiles are all colored with the
        slide's mean.

        Parameters
        ----------
        lightness : (n, 1, h, w)
            L* / 100; h and w are multiples of 8.

        Returns
        -------
        (n, 2 + classes, h, w)
            a* and b* in units of 50, then the class scores, the same at every position.
        """
        half, quarter, eighth = self.encode(lightness)
        vector = self.summarize(eighth)
        used = vector.clone()
        used[1::2] = vector.mean(0)
        ab = self.paint(half, quarter, eighth, used)
        if self.category is None:
            return ab
        scores = self.category(vector)[:, :, None, None]
        return torch.cat([ab, scores.expand(-1, -1, *ab.shape[2:])], 1)

    def encode(self, lightness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at 1/2, 1/4 and 1/8 of the resolution of (n, 1, h, w) lightness in 0–1."""
        # Darkness, so that the zeros around the picture are glass.
        half = self.to_half(1 - lightness)
        quarter = self.to_quarter(half)
        return half, quarter, self.to_eighth(quarter)

    def summarize(self, eighth: Tensor) -> Tensor:
        """The global vector (n, width) of the encoder's last features; any picture from 32 px a side."""
        vector: Tensor = self.connected(self.overall(eighth).mean((2, 3)))
        return vector

    def vector_of(self, lightness: Tensor) -> Tensor:
        """The global vector (n, width) of (n, 1, h, w) lightness in 0–1."""
        return self.summarize(self.encode(lightness)[2])

    def colorize(self, lightness: Tensor, vector: Tensor) -> Tensor:
        """a* and b* (n, 2, h, w), in units of 50, of lightness in 0–1 under a given global vector (n, width)."""
        return self.paint(*self.encode(lightness), vector)

    def paint(self, half: Tensor, quarter: Tensor, eighth: Tensor, vector: Tensor) -> Tensor:
        """Fusion and decoder."""
        everywhere = vector.to(eighth.dtype)[:, :, None, None].expand(-1, -1, *eighth.shape[2:])
        x = self.decode_eighth(self.fusion(torch.cat([eighth, everywhere], 1)))
        x = self.decode_quarter(self._joined(x, quarter))
        x = self.color(self.decode_half(self._joined(x, half)))
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def _joined(self, x: Tensor, skip: Tensor) -> Tensor:
        larger = functional.interpolate(x, scale_factor=2, mode="nearest")
        return torch.cat([larger, skip], 1) if self.skips else larger


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))


ARCHITECTURES = ("compact", "paper")


def build(architecture: str, width: int, classes: int = 0) -> StainNetwork:
    """The network of an architecture: ``paper``, or ``compact`` with skips.

    Raises
    ------
    SettingsError
        If there is no such architecture, or the width is no multiple of 8.
    """
    if architecture not in ARCHITECTURES:
        known = " or ".join(f"'{name}'" for name in ARCHITECTURES)
        raise SettingsError(f"There is no stain transfer network '{architecture}'. Choose {known}.")
    return StainNetwork(width, classes, skips=architecture == "compact")
