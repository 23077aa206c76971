"""Writing files so that a crash leaves the old or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from napari_histoseg.errors import ResultError, StorageError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than the disk, or a limit on this account, allows",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

RESUME = "run again with --resume"

Step = Callable[[int, int], None]
"""Hears of (pieces done, pieces in all) before each piece; what it raises stops the work."""


def no_step(done: int, total: int) -> None:
    """Nobody wants to know."""


@contextmanager
def storage_errors(path: Path, remedy: str = RESUME) -> Iterator[None]:
    """Turn the system's errors while writing below ``path`` into a `StorageError` that names the remedy."""
    try:
        yield
    except (ResultError, StorageError):
        raise
    except OSError as error:
        raise storage_error(path, error, remedy) from error
    except BaseExceptionGroup as group:
        # zarr writes chunks concurrently and groups what fails.
        causes = group.subgroup(OSError)
        if causes is None:
            raise
        raise storage_error(path, _first(causes), remedy) from group


def storage_error(path: Path, error: OSError, remedy: str = RESUME) -> StorageError:
    """The `StorageError` that says why writing below ``path`` failed and what to do."""
    reason = _REASONS.get(error.errno or 0, str(error))
    first = "Free space" if error.errno in _FULL else "Make the folder writable"
    kept = " The tiles done so far are kept." if remedy == RESUME else ""
    return StorageError(f"Writing to {path} failed: {reason}.{kept} {first} and {remedy}.")


def _first(group: BaseExceptionGroup[OSError]) -> OSError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, OSError)
    return found


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when it is complete.

    Parameters
    ----------
    path : Path
        The final name. What is there already is replaced.
    durable : bool
        Wait until the disk has it, so that it also outlives a power cut.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries (Windows cannot, and is passed over)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until the disk has the file's contents; a file that does not exist has none."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        os.fsync(file.fileno())


def remove_partials(folder: Path) -> None:
    """Delete what killed writers left behind."""
    for partial in folder.rglob("*.partial"):
        with suppress(OSError):
            partial.unlink()


class TemporaryFolder:
    """A folder that is removed when nothing refers to this object any more, or when Python ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="histoseg-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, True)
