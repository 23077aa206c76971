"""Looking at a heatmap: its outline follows a slider, and the run's own outline becomes polygons and regions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_histoseg.annotations.areas import Area
from napari_histoseg.errors import HistosegError, SlideError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.layers import KEY
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.tumourdraw import Between, Drawings
from napari_histoseg.gui.tumourmap import OUTLINE_COLOR, Heat, area_of_result, heat_of, written
from napari_histoseg.gui.tumouroutline import Ring, count_and_size, mm2, without_holes
from napari_histoseg.gui.tumourrun import as_line, kind_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_histoseg.gui.where import WherePicker
    from napari_histoseg.results import Result

log = logging.getLogger(__name__)

NAIVE = "Heatmap outline"
NAIVE_COLOR = "#1d3fff"
MARK = "histoseg threshold"
LINE_PX = 2.0
TITLES = {"refined": "Refined outline", "smoothed": "Smoothed outline", "threshold": "Outline at the run's threshold"}
SOURCE = "source"
"""Feature of drawn regions that were made of a result."""


class HeatPanel(QWidget):
    """Looks at one result: its heatmap, the outline of that at any threshold, the run's own outline, and how sure its edge is.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    where : WherePicker
        Its regions are those that every method runs on.
    """

    said = Signal(str)
    problem = Signal(str)
    refine = Signal()
    """Somebody wants the result outlined anew by the refining network."""

    def __init__(self, viewer: Viewer, where: WherePicker, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._where = viewer, where
        self.busy = False
        """Whether a run is under way, so that no other one can begin."""
        self.outline_of: Callable[[Result], str] = lambda result: ""
        """How a run whose outline was left to the model outlined; empty where nobody knows."""
        self.result: Result | None = None
        self.heat: Heat | None = None
        self.drawings = Drawings(viewer, self)
        self._followed: set[int] = set()
        self._drawn_width = 0.0
        self._measuring = Latest("Measuring the heatmap", self)
        self._outlining = Latest("Tracing the outline", self)
        self._redraw = QTimer(self)
        self._redraw.setSingleShot(True)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(120)
        self._make_parts()
        self._lay_out()
        self._connect()
        self._show_state()

    def _make_parts(self) -> None:
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setValue(50)
        self.slider.setPageStep(5)
        self.slider.setAccessibleName("Threshold of the heatmap, in percent")
        self.slider.setToolTip("Moves the outline of the heatmap at once; the run's own outline stays. Arrow keys: 1 %.")
        self.percent = QLabel()
        self.heat_box = QCheckBox("Heatmap")
        self.heat_box.setToolTip("The probability of tumour: blue is low, yellow from even odds on, orange is high.")
        self.naive_box = QCheckBox()
        self.naive_box.setToolTip("The outline of the heatmap at this threshold, in blue.")
        self.outline_box = QCheckBox()
        self.outline_box.setToolTip("The outline of the run, in red. With both check marks the two can be compared.")
        self.band_box = QCheckBox("Edge band")
        self.band_box.setToolTip("Where passes of the refining network with dropout differ. There is one where a run had uncertainty samples.")
        self.edited = QLabel()
        self.edited.setWordWrap(True)
        self.refine_button = button("Refine", "Outline this heatmap by the refining network; the patches are not looked at again.", self.refine.emit)
        self.polygons_button = button("Outline as polygons", "Make the run's outline a layer of shapes that can be corrected.", self.make_polygons)
        self.region_button = button("Use as region", "Make the outline the drawn regions, on which every method can run.", self.use_as_region)
        self.export_button = button("Export outline…", "Write the outline, as corrected, as GeoJSON for QuPath.", self._choose_export)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(QLabel("Threshold"))
        row.addWidget(self.slider, 1)
        row.addWidget(self.percent)
        layout.addLayout(row)
        boxes = QGridLayout()
        boxes.addWidget(_swatched(self.naive_box, NAIVE_COLOR), 0, 0)
        boxes.addWidget(self.heat_box, 0, 1)
        boxes.addWidget(_swatched(self.outline_box, OUTLINE_COLOR), 1, 0)
        boxes.addWidget(self.band_box, 1, 1)
        boxes.setColumnStretch(0, 1)
        layout.addLayout(boxes)
        grid = QGridLayout()
        for i, each in enumerate((self.refine_button, self.polygons_button, self.region_button, self.export_button)):
            grid.addWidget(each, i // 2, i % 2)
        layout.addLayout(grid)
        layout.addWidget(self.edited)

    def _connect(self) -> None:
        self.slider.valueChanged.connect(self._on_slider)
        self._redraw.timeout.connect(self._draw_lines)
        self._later.timeout.connect(self._fit_width)
        self.heat_box.toggled.connect(partial(self._set_visible, "probability"))
        self.outline_box.toggled.connect(partial(self._set_visible, "labels"))
        self.band_box.toggled.connect(partial(self._set_visible, "uncertainty"))
        self.naive_box.toggled.connect(self._on_naive)
        self.drawings.edited.connect(self._on_edited)
        self._measuring.failed.connect(self.problem)
        self._outlining.failed.connect(self.problem)
        self._viewer.scene.camera.events.zoom.connect(self._on_zoom)
        self._viewer.layers.events.removed.connect(self._on_removed)

    # -- which result -------------------------------------------------------------------------------------------------

    @property
    def threshold(self) -> float:
        """From 0 to 1."""
        return self.slider.value() / 100

    def layer(self, kind: str) -> Any:
        """The layer that shows a part of the result; None where there is none."""
        return next((x for x in self._viewer.layers if self.result is not None and result_of(x) is self.result and kind_of(x) == kind), None)

    def show_result(self, result: Result) -> None:
        """Look at a result."""
        if result is not self.result:
            self.result, self.heat = result, None
            threshold = result.record.settings.get("threshold", 0.5)
            with QSignalBlocker(self.slider):
                self.slider.setValue(round(100 * float(threshold)))
            self._measuring.ask(lambda: heat_of(result), self._on_heat)
            self.edited.setText("")
            self._on_edited(self._key)
        if (labels := self.layer("labels")) is not None:
            as_line(labels, float(self._viewer.scene.camera.zoom))
        self._show_state()

    def _on_heat(self, heat: Heat | None) -> None:
        self.heat = heat
        if self.naive_box.isChecked():
            self._draw_lines()
        self._show_state()

    def _on_removed(self, event: Any = None) -> None:
        if self.result is not None and self.layer("labels") is None and self.layer("probability") is None:
            self.result = self.heat = None
            self._measuring.drop()
            if (lines := self._lines()) is not None:
                lines.visible = False
        self._show_state()

    def show_state(self) -> None:
        """Show which layers there are."""
        self._show_state()

    def _show_state(self, event: Any = None) -> None:
        there = self.result is not None
        for box, kind in ((self.heat_box, "probability"), (self.outline_box, "labels"), (self.band_box, "uncertainty")):
            layer = self.layer(kind)
            box.setEnabled(layer is not None)
            with QSignalBlocker(box):
                box.setChecked(layer is not None and bool(layer.visible))
            if layer is not None and id(layer.events) not in self._followed:
                self._followed.add(id(layer.events))
                layer.events.visible.connect(self._show_state)
        lines = self._lines()
        with QSignalBlocker(self.naive_box):
            self.naive_box.setChecked(lines is not None and bool(lines.visible))
        self.slider.setEnabled(there and self.heat is not None)
        self.naive_box.setEnabled(there and self.heat is not None)
        finished = self.result is not None and self.result.finished
        for each in (self.refine_button, self.polygons_button, self.region_button, self.export_button):
            each.setEnabled(finished)
        self.refine_button.setEnabled(finished and not self.busy)
        self.percent.setText(f"{self.slider.value()} %")
        self.naive_box.setText(f"Heatmap ≥ {self.slider.value()} %" + (f": {mm2(self.heat.above(self.threshold))}" if self.heat else ""))
        self.outline_box.setText(self._title() + (f": {mm2(self.heat.outlined)}" if self.heat else ""))
        self.edited.setVisible(bool(self.edited.text()) and there)

    def _title(self) -> str:
        how = "" if self.result is None else str(self.result.record.settings.get("outline", ""))
        if how == "auto" and self.result is not None:
            how = self.outline_of(self.result)
        return TITLES.get(how, "Outline of the run")

    def _set_visible(self, kind: str, on: bool) -> None:
        if (layer := self.layer(kind)) is not None:
            layer.visible = on

    # -- the slider ---------------------------------------------------------------------------------------------------

    def _lines(self) -> Any:
        return next((x for x in self._viewer.layers if MARK in x.metadata), None)

    def _on_slider(self) -> None:
        # A mouse brings several places between two drawings; the last one counts.
        self._redraw.start(0)
        self._show_state()

    def _on_naive(self, on: bool) -> None:
        if on:
            self._draw_lines()
        elif (lines := self._lines()) is not None:
            lines.visible = False

    def _draw_lines(self) -> None:
        """The heatmap's outline at the threshold, in its one layer."""
        place = self.layer("probability") or self.layer("labels")
        if self.heat is None or place is None:
            return
        lines = self.heat.lines(self.threshold)
        data = lines if len(lines) else np.zeros((1, 2, 2))
        layer = self._lines()
        if layer is None:
            layer = self._made_lines(data, place)
        else:
            if not layer.visible:
                layer.visible = True
            if tuple(layer.scale) != tuple(place.scale) or tuple(layer.translate) != tuple(place.translate):
                layer.scale, layer.translate = place.scale, place.translate
            layer.data = data
        self._show_state()

    def _made_lines(self, data: Any, place: Any) -> Any:
        chosen = self._viewer.layers.selection.active
        self._drawn_width = self._width(place)
        layer = self._viewer.add_vectors(
            data,
            name=NAIVE,
            edge_color=NAIVE_COLOR,
            edge_width=self._drawn_width,
            vector_style="line",
            opacity=1.0,
            scale=place.scale,
            translate=place.translate,
            units=place.units,
            axis_labels=place.axis_labels,
            metadata={MARK: True},
        )
        layer.events.visible.connect(self._show_state)
        if chosen is not None:
            self._viewer.layers.selection.active = chosen
        return layer

    def _width(self, layer: Any) -> float:
        return LINE_PX / max(float(self._viewer.scene.camera.zoom), 1e-6) / float(layer.scale[-1])

    def _on_zoom(self, event: Any = None) -> None:
        self._later.start()

    def _fit_width(self) -> None:
        """Lines keep their width on the screen once zooming pauses."""
        if (labels := self.layer("labels")) is not None and labels.contour:
            as_line(labels, float(self._viewer.scene.camera.zoom))
        layer = self._lines()
        if layer is not None and layer.visible and not 0.8 < self._width(layer) / max(self._drawn_width, 1e-9) < 1.25:
            self._drawn_width = self._width(layer)
            layer.edge_width = self._drawn_width

    # -- polygons and regions -----------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        assert self.result is not None
        return f"outline of {self.result.path}"

    def _image(self) -> Any:
        """The layer of the result's slide.

        Raises
        ------
        SlideError
            It is not open.
        """
        assert self.result is not None
        record = self.result.record
        for layer in self._viewer.layers:
            slide = layer.metadata.get(KEY, {}).get("slide")
            if slide is not None and slide.fingerprint() == record.slide.fingerprint:
                return layer
        raise SlideError(f"The slide {record.slide.name} of this map is not open. Open it first.")

    def _with_area(self, then: Callable[[Area, Any], None]) -> None:
        """Do something with the outline: as it was corrected, or as the run made it."""
        result = self.result
        if result is None:
            return
        try:
            image = self._image()
        except HistosegError as error:
            self.problem.emit(str(error))
            return
        layer = self.drawings.layer(self._key)
        if layer is not None and not self.drawings.filling:
            area = self.drawings.area(layer, image)
            if area is None or area.is_empty:
                self.problem.emit("There is no outline: all of it was deleted. Remove its layer to take that of the run.")
                return
            then(area, image)
            return

        def traced(area: Area) -> None:
            if area.is_empty:
                self.problem.emit("There is no tumour in this result, so there is no outline.")
            elif result is self.result:
                then(area, image)

        self._outlining.ask(lambda: area_of_result(result), traced)

    def make_polygons(self) -> None:
        """A layer of shapes of the run's outline; one that is there is chosen."""

        def show(area: Area, image: Any) -> None:
            """Draw it, once it is traced."""
            assert self.result is not None
            name = self.result.record.slide.name
            layer = self.drawings.layer(self._key)
            if layer is None:
                layer = self.drawings.show(self._key, f"Outline of {name}", area, image, self.result.record.slide.mpp)
            self._viewer.layers.selection.active = layer
            if (lines := self.layer("labels")) is not None:
                lines.visible = False
            self._say_edited(area)

        self._with_area(show)

    def _on_edited(self, key: str) -> None:
        layer = self.drawings.layer(key)
        if self.result is not None and key == self._key and layer is not None:
            try:
                self._say_edited(self.drawings.area(layer, self._image()))
            except SlideError as error:
                log.debug("The outline cannot be measured: %s", error)

    def _say_edited(self, area: Area | None) -> None:
        mpp = None if self.result is None else self.result.record.slide.mpp
        self.edited.setText("Polygons: none" if area is None or area.is_empty else f"Polygons: {count_and_size(area, mpp)}")
        self._show_state()

    def use_as_region(self) -> None:
        """Make the outline the drawn regions."""
        self._with_area(self._put_regions)

    def _put_regions(self, area: Area, image: Any) -> None:
        key = self._key
        self._where.start_drawing()
        layer: Any = self._where.regions_layer()
        layer.mode = "pan_zoom"
        earlier = list(layer.features[SOURCE]) if SOURCE in layer.features else [""] * len(layer.data)
        layer.features = pd.DataFrame({SOURCE: earlier})
        layer.selected_data = {i for i, each in enumerate(earlier) if each == key}
        if layer.selected_data:
            layer.remove_selected()
        to = Between(image, layer)

        def put(points: Any) -> None:
            if layer in self._viewer.layers:
                layer.selected_data = set()
                layer.feature_defaults = pd.DataFrame({SOURCE: [key]})
                self.drawings.add(layer, to.to(points[:, ::-1] - 0.5))

        pieces = [Ring(np.asarray(part.exterior.coords)[:-1, :2]) for part in without_holes(area)]

        def named(_: Any = None) -> None:
            # What a person draws from here on is theirs.
            layer.feature_defaults = pd.DataFrame({SOURCE: [""]})

        self.drawings.pour(f"regions of {key}", [*(partial(put, piece.points) for piece in pieces), named])
        self.said.emit("The outline is drawn as regions. Choose 'Drawn regions' under Where of any method.")

    def _choose_export(self) -> None:
        if self.result is None:
            return
        proposed = self.result.path.with_suffix("").parent / f"{self.result.path.stem}.geojson"
        chosen, _ = QFileDialog.getSaveFileName(self, "Export the outline", str(proposed), "GeoJSON (*.geojson *.geojson.gz)")
        if chosen:
            self.export_to(Path(chosen))

    def export_to(self, path: Path) -> None:
        """Write the outline as GeoJSON."""

        def write(area: Area, image: Any) -> None:
            mpp = None if self.result is None else self.result.record.slide.mpp
            in_background("Exporting the outline", lambda: written(path, area, mpp), lambda _: self.said.emit(f"Wrote {path}"), self.problem.emit, self)

        self._with_area(write)


def _swatched(box: QCheckBox, color: str) -> QWidget:
    """A check box with the color of what it shows."""
    inside = QWidget()
    layout = QHBoxLayout(inside)
    layout.setContentsMargins(0, 0, 0, 0)
    mark = QLabel()
    mark.setFixedSize(14, 4)
    mark.setStyleSheet(f"background: {color};")
    layout.addWidget(mark)
    layout.addWidget(box, 1)
    return inside
