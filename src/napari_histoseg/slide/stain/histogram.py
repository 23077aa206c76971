"""The colors of pictures and how often each occurs: all that a stain measurement needs.

A picture has millions of pixels and some ten thousand colors; measuring the colors is a hundred times faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError

Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]
BITS = 6
#: Of a picture with more pixels about so many are counted, evenly spread.
COUNTED_PX = 1_000_000


@dataclass(frozen=True)
class Colors:
    """A histogram of colors.

    Parameters
    ----------
    values : float64 (n, 3)
        Mean color of each occupied bin, 0 to 255.
    counts : float64 (n,)
        Pixels in it.
    """

    values: Float64
    counts: Float64

    def where(self, keep: npt.NDArray[np.bool_]) -> Colors:
        """Some of the colors."""
        return Colors(self.values[keep], self.counts[keep])

    @property
    def total(self) -> float:
        """Number of pixels."""
        return float(self.counts.sum())


def check_pixels(pixels: object) -> UInt8:
    """``pixels`` as an array of RGB colors.

    Raises
    ------
    SettingsError
        Unless it is a uint8 array whose last axis has 3 channels.
    """
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim < 1 or array.shape[-1] != 3:
        raise SettingsError(
            f"Stain works on 8-bit RGB pixels of the shape (..., 3). Got {array.dtype} {array.shape} instead; "
            "open the image with open_slide, which converts it."
        )
    return array


def count_colors(images: Iterable[npt.NDArray[np.uint8]], bits: int = BITS) -> Colors:
    """Histogram of one or more pictures ``(..., 3)``, with ``bits`` bits a channel.

    Of pictures above two megapixels about one million pixels each are counted.
    """
    from napari_histoseg.slide.stain import kernels

    sums = np.zeros((8**bits, 4), np.int64)
    for image in images:
        pixels = np.ascontiguousarray(check_pixels(image)).reshape(-1, 3)
        # An odd step visits every column of a picture with an even width.
        kernels.count_colors(pixels, max(len(pixels) // COUNTED_PX, 1) | 1, bits, sums)
    found = np.flatnonzero(sums[:, 3])
    weights = sums[found, 3].astype(np.float64)
    return Colors(sums[found, :3] / weights[:, None], weights)
