"""The share of each class in the map against the stated one, by coarse label: what can be checked without masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QFont, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_histoseg.gui.curve import COLORS

MARGIN = (38, 22, 10, 34)
"""Pixels left, above, right and below the plot."""
HEIGHT_PX = 170
DOT_PX = 4.0
BAND_ALPHA = 110


@dataclass(frozen=True)
class Share:
    """What blocks with a coarse label hold of a class, 0–1; ``found`` None as long as none was mapped."""

    coarse: int
    coarse_name: str
    class_value: int
    class_name: str
    stated: float
    spread: float
    found: float | None = None

    @property
    def words(self) -> str:
        """In a sentence."""
        stated = f"stated {self.stated:.0%} ± {self.spread:.1%}"
        found = "no held-out block" if self.found is None else f"{self.found:.0%} in the map"
        return f"{self.coarse_name}, {self.class_name}: {found}, {stated}"


def shares_of(card: Any, names: Mapping[int, str], scores: Mapping[str, float] | None = None) -> list[Share]:
    """What a model card says: the table that was learned from, and the shares in held-out blocks of the last scoring.

    Parameters
    ----------
    card : ModelCard
    names : mapping of int to str
        What the coarse labels are called.
    scores : mapping of str to float, optional
        A scoring of its own; the card's, when none is given.
    """
    scores = card.scores.get("validation", card.scores) if scores is None else scores
    classes = {c["value"]: c["name"] for c in card.classes}
    rows = [row for data in card.data[:1] for row in data.get("statistics", ())]
    return [
        Share(
            row["coarse"], names.get(row["coarse"], str(row["coarse"])), row["class"], classes.get(row["class"], str(row["class"])),
            row["eta"], row["rho"], scores.get(f"share_{row['coarse']}_{row['class']}"),
        )
        for row in rows if row["class"]
    ]  # fmt: skip


class SharePlot(QWidget):
    """Bands are the stated shares with their standard deviation, dots the shares in the map; a color and a place for each class."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shares: list[Share] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Shares in the map against the table")

    def sizeHint(self) -> QSize:
        """Wide and low."""
        return QSize(320, HEIGHT_PX)

    def show_shares(self, shares: Sequence[Share]) -> None:
        """Plot these."""
        self.shares = list(shares)
        self.setAccessibleDescription("; ".join(share.words for share in self.shares))
        self.update()

    # -- places -----------------------------------------------------------------------------------------------------------

    @property
    def _coarse(self) -> list[int]:
        return list(dict.fromkeys(share.coarse for share in self.shares))

    @property
    def _classes(self) -> list[int]:
        return list(dict.fromkeys(share.class_value for share in self.shares))

    def _plot(self) -> QRectF:
        left, top, right, bottom = MARGIN
        return QRectF(left, top, self.width() - left - right, self.height() - top - bottom)

    def _column(self, share: Share) -> QRectF:
        """Where the share of a class in blocks of a label is drawn, from 0 to 100 %."""
        plot, coarse, classes = self._plot(), self._coarse, self._classes
        slot = plot.width() / max(len(coarse), 1)
        inner = 0.8 * slot
        width = inner / max(len(classes), 1)
        x = plot.left() + slot * coarse.index(share.coarse) + (slot - inner) / 2 + width * classes.index(share.class_value)
        return QRectF(x, plot.top(), width, plot.height())

    def at(self, x: float) -> list[Share]:
        """The shares of the coarse label at a place."""
        plot, coarse = self._plot(), self._coarse
        index = math.floor((x - plot.left()) / max(plot.width() / max(len(coarse), 1), 1e-6))
        return [share for share in self.shares if 0 <= index < len(coarse) and share.coarse == coarse[index]]

    def event(self, event: QEvent | None) -> bool:
        """Tips for what is under the mouse."""
        if event is not None and event.type() == QEvent.Type.ToolTip:
            words = "\n".join(share.words for share in self.at(event.pos().x()))  # type: ignore[attr-defined]
            QToolTip.showText(event.globalPos(), words, self)  # type: ignore[attr-defined]
            return True
        return super().event(event)

    # -- drawing ----------------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Axis, bands, dots and names."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = QFont(self.font())
        font.setPixelSize(10)
        painter.setFont(font)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        self._axis(painter, ink)
        colors = {value: QColor(COLORS[i % len(COLORS)]) for i, value in enumerate(self._classes)}
        for share in self.shares:
            self._draw(painter, share, colors[share.class_value], ink)
        self._legend(painter, colors, ink)
        painter.end()

    def _axis(self, painter: QPainter, ink: QColor) -> None:
        plot = self._plot()
        faint = QColor(ink)
        faint.setAlpha(60)
        for percent in (0, 50, 100):
            y = plot.bottom() - plot.height() * percent / 100
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
            painter.setPen(ink)
            painter.drawText(QRectF(0, y - 7, plot.left() - 4, 14), Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{percent} %")
        names = {share.coarse: share.coarse_name for share in self.shares}
        slot = plot.width() / max(len(names), 1)
        widest = max((painter.fontMetrics().horizontalAdvance(word) for name in names.values() for word in name.split()), default=0)
        # Where names would run into each other, the tips have all of them.
        each = math.ceil((widest + 4) / max(slot, 1.0))
        for i, name in list(enumerate(names.values()))[::each]:
            place = QRectF(plot.left() + (i + 0.5 - each / 2) * slot, plot.bottom() + 3, each * slot, MARGIN[3] - 4)
            painter.drawText(place, Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop | Qt.TextFlag.TextWordWrap, name)

    def _draw(self, painter: QPainter, share: Share, color: QColor, ink: QColor) -> None:
        column = self._column(share)

        def height(part: float) -> float:
            return column.bottom() - column.height() * min(max(part, 0.0), 1.0)

        top, bottom = height(share.stated + share.spread), height(share.stated - share.spread)
        band = QColor(color)
        band.setAlpha(BAND_ALPHA)
        painter.fillRect(QRectF(column.left() + 1, top, column.width() - 2, max(bottom - top, 2.0)), band)
        painter.setPen(QPen(color, 2))
        painter.drawLine(QPointF(column.left() + 1, height(share.stated)), QPointF(column.right() - 1, height(share.stated)))
        if share.found is not None:
            painter.setPen(QPen(ink, 1.2))
            painter.setBrush(color)
            painter.drawEllipse(QPointF(column.center().x(), height(share.found)), DOT_PX, DOT_PX)

    def _legend(self, painter: QPainter, colors: Mapping[int, QColor], ink: QColor) -> None:
        x, y = float(MARGIN[0]), 9.0
        painter.setPen(ink)
        names = {share.class_value: share.class_name for share in self.shares}
        for value, text in names.items():
            painter.fillRect(QRectF(x, y - 4, 10, 8), colors[value])
            painter.drawText(QPointF(x + 14, y + 4), text)
            x += 26 + painter.fontMetrics().horizontalAdvance(text)
