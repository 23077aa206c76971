"""The part that every dock shares: which slide, its pixel size and where that came from, its tissue, its colors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_histoseg.errors import HistosegError, SlideError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.layers import KEY, tissue_layer, tissue_of
from napari_histoseg.gui.pixelsize import remember
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.slides import is_slide_layer, rescale, set_pixel_size, slide_of
from napari_histoseg.gui.stainchoice import StainChoice
from napari_histoseg.slide import Slide, TissueMask, tissue_mask

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

NORMALIZE = "Normalize"
NORMALIZE_TIP = "Runs read the slide in the colors of a reference. The slide is measured once for it, and neither its file nor its layer changes."
ALREADY_TIP = "Runs read what this layer shows. Choose the slide's own layer to read it as scanned, or in other colors."
SOURCES = {"file": "from the file", "user": "given by you", "layer": "from the layer's scale"}


class SlideHeader(QWidget):
    """Slide, pixel size, tissue, and whether the colors are normalized.

    Parameters
    ----------
    viewer : napari.Viewer
    stain : bool
        Whether there is a row for normalizing; the dock "Stain" has its own.
    """

    changed = Signal()
    """Another slide, another pixel size, or other colors to read it in."""
    message = Signal(str)
    """A plain sentence for the dock's message line."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None, stain: bool = True) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._with_stain = stain
        self.slides = QComboBox()
        self.slides.setToolTip("The image to work on. Any flat RGB image layer will do.")
        self.slides.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.pixel_size = QLabel()
        self.pixel_size.setToolTip("Size of a pixel of the finest level, and where the number comes from.")
        self.edit = QPushButton("Change…")
        self.edit.setCheckable(True)
        self.edit.setToolTip("State the pixel size yourself.")
        self.mpp = QDoubleSpinBox()
        self.mpp.setRange(0, 100)
        self.mpp.setDecimals(4)
        self.mpp.setSingleStep(0.05)
        self.mpp.setSuffix(" µm/px")
        self.mpp.setToolTip("As the scanner's documents say: about 0.25 for 40×, 0.5 for 20×. It is remembered for this slide.")
        self.use = QPushButton("Use")
        self.tissue = QLabel()
        self.detect = QPushButton("Detect")
        self.detect.setToolTip("Find the tissue and show it as a layer that can be painted. Runs leave out the glass.")
        self.normalize = QCheckBox(NORMALIZE)
        self.colors = StainChoice()
        self._lay_out()
        self.slides.currentIndexChanged.connect(self._show)
        self.edit.toggled.connect(self._asking.setVisible)
        self.use.clicked.connect(self._use)
        self.detect.clicked.connect(self._detect)
        self.normalize.toggled.connect(self._on_normalize)
        self.colors.changed.connect(self._on_colors)
        viewer.layers.events.inserted.connect(self._on_layers)
        viewer.layers.events.removed.connect(self._on_layers)
        viewer.layers.selection.events.active.connect(self._on_active)
        self._on_layers()

    def _lay_out(self) -> None:
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        layout.addRow("Slide", self.slides)
        layout.addRow("Pixel size", _row(self.pixel_size, self.edit))
        self._asking = _row(self.mpp, self.use)
        self._asking.hide()
        layout.addRow("", self._asking)
        layout.addRow("Tissue", _row(self.tissue, self.detect))
        self.colors.hide()
        if self._with_stain:
            layout.addRow("Stain", self.normalize)
            layout.addRow("", self.colors)
        else:
            self.normalize.hide()

    # -- what others ask --------------------------------------------------------------------------------------------

    @property
    def layer(self) -> Image | None:
        """The chosen image layer."""
        layer: Image | None = self.slides.currentData()
        return layer if layer is not None and layer in self._viewer.layers else None

    def slide(self) -> Slide:
        """The chosen slide.

        Raises
        ------
        SlideError
            When no image is open, or the layer is no picture of a slide.
        """
        if self.layer is None:
            raise SlideError("No slide is open. Open one with File ▸ Open File(s)…, or a sample with File ▸ Open Sample.")
        return slide_of(self.layer)

    def tissue_layer(self) -> Labels | None:
        """The layer that shows the chosen slide's tissue, if there is one."""
        if self.layer is None:
            return None
        fingerprint = self.slide().fingerprint()
        found = [x for x in self._viewer.layers if x.metadata.get(KEY, {}).get("tissue_of") == fingerprint]
        return found[-1] if found else None

    def tissue_mask(self) -> TissueMask | None:
        """The tissue as shown, corrections included; None when it was not detected yet."""
        layer = self.tissue_layer()
        return None if layer is None else tissue_of(layer, self.slide())

    @property
    def stain(self) -> tuple[Any, str] | None:
        """Target and method that runs shall read the slide in, for `methods.stain.resolve.stained`; None as the layer is."""
        return self.colors.value if self.normalize.isChecked() and self.normalize.isEnabled() else None

    def ask_pixel_size(self) -> None:
        """Show the field for the pixel size and put the cursor into it."""
        self.edit.setChecked(True)
        self.mpp.setFocus()
        self.mpp.selectAll()

    # -- what happens ----------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        chosen = self.slides.currentData()
        layers = [layer for layer in self._viewer.layers if is_slide_layer(layer)]
        with QSignalBlocker(self.slides):
            self.slides.clear()
            for layer in layers:
                self.slides.addItem(layer.name, layer)
            if layers:
                self.slides.setCurrentIndex(layers.index(chosen) if chosen in layers else len(layers) - 1)
        self._show()

    def _on_active(self, event: Any = None) -> None:
        # napari hands plugins a stand-in for the chosen layer, which equals the layer but is not found by Qt.
        chosen = self._viewer.layers.selection.active
        for index in range(self.slides.count()):
            if chosen == self.slides.itemData(index):
                self.slides.setCurrentIndex(index)

    def _show(self) -> None:
        self.detect.setEnabled(self.layer is not None)
        self.edit.setEnabled(self.layer is not None)
        if self.layer is None:
            self.pixel_size.setText("no slide is open")
            self.tissue.setText("")
            return
        try:
            slide = self.slide()
        except HistosegError as error:
            self.pixel_size.setText("not known")
            self.message.emit(str(error))
            return
        known = slide.mpp is not None
        source = SOURCES.get(slide.mpp_source or "", "")
        self.pixel_size.setText(f"{slide.mpp:.4g} µm/px, {source}" if known else "not in the file: please state it")
        self.mpp.setValue(slide.mpp or 0.25)
        self.edit.setChecked(not known)
        self._show_tissue()
        self._show_stain(slide)
        self.changed.emit()

    def _show_stain(self, slide: Slide) -> None:
        """A normalized layer is not normalized again."""
        already = slide.stain is not None
        self.normalize.setEnabled(not already and self.colors.line is not None)
        self.normalize.setText("The layer is normalized already" if already else NORMALIZE)
        self.normalize.setToolTip(ALREADY_TIP if already else NORMALIZE_TIP)
        self.colors.setVisible(self._with_stain and self.normalize.isChecked() and not already)

    def _on_normalize(self, on: bool) -> None:
        self.colors.setVisible(on and self._with_stain and self.normalize.isEnabled())
        self.changed.emit()

    def _on_colors(self) -> None:
        if self.normalize.isChecked():
            self.changed.emit()

    def _show_tissue(self) -> None:
        layer = self.tissue_layer()
        self.tissue.setText("found by the run" if layer is None else "as in its layer")
        self.tissue.setToolTip("" if layer is None else f"Runs use the layer '{layer.name}', corrections included.")

    def _use(self) -> None:
        layer = self.layer
        if layer is None:
            return
        before = abs(float(layer.scale[-1]))
        without_unit = [x for x in self._viewer.layers if str(x.units[-1]) == "pixel" and not is_slide_layer(x)]
        try:
            slide = set_pixel_size(layer, self.mpp.value())
        except HistosegError as error:
            self.message.emit(str(error))
            return
        # What was drawn over the slide while it had no pixel size stays where it was drawn.
        for other in without_unit:
            rescale(other, slide.require_mpp() / before)
        if tissue := self.tissue_layer():
            self._viewer.layers.remove(tissue)
        remember(slide)
        self.edit.setChecked(False)
        self._show()
        self._viewer.reset_view()

    def _detect(self) -> None:
        try:
            slide = self.slide()
        except HistosegError as error:
            self.message.emit(str(error))
            return
        self.detect.setEnabled(False)
        self.tissue.setText("looking…")

        def done(mask: TissueMask) -> None:
            if old := self.tissue_layer():
                self._viewer.layers.remove(old)
            data, keywords, _ = tissue_layer(mask, slide)
            self._viewer.add_labels(data, **keywords)
            self._show_tissue()
            self.detect.setEnabled(True)
            if not mask.any:
                self.message.emit(f"No tissue was found on {slide.name}. Paint it into the tissue layer, or turn 'Tissue only' off.")

        def failed(sentence: str) -> None:
            self.detect.setEnabled(True)
            self._show_tissue()
            self.message.emit(sentence)

        in_background(f"Finding the tissue of {slide.name}", lambda: tissue_mask(slide), done, failed, self)


def _row(*widgets: QWidget) -> QWidget:
    box = QWidget()
    layout = QHBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(widgets[0], 1)
    for widget in widgets[1:]:
        layout.addWidget(widget)
    return box
