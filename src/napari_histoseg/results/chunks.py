"""A write-back cache of whole chunks in front of a zarr array."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from napari_histoseg.results.files import atomic, sync_file, sync_folder
from napari_histoseg.slide.geometry import Box

Merge = Callable[[NDArray[Any], NDArray[Any]], None]
"""Takes the stored pixels (changed in place) and the new ones."""

Key = tuple[int, int]

WORKERS = 4


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
        self._root = Path(str(array.store.root)) / array.path  # type: ignore[attr-defined]
        self._codec = Zstd()
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
        chunk = self._read(key)
        self._make_room()
        self._chunks[key] = chunk
        return chunk

    def update(self, box: Box, values: NDArray[Any], merge: Merge) -> None:
        """Merge ``values`` ``(..., h, w)`` into ``box`` (pixels of the array), cut at the array's end."""
        for key in self.keys(box.intersect(self.bounds)):
            area = self.box(key)
            part = area.intersect(box)
            new = values[(..., *part.relative_to(box).slices)]
            if merge is smaller_id and not new.any():
                continue
            merge(self.get(key)[(..., *part.relative_to(area).slices)], new)
            self._dirty.add(key)
            self.touched.add(key)

    def flush(self) -> None:
        """Write back every changed chunk and wait until the disk has it."""
        written = sorted(self._dirty)
        with ThreadPoolExecutor(WORKERS) as pool:
            # Both release Python's lock: compression, and waiting for the disk.
            list(pool.map(lambda key: self._write(key, durable=True), written))
            list(pool.map(lambda key: sync_file(self._file(key)), self._unsynced))
        for folder in {self._file(key).parent for key in (*written, *self._unsynced)}:
            sync_folder(folder)
        self._dirty.clear()
        self._unsynced.clear()

    def _make_room(self) -> None:
        while len(self._chunks) >= self._capacity:
            oldest = next(iter(self._chunks))
            if oldest in self._dirty:
                self._write(oldest, durable=False)
                self._dirty.discard(oldest)
                self._unsynced.add(oldest)
            del self._chunks[oldest]

    # Chunks are read and written without zarr, whose scheduling costs more than the work. The format is Zarr 3's:
    # one file a chunk, whole also at the array's end, little-endian and zstd as `create_pyramid` says.

    def _read(self, key: Key) -> NDArray[Any]:
        try:
            data = self._codec.decode(self._file(key).read_bytes())
        except FileNotFoundError:
            whole = np.full(self.array.chunks, self.array.fill_value, self.array.dtype)
        else:
            whole = np.frombuffer(data, self.array.dtype.newbyteorder("<")).reshape(self.array.chunks)
        height, width = self.box(key).shape
        return np.array(whole[..., :height, :width], self.array.dtype)

    def _write(self, key: Key, durable: bool) -> None:
        pixels, path = self._chunks[key], self._file(key)
        if (pixels == self.array.fill_value).all():
            path.unlink(missing_ok=True)
            return
        height, width = pixels.shape[-2:]
        whole = np.full(self.array.chunks, self.array.fill_value, self.array.dtype.newbyteorder("<"))
        whole[..., :height, :width] = pixels
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path, durable=False) as file:
            file.write(self._codec.encode(whole))
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def _file(self, key: Key) -> Path:
        return self._root / "c" / "/".join(map(str, (*(0,) * (self.array.ndim - 2), *key)))


def overwrite(stored: NDArray[Any], new: NDArray[Any]) -> None:
    """Merge rule of intensities: the new value replaces the stored one."""
    stored[...] = new


def smaller_id(stored: NDArray[Any], new: NDArray[Any]) -> None:
    """Merge rule of labels: the smaller nonzero id wins, in whatever order tiles come."""
    # Zero wraps to the largest unsigned value: one minimum decides, background included.
    np.minimum(stored - np.uint32(1), new.astype(np.uint32) - np.uint32(1), out=stored)
    stored += np.uint32(1)
