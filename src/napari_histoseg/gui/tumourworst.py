"""The patches that a classifier of tumour gets most wrong, as pictures; a click flies there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QListWidgetItem, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.inspectorgallery import PictureList, picture_icon
from napari_histoseg.gui.jobs import Job, JobEvent, Plain, Said
from napari_histoseg.gui.qt import Signal
from napari_histoseg.predict.events import Finished
from napari_histoseg.slide import Box, Slide

log = logging.getLogger(__name__)

PICTURES, PICTURE_PX, BATCH = 32, 80, 4
TITLE = "What it gets most wrong"
LABELS = {0: "no tumour", 1: "tumour"}

Open = Callable[[], Slide]
"""Opens a slide; who calls it closes it."""


@dataclass(frozen=True)
class Wrong:
    """A patch: its slide as training calls it, its box in level-0 pixels, its class, and the probability of tumour."""

    slide: str
    box: Box
    label: int
    probability: float

    @property
    def words(self) -> str:
        """What it is, and what it was taken for."""
        return f"{LABELS.get(self.label, '?')}, probability of tumour {self.probability:.0%}"


def table_beside(weights: Path) -> Path:
    """Where training writes the patches that it gets most wrong."""
    return weights.with_suffix(".worst.csv")


def read_worst(weights: Path) -> list[Wrong]:
    """The worst patches of weights that are being trained, the worst first; empty where there is no such table."""
    try:
        table = pd.read_csv(table_beside(weights), dtype={"name": str})
        return [
            Wrong(str(r.name_), Box(round(r.x), round(r.y), max(1, round(r.width)), max(1, round(r.height))), int(r.label), float(r.probability))
            for r in table.rename(columns={"name": "name_"}).itertuples()
        ]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        log.debug("There is no table of the worst patches: %s", error)
        return []


class WorstPatches(QWidget):
    """Pictures of patches that are taken for the other class.

    Attributes
    ----------
    slides : mapping of str to callable
        What opens a slide, by the name that training calls it.
    """

    go = Signal(object)
    """A `Wrong` that somebody wants to see in its slide."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slides: Mapping[str, Open] = {}
        self._job: Job | None = None
        self._shown: list[Wrong] = []
        self.words = QLabel(TITLE)
        self.words.setToolTip("Of the held-out patches. Wrong outlines are found here, as well as what there is too little of.")
        self.pictures = PictureList()
        self.pictures.show_size(PICTURE_PX)
        self.pictures.setAccessibleName(TITLE)
        self.pictures.setMinimumHeight(2 * PICTURE_PX + 20)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.words)
        layout.addWidget(self.pictures, 1)
        self.pictures.itemClicked.connect(self._on_item)
        self.pictures.itemActivated.connect(self._on_item)
        self.hide()

    def clear(self) -> None:
        """Show none."""
        if self._job is not None:
            self._job.cancel()
        self._job = None
        self._shown = []
        self.pictures.clear()
        self.hide()

    def look(self, weights: Path) -> None:
        """Show the worst patches of weights that were just written; they are read on a thread."""
        if self._job is not None:
            # What is newer comes with the next scoring.
            return
        job = Job("Pictures of the worst patches", partial(pictures_of, weights, dict(self.slides)))
        job.said.connect(self._take)
        job.failed.connect(log.debug)
        job.ended.connect(self._on_ended)
        self._job = job
        job.start()

    def _on_ended(self) -> None:
        if self.sender() is self._job:
            self._job = None

    def _take(self, said: Any) -> None:
        if self.sender() is not self._job:
            return
        first, pictures = said
        if first:
            self._shown = []
            self.pictures.clear()
        for wrong, pixels in pictures:
            item = QListWidgetItem(picture_icon(framed(pixels, wrong.label)), "")
            item.setToolTip(f"{wrong.words[0].upper()}{wrong.words[1:]}. {Path(wrong.slide).name}. Click to go there.")
            item.setData(Qt.ItemDataRole.AccessibleTextRole, wrong.words)
            self._shown.append(wrong)
            self.pictures.addItem(item)
        self.setVisible(bool(self._shown))

    def _on_item(self, item: QListWidgetItem) -> None:
        row = self.pictures.row(item)
        if 0 <= row < len(self._shown):
            self.go.emit(self._shown[row])


FRAMES = {0: (67, 99, 216), 1: (230, 25, 75)}


def framed(pixels: NDArray[np.uint8], label: int) -> NDArray[np.uint8]:
    """A picture with a frame in the color of its class: red tumour, blue none."""
    out = pixels.copy()
    color = FRAMES.get(label, (128, 128, 128))
    for edge in (out[:3], out[-3:], out[:, :3], out[:, -3:]):
        edge[...] = color
    return out


def pictures_of(weights: Path, slides: Mapping[str, Open]) -> Iterator[JobEvent]:
    """Pictures of the worst patches in small batches, as events of a job; patches of slides that cannot be read are left out."""
    batch: list[tuple[Wrong, NDArray[np.uint8]]] = []
    first = True
    with ExitStack() as stack:
        opened: dict[str, Slide | None] = {}
        for wrong in read_worst(weights)[:PICTURES]:
            if wrong.slide not in opened:
                opened[wrong.slide] = _opened(slides.get(wrong.slide), stack)
            slide = opened[wrong.slide]
            if slide is None:
                continue
            try:
                batch.append((wrong, picture_of(slide, wrong.box)))
            except HistosegError as error:
                log.debug("A patch cannot be shown: %s", error)
            if len(batch) == BATCH:
                yield Said((first, batch))
                batch, first = [], False
    if batch or first:
        yield Said((first, batch))
    yield Finished(Plain(True), 0.0)  # type: ignore[arg-type]


def _opened(how: Open | None, stack: ExitStack) -> Slide | None:
    if how is None:
        return None
    try:
        return stack.enter_context(how())
    except HistosegError as error:
        log.debug("A slide cannot be shown: %s", error)
        return None


def picture_of(slide: Slide, box: Box, size: int = PICTURE_PX) -> NDArray[np.uint8]:
    """What lies in a box, ``(size, size, 3)``."""
    from PIL import Image

    if slide.mpp is None:
        pixels = slide.read(0, box)
    else:
        factor = size / box.width
        pixels = slide.read_at(slide.mpp / factor, Box(round(box.x * factor), round(box.y * factor), size, max(1, round(box.height * factor))))
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
