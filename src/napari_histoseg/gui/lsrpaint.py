"""The grid in hand: which one lies over the slide, what is painted in it, and how many blocks have each coarse label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.coarse import counted
from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.lsrgrid import GridLayers
from napari_histoseg.gui.qt import Signal

if TYPE_CHECKING:
    from napari_histoseg.annotations.dataset import PatchClass
    from napari_histoseg.annotations.entries import Annotation
    from napari_histoseg.annotations.session import AnnotationSession
    from napari_histoseg.annotations.work import Changed
    from napari_histoseg.gui.annotatedesk import Desk
    from napari_histoseg.slide import TissueMask

LEAST_TISSUE = 0.05
"""A block with less tissue is glass."""

Labels = NDArray[np.uint8]
Counts = dict[int, int]


class GridDesk(QObject):
    """Shows the grid of the slide that is annotated, and writes what is painted in it.

    Parameters
    ----------
    desk : Desk
        Dataset, slide, undo and messages.
    """

    changed = Signal()
    """Another grid, other labels, or other names of labels."""
    tool_changed = Signal()
    """Another coarse label is in hand, or none."""

    def __init__(self, desk: Desk, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.desk = desk
        self.layers = GridLayers(desk.viewer, self)
        self.current: str | None = None
        """Id of the grid that is shown."""
        self.grid: BlockGrid | None = None
        self._classes: tuple[PatchClass, ...] = ()
        self._counts: dict[str, Counts] = {}
        self._dirty = False
        self._asked = 0
        # napari tells of a stroke before its last pixels are there.
        self._stroke = QTimer(self)
        self._stroke.setSingleShot(True)
        self._stroke.setInterval(0)
        self._stroke.timeout.connect(self.save)
        self.layers.stroke.connect(self._stroke.start)
        desk.dataset_changed.connect(self._on_dataset)
        desk.slide_changed.connect(self.follow)
        desk.changed.connect(self._on_change)
        desk.chosen_changed.connect(self._on_chosen)
        self._on_dataset()

    # -- what there is ----------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[PatchClass, ...]:
        """What the coarse labels are called."""
        session = self.desk.session
        return () if session is None else session.dataset.coarse_classes

    def grids(self) -> list[Annotation]:
        """The grids of the slide that is annotated."""
        return [patch for patch in self.desk.here() if patch.kind == "blocks"]

    @property
    def counts(self) -> Counts:
        """Blocks of the shown grid by coarse label."""
        return {} if self.current is None else self._counts.get(self.current, {})

    @property
    def totals(self) -> Counts:
        """Blocks of the dataset by coarse label, those of all grids and patches that are one block."""
        found: Counts = {}
        session = self.desk.session
        for patch in () if session is None else session.dataset.patches:
            if patch.coarse is not None:
                found[patch.coarse] = found.get(patch.coarse, 0) + 1
        for counts in self._counts.values():
            for label, count in counts.items():
                found[label] = found.get(label, 0) + count
        return found

    def labels(self) -> Labels | None:
        """The labels (rows, columns) that are shown; None where there is no grid."""
        blocks = self.layers.blocks
        return None if self.current is None or blocks is None else np.asarray(blocks.data, np.uint8)

    # -- following --------------------------------------------------------------------------------------------------------

    def _on_dataset(self) -> None:
        self.current, self.grid, self._counts, self._dirty = None, None, {}, False
        self._asked += 1
        session, asked = self.desk.session, self._asked
        if session is not None:
            ids = [patch.id for patch in self.desk.patches() if patch.kind == "blocks"]

            def done(counts: dict[str, Counts]) -> None:
                if asked == self._asked:
                    # What was painted meanwhile is counted already.
                    self._counts = counts | self._counts
                    self.changed.emit()

            if ids:
                in_background("Counting blocks", lambda: counts_of(session, ids), done, self.desk.problem.emit, self)
        self.follow()

    def follow(self) -> None:
        """Show a grid of the slide that is annotated; the newest one, unless it has the one that is shown."""
        self.settle()
        here = [patch.id for patch in self.grids()]
        if not here or self.desk.layer is None or self.desk.slide is None or self.desk.slide.mpp is None:
            self.current = self.grid = None
            self.layers.hide()
        else:
            self._show(self.current if self.current in here else here[-1])
        self.changed.emit()

    def open(self, number: str) -> None:
        """Show another grid of this slide."""
        self.settle()
        self._show(number)
        self.changed.emit()

    def _show(self, number: str) -> None:
        desk, patch = self.desk, self.desk.find(number)
        assert patch is not None and desk.layer is not None and desk.slide is not None
        labels = desk.require().blocks.labels(number)
        self.current, self.grid, self._classes = number, BlockGrid.of(patch.patch, labels), self.classes
        self._counts[number] = counted(labels)
        self.layers.lie_over(desk.layer, desk.slide, self.grid, labels, self._classes)
        self.layers.dim(desk.painting)

    def _on_change(self, change: Changed) -> None:
        """The dataset changed: a stroke, undo, or an import."""
        session = self.desk.session
        if session is None:
            return
        listed = {patch.id for patch in self.desk.patches() if patch.kind == "blocks"}
        self._counts = {number: counts for number, counts in self._counts.items() if number in listed}
        for number in (change.ids & listed) - {self.current}:
            self._counts[number] = counted(session.blocks.labels(number))
        here = [patch.id for patch in self.grids()]
        fresh = [number for number in here if number in change.ids and number != self.current]
        if self.current not in here or fresh:
            self.current = fresh[-1] if fresh else None
            self.follow()
            return
        if self.current in change.ids:
            self._reload(session)
        if self._classes != self.classes:
            self._classes = self.classes
            self.layers.color(self._classes)
        self.changed.emit()

    def _reload(self, session: AnnotationSession) -> None:
        """Show the labels as they are stored, unless they are shown already."""
        assert self.current is not None
        stored, patch = session.blocks.labels(self.current), self.desk.find(self.current)
        self._counts[self.current] = counted(stored)
        if patch is not None and BlockGrid.of(patch.patch, stored) != self.grid:
            # Another grid in its place.
            self._show(self.current)
        elif not self._stroke.isActive() and not self._dirty and not np.array_equal(stored, self._shown()):
            self.layers.show(stored)

    def _shown(self) -> Labels:
        labels = self.labels()
        assert labels is not None
        return labels

    def _on_chosen(self) -> None:
        """A grid in the list of patches is shown; under a patch that is painted the labels are faint."""
        patch = self.desk.current
        self.layers.dim(self.desk.painting)
        if self.desk.painting:
            self.layers.lay_down()
            self.tool_changed.emit()
        if patch is not None and patch.kind == "blocks" and patch.id != self.current and patch.id in [each.id for each in self.grids()]:
            self.open(patch.id)

    # -- changing ---------------------------------------------------------------------------------------------------------

    def lay(self, grid: BlockGrid, labels: Labels, names: Sequence[PatchClass], sentence: str) -> list[str]:
        """Lay a grid over the slide that is annotated, with labels (rows, columns), in place of those that it overlaps; the ids of these.

        Raises
        ------
        DatasetError
            No dataset is open, or labels of other meaning are in use.
        """
        self.settle()
        desk = self.desk
        session, slide = desk.require(), desk.require_slide()
        patch, _ = session.patch_for(slide, grid.box, desk.group_here())
        _, replaced = session.blocks.lay(patch, grid, labels, names, sentence)
        return replaced

    def take(self, value: int | None) -> None:
        """Take the brush with a coarse label, or the eraser (None).

        Raises
        ------
        DatasetError
            There is no grid to paint in.
        """
        if self.current is None:
            raise DatasetError("There is no grid on this slide. Press 'Lay grid' first.")
        if self.desk.chosen is not None:
            # Two brushes are one too many.
            self.desk.choose(None)
        self.layers.take(value)
        self.tool_changed.emit()

    def take_nth(self, number: int) -> None:
        """Take the n-th coarse label, counted from 1."""
        if number > len(self.classes):
            raise DatasetError(f"There are {len(self.classes)} coarse labels. Press one of the keys 1 to {min(len(self.classes), 9)}.")
        self.take(self.classes[number - 1].value)

    def lay_down(self) -> None:
        """Drag moves the view again."""
        self.layers.lay_down()
        self.tool_changed.emit()

    def leave(self) -> None:
        """Put the brush down, and choose the slide, whose keys are those of the annotation panel."""
        self.lay_down()
        if self.layers.chosen and self.desk.layer in self.desk.viewer.layers:
            self.desk.viewer.layers.selection.active = self.desk.layer

    # -- strokes ----------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the labels that are painted; what cannot be written stays in the layer and is tried again."""
        if self.current is None or self.desk.session is None:
            return
        self._dirty = not self.desk.do(partial(self.desk.session.blocks.set_labels, self.current, self._shown().copy()))

    def settle(self) -> None:
        """Write a stroke that has just ended, and what could not be written before."""
        if self._stroke.isActive() or self._dirty:
            self._stroke.stop()
            self.save()

    def undo(self) -> None:
        """Take back the last change."""
        self.settle()
        self.desk.undo()

    def redo(self) -> None:
        """Do again what was taken back."""
        self.settle()
        self.desk.redo()


def counts_of(session: AnnotationSession, ids: Iterable[str]) -> dict[str, Counts]:
    """Blocks of each grid by coarse label; reads their files."""
    return {number: counted(session.blocks.labels(number)) for number in ids}


def glass_blocks(grid: BlockGrid, tissue: TissueMask) -> NDArray[np.bool_]:
    """Which blocks (rows, columns) hold next to no tissue."""
    sums = np.pad(tissue.mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    height, width = tissue.mask.shape

    def edges(first: int, count: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        at = (first + grid.side_px * np.arange(count + 1)) / tissue.downsample
        low = np.clip(np.floor(at[:-1] + 1e-6), 0, size - 1).astype(np.int64)
        return low, np.clip(np.ceil(at[1:] - 1e-6), low + 1, size).astype(np.int64)

    (top, bottom), (left, right) = edges(grid.y, grid.rows, height), edges(grid.x, grid.columns, width)
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    area = np.outer(bottom - top, right - left)
    return np.asarray(inside < LEAST_TISSUE * area)
