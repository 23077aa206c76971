"""What a viewer needs beyond the file's levels: lazy arrays, coarser levels, thumbnails."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.resample import resample

if TYPE_CHECKING:
    import dask.array
    from numpy.typing import NDArray

    from napari_histoseg.slide.slide import Slide

#: A coarsest level up to this size (px, longer side) is coarse enough to show a whole slide.
SCREEN_PX = 2048
#: Up to this size, coarser levels are computed in memory; above, from a cache on disk.
MEMORY_PX = 8192
#: Trailing levels smaller than this serve no viewer (napari draws its thumbnails from the coarsest).
SMALLEST_PX = 256
CHUNK = 512


class Plane:
    """One resolution for viewing, sliced like an array ``(h, w, 3)``."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(
        self, read: Callable[[Box], NDArray[np.uint8]], width: int, height: int, tile: tuple[int, int]
    ) -> None:
        self.read = read
        self.shape = (height, width, 3)
        self.tile = tile

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint8]:
        rows, columns, channels = (s.indices(n) for s, n in zip(index, self.shape, strict=True))
        if rows[1] <= rows[0] or columns[1] <= columns[0]:
            return np.empty((max(rows[1] - rows[0], 0), max(columns[1] - columns[0], 0), 3), np.uint8)[
                ..., slice(*channels)
            ]
        box = Box(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        return self.read(box)[:: rows[2], :: columns[2], slice(*channels)]


class View:
    """The file's levels and the ones added for viewing."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self._lock = threading.Lock()
        self._added: list[Plane] | None = None

    @property
    def _coarsest(self) -> int:
        last = self.slide.levels[-1]
        return max(last.width, last.height)

    @property
    def needs_cache(self) -> bool:
        return False

    def build_cache(self, progress: Callable[[int, int], None] | None = None) -> None:
        return None

    def planes(self, progress: Callable[[int, int], None] | None = None) -> list[Plane]:
        """All resolutions, finest first."""
        slide = self.slide
        own = [
            Plane(functools.partial(slide.read, i), level.width, level.height, slide._source.tiles[i])
            for i, level in enumerate(slide.levels)
            if i == 0 or max(level.width, level.height) >= SMALLEST_PX
        ]
        return own

    def arrays(self, progress: Callable[[int, int], None] | None = None) -> list[dask.array.Array]:
        import dask.array

        name = self.slide.fingerprint()[7:23]
        out = []
        for i, plane in enumerate(self.planes(progress)):
            chunks = (*(_chunk(t) for t in reversed(plane.tile)), 3)
            made = dask.array.from_array(  # type: ignore[no-untyped-call]
                plane, chunks=chunks, name=f"slide-{name}-{i}", inline_array=True
            )
            out.append(made)
        return out

    def thumbnail(self, max_px: int, progress: Callable[[int, int], None] | None = None) -> NDArray[np.uint8]:
        width, height = self.slide.width, self.slide.height
        factor = max(1.0, max(width, height) / max_px)
        size = Box(0, 0, max(1, round(width / factor)), max(1, round(height / factor)))
        fine = [p for p in self.planes(progress) if max(p.shape[:2]) >= max(size.shape)]
        plane = fine[-1]
        scale = max(plane.shape[:2]) / max(size.shape)
        return resample(_clamped(plane), scale, size)


def _clamped(plane: Plane) -> Callable[[Box], NDArray[np.uint8]]:
    """Reads that repeat the border outwards, so that a thumbnail has no white rim."""
    height, width = plane.shape[:2]

    def read(box: Box) -> NDArray[np.uint8]:
        inside = box.intersect(Box(0, 0, width, height))
        pixels = plane.read(inside)
        pad = (
            (inside.y - box.y, box.bottom - inside.bottom),
            (inside.x - box.x, box.right - inside.right),
            (0, 0),
        )
        return np.pad(pixels, pad, mode="edge")

    return read


def _chunk(tile: int) -> int:
    """The multiple of a tile's side that is nearest to 512 px."""
    return tile * max(1, round(CHUNK / tile))
