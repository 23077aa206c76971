"""Tools, brush and undo as buttons, and the two buttons that place patches."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.gui.annotatekeys import NEW_LABEL, NEW_MASK, REDO, REST, UNDO, Keys
from napari_histoseg.gui.annotatetools import BRUSH_PX, PLACE, TOOLS, Tools
from napari_histoseg.gui.parts import button

if TYPE_CHECKING:
    from napari_histoseg.gui.annotatedesk import Desk

LARGEST_PX = 4096


class PlaceBar(QWidget):
    """New patches, and how large they are.

    Parameters
    ----------
    desk : Desk
    tools : Tools
    keys : Keys
    """

    def __init__(self, desk: Desk, tools: Tools, keys: Keys, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk, self._tools = desk, tools
        self.mask_button = button(
            f"+ Segmentation ({NEW_MASK})",
            "New segmentation patch here: a frame in the middle of the view, to be painted in.",
            partial(desk.try_, keys.new_mask_patch),
        )
        self.label_button = button(
            f"+ Classification ({NEW_LABEL})",
            "New classification patches: click where one shall be and press 1–9, its class; Shift with a number adds a further one.",
            partial(tools.choose, PLACE),
        )
        self.label_button.setCheckable(True)
        self.side = QSpinBox()
        self.side.setRange(16, LARGEST_PX)
        self.side.setSingleStep(32)
        self.side.setSuffix(" px")
        self.side.setToolTip("Side of new patches, in pixels of the masks.")
        self.side.setKeyboardTracking(False)
        self.size_um = QLabel()
        row = QHBoxLayout()
        row.addWidget(QLabel("New patches"))
        row.addWidget(self.side)
        row.addWidget(self.size_um, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        buttons = QHBoxLayout()
        buttons.setSpacing(2)
        buttons.addWidget(self.mask_button)
        buttons.addWidget(self.label_button)
        layout.addLayout(buttons)
        layout.addLayout(row)
        self.side.valueChanged.connect(self._on_size)
        tools.changed.connect(self.follow)
        desk.dataset_changed.connect(self.follow)
        desk.slide_changed.connect(self.follow)
        desk.size_changed.connect(self.follow)
        self.follow()

    def _on_size(self, pixels: int) -> None:
        self._desk.set_patch_px(pixels)

    def follow(self, event: Any = None) -> None:
        """Show what is chosen."""
        session = self._desk.session
        with QSignalBlocker(self.side):
            self.side.setValue(self._desk.patch_px)
        self.size_um.setText("" if session is None else f"= {self._desk.patch_px * session.mpp:,.0f} µm")
        self.label_button.setChecked(self._tools.tool == PLACE)
        for each in (self.mask_button, self.label_button):
            each.setEnabled(session is not None and self._desk.slide is not None)


class ToolBar(QWidget):
    """What is done in the open patch.

    Parameters
    ----------
    desk : Desk
    tools : Tools
    """

    def __init__(self, desk: Desk, tools: Tools, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk, self._tools = desk, tools
        self.tools: dict[str, QPushButton] = {}
        self._group = QButtonGroup(self)
        self._group.setExclusive(False)
        self.brush = QSlider(Qt.Orientation.Horizontal)
        self.brush.setRange(BRUSH_PX[0], 80)
        self.brush.setToolTip("Size of the brush, in pixels of the mask (keys [ and ]).")
        self.brush_px = QLabel()
        self.rest_button = button(
            f"Rest is background ({REST})", "Call everything in the patch that is not labelled background.", partial(desk.try_, desk.fill_rest)
        )
        self.undo_button = button("Undo", UNDO, partial(desk.try_, desk.undo))
        self.redo_button = button("Redo", REDO, partial(desk.try_, desk.redo))
        self.hint = QLabel()
        self.hint.setWordWrap(True)
        self.hint.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._lay_out()
        self.brush.valueChanged.connect(tools.set_brush)
        for signal in (tools.changed, desk.dataset_changed, desk.changed, desk.chosen_changed):
            signal.connect(self.follow)
        self.follow()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(2)
        for i, (name, (key, tip)) in enumerate(TOOLS.items()):
            each = QPushButton(f"{name} ({key})")
            each.setCheckable(True)
            each.setToolTip(tip)
            each.clicked.connect(lambda _=False, n=name: self._tools.choose(n))
            self.tools[name] = each
            grid.addWidget(each, i // 3, i % 3)
        brush = QHBoxLayout()
        brush.addWidget(QLabel("Brush"))
        brush.addWidget(self.brush, 1)
        brush.addWidget(self.brush_px)
        row = QHBoxLayout()
        row.setSpacing(2)
        row.addWidget(self.rest_button, 1)
        row.addWidget(self.undo_button)
        row.addWidget(self.redo_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(grid)
        layout.addLayout(brush)
        layout.addLayout(row)
        layout.addWidget(self.hint)

    def follow(self, event: Any = None) -> None:
        """Show what is chosen and what can be done."""
        session = self._desk.session
        for name, each in self.tools.items():
            each.setChecked(name == self._tools.tool)
            each.setEnabled(session is not None)
        with QSignalBlocker(self.brush):
            self.brush.setValue(self._tools.brush_px)
        self.brush_px.setText(f"{self._tools.brush_px} px")
        self.rest_button.setEnabled(self._desk.painting)
        for each, what, keys in (
            (self.undo_button, session and session.can_undo, UNDO),
            (self.redo_button, session and session.can_redo, REDO),
        ):
            each.setEnabled(bool(what) or (each is self.undo_button and bool(self._desk.unsaved)))
            each.setToolTip(f"{each.text()}: {what} ({keys})" if what else keys)
        self.hint.setText(self._tools.hint if session is not None else "Make or open a dataset to annotate.")
