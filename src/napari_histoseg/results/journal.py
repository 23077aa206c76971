"""Corrections by a person: an append-only journal beside the run's own files.

Every finished edit is one file in ``edits/`` that appears at once: who, when, what, the changed pixels before
and after, the rows taken away and the rows put in their place. Undo and redo are entries too. The run's own
table is never changed; readers lay the journal over it. Pixels are changed in place after the entry is on the
disk, and ``edits/applied`` names the last entry whose pixels are; `recover` completes one that a crash
interrupted.
"""

from __future__ import annotations

import getpass
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from napari_histoseg.errors import ResultError, StorageError
from napari_histoseg.results import table
from napari_histoseg.results.files import atomic, storage_errors
from napari_histoseg.results.lock import Lock
from napari_histoseg.results.pyramid import halve, open_pyramid
from napari_histoseg.results.record import now
from napari_histoseg.slide.geometry import Box

FOLDER = "edits"
_APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Window:
    """Changed pixels: a box in pixels of the label array, and its ids before and after (uint32)."""

    box: Box
    before: NDArray[np.uint32]
    after: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal.

    ``kind`` is ``edit``, ``undo`` or ``redo``; ``of`` the number of the edit that an undo or redo is about.
    """

    number: int
    kind: str
    of: int
    description: str
    who: str
    when: str
    removed: frozenset[int]
    added: pa.Table


class Journal:
    """The edits of one result folder, in order."""

    def __init__(self, result: Path) -> None:
        self.folder = result / FOLDER
        self.entries: list[Entry] = []
        self._active: list[int] = []
        self._undone: list[int] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the entries that came since."""
        while (path := self._path(len(self.entries))).exists():
            self._take(_read_entry(path, len(self.entries)))

    @property
    def active(self) -> list[Entry]:
        """The edits in force, oldest first."""
        return [self.entries[number] for number in self._active]

    @property
    def last_active(self) -> Entry | None:
        """The edit that undo takes back."""
        return self.entries[self._active[-1]] if self._active else None

    @property
    def last_undone(self) -> Entry | None:
        """The edit that redo brings back."""
        return self.entries[self._undone[-1]] if self._undone else None

    @property
    def applied(self) -> int:
        """Number of entries whose pixels are in the label pyramid."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / _APPLIED).read_text(encoding="ascii"))
        return 0

    def removed_ids(self) -> frozenset[int]:
        """Ids of the run's own table that are gone or replaced."""
        return frozenset().union(*(entry.removed for entry in self.active))

    def added_rows(self) -> pa.Table | None:
        """The rows that edits put in, sorted by id; None without edits."""
        rows: pa.Table | None = None
        for entry in self.active:
            if rows is not None:
                rows = table.without_ids(rows, entry.removed)
            rows = entry.added if rows is None else pa.concat_tables([rows, entry.added], promote_options="permissive")
        return None if rows is None else rows.sort_by("id")

    def largest_id(self) -> int:
        """The largest id that any edit ever used, undone ones included."""
        return max((int(i) for e in self.entries for i in e.added["id"].to_numpy()), default=0)

    def append(
        self,
        kind: str,
        description: str,
        window: Window | None = None,
        removed: Sequence[int] = (),
        added: pa.Table | None = None,
        of: int = -1,
    ) -> Entry:
        """Write an entry to the disk; from here on it holds."""
        number = len(self.entries)
        meta = {"kind": kind, "of": of, "description": description, "who": user(), "when": now()}
        arrays: dict[str, NDArray[Any]] = {
            "meta": _bytes(json.dumps(meta).encode()),
            "removed": np.array(sorted(removed), np.uint32),
            "rows": _bytes(_parquet(added if added is not None else table.to_arrow(None))),
        }
        if window is not None:
            box = window.box
            arrays |= {"box": np.array([box.x, box.y, box.width, box.height]), "before": window.before}
            arrays["after"] = window.after
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        self.folder.mkdir(exist_ok=True)
        with atomic(self._path(number)) as file:
            file.write(buffer.getbuffer())
        self.refresh()
        return self.entries[number]

    def window(self, number: int) -> Window | None:
        """The pixels of an edit."""
        with np.load(self._path(number), allow_pickle=False) as data:
            if "box" not in data:
                return None
            return Window(Box(*(int(v) for v in data["box"])), data["before"], data["after"])

    def apply(self, entry: Entry, levels: Sequence[zarr.Array[Any]]) -> None:
        """Bring an entry's pixels into every level of the label pyramid; may be repeated."""
        window = self.window(entry.number if entry.kind == "edit" else entry.of)
        if window is not None and levels:
            values = window.before if entry.kind == "undo" else window.after
            write_window(levels, window.box, values, window.before != window.after)
        with atomic(self.folder / _APPLIED, durable=False) as file:
            file.write(str(entry.number + 1).encode())

    def _take(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.kind == "undo":
            self._active.remove(entry.of)
            self._undone.append(entry.of)
        elif entry.kind == "redo":
            self._undone.remove(entry.of)
            self._active.append(entry.of)
        else:
            self._active.append(entry.number)
            self._undone.clear()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def write_window(levels: Sequence[zarr.Array[Any]], box: Box, values: NDArray[np.uint32], where: NDArray[np.bool_]) -> None:
    """Set the pixels ``where`` of a box of the finest level, and what follows in the coarser ones."""
    pixels = np.array(levels[0][box.slices])
    pixels[where] = values[where]
    levels[0][box.slices] = pixels
    for fine, coarse in pairwise(levels):
        # Grown to whole pixels of the coarser level.
        even = Box(box.x // 2 * 2, box.y // 2 * 2, 0, 0).union(Box(-(-box.right // 2) * 2, -(-box.bottom // 2) * 2, 0, 0))
        block = np.asarray(fine[even.intersect(Box(0, 0, fine.shape[1], fine.shape[0])).slices])
        box = Box(even.x // 2, even.y // 2, even.width // 2, even.height // 2)
        coarse[box.slices] = halve(block, "labels")


def recover(result: Path) -> None:
    """Complete the pixels of an edit that a crash interrupted, unless a run writes."""
    if not (result / FOLDER).is_dir():
        return
    journal = Journal(result)
    if journal.applied >= len(journal.entries):
        return
    # A reader of a folder that is in use or read-only shows the journal's table all the same.
    with suppress(ResultError, StorageError, PermissionError):
        lock = Lock(result)
        try:
            with storage_errors(result):
                for entry in journal.entries[journal.applied :]:
                    journal.apply(entry, open_pyramid(result, "labels", mode="r+"))
        finally:
            lock.release()


def _read_entry(path: Path, number: int) -> Entry:
    try:
        with np.load(path, allow_pickle=False) as data:
            meta = json.loads(data["meta"].tobytes())
            removed = frozenset(int(i) for i in data["removed"])
            added = pq.read_table(io.BytesIO(data["rows"].tobytes()))
    except (OSError, ValueError, KeyError) as error:
        raise ResultError(f"The correction {path} is damaged ({error}). Move it away to open the result.") from error
    return Entry(number, removed=removed, added=added, **meta)


def _parquet(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(None), buffer)
    return buffer.getvalue()


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def user() -> str:
    """The name of who is logged in."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
