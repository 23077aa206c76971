"""A run before it starts: where, at which pixel size, in which tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import RegionError
from napari_histoseg.predict.lanes import scale_of
from napari_histoseg.slide import Box, Slide, TissueMask, is_field, tissue_mask
from napari_histoseg.tiling import TileGrid

if TYPE_CHECKING:
    from shapely import Geometry

    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.settings import RunSettings

TISSUE_RIM_UM = 24.0

Region = "Box | Geometry | tuple[int, int, int, int] | None"
"""Where to run, in level-0 pixels: a box, a (multi)polygon, ``(x, y, width, height)``, or None for the whole slide."""


@dataclass(frozen=True)
class Plan:
    """What will be computed.

    Attributes
    ----------
    mpp : float
        µm per working pixel.
    downsample : float
        Level-0 pixels per working pixel.
    box : Box
        The region's bounding box, level-0 pixels, cut to the slide.
    outline : shapely geometry or None
        The region when it is not a box, level-0 pixels.
    grid : TileGrid
    wanted : list of int
        Tiles to compute.
    tissue : TissueMask or None
    """

    mpp: float
    downsample: float
    box: Box
    outline: Geometry | None
    grid: TileGrid
    wanted: list[int]
    tissue: TissueMask | None

    def inside(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (level-0 pixels) lie in the region and on tissue."""
        import shapely

        keep = np.ones(len(x), bool)
        if self.outline is not None:
            keep &= shapely.contains_xy(self.outline, x, y)
        if self.tissue is not None and len(x):
            mask, scale = self.tissue.mask, self.tissue.downsample
            rows = np.clip((y / scale).astype(int), 0, mask.shape[0] - 1)
            columns = np.clip((x / scale).astype(int), 0, mask.shape[1] - 1)
            keep &= mask[rows, columns]
        return keep


def make_plan(
    slide: Slide, model: Model, settings: RunSettings, region: Any = None, tissue: TissueMask | None = None
) -> Plan:
    """Lay tiles over the region and choose those with tissue.

    Raises
    ------
    RegionError
        If the region does not meet the slide.
    PixelSizeError
        If the slide has no µm/px or is too coarse for the model.
    """
    source_mpp = slide.require_mpp()
    scale = scale_of(model)
    mpp = source_mpp if model.mpp is None else slide.working_mpp(model.mpp / scale, force=settings.force_mpp) * scale
    box, outline = _region(slide, region)
    width, height = slide.size_at(mpp)
    frame = box.scaled(source_mpp / mpp).intersect(Box(0, 0, width, height))
    grid = TileGrid(frame, settings.tile_px, model.halo_px, mpp)
    downsample = mpp / source_mpp
    if not settings.tissue_only or (tissue is None and is_field(slide)):
        tissue = None
    else:
        tissue = _grown(tissue_mask(slide) if tissue is None else tissue, source_mpp)
    return Plan(mpp, downsample, box, outline, grid, grid.select(_test(outline, tissue, downsample)), tissue)


def _grown(tissue: TissueMask, mpp: float) -> TissueMask:
    """The tissue with a rim of ``TISSUE_RIM_UM``: the mask is coarse, and a nucleus at the edge of tissue must not be lost."""
    import cv2

    side = 2 * round(TISSUE_RIM_UM / (tissue.downsample * mpp)) + 1
    grown = cv2.dilate(tissue.mask.astype(np.uint8), np.ones((side, side), np.uint8))
    return replace(tissue, mask=grown.astype(bool))


def _test(outline: Geometry | None, tissue: TissueMask | None, downsample: float) -> Callable[[Box], bool]:
    import shapely

    def wanted(keep: Box) -> bool:
        at_level0 = keep.scaled(downsample)
        if outline is not None:
            rectangle = shapely.box(at_level0.x, at_level0.y, at_level0.right, at_level0.bottom)
            if not outline.intersects(rectangle):
                return False
        return tissue is None or tissue.fraction(at_level0) > 0

    return wanted


def _region(slide: Slide, region: Any) -> tuple[Box, Geometry | None]:
    if region is None:
        return slide.bounds, None
    outline = None
    if isinstance(region, Box):
        box = region
    elif hasattr(region, "bounds") and hasattr(region, "geom_type"):
        outline = region
        left, top, right, bottom = (float(v) for v in region.bounds)
        corner = (int(np.floor(left)), int(np.floor(top)))
        box = Box(*corner, int(np.ceil(right)) - corner[0], int(np.ceil(bottom)) - corner[1])
    else:
        box = _box_of(region)
    inside = box.intersect(slide.bounds)
    if box.empty or inside.empty:
        raise RegionError(
            f"The region x {box.x}, y {box.y}, width {box.width}, height {box.height} does not meet the slide, which is "
            f"{slide.width} × {slide.height} level-0 pixels. Give a region in level-0 pixels inside the slide."
        )
    return inside, outline


def _box_of(region: Any) -> Box:
    try:
        x, y, width, height = (int(v) for v in region)
    except (TypeError, ValueError):
        raise RegionError(
            f"A region is four whole numbers (x, y, width, height) in level-0 pixels, a Box, or a polygon. Got {region!r} instead."
        ) from None
    return Box(x, y, width, height)
