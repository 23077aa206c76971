"""Parts that docks are laid out of."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QGroupBox, QPushButton, QVBoxLayout, QWidget


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
