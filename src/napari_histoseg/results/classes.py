"""The classes of a result as they are shown: names, colors, merges and moved objects, laid over what the run wrote.

`ClassBook` (see `results.classbook`) writes them to ``classes.json`` and ``classes/*.parquet`` beside the run's own files, which never
change; everything that reads a result reads them here. A result without a book shows the classes of its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_histoseg.errors import ResultError
from napari_histoseg.results.record import ClassRecord, RunRecord

FILE = "classes.json"
FOLDER = "classes"
FORMAT = 1
CLUSTER, CORRECTED, EMBEDDING = "cluster", "corrected", "embedding_"
"""Columns of an object table: the class's value; whether a person gave it; numbers that place the object among others."""

NOT_FINER = "{} has no finer classes, so it cannot be split. Split another class, or run again with more classes."


def embedding_columns(names: Sequence[str]) -> list[str]:
    """The columns that hold an embedding, in its order."""
    return sorted(name for name in names if name.startswith(EMBEDDING))


@dataclass(frozen=True, eq=False)
class Moves:
    """Objects that have another class than the table says: ids rising, their values, and whether a person said so."""

    ids: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    values: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    corrected: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.ids)

    def then(self, later: Moves) -> Moves:
        """Both, where the later ones win."""
        if not len(self) or not len(later):
            return later if len(later) else self
        kept = ~np.isin(self.ids, later.ids)
        ids = np.concatenate([self.ids[kept], later.ids])
        order = np.argsort(ids, kind="stable")
        values = np.concatenate([self.values[kept], later.values])
        corrected = np.concatenate([self.corrected[kept], later.corrected])
        return Moves(ids[order], values[order], corrected[order])

    def where(self, ids: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Which of the ids are moved, and at which place here (the places of those only)."""
        if not len(self):
            return np.zeros(len(ids), bool), np.empty(0, np.intp)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        found = self.ids[at] == ids
        return found, at[found]

    def write(self, file: object) -> None:
        """Write them as Parquet."""
        rows = pa.table({"id": self.ids, "value": self.values, "corrected": self.corrected})
        pq.write_table(rows, file, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Moves:
        """Read what `write` wrote."""
        rows = pq.read_table(path)
        ids, values = rows["id"].to_numpy(), rows["value"].to_numpy()
        return cls(ids.astype(np.uint32), values.astype(np.int32), rows["corrected"].to_numpy().astype(bool))


NO_MOVES = Moves()


class Page(BaseModel):
    """How the classes stand after a step.

    ``merged`` maps values that are no class any more to the class that their objects went to; ``objects`` names a file of `Moves` in
    ``classes/``, which go on top of those before.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sentence: str = ""
    who: str = ""
    when: str = ""
    classes: list[ClassRecord]
    merged: dict[int, int] = Field(default_factory=dict)
    objects: str | None = None


class Book(BaseModel):
    """``classes.json``: the classes at first, every step since, and how many of the steps are in force."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    base: Page
    steps: list[Page] = Field(default_factory=list)
    done: int = 0
    next_file: int = 0
    next_value: int = 1

    @property
    def pages(self) -> list[Page]:
        """What is in force, oldest first; never empty."""
        return [self.base, *self.steps[: self.done]]


@dataclass(frozen=True, eq=False)
class ClassState:
    """The classes that are shown, and what each stored value and each object is shown as.

    ``names`` are the values by every name that a class has or had; ``plain`` says that the table is shown as it is stored.
    """

    classes: tuple[ClassRecord, ...]
    merged: Mapping[int, int]
    moves: Moves
    names: Mapping[str, int]
    plain: bool = True

    @cached_property
    def by_value(self) -> dict[int, ClassRecord]:
        """The class that each stored value is shown as, merged ones included."""
        known = {each.value: each for each in self.classes}
        merged = {old: known[new] for old, new in self.merged.items() if new in known}
        return dict(sorted((known | merged).items()))

    @cached_property
    def _lookup(self) -> NDArray[np.int32]:
        lookup = np.zeros(max(self.by_value, default=0) + 2, np.int32)
        for value, each in self.by_value.items():
            lookup[value] = each.value
        return lookup

    @cached_property
    def _class_names(self) -> NDArray[np.object_]:
        names = np.full(len(self._lookup), None, object)
        for value, each in self.by_value.items():
            names[value] = each.name
        return names

    def shown(self, values: NDArray[np.integer]) -> NDArray[np.int32]:
        """Stored values as they are shown; 0 for values that no class has."""
        last = len(self._lookup) - 1
        clean = np.where((values < 0) | (values > last), last, values)
        return self._lookup[clean]

    @property
    def stored_classes(self) -> list[ClassRecord]:
        """Every stored value with the name and color that it is shown with; without those that are shown as background."""
        return [shown.model_copy(update={"value": value}) for value, shown in self.by_value.items() if shown.value or not value]

    @cached_property
    def renumbers(self) -> bool:
        """Whether any stored value is shown as another one."""
        return any(value != each.value for value, each in self.by_value.items())

    @cached_property
    def _pixels(self) -> NDArray[np.uint32]:
        """What each stored value of pixels becomes."""
        table = np.arange(max(self.by_value, default=0) + 1, dtype=np.uint32)
        for value, each in self.by_value.items():
            table[value] = each.value
        return table

    def shown_pixels(self, stored: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The pixels of a class map with the values of the classes that they are shown as; values that no class has stay."""
        if not self.renumbers:
            return stored
        table = self._pixels
        return np.where(stored < len(table), table[np.minimum(stored, len(table) - 1)], stored)

    def stored_values(self, value: int) -> list[int]:
        """The stored values that are shown as a class, rising."""
        return [stored for stored, each in self.by_value.items() if each.value == value]

    def names_of(self, values: NDArray[np.integer]) -> NDArray[np.object_]:
        """Names of the classes that are shown, by their values (n,); None for values that no class has."""
        names: NDArray[np.object_] = self._class_names[values]
        return names

    def values_of(self, clusters: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """The classes' values of objects, from what the table has for them."""
        values = self.shown(clusters)
        found, at = self.moves.where(ids.astype(np.uint32, copy=False))
        if len(at):
            values[found] = self.shown(self.moves.values[at])
        return values

    def values_of_frame(self, objects: pd.DataFrame) -> NDArray[np.int32]:
        """The classes' values of the rows of a stored table; those without a cluster by their class's name."""
        if CLUSTER in objects.columns:
            clusters = objects[CLUSTER].fillna(0).to_numpy(np.int64)
        else:
            clusters = np.zeros(len(objects), np.int64)
        unknown = clusters == 0
        if unknown.any() and "class" in objects.columns:
            named = objects["class"].to_numpy(object)[unknown]
            codes, texts = pd.factorize(named)
            clusters[unknown] = np.array([*(self.names.get(str(text), 0) for text in texts), 0], np.int64)[codes]
        return self.values_of(clusters, objects["id"].to_numpy())

    def corrected(self, ids: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which objects a person gave their class."""
        marked = np.zeros(len(ids), bool)
        found, at = self.moves.where(ids.astype(np.uint32, copy=False))
        marked[found] = self.moves.corrected[at]
        return marked

    @property
    def has_corrections(self) -> bool:
        """Whether a person gave any object its class."""
        return bool(self.moves.corrected.any())

    def over(self, objects: pd.DataFrame) -> pd.DataFrame:
        """A stored table as it is shown: columns ``class`` and ``cluster`` set, ``corrected`` where there are any."""
        # Objects that a person drew or cut have a class's name, but no cluster.
        if self.plain and not (CLUSTER in objects.columns and objects[CLUSTER].hasnans):
            return objects
        values = self.values_of_frame(objects)
        names = self.names_of(values)
        # What no class is known for keeps the word that the table has.
        names = np.where(values > 0, names, objects["class"].to_numpy(object))
        laid = objects.assign(**{"class": names})
        if CLUSTER in objects.columns:
            laid[CLUSTER] = values
        if self.has_corrections:
            laid[CORRECTED] = self.corrected(objects["id"].to_numpy())
        return laid

    def over_patches(self, patches: pd.DataFrame) -> pd.DataFrame:
        """A table of patches with the names of the classes that are shown; ``cluster`` stays as it is stored."""
        if CLUSTER not in patches.columns:
            return patches
        names = self.names_of(self.shown(patches[CLUSTER].to_numpy(np.int64)))
        return patches.assign(**{"class": np.where(pd.isna(names), patches["class"].to_numpy(object), names)})

    def over_table(self, rows: pa.Table, schema: pa.Schema) -> pa.Table:
        """The same for an Arrow table, in the shown table's schema."""
        if self.plain and not (CLUSTER in rows.column_names and rows[CLUSTER].null_count):
            return rows
        keys = [name for name in ("id", "class", CLUSTER) if name in rows.column_names]
        laid = self.over(rows.select(keys).to_pandas())
        columns = []
        for entry in schema:
            if entry.name in ("class", CLUSTER, CORRECTED) and entry.name in laid.columns:
                columns.append(pa.chunked_array([pa.array(laid[entry.name], entry.type, from_pandas=True)]))
            else:
                columns.append(rows[entry.name])
        return pa.Table.from_arrays(columns, schema=schema)

    def over_schema(self, schema: pa.Schema) -> pa.Schema:
        """The shown table's schema: the stored one's, and ``corrected`` where there are any."""
        if self.plain or not self.has_corrections or CORRECTED in schema.names:
            return schema
        return schema.append(pa.field(CORRECTED, pa.bool_()))


class BookReader:
    """Reads a result's book, and again when another one wrote it since."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.first = Page(classes=list(record.classes), merged=record.merged)
        self._seen: tuple[int, ...] | None = None
        self._book: Book | None = None
        self._state = self._at_first()
        self._files: dict[str, Moves] = {}
        self._folded: tuple[tuple[str, ...], Moves] = ((), NO_MOVES)

    @property
    def book(self) -> Book | None:
        """The book on the disk; None without one."""
        self._look()
        return self._book

    @property
    def state(self) -> ClassState:
        """How the classes are shown; another object whenever that changed."""
        self._look()
        return self._state

    def moves(self, name: str) -> Moves:
        """What a file of ``classes/`` holds."""
        if name not in self._files:
            self._files[name] = Moves.read(self.folder / FOLDER / name)
        return self._files[name]

    def remember(self, name: str, moves: Moves) -> None:
        """What is about to be written under that name, so that it is not read again."""
        self._files[name] = moves

    def _look(self) -> None:
        for _ in range(3):
            seen = _signature(self.folder / FILE)
            if seen == self._seen:
                return
            try:
                self._take(self._read() if seen is not None else None)
            except FileNotFoundError:
                # Another process tidied up between the reading of the book and that of its files: it wrote a newer one.
                if _signature(self.folder / FILE) != seen:
                    continue
                raise ResultError(_damaged(self.folder, "files that it names are gone")) from None
            self._seen = seen
            return

    def _read(self) -> Book:
        try:
            data = json.loads((self.folder / FILE).read_text(encoding="utf-8"))
            if isinstance(data, dict) and data.get("format") != FORMAT:
                raise ResultError(
                    f"{self.folder / FILE} is in format {data.get('format')}; this version reads format {FORMAT}. Open it with the version "
                    "that wrote it, or move it away to see the classes as the run made them."
                )
            return Book.model_validate(data)
        except FileNotFoundError:
            raise
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ResultError(_damaged(self.folder, problems)) from error
        except (OSError, ValueError) as error:
            raise ResultError(_damaged(self.folder, str(error))) from error

    def _take(self, book: Book | None) -> None:
        if book is None:
            # A book that begins anew names its files anew.
            self._files, self._folded = {}, ((), NO_MOVES)
            self._book, self._state = None, self._at_first()
            return
        files = tuple(page.objects for page in book.pages if page.objects is not None)
        known, moves = self._folded
        if files[: len(known)] != known:
            known, moves = (), NO_MOVES
        try:
            for name in files[len(known) :]:
                moves = moves.then(self.moves(name))
        except (pa.ArrowInvalid, KeyError) as error:
            raise ResultError(_damaged(self.folder, str(error))) from error
        self._folded = (files, moves)
        named = {page.objects for page in (book.base, *book.steps)}
        self._files = {name: held for name, held in self._files.items() if name in named}
        plain = book.base == self.first and not book.done and not self.first.merged
        self._book, self._state = book, _state(book, moves, plain)

    def _at_first(self) -> ClassState:
        """The classes as the run made them."""
        return _state(Book(base=self.first), NO_MOVES, plain=not self.first.merged)


def _state(book: Book, moves: Moves, plain: bool) -> ClassState:
    # The names of today first: one that went from one class to another means the one that has it.
    pages = [*reversed(book.pages), *reversed(book.steps[book.done :])]
    names: dict[str, int] = {}
    for page in pages:
        for each in page.classes:
            names.setdefault(each.name, each.value)
    page = book.pages[-1]
    return ClassState(tuple(page.classes), dict(page.merged), moves, names, plain)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _damaged(folder: Path, why: str) -> str:
    return f"The classes in {folder / FILE} cannot be read ({why}). Move the file away to see the classes as the run made them."
