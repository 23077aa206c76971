"""`ClassBook`: a person names, colors, merges and splits the classes of a result, and corrects single objects.

What the run wrote never changes. Every change is one step in ``classes.json``, with the objects that it moved in ``classes/*.parquet``; the
step is on the disk when the call returns, appears whole or not at all, and can be undone, also after the result was opened again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import ResultError, SettingsError
from napari_histoseg.objects.colors import next_color
from napari_histoseg.results.classes import FILE, FOLDER, Book, ClassState, Moves, Page
from napari_histoseg.results.drafts import (
    Assignment,
    Draft,
    check_parts,
    checked_name,
    find,
    free_name,
    listed,
    named,
    objects_in_words,
    pairs,
    with_changes,
)
from napari_histoseg.results.files import atomic, storage_errors
from napari_histoseg.results.journal import user
from napari_histoseg.results.lock import Lock
from napari_histoseg.results.record import ClassRecord, now
from napari_histoseg.results.result import Result

MAX_STEPS = 100
"""Steps that can be undone; older ones stay in force."""
MAX_ROWS = 4_000_000
"""Moved objects that steps to undo hold together, at most."""

@dataclass(frozen=True, slots=True)
class BookChange:
    """What a change touched: a sentence for people, whether names, colors or the list changed, whether objects went elsewhere."""

    sentence: str
    classes: bool
    objects: bool


Watcher = Callable[[BookChange], None]


class ClassBook:
    """The classes of a result as a person wants them.

    Works for objects (whose table has a column ``cluster``, or whose column ``class`` names classes of the record) and for class maps, whose
    pixels are class values; those have names, colors, merges, and splits along finer values. `Result.classes`, its tables and exports follow at once.

    Raises
    ------
    ResultError
        The result has no classes, or its book is damaged.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        self._reader = result.class_reader
        self._watchers: list[Watcher] = []
        if not self._state.classes:
            raise ResultError(f"{result.path} has no classes to name. Give a result whose run record lists classes.")

    # -- what is there ------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> ClassState:
        return self._reader.state

    @property
    def _book(self) -> Book:
        found = self._reader.book
        if found is not None:
            return found
        first = self._reader.first
        return Book(base=first, next_value=1 + max((c.value for c in first.classes), default=0))

    @property
    def classes(self) -> list[ClassRecord]:
        """The classes that are shown, without those that were merged away."""
        return list(self._state.classes)

    @property
    def can_undo(self) -> str | None:
        """The sentence of the change that `undo` takes back; None when there is none."""
        book = self._book
        return book.steps[book.done - 1].sentence if book.done else None

    @property
    def can_redo(self) -> str | None:
        """The sentence of the change that `redo` brings back; None when there is none."""
        book = self._book
        return book.steps[book.done].sentence if book.done < len(book.steps) else None

    def find(self, value: int) -> ClassRecord:
        """The class of a value.

        Raises
        ------
        SettingsError
            No class that is shown has it.
        """
        return find(self._state, value)

    def value_of(self, clusters: ArrayLike, ids: ArrayLike) -> NDArray[np.int32]:
        """The shown class's value of objects, from the clusters ``(n,)`` that the run gave them and their ids ``(n,)``; 0 for none."""
        return self._state.values_of(np.asarray(clusters, np.int64), np.asarray(ids, np.uint32))

    def corrections(self) -> pd.DataFrame:
        """Columns ``id`` and ``value``: what `assign` said, as far as it is in force."""
        moves, state = self._state.moves, self._state
        marked = moves.corrected
        return pd.DataFrame({"id": moves.ids[marked], "value": state.shown(moves.values[marked])})

    def subscribe(self, fn: Watcher) -> Callable[[], None]:
        """Call ``fn(change)`` after every change made through this object; the returned function ends that."""
        self._watchers.append(fn)
        return lambda: self._watchers.remove(fn) if fn in self._watchers else None

    # -- classes ------------------------------------------------------------------------------------------------------

    def rename(self, value: int, name: str) -> None:
        """Give a class another name.

        Raises
        ------
        SettingsError
            The name is empty, or another class has it.
        """

        def make(state: ClassState, book: Book) -> Draft | None:
            """The step, from the classes as they stand."""
            old = find(state, value)
            wanted = checked_name(state, name, but=old)
            if wanted == old.name:
                return None
            return Draft(f"Renamed {old.name} to {wanted}", with_changes(state, old, name=wanted))

        self._commit(make)

    def recolor(self, value: int, color: str) -> None:
        """Give a class another color, ``#rrggbb``."""

        def make(state: ClassState, book: Book) -> Draft | None:
            """The step, from the classes as they stand."""
            old = find(state, value)
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
                raise SettingsError(f"A color is written '#rrggbb', for example '#3cb44b'. Got {color!r} instead.")
            if color.lower() == old.color.lower():
                return None
            return Draft(f"Recolored {old.name}", with_changes(state, old, color=color.lower()))

        self._commit(make)

    def merge(self, values: Iterable[int], into: int | None = None) -> int:
        """Make one class of several.

        Parameters
        ----------
        values : iterable of int
            The classes.
        into : int, optional
            The one whose value, name and color stay; the first of ``values`` when not given.

        Returns
        -------
        int
            The value that stays.
        """
        wanted = [int(v) for v in dict.fromkeys(values)]
        if into is not None and int(into) not in wanted:
            wanted.append(int(into))
        if len(wanted) < 2:
            raise SettingsError(f"Merging needs at least two classes. Got {len(wanted)} instead.")
        target = wanted[0] if into is None else int(into)
        if 0 in wanted and target != 0:
            raise SettingsError("The background (0) cannot become part of another class, because where nothing was computed is background, too.")

        def make(state: ClassState, book: Book) -> Draft:
            """The step, from the classes as they stand."""
            kept = find(state, target)
            gone = [find(state, v) for v in wanted if v != target]
            values = {c.value for c in gone}
            merged = {old: target if new in values else new for old, new in state.merged.items()}
            merged |= dict.fromkeys(values, target)
            classes = [c for c in state.classes if c.value not in values]
            return Draft(f"Merged {listed([c.name for c in gone])} into {kept.name}", classes, merged)

        self._commit(make)
        return target

    def stored_values(self, value: int) -> list[int]:
        """The values that the pixels (or clusters) of a class are stored with, rising: its own, finer ones, and those of merged classes.

        Raises
        ------
        SettingsError
            No class that is shown has the value.
        """
        self.find(value)
        return self._state.stored_values(value)

    def split_values(self, value: int, parts: Sequence[Collection[int]]) -> list[int]:
        """Make several classes of one class of a map, along the values that its pixels are stored with.

        Parameters
        ----------
        value : int
            The class.
        parts : sequence of collections of int
            Its `stored_values`, each in one part. `Clusters.divide` makes them.

        Returns
        -------
        list of int
            The values of the classes in the order of the parts. The part with the class's own value keeps value, name and color; another
            part gets its smallest stored value.

        Raises
        ------
        SettingsError
            The class has no finer classes, the parts are not the stored values, or the result has objects.
        """
        wanted = [sorted({int(v) for v in part}) for part in parts]
        values = [value if value in part else min(part, default=0) for part in wanted]

        def make(state: ClassState, book: Book) -> Draft:
            """The step, from the classes as they stand."""
            old = find(state, value)
            if self.result.has_objects:
                raise SettingsError(f"{self.result.path} has objects; its classes are split by objects, not by stored values.")
            check_parts(old, state.stored_values(value), wanted)
            classes, merged = list(state.classes), dict(state.merged)
            for new, part in zip(values, wanted, strict=True):
                merged |= {stored: new for stored in part if stored != new}
                merged.pop(new, None)
                if new != value:
                    classes.append(ClassRecord(value=new, name=free_name(classes, old.name, 2), color=next_color([c.color for c in classes])))
            return Draft(f"Split {old.name} into {len(wanted)}", classes, merged)

        self._commit(make)
        return values

    # -- objects ------------------------------------------------------------------------------------------------------

    def split(self, value: int, assignment: Assignment) -> list[int]:
        """Make several classes of one.

        Parameters
        ----------
        value : int
            The class.
        assignment : mapping or Series
            The part (0 to k - 1) of each of its objects by id; those that are not named stay. `Clusters.recluster` makes one.

        Returns
        -------
        list of int
            The k values in the order of the parts. The largest part keeps the class's value, name and color.

        Raises
        ------
        SettingsError
            Fewer than two parts have objects, or an object is not of the class.
        """
        ids, parts = pairs(assignment)
        counts = np.bincount(parts) if len(parts) and parts.min() >= 0 else np.empty(0, int)
        if len(counts) < 2 or not counts.all():
            raise SettingsError(f"Splitting needs two or more parts, numbered from 0, none of them empty. Got parts of {counts.tolist()} objects.")
        largest = int(np.argmax(counts))
        values: list[int] = []

        def make(state: ClassState, book: Book) -> Draft:
            """The step, from the classes as they stand."""
            old = find(state, value)
            now_values = self._members(state, ids)
            if wrong := ids[now_values != value][:5].tolist():
                raise SettingsError(f"Objects {', '.join(map(str, wrong))} are not of the class {old.name}, so they cannot be split off from it.")
            values[:] = list(range(book.next_value, book.next_value + len(counts) - 1))
            values.insert(largest, value)
            classes = list(state.classes)
            for number, new in enumerate((v for v in values if v != value), 2):
                classes.append(ClassRecord(value=new, name=free_name(classes, old.name, number), color=next_color([c.color for c in classes])))
            moved = parts != largest
            moves = Moves(ids[moved], np.array(values, np.int32)[parts[moved]], state.corrected(ids[moved]))
            return Draft(f"Split {old.name} into {len(counts)}", classes, moves=moves)

        self._commit(make)
        return values

    def assign(self, ids: int | Iterable[int], to: int | str) -> int:
        """A person says what objects are; it is remembered as corrected and outlasts `relabel`.

        Parameters
        ----------
        ids : int or iterable of int
            The objects.
        to : int or str
            A class's value or name; a name that no class has makes a new class.

        Returns
        -------
        int
            The class's value.
        """
        wanted = np.unique(np.atleast_1d(np.asarray(ids if isinstance(ids, (int, np.integer)) else list(ids), np.int64)))
        if not len(wanted):
            raise SettingsError("No object was given. Choose at least one.")
        made: list[int] = []

        def make(state: ClassState, book: Book) -> Draft:
            """The step, from the classes as they stand."""
            self._check_known(wanted)
            classes = list(state.classes)
            target = named(state, to)
            if target is None:
                name = checked_name(state, str(to))
                target = ClassRecord(value=book.next_value, name=name, color=next_color([c.color for c in classes]))
                classes.append(target)
            made[:] = [target.value]
            count = len(wanted)
            moves = Moves(wanted.astype(np.uint32), np.full(count, target.value, np.int32), np.ones(count, bool))
            return Draft(f"{objects_in_words(count)} to {target.name}", classes, moves=moves)

        self._commit(make)
        return made[0]

    def relabel(self, ids: ArrayLike, values: ArrayLike, sentence: str) -> int:
        """Give many objects classes at once, as a classifier found them; objects that a person corrected keep theirs.

        Parameters
        ----------
        ids, values : (n,) array
            Objects, and the values of classes that are shown.
        sentence : str
            What was done, for undo.

        Returns
        -------
        int
            How many objects went to another class; none leaves no step behind.
        """
        given, wanted = np.asarray(ids, np.uint32).ravel(), np.asarray(values, np.int32).ravel()
        if given.shape != wanted.shape:
            raise SettingsError(f"Every object needs one value. Got {len(given)} objects and {len(wanted)} values.")
        moved: list[int] = [0]

        def make(state: ClassState, book: Book) -> Draft | None:
            """The step, from the classes as they stand."""
            for value in np.unique(wanted).tolist():
                find(state, value)
            unique, first = np.unique(given, return_index=True)
            target = wanted[first]
            changed = (self._members(state, unique) != target) & ~state.corrected(unique)
            moved[0] = int(changed.sum())
            if not moved[0]:
                return None
            moves = Moves(unique[changed], target[changed], np.zeros(moved[0], bool))
            return Draft(sentence, list(state.classes), moves=moves)

        self._commit(make)
        return moved[0]

    # -- steps --------------------------------------------------------------------------------------------------------

    def undo(self) -> str | None:
        """Take the last change back; returns its sentence, None when there is none."""
        return self._turn(-1)

    def redo(self) -> str | None:
        """Bring back the change that was undone last; returns its sentence, None when there is none."""
        return self._turn(1)

    def _turn(self, by: int) -> str | None:
        with self._writing():
            book, before = self._book, self._state
            at = book.done if by > 0 else book.done - 1
            if not 0 <= at < len(book.steps):
                return None
            self._write(book.model_copy(update={"done": book.done + by}))
        self._tell(book.steps[at].sentence, before)
        return book.steps[at].sentence

    def _commit(self, make: Callable[[ClassState, Book], Draft | None]) -> None:
        with self._writing():
            book, before = self._book, self._state
            draft = make(before, book)
            if draft is None:
                return
            merged = dict(before.merged) if draft.merged is None else draft.merged
            name = None
            number = book.next_file
            if draft.moves is not None:
                name, number = self._store(draft.moves, number), number + 1
            page = Page(sentence=draft.sentence, who=user(), when=now(), classes=draft.classes, merged=merged, objects=name)
            steps = [*book.steps[: book.done], page]
            next_value = max([book.next_value, *(c.value + 1 for c in draft.classes)])
            new = book.model_copy(update={"steps": steps, "done": len(steps), "next_file": number, "next_value": next_value})
            self._write(self._shortened(new))
        self._tell(draft.sentence, before)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with storage_errors(self.result.path, remedy="do it again"):
            lock = Lock(self.result.path)
            try:
                yield
            finally:
                lock.release()

    def _store(self, moves: Moves, number: int) -> str:
        """Write moves under a name that no page of the book has; they count from when the book names it."""
        name = f"{number:06d}.parquet"
        folder = self.result.path / FOLDER
        folder.mkdir(exist_ok=True)
        order = np.argsort(moves.ids, kind="stable")
        moves = Moves(moves.ids[order], moves.values[order], moves.corrected[order])
        buffer = io.BytesIO()
        moves.write(buffer)
        with atomic(folder / name) as file:
            file.write(buffer.getbuffer())
        self._reader.remember(name, moves)
        return name

    def _write(self, book: Book) -> None:
        with atomic(self.result.path / FILE) as file:
            file.write(book.model_dump_json(indent=1).encode())
        named = {page.objects for page in (book.base, *book.steps)}
        for path in (self.result.path / FOLDER).glob("*.parquet"):
            if path.name not in named:
                # A file that another program holds open goes the next time.
                with suppress(OSError):
                    path.unlink()

    def _shortened(self, book: Book) -> Book:
        """The book with the oldest steps made its beginning, when there are too many to keep them all."""
        rows = [0 if page.objects is None else len(self._reader.moves(page.objects)) for page in book.steps]
        drop = max(len(book.steps) - MAX_STEPS, 0)
        while drop < len(rows) - 1 and sum(rows[drop:]) > MAX_ROWS:
            drop += 1
        if not drop:
            return book
        moves = Moves()
        for page in (book.base, *book.steps[:drop]):
            if page.objects is not None:
                moves = moves.then(self._reader.moves(page.objects))
        number = book.next_file
        name = self._store(moves, number) if len(moves) else None
        base = book.steps[drop - 1].model_copy(update={"objects": name})
        changes = {"base": base, "steps": book.steps[drop:], "done": book.done - drop, "next_file": number + 1}
        return book.model_copy(update=changes)

    def _tell(self, sentence: str, before: ClassState) -> None:
        after = self._state
        moved = after.moves is not before.moves or after.merged != before.merged
        change = BookChange(sentence, classes=after.classes != before.classes, objects=moved)
        for fn in list(self._watchers):
            fn(change)

    # -- objects of the table -----------------------------------------------------------------------------------------

    def _members(self, state: ClassState, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        """The shown values of objects by id."""
        objects = self._check_known(ids)
        return state.values_of_frame(objects)

    def _check_known(self, ids: NDArray[np.integer]) -> pd.DataFrame:
        """The stored rows of objects, in the order of the ids."""
        if not self.result.has_objects:
            raise SettingsError(f"{self.result.path} is a map of classes and has no objects. Rename, recolor or merge its classes.")
        rows = self.result.stored_objects
        known = rows["id"].to_numpy()
        at = np.searchsorted(known, ids)
        inside = at < len(known)
        missing = np.ones(len(ids), bool)
        missing[inside] = known[at[inside]] != np.asarray(ids)[inside]
        if missing.any():
            named = ", ".join(map(str, np.asarray(ids)[missing][:5].tolist()))
            raise SettingsError(f"The result has no object {named}. Give ids of its table.")
        keys = [name for name in ("id", "class", "cluster") if name in rows.columns]
        return rows[keys].iloc[at]
