"""The tool in hand: painting in the open patch, placing patches by clicks, picking them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.gui.qt import Signal

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_histoseg.gui.annotatedesk import Desk

LOOK, PAINT, SMART, FILL, POLYGON, ERASE, PLACE = "Look", "Paint", "Smart", "Fill", "Polygon", "Erase", "Place"
TOOLS = {
    LOOK: ("L", "Click a patch to take it in hand; drag moves the view. The wheel zooms with every tool."),
    PAINT: ("P", "Paint with the brush; [ and ] change its size."),
    SMART: ("S", "Paint the superpixels under the brush, whole: they follow the edges of the tissue."),
    FILL: ("F", "Click fills the connected area under the cursor that has one label."),
    POLYGON: ("G", "Click corner by corner; a double click closes the polygon, Esc gives it up."),
    ERASE: ("E", "Make pixels unlabelled again."),
}
PLACING = "Click where the patch shall be, then press 1–9 for its class, with Shift for a further one. Esc or L ends this."
MODES = {PAINT: "paint", FILL: "fill", POLYGON: "polygon", ERASE: "erase"}
"""napari's own modes for these tools."""
CLICK_PX = 4
AGAIN_MS = 150
BRUSH_PX = (1, 200)


class Tools(QObject):
    """Gives the layers the mode that the tool needs, and takes clicks and strokes from them.

    Parameters
    ----------
    desk : Desk
    """

    changed = Signal()
    """Another tool, or another size of the brush."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self.tool = LOOK
        self.brush_px = 12
        self._layer: Labels | None = None
        self._saving = False
        desk.viewer.mouse_drag_callbacks.append(self._on_press)
        desk.chosen_changed.connect(self.apply)
        desk.class_changed.connect(self.apply)
        desk.layers.added.connect(self.apply)
        # The brush is put down while a layer goes, see `Desk`, and taken up again when the window was drawn without it.
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(AGAIN_MS)
        self._again.timeout.connect(self.apply)
        desk.viewer.layers.events.removed.connect(self._on_removed)

    def release(self) -> None:
        """Listen no more."""
        if self._on_press in self._desk.viewer.mouse_drag_callbacks:
            self._desk.viewer.mouse_drag_callbacks.remove(self._on_press)

    def _on_removed(self, event: Any = None) -> None:
        if self._desk.painting:
            self._again.start()

    # -- which tool ---------------------------------------------------------------------------------------------------

    def choose(self, tool: str) -> None:
        """Take a tool."""
        self.tool = tool
        self.apply()
        self.changed.emit()

    def set_brush(self, size: int) -> None:
        """Diameter of the brush, in pixels of the mask."""
        self.brush_px = min(max(int(size), BRUSH_PX[0]), BRUSH_PX[1])
        self.apply()
        self.changed.emit()

    @property
    def hint(self) -> str:
        """What the tool does, in a sentence."""
        if self.tool == PLACE:
            return PLACING
        needs = self.tool != LOOK and not self._desk.painting
        return "Press N to place a segmentation patch, or click one, to paint in it." if needs else TOOLS[self.tool][1]

    def apply(self) -> None:
        """Give the layers the mode of the tool."""
        layers, viewer = self._desk.layers, self._desk.viewer
        self._listen()
        if (frames := layers.patches) is not None and frames in viewer.layers:
            frames.cursor = "cross" if self.tool == PLACE else "standard"
            if self.tool == PLACE:
                viewer.layers.selection.active = frames
        paint = layers.paint
        if paint is None or paint not in viewer.layers:
            return
        works = self._desk.painting and self.tool in (*MODES, SMART)
        paint.mode = MODES.get(self.tool, "pan_zoom") if works else "pan_zoom"
        paint.brush_size = self.brush_px
        paint.selected_label = self._desk.value
        smart = works and self.tool == SMART
        paint.mouse_pan = paint.mode == "pan_zoom" and not smart
        if smart:
            paint.cursor_size = self.brush_px * float(paint.scale[-1])
            paint.cursor = "circle"
        if works:
            viewer.layers.selection.active = paint

    def _listen(self) -> None:
        """Hear the strokes of the paint layer, also of one that was added anew."""
        paint = self._desk.layers.paint
        if paint is self._layer:
            return
        self._layer = paint
        if paint is not None:
            paint.events.paint.connect(self._on_stroke)
            paint.events.brush_size.connect(self._on_brush)
            paint.events.selected_label.connect(self._on_label)
            paint.mouse_drag_callbacks.append(self._on_smart)

    # -- strokes ------------------------------------------------------------------------------------------------------

    def _on_stroke(self, event: Any = None) -> None:
        """A stroke, a polygon or a filling has ended."""
        self._desk.end_stroke()

    def _on_brush(self, event: Any = None) -> None:
        if self._layer is not None and self._layer.mode in MODES.values():
            self.brush_px = int(self._layer.brush_size)
            self.changed.emit()

    def _on_label(self, event: Any = None) -> None:
        """Somebody took a class from napari's own controls."""
        desk = self._desk
        if self._layer is None or desk.session is None or self._layer.selected_label == desk.value:
            return
        if self._layer.selected_label in {0, *(each.value for each in desk.session.classes)}:
            desk.value = int(self._layer.selected_label)
            desk.class_changed.emit()

    def _on_smart(self, layer: Labels, event: Any) -> Iterator[None]:
        """Paint the superpixels that a drag touches; they are stored when the button is released."""
        desk = self._desk
        if self.tool != SMART or event.button != 1 or not desk.painting:
            return
        pieces = desk.loader.pieces(desk.chosen)
        if pieces is None or pieces.labels.shape != layer.data.shape:
            desk.problem.emit("The superpixels of this patch are still being computed; try again in a moment.")
            return
        done: set[int] = set()
        radius = self.brush_px / 2
        with layer.block_history():
            last = np.asarray(layer.world_to_data(event.position), float)[-2:]
            while True:
                here = np.asarray(layer.world_to_data(event.position), float)[-2:]
                steps = max(1, int(np.ceil(np.abs(here - last).max() / max(self.brush_px / 2, 1))))
                points = np.linspace(last, here, steps + 1)
                touched = {int(i) for row, column in points for i in pieces.under(row, column, radius)}
                if fresh := sorted(touched - done):
                    done |= touched
                    layer.data_setitem(pieces.pixels(np.array(fresh, np.int64)), desk.value)
                last = here
                yield
                if event.type != "mouse_move":
                    break

    # -- clicks ---------------------------------------------------------------------------------------------------------

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click anywhere: places a patch, or takes one in hand."""
        if event.button != 1 or self._desk.session is None or self._painted_elsewhere():
            return
        begun = np.array(event.pos, float)
        moved = 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.abs(np.array(event.pos, float) - begun).max()))
            yield
        moved = max(moved, float(np.abs(np.array(event.pos, float) - begun).max()))
        if moved <= CLICK_PX:
            self.click(event.position)

    def _painted_elsewhere(self) -> bool:
        """Whether a brush is in hand for another layer, so that a click is a stroke there."""
        active = self._desk.viewer.layers.selection.active
        return active is not None and str(getattr(active, "mode", LOOK)) in MODES.values() and not self._desk.layers.keyed(active)

    def click(self, world: Any) -> None:
        """A click with the tool in hand, at a world point."""
        desk = self._desk
        if self.tool == PLACE:
            desk.do(lambda: desk.new_label_patch(world))
        elif self.tool == LOOK or not self._inside(world):
            # With a brush in hand the open patch is painted, and a click beside it takes another one.
            found = desk.at(world)
            if found is not None and found.id != desk.chosen:
                desk.choose(found.id)

    def _inside(self, world: Any) -> bool:
        """Whether a world point lies in the patch that is painted."""
        paint = self._desk.layers.paint
        if paint is None or not self._desk.painting:
            return False
        row, column = np.asarray(paint.world_to_data(world), float)[-2:] + 0.5
        return bool(0 <= row < paint.data.shape[0] and 0 <= column < paint.data.shape[1])
