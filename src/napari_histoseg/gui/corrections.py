"""What pointing at a result means: which nucleus is added, deleted, split or merged, and the words for it.

All points are (x, y) in working pixels of the slide, continuous: 0.5 is the middle of the first pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.errors import RegionError, ResultError
from napari_histoseg.methods.nuclei.interactive import nucleus_at
from napari_histoseg.slide import Box, Slide

if TYPE_CHECKING:
    from napari_histoseg.results import Result
    from napari_histoseg.results.edit import Editor

WINDOW_UM = 40.0
"""A clicked nucleus is looked for in a window of twice this."""
MOST_UM2, LEAST_UM2 = 600.0, 4.0
PATH_STEP_PX = 1.0

Point = tuple[float, float]


class Corrections:
    """Corrects a result by points and lines.

    Parameters
    ----------
    result : Result
    slide : Slide, optional
        For measuring new objects; without it they get area and centroid only.
    """

    def __init__(self, result: Result, slide: Slide | None = None) -> None:
        self.result = result
        self._slide = slide
        self._editor: Editor | None = None

    @property
    def editor(self) -> Editor:
        """The editor, made when it is first needed."""
        if self._editor is None:
            from napari_histoseg.results.edit import Editor

            self._editor = Editor(self.result, measure=self._measure if self._slide is not None else None)
        return self._editor

    @property
    def next_undo(self) -> str:
        """What undo would take back; empty when there is nothing."""
        return self.editor.last_description

    @property
    def can_redo(self) -> bool:
        """Whether something was undone."""
        return self.editor.can_redo

    def label_at(self, point: Point) -> int:
        """The object under a point; 0 on background and outside."""
        mpp = self.result.mpp or 1.0
        return self.result.label_at(point[0] * mpp, point[1] * mpp)

    def add(self, point: Point) -> str:
        """Add the nucleus under a point, from the stored probability map.

        Raises
        ------
        RegionError
            The map shows no nucleus there.
        """
        mpp = self.result.mpp or 1.0
        x, y = int(np.floor(point[0])), int(np.floor(point[1]))
        reach = round(WINDOW_UM / mpp)
        frame = self.result.frame
        box = Box(x - reach, y - reach, 2 * reach + 1, 2 * reach + 1).intersect(frame)
        stored = self.result.arrays()
        if box.empty or "probability" not in stored:
            raise RegionError("There is no probability map under the click, so no nucleus can be found. Click inside the result.")
        own = box.relative_to(frame).slices
        probability = np.asarray(stored["probability"][0][own], np.float32) / 255
        labels = np.asarray(stored["labels"][0][own])
        least, most = max(3, round(LEAST_UM2 / mpp**2)), round(MOST_UM2 / mpp**2)
        mask = nucleus_at(probability, labels, (y - box.y, x - box.x), least, most)
        if mask is None:
            raise RegionError("No nucleus was found under the click: the probability map shows none there.")
        number = self.editor.add(box, mask, probability=float(probability[mask].mean()))
        return f"Added nucleus {number}"

    def delete(self, point: Point) -> str:
        """Delete the object under a point.

        Raises
        ------
        RegionError
            There is none.
        """
        number = self._there(point)
        self.editor.delete(number)
        return f"Deleted nucleus {number}"

    def split(self, start: Point, end: Point) -> str:
        """Cut the object that a line crosses most.

        Raises
        ------
        RegionError
            The line crosses none, or does not cut it in two.
        """
        crossed = self.along(start, end)
        if not crossed:
            raise RegionError("The line crosses no nucleus. Draw it across the nucleus to split.")
        number = max(crossed, key=lambda n: crossed[n])
        pieces = self.editor.split(number, [start, end])
        return f"Split nucleus {number} into {len(pieces)}"

    def merge(self, start: Point, end: Point) -> str:
        """Make one of all objects that a line crosses.

        Raises
        ------
        RegionError
            It crosses fewer than two.
        """
        numbers = list(self.along(start, end))
        if len(numbers) < 2:
            met = "only one nucleus" if numbers else "no nucleus"
            raise RegionError(f"The line crosses {met}. Drag from one nucleus to the other to merge them.")
        return f"Merged {len(numbers)} nuclei into {self.editor.merge(numbers)}"

    def undo(self) -> str:
        """Take the last correction back.

        Raises
        ------
        ResultError
            There is none.
        """
        if (what := self.editor.undo()) is None:
            raise ResultError("There is no correction to undo.")
        return f"Undone: {what[0].lower()}{what[1:]}"

    def redo(self) -> str:
        """Do again what was undone.

        Raises
        ------
        ResultError
            Nothing was undone.
        """
        if (what := self.editor.redo()) is None:
            raise ResultError("There is no correction to redo.")
        return f"Done again: {what[0].lower()}{what[1:]}"

    def along(self, start: Point, end: Point) -> dict[int, int]:
        """The objects that a line crosses, in its order, and on how many steps."""
        steps = max(2, int(np.hypot(end[0] - start[0], end[1] - start[1]) / PATH_STEP_PX) + 1)
        frame = self.result.frame
        columns = np.floor(np.linspace(start[0], end[0], steps)).astype(int)
        rows = np.floor(np.linspace(start[1], end[1], steps)).astype(int)
        box = Box(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1).intersect(frame)
        if box.empty:
            return {}
        window = np.asarray(self.result.arrays()["labels"][0][box.relative_to(frame).slices])
        crossed: dict[int, int] = {}
        for x, y in zip(columns - box.x, rows - box.y, strict=True):
            if 0 <= x < box.width and 0 <= y < box.height and (number := int(window[y, x])):
                crossed[number] = crossed.get(number, 0) + 1
        return crossed

    def _there(self, point: Point) -> int:
        number = self.label_at(point)
        if not number:
            raise RegionError("There is no nucleus under the click.")
        return number

    def _measure(self, labels: NDArray[np.int32], box: Box) -> pd.DataFrame:
        """The run's own measurements, for objects that a person made."""
        from napari_histoseg.objects.measure import object_table

        assert self._slide is not None
        mpp = self.result.mpp or 1.0
        image = self._slide.read_at(mpp, box)
        return object_table(labels, image, mpp=mpp, origin_px=(box.x, box.y), downsample=self.result.downsample)
