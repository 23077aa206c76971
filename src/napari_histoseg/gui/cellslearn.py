"""Learning classes of cells in the window: from the nuclei that are chosen or from a folder, with the nuclei that a generative network draws."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QVBoxLayout, QWidget

from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.jobs import Progress
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.training import Losses, Scored
from napari_histoseg.gui.trainpanel import TrainPanel
from napari_histoseg.methods.cells.config import CellsTraining

if TYPE_CHECKING:
    from napari_histoseg.gui.nucleipicker import NucleiPicker

log = logging.getLogger(__name__)

PARTS = ("critic distance", "mutual information", "class balance")
"""Of the generative network; the last two are from 0 to 1."""
SHEET_ROWS, SHEET_PX = 5, 300
GAN = "infogan"
NO_RESULT = "No result of nuclei is chosen under Group"
ANOTHER = "Another folder…"
FOLDER_TIP = "A result of nuclei whose slide is on this computer, or a patch dataset with instance masks."


class CellsLessons(TrainPanel):
    """Learns a model of classes, to be used on other slides.

    Parameters
    ----------
    nuclei : NucleiPicker
        Its choice, when it is a result, is what classes are learned from.
    """

    def __init__(self, nuclei: NucleiPicker, parent: QWidget | None = None) -> None:
        self.source = LessonPicker(nuclei)
        self.sheet = SheetPicture()
        super().__init__("cells", "classes of cells", CellsTraining, None, basic=("method", "n_classes", "steps"), hidden=("start",), parent=parent)
        self.curve.noun, self.curve.shares = "", frozenset(PARTS[1:])
        self.train_button.setToolTip("Learn classes. The model is put into 'models' of the folder for results, and into the list under Group.")
        self._sheets = Latest("Drawing generated nuclei", self)
        self._sheets.failed.connect(log.debug)
        self.source.changed.connect(self._on_source)
        self.form.changed.connect(self._on_form)
        self._on_form()
        self._on_source()

    def _lay_out(self) -> None:
        super()._lay_out()
        # Nothing of a slide is mapped while it learns, and it begins at the nuclei, not at another model.
        self.warm.hide()
        self.watch.hide()
        layout = self.layout()
        assert isinstance(layout, QVBoxLayout)
        layout.insertWidget(0, self.source)
        layout.insertWidget(layout.indexOf(self.curve) + 1, self.sheet)

    @property
    def generative(self) -> bool:
        """Whether a network is trained, with steps to be watched."""
        return bool(self.form.editor("method").currentText() == GAN)  # type: ignore[attr-defined]

    def _on_form(self) -> None:
        self.form.editor("steps").setEnabled(self.generative)

    def _on_source(self) -> None:
        self.dataset = self.source.folder
        self.show_state()

    # -- while it learns ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._sheets.drop()
        self.sheet.clear()
        self.source.refresh()
        super()._begin()
        self.curve.setVisible(self.generative)
        self.progress.wait("Looking at the nuclei…")

    def _on_progress(self, progress: Progress) -> None:
        # Before the first loss pictures are looked at, of which nobody knows how many there will be.
        if self.curve.losses:
            super()._on_progress(progress)

    def _on_said(self, what: Any) -> None:
        if isinstance(what, Losses):
            self._restart(what.step)
            super()._on_said(Losses(what.step, {name: what.values[name] for name in PARTS if name in what.values}))
        elif isinstance(what, Scored) and self.current is not None:
            # The weights that are kept were scored before, when they were the best.
            if what.weights != self.current.lesson.out:
                super()._on_said(what)
            if self.generative and (what.best or not self.sheet.shown):
                weights = what.weights
                self._sheets.ask(lambda: sheet_of(weights), self.sheet.show_sheet)

    def _restart(self, step: int) -> None:
        """Another seed begins at its first step."""
        last = max((line[-1][0] for line in self.curve.losses.values() if line), default=0)
        if step < last:
            self.curve.clear(self.curve.steps)


class LessonPicker(QWidget):
    """What to learn from: the nuclei chosen under Group, or a folder.

    Parameters
    ----------
    nuclei : NucleiPicker
    """

    changed = Signal()

    def __init__(self, nuclei: NucleiPicker, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._nuclei = nuclei
        self._folder: Path | None = None
        self.combo = QComboBox()
        self.combo.setToolTip(FOLDER_TIP)
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Learn from"))
        layout.addWidget(self.combo)
        self.combo.activated.connect(self._on_activated)
        nuclei.changed.connect(self.refresh)
        self.refresh()

    @property
    def folder(self) -> Path | None:
        """The folder to learn from; None where none is chosen."""
        return self._given() if self.combo.currentIndex() == 0 else self._folder

    def _given(self) -> Path | None:
        """The result that is chosen under Group."""
        choice = self._nuclei.choice
        if isinstance(choice, Path):
            return choice if (choice / "run.json").is_file() else None
        result = result_of(choice)
        return None if result is None else result.path

    def refresh(self) -> None:
        """Name what is chosen under Group."""
        given = self._given()
        chosen = min(max(self.combo.currentIndex(), 0), 1 if self._folder else 0)
        names = [NO_RESULT if given is None else self._nuclei.combo.currentText()]
        names += [str(self._folder)] if self._folder else []
        self.combo.clear()
        self.combo.addItems([*names, ANOTHER])
        self.combo.setCurrentIndex(chosen)
        self.changed.emit()

    def choose(self, folder: Path) -> None:
        """Learn from a folder."""
        self._folder = folder
        self.refresh()
        self.combo.setCurrentIndex(1)
        self.changed.emit()

    def _on_activated(self, index: int) -> None:
        if self.combo.itemText(index) != ANOTHER:
            self.changed.emit()
            return
        self.combo.setCurrentIndex(1 if self._folder else 0)
        chosen = QFileDialog.getExistingDirectory(self, "A result of nuclei, or a patch dataset")
        if chosen:
            self.choose(Path(chosen))
        else:
            self.changed.emit()


class SheetPicture(QWidget):
    """Generated nuclei, one column a class."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shown = False
        self.picture = QLabel()
        self.picture.setAccessibleName("Generated nuclei")
        self.picture.setToolTip("Nuclei that the network draws with its best weights so far: each column is a class, each row the same noise.")
        words = QLabel("Generated nuclei, one column a class")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(words)
        layout.addWidget(self.picture)
        self.hide()

    def clear(self) -> None:
        """Show none."""
        self.shown = False
        self.hide()

    def show_sheet(self, sheet: NDArray[np.uint8] | None) -> None:
        """Show a sheet (h, w, 3), made smaller where it is wider than the panel; None changes nothing."""
        if sheet is None:
            return
        height, width = sheet.shape[:2]
        picture = QPixmap.fromImage(QImage(np.ascontiguousarray(sheet).tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888))
        if width > SHEET_PX:
            picture = picture.scaledToWidth(SHEET_PX, Qt.TransformationMode.SmoothTransformation)
        self.picture.setPixmap(picture)
        self.shown = True
        self.show()


def sheet_of(weights: Path) -> NDArray[np.uint8] | None:
    """What the generative network in a weights file draws; None when it has none, or the file is gone. For a worker thread."""
    import torch

    from napari_histoseg.errors import WeightsError
    from napari_histoseg.methods.cells.fitted import gan_of
    from napari_histoseg.methods.cells.gantask import sheet
    from napari_histoseg.nn.weights import load_tensors, read_card

    try:
        card = read_card(weights, "cells")
        tensors = load_tensors(weights)
    except (OSError, WeightsError) as error:
        log.debug("No sheet of %s: %s", weights, error)
        return None
    # Kept weights hold the network beside the rest; those of a training under way hold nothing else.
    state = {name.removeprefix("gan."): values for name, values in tensors.items() if name.startswith("gan.")} or tensors
    if "classifier.bias" not in state:
        return None
    return sheet(gan_of(card, state, torch.device("cpu")), SHEET_ROWS)
