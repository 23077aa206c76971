"""Parts that docks are laid out of."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QGroupBox, QPushButton, QScrollArea, QVBoxLayout, QWidget

SWATCH_PX = 14


def swatch(color: str | None) -> QPixmap:
    """A small square of a color; empty for none."""
    made = QPixmap(SWATCH_PX, SWATCH_PX)
    made.fill(QColor("transparent" if color is None else color))
    return made


def button(text: str, tip: str, action: Callable[[], None]) -> QPushButton:
    """A button with its tip."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.clicked.connect(lambda _=False: action())
    return made


def group(title: str, *widgets: QWidget) -> QGroupBox:
    """Widgets below each other in a titled frame."""
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(8, 8, 8, 8)
    for widget in widgets:
        layout.addWidget(widget)
    return box


def column(*parts: QWidget, margin: int = 8) -> QWidget:
    """Widgets below each other from the top, as the inside of a scroll area."""
    inside = QWidget()
    layout = QVBoxLayout(inside)
    layout.setContentsMargins(margin, margin, margin, margin)
    for part in parts:
        layout.addWidget(part)
    layout.addStretch(1)
    return inside


def scrolled(*parts: QWidget) -> QScrollArea:
    """Parts below each other, to be scrolled."""
    area = QScrollArea()
    area.setWidget(column(*parts, margin=4))
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    return area
