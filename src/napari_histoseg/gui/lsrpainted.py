"""Blocks that are painted exactly: which they are, what they hold, and which to paint next. No Qt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.blocks import Block, BlockGrid
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchDataset, read_mask
from napari_histoseg.methods.lsr.measure import painted_shares
from napari_histoseg.methods.lsr.table import BACKGROUND, FEWEST, Table, measured
from napari_histoseg.slide import Box

Shares = dict[int, NDArray[np.float64]]


def class_values(dataset: PatchDataset) -> list[int]:
    """The classes' values in order, background first."""
    return sorted({BACKGROUND, *(c.value for c in dataset.classes)})


def shares_in(dataset: PatchDataset) -> Shares:
    """Shares (blocks, classes) in the blocks that are painted, by coarse label; those without any are left out."""
    found = painted_shares(dataset, beneath_masks(dataset), class_values(dataset))
    return {label: rows for label, rows in found.items() if len(rows)}


def beneath_masks(dataset: PatchDataset) -> list[Block]:
    """The blocks with a coarse label that lie wholly in a painted patch; of grids with many thousands, just these are looked at."""
    masks: dict[str, list[Patch]] = {}
    for patch in dataset.patches:
        if patch.mask is not None:
            masks.setdefault(_source(patch), []).append(patch)
    found: list[Block] = []
    for patch in dataset.patches:
        over = masks.get(_source(patch), ())
        if patch.coarse is not None and over:
            found.append(Block(patch, None if patch.box is None else Box(*patch.box), patch.coarse))
        elif patch.blocks is not None and over:
            labels = read_mask(dataset.path(patch.blocks))
            grid = BlockGrid.of(patch, labels)
            places = {place for mask in over if mask.box is not None for place in inside(grid, Box(*mask.box))}
            found += [Block(patch, grid.block(r, c), int(labels[r, c])) for r, c in sorted(places) if labels[r, c] != UNLABELED]
    return found


def inside(grid: BlockGrid, box: Box) -> list[tuple[int, int]]:
    """Rows and columns of the blocks that lie wholly in a box."""
    side = grid.side_px
    rows = range(max(0, -(-(box.y - grid.y) // side)), min(grid.rows, (box.bottom - grid.y) // side))
    columns = range(max(0, -(-(box.x - grid.x) // side)), min(grid.columns, (box.right - grid.x) // side))
    return [(row, column) for row in rows for column in columns]


def next_block(labels: NDArray[np.uint8], taken: Sequence[tuple[int, int]], painted: Mapping[int, int], seed: int = 0) -> tuple[int, int] | None:
    """Row and column of a block to paint: of the label with the fewest painted blocks that has one left, anywhere on the grid.

    Parameters
    ----------
    labels : (rows, columns) uint8
        255 for none.
    taken : sequence of (row, column)
        Blocks that have a patch already.
    painted : mapping of int to int
        Painted blocks by coarse label, in the whole dataset.
    seed : int
        The same one chooses the same block.
    """
    free = labels.copy()
    for row, column in taken:
        free[row, column] = UNLABELED
    left = np.unique(free[free != UNLABELED])
    if not len(left):
        return None
    wanted = min(left.tolist(), key=lambda label: (painted.get(label, 0), label))
    places = np.argwhere(free == wanted)
    row, column = places[np.random.default_rng((seed, len(taken))).integers(len(places))]
    return int(row), int(column)


def table_of(shares: Shares, dataset: PatchDataset) -> Table:
    """The table of the coarse labels that have enough painted blocks.

    Raises
    ------
    DatasetError
        No label has.
    """
    enough = {label: rows for label, rows in shares.items() if len(rows) >= FEWEST}
    names = {c.value: c.name for c in dataset.coarse_classes}
    called = {label: names.get(label, str(label)) for label in {*shares, *names}}
    # Without enough of any, this says how many are missing.
    return measured(enough or shares or {label: np.zeros((0, 1)) for label in names}, class_values(dataset), called)


def _source(patch: Patch) -> str:
    return patch.slide_fingerprint or patch.source
