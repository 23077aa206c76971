"""The current view before and after, with a line to drag between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_histoseg.gui.qt import Signal

STEP = 0.02
KNOB_PX = 9.0
WORDS = ("before", "after")


def to_image(pixels: NDArray[np.uint8]) -> QImage:
    """A picture (h, w, 3) uint8 for Qt, with its own memory."""
    height, width = pixels.shape[:2]
    image: QImage = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    return image


class SplitView(QWidget):
    """Two pictures of the same place: the left part shows the first, the right part the second."""

    moved = Signal(float)
    """The line, as a part of the width."""
    resized = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._images: tuple[QImage, QImage] | None = None
        self._split = 0.5
        self.words = ""
        """What is said where there is no picture."""
        self.setToolTip("The current view: left as scanned, right normalized. Drag the line, or move it with the arrow keys.")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.setMinimumHeight(200)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAccessibleName("Before and after")

    def sizeHint(self) -> QSize:
        """As wide as the dock."""
        return QSize(320, 250)

    @property
    def split(self) -> float:
        """Where the line is, as a part of the picture's width."""
        return self._split

    @split.setter
    def split(self, value: float) -> None:
        self._split = min(max(value, 0.0), 1.0)
        self.update()
        self.moved.emit(self._split)

    @property
    def wanted_px(self) -> tuple[int, int]:
        """``(width, height)`` in pixels of the screen."""
        ratio = self.devicePixelRatioF()
        return max(round(self.width() * ratio), 16), max(round(self.height() * ratio), 16)

    def show_pictures(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> None:
        """Show two pictures (h, w, 3) of the same size."""
        self._images = to_image(before), to_image(after)
        self.update()

    def show_words(self, words: str) -> None:
        """Show a sentence in place of pictures."""
        self._images, self.words = None, words
        self.update()

    # -- painting and hands -----------------------------------------------------------------------------------------

    def _place(self) -> QRectF:
        """Where the pictures lie: as large as fits, in their own proportions."""
        if self._images is None:
            return QRectF(self.rect())
        size = self._images[0].size().scaled(self.size(), Qt.AspectRatioMode.KeepAspectRatio)
        return QRectF((self.width() - size.width()) / 2, (self.height() - size.height()) / 2, size.width(), size.height())

    def paintEvent(self, event: Any) -> None:
        """Both parts, the line, and the two words."""
        painter = QPainter(self)
        painter.setRenderHints(QPainter.RenderHint.SmoothPixmapTransform | QPainter.RenderHint.Antialiasing)
        if self._images is None:
            painter.setPen(self.palette().color(self.foregroundRole()))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self.words)
            return
        place = self._place()
        x = place.left() + self._split * place.width()
        parts = (place.left(), x), (x, place.right())
        for (left, right), image, word, side in zip(parts, self._images, WORDS, ("left", "right"), strict=True):
            painter.save()
            painter.setClipRect(QRectF(left, place.top(), right - left, place.height()))
            painter.drawImage(place, image)
            _label(painter, place, word, side)
            painter.restore()
        self._line(painter, x, place)

    def _line(self, painter: QPainter, x: float, place: QRectF) -> None:
        for color, width in ((QColor(0, 0, 0, 140), 4.0), (QColor("white"), 2.0)):
            painter.setPen(QPen(color, width))
            painter.drawLine(QPointF(x, place.top()), QPointF(x, place.bottom()))
        painter.setPen(QPen(QColor(40, 40, 40), 1))
        painter.setBrush(QColor("#ffb000") if self.hasFocus() else QColor("white"))
        middle = QPointF(x, place.center().y())
        painter.drawEllipse(middle, KNOB_PX, KNOB_PX)
        for sign in (-1, 1):
            tip = middle + QPointF(sign * 6, 0)
            for up in (-1, 1):
                painter.drawLine(tip, tip + QPointF(-sign * 3, up * 3))

    def mousePressEvent(self, event: Any) -> None:
        """The line comes to the mouse."""
        self._drag(event)

    def mouseMoveEvent(self, event: Any) -> None:
        """The line follows the mouse."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._drag(event)

    def _drag(self, event: Any) -> None:
        place = self._place()
        self.split = (event.position().x() - place.left()) / max(place.width(), 1)

    def keyPressEvent(self, event: Any) -> None:
        """Arrow keys, Home and End move the line."""
        keys = {
            Qt.Key.Key_Left: self._split - STEP,
            Qt.Key.Key_Right: self._split + STEP,
            Qt.Key.Key_Home: 0.0,
            Qt.Key.Key_End: 1.0,
        }
        if (key := Qt.Key(event.key())) in keys:
            self.split = keys[key]
        else:
            super().keyPressEvent(event)

    def resizeEvent(self, event: Any) -> None:
        """A picture of another size is wanted."""
        super().resizeEvent(event)
        self.resized.emit()


def _label(painter: QPainter, place: QRectF, word: str, side: str) -> None:
    metrics = painter.fontMetrics()
    width, height = metrics.horizontalAdvance(word) + 10, metrics.height() + 4
    left = place.left() + 4 if side == "left" else place.right() - width - 4
    box = QRectF(left, place.top() + 4, width, height)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(0, 0, 0, 150))
    painter.drawRoundedRect(box, 3, 3)
    painter.setPen(QColor("white"))
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, word)
