"""What a session writes about coarse blocks: their labels, what the labels are called, and what they say of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations import masks, opening
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchClass, Statistic
from napari_histoseg.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histoseg.annotations.work import Work


class BlockWork:
    """The coarse blocks of a session's dataset; every change is on the disk when its call returns, and can be undone."""

    def __init__(self, work: Work, folder: Path) -> None:
        self._work, self._folder = work, folder

    def add(self, patch: Patch, grid: BlockGrid, labels: NDArray[Any]) -> str:
        """Lay a grid over a slide; the id of its patch.

        Parameters
        ----------
        patch : Patch
            From `AnnotationSession.patch_for`, with the grid's box.
        grid : BlockGrid
        labels : (rows, columns) int
            Coarse labels 0 to 254; 255 where a block has none.
        """
        id = opening.ID.format(opening.next_number(self._work.dataset, self._folder))
        name = f"blocks/{id}.png"
        new = patch.model_copy(update={"id": id, "blocks": name})
        painted = _packed(labels, (grid.rows, grid.columns))
        self._work.change(f"grid of blocks {id} added", {name: painted}, patches=(*self._work.dataset.patches, new))
        return id

    def labels(self, id: str) -> NDArray[np.uint8]:
        """The coarse labels (rows, columns) of a grid; 255 for none. A copy."""
        return self._work.mask(self._name(id))

    def set_labels(self, id: str, labels: NDArray[Any], sentence: str = "") -> None:
        """Replace the coarse labels of a grid.

        Raises
        ------
        DatasetError
            They have another shape, or are no labels.
        """
        name = self._name(id)
        painted = _packed(labels, self.labels(id).shape)
        if not self._work.holds(name, painted):
            self._work.change(sentence or f"blocks of {id} labeled", {name: painted})

    def name(self, classes: Sequence[PatchClass]) -> None:
        """What the coarse labels are called, and their colors."""
        values = [c.value for c in classes]
        if len(set(values)) < len(values):
            raise DatasetError(f"A coarse label is named twice: {sorted(v for v in set(values) if values.count(v) > 1)}. Give each one name.")
        self._work.change("names of coarse labels changed", coarse_classes=tuple(classes))

    def state(self, statistics: Sequence[Statistic], sentence: str = "shares of the coarse labels changed") -> None:
        """What share of each class blocks of a coarse label hold."""
        self._work.change(sentence, statistics=tuple(statistics))

    def _name(self, id: str) -> str:
        name = next((p.blocks for p in self._work.dataset.patches if p.id == id), None)
        if name is None:
            raise DatasetError(f"Patch {id} has no blocks. Choose a grid of blocks.")
        return name


def _packed(labels: NDArray[Any], shape: tuple[int, ...]) -> masks.Painted:
    array = np.asarray(labels)
    if array.shape != shape:
        raise DatasetError(f"The coarse labels have shape {array.shape}, and the grid {shape}. Give one label a block.")
    if array.dtype.kind not in "uib" or (array.size and not 0 <= array.min() <= array.max() <= UNLABELED):
        raise DatasetError("Coarse labels are whole numbers from 0 to 254, and 255 for none.")
    return masks.Painted.of(array.astype(np.uint8))
