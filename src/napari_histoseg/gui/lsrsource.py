"""Coarse labels from what is known already: a heatmap in the window, a stored result, an image, a table, outlines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QComboBox, QFileDialog, QFormLayout, QHBoxLayout, QLineEdit, QWidget

from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.coarse import bins, checked_edges, even_edges, quantized
from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.annotatekeys import UNDO
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.layers import KEY
from napari_histoseg.gui.parts import button
from napari_histoseg.methods.lsr.table import PAPER_EDGES

if TYPE_CHECKING:
    from napari_histoseg.gui.jobs import Job
    from napari_histoseg.gui.lsrpaint import GridDesk
    from napari_histoseg.slide import Slide

TEN, FIVE, PAPER, OWN = "ten even bins", "five even bins", "the paper's ten bins", "own edges"
BINS = {
    TEN: "0–10 %, 10–20 % …",
    FIVE: "0–20 %, 20–40 % …",
    PAPER: "Those of the paper's Table 1: narrow where the tumour is likely.",
    OWN: "Write where one bin ends and the next begins, from 0 to 1.",
}
GEOJSON = (".geojson", ".json", ".geojson.gz", ".json.gz")
FILES = "Heatmaps (*.png *.tif *.tiff *.jpg *.jpeg *.npy *.csv *.tsv *.csv.gz *.tsv.gz *.geojson *.json *.geojson.gz *.json.gz);;All files (*)"


class HeatSource(QWidget):
    """Which heatmap, which bins, and the button that labels blocks by them.

    Parameters
    ----------
    grids : GridDesk
    block_um : callable
        Side of a block.
    """

    def __init__(self, grids: GridDesk, block_um: Callable[[], float], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grids, self._desk, self._block_um = grids, grids.desk, block_um
        self.path: Path | None = None
        self.current: Job | None = None
        self.what = QComboBox()
        self.what.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.what.setToolTip("Heatmaps of tumour in this window, and what was chosen from the disk.")
        self.file_button = button("File…", "A gray image of the slide, a table (CSV) of x, y, probability in µm or tiles, or outlines (GeoJSON).", self.ask_file)
        self.folder_button = button("Result…", "The folder of a stored result of this slide, of tumour for instance.", self.ask_folder)
        self.bins = QComboBox()
        for name, tip in BINS.items():
            self.bins.addItem(name)
            self.bins.setItemData(self.bins.count() - 1, tip, 3)
        self.bins.setToolTip("How the probability of a block becomes its coarse label.")
        self.edges = QLineEdit("0, 0.2, 0.5, 0.8, 1")
        self.edges.setToolTip("Where one bin ends and the next begins, rising from 0 to 1, with commas between them.")
        self.class_name = QLineEdit()
        self.class_name.setPlaceholderText("all outlines")
        self.class_name.setToolTip("Which class of outlines counts; its share of a block is the block's probability.")
        self.label_button = button("Label blocks", "Put every block into its bin. A grid that lies there is replaced; undo brings it back.", partial(self._desk.try_, self.label))
        self._lay_out()
        self.bins.currentTextChanged.connect(self.show_state)
        self.what.currentIndexChanged.connect(self.show_state)
        for signal in (self._desk.slide_changed, self._desk.dataset_changed, self._desk.busy_changed):
            signal.connect(self.list_layers)
        self.list_layers()

    def _lay_out(self) -> None:
        chosen, row = QWidget(), QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.what, 1)
        row.addWidget(self.file_button)
        row.addWidget(self.folder_button)
        chosen.setLayout(row)
        self.form = QFormLayout(self)
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setVerticalSpacing(4)
        self.form.addRow("Heatmap", chosen)
        self.form.addRow("Bins", self.bins)
        self.form.addRow("Edges", self.edges)
        self.form.addRow("Class", self.class_name)
        self.form.addRow(self.label_button)

    # -- looks ------------------------------------------------------------------------------------------------------------

    def list_layers(self, event: Any = None) -> None:
        """List the heatmaps of the slide that is annotated, and what was chosen from the disk."""
        slide = self._desk.slide
        with QSignalBlocker(self.what):
            before = self.what.currentText()
            self.what.clear()
            for layer in self._desk.viewer.layers:
                result = layer.metadata.get(KEY, {}).get("result")
                if result is not None and slide is not None and is_heat(result, slide) and layer.metadata[KEY].get("kind") == "probability":
                    self.what.addItem(layer.name, result)
            if self.path is not None:
                self.what.addItem(self.path.name, self.path)
            self.what.setCurrentIndex(max(self.what.findText(before), 0) if self.what.count() else -1)
        self.show_state()

    def show_state(self, event: Any = None) -> None:
        """Show the fields that matter, and enable what can be done now."""
        source = self.what.currentData()
        outlines = isinstance(source, Path) and source.name.lower().endswith(GEOJSON)
        self.form.setRowVisible(self.edges, self.bins.currentText() == OWN)
        self.form.setRowVisible(self.class_name, outlines)
        ready = self._desk.session is not None and self._desk.slide is not None and not self._desk.busy and self.current is None
        self.label_button.setEnabled(ready and source is not None)

    # -- asking -----------------------------------------------------------------------------------------------------------

    def ask_file(self) -> None:
        """Ask for a file."""
        chosen, _ = QFileDialog.getOpenFileName(self, "Probabilities of this slide", "", FILES)
        if chosen:
            self.take(Path(chosen))

    def ask_folder(self) -> None:
        """Ask for a result's folder."""
        if chosen := QFileDialog.getExistingDirectory(self, "A result of this slide"):
            self.take(Path(chosen))

    def take(self, path: Path) -> None:
        """Choose what lies on the disk."""
        self.path = path
        self.list_layers()
        self.what.setCurrentIndex(self.what.count() - 1)

    def chosen_edges(self) -> tuple[float, ...]:
        """The edges of the bins.

        Raises
        ------
        DatasetError
            What was written are no rising numbers.
        """
        kind = self.bins.currentText()
        if kind != OWN:
            return PAPER_EDGES if kind == PAPER else even_edges(10 if kind == TEN else 5)
        try:
            given = [float(text) for text in self.edges.text().replace(";", ",").split(",") if text.strip()]
        except ValueError:
            raise DatasetError(f"'{self.edges.text()}' are no edges of bins. Write numbers that rise from 0 to 1, such as 0, 0.2, 0.5, 1.") from None
        return checked_edges(given)

    # -- labeling ---------------------------------------------------------------------------------------------------------

    def label(self) -> None:
        """Label the blocks of the slide by the chosen heatmap; it is read on a thread."""
        session, slide = self._desk.require(), self._desk.require_slide()
        source, edges = self.what.currentData(), self.chosen_edges()
        if source is None:
            raise DatasetError("No heatmap is chosen. Choose one that is shown, or press File… or Result….")
        grid = BlockGrid.over(slide, self._block_um())
        name = self.class_name.text().strip() or None
        notices: list[str] = []

        def done(labels: NDArray[np.uint8]) -> None:
            if self._desk.session is session and self._desk.slide is slide:
                self._desk.do(lambda: self._labeled(grid, labels, edges, notices))

        self._desk.said.emit("Reading the heatmap…")
        self.current = in_background(
            "Labeling blocks", lambda: quantized(values_of(source, grid, slide, name, notices), edges), done, self._desk.problem.emit, self
        )
        self.current.ended.connect(self._on_ended)
        self.show_state()

    def _labeled(self, grid: BlockGrid, labels: NDArray[np.uint8], edges: tuple[float, ...], notices: list[str]) -> None:
        count = int((labels != UNLABELED).sum())
        replaced = self._grids.lay(grid, labels, bins(edges), f"{count:,} blocks labeled by a heatmap")
        said = [f"{count:,} of {labels.size:,} blocks have a label."]
        said += [f"They replaced {', '.join(replaced)}; {UNDO} brings that back."] if replaced else []
        self._desk.said.emit(" ".join([*said, *notices[:2], "State what they hold under Table."]))

    def _on_ended(self) -> None:
        self.current = None
        self.show_state()


def is_heat(result: Any, slide: Slide) -> bool:
    """Whether a result is a heatmap of a slide; other maps of a probability say how sure a class is."""
    return bool(result.record.method == "tumour" and result.record.slide.fingerprint == slide.fingerprint())


def values_of(source: Any, grid: BlockGrid, slide: Slide, class_name: str | None, notices: list[str]) -> NDArray[np.float64]:
    """`annotations.bringblocks.values_of`, imported on the worker thread."""
    from napari_histoseg.annotations import bringblocks

    return bringblocks.values_of(source, grid, slide, class_name=class_name, notices=notices)
