"""Pyramids on disk that change while napari shows them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.slide import Box

if TYPE_CHECKING:
    from napari.layers.base import Layer

KEPT_CHUNKS = 48
"""Of 512 × 512 labels, about 1 MB each: three screens."""


class LiveLevel:
    """A level of a growing pyramid. Chunks are kept in memory, so that panning reads nothing twice, until `forget`.

    Parameters
    ----------
    array : zarr.Array
        ``(h, w)``.
    fresh : bool
        Nothing was written yet: what was not announced by `reload` is 0 without a look at the disk.
    """

    def __init__(self, array: Any, fresh: bool = False) -> None:
        self.array = array
        self._written: set[tuple[int, int]] | None = set() if fresh else None
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.chunks: tuple[int, ...] = tuple(array.chunks)
        self._kept: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        # The status bar reads on a thread of its own.
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Read everything anew from now on."""
        with self._lock:
            self._kept.clear()
            self._written = None

    def reload(self, box: Box) -> None:
        """Read the kept chunks that meet a box (pixels of this level) anew.

        For the thread that wrote them: the window then finds them in memory, and does not wait for the disk.
        """
        high, wide = self.chunks
        for row in range(box.y // high, -(-box.bottom // high)):
            for column in range(box.x // wide, -(-box.right // wide)):
                place = (row, column)
                if self._written is not None:
                    self._written.add(place)
                if place in self._kept:
                    chunk = self._read(*place)
                    with self._lock:
                        self._kept[place] = chunk

    def __getitem__(self, key: Any) -> NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) != 2 or not all(isinstance(k, slice) and k.step in (None, 1) for k in keys):
            return np.asarray(self.array[keys])
        (top, bottom, _), (left, right, _) = (k.indices(n) for k, n in zip(keys, self.shape, strict=True))
        out = np.empty((max(bottom - top, 0), max(right - left, 0)), self.dtype)
        high, wide = self.chunks
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                y, x = row * high, column * wide
                y0, y1, x0, x1 = max(top, y), min(bottom, y + high), max(left, x), min(right, x + wide)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = self._chunk(row, column)[y0 - y : y1 - y, x0 - x : x1 - x]
        return out

    def _chunk(self, row: int, column: int) -> NDArray[Any]:
        with self._lock:
            if (row, column) in self._kept:
                self._kept.move_to_end((row, column))
                return self._kept[row, column]
        chunk = self._read(row, column)
        with self._lock:
            self._kept[row, column] = chunk
            while len(self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return chunk

    def _read(self, row: int, column: int) -> NDArray[Any]:
        high, wide = self.chunks
        if self._written is not None and (row, column) not in self._written:
            return np.zeros((min(high, self.shape[0] - row * high), min(wide, self.shape[1] - column * wide)), self.dtype)
        return np.asarray(self.array[row * high : (row + 1) * high, column * wide : (column + 1) * wide])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.array[...], dtype=dtype)


class CoarseLevel(np.ndarray[Any, Any]):
    """The coarsest level, in memory.

    napari keeps the coarsest level that it was given for good; as an array it is kept by reference, so that copying the
    stored values into it is enough to show them.
    """

    source: Any = None
    step: int = 1

    def update(self) -> None:
        """Copy what is stored now."""
        if self.source is not None:
            self[...] = self.source[...][:: self.step, :: self.step]


def live_levels(arrays: Sequence[Any], fresh: bool = False) -> list[Any]:
    """Layer data of a growing pyramid, finest first; always two levels or more, as multiscale layers need.

    With ``fresh`` nothing was written yet, and `reload_levels` announces what is.
    """
    finer, last = list(arrays[:-1]), arrays[-1]
    step = 1 if finer else 2
    coarse = np.array(last[...][::step, ::step]).view(CoarseLevel)
    coarse.source, coarse.step = last, step
    return [*(LiveLevel(array, fresh) for array in finer or [last]), coarse]


def reload_levels(levels: Sequence[Any], boxes: Sequence[Box]) -> None:
    """Bring what was written in boxes (pixels of the finest level) into memory; for the thread that wrote it."""
    for i, level in enumerate(levels):
        if isinstance(level, CoarseLevel):
            level.update()
        elif isinstance(level, LiveLevel):
            bounds = Box(0, 0, level.shape[1], level.shape[0])
            for box in boxes:
                level.reload(box.scaled(0.5**i).intersect(bounds))


def show_changes(layer: Layer, thumbnail: bool = False) -> None:
    """Show what was written to the pyramid behind a layer since it was last drawn; main thread only."""
    levels: Any = layer.data
    for i in range(len(levels)):
        if isinstance(levels[i], LiveLevel):
            levels[i].forget()
        elif isinstance(levels[i], CoarseLevel):
            levels[i].update()
    layer.refresh(extent=False, thumbnail=thumbnail)
