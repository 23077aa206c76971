"""What a viewer needs beyond the file's levels: lazy arrays, coarser levels, thumbnails.

A part that cannot be decoded is shown white, and logged: the rest of the slide stays visible.
"""

from __future__ import annotations

import functools
import logging
import math
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg.errors import TileError
from napari_histoseg.slide import cache
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.normalized import Normalizer, read_stained
from napari_histoseg.slide.resample import means, resample

if TYPE_CHECKING:
    import dask.array
    from numpy.typing import NDArray

    from napari_histoseg.slide.slide import Slide

log = logging.getLogger(__name__)

Read = Callable[[Box], "NDArray[np.uint8]"]
Progress = Callable[[int, int], None]

#: A coarsest level up to this size (px, longer side) is coarse enough to show a whole slide.
SCREEN_PX = 2048
#: Up to this size, coarser levels are computed in memory; above, from a cache on disk.
MEMORY_PX = 8192
#: Trailing levels smaller than this serve no viewer (napari draws its thumbnails from the coarsest).
SMALLEST_PX = 256
CHUNK = 512
BAND_ROWS = 1024
#: Decoded chunks kept for viewing.
RECENT_BYTES = 256 << 20


class Recent:
    """The chunks that were read last, so that panning reads only what comes into view."""

    def __init__(self, limit: int = RECENT_BYTES) -> None:
        self._limit, self._size = limit, 0
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[Plane, Box], NDArray[np.uint8]] = OrderedDict()

    def get(self, plane: Plane, box: Box) -> NDArray[np.uint8]:
        """The pixels of a box of a plane, read if they are not there; not to be written to."""
        # The plane itself, not its id: that would be given anew once the plane is gone, and another level's chunk be shown.
        key = (plane, box)
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        pixels = plane.read(box)
        pixels.flags.writeable = False
        with self._lock:
            if key not in self._chunks:
                self._size += pixels.nbytes
            self._chunks[key] = pixels
            while self._size > self._limit:
                self._size -= self._chunks.popitem(last=False)[1].nbytes
        return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        return Recent, (self._limit,)


class Plane:
    """One resolution for viewing, sliced like an array ``(h, w, 3)``."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, read: Read, width: int, height: int, tile: tuple[int, int]) -> None:
        self.read = read
        self.shape = (height, width, 3)
        self.tile = tile

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint8]:
        box, down, across, channels = self._box(index)
        if box.empty:
            return np.empty((max(box.height, 0), max(box.width, 0), 3), np.uint8)[..., channels]
        return self.read(box)[::down, ::across, channels]

    def chunk(self, index: tuple[slice, ...], recent: Recent) -> NDArray[np.uint8]:
        """As ``self[index]`` for whole chunks, kept for the next time."""
        box, _, _, channels = self._box(index)
        return self[index] if box.empty else recent.get(self, box)[..., channels]

    def _box(self, index: tuple[slice, ...]) -> tuple[Box, int, int, slice]:
        (top, bottom, down), (left, right, across), channels = (
            s.indices(n) for s, n in zip(index, self.shape, strict=True)
        )
        return Box(left, top, right - left, bottom - top), down, across, slice(*channels)


class View:
    """The file's levels and the ones added for viewing."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self._lock = threading.Lock()
        self._added: list[Plane] | None = None
        self._recent = Recent()
        last = slide.levels[-1]
        self._longest = max(last.width, last.height)

    @functools.cached_property
    def _place(self) -> Path:
        """Where the cache is: named by content and time of change; in a temporary folder for arrays."""
        if self.slide.path is None:
            folder = tempfile.mkdtemp(prefix="histoseg-levels-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            return Path(folder) / "levels.zarr"
        changed = Path(self.slide.path).stat().st_mtime_ns
        return cache.place_for(f"{self.slide.fingerprint()} {changed} {self.slide.converts}")

    @property
    def needs_cache(self) -> bool:
        """Whether reduced levels have to be built on disk first; they hold the slide as scanned."""
        if self.slide.stain is not None:
            return self.slide.unstained.needs_cache
        return self._longest > MEMORY_PX and self._added is None and cache.open_reduced(self._place) is None

    def build_cache(self, progress: Progress | None = None) -> None:
        """Make the added planes ready."""
        self.planes(progress)

    def planes(self, progress: Progress | None = None) -> list[Plane]:
        """All resolutions, finest first."""
        slide = self.slide
        if slide.stain is not None:
            return [_stained(plane, slide.stain) for plane in slide.unstained._view.planes(progress)]
        own = [
            Plane(functools.partial(read_what_can_be, slide, i), level.width, level.height, slide.tiles[i])
            for i, level in enumerate(slide.levels)
            if i == 0 or max(level.width, level.height) >= SMALLEST_PX
        ]
        if self._longest <= SCREEN_PX:
            return own
        with self._lock:
            if self._added is None:
                self._added = (
                    _in_memory(own[-1]) if self._longest <= MEMORY_PX else self._on_disk(own[-1], progress)
                )
        return own + self._added

    def _on_disk(self, base: Plane, progress: Progress | None) -> list[Plane]:
        height, width = base.shape[:2]
        arrays = cache.open_reduced(self._place) or cache.build_reduced(
            self._place, base.read, width, height, base.tile, SCREEN_PX, progress
        )
        return [
            Plane(functools.partial(_cut, array), array.shape[1], array.shape[0], (CHUNK, CHUNK))
            for array in arrays
        ]

    def arrays(self, progress: Progress | None = None) -> list[dask.array.Array]:
        """Lazy arrays of all planes, in chunks of whole tiles."""
        import dask.array

        name = f"slide-{self.slide.fingerprint()[7:23]}{'-srgb' if self.slide.converts else ''}"
        if self.slide.stain is not None:
            name = f"{name}-{self.slide.stain.key()}"
        out = []
        get = functools.partial(_read_chunk, self._recent)
        for i, plane in enumerate(self.planes(progress)):
            chunks = (*(_chunk(t) for t in reversed(plane.tile)), 3)
            array = dask.array.from_array(  # type: ignore[no-untyped-call]
                plane, chunks=chunks, name=f"{name}-{i}", inline_array=True, getitem=get
            )
            out.append(array)
        return out

    def thumbnail(self, max_px: int, progress: Progress | None = None) -> NDArray[np.uint8]:
        """The whole slide, its longer side ``max_px``."""
        width, height = self.slide.width, self.slide.height
        factor = max(1.0, max(width, height) / max_px)
        size = Box(0, 0, max(1, round(width / factor)), max(1, round(height / factor)))
        plane = [p for p in self.planes(progress) if max(p.shape[:2]) >= max(size.shape)][-1]
        scale = max(plane.shape[:2]) / max(size.shape)
        return resample(functools.partial(_clamped, plane), scale, size)


def read_what_can_be(slide: Slide, level: int, box: Box) -> NDArray[np.uint8]:
    """Read a box; where a part cannot be decoded, that part is white."""
    try:
        return slide.read(level, box)
    except TileError as error:
        log.warning("%s", error)
    width, height = slide.tiles[level]
    out = np.full((*box.shape, 3), 255, np.uint8)
    for y in range(box.y // height, -(-box.bottom // height)):
        for x in range(box.x // width, -(-box.right // width)):
            part = Box(x * width, y * height, width, height).intersect(box)
            try:
                out[part.relative_to(box).slices] = slide.read(level, part)
            except TileError:
                continue
    return out


def _stained(plane: Plane, normalizer: Normalizer) -> Plane:
    """The plane with normalized colors."""
    height, width = plane.shape[:2]
    read = functools.partial(read_stained, plane.read, Box(0, 0, width, height), normalizer)
    return Plane(read, width, height, plane.tile)


def _in_memory(base: Plane) -> list[Plane]:
    """Coarser planes by halves, computed together when the first of them is read."""
    height, width = base.shape[:2]
    sizes = []
    while max(width, height) > SCREEN_PX:
        width, height = math.ceil(width / 2), math.ceil(height / 2)
        sizes.append((width, height))
    halves = _Halves(base, len(sizes))
    return [Plane(functools.partial(halves.read, i), w, h, (CHUNK, CHUNK)) for i, (w, h) in enumerate(sizes)]


class _Halves:
    """Halved, quartered ... copies of a plane, made once, band by band."""

    def __init__(self, base: Plane, count: int) -> None:
        self._base, self._count = base, count
        self._lock = threading.Lock()
        self._arrays: list[NDArray[np.uint8]] = []

    def read(self, index: int, box: Box) -> NDArray[np.uint8]:
        with self._lock:
            if not self._arrays:
                self._arrays = self._make()
        return self._arrays[index][box.slices]

    def _make(self) -> list[NDArray[np.uint8]]:
        height, width = self._base.shape[:2]
        bands = [
            means(self._base.read(Box(0, y, width, min(BAND_ROWS, height - y))), 2)
            for y in range(0, height, BAND_ROWS)
        ]
        arrays = [np.concatenate(bands)]
        while len(arrays) < self._count:
            arrays.append(means(arrays[-1], 2))
        return arrays

    def __reduce__(self) -> tuple[Any, ...]:
        return _Halves, (self._base, self._count)


def _cut(array: Any, box: Box) -> NDArray[np.uint8]:
    return np.asarray(array[box.slices])


def _read_chunk(
    recent: Recent, plane: Plane, index: tuple[slice, ...], *_: Any, **__: Any
) -> NDArray[np.uint8]:
    """One chunk. dask would merge its own getter with the slices of a view, and a cache of chunks would never hit."""
    return plane.chunk(index, recent)


def _clamped(plane: Plane, box: Box) -> NDArray[np.uint8]:
    """Pixels of a box that repeat the border outwards, so that a thumbnail has no white rim."""
    height, width = plane.shape[:2]
    x, y = (min(max(at, 0), size - 1) for at, size in ((box.x, width), (box.y, height)))
    right, bottom = max(min(box.right, width), x + 1), max(min(box.bottom, height), y + 1)
    inside = Box(x, y, right - x, bottom - y)
    pad = (
        (max(inside.y - box.y, 0), max(box.bottom - inside.bottom, 0)),
        (max(inside.x - box.x, 0), max(box.right - inside.right, 0)),
        (0, 0),
    )
    return np.pad(plane.read(inside), pad, mode="edge")[: box.height, : box.width]


def _chunk(tile: int) -> int:
    """The multiple of a tile's side that is nearest to 512 px."""
    return tile * max(1, round(CHUNK / tile))
