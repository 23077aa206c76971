"""Reduced levels for images that have none: streamed once, kept in the user's cache folder.

A half-built cache is never used: it is written under another name and renamed when complete. Together the levels of all images
stay below a limit: when new ones were built, those go that were not used for longest.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg.errors import SettingsError, StorageError
from napari_histoseg.slide import lease
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.resample import means

if TYPE_CHECKING:
    from numpy.typing import NDArray

Read = Callable[[Box], "NDArray[np.uint8]"]
Progress = Callable[[int, int], None]

VERSION = 1
CHUNK = 512
FIRST = 4  # the first reduced level, in pixels of the image per pixel
BAND = CHUNK * FIRST
#: Rows read at once from an image stored in strips as wide as itself.
STRIP_ROWS = 256
STALE_SECONDS = 24 * 3600
#: What all reduced levels may take, in gigabytes; ``HISTOSEG_CACHE_GB`` is another limit.
LIMIT_GB = 20.0


def cache_root() -> Path:
    """``HISTOSEG_CACHE``, or the user's cache folder."""
    named = os.environ.get("HISTOSEG_CACHE")
    if named:
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("napari-histoseg", appauthor=False)


def limit_bytes() -> float:
    """What the reduced levels of all images may take.

    Raises
    ------
    SettingsError
        When ``HISTOSEG_CACHE_GB`` is no such number.
    """
    given = os.environ.get("HISTOSEG_CACHE_GB")
    try:
        limit = float(given) if given else LIMIT_GB
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise SettingsError(f"HISTOSEG_CACHE_GB must be a number of gigabytes, 0 or more. Got {given!r} instead.")
    return limit * 1e9


def place_for(key: str) -> Path:
    """Where the reduced levels of the image called ``key`` are or will be."""
    digest = hashlib.sha256(f"{VERSION} {key}".encode()).hexdigest()[:32]
    return cache_root() / "levels" / f"{digest}.zarr"


def reduced_sizes(width: int, height: int, target: int) -> list[tuple[int, int, int]]:
    """``(factor, width, height)`` of the levels to build: 4, 8, 16 ... until one is no larger than ``target``."""
    sizes = []
    factor = FIRST
    while True:
        w, h = math.ceil(width / factor), math.ceil(height / factor)
        sizes.append((factor, w, h))
        if max(w, h) <= target:
            return sizes
        factor *= 2


def open_reduced(place: Path) -> list[Any] | None:
    """The zarr arrays of a complete cache, finest first; None where there is none. It stays there as long as they do."""
    import zarr

    if not place.is_dir():
        return None
    try:
        group = zarr.open_group(str(place), mode="r")
        arrays = [group[name] for name in sorted(filter(str.isdigit, os.listdir(place)), key=int)]
    except (OSError, ValueError, KeyError):
        shutil.rmtree(place, ignore_errors=True)  # damaged from outside: build it again
        return None
    return arrays if all(lease.hold(place, array) for array in arrays) else None


def build_reduced(
    place: Path,
    read: Read,
    width: int,
    height: int,
    tile: tuple[int, int],
    target: int,
    progress: Progress | None = None,
) -> list[Any]:
    """Build the reduced levels of an image in bands, so that memory does not grow with its height.

    Parameters
    ----------
    place : Path
        The folder to make.
    read : callable
        Gives RGB pixels of a box; called from several threads.
    width, height : int
        Of the image.
    tile : (width, height)
        How the image is stored.
    target : int
        Longer side of the coarsest level, at most.
    progress : callable, optional
        Called with ``(done, total)``; what it raises stops the building and leaves nothing behind.

    Raises
    ------
    StorageError
        When the cache cannot be written.
    SettingsError
        When its limit is no number.
    """
    limit = limit_bytes()
    part = place.with_name(f".{place.name}.{uuid.uuid4().hex}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(part.parent)
        levels = _create(part, width, height, target)
        with lease.held(part):
            _fill(levels, read, width, height, tile, progress)
        _publish(part, place)
    except OSError as error:
        if isinstance(error, StorageError) or error.errno is None:
            raise
        raise StorageError(
            f"The reduced levels of a large image cannot be written to {place.parent} ({error.strerror}). "
            "Make room there, or name another folder in HISTOSEG_CACHE."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    arrays = open_reduced(place)
    assert arrays is not None
    lease.trim(list(place.parent.glob("*.zarr")), limit)
    return arrays


def _publish(part: Path, place: Path) -> None:
    try:
        part.rename(place)
    except OSError:
        if not place.is_dir():  # otherwise another process was faster
            raise


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for left in folder.glob(".*.part"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            lease.remove_unused(left)


def _create(part: Path, width: int, height: int, target: int) -> list[Any]:
    """The empty levels."""
    import zarr

    group = zarr.open_group(str(part), mode="w", zarr_format=3)
    return [
        group.create_array(str(factor), shape=(h, w, 3), chunks=(CHUNK, CHUNK, 3), dtype="uint8")
        for factor, w, h in reduced_sizes(width, height, target)
    ]


def _fill(
    arrays: list[Any],
    read: Read,
    width: int,
    height: int,
    tile: tuple[int, int],
    progress: Progress | None,
) -> None:
    bands = [Box(0, y, width, min(BAND, height - y)) for y in range(0, height, BAND)]
    total, done = sum(len(list(_parts(band, tile))) for band in bands), 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for band in bands:
            rows = np.empty((math.ceil(band.height / FIRST), math.ceil(width / FIRST), 3), np.uint8)
            boxes = list(_parts(band, tile))
            for box, small in zip(boxes, pool.map(lambda box: means(read(box), FIRST), boxes), strict=True):
                top, left = (box.y - band.y) // FIRST, box.x // FIRST
                rows[top : top + small.shape[0], left : left + small.shape[1]] = small
                done += 1
                if progress is not None:
                    progress(done, total)
            arrays[0][band.y // FIRST : band.y // FIRST + rows.shape[0]] = rows
    for finer, array in itertools.pairwise(arrays):
        for y in range(0, array.shape[0], CHUNK):
            array[y : y + CHUNK] = means(np.asarray(finer[2 * y : 2 * (y + CHUNK)]), 2)


def _parts(band: Box, tile: tuple[int, int]) -> Iterator[Box]:
    """What is read at once: squares of a band, or full rows where the image is stored in full rows."""
    in_strips = tile[0] >= band.width and band.width > BAND
    width, height = (band.width, STRIP_ROWS) if in_strips else (BAND, BAND)
    for y in range(band.y, band.bottom, height):
        for x in range(band.x, band.right, width):
            yield Box(x, y, width, height).intersect(band)
