"""Fields of tissue that classes are learned from, taken from all over a slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import RunError, TileError
from napari_histoseg.methods.base import Survey, TileFrame
from napari_histoseg.methods.glass import LEAST_SATURATION, saturation
from napari_histoseg.slide import Box, Slide, is_field, tissue_mask
from napari_histoseg.tiling import Tile

LEAST_TISSUE = 0.1
"""A field with a smaller share of stained pixels is passed over, as long as there are others."""
Picture = NDArray[np.uint8]


def fields(survey: Survey, count: int, side_px: int, seed: int) -> list[Picture]:
    """Pictures (h, w, 3) of up to ``count`` squares of a grid over the slide, drawn by the seed among those that a run wants.

    The grid is the slide's own: whatever the tiles, the same squares are drawn.

    Raises
    ------
    RunError
        If none can be read.
    """
    first = survey.frames[0]
    boxes = squares([frame.tile.keep for frame in survey.frames], first.bounds, side_px)

    def read(box: Box) -> Picture:
        return survey.read(TileFrame(Tile(-1, box, box), first.mpp, first.downsample, first.bounds))

    return drawn(boxes, read, count, seed)


def fields_of(slide: Slide, mpp: float, part: Box | None, count: int, side_px: int, seed: int) -> list[Picture]:
    """The same for a slide, or a part of it (level-0 pixels), that nothing runs on: squares whose middle is tissue."""
    bounds = Box(0, 0, *slide.size_at(mpp))
    factor = slide.require_mpp() / mpp
    wanted = bounds if part is None else part.scaled(factor).intersect(bounds)
    boxes = squares([wanted], bounds if part is None else wanted, side_px)
    if not is_field(slide):
        tissue = tissue_mask(slide)
        stained = [box for box in boxes if tissue.fraction(box.scaled(1 / factor)) >= LEAST_TISSUE]
        boxes = stained or boxes
    return drawn(boxes, lambda box: slide.read_at(mpp, box), count, seed)


def drawn(boxes: Sequence[Box], read: Callable[[Box], Picture], count: int, seed: int) -> list[Picture]:
    """Up to ``count`` pictures, in an order of the seed; those with hardly any tissue only where there are no others."""
    found: list[Picture] = []
    bare: list[Picture] = []
    for i in np.random.default_rng(seed).permutation(len(boxes)):
        try:
            picture = read(boxes[int(i)])
        except TileError:
            continue
        tissue = float(np.mean(saturation(picture) > LEAST_SATURATION * 255))
        if tissue >= LEAST_TISSUE:
            found.append(picture)
        elif len(bare) < count:
            bare.append(picture)
        if len(found) == count:
            break
    if not found and not bare:
        raise RunError(f"None of the {len(boxes)} fields with tissue could be read. The file is damaged; copy it again from its source.")
    return found or bare


def squares(parts: Iterable[Box], bounds: Box, side_px: int) -> list[Box]:
    """Squares of a grid over the bounds whose middle lies in a part, cut to the bounds, from top to bottom."""
    found: set[tuple[int, int]] = set()
    parts = list(parts)
    for part in parts:
        inside = part.intersect(bounds)
        for y in range((inside.y - bounds.y) // side_px, (inside.bottom - bounds.y - 1) // side_px + 1):
            for x in range((inside.x - bounds.x) // side_px, (inside.right - bounds.x - 1) // side_px + 1):
                square = _square(x, y, side_px, bounds)
                if inside.contains_point(square.x + square.width // 2, square.y + square.height // 2):
                    found.add((y, x))
    # A region may be smaller than a square, beside the middle of any.
    return [_square(x, y, side_px, bounds) for y, x in sorted(found)] or parts


def _square(x: int, y: int, side_px: int, bounds: Box) -> Box:
    return Box(bounds.x + x * side_px, bounds.y + y * side_px, side_px, side_px).intersect(bounds)
