"""Pyramids on disk that change while napari shows them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
    """

    def __init__(self, array: Any) -> None:
        self.array = array
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
        high, wide = self.chunks
        chunk = np.asarray(self.array[row * high : (row + 1) * high, column * wide : (column + 1) * wide])
        with self._lock:
            self._kept[row, column] = chunk
            while len(self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return chunk

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


def live_levels(arrays: Sequence[Any]) -> list[Any]:
    """Layer data of a growing pyramid, finest first; always two levels or more, as multiscale layers need."""
    finer, last = list(arrays[:-1]), arrays[-1]
    step = 1 if finer else 2
    coarse = np.array(last[...][::step, ::step]).view(CoarseLevel)
    coarse.source, coarse.step = last, step
    return [*(LiveLevel(array) for array in finer or [last]), coarse]


def show_changes(layer: Layer, thumbnail: bool = False) -> None:
    """Show what was written to the pyramid behind a layer since it was last drawn; main thread only."""
    levels: Any = layer.data
    for i in range(len(levels)):
        if isinstance(levels[i], LiveLevel):
            levels[i].forget()
        elif isinstance(levels[i], CoarseLevel):
            levels[i].update()
    layer.refresh(extent=False, thumbnail=thumbnail)
