"""Adding references: from a layer, a drawn region, a file; and saving them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QInputDialog, QMenu, QPushButton, QWidget

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.slides import is_slide_layer, slide_of
from napari_histoseg.gui.stainrefs import Reference, from_file, from_region, profiles_folder, references
from napari_histoseg.gui.where import WherePicker, drawn_region
from napari_histoseg.slide.stain import StainProfile, measure_slide

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_histoseg.gui.header import SlideHeader
    from napari_histoseg.gui.stainchoice import StainChoice

FILES = "Pictures, slides, profiles and styles (*.json *.safetensors *.svs *.tif *.tiff *.ndpi *.mrxs *.scn *.bif *.dcm *.png *.jpg *.jpeg);;All files (*)"
MEASURING = "Measuring {}…"


class NewReference(QWidget):
    """The buttons under the list of references.

    Parameters
    ----------
    viewer : napari.Viewer
    header : SlideHeader
        Says which slide a drawn region is of.
    choice : StainChoice
        Gets the new reference chosen.
    """

    said = Signal(str)
    problem = Signal(str)

    def __init__(self, viewer: Viewer, header: SlideHeader, choice: StainChoice, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._header, self._choice = viewer, header, choice
        self._where = WherePicker(viewer, self)
        self._where.hide()
        self.add = QPushButton("Add reference")
        self.add.setToolTip("Measure something as a new reference: a layer, a region that you draw, a picture or slide, a saved profile.")
        self.menu = QMenu(self.add)
        self.layers = QMenu("From layer", self.menu)
        self.menu.addMenu(self.layers)
        self.layers.aboutToShow.connect(self._list_layers)
        self.menu.addAction("From the drawn region", self.add_region)
        self.menu.addAction("From file…", self._ask_file)
        self.menu.addSeparator()
        self.menu.addAction("Open the folder of saved profiles", self._open_folder)
        self.add.setMenu(self.menu)
        self.keep = QPushButton("Save profile…")
        self.keep.setToolTip("Keep the chosen reference under a name, as a small file that can be passed on.")
        self.keep.clicked.connect(lambda _=False: self._ask_name())
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.add)
        layout.addWidget(self.keep)
        choice.changed.connect(self._show_state)
        self._show_state()

    def _show_state(self) -> None:
        line = self._choice.line
        self.keep.setEnabled(line is not None and isinstance(line.target, StainProfile))

    def _list_layers(self) -> None:
        self.layers.clear()
        for layer in self._viewer.layers:
            if is_slide_layer(layer):
                self.layers.addAction(layer.name, lambda _=False, layer=layer: self.add_layer(layer))
        if self.layers.isEmpty():
            self.layers.addAction("No image is open")

    def add_layer(self, layer: Image) -> None:
        """Measure what an image layer shows."""
        try:
            slide = slide_of(layer)
        except HistosegError as error:
            self.problem.emit(str(error))
            return
        self._measure(layer.name, lambda: measure_slide(slide, name=layer.name))

    def add_region(self) -> None:
        """Measure the drawn regions of the slide; where nothing is drawn, begin drawing."""
        layer, shapes = self._header.layer, self._where.regions_layer()
        if layer is None:
            self.problem.emit("No slide is open. Open the one to draw on first.")
            return
        if shapes is None or not len(shapes.data):
            self._where.start_drawing()
            self.said.emit("Draw a region of tissue on the slide, then choose 'From the drawn region' again.")
            return
        try:
            slide = self._header.slide()
            region = drawn_region(shapes, layer, slide)
        except HistosegError as error:
            self.problem.emit(str(error))
            return
        self._measure("the region", lambda: from_region(slide, region))

    def add_file(self, path: Path) -> None:
        """Read a profile or a style, or measure a picture or slide."""
        self._measure(path.name, lambda: from_file(path))

    def _ask_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Choose a reference", "", FILES)
        if chosen:
            self.add_file(Path(chosen))

    def _measure(self, what: str, work: Callable[[], StainProfile | Path]) -> None:
        self.said.emit(MEASURING.format(what))

        def done(target: StainProfile | Path) -> None:
            line = references().add(target)
            self._choice.choose(line)
            self.said.emit(f"Added the reference '{line.name}', for this session. Save it to keep it.")

        in_background(f"Measuring {what}", work, done, self.problem.emit, self)

    def _ask_name(self) -> None:
        line = self._choice.line
        if line is None:
            return
        name, agreed = QInputDialog.getText(self, "Save profile", "Name:", text=line.name)
        if agreed:
            self.save(line, name)

    def save(self, line: Reference, name: str) -> None:
        """Keep a reference under a name."""
        try:
            path = references().save(line, name)
        except HistosegError as error:
            self.problem.emit(str(error))
            return
        self._choice.choose(next(x for x in references().all() if x.kind == "saved" and x.name == name.strip()))
        self.said.emit(f"Saved: {path}")

    def _open_folder(self) -> None:
        folder = profiles_folder()
        folder.mkdir(parents=True, exist_ok=True)
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
