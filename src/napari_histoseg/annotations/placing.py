"""Where on a slide a patch may lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoseg.annotations import masks
from napari_histoseg.annotations.dataset import PatchDataset
from napari_histoseg.errors import DatasetError, PixelSizeError
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.slide import REACH

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

MAX_SIDE_PX = 4096


def shape_on(slide: Slide, box: Box, mpp: float) -> tuple[int, int]:
    """``(h, w)`` at ``mpp`` of a level-0 box of a slide.

    Raises
    ------
    DatasetError
        The box misses the slide, or the slide could not be found again.
    PixelSizeError
        The slide has no pixel size, or one too coarse.
    """
    if box.empty or box.intersect(slide.bounds).empty:
        raise DatasetError(
            f"A patch at x {box.x}, y {box.y} of {box.width} x {box.height} px does not lie on {slide.name} ({slide.width} x {slide.height} px)."
        )
    if slide.path is None:
        raise DatasetError(f"{slide.name} comes from no file, so that its patches could not be found again. Save it as a TIFF and open that.")
    if slide.require_mpp() > REACH * mpp:
        raise PixelSizeError(
            f"{slide.name} has {slide.mpp:g} µm/px; this dataset is painted at {mpp:g} µm/px, and a slide more than {REACH:g} times coarser "
            "lacks the detail. Use a finer slide, or another dataset for this one."
        )
    return masks.shape_at(box, slide.require_mpp(), mpp)


def paintable(shape: tuple[int, int], mpp: float) -> None:
    """Raise a `DatasetError` for a patch that is too large to paint in."""
    if max(shape) > MAX_SIDE_PX:
        raise DatasetError(
            f"A patch of {shape[1]} x {shape[0]} px is too large to paint in: its sides may have {MAX_SIDE_PX} px at {mpp:g} µm/px. Choose a smaller one."
        )


def beside(dataset: PatchDataset, fingerprint: str, box: Box, painted: bool) -> str | None:
    """A sentence about patches of the same kind that share pixels with a new one.

    Raises
    ------
    DatasetError
        One of them has the same box.
    """
    shared = []
    for patch in dataset.patches:
        if patch.slide_fingerprint != fingerprint or patch.box is None or patch.blocks is not None or (patch.mask is not None) != painted:
            continue
        other = Box(*patch.box)
        if other == box:
            raise DatasetError(f"Patch {patch.id} is exactly there already. Choose it, or another place.")
        if not other.intersect(box).empty:
            shared.append(str(patch.id))
    return f"It overlaps {', '.join(shared)}: pixels in both count twice in training." if shared else None
