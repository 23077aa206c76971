"""A dataset in memory that follows its folder: steps forward, steps back, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations import masks
from napari_histoseg.annotations.dataset import PatchDataset
from napari_histoseg.annotations.history import Change, Files, History
from napari_histoseg.annotations.opening import Opened
from napari_histoseg.annotations.places import Places
from napari_histoseg.annotations.shelf import Shelf
from napari_histoseg.results.files import Step, no_step


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change touched: a sentence for people, the ids of patches, and whether the classes changed."""

    sentence: str
    ids: frozenset[str]
    classes: bool


class Work:
    """The dataset as it is on the disk, what its masks hold, and the steps that led here."""

    def __init__(self, shelf: Shelf, opened: Opened, places: Places) -> None:
        self._shelf, self._places = shelf, places
        self._history = History()
        self._painted: dict[str, masks.Painted] = {}
        self._watchers: list[Callable[[Changed], None]] = []
        self.tallies = dict(opened.tallies)
        patches = tuple(places.identify(p) for p in opened.dataset.patches)
        self.dataset = shelf.take(opened.dataset.model_copy(update={"patches": patches}))

    def close(self) -> None:
        """Give the folder free."""
        self._shelf.close()

    def subscribe(self, fn: Callable[[Changed], None]) -> Callable[[], None]:
        """Call ``fn`` after every change; the returned function ends that."""
        self._watchers.append(fn)
        return lambda: self._watchers.remove(fn) if fn in self._watchers else None

    def mask(self, name: str) -> NDArray[np.uint8]:
        """The mask in a file, ``(h, w)``."""
        painted = self._painted.get(name)
        return painted.mask() if painted is not None else masks.load(self._shelf.folder / name)

    def holds(self, name: str, painted: masks.Painted) -> bool:
        """Whether a file holds just that mask."""
        if (there := self._painted.get(name)) is not None:
            return there.png == painted.png
        return np.array_equal(self.mask(name), painted.mask())

    # -- steps -------------------------------------------------------------------------------------

    def change(
        self, sentence: str, files: Files | None = None, copies: Mapping[str, Path] | None = None, step: Step = no_step, **values: Any
    ) -> None:
        """A step to a dataset with other ``values``."""
        self.become(self.dataset.model_copy(update=values), sentence, files, copies, step)

    def become(
        self, dataset: PatchDataset, sentence: str, files: Files | None = None, copies: Mapping[str, Path] | None = None, step: Step = no_step
    ) -> None:
        """A step to a dataset and contents of files, on the disk when it returns.

        ``copies`` are brought into the folder from elsewhere, and stay there when the step is undone. ``step`` hears of each
        file that is written, and may stop it.
        """
        files = files or {}
        if dataset == self.dataset and not files:
            return
        old = {name: self._painted.get(name) or self._shelf.read(name) for name in files}
        change = Change(sentence, self.dataset, dataset, old, files)
        self._apply(dataset, files, copies or {}, step)
        self._history.add(change)
        self._announce(change)

    def settle(self) -> None:
        """Write down where slides are now; no step of its own to undo."""
        self.identify(self._places.settled(self.dataset))

    def identify(self, dataset: PatchDataset) -> None:
        """The same patches, more known about their slides."""
        ids = frozenset(str(p.id) for p, q in zip(dataset.patches, self.dataset.patches, strict=True) if p is not q)
        if ids:
            self._apply(dataset, {})
            self._tell(Changed("slides found", ids, False))

    @property
    def can_undo(self) -> str | None:
        """What `undo` would take back."""
        return self._history.done[-1].sentence if self._history.done else None

    @property
    def can_redo(self) -> str | None:
        """What `redo` would bring back."""
        return self._history.undone[-1].sentence if self._history.undone else None

    def undo(self) -> str | None:
        """Take the last step back; says which, None when there is none."""
        if not self._history.done:
            return None
        change = self._history.done[-1]
        self._apply(change.before, change.old)
        self._history.step_back()
        self._announce(change)
        return f"Undid: {change.sentence}."

    def redo(self) -> str | None:
        """Bring the last undone step back; says which, None when there is none."""
        if not self._history.undone:
            return None
        change = self._history.undone[-1]
        self._apply(change.after, change.new)
        self._history.step_forward()
        self._announce(change)
        return f"Redid: {change.sentence}."

    def _apply(self, dataset: PatchDataset, files: Files, copies: Mapping[str, Path] = MappingProxyType({}), step: Step = no_step) -> None:
        """To the disk first; what is in memory follows only what was written."""
        painted = {name: mask for name, mask in files.items() if mask is not None}
        dataset = self._places.settled(dataset)
        self._shelf.write(dataset, files, copies, step)
        self.dataset = dataset
        # Counts of masks that are gone stay: a thread that draws a picture may still look at them.
        self.tallies |= {name: mask.tally for name, mask in painted.items()}
        self._painted |= painted
        for name in files.keys() - painted.keys():
            self._painted.pop(name, None)

    # -- who is told -------------------------------------------------------------------------------

    def _announce(self, change: Change) -> None:
        before = {p.id: p for p in change.before.patches}
        after = {p.id: p for p in change.after.patches}
        ids = {i for i in before.keys() | after.keys() if before.get(i) is not after.get(i)}
        ids |= {p.id for p in (*before.values(), *after.values()) if p.mask in change.new or p.blocks in change.new}
        self._tell(Changed(change.sentence, frozenset(map(str, ids)), change.before.classes != change.after.classes))

    def _tell(self, changed: Changed) -> None:
        for watcher in tuple(self._watchers):
            watcher(changed)
