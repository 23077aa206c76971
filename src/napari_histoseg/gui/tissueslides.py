"""Which slides to learn tissue from: those in the viewer, files, or a patch dataset. Slides are handed over as a patch dataset, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.annotations.dataset import FILE_NAME, PatchDataset, parse_dataset, write_dataset
from napari_histoseg.errors import DatasetError, RegionError, StorageError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.layers import box_around
from napari_histoseg.gui.lessons import FILES, Known, looked_at, shown_by
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.slides import slide_of
from napari_histoseg.gui.where import WherePicker, drawn_region
from napari_histoseg.slide import Box

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_histoseg.gui.header import SlideHeader

SLIDES, ANOTHER = "Slides", "A patch dataset…"
FOLDER = "tissue training"
LIST_PX = 84


class LessonSlides(QWidget):
    """A list of slides with check marks.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    header : SlideHeader
    where : WherePicker
    """

    changed = Signal()
    message = Signal(str)
    """Why a file cannot be used."""

    def __init__(self, viewer: Viewer, header: SlideHeader, where: WherePicker, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._header, self._where = viewer, header, where
        self._files: dict[str, Known] = {}
        self._rows: list[Known] = []
        self._left_out: set[str] = set()
        self._dataset: Path | None = None
        self.combo = QComboBox()
        self.combo.setToolTip("Slides, or a patch dataset; its annotation is not looked at.")
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.list = QListWidget()
        self.list.setToolTip("Slides to learn from. The more of them, the better the classes fit other slides.")
        self.list.setAccessibleName("Slides to learn from")
        self.list.setMaximumHeight(LIST_PX)
        self.add_button = button("Add files…", "Learn from slides that are not open, too.", self._choose_files)
        self.drawn = QCheckBox("Only the drawn regions")
        self.drawn.setToolTip("Of the slide above, learn only from inside the regions that were drawn under Map; of the others from all tissue.")
        self._lay_out()
        self.combo.activated.connect(self._on_activated)
        self.list.itemChanged.connect(self._on_item)
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        header.changed.connect(self.refresh)
        self._fill_combo(0)
        self.refresh()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(QLabel("Learn from"))
        row.addWidget(self.combo, 1)
        layout.addLayout(row)
        layout.addWidget(self.list)
        below = QHBoxLayout()
        below.addWidget(self.add_button)
        below.addWidget(self.drawn, 1)
        layout.addLayout(below)

    # -- what others ask ----------------------------------------------------------------------------------------------

    @property
    def dataset(self) -> Path | None:
        """The chosen patch dataset; None where slides are chosen."""
        return None if self.combo.currentIndex() == 0 else self._dataset

    @property
    def chosen(self) -> list[Known]:
        """The slides with a check mark."""
        return [each for each in self._rows if each.path is not None and each.path not in self._left_out]

    @property
    def any(self) -> bool:
        """Whether there is something to learn from."""
        return self.dataset is not None or bool(self.chosen)

    def folder(self, home: Path, mpp: float) -> Path:
        """The patch dataset to learn from; that of slides is written into a folder for results.

        Raises
        ------
        HistosegError
            Nothing is chosen, nothing is drawn, a slide has no pixel size, or the folder cannot be written.
        """
        if self.dataset is not None:
            return self.dataset
        if not self.chosen:
            raise DatasetError("No slide is chosen. Put a check mark before one, or add files.")
        patches = [patch for each in self.chosen for patch in each.patches(self._boxes(each))]
        return written(home / FOLDER, PatchDataset.model_validate({"mpp": mpp, "patches": patches}))

    def _boxes(self, known: Known) -> list[Box]:
        """All of a slide, or what was drawn on it."""
        layer = self._header.layer
        if not self.drawn.isChecked() or known.layer is None or known.layer != layer:
            return [known.bounds]
        shapes = self._where.regions_layer()
        if shapes is None or not len(shapes.data):
            raise RegionError("No region is drawn. Press 'Draw regions' under Map and draw at least one, or learn from the whole slide.")
        region = drawn_region(shapes, known.layer, slide_of(known.layer))
        if isinstance(region, Box):
            return [region]
        import shapely

        corners = (np.array(part.bounds).reshape(2, 2) for part in shapely.get_parts(region))
        return [box_around(each, known.bounds) for each in corners]

    # -- the list -----------------------------------------------------------------------------------------------------

    def refresh(self, event: Any = None) -> None:
        """List the slides of the viewer, and the files."""
        rows = [known for layer in self._viewer.layers if (known := shown_by(layer)) is not None]
        there = {each.fingerprint for each in rows}
        self._rows = rows + [each for each in self._files.values() if each.fingerprint not in there]
        blocker = QSignalBlocker(self.list)
        self.list.clear()
        for each in self._rows:
            item = QListWidgetItem(each.name)
            if each.path is None:
                item.setFlags(Qt.ItemFlag.NoItemFlags)
                item.setToolTip("It comes from no file. Save it as a TIFF, and open that, to learn from it.")
            else:
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Unchecked if each.path in self._left_out else Qt.CheckState.Checked)
                item.setToolTip(each.path)
            self.list.addItem(item)
        blocker.unblock()
        self._show()

    def _on_item(self, item: QListWidgetItem) -> None:
        path = self._rows[self.list.row(item)].path
        assert path is not None
        (self._left_out.discard if item.checkState() == Qt.CheckState.Checked else self._left_out.add)(path)
        self.changed.emit()

    def _show(self) -> None:
        slides = self.combo.currentIndex() == 0
        for each in (self.list, self.add_button, self.drawn):
            each.setVisible(slides)
        self.changed.emit()

    def _choose_files(self) -> None:
        chosen, _ = QFileDialog.getOpenFileNames(self, "Slides to learn from", "", FILES)
        if chosen:
            self.add_files([Path(each) for each in chosen])

    def add_files(self, paths: Sequence[Path], then: Callable[[], None] = lambda: None) -> None:
        """Add slides that are not open; they are looked at on a thread."""

        def done(found: tuple[list[Known], list[str]]) -> None:
            for each in found[0]:
                self._files[str(each.path)] = each
                self._left_out.discard(str(each.path))
            self.refresh()
            if found[1]:
                self.message.emit(" ".join(found[1]))
            then()

        in_background("Opening slides", lambda: looked_at(paths), done, self.message.emit, self)

    # -- a dataset ----------------------------------------------------------------------------------------------------

    def choose_dataset(self, folder: Path) -> None:
        """Learn from a patch dataset."""
        self._dataset = folder
        self._fill_combo(1)

    def _fill_combo(self, index: int) -> None:
        self.combo.clear()
        self.combo.addItems([SLIDES, *([str(self._dataset)] if self._dataset else []), ANOTHER])
        self.combo.setCurrentIndex(index)
        self._show()

    def _on_activated(self, index: int) -> None:
        if self.combo.itemText(index) == ANOTHER:
            # Without a choice it stays with the dataset that was chosen before, or with slides.
            self.combo.setCurrentIndex(1 if self._dataset else 0)
            chosen = QFileDialog.getExistingDirectory(self, "A patch dataset")
            if chosen:
                self.choose_dataset(Path(chosen))
                return
        self._show()


def written(folder: Path, dataset: PatchDataset) -> Path:
    """A folder that holds just that dataset: the given one, or a numbered one where others are there already.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    number, place = 1, folder
    while (place / FILE_NAME).exists() and not _holds(place, dataset):
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    if not (place / FILE_NAME).exists():
        try:
            write_dataset(place, dataset)
        except OSError as error:
            raise StorageError(f"The list of slides cannot be written to {place}: {error.strerror}. Free space, or choose another folder for results.") from error
    return place


def _holds(folder: Path, dataset: PatchDataset) -> bool:
    try:
        there, problems = parse_dataset(folder)
    except DatasetError:
        return False
    return not problems and (there.mpp, there.classes, there.patches) == (dataset.mpp, dataset.classes, dataset.patches)
