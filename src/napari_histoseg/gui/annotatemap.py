"""The masks of a slide's patches as one labels pyramid, composed where it is looked at: never as large as the slide."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.slide import Box

COARSEST_PX = 1024
"""The coarsest level is in memory; it has at most this many pixels a side."""
OVERVIEW_PX = 64
"""Of every mask a picture of about this size stays in memory."""
FULL = 128
"""So many masks, those last looked at, stay in memory whole."""

Mask = NDArray[np.uint8]


class MaskMap:
    """Masks at their places, as levels of a labels layer.

    Parameters
    ----------
    width, height : int
        The whole slide in working pixels, those of the dataset's µm/px.
    """

    def __init__(self, width: int, height: int) -> None:
        # The status bar reads on a thread of its own.
        self._lock = threading.RLock()
        self._boxes: dict[str, Box] = {}
        self._corners = np.empty((0, 4))
        self._ids: list[str] = []
        self._overviews: dict[str, tuple[Mask, tuple[int, int]]] = {}
        self._full: OrderedDict[str, Mask] = OrderedDict()
        self.wanted: OrderedDict[str, None] = OrderedDict()
        """Patches whose masks are to be loaded, the most urgent last."""
        self.hidden: str | None = None
        sizes = [(height, width)]
        while len(sizes) < 2 or max(sizes[-1]) > COARSEST_PX:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        self.coarsest: Mask = np.full(sizes[-1], UNLABELED, np.uint8)
        self.levels: list[Any] = [*(MapLevel(self, i, size) for i, size in enumerate(sizes[:-1])), self.coarsest]

    # -- what is there ----------------------------------------------------------------------------------------------

    def place(self, boxes: Mapping[str, Box]) -> None:
        """Say which patches there are, by their working pixels; masks of new ones become wanted, others are dropped."""
        with self._lock:
            for number in [n for n in self._boxes if boxes.get(n) != self._boxes[n]]:
                self._drop(number)
            new = [n for n in boxes if n not in self._boxes]
            self._boxes = dict(boxes)
            self._ids = list(boxes)
            self._corners = np.array([(b.x, b.y, b.right, b.bottom) for b in boxes.values()], float).reshape(-1, 4)
            for number in new:
                self.wanted[number] = None

    def _drop(self, number: str) -> None:
        box = self._boxes.pop(number)
        self._overviews.pop(number, None)
        self._full.pop(number, None)
        self.wanted.pop(number, None)
        # The others are placed anew right after, so that only the pixels are taken away here.
        self._ids = list(self._boxes)
        self._corners = np.array([(b.x, b.y, b.right, b.bottom) for b in self._boxes.values()], float).reshape(-1, 4)
        self._redraw(box)

    def put(self, number: str, mask: Mask) -> None:
        """Take a mask in, whole; of a patch that is not placed it is ignored."""
        with self._lock:
            self.wanted.pop(number, None)
            if number not in self._boxes:
                return
            step = max(1, -(-max(mask.shape) // OVERVIEW_PX))
            top, left = (min(step // 2, n - 1) for n in mask.shape[:2])
            self._overviews[number] = (np.ascontiguousarray(mask[top::step, left::step]), mask.shape[:2])
            self._full[number] = mask
            self._full.move_to_end(number)
            while len(self._full) > FULL:
                self._full.popitem(last=False)
            self._redraw(self._boxes[number])

    def want(self, numbers: Iterable[str]) -> None:
        """Load masks anew; what is known of them is shown until then."""
        with self._lock:
            for number in numbers:
                if number in self._boxes:
                    self.wanted[number] = None

    def hide(self, number: str | None) -> None:
        """Leave one patch out: it is being painted, in a layer of its own."""
        with self._lock:
            before, self.hidden = self.hidden, number
            for each in {before, number} & self._boxes.keys():
                self._redraw(self._boxes[str(each)])

    # -- pixels -------------------------------------------------------------------------------------------------------

    def compose(self, level: int, box: Box) -> Mask:
        """The labels in a box of a level's pixels; 255 where nobody annotated."""
        factor = 2**level
        out = np.full(box.shape, UNLABELED, np.uint8)
        with self._lock:
            found = self._meeting(box.scaled(factor))
            # More than are kept would be loaded for ever.
            whole = len(found) <= FULL // 2
            for number in found:
                self._paste(out, box, factor, number, whole)
        return out

    def _meeting(self, box: Box) -> list[str]:
        x0, y0, x1, y1 = self._corners.T
        hits = (x0 < box.right) & (x1 > box.x) & (y0 < box.bottom) & (y1 > box.y)
        return [self._ids[i] for i in np.flatnonzero(hits) if self._ids[i] != self.hidden]

    def _paste(self, out: Mask, box: Box, factor: int, number: str, whole: bool) -> None:
        place = self._boxes[number]
        mask, shape = self._overviews.get(number, (None, (1, 1)))
        if mask is None:
            return
        if whole and factor * OVERVIEW_PX < max(shape):
            if number in self._full:
                mask = self._full[number]
                self._full.move_to_end(number)
            else:
                self.wanted[number] = None
        rows, top = _nearest(box.y, box.height, factor, place.y, place.height, mask.shape[0])
        columns, left = _nearest(box.x, box.width, factor, place.x, place.width, mask.shape[1])
        values = mask[rows[:, None], columns]
        there = out[top : top + len(rows), left : left + len(columns)]
        np.copyto(there, values, where=values != UNLABELED)

    def _redraw(self, box: Box) -> None:
        """Bring the coarsest level up to date, in place: napari keeps it by reference."""
        level = len(self.levels) - 1
        high, wide = self.coarsest.shape
        part = box.scaled(0.5**level).padded(1).intersect(Box(0, 0, wide, high))
        self.coarsest[part.slices] = self.compose(level, part)


def _nearest(start: int, size: int, factor: int, place: int, extent: int, n: int) -> tuple[NDArray[np.int64], int]:
    """Indices into a mask's axis for the pixels of a level that lie in it, and how many pixels come before."""
    centers = (np.arange(start, start + size) + 0.5) * factor - place
    inside = np.flatnonzero((centers >= 0) & (centers < extent))
    first = int(inside[0]) if len(inside) else 0
    return (centers[inside] * n / extent).astype(np.int64).clip(0, n - 1), first


class MapLevel:
    """A level of a `MaskMap`, as layer data."""

    def __init__(self, source: MaskMap, level: int, shape: tuple[int, int]) -> None:
        self._source, self._level = source, level
        self.shape: tuple[int, ...] = shape
        self.dtype = np.dtype(np.uint8)
        self.ndim = 2
        self.size = shape[0] * shape[1]
        self.chunks = (512, 512)

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *[slice(None)] * (2 - len(keys)))
        windows, picks = [], []
        for each, n in zip(keys, self.shape, strict=True):
            low, high, pick = _window(each, n)
            windows.append((low, high))
            picks.append(pick)
        (top, bottom), (left, right) = windows
        pixels = self._source.compose(self._level, Box(left, top, max(right - left, 0), max(bottom - top, 0)))
        return pixels[picks[0]][..., picks[1]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:, :], dtype=dtype)


def _window(key: Any, n: int) -> tuple[int, int, Any]:
    """First and last index that a key touches, and the key within that window."""
    if isinstance(key, slice):
        low, high, step = key.indices(n)
        return low, high, slice(None, None, step)
    index = int(key)
    index += n if index < 0 else 0
    if not 0 <= index < n:
        raise IndexError(f"index {index} is out of bounds for {n} pixels")
    return index, index + 1, 0
