"""Where the tissue is: saturation and optical density on an overview, without pen, glass and dust."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoseg.slide.slide import Slide

MASK_MPP = 8.0
MASK_PX = 2048


@dataclass(frozen=True)
class TissueMask:
    """A coarse mask of the whole slide.

    Parameters
    ----------
    mask : ndarray (h, w), bool
    downsample : float
        Level-0 pixels per mask pixel.
    """

    mask: NDArray[np.bool_]
    downsample: float
    _sums: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sums = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        sums[1:, 1:] = self.mask.cumsum(0, dtype=np.int64).cumsum(1)
        object.__setattr__(self, "_sums", sums)

    @classmethod
    def from_array(cls, mask: NDArray[np.generic], slide: Slide) -> TissueMask:
        """A mask ``(h, w)`` of any size that covers the whole slide; nonzero is tissue."""
        height, width = mask.shape
        return cls(np.asarray(mask) != 0, (slide.width / width + slide.height / height) / 2)

    @property
    def any(self) -> bool:
        """Whether there is any tissue."""
        return bool(self.mask.any())

    @functools.cached_property
    def area_px(self) -> float:
        """Area of the tissue in level-0 pixels."""
        return float(self.mask.sum()) * self.downsample**2

    def fraction(self, box: Box) -> float:
        """Part of a box, in level-0 pixels, that is tissue: 0 to 1, of the box's part inside the slide."""
        height, width = self.mask.shape
        own = box.scaled(1 / self.downsample).intersect(Box(0, 0, width, height))
        if own.empty:
            return 0.0
        sums = self._sums
        total = (
            sums[own.bottom, own.right]
            - sums[own.y, own.right]
            - sums[own.bottom, own.x]
            + sums[own.y, own.x]
        )
        return float(total) / own.area


def tissue_mask(slide: Slide, mpp: float | None = None) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    slide : Slide
    mpp : float, optional
        µm per mask pixel; 8 when the slide's pixel size is known, else the overview has up to 2048 px.
    """
    longest = max(slide.width, slide.height)
    max_px = MASK_PX if slide.mpp is None else max(1, round(longest * slide.mpp / (mpp or MASK_MPP)))
    image = slide.thumbnail(min(max_px, longest))
    downsample = longest / max(image.shape[:2])
    return TissueMask(find_tissue(image, None if slide.mpp is None else slide.mpp * downsample), downsample)


def find_tissue(image: NDArray[np.uint8], mpp: float | None = None) -> NDArray[np.bool_]:
    """Tissue in an overview ``(h, w, 3)``; ``mpp`` in µm per pixel of it."""
    smooth = ndimage.uniform_filter(image.astype(np.float32), (3, 3, 0))
    density = -np.log10((smooth + 1) / 256)
    return np.asarray((density.mean(-1) > 0.05) & (np.ptp(smooth, axis=-1) > 15))
