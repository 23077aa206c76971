"""Resampling in which the value of a pixel does not depend on the box that it is read in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64
SOURCE_SIDE = 4096
SUPPORT = 2.0  # of the bicubic kernel, in pixels of the coarser side


def resample(read: Callable[[Box], NDArray[np.uint8]], scale: float, box: Box) -> NDArray[np.uint8]:
    """Antialiased resampling of a box of an endless picture: means for whole ratios, else bicubic.

    Parameters
    ----------
    read : callable
        Gives the source pixels ``(h, w, 3)`` of any box in source pixels.
    scale : float
        Source pixels per output pixel; above 1 shrinks.
    box : Box
        In output pixels.

    Returns
    -------
    ndarray (h, w, 3), uint8

    Notes
    -----
    Pillow keeps the source box in single precision, and takes rows or columns first depending on the shape,
    so a pixel resampled as part of two boxes could differ by one gray value. Therefore columns and then rows
    are resampled, each in blocks of a fixed grid; ratios that are multiples of 1/16 are exact in single
    precision and need no blocks. The source is read in parts of bounded size, whatever the box. Means over
    whole pixels, which are what most slides need (levels 1, 4, 16 read at 2), cost a fraction of the bicubic
    kernel.
    """
    out = np.empty((*box.shape, 3), np.uint8)
    step = BLOCK
    while step > 1 and step * scale > SOURCE_SIDE:
        step //= 2
    side = max(step, int(SOURCE_SIDE / scale) // step * step)
    for top, bottom in _spans(box.y, box.bottom, side):
        for left, right in _spans(box.x, box.right, side):
            # Parts of a fixed grid, cut to the box.
            columns = _Axis(max(left, box.x), min(right, box.right), scale, step)
            rows = _Axis(max(top, box.y), min(bottom, box.bottom), scale, step)
            pixels = read(
                Box(columns.first, rows.first, columns.last - columns.first, rows.last - rows.first)
            )
            place = (
                slice(rows.start - box.y, rows.stop - box.y),
                slice(columns.start - box.x, columns.stop - box.x),
            )
            out[place] = (
                means(pixels, round(scale)) if _whole(scale) else rows.apply(columns.apply(pixels, 1), 0)
            )
    return out


def means(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means over ``factor`` x ``factor`` pixels; the last row and column average what there is."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).reduce(factor))


def _whole(scale: float) -> bool:
    return scale >= 2 and scale.is_integer()


class _Axis:
    """Output pixels ``start`` to ``stop`` of one axis, and the source pixels ``first`` to ``last`` that make them."""

    def __init__(self, start: int, stop: int, scale: float, step: int) -> None:
        self.start, self.stop, self.scale = start, stop, scale
        exact = (scale * 16).is_integer()
        self.blocks = [(start, stop)] if exact else list(_spans(start, stop, step))
        self.first, self.last = self._source(*self.blocks[0])[0], self._source(*self.blocks[-1])[1]

    def _source(self, start: int, stop: int) -> tuple[int, int]:
        """The source pixels of a block, with all that the kernel reaches."""
        if _whole(self.scale):
            return start * round(self.scale), stop * round(self.scale)
        margin = math.ceil(SUPPORT * max(self.scale, 1.0)) + 1
        return math.floor(start * self.scale) - margin, math.ceil(stop * self.scale) + margin

    def apply(self, pixels: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
        """Resample this axis of ``(h, w, 3)`` pixels that begin at ``first``."""
        parts = []
        for start, stop in self.blocks:
            first, last = self._source(start, stop)
            cut = slice(first - self.first, last - self.first)
            part = _resize(
                pixels[cut] if axis == 0 else pixels[:, cut],
                start * self.scale - first,
                self.scale,
                stop - start,
                axis,
            )
            keep = slice(max(self.start - start, 0), min(self.stop, stop) - start)
            parts.append(part[keep] if axis == 0 else part[:, keep])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _spans(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """The cells of a fixed grid that meet ``start`` to ``stop``."""
    for cell in range(start // step, -(-stop // step)):
        yield cell * step, (cell + 1) * step


def _resize(
    pixels: NDArray[np.uint8], corner: float, scale: float, count: int, axis: int
) -> NDArray[np.uint8]:
    """``count`` output pixels along one axis, the first beginning at ``corner``."""
    height, width = pixels.shape[:2]
    end = corner + count * scale
    size, frame = (
        ((width, count), (0.0, corner, float(width), end))
        if axis == 0
        else ((count, height), (corner, 0.0, end, float(height)))
    )
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=frame))
