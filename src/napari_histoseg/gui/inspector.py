"""The inspector of classes: look at what a run grouped together, name it, and put right what is wrong. Shared by the docks of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractSpinBox, QComboBox, QLabel, QLineEdit, QTabWidget, QVBoxLayout, QWidget

from napari_histoseg.gui.annotatekeys import main_window
from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.inspectorgallery import Gallery
from napari_histoseg.gui.inspectorlist import KEYS, ClassBar
from napari_histoseg.gui.inspectormap import EmbeddingMap
from napari_histoseg.gui.inspectorplot import Measurements
from napari_histoseg.gui.inspectorslide import SlideLink
from napari_histoseg.gui.inspectorteach import Teach
from napari_histoseg.gui.qt import Signal

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

    from napari_histoseg.results import Result
    from napari_histoseg.slide import Slide

LEAST_PX = 380
"""Inside a dock that scrolls, pictures and map are no less high than this."""
CONTROL = Qt.KeyboardModifier.ControlModifier
SHIFT = Qt.KeyboardModifier.ShiftModifier


class ClusterInspector(QWidget):
    """Classes of a result: list, pictures, map, measurements, corrections.

    Names, colors and corrections are on the disk when they are seen. Works for objects with classes, and for maps of classes: with pictures and
    a map of their patches where they have some, and without corrections. When it has the focus, 1 to 9 give the chosen objects a class, Ctrl+Z and Ctrl+Shift+Z undo and redo, Esc chooses none.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    message = Signal(str)
    """A sentence: what was done, or why something was not."""
    changed = Signal()
    """Names, colors, or classes of objects changed; they are stored."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.desk = Desk(self)
        # Where the panel is after it was hidden is known a turn later.
        self._gone = QTimer(self)
        self._gone.setSingleShot(True)
        self._gone.timeout.connect(self._on_hidden)
        self.bar = ClassBar(self.desk)
        self.teach = Teach(self.desk)
        self.gallery = Gallery(self.desk)
        self.map = EmbeddingMap(self.desk)
        self.measurements = Measurements(self.desk)
        self.link = SlideLink(viewer, self.desk)
        self.tabs = QTabWidget()
        self.tabs.setMinimumHeight(LEAST_PX)
        self.state = QLabel()
        self.state.setWordWrap(True)
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        for part, name, tip in (
            (self.gallery, "Gallery", "Pictures of the class that is looked at."),
            (self.map, "Map", "All objects or patches by likeness; draw around points to choose them."),
            (self.measurements, "Measurements", "A measurement by class, and the stability of the clusters."),
        ):
            self.tabs.setTabToolTip(self.tabs.addTab(part, name), tip)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.bar)
        layout.addWidget(self.teach)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.state)
        self.state.hide()

    def _connect(self) -> None:
        desk = self.desk
        desk.message.connect(self.message)
        desk.busy_changed.connect(self._on_busy)
        desk.opened.connect(self._on_opened)
        desk.classes_changed.connect(self.changed)
        self.measurements.means.connect(self.bar.list.show_means)
        for widget in [self, *self.findChildren(QWidget)]:
            widget.installEventFilter(self)

    # -- which result -------------------------------------------------------------------------------------------------

    def show_result(self, result: Result, layer: Labels | None, slide: Slide | None) -> None:
        """Inspect a result.

        Parameters
        ----------
        result : Result
        layer : Labels or None
            The layer that shows its labels (ids of objects, or values of classes); it gets the colors of the classes.
        slide : Slide or None
            Where pictures are read; without it there are none.
        """
        self.desk.show(result, layer, slide)

    def clear(self) -> None:
        """Inspect nothing."""
        self.desk.clear()

    def release(self) -> None:
        """Let go of the viewer and of everything under way. Called when the panel's dock is closed; a panel that is shown again listens again."""
        self.clear()
        for part in (self.gallery, self.map, self.measurements, self.link):
            part.release()

    def showEvent(self, event: Any) -> None:
        """Listen to the viewer as long as the panel is part of a window."""
        super().showEvent(event)
        self.link.hold()

    def hideEvent(self, event: Any) -> None:
        """napari takes a closed dock's inside out of the window without a word; other docks are only hidden."""
        super().hideEvent(event)
        self._gone.start()

    def _on_hidden(self) -> None:
        if main_window(self) is None and not self.isVisible():
            self.release()

    def closeEvent(self, event: Any) -> None:
        """A panel that is closed leaves nothing behind."""
        self.release()
        super().closeEvent(event)

    def _on_opened(self) -> None:
        objects = self.desk.clusters is not None or self.desk.book is None
        self.tabs.setVisible(objects)
        self.tabs.setTabVisible(self.tabs.indexOf(self.measurements), not self.desk.is_map)
        classes = self.desk.classes
        if self.desk.value is None and classes:
            sizes = self.desk.sizes()
            self.desk.look_at(max(classes, key=lambda c: sizes.get(c.value, 0.0)).value)

    def _on_busy(self, words: str) -> None:
        self.state.setText(words)
        self.state.setVisible(bool(words))

    # -- keys ---------------------------------------------------------------------------------------------------------

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Keys of the panel, wherever in it the focus is, before any shortcut of the window; text fields keep theirs."""
        if isinstance(event, QKeyEvent) and not isinstance(watched, (QLineEdit, QAbstractSpinBox)) and not _typing(watched):
            if event.type() == QEvent.Type.ShortcutOverride and self._action(event) is not None:
                event.accept()
                return True
            if event.type() == QEvent.Type.KeyPress and (action := self._action(event)) is not None:
                action()
                return True
        return super().eventFilter(watched, event)

    def _action(self, event: QKeyEvent) -> Any:
        """What a key does; None when it is not one of the panel's."""
        key, modifiers = event.key(), event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
        row = key - Qt.Key.Key_1
        if not modifiers and 0 <= row < KEYS and not self.desk.is_map:
            return lambda: self.teach.assign_row(row)
        if not modifiers and key == Qt.Key.Key_Escape and len(self.desk.chosen):
            return lambda: self.desk.choose([])
        if key == Qt.Key.Key_Z and modifiers == CONTROL:
            return lambda: self.desk.do(self.desk.undo)
        if (key == Qt.Key.Key_Z and modifiers == CONTROL | SHIFT) or (key == Qt.Key.Key_Y and modifiers == CONTROL):
            return lambda: self.desk.do(self.desk.redo)
        return None


def _typing(watched: QObject | None) -> bool:
    return isinstance(watched, QComboBox) and watched.isEditable()
