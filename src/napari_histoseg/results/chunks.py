"""A write-back cache of whole chunks in front of a zarr array."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_histoseg.results.files import sync_file
from napari_histoseg.slide.geometry import Box

Merge = Callable[[NDArray[Any], NDArray[Any]], None]
"""Takes the stored pixels (changed in place) and the new ones."""

Key = tuple[int, int]


class ChunkCache:
    """Chunks of the last two axes of one array, read, changed and written back whole by a single writer.

    Parameters
    ----------
    array : zarr.Array
        ``(..., y, x)``; its chunks span the leading axes.
    capacity : int
        Most chunks held in memory. The one not used for longest is written back first.
    """

    def __init__(self, array: zarr.Array[Any], capacity: int = 64) -> None:
        self.array = array
        self._capacity = capacity
        self._chunks: OrderedDict[Key, NDArray[Any]] = OrderedDict()
        self._dirty: set[Key] = set()
        self._unsynced: set[Key] = set()
        self.touched: set[Key] = set()
        """Chunks changed since the owner last cleared this."""

    @property
    def bounds(self) -> Box:
        """The array's plane as a box at its own origin."""
        height, width = self.array.shape[-2:]
        return Box(0, 0, width, height)

    def box(self, key: Key) -> Box:
        """Pixels of a chunk, cut at the array's end."""
        height, width = self.array.chunks[-2:]
        return Box(key[1] * width, key[0] * height, width, height).intersect(self.bounds)

    def keys(self, box: Box) -> Iterator[Key]:
        """The chunks that a box inside the array touches."""
        if box.empty:
            return
        height, width = self.array.chunks[-2:]
        for row in range(box.y // height, (box.bottom - 1) // height + 1):
            for column in range(box.x // width, (box.right - 1) // width + 1):
                yield row, column

    def get(self, key: Key) -> NDArray[Any]:
        """The chunk's pixels; to be changed only through `update`."""
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        chunk = np.array(self.array[(..., *self.box(key).slices)])
        self._make_room()
        self._chunks[key] = chunk
        return chunk

    def update(self, box: Box, values: NDArray[Any], merge: Merge) -> None:
        """Merge ``values`` ``(..., h, w)`` into ``box`` (pixels of the array), cut at the array's end."""
        for key in self.keys(box.intersect(self.bounds)):
            area = self.box(key)
            part = area.intersect(box)
            target = self.get(key)[(..., *part.relative_to(area).slices)]
            merge(target, values[(..., *part.relative_to(box).slices)])
            self._dirty.add(key)
            self.touched.add(key)

    def flush(self) -> None:
        """Write back every changed chunk and wait until the disk has it."""
        for key in sorted(self._dirty):
            self._write(key)
        for key in self._unsynced:
            sync_file(self._file(key))
        self._unsynced.clear()

    def _make_room(self) -> None:
        while len(self._chunks) >= self._capacity:
            oldest = next(iter(self._chunks))
            if oldest in self._dirty:
                self._write(oldest)
            del self._chunks[oldest]

    def _write(self, key: Key) -> None:
        self.array[(..., *self.box(key).slices)] = self._chunks[key]
        self._dirty.discard(key)
        self._unsynced.add(key)

    def _file(self, key: Key) -> Path:
        lead = [0] * (self.array.ndim - 2)
        name = self.array.metadata.encode_chunk_key((*lead, *key))
        return Path(str(self.array.store.root)) / self.array.path / name  # type: ignore[attr-defined]


def overwrite(stored: NDArray[Any], new: NDArray[Any]) -> None:
    """Merge rule of intensities: the new value replaces the stored one."""
    stored[...] = new


def smaller_id(stored: NDArray[Any], new: NDArray[Any]) -> None:
    """Merge rule of labels: the smaller nonzero id wins, in whatever order tiles come."""
    # Zero wraps to the largest unsigned value: one minimum decides, background included.
    np.minimum(stored - np.uint32(1), new.astype(np.uint32) - np.uint32(1), out=stored)
    stored += np.uint32(1)
