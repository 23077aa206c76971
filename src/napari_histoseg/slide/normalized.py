"""Reading through a stain normalizer: colors change on the way from the file, nothing is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Normalizer(Protocol):
    """What brings colors to a reference. Thread-safe, picklable, the same bits for the same input."""

    @property
    def halo_px(self) -> int:
        """Pixels around a place that its new color depends on; 0 for a function of the pixel alone."""

    @property
    def stride_px(self) -> int:
        """Reads start and end at multiples of this."""

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB to the same, normalized."""

    def key(self) -> str:
        """The same for normalizers that do the same."""

    def describe(self) -> dict[str, Any]:
        """What the run record keeps; only JSON types."""


def read_stained(
    read: Callable[[Box], NDArray[np.uint8]], bounds: Box, normalizer: Normalizer, box: Box
) -> NDArray[np.uint8]:
    """Normalized pixels of a box; the value of a pixel does not depend on the box that it is read in.

    Parameters
    ----------
    read : callable
        Pixels as scanned, of a box inside ``bounds``.
    bounds, box : Box
        In the pixels of one level; what lies outside ``bounds`` is white, before and after.
    normalizer : Normalizer
    """
    out = np.full((*box.shape, 3), 255, np.uint8)
    inside = box.intersect(bounds)
    if inside.empty:
        return out
    wide = _aligned(inside.padded(normalizer.halo_px), normalizer.stride_px)
    part = wide.intersect(bounds)
    pixels = read(part)
    if part != wide:
        rim = np.full((*wide.shape, 3), 255, np.uint8)
        rim[part.relative_to(wide).slices] = pixels
        pixels = rim
    out[inside.relative_to(box).slices] = normalizer.apply(pixels)[inside.relative_to(wide).slices]
    return out


def _aligned(box: Box, stride: int) -> Box:
    x, y = box.x // stride * stride, box.y // stride * stride
    return Box(x, y, -(-box.right // stride) * stride - x, -(-box.bottom // stride) * stride - y)
