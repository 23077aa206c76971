"""The patch dataset that the annotated slides of the dock "Tumour" are kept in. No window here."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_histoseg.annotations.areas import burned
from napari_histoseg.annotations.dataset import FILE_NAME, Patch, PatchDataset, parse_dataset, read_mask, refuse
from napari_histoseg.annotations.masks import Painted
from napari_histoseg.annotations.opening import ID, image_size, next_number, with_ids
from napari_histoseg.annotations.shelf import Shelf
from napari_histoseg.gui.tumourentry import NO_TUMOUR, TUMOUR, UNDER_TRAIN, Entry, read_patch
from napari_histoseg.methods.tumour.outlines import tumour_value
from napari_histoseg.results.files import Step, no_step, storage_errors

FOLDER = "tumour slides"
MASK_MPP, MOST_PX, UNKNOWN_PX = 4.0, 8192, 2048
"""µm per pixel of masks; they have no more columns and rows than this, and where the pixel size is unknown, this many."""


def _empty() -> PatchDataset:
    return PatchDataset.model_validate({})


@dataclass(eq=False)
class Keeper:
    """The list of annotated slides, and the one writer of its dataset.

    Lines are changed by the main thread. `save` may be called by any thread, with what `shot` took on the main one.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    folder: Path | None = None
    tumour_class: str = ""
    _shelf: Shelf | None = None
    _dataset: PatchDataset = field(default_factory=_empty)
    _value: int = TUMOUR.value
    _next: int = 1
    _number: int = 0
    _saved: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def shot(self) -> Callable[[Path], None]:
        """Take what is to be written now; the returned function writes it, into a new folder of a home if there is none yet."""
        self._number += 1
        number, kept = self._number, [(each, copy.copy(each)) for each in self.entries.values() if each.listed]
        return lambda home: self._save(number, kept, home)

    def _save(self, number: int, kept: Sequence[tuple[Entry, Entry]], home: Path) -> None:
        with self._lock:
            # A later list may have been written meanwhile, or have had nothing to write.
            if number < self._saved:
                return
            if kept and self._shelf is None:
                self._begin(home)
            if self._shelf is not None:
                self._write(kept)
            self._saved = number

    def _begin(self, home: Path) -> None:
        folder, number = home / FOLDER, 1
        with storage_errors(folder, "choose another folder for results"):
            while folder.exists():
                number += 1
                folder = home / f"{FOLDER} {number}"
            folder.mkdir(parents=True)
        self._shelf, self.folder = Shelf(folder), folder
        fresh = PatchDataset.model_validate({"mpp": MASK_MPP, "classes": [NO_TUMOUR, TUMOUR], "folder": folder})
        self._dataset, self._value, self._next = self._shelf.take(fresh), TUMOUR.value, 1

    def _write(self, kept: Sequence[tuple[Entry, Entry]]) -> None:
        assert self._shelf is not None and self.folder is not None
        files: dict[str, Painted | None] = {}
        patches = []
        for _, shot in kept:
            patch = self._patch(shot, files)
            patches.append(patch)
        listed = {patch.mask for patch in patches}
        for old in self._dataset.patches:
            if old.mask is not None and old.mask not in listed and old.mask == f"masks/{old.id}.png":
                files[old.mask] = None
        dataset = self._with_classes().model_copy(update={"patches": tuple(patches)})
        self._shelf.write(dataset, files)
        self._dataset = dataset
        for (entry, shot), patch in zip(kept, patches, strict=True):
            entry.patch, entry.written = patch, shot.version

    def _with_classes(self) -> PatchDataset:
        """With a class for slides without tumour, and one for tumour."""
        classes = list(self._dataset.classes)
        if all(c.value != NO_TUMOUR.value for c in classes):
            classes.insert(0, NO_TUMOUR)
        if all(c.value != self._value for c in classes):
            classes.append(TUMOUR)
        return self._dataset.model_copy(update={"classes": tuple(classes)})

    def _patch(self, entry: Entry, files: dict[str, Painted | None]) -> Patch:
        assert self.folder is not None
        before = entry.patch
        data = {} if before is None else before.model_dump(exclude_none=True)
        if before is None:
            box = entry.box
            place = (box.x, box.y, box.width, box.height)
            data = {"id": ID.format(self._next), "slide": _stored(str(entry.known.path), self.folder), "box": place, "slide_fingerprint": entry.known.fingerprint}
            self._next += 1
        if "slide" in data and entry.known.mpp is not None:
            data["slide_mpp"] = entry.known.mpp
        split = before.split if before is not None and before.split != "test" else None
        data |= {"group": entry.patient or entry.default_patient, "split": split if entry.chosen else "test", "grade": _number(entry.grade)}
        if before is None or entry.version != entry.written:
            self._annotate(entry, data, files)
        return Patch.model_validate({k: v for k, v in data.items() if v is not None})

    def _annotate(self, entry: Entry, data: dict[str, Any], files: dict[str, Painted | None]) -> None:
        """Write an outline as a mask; of a slide without tumour the name of the class."""
        old = data.pop("mask", None)
        data.pop("label", None)
        if entry.area is None:
            return
        if entry.area.is_empty and entry.rest is None:
            data["label"] = next(c.name for c in self._with_classes().classes if c.value == NO_TUMOUR.value)
            return
        shape = entry.rest.shape if entry.rest is not None else self._shape(entry, old)
        mask = np.zeros(shape, np.uint8) if entry.rest is None else entry.rest.copy()
        mask[burned(entry.area, entry.box, (shape[0], shape[1]))] = self._value
        # Masks that other programs wrote stay as they are.
        data["mask"] = f"masks/{data['id']}.png"
        files[data["mask"]] = Painted.of(mask)

    def _shape(self, entry: Entry, old: str | None) -> tuple[int, ...]:
        if old is not None and self.folder is not None and (self.folder / old).is_file():
            size = image_size(self.folder / old)
            return read_mask(self.folder / old).shape if size is None else size[::-1]
        longest = max(entry.box.width, entry.box.height)
        px = UNKNOWN_PX if entry.known.mpp is None else min(round(longest * entry.known.mpp / MASK_MPP), MOST_PX)
        factor = min(1.0, max(px, 1) / longest)
        return max(1, round(entry.box.height * factor)), max(1, round(entry.box.width * factor))

    # -- opening and closing ------------------------------------------------------------------------------------------

    def read(self, folder: Path, step: Step = no_step) -> Callable[[], None]:
        """Read a dataset, on a thread. The returned function, for the main thread, puts it in place of the list that was there.

        Raises
        ------
        DatasetError
            It is no dataset, is open elsewhere, or names every problem that keeps it from being changed.
        """
        folder = folder.parent if folder.name == FILE_NAME else folder
        with self._lock:
            held = self._shelf if self.folder is not None and folder.resolve() == self.folder.resolve() else None
        shelf = held or Shelf(folder)
        try:
            dataset, problems = parse_dataset(folder)
            refuse(folder / FILE_NAME, problems)
            value = tumour_value(dataset, self.tumour_class, UNDER_TRAIN)
            dataset = shelf.take(with_ids(dataset))
            read = []
            for number, patch in enumerate(dataset.patches):
                step(number, len(dataset.patches))
                read.append(read_patch(dataset, patch, value))
        except BaseException:
            if held is None:
                shelf.close()
            raise

        def place() -> None:
            with self._lock:
                if self._shelf is not None and self._shelf is not shelf:
                    self._shelf.close()
                self._shelf, self.folder, self._dataset, self._value = shelf, folder, dataset, value
                self._next = next_number(dataset, folder)
                self._number += 1
                self._saved = self._number
                self.entries = {each.key: each for each in read}

        return place

    def forget(self) -> None:
        """Begin another list; what was written stays."""
        with self._lock:
            if self._shelf is not None:
                self._shelf.close()
            self._shelf, self.folder, self._dataset = None, None, _empty()
            self._number += 1
            self._saved = self._number
            self.entries = {}


def _stored(path: str, folder: Path) -> str:
    """How a path is written down: relative inside the dataset's folder, absolute elsewhere."""
    whole, home = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)


def _number(text: str) -> int | str | None:
    """A grade as it is written down: a number where it is one."""
    return int(text) if text.isdecimal() else text or None
