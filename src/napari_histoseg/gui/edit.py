"""Correcting a result by pointing: add, delete, split, merge, undo."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QButtonGroup, QGridLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.corrections import Corrections, Point
from napari_histoseg.gui.features import show_measurements
from napari_histoseg.gui.highlight import clear_marks, show_line
from napari_histoseg.gui.live import show_changes
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.slides import open_slide_by

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

    from napari_histoseg.results import Result

log = logging.getLogger(__name__)

LOOK, ADD, DELETE, SPLIT, MERGE = "Look", "Add", "Delete", "Split", "Merge"
TOOLS = {
    LOOK: ("L", "Click picks a nucleus; drag moves the view."),
    ADD: ("A", "Click on a nucleus that was missed."),
    DELETE: ("D", "Click on what is no nucleus. With any tool: Alt+click."),
    SPLIT: ("S", "Drag a line across a nucleus. With any tool: Shift+drag."),
    MERGE: ("M", "Drag from one nucleus to the other."),
}
UNDO_HINT = "Ctrl+Z takes it back."
CLICK_PX = 4
"""A press that moves less than this, in canvas pixels, is a click."""


class EditBar(QWidget):
    """Tools for the result's labels layer that is chosen in the layer list.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    said = Signal(str)
    problem = Signal(str)

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.layer: Labels | None = None
        self.result: Result | None = None
        self.corrections: Corrections | None = None
        self.tools: dict[str, QPushButton] = {}
        self._group = QButtonGroup(self)
        self.undo_button, self.redo_button = QPushButton("Undo"), QPushButton("Redo")
        self.hint = QLabel()
        self.hint.setWordWrap(True)
        # Measurements of 100,000 nuclei are handed to napari once corrections pause, not after each.
        self._measure = QTimer(self)
        self._measure.setSingleShot(True)
        self._measure.setInterval(300)
        self._measure.timeout.connect(self._show_measurements)
        self._lay_out()
        viewer.layers.selection.events.active.connect(self.follow)
        viewer.layers.events.removed.connect(self.follow)
        self.follow()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(2)
        for i, (name, (key, tip)) in enumerate(TOOLS.items()):
            button = QPushButton(name)
            button.setCheckable(True)
            button.setToolTip(f"{tip} (key {key})")
            button.clicked.connect(lambda _=False, n=name: self.choose(n))
            self._group.addButton(button)
            self.tools[name] = button
            grid.addWidget(button, 0, i)
        row = QGridLayout()
        row.setSpacing(2)
        for i, (button, keys, action) in enumerate(
            ((self.undo_button, "Ctrl+Z", self.undo), (self.redo_button, "Ctrl+Shift+Z", self.redo))
        ):
            button.setToolTip(keys)
            button.clicked.connect(lambda _=False, a=action: a())
            row.addWidget(button, 0, i)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(grid)
        layout.addLayout(row)
        layout.addWidget(self.hint)
        self.tools[LOOK].setChecked(True)

    # -- which layer -------------------------------------------------------------------------------------------------

    def follow(self, event: Any = None) -> None:
        """Take the chosen layer when it shows a result that can be corrected; keep the last one otherwise."""
        from napari.layers import Labels

        active = self._viewer.layers.selection.active
        result = result_of(active)
        if self.layer is not None and self.layer not in self._viewer.layers:
            self._let_go()
        if result is not None and result is not self.result and result.has_objects and isinstance(active, Labels):
            self._take(active, result)
        self._show_state()

    def _take(self, layer: Any, result: Result) -> None:
        self._let_go()
        self.layer, self.result = layer, result
        slide = open_slide_by(result.record.slide.fingerprint, self._viewer.layers)
        self.corrections = Corrections(result, slide)
        layer.mouse_drag_callbacks.append(self._on_press)
        for name, (key, _) in TOOLS.items():
            layer.bind_key(key, _chooser(self, name), overwrite=True)
        layer.bind_key("Control-Z", lambda _: self.undo(), overwrite=True)
        layer.bind_key("Control-Shift-Z", lambda _: self.redo(), overwrite=True)
        self._apply_pan()

    def _let_go(self) -> None:
        if self.layer is not None and self._on_press in self.layer.mouse_drag_callbacks:
            self.layer.mouse_drag_callbacks.remove(self._on_press)
            self.layer.mouse_pan = True
        self.layer = self.result = self.corrections = None

    # -- tools -------------------------------------------------------------------------------------------------------

    @property
    def tool(self) -> str:
        """Name of the chosen tool."""
        return next((name for name, button in self.tools.items() if button.isChecked()), LOOK)

    def choose(self, name: str) -> None:
        """Take a tool, and the layer that it works on."""
        self.tools[name].setChecked(True)
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.selection.active = self.layer
        self._apply_pan()
        self._show_state()

    def _apply_pan(self) -> None:
        # A drag of these tools draws; the wheel and the space bar still move the view.
        if self.layer is not None:
            self.layer.mouse_pan = self.tool not in (SPLIT, MERGE)

    def _show_state(self) -> None:
        there = self.result is not None
        for button in self.tools.values():
            button.setEnabled(there)
        what = self.corrections.next_undo if self.corrections is not None else ""
        self.undo_button.setEnabled(bool(what))
        self.undo_button.setToolTip(f"Take back: {what[:1].lower()}{what[1:]} (Ctrl+Z)" if what else "Ctrl+Z")
        self.redo_button.setEnabled(self.corrections is not None and self.corrections.can_redo)
        self.hint.setText(TOOLS[self.tool][1] if there else "Run, or choose a result's layer, to correct it.")

    # -- mouse -------------------------------------------------------------------------------------------------------

    def _on_press(self, layer: Labels, event: Any) -> Iterator[None]:
        """A press on the result's layer: a click or a drag, with the chosen tool or the one that a key stands for."""
        if event.button != 1:
            return
        tool = self._tool_of(event.modifiers)
        world, start, begun = event.position, self._point(event.position), np.array(event.pos, float)
        keep_pan, layer.mouse_pan = layer.mouse_pan, tool not in (SPLIT, MERGE)
        moved = 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.abs(np.array(event.pos, float) - begun).max()))
            if tool in (SPLIT, MERGE) and moved > CLICK_PX:
                show_line(self._viewer, layer, world, event.position)
            yield
        layer.mouse_pan = keep_pan
        if tool in (SPLIT, MERGE):
            clear_marks(self._viewer)
        if moved > CLICK_PX:
            self.drag(tool, start, self._point(event.position))
        else:
            self.click(tool, start)

    def click(self, tool: str, point: Point) -> None:
        """A click with a tool, at a working pixel of the slide."""
        corrections = self.corrections
        if corrections is None or self.layer is None:
            return
        number = corrections.label_at(point)
        if tool == DELETE:
            self._do(lambda: corrections.delete(point))
        elif tool == ADD and not number:
            self._do(lambda: corrections.add(point))
        elif number:
            self.layer.selected_label = number

    def drag(self, tool: str, start: Point, end: Point) -> None:
        """A drag with a tool, between two working pixels of the slide."""
        corrections = self.corrections
        if corrections is None:
            return
        if tool == SPLIT:
            self._do(lambda: corrections.split(start, end))
        elif tool == MERGE:
            self._do(lambda: corrections.merge(start, end))

    def _tool_of(self, modifiers: Any) -> str:
        names = {str(getattr(m, "name", m)) for m in modifiers}
        if names & {"Alt", "Control"}:
            return DELETE
        return SPLIT if "Shift" in names else self.tool

    def _point(self, position: Any) -> Point:
        """A world position as a working pixel of the slide (x, y), continuous."""
        assert self.layer is not None and self.result is not None
        row, column = np.asarray(self.layer.world_to_data(position), float)[-2:] + 0.5
        return float(column) + self.result.frame.x, float(row) + self.result.frame.y

    # -- after a correction ------------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], str]) -> None:
        """Correct, show it, and say what was done; or say why it was refused."""
        try:
            sentence = action()
        except HistosegError as error:
            log.debug("The correction was refused", exc_info=True)
            self.problem.emit(str(error))
            return
        if self.layer is not None:
            show_changes(self.layer)
        self.said.emit(f"{sentence}. {UNDO_HINT}" if not sentence.startswith("Undone") else f"{sentence}.")
        self._show_state()
        self._measure.start()

    def _show_measurements(self) -> None:
        if self.layer is not None and self.result is not None:
            show_measurements(self.layer, self.result)

    def undo(self) -> None:
        """Take back the last correction and say which it was."""
        if self.corrections is not None:
            self._do(self.corrections.undo)

    def redo(self) -> None:
        """Do again what was taken back and say what it was."""
        if self.corrections is not None:
            self._do(self.corrections.redo)


def _chooser(bar: EditBar, name: str) -> Callable[[Any], None]:
    return lambda _: bar.choose(name)
