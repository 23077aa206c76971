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

BLOCK = 128
SOURCE_SIDE = 4096
SUPPORT = 2.0  # of the bicubic kernel, in pixels of the coarser side


def resample(read: Callable[[Box], NDArray[np.uint8]], scale: float, box: Box) -> NDArray[np.uint8]:
    """Bicubic, antialiased resampling of a box of an endless picture.

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
    Pillow keeps the source box in single precision, so a pixel resampled from two boxes may differ by one grey value.
    Ratios that are multiples of 1/16 are exact in single precision and are done at once; all others in blocks of a fixed
    grid, each computed in one way only. The source is read in parts of bounded size, whatever the box.
    """
    out = np.empty((*box.shape, 3), np.uint8)
    exact = (scale * 16).is_integer()
    step = BLOCK
    while step > 1 and step * scale > SOURCE_SIDE:
        step //= 2
    group = max(step, int(SOURCE_SIDE / scale) // step * step)
    for part in _grid(box, group):
        inside = part.intersect(box)
        blocks = [inside] if exact else list(_grid(inside, step))
        source = _source_box(blocks[0], scale).union(_source_box(blocks[-1], scale))
        pixels = read(source)
        for block in blocks:
            tile = _resize(pixels, source, scale, block)
            keep = block.intersect(inside)
            out[keep.relative_to(box).slices] = tile[keep.relative_to(block).slices]
    return out


def _grid(box: Box, side: int) -> Iterator[Box]:
    """Blocks of a fixed grid that meet the box, from the upper left to the lower right."""
    for y in range(box.y // side, -(-box.bottom // side)):
        for x in range(box.x // side, -(-box.right // side)):
            yield Box(x * side, y * side, side, side)


def _source_box(block: Box, scale: float) -> Box:
    """The source pixels that a block is made from, with all that the kernel reaches."""
    return block.scaled(scale).padded(math.ceil(SUPPORT * max(scale, 1.0)) + 1)


def _resize(pixels: NDArray[np.uint8], source: Box, scale: float, block: Box) -> NDArray[np.uint8]:
    own = _source_box(block, scale)
    part = pixels[own.relative_to(source).slices]
    corner = block.x * scale - own.x, block.y * scale - own.y
    frame = (*corner, corner[0] + block.width * scale, corner[1] + block.height * scale)
    image = Image.fromarray(np.ascontiguousarray(part))
    return np.asarray(image.resize((block.width, block.height), Image.Resampling.BICUBIC, box=frame))
