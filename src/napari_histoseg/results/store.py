"""`ResultStore`: the only writer of a result folder while a run goes on.

The promise: a tile counts as done only when its pixels and its objects are on the disk. Pixels are flushed
first, then the objects follow in one file that appears at once and names its tiles. Whatever a killed run
wrote beyond that is written again, identically, when its tiles are redone, because merging is idempotent and
does not depend on order.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from napari_histoseg.errors import ResultError, StorageError
from napari_histoseg.results import table
from napari_histoseg.results.chunks import ChunkCache, Key, overwrite, smaller_id
from napari_histoseg.results.classes import BookReader
from napari_histoseg.results.files import TemporaryFolder, remove_partials, storage_error, storage_errors
from napari_histoseg.results.lock import NAME as LOCK
from napari_histoseg.results.lock import Lock
from napari_histoseg.results.pyramid import KINDS, Kind, create_pyramid, folder_name, halve, name_labels, open_pyramid
from napari_histoseg.results.record import FILE_NAME, ClassRecord, RunRecord, Status, differences, now
from napari_histoseg.results.result import Result
from napari_histoseg.slide.geometry import Box

COMMIT_TILES = 64
COMMIT_SECONDS = 5.0
_CACHE_BYTES = 128 * 2**20
_OUTPUTS = (*KINDS, "objects", "patches")

Pixels = tuple[Box, NDArray[Any]]
"""A box in working pixels and the values in it: ``(h, w)``, or ``(h, w, 3)`` for an image."""


class ResultStore:
    """Writes one result; made by `create` or `resume`. Not thread-safe: one thread owns it.

    Attributes
    ----------
    path : Path
        The result folder.
    record : RunRecord
        What ``run.json`` says; change it with `update`.
    """

    def __init__(self, path: Path, record: RunRecord, lock: Lock, keep: TemporaryFolder | None) -> None:
        self.path = path
        self.record = record
        self._lock = lock
        self._keep = keep
        self._arrays = {kind: levels for kind in KINDS if (levels := open_pyramid(path, kind, mode="r+"))}
        self._caches = {kind: self._cached(levels) for kind, levels in self._arrays.items()}
        self._done = table.committed_tiles(table.table_files(path))
        self._part = table.next_part(path)
        self._waiting: list[int] = []
        self._tables: list[pa.Table] = []
        self._committed_at = time.monotonic()
        self._amended = False
        self._closed = False

    @classmethod
    def create(cls, path: Path | str | None, record: RunRecord, outputs: Iterable[str], overwrite: bool = False) -> ResultStore:
        """Start a new result.

        Parameters
        ----------
        path : path or None
            The folder to make. None: a temporary folder, removed when nothing refers to the result any more.
        record : RunRecord
            What is run on what.
        outputs : iterable of str
            Among ``labels``, ``objects``, ``patches``, ``probability`` and ``image``; objects and patches exclude each other.
        overwrite : bool
            Replace a result that is there. Anything else that is there is never deleted.

        Raises
        ------
        ResultError
            The folder exists, is in use, or is no result although it should be overwritten.
        StorageError
            The disk is full or fails; nothing is left behind.
        """
        outputs = tuple(outputs)
        if unknown := sorted(set(outputs) - set(_OUTPUTS)):
            raise ValueError(f"Unknown outputs {unknown}; the outputs are {', '.join(_OUTPUTS)}.")
        keep = TemporaryFolder() if path is None else None
        folder = keep.path if keep is not None else _fresh_folder(Path(str(path)), overwrite)
        record = record.replaced(status="running", tiles_done=0, outputs=outputs)
        try:
            with storage_errors(folder, remedy="run again"):
                lock = Lock(folder)
                _furnish(folder, record)
        except (StorageError, KeyboardInterrupt):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder, record, lock, keep)

    @classmethod
    def resume(cls, path: Path | str, record: RunRecord) -> ResultStore:
        """Continue a result that was cancelled, failed or killed.

        Raises
        ------
        ResultError
            There is no result, it is in use, or it was made from something else; every difference is named.
        """
        path = Path(path)
        old = RunRecord.read(path)
        if different := differences(old, record):
            raise ResultError(
                f"{path} cannot be resumed, because this run differs from the one that made it: "
                f"{'; '.join(different)}. Run with the same input, or choose another folder."
            )
        lock = Lock(path)
        with storage_errors(path):
            remove_partials(path)
            merged = record.replaced(
                status="running",
                outputs=old.outputs,
                started=old.started,
                seconds=old.seconds,
                notices=old.notices,
                failed_tiles=[],
                # As they were when the tiles that are done were written; a model that has not seen the slide may not know them.
                classes=old.classes,
                merged=old.merged,
            )
            merged.write(path)
        return cls(path, merged, lock, None)

    @property
    def done(self) -> frozenset[int]:
        """Indices of the tiles that are on the disk."""
        return self._done

    @property
    def n_objects(self) -> int:
        """Number of objects that are on the disk."""
        if "objects" not in self.record.outputs:
            return 0
        return table.count_rows(table.table_files(self.path))

    def arrays(self) -> dict[str, list[zarr.Array[Any]]]:
        """The pyramids by output, finest level first; they show a tile from the commit after it was added."""
        return {str(kind): list(levels) for kind, levels in self._arrays.items()}

    def update(self, **changes: Any) -> None:
        """Change fields of the record; they are written with the next commit.

        ``seconds``, ``notices``, ``failed_tiles`` and the like; see `RunRecord`.
        """
        self.record = self.record.replaced(**changes)

    def settle(self, classes: Sequence[ClassRecord], merged: Mapping[int, int]) -> None:
        """Say which classes there are, before the tiles that have them; it is on the disk when the call returns.

        ``merged`` maps finer values to the class that they are shown as.
        """
        if (list(classes), dict(merged)) == (self.record.classes, self.record.merged):
            return
        self.update(classes=list(classes), merged=dict(merged))
        with storage_errors(self.path):
            if "labels" in self._arrays and "objects" not in self.record.outputs:
                name_labels(self.path / folder_name("labels"), BookReader(self.path, self.record).state.stored_classes)
            self.record.write(self.path)

    def add(
        self,
        tile_index: int,
        keep: Box,
        labels: Pixels | None = None,
        objects: pd.DataFrame | None = None,
        probability: Pixels | None = None,
        image: Pixels | None = None,
        patches: pd.DataFrame | None = None,
    ) -> None:
        """Take in one tile; it is done after the next commit, which comes by itself every few seconds.

        Parameters
        ----------
        tile_index : int
            Index of the tile in its grid.
        keep : Box
            The tile's own pixels (working pixels). Intensities are cut to it.
        labels : (Box, array), optional
            Object ids, unique in the whole result, or class values. They may reach beyond ``keep`` where an
            object does. Where two tiles claim a pixel the smaller id wins.
        objects : DataFrame, optional
            One row an object whose center lies in ``keep``, with column ``id``.
        probability, image : (Box, array), optional
            uint8, 0–255; the image is ``(h, w, 3)`` RGB.
        patches : DataFrame, optional
            One row a patch of a class map, in place of objects.

        Raises
        ------
        StorageError
            Writing failed. The tiles committed before are kept.
        """
        with storage_errors(self.path):
            self._put("labels", labels)
            self._put("probability", _cut(probability, keep))
            self._put("image", _cut(image, keep))
        for kind, rows in (("objects", objects), ("patches", patches)):
            if rows is not None and not rows.empty and kind in self.record.outputs:
                self._tables.append(table.to_arrow(rows))
        self._waiting.append(tile_index)
        if len(self._waiting) >= COMMIT_TILES or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def amend(self, **outputs: Pixels | None) -> None:
        """Put pixels in place of those of tiles that are done, by output; they are on the disk after the next commit.

        Raises
        ------
        StorageError
            Writing failed.
        """
        with storage_errors(self.path):
            for kind, pixels in outputs.items():
                if pixels is not None and kind in self._caches:
                    self._caches[kind][0].update(pixels[0].relative_to(self.record.frame), pixels[1], overwrite)
                    self._amended = True

    def commit(self) -> None:
        """Bring everything added so far to the disk and count its tiles as done."""
        if self._waiting or self._amended:
            with storage_errors(self.path):
                self._commit()
        self._committed_at = time.monotonic()

    def finish(self, status: Status = "finished", enrich: table.Enrich | None = None) -> Result:
        """End the run and return its result; the store cannot be used any more.

        A result that is ``finished`` has one merged table; any other keeps its parts and can be resumed. The folder is
        given free also where writing fails.

        Parameters
        ----------
        status : str
            How the run ended.
        enrich : callable, optional
            Makes the columns that need all objects at once; only called for a finished run.
        """
        try:
            self.commit()
            with storage_errors(self.path):
                self._end(status, enrich)
        finally:
            self.close()
        return Result(self.path, self._keep)

    def _end(self, status: Status, enrich: table.Enrich | None) -> None:
        parts = self.path / table.PARTS
        if status == "finished" and parts.exists():
            table.merge_table(self.path, enrich if "objects" in self.record.outputs else None)
        self.update(status=status, finished=now(), tiles_done=len(self._done))
        self.record.write(self.path)
        if status == "finished":
            shutil.rmtree(parts, ignore_errors=True)

    def close(self) -> None:
        """Give the folder free without finishing: what is committed stays and can be resumed."""
        self._lock.release()
        self._caches.clear()
        self._closed = True

    def _cached(self, levels: list[zarr.Array[Any]]) -> list[ChunkCache]:
        chunk_bytes = int(np.prod(levels[0].chunks)) * levels[0].dtype.itemsize
        capacity = max(_CACHE_BYTES // chunk_bytes // (2 * len(self._arrays)), 8)
        # Coarser levels are touched less, in proportion.
        return [ChunkCache(array, max(capacity >> level, 8)) for level, array in enumerate(levels)]

    def _put(self, kind: Kind, pixels: Pixels | None) -> None:
        if self._closed:
            raise ResultError(f"The run into {self.path} has ended; resume it to add tiles.")
        if pixels is None or kind not in self._caches:
            return
        box, values = pixels
        if values.shape[:2] != box.shape:
            raise ValueError(f"{kind} of shape {values.shape[:2]} do not fill their box of shape {box.shape}.")
        if kind == "labels" and not values.any():
            return
        if values.ndim == 3:
            values = np.moveaxis(values, -1, 0)
        merge = smaller_id if kind == "labels" else overwrite
        self._caches[kind][0].update(box.relative_to(self.record.frame), values, merge)

    def _commit(self) -> None:
        for kind, caches in self._caches.items():
            _update_pyramid(caches, kind)
            for cache in caches:
                cache.flush()
        self._amended = False
        if not self._waiting:
            return
        rows = pa.concat_tables([table.to_arrow(None), *self._tables], promote_options="permissive")
        table.write_part(self.path, self._part, rows.sort_by("id"), self._waiting)
        self._part += 1
        self._done |= frozenset(self._waiting)
        self._waiting, self._tables = [], []
        self.update(tiles_done=len(self._done))
        self.record.write(self.path, durable=False)


def _update_pyramid(caches: list[ChunkCache], kind: Kind) -> None:
    """Carry the chunks that changed since the last commit from each level to the next."""
    for fine, coarse in pairwise(caches):
        for key in sorted(fine.touched):
            block = halve(fine.get(key), kind)
            coarse.update(_halved_box(fine, key), block, overwrite)
        fine.touched.clear()
    caches[-1].touched.clear()


def _halved_box(cache: ChunkCache, key: Key) -> Box:
    # Chunks begin at even pixels, so that each has its own pixels in the coarser level.
    box = cache.box(key)
    return Box(box.x // 2, box.y // 2, (box.width + 1) // 2, (box.height + 1) // 2)


def _cut(pixels: Pixels | None, keep: Box) -> Pixels | None:
    if pixels is None:
        return None
    box, values = pixels
    part = box.intersect(keep)
    return part, values[part.relative_to(box).slices]


def _furnish(folder: Path, record: RunRecord) -> None:
    """What an empty result has; the record comes last, so that a folder with a record is whole."""
    for kind in KINDS:
        if kind in record.outputs:
            create_pyramid(folder, kind, record)
    (folder / table.PARTS).mkdir()
    record.write(folder)


def _fresh_folder(path: Path, overwrite: bool) -> Path:
    try:
        if _is_stillborn(path):
            lock = Lock(path)
            shutil.rmtree(path)
            lock.release()
        elif path.exists() or path.is_symlink():
            if not overwrite:
                raise ResultError(f"{path} exists. Choose another folder, or pass --resume or --overwrite.")
            remove_result(path)
        path.mkdir(parents=True)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise _cannot_create(path, error) from error
    except ResultError:
        raise
    except OSError as error:
        if error.errno == errno.EROFS:
            raise _cannot_create(path, error) from error
        raise storage_error(path, error, remedy="run again") from error
    return path


def _is_stillborn(path: Path) -> bool:
    """Whether a run was killed here before it could write its record: a lock, and nothing but what `_furnish` makes."""
    if path.is_symlink() or not (path / LOCK).is_file() or (path / FILE_NAME).exists():
        return False
    made = {table.PARTS, *(folder_name(kind) for kind in KINDS)}
    return all(entry.name in made or entry.name.startswith((LOCK, f".{FILE_NAME}.")) for entry in path.iterdir())


def _cannot_create(path: Path, error: OSError) -> ResultError:
    return ResultError(f"The result folder {path} cannot be made: {error.strerror}. Choose a folder that you may write.")


def remove_result(path: Path) -> None:
    """Delete a result folder, or an empty folder; refuse anything else.

    Raises
    ------
    ResultError
        It is no result, or a run is writing into it.
    """
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
        return
    if path.is_symlink() or not (path / FILE_NAME).is_file():
        raise ResultError(f"{path} is not a result folder, so it is not overwritten. Choose another folder.")
    lock = Lock(path)
    # Renamed first: a crash while deleting leaves no half result under the name.
    doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.deleted")
    os.rename(path, doomed)
    lock.release()
    shutil.rmtree(doomed)
