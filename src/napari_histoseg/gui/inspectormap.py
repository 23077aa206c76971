"""The embedding as a map: a point an object, in the color of its class. Draw around points to choose them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, QTimer
from qtpy.QtGui import (
    QColor,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QPolygonF,
    QResizeEvent,
    QWheelEvent,
)
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_histoseg.gui.inspectorcolors import UNKNOWN_COLOR, codes_of, rgba
from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.inspectorraster import Placed, View, fitted, inside_polygon, picture, placed
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.qt import Signal

PCA, TSNE, UMAP = "pca", "tsne", "umap"
KINDS = {
    PCA: ("PCA", "The two directions in which objects differ most. At once."),
    TSNE: ("t-SNE", "Keeps neighbors together; distances between groups say little. Takes about half a minute."),
    UMAP: ("UMAP", "Keeps neighbors together and some of the large order. Takes a while."),
}
RINGS = 40
"""So many chosen points at most get a ring each."""
NEAR_PX = 8
"""A click takes the nearest point within this."""
CLICK_PX = 4
ZOOM_STEP = 1.25
LASSO_COLOR = "#ffe14d"
TIP = (
    "Each point is one of the {}; near ones look alike. Drag around points to choose them, with Shift to choose more; a click chooses one and goes "
    "there. Wheel, + and − zoom; drag with the right or middle button, or the arrow keys, to move; Home shows all, Esc chooses none."
)


class PointMap(QWidget):
    """Many points, drawn at once; lasso, click, zoom and pan."""

    lassoed = Signal(object, bool)
    """Positions inside the lasso; whether they come besides those chosen before."""
    clicked = Signal(int, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.points: NDArray[np.float32] = np.empty((0, 2), np.float32)
        self._codes: NDArray[Any] = np.empty(0, np.int64)
        self._palette: NDArray[np.uint8] = np.zeros((1, 3), np.uint8)
        self._chosen: NDArray[np.intp] = np.empty(0, np.intp)
        self.view = View(0.0, 0.0, 1.0)
        self._image: QImage | None = None
        self._placed: tuple[View, Placed] | None = None
        self._lasso: list[QPointF] = []
        self._held: QPointF | None = None
        self._more = False
        self.setMinimumSize(160, 160)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setToolTip(TIP.format("objects"))
        self.setAccessibleName("Map of the embedding")

    def sizeHint(self) -> QSize:
        """About square in the dock."""
        return QSize(320, 280)

    # -- what is shown ------------------------------------------------------------------------------------------------

    def show_points(self, points: NDArray[np.float32]) -> None:
        """Show other points, all of them."""
        self.points, self._placed = points, None
        if len(self._codes) != len(points):
            self._codes = np.zeros(len(points), np.int64)
            self._chosen = np.empty(0, np.intp)
        self.fit()

    def show_colors(self, codes: NDArray[Any], palette: NDArray[np.uint8]) -> None:
        """Rows of the palette (k, 3) by point."""
        self._codes, self._palette = codes, palette
        self._redraw()

    def show_chosen(self, positions: NDArray[np.intp]) -> None:
        """Bring some points out."""
        self._chosen = positions
        self._redraw()

    def fit(self) -> None:
        """Show all points."""
        self.view = fitted(self.points, max(self.width(), 1), max(self.height(), 1))
        self._redraw()

    def zoom(self, factor: float, around: QPointF | None = None) -> None:
        """Magnify around a place of the widget, else around the middle."""
        place = np.array([[self.width() / 2, self.height() / 2]] if around is None else [[around.x(), around.y()]])
        (x, y), scale = self.view.to_points(place, self.width(), self.height())[0], self.view.scale * factor
        self.view = View(x + (self.view.x - x) / factor, y + (self.view.y - y) / factor, scale)
        self._redraw()

    def pan(self, dx: float, dy: float) -> None:
        """Move what is shown by so many pixels."""
        self.view = View(self.view.x - dx / self.view.scale, self.view.y + dy / self.view.scale, self.view.scale)
        self._redraw()

    def _redraw(self) -> None:
        self._image = None
        self.update()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """As much of the map as before, in the new size."""
        old = event.oldSize() if event is not None else QSize()
        if old.width() > 0 and old.height() > 0 and len(self.points):
            factor = min(self.width(), self.height()) / max(min(old.width(), old.height()), 1)
            self.view = View(self.view.x, self.view.y, self.view.scale * factor)
        elif len(self.points):
            self.view = fitted(self.points, max(self.width(), 1), max(self.height(), 1))
        self._redraw()

    # -- drawing ------------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """The points as one image, and the lasso over them."""
        painter = QPainter(self)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        frame = QColor(ink)
        frame.setAlpha(70)
        # Near black or near white, as the theme is: colors of classes are seen on both.
        painter.fillRect(self.rect(), QColor("#16181c" if ink.lightness() > 127 else "#fbfbfc"))
        if self._image is None:
            self._image = self._drawn()
        painter.drawImage(self.rect(), self._image)
        painter.setPen(QPen(frame, 1))
        painter.drawRect(QRectF(0.5, 0.5, self.width() - 1, self.height() - 1))
        if 0 < len(self._chosen) <= RINGS:
            self._rings(painter, ink)
        if len(self._lasso) > 1:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            color = QColor(LASSO_COLOR if ink.lightness() > 127 else "#8a6d00")
            painter.setPen(QPen(color, 1.5))
            color.setAlpha(40)
            painter.setBrush(color)
            painter.drawPolygon(QPolygonF(self._lasso))
        painter.end()

    def _rings(self, painter: QPainter, ink: QColor) -> None:
        """A ring around each of a few chosen points, which would be lost in a crowd."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(ink, 1.5))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for x, y in self.view.to_pixels(self.points[self._chosen], self.width(), self.height()):
            if np.isfinite([x, y]).all():
                painter.drawEllipse(QPointF(x, y), 5.0, 5.0)

    def _drawn(self) -> QImage:
        ratio = self.devicePixelRatioF()
        wide, high = max(round(self.width() * ratio), 1), max(round(self.height() * ratio), 1)
        view = View(self.view.x, self.view.y, self.view.scale * ratio)
        known = self._placed
        if known is None or known[0] != view or (known[1].width, known[1].height) != (wide, high):
            known = self._placed = (view, placed(self.points, view, wide, high))
        chosen: NDArray[np.bool_] | None = None
        if len(self._chosen):
            chosen = np.zeros(len(self.points), bool)
            chosen[self._chosen] = True
        data = picture(known[1], self._codes, self._palette, chosen).tobytes()
        return QImage(data, wide, high, 4 * wide, QImage.Format.Format_RGBA8888).copy()

    # -- mouse and keys -----------------------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Begin a lasso, or take hold of the map."""
        if event is None:
            return
        if event.button() == Qt.MouseButton.LeftButton:
            self._lasso = [event.position()]
            self._more = bool(event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier))
        else:
            self._held = event.position()

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Draw on, or move the map along."""
        if event is None:
            return
        if self._lasso:
            self._lasso.append(event.position())
            self.update()
        elif self._held is not None:
            moved = event.position() - self._held
            self._held = event.position()
            self.pan(moved.x(), moved.y())

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """Choose what the lasso holds, or the point under a click."""
        drawn, self._lasso, self._held = self._lasso, [], None
        if not drawn:
            return
        self.update()
        corners = np.array([[point.x(), point.y()] for point in drawn])
        if np.ptp(corners, axis=0).max() <= CLICK_PX:
            position = self.nearest(drawn[0])
            if position >= 0:
                self.clicked.emit(position, self._more)
        else:
            self.lassoed.emit(self.inside(corners), self._more)

    def inside(self, corners: NDArray[np.floating]) -> NDArray[np.intp]:
        """Positions of the points inside a polygon (m, 2) of widget pixels (x, y)."""
        return inside_polygon(self.points, self.view.to_points(corners, self.width(), self.height()))

    def nearest(self, place: QPointF) -> int:
        """Position of the point at a place of the widget; -1 when none is near."""
        if not len(self.points):
            return -1
        at = self.view.to_points(np.array([[place.x(), place.y()]]), self.width(), self.height())[0]
        apart = np.hypot(*(self.points - at).T)
        if not np.isfinite(apart).any():
            return -1
        best = int(np.nanargmin(apart))
        return best if apart[best] * self.view.scale <= NEAR_PX else -1

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:
        """Nothing more than two clicks."""

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Zoom around the cursor."""
        if event is not None:
            self.zoom(ZOOM_STEP ** (event.angleDelta().y() / 120), event.position())
            event.accept()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Zoom, move and fit by keys."""
        if event is None:
            return
        step = 40
        keys: dict[int, Any] = {
            Qt.Key.Key_Plus: partial(self.zoom, ZOOM_STEP),
            Qt.Key.Key_Equal: partial(self.zoom, ZOOM_STEP),
            Qt.Key.Key_Minus: partial(self.zoom, 1 / ZOOM_STEP),
            Qt.Key.Key_Home: self.fit,
            Qt.Key.Key_Left: partial(self.pan, step, 0),
            Qt.Key.Key_Right: partial(self.pan, -step, 0),
            Qt.Key.Key_Up: partial(self.pan, 0, step),
            Qt.Key.Key_Down: partial(self.pan, 0, -step),
        }
        if (action := keys.get(event.key())) is not None:
            action()
        else:
            super().keyPressEvent(event)


class EmbeddingMap(QWidget):
    """The map, and which kind of map it is.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self.work = Latest("Map of the embedding", self)
        self.points = PointMap()
        self.kind = QComboBox()
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.cancel_button = button("Cancel", "Stop waiting for the map and keep the one that is shown.", self.cancel)
        self.fit_button = button("Show all", "Show all points (Home).", self.points.fit)
        self._shown = PCA
        # Several changes of one turn of the event loop are drawn once.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._show_colors)
        self._lay_out()
        self._connect()
        self._on_opened()

    def _lay_out(self) -> None:
        from napari_histoseg.results.clusters import plane_kinds

        possible: Sequence[str] = plane_kinds()
        for name, (title, tip) in KINDS.items():
            self.kind.addItem(title, name)
            row = self.kind.count() - 1
            missing = name not in possible
            self.kind.setItemData(row, "Needs the package umap-learn: pip install umap-learn" if missing else tip, Qt.ItemDataRole.ToolTipRole)
            model: Any = self.kind.model()
            model.item(row).setEnabled(not missing)
        self.kind.setToolTip("How the embedding is laid out in two dimensions.")
        self.kind.setAccessibleName("Kind of map")
        row_of = QHBoxLayout()
        for each in (self.kind, self.fit_button, self.cancel_button):
            row_of.addWidget(each)
        row_of.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.setSpacing(4)
        layout.addLayout(row_of)
        layout.addWidget(self.words)
        layout.addWidget(self.points, 1)

    def _connect(self) -> None:
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.work.failed.connect(self._on_failed)
        self.work.busy.connect(self._on_busy)
        self.points.lassoed.connect(self._on_lasso)
        self.points.clicked.connect(self._on_click)
        self._desk.opened.connect(self._on_opened)
        self._desk.classes_changed.connect(self._later.start)
        self._desk.chosen_changed.connect(self._show_chosen)

    def release(self) -> None:
        """Wait for nothing more."""
        self.work.drop()

    # -- showing ------------------------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        self.work.drop()
        there = self._desk.clusters is not None
        for each in (self.kind, self.points, self.fit_button):
            each.setEnabled(there)
        if not there:
            self._say("A map of classes has no objects to show." if self._desk.book is not None else "No result is open.")
            self.points.show_points(np.empty((0, 2), np.float32))
            return
        self._say("")
        self.points.setToolTip(TIP.format(self._desk.nouns))
        self._show_colors()
        self._make(str(self.kind.currentData()))

    def _make(self, kind: str) -> None:
        clusters: Any = self._desk.clusters
        if clusters is not None:
            # A map that takes long is not waited for when another one is wanted.
            self.work.drop()
            self.work.ask(lambda: clusters.plane(kind), partial(self._on_plane, kind))

    def _on_plane(self, kind: str, plane: NDArray[np.float32]) -> None:
        self._shown = kind
        self.points.show_points(plane)
        self._show_colors()
        placed = int(np.isfinite(plane).all(1).sum())
        self.points.setAccessibleDescription(f"{KINDS[kind][0]} of {placed:,} {self._desk.nouns}")
        self._say("" if placed else f"The {self._desk.nouns} have no embedding and no measurements to lay them out by.")

    def _on_kind(self, index: int) -> None:
        kind = str(self.kind.currentData())
        if kind != self._shown:
            self._make(kind)

    def cancel(self) -> None:
        """Keep the map that is shown."""
        self.work.drop()
        self._show_kind()

    def _on_failed(self, sentence: str) -> None:
        self._show_kind()
        self._desk.message.emit(sentence)

    def _show_kind(self) -> None:
        self.kind.blockSignals(True)
        self.kind.setCurrentIndex(self.kind.findData(self._shown))
        self.kind.blockSignals(False)
        self._say("")

    def _on_busy(self, busy: bool) -> None:
        self.cancel_button.setVisible(busy)
        if busy:
            self._say(f"Laying the {self._desk.nouns} out by {self.kind.currentText()}…")

    def _say(self, words: str) -> None:
        self.words.setText(words)
        self.words.setVisible(bool(words))

    def _show_colors(self) -> None:
        classes = self._desk.classes
        colors = [*(c.color for c in classes), UNKNOWN_COLOR]
        palette = (255 * np.array([rgba(color)[:3] for color in colors])).round().astype(np.uint8)
        self.points.show_colors(codes_of(self._desk.values, [c.value for c in classes]) - 1, palette)

    def _show_chosen(self) -> None:
        self.points.show_chosen(self._desk.chosen)

    # -- choosing -----------------------------------------------------------------------------------------------------

    def _on_lasso(self, positions: Any, more: bool) -> None:
        self._desk.choose(positions, add=more)
        self._desk.gathered.emit()

    def _on_click(self, position: int, more: bool) -> None:
        if more:
            self._desk.toggle(position)
        else:
            self._desk.choose([position])
            self._desk.fly.emit(position)
