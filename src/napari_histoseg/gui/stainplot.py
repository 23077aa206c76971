"""A slide's stain in numbers that can be seen: a quality light, swatches, and a scatter of optical density."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QWidget

from napari_histoseg.slide.stain import StainProfile, StainVectors

if TYPE_CHECKING:
    from napari_histoseg.slide.stain import Quality

LIGHTS = {"good": ("#3fb950", "✓"), "doubtful": ("#e3a008", "!"), "refused": ("#f0524f", "✕")}
SIDE_PX = 20


class QualityLight(QWidget):
    """Good, doubtful or refused: a shape, a color and a word, and the reason beside it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.sign = QLabel()
        self.sign.setFixedSize(SIDE_PX, SIDE_PX)
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.sign, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.words, 1)
        self.light = ""
        self.show_words("")

    def show_quality(self, quality: Quality, used: str) -> None:
        """Show a light; ``used`` says which method it is of."""
        self.light = quality.light
        self.sign.setPixmap(_sign(quality.light, self.devicePixelRatioF()))
        self.sign.show()
        self.words.setText(f"<b>{quality.light.capitalize()}</b>{': ' if quality.reason else f', {used}'}{quality.reason}")
        self.setAccessibleName(f"Quality: {quality.light}. {quality.reason}")

    def show_words(self, words: str) -> None:
        """No light, only words."""
        self.light = ""
        self.sign.hide()
        self.words.setText(words)


def _sign(light: str, ratio: float) -> QPixmap:
    """A circle, a triangle or a square with its mark: told apart without color too."""
    color, mark = LIGHTS[light]
    pixmap = QPixmap(QSize(round(SIDE_PX * ratio), round(SIDE_PX * ratio)))
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(color))
    whole = QRectF(1, 1, SIDE_PX - 2, SIDE_PX - 2)
    if light == "good":
        painter.drawEllipse(whole)
    elif light == "doubtful":
        painter.drawPolygon(QPolygonF([QPointF(SIDE_PX / 2, 0), QPointF(SIDE_PX, SIDE_PX - 1), QPointF(0, SIDE_PX - 1)]))
        whole.translate(0, 2)
    else:
        painter.drawRoundedRect(whole, 3, 3)
    font = painter.font()
    font.setBold(True)
    font.setPixelSize(13)
    painter.setFont(font)
    painter.setPen(QColor("#101418"))
    painter.drawText(whole, Qt.AlignmentFlag.AlignCenter, mark)
    painter.end()
    return pixmap


def color_of(vector: tuple[float, float, float], amount: float, white: tuple[float, float, float]) -> QColor:
    """What an amount of pure stain looks like on the glass."""
    rgb = np.clip(np.asarray(white) * 10.0 ** (-np.asarray(vector) * amount), 0, 255).round().astype(int)
    return QColor(*(int(v) for v in rgb))


class Swatches(QWidget):
    """Hematoxylin and eosin of the slide and of the reference, as colors."""

    ROWS = ("Slide", "Reference")
    STAINS = ("Hematoxylin", "Eosin")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setHorizontalSpacing(4)
        layout.setVerticalSpacing(3)
        self.cells: dict[tuple[str, str], QLabel] = {}
        for i, row in enumerate(self.ROWS):
            layout.addWidget(QLabel(row), i, 0)
            for j, stain in enumerate(self.STAINS):
                cell = QLabel()
                cell.setAlignment(Qt.AlignmentFlag.AlignCenter)
                cell.setMinimumHeight(22)
                cell.setObjectName("histoseg-swatch")
                self.cells[row, stain] = cell
                layout.addWidget(cell, i, 1 + j)
        layout.setColumnStretch(1, 1)
        layout.setColumnStretch(2, 1)
        self.clear()

    def clear(self) -> None:
        """Nothing is known."""
        for cell in self.cells.values():
            cell.setText("–")
            cell.setToolTip("")
            cell.setStyleSheet("")

    def show_stains(self, row: str, profile: StainProfile | None, method: str) -> None:
        """Show a profile's two stains, at the amount that 99 % of the tissue stays below."""
        if profile is None:
            for stain in self.STAINS:
                cell = self.cells[row, stain]
                cell.setText("–")
                cell.setStyleSheet("")
                cell.setToolTip("The style holds no stain profile.")
            return
        stains = vectors_of(profile, method)
        for stain, vector, amount in zip(self.STAINS, stains.vectors, stains.concentrations, strict=True):
            color = color_of(vector, max(amount, 0.3), profile.white)
            text = "#000" if 0.3 * color.red() + 0.59 * color.green() + 0.11 * color.blue() > 120 else "#fff"
            cell = self.cells[row, stain]
            cell.setText(stain)
            cell.setStyleSheet(f"background: {color.name()}; color: {text}; border-radius: 3px;")
            numbers = ", ".join(f"{v:.2f}" for v in vector)
            cell.setToolTip(f"{stain} of '{profile.name}': optical density red, green, blue = {numbers}; 99th percentile of its amount {amount:.2f}.")


def vectors_of(profile: StainProfile, method: str) -> StainVectors:
    """The stain vectors that a method goes by; Macenko's where it goes by none."""
    return profile.vahadane if method == "vahadane" else profile.macenko


@dataclass
class Cloud:
    """What the scatter shows: densities (n, 2) of red and green, the pixels' colors (n, 3), and the axes."""

    density: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    colors: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    slide: StainVectors | None = None
    reference: StainVectors | None = None


class DensityPlot(QWidget):
    """Pixels of the view by their optical density in red and green, with the directions of the two stains."""

    MOST = 2000
    TOP = 1.6
    MARGIN = (36, 6, 6, 24)
    """Left, top, right, bottom, in pixels."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cloud = Cloud()
        self._drawn: QPixmap | None = None
        self.setMinimumSize(180, 150)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setToolTip(
            "Pixels of the view: optical density in red (across) and green (up); 0 is glass. Lines: hematoxylin (H) and "
            "eosin (E), whole ones of the slide, dashed ones of the reference, up to the amount that 99 % of the tissue stays below."
        )
        self.setAccessibleName("Optical density of the view, with the stain vectors")

    def sizeHint(self) -> QSize:
        """Wide enough for the dock."""
        return QSize(320, 170)

    def show_cloud(self, cloud: Cloud) -> None:
        """Show other pixels or other axes."""
        self.cloud, self._drawn = cloud, None
        self.update()

    def resizeEvent(self, event: Any) -> None:
        """Drawn anew."""
        self._drawn = None
        super().resizeEvent(event)

    def paintEvent(self, event: Any) -> None:
        """Drawn once, then copied."""
        if self._drawn is None:
            ratio = self.devicePixelRatioF()
            self._drawn = QPixmap(self.size() * ratio)
            self._drawn.setDevicePixelRatio(ratio)
            self._drawn.fill(Qt.GlobalColor.transparent)
            painter = QPainter(self._drawn)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            self._draw(painter)
            painter.end()
        QPainter(self).drawPixmap(0, 0, self._drawn)

    def _area(self) -> QRectF:
        left, top, right, bottom = self.MARGIN
        return QRectF(left, top, max(self.width() - left - right, 1), max(self.height() - top - bottom, 1))

    def _at(self, red: float, green: float) -> QPointF:
        area = self._area()
        return QPointF(area.left() + red / self.TOP * area.width(), area.bottom() - green / self.TOP * area.height())

    def _draw(self, painter: QPainter) -> None:
        area, ink = self._area(), self.palette().color(self.foregroundRole())
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor("#f4f1f4"))
        painter.drawRect(area)
        self._axes(painter, area, ink)
        painter.save()
        painter.setClipRect(area)
        painter.setPen(Qt.PenStyle.NoPen)
        for (red, green), color in zip(self.cloud.density, self.cloud.colors, strict=True):
            painter.setBrush(QColor(*(int(v) for v in color)))
            painter.drawEllipse(self._at(float(red), float(green)), 1.6, 1.6)
        painter.restore()
        if self.cloud.reference is not None:
            self._stains(painter, self.cloud.reference, Qt.PenStyle.DashLine)
        if self.cloud.slide is not None:
            self._stains(painter, self.cloud.slide, Qt.PenStyle.SolidLine)

    def _axes(self, painter: QPainter, area: QRectF, ink: QColor) -> None:
        font = painter.font()
        font.setPixelSize(10)
        painter.setFont(font)
        for value in (0.0, 0.5, 1.0, 1.5):
            across, up = self._at(value, 0), self._at(0, value)
            painter.setPen(QPen(QColor(0, 0, 0, 30), 1))
            painter.drawLine(across, QPointF(across.x(), area.top()))
            painter.drawLine(up, QPointF(area.right(), up.y()))
            painter.setPen(ink)
            painter.drawText(QRectF(across.x() - 15, area.bottom() + 1, 30, 12), Qt.AlignmentFlag.AlignHCenter, f"{value:g}")
            if value:
                painter.drawText(QRectF(0, up.y() - 7, area.left() - 3, 14), Qt.AlignmentFlag.AlignRight, f"{value:g}")
        painter.drawText(QRectF(area.left(), area.bottom() + 11, area.width(), 13), Qt.AlignmentFlag.AlignHCenter, "density in red")
        painter.save()
        painter.translate(9, area.center().y())
        painter.rotate(-90)
        painter.drawText(QRectF(-60, -8, 120, 12), Qt.AlignmentFlag.AlignHCenter, "in green")
        painter.restore()

    def _stains(self, painter: QPainter, stains: StainVectors, style: Qt.PenStyle) -> None:
        for name, vector, amount, color in zip("HE", stains.vectors, stains.concentrations, ("#3b2d8f", "#c2185b"), strict=True):
            reach = min(amount, 0.97 * self.TOP / max(*vector[:2], 1e-6))
            end = self._at(vector[0] * reach, vector[1] * reach)
            pen = QPen(QColor(color), 2.2)
            pen.setStyle(style)
            painter.setPen(pen)
            painter.drawLine(self._at(0, 0), end)
            if style == Qt.PenStyle.SolidLine:
                painter.setPen(QColor(color))
                painter.drawText(end + QPointF(4, 4), name)


def cloud_of(pixels: NDArray[np.uint8], white: tuple[float, float, float], most: int = DensityPlot.MOST) -> Cloud:
    """Up to ``most`` stained pixels of a picture (h, w, 3), evenly chosen."""
    flat = pixels.reshape(-1, 3)
    flat = flat[:: max(len(flat) // (4 * most), 1)]
    density = -np.log10(np.maximum(flat, 1) / np.asarray(white, float))
    stained = density.mean(1) > 0.05
    density, colors = density[stained], flat[stained]
    step = max(-(-len(density) // most), 1)
    return Cloud(density[::step, :2], colors[::step])
