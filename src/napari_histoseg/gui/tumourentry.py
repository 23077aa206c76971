"""An annotated slide of the dock "Tumour": what is known of it, what is wrong with it, and how outlines are read. No window here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import Area, burned
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchClass, PatchDataset, read_mask
from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.lessons import Known
from napari_histoseg.gui.tumouroutline import area_of, count_and_size
from napari_histoseg.methods.tumour.outlines import is_drawn, mask_of, outline_beside, tumour_area
from napari_histoseg.methods.tumour.sheets import stained
from napari_histoseg.slide import Box, Slide, open_slide

NO_TUMOUR = PatchClass(value=0, name="no tumour", color="#8c8c8c")
TUMOUR = PatchClass(value=1, name="tumour", color="#e6194b")
TISSUE_PX = 1024
LEAST_TISSUE = 0.05
"""An outline with a smaller share of tissue is beside it."""
NO_OUTLINE, OUTSIDE, NO_MPP = "no outline", "outline outside the tissue", "pixel size unknown"
UNDER_TRAIN = "under Train, More settings, as the tumour class"

Mask: TypeAlias = NDArray[np.uint8]
Tissue: TypeAlias = NDArray[np.bool_]


@dataclass(eq=False)
class Entry:
    """A slide of the list, or a part of one.

    Attributes
    ----------
    known : Known
    box : Box
        What was annotated, in level-0 pixels.
    area : Area or None
        The tumour; empty where somebody said that there is none, None where nobody said anything.
    grade, patient : str
        As entered; empty where not.
    chosen : bool
        Whether it is learned from.
    listed : bool
        Whether it is kept in the dataset; slides that are just open are not.
    trouble : str
        Why it cannot be read, or learned from.
    patch : Patch or None
        As it was written last.
    rest : (h, w) uint8 or None
        Of a mask that holds more than tumour: its values, 0 where the tumour is.
    tissue : (h, w) bool or None
        Where the slide has tissue, coarsely, once that is known.
    version, written : int
        Of the area: how often it changed, and what the mask on the disk shows.
    was_shown : bool
        Whether its layer was shown before, and does not come by itself any more.
    looked_at, beside : int, bool
        The version of the area that was compared with the tissue, and whether it lies beside it.
    """

    known: Known
    box: Box
    area: Area | None = None
    grade: str = ""
    patient: str = ""
    chosen: bool = False
    listed: bool = False
    trouble: str = ""
    patch: Patch | None = None
    rest: Mask | None = None
    tissue: Tissue | None = None
    version: int = 0
    written: int = 0
    was_shown: bool = False
    looked_at: int = -1
    beside: bool = False

    @classmethod
    def of(cls, known: Known) -> Entry:
        """A slide that nobody annotated."""
        return cls(known, known.bounds)

    @property
    def key(self) -> str:
        """The same for the same slide, or part of a slide, wherever it lies."""
        part = "" if self.box == self.known.bounds else f"@{self.box.x},{self.box.y},{self.box.width},{self.box.height}"
        return self.known.fingerprint + part

    @property
    def name(self) -> str:
        """The slide's, with the place of a part."""
        return self.known.name if self.box == self.known.bounds else f"{self.known.name} at {self.box.x}, {self.box.y}"

    @property
    def default_patient(self) -> str:
        """Who the slide is of when nobody says: each file is a patient of its own."""
        return Path(self.known.path or self.known.name).stem

    def draw(self, area: Area | None, rest: Mask | None = None) -> None:
        """Give it another outline; an annotated slide is learned from unless somebody says otherwise."""
        if (self.area is None) and area is not None:
            self.chosen = True
        self.area, self.rest = area, rest
        self.listed = self.listed or area is not None
        self.version += 1

    @property
    def outline(self) -> str:
        """Its annotation in words."""
        if self.area is None:
            return NO_OUTLINE
        return NO_TUMOUR.name if self.area.is_empty else count_and_size(self.area, self.known.mpp)

    @property
    def problems(self) -> list[str]:
        """What keeps it from being learned from, in words."""
        if self.trouble:
            return [self.trouble]
        found = [NO_OUTLINE] if self.area is None else [OUTSIDE] if self._outside() else []
        return [*found, *([NO_MPP] if self.known.mpp is None else [])]

    def _outside(self) -> bool:
        if self.area is None or self.area.is_empty or self.tissue is None:
            return False
        if self.looked_at != self.version:
            inside = burned(self.area, self.known.bounds, self.tissue.shape)
            self.beside = bool(inside.any()) and float(self.tissue[inside].mean()) < LEAST_TISSUE
            self.looked_at = self.version
        return self.beside


SENTENCES = {
    NO_OUTLINE: ("has no outline", "have no outline", "Outline the tumour, mark the slide as without tumour, or take its check mark away."),
    OUTSIDE: ("is outlined outside of its tissue", "are outlined outside of their tissue", "Check that outline and slide belong together."),
    NO_MPP: ("has no pixel size (µm/px)", "have no pixel size (µm/px)", "Open the slide, and enter one above."),
}
"""What is said of one slide, of several, and what can be done."""


def wrong_with(entries: Sequence[Entry]) -> list[str]:
    """Everything that keeps the chosen slides from being learned from, a sentence for each thing that is wrong."""
    chosen = [each for each in entries if each.chosen]
    if not chosen:
        return ["No slide is chosen. Outline the tumour of a slide, or add slides that have an outline."]
    named: dict[str, list[str]] = {}
    for each in chosen:
        for problem in each.problems:
            named.setdefault(problem, []).append(each.name)
    if not named and all(each.area is None or each.area.is_empty for each in chosen):
        return ["None of the chosen slides has tumour. Outline the tumour of at least one."]
    return [_sentence(problem, names) for problem, names in named.items()]


def _sentence(problem: str, names: Sequence[str]) -> str:
    listed = ", ".join(names)
    if problem not in SENTENCES:
        return f"{listed} {problem}"
    one, several, remedy = SENTENCES[problem]
    return f"{listed} {one if len(names) == 1 else several}. {remedy}"


# -- reading, for worker threads ------------------------------------------------------------------------------------------


def tissue_in(slide: Slide) -> Tissue:
    """Where a slide has tissue, as training sees it, on an overview."""
    return stained(np.ascontiguousarray(slide.unstained.thumbnail(TISSUE_PX)))


def read_outline(path: Path, bounds: Box, tumour_class: str = "") -> tuple[Area, Mask | None]:
    """The tumour in a file that belongs to a slide: GeoJSON of QuPath and others, or a mask.

    Returns
    -------
    area : Area
        In level-0 pixels.
    rest : (h, w) uint8 or None
        What a mask says besides.

    Raises
    ------
    DatasetError
        The file cannot be read, does not fit the slide, or does not say what the tumour is.
    """
    if is_drawn(path):
        return tumour_area(path, bounds, tumour_class, where=UNDER_TRAIN), None
    mask = mask_of(path, bounds)
    unknown = np.where(mask == UNLABELED, mask, 0)
    return area_of(mask == 1, bounds), unknown if unknown.any() else None


def read_file(path: Path, tumour_class: str = "") -> Entry:
    """A slide in a file, with the outline beside it.

    Raises
    ------
    HistosegError
        The slide cannot be read. What is wrong with the outline is kept in the entry.
    """
    from napari_histoseg.gui.pixelsize import with_remembered

    with closing(with_remembered(open_slide(path))) as slide:
        entry = Entry.of(Known.of(slide))
        entry.tissue = tissue_in(slide)
    entry.listed = entry.chosen = True
    if (outline := outline_beside(path)) is not None:
        try:
            entry.draw(*read_outline(outline, entry.box, tumour_class))
        except HistosegError as error:
            entry.trouble = f"has an outline that cannot be used: {error}"
    return entry


def read_patch(dataset: PatchDataset, patch: Patch, value: int) -> Entry:
    """A patch of a dataset as a line of the list; what is wrong with it is kept in the line."""
    own = patch.model_extra or {}
    entry = Entry.of(_guessed(dataset, patch))
    try:
        with closing(dataset.open(patch)) as slide:
            entry = Entry.of(Known.of(slide))
            entry.tissue = tissue_in(slide)
    except HistosegError as error:
        entry.trouble = f"cannot be read: {error}"
    entry.box = entry.known.bounds if patch.box is None else Box(*patch.box)
    entry.patch, entry.listed, entry.chosen = patch, True, patch.split != "test"
    entry.grade = str(own.get("grade", ""))
    entry.patient = "" if patch.group in (None, entry.default_patient) else str(patch.group)
    if patch.mask is not None:
        mask = read_mask(dataset.path(patch.mask))
        entry.area = area_of(mask == value, entry.box)
        rest = np.where(mask == value, 0, mask).astype(np.uint8)
        entry.rest = rest if rest.any() else None
    elif patch.labels:
        names = {c.value: c.name for c in dataset.classes}
        whole = names.get(value) in patch.labels
        entry.area = shapely.box(entry.box.x, entry.box.y, entry.box.right, entry.box.bottom) if whole else shapely.MultiPolygon()
    elif patch.coarse is not None:
        entry.trouble = "has a coarse label, from which tumour is not learned."
    return entry


def _guessed(dataset: PatchDataset, patch: Patch) -> Known:
    """What is known of a slide that may be gone."""
    path = os.path.abspath(dataset.path(patch.source))
    box = Box(0, 0, 1, 1) if patch.box is None else Box(*patch.box)
    return Known(Path(path).name, path, box, patch.slide_mpp, patch.slide_fingerprint or path)
