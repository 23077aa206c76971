"""The dock "Objects": the table of a result, linked both ways with the picture."""

from typing import Any

import napari
from qtpy.QtCore import QModelIndex, QSignalBlocker, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDockWidget,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.gui.export import export_result
from napari_histoseg.gui.highlight import center_of, fly_to, highlight
from napari_histoseg.gui.jobs import Job
from napari_histoseg.gui.progress import ProgressPanel
from napari_histoseg.gui.shown import result_layers_of, result_of
from napari_histoseg.gui.slides import open_slide_by
from napari_histoseg.gui.tablemodel import TableModel


class ObjectsDock(QWidget):
    """A row an object: click it to fly there; pick an object in the picture to find its row.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.layer: napari.layers.Labels | None = None
        self._placed = False
        self.results = QComboBox()
        self.results.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.count = QLabel("no result is open")
        self.model = TableModel()
        self.view = QTableView()
        self.export_button = QPushButton("Export…")
        self.progress = ProgressPanel()
        self.exporting: Job | None = None
        # Corrections come in bursts; the table follows once they pause.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(150)
        self._later.timeout.connect(self.reload)
        self._lay_out()
        self._connect()
        self._on_layers()

    def _lay_out(self) -> None:
        self.view.setModel(self.model)
        self.view.setSortingEnabled(True)
        self.view.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setWordWrap(False)
        header = self.view.verticalHeader()
        if header is not None:
            header.setDefaultSectionSize(22)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        top = QHBoxLayout()
        top.addWidget(self.results, 1)
        top.addWidget(self.count)
        top.addWidget(self.export_button)
        layout.addLayout(top)
        layout.addWidget(self.view, 1)
        layout.addWidget(self.progress)
        self.setMinimumHeight(160)

    def _connect(self) -> None:
        self.view.clicked.connect(self._on_clicked)
        self.results.currentIndexChanged.connect(self._on_chosen)
        self.export_button.clicked.connect(self._export)
        self.viewer.layers.events.inserted.connect(self._on_layers)
        self.viewer.layers.events.removed.connect(self._on_layers)
        self.viewer.layers.selection.events.active.connect(self._on_active)

    def showEvent(self, event: Any) -> None:
        """A table wants width: the first time, a dock that napari put at the side goes to the bottom."""
        super().showEvent(event)
        if not self._placed:
            self._placed = True
            # Qt crashes when docks are moved while they are being shown.
            QTimer.singleShot(0, self._to_bottom)

    def _to_bottom(self) -> None:
        dock, window = self._dock(), self.window()
        if dock is None or not isinstance(window, QMainWindow) or dock.isFloating():
            return
        if window.dockWidgetArea(dock) == Qt.DockWidgetArea.RightDockWidgetArea:
            window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, dock)

    def _dock(self) -> QDockWidget | None:
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QDockWidget):
            parent = parent.parentWidget()
        return parent

    # -- which result ----------------------------------------------------------------------------------------------

    def _on_layers(self, event: Any = None) -> None:
        layers = result_layers_of(self.viewer)
        kept = self.layer if self.layer in layers else (layers[-1] if layers else None)
        with QSignalBlocker(self.results):
            self.results.clear()
            for layer in layers:
                self.results.addItem(layer.name, layer)
            self.results.setCurrentIndex(self.results.findData(kept))
        self._use(kept)

    def _on_active(self, event: Any = None) -> None:
        active = self.viewer.layers.selection.active
        if result_of(active) is None or active is self.layer:
            return
        # A run's layer becomes a result's when the run ends: it may not be in the list yet.
        self._on_layers()
        index = self.results.findData(active)
        if index >= 0:
            self.results.setCurrentIndex(index)

    def _on_chosen(self, index: int) -> None:
        self._use(self.results.itemData(index) if index >= 0 else None)

    def _use(self, layer: Any) -> None:
        if layer is self.layer and layer is not None:
            return
        if self.layer is not None:
            self.layer.events.features.disconnect(self._on_features)
            self.layer.events.selected_label.disconnect(self._on_picked)
        self.layer = layer
        if layer is not None:
            layer.events.features.connect(self._on_features)
            layer.events.selected_label.connect(self._on_picked)
        self.reload()

    def _on_features(self, event: Any = None) -> None:
        self._later.start()

    def reload(self) -> None:
        """Show the objects as they are now."""
        result = result_of(self.layer)
        self.export_button.setEnabled(result is not None)
        if result is None or not result.has_objects:
            self.model.set_frame(self.model.frame.iloc[:0])
            self.count.setText("no result is open" if result is None else "this result has no objects")
            return
        self.model.set_frame(result.objects)
        self.count.setText(f"{len(result.objects):,} objects")

    # -- linked both ways --------------------------------------------------------------------------------------------

    def _on_clicked(self, index: QModelIndex) -> None:
        result = result_of(self.layer)
        if self.layer is None or result is None:
            return
        row = self.model.object_at(index.row())
        fly_to(self.viewer, center_of(self.layer, result, row))
        with self.layer.events.selected_label.blocker():
            self.layer.selected_label = int(row["id"])
        highlight(self.viewer, self.layer, row)

    def _on_picked(self, event: Any = None) -> None:
        if self.layer is None:
            return
        row = self.model.row_of(int(self.layer.selected_label))
        if row >= 0:
            self.view.selectRow(row)
            self.view.scrollTo(self.model.index(row, 0), QAbstractItemView.ScrollHint.PositionAtCenter)
            highlight(self.viewer, self.layer, self.model.object_at(row))

    def _export(self) -> None:
        if self.exporting is not None:
            self.exporting.cancel()
            return
        result = result_of(self.layer)
        if result is not None:
            slide = open_slide_by(result.record.slide.fingerprint, self.viewer.layers)
            self._wait_for(export_result(self, result, slide, self.progress, lambda text: self.progress.say(text, problem=True)))

    def _wait_for(self, job: Job | None) -> None:
        """While an export is written, its button cancels it."""
        self.exporting = job
        if job is not None:
            self.export_button.setText("Cancel")
            job.ended.connect(self._on_exported)

    def _on_exported(self) -> None:
        self.exporting = None
        self.export_button.setText("Export…")
