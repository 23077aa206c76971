"""What a session writes about coarse blocks: their labels, what the labels are called, and what they say of the classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations import coarse, masks
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchClass, Statistic
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.annotations.work import Work


class BlockWork:
    """The coarse blocks of a session's dataset; every change is on the disk when its call returns, and can be undone."""

    def __init__(self, work: Work, take_id: Callable[[], str]) -> None:
        self._work, self._take_id = work, take_id

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
        painted = _packed(labels, (grid.rows, grid.columns))
        id = self._take_id()
        name = f"blocks/{id}.png"
        new = patch.model_copy(update={"id": id, "blocks": name})
        self._work.change(f"grid of blocks {id} added", {name: painted}, patches=(*self._work.dataset.patches, new))
        return id

    def lay(self, patch: Patch, grid: BlockGrid, labels: NDArray[Any], classes: Sequence[PatchClass], sentence: str) -> tuple[str, list[str]]:
        """Lay a grid in place of those that it overlaps on its slide, and name its labels, all in one step.

        Parameters
        ----------
        patch, grid, labels
            As for `add`. It has the group of the grid that it replaces, and its part of a split.
        classes : sequence of PatchClass
            What the labels are called. Names that no other grid needs fall away.
        sentence : str
            What was done, for undo.

        Returns
        -------
        id : str
        replaced : list of str
            Ids of the grids that were there.

        Raises
        ------
        DatasetError
            Other grids of the dataset have the same labels under other names.
        """
        dataset, painted = self._work.dataset, _packed(labels, (grid.rows, grid.columns))
        old = [p for p in dataset.patches if _beneath(p, patch.slide_fingerprint, grid.box)]
        gone = {o.id for o in old}
        kept = tuple(p for p in dataset.patches if p.id not in gone)
        names = coarse.joined_names(dataset.model_copy(update={"patches": kept}), classes)
        # A file of its own: a kill between two writes leaves the old grid or the new one, and none with the other's labels.
        id = self._take_id()
        same = {"group": old[0].group, "split": old[0].split} if old else {}
        name = f"blocks/{id}.png"
        files: dict[str, masks.Painted | None] = {str(o.blocks): None for o in old if o.blocks == f"blocks/{o.id}.png"}
        new = patch.model_copy(update={"id": id, "blocks": name, **same})
        self._work.change(sentence, {**files, name: painted}, patches=(*kept, new), coarse_classes=names)
        return id, [str(o.id) for o in old]

    def adopt_labels(self) -> int:
        """Make the classes of classification patches their coarse labels; how many patches that were.

        Raises
        ------
        DatasetError
            No patch has a class, or coarse labels of other meaning are there.
        """
        before = self._work.dataset
        after = coarse.from_labels(before)
        count = sum(p is not q for p, q in zip(before.patches, after.patches, strict=True))
        self._work.become(after, f"classes of {count} {'patch' if count == 1 else 'patches'} made coarse labels")
        return count

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


def _beneath(patch: Patch, fingerprint: str | None, box: Box) -> bool:
    return patch.blocks is not None and patch.box is not None and patch.slide_fingerprint == fingerprint and not Box(*patch.box).intersect(box).empty


def _packed(labels: NDArray[Any], shape: tuple[int, ...]) -> masks.Painted:
    array = np.asarray(labels)
    if array.shape != shape:
        raise DatasetError(f"The coarse labels have shape {array.shape}, and the grid {shape}. Give one label a block.")
    if array.dtype.kind not in "uib" or (array.size and not 0 <= array.min() <= array.max() <= UNLABELED):
        raise DatasetError("Coarse labels are whole numbers from 0 to 254, and 255 for none.")
    return masks.Painted.of(array.astype(np.uint8))
