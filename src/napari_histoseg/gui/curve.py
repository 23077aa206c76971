"""A learning curve that grows: losses from the left axis, the held-out score on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QFont, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

COLORS = ("#56b4e9", "#e69f00", "#cc79a7")
"""Of the losses, in the order in which they came (Okabe & Ito: told apart by color-blind eyes)."""
SCORE_COLOR = "#2ca58d"
MARGIN = (38, 20, 34, 18)
"""Pixels left, above, right and below the plot."""
LINE_PX = 14
"""Between two rows of names."""


class LearningCurve(QWidget):
    """Losses by step as lines, held-out scores as dots."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.noun = "loss"
        """What the lines are called in words."""
        self.shares: frozenset[str] = frozenset()
        """Lines from 0 to 1, on the right axis."""
        self.scored = True
        """Whether there is a right axis."""
        self.height_px = 150
        self.losses: dict[str, list[tuple[int, float]]] = {}
        self.scores: list[tuple[int, float]] = []
        self.steps = 1
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Learning curve")

    def sizeHint(self) -> QSize:
        """Wide and low."""
        return QSize(320, self.height_px)

    def clear(self, steps: int) -> None:
        """Begin a training of so many steps."""
        self.losses, self.scores, self.steps = {}, [], max(steps, 1)
        self.update()

    def add_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Losses by name at a step."""
        for name, value in losses.items():
            self.losses.setdefault(name, []).append((step, value))
        self._tell()

    def add_score(self, step: int, score: float) -> None:
        """A held-out score, 0 to 1, at a step."""
        self.scores.append((step, score))
        self._tell()

    def _tell(self) -> None:
        parts = [f"{name} {self.noun} {values[-1][1]:.3g}".replace("  ", " ") for name, values in self.losses.items()]
        if self.scores:
            best = max(score for _, score in self.scores)
            parts.append(f"held-out score {self.scores[-1][1]:.3f}, best {best:.3f}")
        self.setToolTip(", ".join(parts))
        self.setAccessibleDescription(", ".join(parts))
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Axes, lines, dots and their names."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        left, top, right, bottom = MARGIN
        painter.setFont(self._font())
        entries = [*zip(self.losses, COLORS, strict=False), *([("score", SCORE_COLOR)] if self.scores else [])]
        places = self._places(painter, entries)
        top += LINE_PX * max((row for _, row in places), default=0)
        plot = QRectF(left, top, self.width() - left - right, self.height() - top - bottom)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        lines = [line for name, line in self.losses.items() if name not in self.shares]
        highest = nice_top(max((value for line in lines for _, value in line[len(line) // 20 :]), default=1.0))
        self._axes(painter, plot, ink, highest)
        self._legend(painter, entries, places)
        painter.setClipRect(plot.adjusted(-4, -4, 4, 4))
        for color, (name, line) in zip(COLORS, self.losses.items(), strict=False):
            painter.setPen(QPen(QColor(color), 1.6))
            scale = 1.0 if name in self.shares else highest
            painter.drawPolyline(QPolygonF([self._at(plot, step, value / scale) for step, value in line]))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(SCORE_COLOR))
        for step, score in self.scores:
            painter.drawEllipse(self._at(plot, step, score), 3.0, 3.0)
        painter.end()

    def _at(self, plot: QRectF, step: int, height: float) -> QPointF:
        return QPointF(plot.left() + plot.width() * step / self.steps, plot.bottom() - plot.height() * min(max(height, 0.0), 1.0))

    def _axes(self, painter: QPainter, plot: QRectF, ink: QColor, highest: float) -> None:
        faint = QColor(ink)
        faint.setAlpha(90)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(plot)
        painter.setPen(ink)
        for part in (0.0, 0.5, 1.0):
            y = plot.bottom() - part * plot.height()
            painter.drawText(QRectF(0, y - 7, plot.left() - 4, 14), Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{part * highest:.2g}")
            if self.scored:
                painter.drawText(QRectF(plot.right() + 4, y - 7, 30, 14), Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, f"{part:.1f}")
        painter.drawText(QRectF(plot.left(), plot.bottom() + 2, plot.width(), 14), Qt.AlignmentFlag.AlignRight, f"{self.steps} steps")

    def _font(self) -> QFont:
        font = self.font()
        font.setPixelSize(10)
        return font

    def _places(self, painter: QPainter, entries: Sequence[tuple[str, str]]) -> list[tuple[float, int]]:
        """Left edge and row of each name above the plot; what does not fit into a row begins the next."""
        left, _, right, _ = MARGIN
        x, row = float(left), 0
        places = []
        for name, _ in entries:
            width = 26 + painter.fontMetrics().horizontalAdvance(name)
            if x > left and x + width - 12 > self.width() - right:
                x, row = float(left), row + 1
            places.append((x, row))
            x += width
        return places

    @staticmethod
    def _legend(painter: QPainter, entries: Sequence[tuple[str, str]], places: Sequence[tuple[float, int]]) -> None:
        for (name, color), (x, row) in zip(entries, places, strict=True):
            y = 7 + LINE_PX * row
            painter.fillRect(QRectF(x, y, 10, 3), QColor(color))
            painter.drawText(QPointF(x + 14, y + 6), name)


def nice_top(value: float) -> float:
    """The next of 1, 2, 5 × 10^n that is not below a value."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(k * power for k in (1, 2, 5, 10) if k * power >= value * (1 - 1e-9)))
