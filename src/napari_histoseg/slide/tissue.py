"""Where the tissue is: saturation and optical density on an overview, without pen, glass and dust."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_histoseg.slide.slide import Slide

    Density: TypeAlias = NDArray[np.float32]
    Mask: TypeAlias = NDArray[np.bool_]

MASK_MPP = 8.0
MASK_PX = 2048
TISSUE_DENSITY, TISSUE_SPREAD = 0.025, 0.03
DEBRIS_UM2, HOLE_UM2 = 10_000.0, 5_000.0
#: Debris is at most this part of a small image.
DEBRIS_PART = 0.02
#: Strong ink below this part of the overview (and below 8 px) is a dark nucleus or a speck.
INK_PART, INK_PX, INK_RIM_PX = 0.0003, 8, 3
MASK_MIN_PX = 512
FIELD_UM2 = 1e6


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


def is_field(slide: Slide) -> bool:
    """Whether a picture is so small (below 1 mm²) that somebody chose it: all of it counts as tissue.

    What is debris on a slide may be the few cells that such a picture is about.
    """
    return slide.width * slide.height * slide.require_mpp() ** 2 < FIELD_UM2


def tissue_mask(slide: Slide, mpp: float | None = None) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    slide : Slide
    mpp : float, optional
        µm per mask pixel; 8 when the slide's pixel size is known (finer where that gives less than 512 px),
        else the overview has up to 2048 px.

    Returns
    -------
    TissueMask
        What :func:`find_tissue` finds on the overview.
    """
    longest = max(slide.width, slide.height)
    if slide.mpp is None:
        max_px = MASK_PX
    else:
        max_px = max(MASK_MIN_PX, round(longest * slide.mpp / (mpp or MASK_MPP)))
    image = slide.unstained.thumbnail(min(max_px, longest))
    downsample = longest / max(image.shape[:2])
    return TissueMask(find_tissue(image, None if slide.mpp is None else slide.mpp * downsample), downsample)


def find_tissue(image: NDArray[np.uint8], mpp: float | None = None) -> NDArray[np.bool_]:
    """Tissue in an overview.

    A pixel is tissue when its mean optical density exceeds 0.025 and the densities of its channels differ by
    more than 0.03 (gray lines, dust and the edge of the cover slip do not); when it is not in ink
    (:func:`find_ink`). Pieces below 10,000 µm² (2 % of the overview, if that is less) are dropped as debris
    and holes below 5,000 µm² (likewise) are closed; larger holes stay.

    Parameters
    ----------
    image : ndarray (h, w, 3), uint8
    mpp : float, optional
        µm per pixel of the overview; 8 is taken for the sizes above when it is not known.

    Returns
    -------
    ndarray (h, w), bool
    """
    from scipy import ndimage

    density = optical_density(image)
    mean, spread = density.mean(-1), np.ptp(density, axis=-1)
    tissue = (mean > TISSUE_DENSITY) & (spread > TISSUE_SPREAD)
    tissue &= ~find_ink(density)
    tissue = ndimage.binary_closing(np.pad(tissue, 2, mode="edge"), iterations=2)[2:-2, 2:-2]
    px_um2 = (mpp or MASK_MPP) ** 2
    tissue = _without_small(tissue, min(DEBRIS_UM2 / px_um2, DEBRIS_PART * tissue.size))
    return ~_without_small(~tissue, min(HOLE_UM2 / px_um2, DEBRIS_PART * tissue.size))


def optical_density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density ``(h, w, 3)`` of a lightly smoothed overview, relative to its glass.

    The glass is the 99th percentile of each channel, but at least 225: an overview that is all tissue has no
    glass.
    """
    from scipy import ndimage

    smooth = ndimage.uniform_filter(image.astype(np.float32), (3, 3, 0))
    glass = np.clip(np.percentile(smooth, 99, axis=(0, 1)), 225, 255)
    return np.asarray(-np.log10(np.clip(smooth, 1, None) / glass), dtype=np.float32)


def find_ink(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pen marks in an optical density image ``(h, w, 3)``.

    Hematoxylin and eosin absorb green the most. Green and blue ink absorb red far more than green; red ink
    absorbs blue as much as green and hardly any red; black ink absorbs everything alike. Where a color is
    that of strong ink, the paler ink that is connected with it goes too.
    """
    from scipy import ndimage

    red, green, blue = (density[..., i] for i in range(3))
    ink = np.zeros(red.shape, bool)
    for strong, pale in _inks(red, green, blue):
        seed = _without_small(strong, max(INK_PX, INK_PART * strong.size))
        if seed.any():
            ink |= ndimage.binary_propagation(seed, mask=pale() | seed)
    return np.asarray(ndimage.binary_dilation(ink, iterations=INK_RIM_PX)) if ink.any() else ink


def _inks(red: Density, green: Density, blue: Density) -> Iterator[tuple[Mask, Callable[[], Mask]]]:
    """For each kind of ink where it is strong, and a function that says where it may be pale, which is seldom asked."""
    yield (red > 0.35) & (green < 0.66 * red), lambda: (red > 0.05) & (green < 0.75 * red)
    yield (
        (green > 0.5) & (blue > 0.8 * green) & (red < 0.3 * green),
        lambda: (green > 0.08) & (blue > 0.71 * green) & (blue < 1.3 * green) & (red < 0.85 * green),
    )
    low, top = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    gray = (top - low) / (top + 1e-6)
    yield (low > 0.5) & (gray < 0.35), lambda: (low > 0.3) & (gray < 0.45)


def _without_small(mask: NDArray[np.bool_], area_px: float) -> NDArray[np.bool_]:
    """The mask without its connected pieces below an area."""
    from scipy import ndimage

    if np.count_nonzero(mask) < area_px:
        return np.zeros_like(mask)
    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) >= area_px
    keep[0] = False
    return np.asarray(keep[labels], dtype=bool)
