"""Coarse labels of square blocks: a grid over a slide, and the blocks that a dataset lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchDataset, read_mask
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

MOST_BLOCKS = 4_000_000
"""Of a grid: more are no work for a person, and come from a block size in the wrong unit."""

Labels = NDArray[np.uint8]
"""Coarse labels (rows, columns); 255 where a block has none."""


@dataclass(frozen=True)
class BlockGrid:
    """Square blocks side by side.

    Attributes
    ----------
    x, y : int
        Left upper corner, level-0 pixels.
    side_px : int
        Of a block, level-0 pixels.
    rows, columns : int
    """

    x: int
    y: int
    side_px: int
    rows: int
    columns: int

    @classmethod
    def over(cls, slide: Slide, block_um: float, area: Box | None = None) -> BlockGrid:
        """All whole blocks of a slide, in its middle; or those of an area (level-0 pixels).

        Raises
        ------
        DatasetError
            Not one block fits, or more than four million do.
        """
        mpp = slide.require_mpp()
        area = slide.bounds if area is None else area.intersect(slide.bounds)
        side = max(1, round(block_um / mpp))
        rows, columns = area.height // side, area.width // side
        if not rows or not columns:
            where = slide.name if area == slide.bounds else f"the area on {slide.name}"
            raise DatasetError(
                f"Blocks of {block_um:g} µm are larger than {where} ({area.width * mpp:.0f} × {area.height * mpp:.0f} µm). Choose smaller blocks."
            )
        if rows * columns > MOST_BLOCKS:
            raise DatasetError(f"Blocks of {block_um:g} µm on {slide.name} are {rows * columns:,}, more than {MOST_BLOCKS:,}. Choose larger blocks.")
        return cls(area.x + (area.width - columns * side) // 2, area.y + (area.height - rows * side) // 2, side, rows, columns)

    @classmethod
    def of(cls, patch: Patch, labels: NDArray[Any]) -> BlockGrid:
        """The grid of a patch that lists blocks on a slide."""
        assert patch.box is not None
        rows, columns = labels.shape
        x, y, width, _ = patch.box
        return cls(x, y, width // columns, rows, columns)

    @property
    def box(self) -> Box:
        """All blocks together, level-0 pixels."""
        return Box(self.x, self.y, self.columns * self.side_px, self.rows * self.side_px)

    def block(self, row: int, column: int) -> Box:
        """One block, level-0 pixels."""
        return Box(self.x + column * self.side_px, self.y + row * self.side_px, self.side_px, self.side_px)

    @property
    def blank(self) -> Labels:
        """Labels of a grid in which no block has one."""
        return np.full((self.rows, self.columns), UNLABELED, np.uint8)


@dataclass(frozen=True)
class Block:
    """A block with a coarse label.

    Attributes
    ----------
    patch : Patch
        What it comes from: its file, its group, its part of a split.
    box : Box, optional
        In level-0 pixels of the file; None for the whole picture.
    coarse : int
    """

    patch: Patch
    box: Box | None
    coarse: int


def blocks_of(dataset: PatchDataset) -> list[Block]:
    """All blocks with a coarse label, those of one patch together.

    Raises
    ------
    DatasetError
        A picture of labels cannot be read or does not fit its box.
    """
    found: list[Block] = []
    for patch in dataset.patches:
        if patch.coarse is not None:
            found.append(Block(patch, None if patch.box is None else Box(*patch.box), patch.coarse))
        elif patch.blocks is not None:
            if problem := block_problem(dataset, patch):
                raise DatasetError(f"{dataset.folder} cannot be used: {problem}")
            labels = read_mask(dataset.path(patch.blocks))
            grid = BlockGrid.of(patch, labels)
            found += [Block(patch, grid.block(int(r), int(c)), int(labels[r, c])) for r, c in np.argwhere(labels != UNLABELED)]
    return found


def block_problem(dataset: PatchDataset, patch: Patch) -> str | None:
    """What is wrong with the picture of a patch's coarse labels."""
    assert patch.blocks is not None
    if patch.box is None:
        return f"the blocks {patch.blocks} lie on a picture of its own. Blocks lie on a slide: give 'slide' and 'box'."
    try:
        labels = read_mask(dataset.path(patch.blocks))
    except DatasetError as error:
        return str(error)
    rows, columns = labels.shape
    _, _, width, height = patch.box
    if not rows or not columns or width % columns or height % rows or width // columns != height // rows:
        return f"the blocks {patch.blocks} are {columns} × {rows} and their box {width} × {height} px, which makes no squares of whole pixels."
    if labels.min() < 0 or labels.max() > UNLABELED:
        return f"the blocks {patch.blocks} hold values up to {labels.max()}. Coarse labels are 0 to 254, and 255 is none."
    return None


def coarse_name(dataset: PatchDataset, coarse: int) -> str:
    """What a coarse label is called: its name, or its number."""
    return next((c.name for c in dataset.coarse_classes if c.value == coarse), str(coarse))
