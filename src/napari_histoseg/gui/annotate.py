"""The panel for annotating patches, and the dock "Annotate" around it."""

import logging
from collections.abc import Sequence
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.gui.annotatebar import PlaceBar, ToolBar
from napari_histoseg.gui.annotateclasses import ClassTable
from napari_histoseg.gui.annotatedata import DatasetRow
from napari_histoseg.gui.annotateimport import ImportBar
from napari_histoseg.gui.annotatekeys import main_window
from napari_histoseg.gui.annotatelayers import warm_colors
from napari_histoseg.gui.annotatepatch import PatchList
from napari_histoseg.gui.annotateroom import room_of
from napari_histoseg.gui.header import SlideHeader
from napari_histoseg.gui.parts import column, group
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.warm import warm_method, warm_up

log = logging.getLogger(__name__)

MPP = 2.0
"""Suggested µm per pixel of new datasets: tissue and glands, not nuclei."""
PROBLEM_STYLE = "color: #ff8c66;"
DATASET, CLASSES, ANNOTATE, PATCHES = "Dataset", "Classes", "Annotate", "Patches"
PARTS = (DATASET, CLASSES, ANNOTATE, PATCHES)


class AnnotationPanel(QWidget):
    """Paint patches, give patches a class, keep both in a dataset. All panels of a window show the same dataset.

    Parameters
    ----------
    viewer : napari.Viewer
    header : SlideHeader
        Says which slide is annotated.
    mpp : float
        Suggested µm per pixel of new datasets.
    parts : sequence of str
        Which of its parts are seen, for docks that show them on several pages.
    """

    dataset_changed = Signal()
    """Another dataset, or none; see `session`."""
    changed = Signal(object)
    """Something in the dataset: `annotations.work.Changed`, with the ids of patches."""
    chosen_changed = Signal()
    """Another patch is in hand, see `chosen`."""

    def __init__(
        self, viewer: napari.viewer.Viewer, header: SlideHeader, mpp: float = MPP, parts: Sequence[str] = PARTS, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        # Superpixels, which the smart brush paints, are among the kernels that are compiled there.
        warm_method("tissue", "napari_histoseg.objects.superpixels")
        self.header = header
        self.room = room_of(viewer)
        self.desk, self.tools, self.keys = self.room.desk, self.room.tools, self.room.keys
        self.data = DatasetRow(self.desk, mpp)
        self.place = PlaceBar(self.desk, self.tools, self.keys)
        self.bar = ToolBar(self.desk, self.tools)
        self.classes = ClassTable(self.desk)
        self.list = PatchList(self.desk, self.room.patches)
        self.importing = ImportBar(self.desk)
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.message.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._parts = [
            group(DATASET, self.data),
            group(CLASSES, self.classes),
            group(ANNOTATE, self.place, self.bar),
            group(PATCHES, self.list),
        ]
        for part in self._parts:
            part.setVisible(part.title() in parts)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._parts[0], self.importing, self.message, *self._parts[1:]):
            layout.addWidget(widget)
        self._connect()
        self.room.join(self)
        self.follow()

    def _connect(self) -> None:
        desk = self.desk
        desk.said.connect(self._say)
        desk.problem.connect(self._complain)
        desk.loader.failed.connect(self._complain)
        desk.dataset_changed.connect(self.dataset_changed)
        desk.changed.connect(self.changed)
        desk.chosen_changed.connect(self.chosen_changed)
        desk.busy_changed.connect(self._on_busy)
        self.header.changed.connect(self.follow)
        desk.viewer.layers.events.removed.connect(self.follow)

    @property
    def session(self) -> AnnotationSession | None:
        """The dataset that is open."""
        return self.desk.session

    @property
    def chosen(self) -> str | None:
        """Id of the patch in hand."""
        return self.desk.chosen

    def go_to(self, number: str) -> None:
        """Fly to a patch and take it in hand."""
        self.desk.do(lambda: self.desk.go_to(number))

    def follow(self, event: Any = None) -> None:
        """Annotate the slide that the header of the panel in sight names; of any, when none is in sight."""
        if self.isVisible() or not self.keys.in_sight:
            self.desk.use(self.header.layer)

    def showEvent(self, event: QShowEvent | None) -> None:
        """The keys work from now on."""
        super().showEvent(event)
        # As high for one line as for two, so that nothing moves away from under the mouse; the window's font is known now.
        for label in (self.message, self.bar.hint):
            text = label.text()
            label.setText("M\nM")
            label.setMinimumHeight(label.sizeHint().height())
            label.setText(text)
        self.room.join(self)
        self.keys.shown(self)
        self.follow()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """The keys belong to others again."""
        super().hideEvent(event)
        self.keys.hidden(self)
        QTimer.singleShot(0, self.leave_if_closed)

    def leave_if_closed(self) -> None:
        """Hidden docks stay in the window; closed ones do not, and leave the dataset."""
        if main_window(self) is None:
            self.room.leave(self)

    def _say(self, sentence: str) -> None:
        self._show_message(sentence, "")

    def _complain(self, sentence: str) -> None:
        self._show_message(sentence, PROBLEM_STYLE)

    def _show_message(self, sentence: str, style: str) -> None:
        self.message.setStyleSheet(style)
        self.message.setText(sentence)

    def _on_busy(self) -> None:
        for part in self._parts:
            part.setEnabled(not self.desk.busy)


class AnnotateDock(QScrollArea):
    """The annotation panel as a dock of its own.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        warm_up(napari_viewer)
        warm_colors(np.uint8)
        self.viewer = napari_viewer
        self.header = SlideHeader(napari_viewer, stain=False)
        self.panel = AnnotationPanel(napari_viewer, self.header)
        self.header.message.connect(self.panel._complain)
        self.setWidget(column(self.header, self.panel))
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(340)
