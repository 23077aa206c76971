"""The folder of a dataset that one session writes: locked, tidied at opening, and changed step by step.

Files that a step adds or changes are written before ``dataset.json``, files that it takes away are deleted after
it. ``dataset.json`` names the files that are about to go or to come under ``"unlisted"``, so that what a kill leaves
behind is known for what it is, and nothing else is ever deleted.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from napari_histoseg.annotations.dataset import FILE_NAME, PatchDataset, write_dataset
from napari_histoseg.annotations.history import Files
from napari_histoseg.annotations.masks import Painted
from napari_histoseg.errors import DatasetError, ResultError
from napari_histoseg.results.files import Step, atomic, no_step, storage_errors
from napari_histoseg.results.lock import NAME as LOCK_NAME
from napari_histoseg.results.lock import Lock

UNLISTED = "unlisted"
FOLDERS = ("", "masks", "images", "blocks")
REMEDY = "try again"


class Shelf:
    """The right to change a dataset's folder, until `close`.

    Raises
    ------
    DatasetError
        Another window holds the folder.
    StorageError
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp: tuple[int, int, int] | None = None
        self._written: PatchDataset | None = None
        self._closed = False
        try:
            with storage_errors(folder, REMEDY):
                self._lock = Lock(folder)
        except ResultError:
            raise _held(folder) from None

    def close(self) -> None:
        """Give the folder free; nothing is written from here on."""
        self._closed = True
        self._lock.release()

    def take(self, dataset: PatchDataset) -> PatchDataset:
        """Start from what was read: remove what a killed session left."""
        for name in FOLDERS:
            for partial in (self.folder / name).glob(".*.partial"):
                _drop(partial)
        listed = {name for p in dataset.patches for name in (p.mask, p.image, p.blocks)}
        extra = dataset.model_extra or {}
        for name in extra.get(UNLISTED, ()):
            path = (self.folder / str(name)).resolve()
            if name not in listed and path.is_relative_to(self.folder.resolve()):
                _drop(path)
        self._written, self._stamp = with_extra(dataset, UNLISTED, None), _stamp(self.folder / FILE_NAME)
        return self._written

    def read(self, name: str) -> Painted | None:
        """A mask; None when there is no such file."""
        try:
            return Painted.read((self.folder / name).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, dataset: PatchDataset, files: Files, copies: Mapping[str, Path] = MappingProxyType({}), step: Step = no_step) -> None:
        """Bring a step to the disk; when it returns the step outlives a kill and a power cut.

        Parameters
        ----------
        dataset : PatchDataset
        files : mapping of str to Painted or None
            Masks by name; None deletes.
        copies : mapping of str to Path
            Files from elsewhere, by their name here.
        step : callable
            Called before each file; what it raises leaves the folder as it was before.

        Raises
        ------
        StorageError
            The folder is as it was before.
        DatasetError
            The folder was closed, or another program changed ``dataset.json``.
        """
        if self._closed:
            raise DatasetError(f"{self.folder} was closed, and another window may have it by now. Open it again.")
        kept = {name: painted for name, painted in files.items() if painted is not None}
        gone = [name for name, painted in files.items() if painted is None]
        new = [name for name in (*copies, *kept) if not (self.folder / name).exists()]
        with storage_errors(self.folder, REMEDY), self._undone_on_error(new):
            if new and self._written is not None:
                self._write_list(self._written, new)
            for number, (name, source) in enumerate(copies.items()):
                step(number, len(copies) + len(kept))
                with source.open("rb") as original, self._placed(name) as file:
                    shutil.copyfileobj(original, file, 1 << 20)
            for number, (name, painted) in enumerate(kept.items(), len(copies)):
                step(number, len(copies) + len(kept))
                with self._placed(name) as file:
                    file.write(painted.png)
            if dataset != self._written or new or gone:
                self._write_list(dataset, gone)
        self._written = dataset
        for name in gone:
            _drop(self.folder / name)

    @contextmanager
    def _placed(self, name: str) -> Iterator[IO[bytes]]:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as file:
            yield file

    @contextmanager
    def _undone_on_error(self, new: Iterable[str]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for name in new:
                _drop(self.folder / name)
            raise

    def _write_list(self, dataset: PatchDataset, unlisted: list[str]) -> None:
        file = self.folder / FILE_NAME
        if self._stamp is not None and _stamp(file) != self._stamp:
            raise DatasetError(
                f"{file} was changed by another program since it was opened, and was left as it is. Close the dataset and open it again."
            )
        write_dataset(self.folder, with_extra(dataset, UNLISTED, unlisted or None))
        self._stamp = _stamp(file)


def with_extra(dataset: PatchDataset, key: str, value: Any) -> PatchDataset:
    """The dataset with another key of its own; None takes the key away."""
    extra = {k: v for k, v in (dataset.model_extra or {}).items() if k != key}
    fields = {name: getattr(dataset, name) for name in type(dataset).model_fields}
    return PatchDataset.model_construct(**fields, **extra, **({} if value is None else {key: value}))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _drop(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _held(folder: Path) -> DatasetError:
    """Who has the folder, and what to do."""
    try:
        held = json.loads((folder / LOCK_NAME).read_text(encoding="utf-8"))
        pid, host = held.get("pid"), held.get("host")
    except (OSError, ValueError, AttributeError):
        pid = host = None
    elsewhere = host is not None and host != socket.gethostname()
    where = f"process {pid} on {host}" if elsewhere else f"process {pid}"
    hint = f" If it has ended, delete {folder / LOCK_NAME}." if elsewhere else ""
    return DatasetError(f"{folder} is open in another window ({where}). Close it there, or choose another folder.{hint}")
