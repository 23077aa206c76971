"""The inspector and the slide: objects in the colors of their classes, the chosen ones brought out, clicks, and flying there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.gui.features import status_table
from napari_histoseg.gui.highlight import VIEW_UM, center_of, clear_marks, fly_to, highlight
from napari_histoseg.gui.inspectorcolors import object_colors_of
from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.layers import KEY, class_colors, class_table, world_points
from napari_histoseg.gui.shown import result_of
from napari_histoseg.results.classmap import stored_classes

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

CLICK_PX = 4
"""A press that moves less than this, in canvas pixels, is a click."""
SEEN_PATCHES = 4
"""After flying to a patch what is seen is so many times as wide, when it was more."""
SETTLE_MS = 500
"""The status bar's table follows once changes pause for so long."""


@dataclass(frozen=True, eq=False)
class _Shown:
    """What the colors of a layer of objects were made of."""

    layer: Labels
    ids: NDArray[np.uint32]
    values: NDArray[np.int32]
    palette: tuple[tuple[int, str], ...]
    chosen: NDArray[np.bool_] | None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Shown) or (self.layer, self.palette) != (other.layer, other.palette):
            return False
        if (self.chosen is None) != (other.chosen is None):
            return False
        pairs: list[tuple[Any, Any]] = [(self.ids, other.ids), (self.values, other.values)]
        if self.chosen is not None and other.chosen is not None:
            pairs.append((self.chosen, other.chosen))
        return all(one is two or np.array_equal(one, two) for one, two in pairs)

    __hash__ = None  # type: ignore[assignment]


class SlideLink(QObject):
    """Shows the desk's classes and chosen objects in the slide, and takes clicks there.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    desk : Desk
    """

    def __init__(self, viewer: Viewer, desk: Desk) -> None:
        super().__init__(desk)
        self._viewer, self._desk = viewer, desk
        self._layer: Labels | None = None
        self._status = Latest("Classes for the status bar", self)
        self._status.failed.connect(desk.message)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SETTLE_MS)
        self._later.timeout.connect(self._tell_status)
        desk.opened.connect(self._on_opened)
        desk.classes_changed.connect(self._on_classes)
        desk.chosen_changed.connect(self._on_chosen)
        desk.fly.connect(self.fly)
        self._held = False
        self._shown: _Shown | None = None
        self.hold()

    def hold(self) -> None:
        """Listen to the viewer."""
        if not self._held:
            self._held = True
            self._viewer.mouse_drag_callbacks.append(self._on_press)
            self._viewer.layers.events.removed.connect(self._on_removed)

    def release(self) -> None:
        """Let go of the viewer; the colors of the classes stay, with nothing dimmed."""
        self._let_go()
        if self._held:
            self._held = False
            self._viewer.mouse_drag_callbacks.remove(self._on_press)
            self._viewer.layers.events.removed.disconnect(self._on_removed)

    # -- colors -------------------------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        self._let_go()
        self._layer = self._desk.layer
        if self._layer is not None:
            self._layer.events.selected_label.connect(self._on_picked)
            self._layer.events.features.connect(self._on_features)
        self._paint()

    def _on_features(self, event: Any = None) -> None:
        """Other docks tell of corrected objects by the layer's table."""
        self._desk.follow()

    def _on_removed(self, event: Any = None) -> None:
        if self._layer is not None and self._layer not in self._viewer.layers:
            self._disconnect(self._layer)
            self._layer = self._desk.layer = None

    def _let_go(self) -> None:
        self._later.stop()
        self._status.drop()
        layer, self._layer = self._layer, None
        self._shown = None
        if layer is not None:
            self._disconnect(layer)
            colors = layer.colormap
            if (plain := getattr(colors, "undimmed", None)) is not None:
                layer.colormap = plain()
            clear_marks(self._viewer)

    def _disconnect(self, layer: Labels) -> None:
        layer.events.selected_label.disconnect(self._on_picked)
        layer.events.features.disconnect(self._on_features)

    def _on_classes(self) -> None:
        self._paint()
        self._later.start()

    def _on_chosen(self) -> None:
        if not self._desk.is_map:
            self._paint()
            self._outline()

    def _paint(self) -> None:
        """Give the layer the colors of now."""
        desk, layer = self._desk, self._layer
        if layer is None or desk.book is None:
            return
        if desk.result is not None and desk.is_map:
            self._color(layer, class_colors(stored_classes(desk.result)))
            return
        chosen: NDArray[np.bool_] | None = None
        if len(desk.chosen) > 1 or (len(desk.chosen) and not self._outlines):
            chosen = desk.chosen_mask()
        palette = tuple((each.value, each.color) for each in desk.classes)
        shown = _Shown(layer, desk.ids, desk.values.copy(), palette, None if chosen is None else chosen.copy())
        # Another name is no other color, and giving a large layer its colors stops the window for a moment.
        if shown != self._shown:
            self._shown = shown
            self._color(layer, object_colors_of(desk.ids, desk.values, desk.classes, chosen))

    def _color(self, layer: Labels, colors: Any) -> None:
        # With new colors napari says that a label was picked, too, though it is the same as before.
        with layer.events.selected_label.blocker(self._on_picked):
            layer.colormap = colors

    def _tell_status(self) -> None:
        """Bring the classes into what napari says of the object under the cursor; the table is made on a thread."""
        desk, told = self._desk, self._layer
        if told is None or desk.result is None or result_of(told) is not desk.result:
            return
        if desk.is_map:
            told.features = class_table(stored_classes(desk.result))
            return
        result = desk.result
        self._status.ask(lambda: (told, status_table(result.objects)), self._give)

    def _give(self, made: Any) -> None:
        layer, table = made
        now = self._layer
        if now is not None and now is layer and now in self._viewer.layers:
            now.features = table

    # -- places -------------------------------------------------------------------------------------------------------

    @property
    def _outlines(self) -> bool:
        """Whether single objects can be outlined: the layer shows the result's own labels."""
        return self._layer is not None and result_of(self._layer) is self._desk.result

    def _row(self, position: int) -> dict[str, Any]:
        clusters = self._desk.clusters
        assert clusters is not None
        return {
            "id": int(clusters.ids[position]),
            "centroid_x_um": float(clusters.x_um[position]),
            "centroid_y_um": float(clusters.y_um[position]),
        }

    def _outline(self) -> None:
        """Draw the outline of a single chosen object."""
        chosen, layer = self._desk.chosen, self._layer
        if len(chosen) == 1 and layer is not None and self._outlines:
            highlight(self._viewer, layer, self._row(int(chosen[0])))
        else:
            clear_marks(self._viewer)

    def fly(self, position: int) -> None:
        """Bring an object into the middle of the view."""
        point = self._world(position)
        if point is None:
            self._desk.message.emit("The slide of this result is not open, so there is nowhere to go. Open the slide first.")
            return
        fly_to(self._viewer, point, SEEN_PATCHES * self._desk.field_um if self._desk.is_map else VIEW_UM)
        if not self._desk.is_map and self._desk.chosen.tolist() == [position]:
            # Its line is as thin as the magnification that it was drawn for.
            self._outline()

    def _world(self, position: int) -> NDArray[np.float64] | None:
        result = self._desk.result
        if result is None or self._desk.clusters is None:
            return None
        row = self._row(position)
        if self._layer is not None and self._outlines:
            return center_of(self._layer, result, row)
        base = result.record.slide.mpp or 1.0
        for image in self._viewer.layers:
            slide = image.metadata.get(KEY, {}).get("slide")
            if slide is not None and slide.fingerprint() == result.record.slide.fingerprint:
                found = world_points(image, [[row["centroid_x_um"] / base, row["centroid_y_um"] / base]])
                return np.asarray(found[0], float)
        return None

    # -- clicks -------------------------------------------------------------------------------------------------------

    def _on_press(self, viewer: Viewer, event: Any) -> Iterator[None]:
        """A click chooses the object under it, Shift+click besides the others; in a map it looks at the class that is painted there."""
        if self._desk.clusters is None or event.button != 1 or not self._listening():
            return
        start = np.array(event.pos, float)
        moved = 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.linalg.norm(np.array(event.pos, float) - start)))
            yield
        if moved <= CLICK_PX:
            number = self.object_at(event.position)
            if self._desk.is_map:
                self._look_at(number)
                return
            position = self._desk.position_of(number) if number else -1
            if position >= 0 and "Shift" in {str(getattr(m, "name", m)) for m in event.modifiers}:
                self._desk.toggle(position)
            elif position >= 0:
                self._desk.choose([position])

    def _look_at(self, stored: int) -> None:
        """Look at the class that a stored value is shown as."""
        found = None if self._desk.result is None else self._desk.result.class_of.get(stored)
        if found is not None and self._desk.class_of(found.value) is not None:
            self._desk.look_at(found.value)

    def _listening(self) -> bool:
        """Whether a click is not meant for a layer's own tool."""
        active = self._viewer.layers.selection.active
        layer = self._layer
        return layer is not None and layer.visible and (active is None or str(getattr(active, "mode", "pan_zoom")) == "pan_zoom")

    def object_at(self, world: Any) -> int:
        """The object (of a map: the stored value) that the layer shows at a world point; 0 where there is none."""
        if self._layer is None:
            return 0
        value: Any = self._layer.get_value(world, world=True)
        value = value[1] if isinstance(value, tuple) else value
        return int(value or 0)

    def _on_picked(self, event: Any = None) -> None:
        """Another dock picked an object in this layer."""
        if self._layer is not None and not self._desk.is_map:
            position = self._desk.position_of(int(self._layer.selected_label))
            if position >= 0:
                self._desk.choose([position])
