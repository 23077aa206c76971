"""Who uses a folder of the cache, across processes; and which folders go when the cache has grown too large.

A user keeps the marker in the folder open, with a shared lock. (Windows needs no lock: there a folder with an open file in it
cannot be renamed.) The system gives it free when the process ends, however it ends. The marker's time is that of the last use.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MARKER = "used"
#: A folder that was used just now may be about to be opened.
RECENT_SECONDS = 60.0


def hold(folder: Path, user: object) -> bool:
    """Use a folder from now on, until ``user`` is gone; False when the folder is gone or about to go."""
    try:
        marker = _open(folder)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # who may not write here cannot hold it, but mostly cannot be the one who removes it either
    if not _lock(marker, alone=False) or not _is_marker_of(folder, marker):
        os.close(marker)
        return False
    with suppress(OSError):
        os.utime(folder / MARKER)
    weakref.finalize(user, os.close, marker)
    return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Use a folder for the duration of a block; its end is the time of the last use."""
    marker = _open(folder)
    try:
        _lock(marker, alone=False)
        yield
        os.utime(folder / MARKER)
    finally:
        os.close(marker)


def remove_unused(folder: Path) -> bool:
    """Remove a folder, unless somebody uses it. It vanishes at once, and is emptied under another name."""
    doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        with _alone(folder) as alone:
            if not alone:
                return False
            folder.rename(doomed)
    except OSError:
        return False
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def trim(folders: list[Path], limit: float) -> None:
    """Remove the folders that were not used for longest until the rest holds at most ``limit`` bytes.

    Folders in use stay, and so do those that were used within the last minute, whatever their size.
    """
    sizes = {folder: _size(folder) for folder in sorted(folders, key=last_used)}
    excess = sum(sizes.values()) - limit
    for folder, size in sizes.items():
        if excess <= 0:
            return
        if time.time() - last_used(folder) > RECENT_SECONDS and remove_unused(folder):
            excess -= size


def last_used(folder: Path) -> float:
    """When the folder was last opened, in seconds since 1970; 0 when it is gone."""
    for place in (folder / MARKER, folder):
        with suppress(OSError):
            return place.stat().st_mtime
    return 0.0


def _open(folder: Path) -> int:
    return os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o644)


def _lock(marker: int, alone: bool) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(marker, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not alone  # a file system without locks: used all the same, and never removed from
    return True


def _is_marker_of(folder: Path, marker: int) -> bool:
    """Whether the folder still is where it was when the marker was opened."""
    try:
        return os.path.samestat(os.stat(folder / MARKER), os.fstat(marker))
    except OSError:
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody uses a folder, and nobody can begin to within the block."""
    if sys.platform == "win32":
        yield True  # renaming it will fail
        return
    marker = _open(folder)
    try:
        yield _lock(marker, alone=True)
    finally:
        os.close(marker)


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
