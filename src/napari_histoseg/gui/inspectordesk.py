"""What the inspector is about: a result's classes, the objects in them, and which of both are chosen. Its parts show that and change it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_histoseg.errors import HistosegError, SettingsError
from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.qt import Signal

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_histoseg.results import Result
    from napari_histoseg.results.classbook import BookChange, ClassBook
    from napari_histoseg.results.clusters import Clusters
    from napari_histoseg.results.record import ClassRecord
    from napari_histoseg.slide import Slide

log = logging.getLogger(__name__)

SEED = 0
OBJECT_UM, PATCH_UM = 22.0, 128.0
"""What a picture shows is so wide: a nucleus and what lies next to it, or a piece of tissue."""
NO_OBJECTS = "No object is chosen. Click one in the slide, draw around points of the map, or choose pictures in the gallery."
NO_CLASS = "No class is chosen. Click one in the list."


@dataclass(frozen=True)
class Loaded:
    """A result as it is inspected: its objects, or the patches of a map of classes and the areas (mm²) of the values that it is stored with.

    ``clusters`` is None for a map without patches.
    """

    book: ClassBook
    clusters: Clusters | None
    areas: dict[int, float]


def load(result: Result) -> Loaded:
    """Read a result's classes and objects; for a worker thread."""
    from napari_histoseg.results.classbook import ClassBook
    from napari_histoseg.results.classmap import stored_areas
    from napari_histoseg.results.clusters import Clusters

    book = ClassBook(result)
    if not result.has_objects:
        pixel_mm2 = ((result.mpp or np.nan) / 1000) ** 2
        areas = {value: count * pixel_mm2 for value, count in stored_areas(result).items()}
        return Loaded(book, Clusters.of(result) if result.has_patches else None, areas)
    # Read here, so that the book finds them in memory when it is asked on the main thread.
    _ = result.stored_objects
    return Loaded(book, Clusters.of(result), {})


class Desk(QObject):
    """A result under inspection. Main thread only; long work goes to threads and comes back."""

    opened = Signal()
    """There is another result, or none any more."""
    classes_changed = Signal()
    """Names, colors, or the list of classes."""
    objects_changed = Signal()
    """Objects went to other classes."""
    chosen_changed = Signal()
    """Other objects are chosen."""
    gathered = Signal()
    """Objects were chosen by drawing around them."""
    value_changed = Signal()
    """Another class is looked at."""
    fly = Signal(int)
    """Go to the object at a position."""
    message = Signal(str)
    busy_changed = Signal(str)
    """What is under way, in words; empty when nothing is."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.result: Result | None = None
        self.layer: Labels | None = None
        self.slide: Slide | None = None
        self.book: ClassBook | None = None
        self.clusters: Clusters | None = None
        self.areas: dict[int, float] = {}
        self.chosen: NDArray[np.intp] = np.empty(0, np.intp)
        """Positions of the chosen objects, rising."""
        self.value: int | None = None
        """The class that is looked at."""
        self.live = False
        """Learn after each correction."""
        self._end_book: Callable[[], None] = lambda: None
        self.work = Latest("Inspecting classes", self)
        self.work.failed.connect(self.message)
        self.work.busy.connect(self._on_busy)
        self._doing = ""

    # -- which result -------------------------------------------------------------------------------------------------

    def show(self, result: Result, layer: Labels | None, slide: Slide | None) -> None:
        """Inspect a result; it is there when `opened` comes."""
        self.clear()
        self.result, self.layer, self.slide = result, layer, slide
        self._doing = f"Reading the {self.nouns}…"
        self.work.ask(lambda: load(result), self._on_loaded)

    def _on_loaded(self, loaded: Loaded) -> None:
        self.book, self.clusters, self.areas = loaded.book, loaded.clusters, loaded.areas
        self._end_book = self.book.subscribe(self._on_book)
        self.opened.emit()

    def clear(self) -> None:
        """Inspect nothing."""
        self.work.drop()
        self._end_book()
        self._end_book = lambda: None
        was = self.book is not None
        self.result = self.layer = self.slide = self.book = self.clusters = self.value = None
        self.areas = {}
        self.chosen = np.empty(0, np.intp)
        if was:
            self.opened.emit()

    @property
    def is_map(self) -> bool:
        """Whether a map of classes is inspected. What is chosen in it are patches, which belong to the class that is painted there."""
        return self.result is not None and not self.result.has_objects

    @property
    def objects(self) -> Clusters | None:
        """The objects; None for a map of classes."""
        return None if self.is_map else self.clusters

    @property
    def noun(self) -> str:
        """What one of those is called that are chosen and have pictures."""
        return "patch" if self.is_map else "object"

    @property
    def nouns(self) -> str:
        """What several of them are called."""
        return "patches" if self.is_map else "objects"

    @property
    def field_um(self) -> float:
        """What a picture shows is so wide."""
        return PATCH_UM if self.is_map else OBJECT_UM

    @property
    def ids(self) -> NDArray[Any]:
        """Ids of the objects, rising."""
        return np.empty(0, np.uint32) if self.clusters is None else self.clusters.ids

    @property
    def values(self) -> NDArray[np.int32]:
        """The class of each object."""
        return np.empty(0, np.int32) if self.clusters is None else self.clusters.cluster

    @property
    def classes(self) -> list[ClassRecord]:
        """The classes as they are now, without the background."""
        return [] if self.book is None else [c for c in self.book.classes if c.value]

    def class_of(self, value: int) -> ClassRecord | None:
        """The class of a value; None when there is none."""
        return next((c for c in self.classes if c.value == value), None)

    def sizes(self) -> dict[int, float]:
        """Objects of each class, or its area in mm² in a map of classes."""
        if self.is_map or self.clusters is None:
            shown: dict[int, float] = {c.value: 0.0 for c in self.classes}
            known = {} if self.result is None else self.result.class_of
            for value, area in self.areas.items():
                if value in known:
                    shown[known[value].value] = shown.get(known[value].value, 0.0) + area
            return shown
        counted = self.clusters.sizes()
        return {c.value: float(counted.get(c.value, 0)) for c in self.classes}

    def follow(self) -> None:
        """Take in what the result says of its objects now: their classes, and those that were corrected away or added."""
        if self.clusters is None or self.result is None:
            return
        before = self.clusters
        self.clusters = before.follow(self.result)
        if self.clusters.ids is not before.ids:
            self.chosen = np.empty(0, np.intp)
            self.opened.emit()

    def _on_book(self, change: BookChange) -> None:
        self.follow()
        if self.class_of(self.value or 0) is None:
            self.value = None
        if change.classes or change.objects:
            self.classes_changed.emit()
        if change.objects:
            self.objects_changed.emit()

    # -- choosing -----------------------------------------------------------------------------------------------------

    def look_at(self, value: int | None) -> None:
        """Look at a class."""
        if value != self.value:
            self.value = value
            self.value_changed.emit()

    def choose(self, positions: Any, add: bool = False) -> None:
        """Choose objects by their positions, instead of those chosen before or besides them."""
        marked = self.chosen_mask() if add else np.zeros(len(self.ids), bool)
        marked[np.asarray(positions, np.intp)] = True
        wanted = np.flatnonzero(marked)
        if not np.array_equal(wanted, self.chosen):
            self.chosen = wanted
            self.chosen_changed.emit()

    def chosen_mask(self) -> NDArray[np.bool_]:
        """Which of all objects are chosen, (n,)."""
        marked = np.zeros(len(self.ids), bool)
        marked[self.chosen] = True
        return marked

    def toggle(self, position: int) -> None:
        """Choose an object besides the others, or not any more."""
        inside = position in self.chosen
        self.choose(self.chosen[self.chosen != position] if inside else [*self.chosen, position])

    def choose_class(self) -> None:
        """Choose all objects of the class that is looked at."""
        self.choose(np.flatnonzero(self.values == self._value()))

    def position_of(self, number: int) -> int:
        """The position of an object by its id; -1 when it is not there."""
        at = int(np.searchsorted(self.ids, number))
        return at if at < len(self.ids) and int(self.ids[at]) == number else -1

    def _value(self) -> int:
        if self.value is None:
            raise SettingsError(NO_CLASS)
        return self.value

    def _chosen_ids(self) -> list[int]:
        if not len(self.chosen):
            raise SettingsError(NO_OBJECTS)
        return [int(i) for i in self.ids[self.chosen]]

    # -- changing -----------------------------------------------------------------------------------------------------

    def do(self, action: Callable[[], Any]) -> bool:
        """Do something that may be refused; the reason goes out as a message."""
        try:
            action()
        except HistosegError as error:
            log.debug("Refused", exc_info=True)
            self.message.emit(str(error))
            return False
        return True

    def try_(self, action: Callable[[], Any]) -> None:
        """The same for buttons."""
        self.do(action)

    def require(self) -> ClassBook:
        """The classes that can be changed.

        Raises
        ------
        SettingsError
            Nothing is open.
        """
        if self.book is None:
            raise SettingsError("No result is open. Run the method, or open a result.")
        return self.book

    def merge(self, values: Sequence[int]) -> None:
        """Make one class of several; the largest keeps its name and color."""
        if len(values) < 2:
            raise SettingsError("Merging needs two or more classes. Tick them in the list first.")
        sizes = self.sizes()
        kept = self.require().merge(values, into=max(values, key=lambda v: sizes.get(v, 0.0)))
        self.look_at(kept)
        self._say(self.require().can_undo)

    def split(self, parts: int) -> None:
        """Cluster the objects of the class that is looked at anew, or part a map's class along its finer ones, on a thread."""
        book, value = self.require(), self._value()
        finer = self.clusters if self.is_map else None
        now = self.require_objects() if finer is None else finer

        def find() -> Any:
            return now.recluster(value, parts, SEED) if finer is None else finer.divide(value, parts)

        def done(found: Any) -> None:
            if self.do(lambda: book.split(value, found) if finer is None else book.split_values(value, found)):
                self._say(book.can_undo)

        self._start(f"Splitting into {parts}…", find, done)

    def assign(self, to: int | str) -> None:
        """Say of which class the chosen objects are."""
        book = self.require()
        book.assign(self._chosen_ids(), to)
        self._say(book.can_undo)
        if self.live and len(book.corrections()["value"].unique()) > 1:
            self.learn()

    def learn(self) -> None:
        """Learn from all corrections which class every object is of, on a thread."""
        book, now = self.require(), self.require_objects()
        corrections = book.corrections()

        def done(found: Any) -> None:
            values, _ = found
            self.do(lambda: self._take(now.ids, values, f"Learned from {len(corrections):,} corrections"))

        self._start("Learning…", lambda: now.learn(corrections, SEED), done)

    def _take(self, ids: NDArray[Any], values: NDArray[Any], sentence: str) -> None:
        moved = self.require().relabel(ids, values, sentence)
        self._say(f"{sentence}: {moved:,} objects changed their class")

    def undo(self) -> None:
        """Take the last change back and say which it was."""
        self._turn(self.require().undo(), "Undone: {}", "There is nothing to undo.")

    def redo(self) -> None:
        """Bring back what was undone and say what it was."""
        self._turn(self.require().redo(), "Done again: {}", "There is nothing to redo.")

    def _turn(self, sentence: str | None, form: str, nothing: str) -> None:
        self.message.emit(nothing if sentence is None else form.format(lowered(sentence)) + ".")

    def _say(self, sentence: str | None) -> None:
        if sentence:
            self.message.emit(f"{sentence}. Ctrl+Z takes it back.")

    # -- on threads ---------------------------------------------------------------------------------------------------

    def require_objects(self) -> Clusters:
        """The objects with the classes that they have now.

        Raises
        ------
        SettingsError
            There are none.
        """
        if self.objects is None:
            raise SettingsError("A map of classes has no objects. Its classes can be renamed, recolored and merged.")
        return self.objects

    def _start(self, words: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        # Learning again takes the place of learning; nothing else takes the place of anything.
        if self.work.running and self._doing != words:
            raise SettingsError(f"{self._doing.rstrip('…')} is not done yet. Wait a moment and do it again.")
        self._doing = words
        self.work.ask(work, done)

    def _on_busy(self, busy: bool) -> None:
        self.busy_changed.emit(self._doing if busy else "")


def lowered(sentence: str) -> str:
    """A sentence to follow a colon."""
    return sentence[:1].lower() + sentence[1:]
