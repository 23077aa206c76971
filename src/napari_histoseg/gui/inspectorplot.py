"""Measurements by class: a box plot, the means for the list, and how stable the clusters are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSignalBlocker, QSize, Qt
from qtpy.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QToolTip, QVBoxLayout, QWidget

from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.tablemodel import TITLES, text_of

if TYPE_CHECKING:
    from napari_histoseg.results.clusters import Clusters

ROW_PX = 24
AXIS_PX = 22
NAME_PX = 96
SEEDS = 5
SAMPLE = 20_000
"""Stability is told from at most so many objects."""
FIRST = "area_um2"


@dataclass(frozen=True)
class Box5:
    """A row of the plot; ``numbers`` low, q1, median, q3, high, or None for a class without values."""

    name: str
    color: str
    numbers: tuple[float, float, float, float, float] | None
    count: int


class BoxPlot(QWidget):
    """A box a class, below each other: quartiles, median, and whiskers to the farthest values within 1.5 box lengths."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.boxes: list[Box5] = []
        self.title = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Box plot")

    def sizeHint(self) -> QSize:
        """A row a class, and the axis."""
        return QSize(320, ROW_PX * max(len(self.boxes), 1) + 2 * AXIS_PX)

    def show_boxes(self, title: str, boxes: Sequence[Box5]) -> None:
        """Show a measurement."""
        self.title, self.boxes = title, list(boxes)
        self.setAccessibleDescription("; ".join(tip_of(box) for box in self.boxes))
        self.updateGeometry()
        self.update()

    @property
    def span(self) -> tuple[float, float]:
        """Least and largest value that is drawn."""
        drawn = [box.numbers for box in self.boxes if box.numbers is not None]
        if not drawn:
            return 0.0, 1.0
        low, high = min(n[0] for n in drawn), max(n[4] for n in drawn)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Axis, boxes, names."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        font = painter.font()
        font.setPixelSize(11)
        painter.setFont(font)
        plot = QRectF(NAME_PX, 4, max(self.width() - NAME_PX - 12, 10), ROW_PX * len(self.boxes))
        self._axis(painter, plot, ink)
        for row, box in enumerate(self.boxes):
            self._box(painter, plot, ink, row, box)
        painter.end()

    def _axis(self, painter: QPainter, plot: QRectF, ink: QColor) -> None:
        faint = QColor(ink)
        faint.setAlpha(60)
        low, high = self.span
        for value in ticks(low, high):
            x = self._x(plot, value)
            painter.setPen(QPen(faint, 1))
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, plot.bottom()))
            painter.setPen(ink)
            painter.drawText(QRectF(x - 30, plot.bottom() + 2, 60, 14), Qt.AlignmentFlag.AlignHCenter, f"{value:g}")
        painter.setPen(ink)
        painter.drawText(QRectF(0, plot.bottom() + 17, self.width() - 4, 16), Qt.AlignmentFlag.AlignRight, self.title)

    def _x(self, plot: QRectF, value: float) -> float:
        low, high = self.span
        return plot.left() + (value - low) / (high - low) * plot.width()

    def _box(self, painter: QPainter, plot: QRectF, ink: QColor, row: int, box: Box5) -> None:
        middle = plot.top() + (row + 0.5) * ROW_PX
        painter.setPen(ink)
        name = painter.fontMetrics().elidedText(box.name, Qt.TextElideMode.ElideRight, NAME_PX - 10)
        vertical = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(QRectF(0, middle - ROW_PX / 2, NAME_PX - 6, ROW_PX), vertical | Qt.AlignmentFlag.AlignRight, name)
        if box.numbers is None:
            painter.drawText(QRectF(plot.left() + 4, middle - ROW_PX / 2, plot.width(), ROW_PX), vertical | Qt.AlignmentFlag.AlignLeft, "no values")
            return
        low, q1, median, q3, high = (self._x(plot, value) for value in box.numbers)
        painter.setPen(QPen(ink, 1))
        painter.drawLine(QPointF(low, middle), QPointF(high, middle))
        for x in (low, high):
            painter.drawLine(QPointF(x, middle - 4), QPointF(x, middle + 4))
        fill = QColor(box.color)
        painter.setBrush(fill)
        painter.drawRect(QRectF(q1, middle - 7, max(q3 - q1, 1), 14))
        painter.setPen(QPen(QColor("#000000" if fill.lightnessF() > 0.45 else "#ffffff"), 2))
        painter.drawLine(QPointF(median, middle - 6), QPointF(median, middle + 6))
        painter.setBrush(Qt.BrushStyle.NoBrush)

    def event(self, event: Any) -> bool:
        """The numbers of the row under the cursor as a tip."""
        if isinstance(event, QHelpEvent):
            row = (event.pos().y() - 4) // ROW_PX
            if 0 <= row < len(self.boxes):
                QToolTip.showText(event.globalPos(), tip_of(self.boxes[row]), self)
            else:
                QToolTip.hideText()
            return True
        return super().event(event)


def tip_of(box: Box5) -> str:
    """A row in words."""
    if box.numbers is None:
        return f"{box.name}: no values"
    low, q1, median, q3, high = (text_of(value) for value in box.numbers)
    return f"{box.name}: median {median}, half of the values from {q1} to {q3}, whiskers {low} to {high}; {box.count:,} objects"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values between two ends."""
    step = 10.0 ** np.floor(np.log10((high - low) / most))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (k * step) <= most)
    first = np.ceil(low / step)
    return [float(round(k * step, 12)) for k in np.arange(first, np.floor(high / step) + 1)]


class Measurements(QWidget):
    """A box plot of a chosen measurement, and the stability of the clusters.

    Parameters
    ----------
    desk : Desk
    """

    means = Signal(str, object)
    """Title of the measurement, and its mean by class."""

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self.work = Latest("Measurements by class", self)
        self.judging = Latest("Stability of the clusters", self)
        self.choice = QComboBox()
        self.choice.setToolTip("The measurement in the plot, and in column 'Mean' of the list.")
        self.choice.setAccessibleName("Measurement")
        self.plot = BoxPlot()
        self.stability = QLabel()
        self.stability.setWordWrap(True)
        tip = f"Cluster the embedding into as many classes with {SEEDS} seeds and tell how much they agree. 1 is the same every time."
        self.judge_button = button("Stability", tip, self.judge)
        self._lay_out()
        self.choice.currentIndexChanged.connect(self._renew)
        for each in (self.work, self.judging):
            each.failed.connect(desk.message)
        self.judging.busy.connect(self._on_judging)
        desk.opened.connect(self._on_opened)
        desk.classes_changed.connect(self._renew)
        self._on_opened()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.judge_button)
        row.addWidget(self.stability, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.setSpacing(4)
        layout.addWidget(self.choice)
        layout.addWidget(self.plot)
        layout.addLayout(row)
        layout.addStretch(1)

    def release(self) -> None:
        """Wait for nothing more."""
        self.work.drop()
        self.judging.drop()

    @property
    def column(self) -> str | None:
        """The chosen measurement."""
        data = self.choice.currentData()
        return None if data is None else str(data)

    def _on_opened(self) -> None:
        self.release()
        clusters, before = self._desk.objects, self.column or FIRST
        names = [] if clusters is None else [str(name) for name in clusters.measurements.columns]
        if clusters is not None and np.isfinite(clusters.probability).any():
            names.append("probability")
        with QSignalBlocker(self.choice):
            self.choice.clear()
            for name in sorted(names, key=lambda n: list(TITLES).index(n) if n in TITLES else len(TITLES)):
                self.choice.addItem(title_of(name), name)
            self.choice.setCurrentIndex(max(self.choice.findData(before), 0) if names else -1)
        self.choice.setEnabled(bool(names))
        self.judge_button.setEnabled(clusters is not None)
        self.stability.setText("")
        if not names:
            self.plot.show_boxes("no measurements" if self._desk.book is not None else "", [])
        self._renew()

    def _renew(self, _: Any = None) -> None:
        clusters, column = self._desk.objects, self.column
        if clusters is not None and column is not None:
            self.work.ask(lambda: (clusters.box_stats(column), means_of(clusters, column)), partial(self._show, column))

    def _show(self, column: str, found: Any) -> None:
        table, means = found
        boxes = []
        for each in self._desk.classes:
            row = table.loc[each.value] if each.value in table.index else None
            numbers = None
            if row is not None and np.isfinite(row["median"]):
                numbers = (float(row["low"]), float(row["q1"]), float(row["median"]), float(row["q3"]), float(row["high"]))
            boxes.append(Box5(each.name, each.color, numbers, 0 if row is None else int(row["count"])))
        self.plot.show_boxes(title_of(column), boxes)
        self.means.emit(title_of(column), means)

    # -- stability ----------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        """Cluster anew with several seeds, on a thread."""
        clusters, count = self._desk.objects, len(self._desk.classes)
        if clusters is not None:
            self.judging.ask(lambda: stability_of(clusters, count), self._on_judged)

    def _on_judged(self, found: float | None) -> None:
        if found is None:
            self.stability.setText("Too few different objects or classes to tell.")
        else:
            self.show_stability(found, SEEDS, "of k-means on the embedding")

    def show_stability(self, agreement: float, seeds: int, what: str = "") -> None:
        """Say how much clusterings with several seeds agree (adjusted Rand index)."""
        self.stability.setText(f"{agreement:.2f}: agreement (adjusted Rand index) over {seeds} seeds {what}".strip())

    def _on_judging(self, busy: bool) -> None:
        self.judge_button.setEnabled(not busy and self._desk.objects is not None)
        if busy:
            self.stability.setText("Clustering with several seeds…")
        elif self.stability.text().endswith("…"):
            self.stability.setText("")


def title_of(column: str) -> str:
    """What a measurement is called."""
    return TITLES.get(column, column.replace("_um", " µm").replace("_", " ").capitalize())


# -- on the thread --------------------------------------------------------------------------------------------------------


def means_of(clusters: Clusters, column: str) -> dict[int, float]:
    """Mean of a measurement for each class."""
    numbers = clusters.probability if column == "probability" else clusters.measurements[column]
    values = np.asarray(numbers, np.float64)
    finite = np.isfinite(values) & (clusters.cluster > 0)
    codes = clusters.cluster[finite]
    total = np.bincount(codes, weights=values[finite])
    count = np.bincount(codes)
    return {int(value): float(total[value] / count[value]) for value in np.flatnonzero(count)}


def stability_of(clusters: Clusters, count: int) -> float | None:
    """Mean adjusted Rand index between k-means of the embedding with several seeds; None when there is nothing to compare."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]

    from napari_histoseg.metrics.cells import agreement

    space = clusters.space[np.isfinite(clusters.space).all(1)]
    space = space[np.sort(np.random.default_rng(0).permutation(len(space))[:SAMPLE])]
    if count < 2 or space.shape[1] == 0 or len(np.unique(space, axis=0)) < count:
        return None
    return agreement([KMeans(count, n_init=1, random_state=seed).fit_predict(space) for seed in range(SEEDS)])
