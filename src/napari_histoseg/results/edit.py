"""Corrections of a result by a person: add, delete, split, merge, undo and redo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.draw import line as draw_line

from napari_histoseg.errors import RegionError, ResultError, SettingsError
from napari_histoseg.results import journal, table
from napari_histoseg.results.files import storage_errors
from napari_histoseg.results.journal import Journal, Window
from napari_histoseg.results.lock import Lock
from napari_histoseg.results.pyramid import open_pyramid
from napari_histoseg.results.result import Result
from napari_histoseg.results.shapes import measure_plainly
from napari_histoseg.slide.geometry import Box

Measure = Callable[[NDArray[np.int32], Box], pd.DataFrame]
"""From labels in a window (working pixels of the slide) to a table with ``id`` as in the labels."""

CONTEXT_PX = 64
"""Pixels around a changed object that its measurements may look at."""
BRIDGE_PX = 3
"""Objects that are merged grow together across a gap of up to twice this many pixels."""
SLIVER_PX = 6
"""Smaller pieces of a split go to their neighbor."""
_FIRST_ID_UNFINISHED = 2**31


@dataclass
class _Change:
    """An edit in the making: the window's pixels, and what becomes of the rows."""

    box: Box
    before: NDArray[np.uint32]
    after: NDArray[np.uint32]
    removed: list[int]
    made: dict[int, dict[str, Any]]


class Editor:
    """Changes a result's labels and table; each edit is on the disk, at every level, when the call returns.

    Who made an edit, when, and what was there before go into the result's journal (see `results.journal`).
    All points and boxes are in working pixels of the slide.

    Parameters
    ----------
    result : Result
        Its ``objects`` follow.
    measure : callable, optional
        The method's own measurements; area, centroid and outline without it.

    Raises
    ------
    ResultError
        The result has no objects to edit.
    """

    def __init__(self, result: Result, measure: Measure | None = None) -> None:
        if not result.has_objects or "labels" not in result.record.outputs:
            raise ResultError(f"{result.path} holds no objects, so there is nothing to correct in it.")
        self.result = result
        self._measure = measure or self._measure_plainly
        journal.recover(result.path)
        with storage_errors(result.path):
            self._levels = open_pyramid(result.path, "labels", mode="r+")
        self._journal = Journal(result.path)
        self.changed: Box | None = None
        """Working pixels that the last edit, undo or redo changed."""

    def add(self, box: Box, mask: NDArray[np.bool_], probability: float | None = None, name: str | None = None) -> int:
        """Add an object; pixels that another one holds stay with it.

        Parameters
        ----------
        box : Box
            Where the mask lies, in working pixels of the slide.
        mask : (h, w) bool
            The object.
        probability : float, optional
            0–1, for the table.
        name : str, optional
            Its class; the result's first class when not given.

        Returns
        -------
        int
            The new id.
        """
        if mask.shape != box.shape:
            raise SettingsError(f"The mask has shape {mask.shape} and its box {box.shape}. Give both the same.")
        inside = box.intersect(self.result.frame)
        mask = np.asarray(mask[inside.relative_to(box).slices], bool)
        before = self._read(inside)
        free = mask & (before == 0)
        if not free.any():
            raise RegionError("Nothing was added: no background pixel of the result lies in the mask.")
        identity = self._new_ids(1)[0]
        after = np.where(free, np.uint32(identity), before)
        classes = self.result.record.classes
        row = {"class": name or (classes[0].name if classes else "nucleus"), "probability": probability}
        self._commit(_Change(inside, before, after, [], {identity: row}), "Added 1 object")
        return identity

    def delete(self, ids: int | Iterable[int]) -> None:
        """Delete objects."""
        wanted = self._known(ids)
        box, before = self._window(wanted)
        after = np.where(np.isin(before, wanted), np.uint32(0), before)
        self._commit(_Change(box, before, after, wanted, {}), f"Deleted {_count(wanted)}")

    def split(self, identity: int, line: ArrayLike) -> list[int]:
        """Cut an object along a line.

        Parameters
        ----------
        identity : int
            The object.
        line : (n, 2) array
            Points ``(x, y)`` of the line, n ≥ 2.

        Returns
        -------
        list of int
            The pieces' ids; the largest keeps the old one.

        Raises
        ------
        RegionError
            The line does not cut the object in two.
        """
        (identity,) = self._known(identity)
        box, before = self._window([identity])
        pieces = _cut(before == identity, np.asarray(line, float) - (box.x, box.y))
        count = int(pieces.max())
        if count < 2:
            raise RegionError(f"The line does not cut object {identity} in two. Draw it across the whole object.")
        ids = [identity, *self._new_ids(count - 1)]
        lookup = np.array([0, *ids], np.uint32)
        after = np.where(pieces > 0, lookup[pieces], before)
        parent = self._row(identity)
        made = {i: {"class": parent["class"], "probability": parent["probability"]} for i in ids}
        self._commit(_Change(box, before, after, [identity], made), f"Split object {identity} into {count}")
        return ids

    def merge(self, ids: Iterable[int]) -> int:
        """Make one object of several; a narrow gap between them is closed.

        Returns
        -------
        int
            Its id, the smallest of the given ones.
        """
        wanted = self._known(ids)
        if len(wanted) < 2:
            raise SettingsError(f"Merging needs at least two objects. Got {len(wanted)} instead.")
        box, before = self._window(wanted, margin=BRIDGE_PX + 1)
        union = np.isin(before, wanted)
        bridge = ndimage.binary_closing(union, _disc(BRIDGE_PX)) & (before == 0)
        identity = min(wanted)
        after = np.where(union | bridge, np.uint32(identity), before)
        rows = [self._row(i) for i in wanted]
        largest = max(rows, key=lambda row: row["area_um2"])
        chances = [row["probability"] for row in rows if not pd.isna(row["probability"])]
        made = {identity: {"class": largest["class"], "probability": max(chances, default=None)}}
        self._commit(_Change(box, before, after, wanted, made), f"Merged {_count(wanted)}")
        return identity

    def undo(self) -> str | None:
        """Take the last edit back; returns its description, None when there is none."""
        return self._turn("undo", self._journal.last_active)

    def redo(self) -> str | None:
        """Bring back the edit that was undone last; returns its description, None when there is none."""
        return self._turn("redo", self._journal.last_undone)

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to take back."""
        return self._journal.last_active is not None

    @property
    def can_redo(self) -> bool:
        """Whether there is an edit to bring back."""
        return self._journal.last_undone is not None

    @property
    def last_description(self) -> str:
        """What the last edit in force did, as a phrase; empty without edits."""
        entry = self._journal.last_active
        return "" if entry is None else entry.description

    def _turn(self, kind: str, entry: journal.Entry | None) -> str | None:
        if entry is None:
            return None
        with self._writing():
            done = self._journal.append(kind, entry.description, of=entry.number)
            self._journal.apply(done, self._levels)
        window = self._journal.window(entry.number)
        self._follow(None if window is None else window.box)
        return entry.description

    def _commit(self, change: _Change, description: str) -> None:
        added = self._rows(change) if change.made else None
        box = change.box.relative_to(self.result.frame)
        window = Window(box, change.before, change.after.astype(np.uint32))
        with self._writing():
            entry = self._journal.append("edit", description, window, change.removed, added)
            self._journal.apply(entry, self._levels)
        self._follow(box)

    def _follow(self, box: Box | None) -> None:
        frame = self.result.frame
        self.changed = None if box is None else box.shifted(frame.x, frame.y)
        self.result.refresh()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with storage_errors(self.result.path):
            lock = Lock(self.result.path)
            try:
                self._journal.refresh()
                yield
            finally:
                lock.release()

    def _rows(self, change: _Change) -> pa.Table:
        """The new objects' rows: measured in the changed window with its surroundings."""
        box = change.box.padded(CONTEXT_PX).intersect(self.result.frame)
        pixels = self._read(box)
        pixels[change.box.relative_to(box).slices] = change.after
        # Ids may exceed int32, which measurements work on.
        present, local = np.unique(pixels, return_inverse=True)
        start = 0 if present[0] == 0 else 1
        measured = self._measure((local.reshape(pixels.shape) + start).astype(np.int32), box)
        ids = present[measured["id"].to_numpy(np.int64) - start]
        measured = measured.assign(id=ids.astype(np.uint32))
        measured = measured[measured["id"].isin(list(change.made))].reset_index(drop=True)
        for name in ("class", "probability"):
            measured[name] = [change.made[int(i)][name] for i in measured["id"]]
        return table.to_arrow(measured)

    def _measure_plainly(self, labels: NDArray[np.int32], box: Box) -> pd.DataFrame:
        return measure_plainly(labels, box, self.result.mpp or 1.0, self.result.downsample)

    def _read(self, box: Box) -> NDArray[np.uint32]:
        """Labels of a box inside the frame."""
        return np.array(self._levels[0][box.relative_to(self.result.frame).slices], np.uint32)

    def _known(self, ids: int | Iterable[int]) -> list[int]:
        wanted = sorted({int(i) for i in ([ids] if isinstance(ids, (int, np.integer)) else ids)})
        present = self.result.objects["id"].to_numpy()[self._positions(wanted)]
        missing = sorted(set(wanted) - set(present.tolist()))
        if missing or not wanted:
            named = ", ".join(map(str, missing)) or "none given"
            raise SettingsError(f"The result has no object {named}. Give ids of its table.")
        return wanted

    def _positions(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Rows of the ids in the sorted table (of the next id where one is missing)."""
        known = self.result.objects["id"].to_numpy()
        at = np.searchsorted(known, np.array(ids, np.int64))
        return at[at < len(known)]

    def _row(self, identity: int) -> pd.Series[Any]:
        return self.result.objects.iloc[int(self._positions([identity])[0])]

    def _new_ids(self, count: int) -> list[int]:
        record = self.result.record
        whole = record.status == "finished" and not record.failed_tiles
        known = self.result.objects["id"]
        largest = max(int(known.iloc[-1]) if len(known) else 0, self._journal.largest_id())
        # Tiles that a resumed run will add have ids above the present ones: leave them theirs.
        first = max(largest + 1, 1 if whole else _FIRST_ID_UNFINISHED)
        return list(range(first, first + count))

    def _window(self, ids: Sequence[int], margin: int = 1) -> tuple[Box, NDArray[np.uint32]]:
        """A box of the frame that holds the objects whole and ``margin`` pixels around, and its labels."""
        box: Box | None = None
        for identity in ids:
            whole = self._around(identity)
            box = whole if box is None else box.union(whole)
        assert box is not None
        box = box.padded(margin).intersect(self.result.frame)
        return box, self._read(box)

    def _around(self, identity: int) -> Box:
        """The smallest box around an object, found by growing a window from its centroid."""
        row = self._row(identity)
        x, y = self.result.to_px(row["centroid_x_um"], row["centroid_y_um"])
        frame = self.result.frame
        reach = 32
        while True:
            box = Box(x - reach, y - reach, 2 * reach, 2 * reach).intersect(frame)
            found = _bounds(self._read(box) == identity).shifted(box.x, box.y)
            rim = found.padded(1).intersect(frame)
            if not found.empty and rim == rim.intersect(box):
                return found
            if box == frame or reach > 4096:
                # A row whose pixels all lie under others: nothing to change but the table.
                return Box(frame.x, frame.y, 1, 1) if found.empty else found
            reach *= 2


def _bounds(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around a mask; empty for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Box(0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return Box(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)


def _cut(mask: NDArray[np.bool_], line: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number the pieces of a mask on the sides of a line, the largest first; one piece when it is not cut.

    ``line`` is ``(n, 2)``, points ``(x, y)`` in pixels of the mask; pixels under it go to the nearest piece.
    """
    if line.ndim != 2 or line.shape[1] != 2 or len(line) < 2:
        raise SettingsError(f"A line needs two or more points (x, y). Got an array of shape {line.shape} instead.")
    drawn = np.zeros_like(mask)
    points = np.floor(line).astype(int)
    for (x0, y0), (x1, y1) in pairwise(points):
        rows, columns = draw_line(y0, x0, y1, x1)  # type: ignore[no-untyped-call]
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        drawn[rows[inside], columns[inside]] = True
    # The line's diagonal steps do not leak: pieces are joined over edges, not over corners.
    pieces, count = ndimage.label(mask & ~drawn)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= SLIVER_PX]
    if len(order) == 0:
        return mask.astype(np.int64)
    rank = np.zeros(count + 1, np.int64)
    rank[1 + order] = np.arange(1, len(order) + 1)
    pieces = rank[pieces]
    nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    return np.where(mask, pieces[tuple(nearest)], 0)


def _disc(radius: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc: NDArray[np.bool_] = x**2 + y**2 <= radius**2 + radius
    return disc


def _count(ids: Sequence[int]) -> str:
    return "1 object" if len(ids) == 1 else f"{len(ids)} objects"
