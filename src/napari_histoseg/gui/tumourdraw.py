"""Outlines of tumour as layers of shapes that a person draws and corrects."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.annotations.areas import Area
from napari_histoseg.gui.layers import place
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import TURN_MS
from napari_histoseg.gui.tumouroutline import Ring, area_of_rings, rings_of
from napari_histoseg.gui.where import outline

if TYPE_CHECKING:
    from napari.layers import Image, Shapes
    from napari.viewer import Viewer

log = logging.getLogger(__name__)

MARK = "histoseg tumour"
"""Key of these layers' entry in ``layer.metadata``. Another one than that of drawn regions, which they are not."""
FREE, UNUSED = "", "Outlines, not in use"
PART, INSIDE, CUT = "part", "tumour", "cut out"
COLORS = {INSIDE: "#e6194b", CUT: "#4363d8"}
LINE_PX = 2.5
"""Lines are this wide on the screen."""
POLYGON_POINTS = 120
"""Rings with more points are closed paths: napari cuts polygons into triangles, which takes a tenth of a second for these."""
TURN_S = 0.04
DRAW_MODE = "add_polygon_lasso"


class Drawings(QObject):
    """One layer of shapes for each outlined thing of a viewer, known by a key.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    edited = Signal(str)
    """The key of an outline that a person changed."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._filling: dict[str, list[Callable[[], None]]] = {}
        self._turns = QTimer(self)
        self._turns.setInterval(TURN_MS)
        self._turns.timeout.connect(self._fill)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(150)
        self._later.timeout.connect(self._fit_width)
        viewer.scene.camera.events.zoom.connect(self._on_zoom)

    def layer(self, key: str) -> Any:
        """The layer of an outline; None where there is none."""
        found = [x for x in self._viewer.layers if x.metadata.get(MARK) == key]
        return found[-1] if found else None

    @property
    def filling(self) -> bool:
        """Whether shapes are still being added."""
        return bool(self._filling)

    # -- showing ------------------------------------------------------------------------------------------------------

    def show(self, key: str, name: str, area: Area | None, image: Image, mpp: float | None) -> Any:
        """Show an outline over its slide, in place of what its layer held before. Shapes come a few at a time."""
        layer = self.layer(key)
        if layer is None:
            layer = self._added(key, name, image, mpp)
        elif len(layer.data):
            # Nobody shall take this for a person's work.
            self._filling[key] = []
            layer.data = []
        to = Between(image, layer)
        rings = [] if area is None else rings_of(area)
        additions = [partial(self._add_ring, layer, to.to(ring.points[:, ::-1] - 0.5), CUT if ring.hole else INSIDE) for ring in rings]
        # What a person draws next is tumour again.
        self.pour(key, [*additions, partial(self._take_part, layer, INSIDE)] if additions else [])
        return layer

    def pour(self, key: str, additions: Sequence[Callable[[], None]]) -> None:
        """Add shapes a few at a time; those that were still to be added under this key are not."""
        self._filling.pop(key, None)
        if additions:
            self._filling[key] = list(additions)
            self._turns.start()

    def _added(self, key: str, name: str, image: Image, mpp: float | None) -> Any:
        where = place(mpp, mpp, origin=(float(image.translate[-2]), float(image.translate[-1])))
        if (free := self.layer(FREE)) is not None:
            free.metadata[MARK] = key
            free.name, free.visible = name, True
            free.units, free.scale, free.translate = where["units"], where["scale"], where["translate"]
            return free
        chosen = self._viewer.layers.selection.active
        layer = self._viewer.add_shapes(
            ndim=2,
            name=name,
            features=pd.DataFrame({PART: pd.Series(dtype=str)}),
            feature_defaults={PART: INSIDE},
            edge_color=COLORS[INSIDE],
            face_color="transparent",
            metadata={MARK: key},
            **where,
        )
        if chosen is not None:
            self._viewer.layers.selection.active = chosen
        layer.events.data.connect(lambda event: self._on_data(layer, event))
        return layer

    def _fill(self) -> None:
        """Add shapes for a moment, then let the window live."""
        until = time.perf_counter() + TURN_S
        while self._filling and time.perf_counter() < until:
            key = next(iter(self._filling))
            self._filling[key].pop(0)()
            if not self._filling.get(key, True):
                self._filling.pop(key)
        if not self._filling:
            self._turns.stop()

    def _add_ring(self, layer: Any, points: NDArray[np.float64], part: str) -> None:
        if layer in self._viewer.layers:
            self._take_part(layer, part)
            self.add(layer, points)

    def add(self, layer: Any, points: NDArray[np.float64]) -> None:
        """Add an area to a layer of shapes, in its data coordinates ``(y, x)``."""
        try:
            self._add(layer, points, "polygon" if len(points) <= POLYGON_POINTS else "path")
        except RuntimeError as error:
            # napari cannot cut some polygons into triangles. Lines need none.
            log.debug("A polygon is shown as a closed line: %s", error)
            self._add(layer, points, "path")
        layer.selected_data = set()

    def _add(self, layer: Any, points: NDArray[np.float64], kind: str) -> None:
        closed = points if kind == "polygon" else np.vstack([points, points[:1]])
        layer.add([closed], shape_type=kind, edge_width=self._width(layer), edge_color=layer.current_edge_color, face_color="transparent")

    @staticmethod
    def _take_part(layer: Any, part: str) -> None:
        """What is drawn from now on."""
        # With shapes chosen, napari would give these the color.
        layer.selected_data = set()
        layer.feature_defaults = pd.DataFrame({PART: [part]})
        layer.current_edge_color = COLORS[part]

    def take_away(self, keys: Sequence[str]) -> None:
        """Empty and hide the layers of outlines; the next ones take them again.

        A layer of shapes that is added right after another one was removed ends the program with some OpenGL drivers.
        """
        for key in keys:
            self._filling.pop(key, None)
            if (layer := self.layer(key)) is not None:
                layer.mode = "pan_zoom"
                layer.metadata[MARK] = FREE
                layer.data = []
                layer.visible = False
                layer.name = UNUSED

    # -- drawing ------------------------------------------------------------------------------------------------------

    def draw(self, layer: Any, cut: bool = False) -> None:
        """Choose a layer with the tool that draws tumour, or what is cut out of it."""
        self._viewer.layers.selection.active = layer
        layer.visible = True
        self._take_part(layer, CUT if cut else INSIDE)
        layer.current_face_color = "transparent"
        layer.current_edge_width = self._width(layer)
        layer.mode = DRAW_MODE

    def area(self, layer: Shapes, image: Image) -> Area | None:
        """What is outlined on a slide, in its level-0 pixels; None where there is no shape."""
        if not len(layer.data):
            return None
        to = Between(layer, image)
        parts = list(layer.features[PART]) if PART in layer.features else []
        parts += [INSIDE] * (len(layer.data) - len(parts))
        rings = [
            Ring((to.to(outline(kind, points)) + 0.5)[:, ::-1], part == CUT)
            for kind, points, part in zip(layer.shape_type, layer.data, parts, strict=True)
        ]
        return area_of_rings(rings)

    def _on_data(self, layer: Any, event: Any) -> None:
        key = layer.metadata.get(MARK, FREE)
        # The other actions announce what is going to happen.
        if key != FREE and key not in self._filling and str(getattr(event.action, "value", event.action)) in ("added", "changed", "removed"):
            self.edited.emit(key)

    # -- lines --------------------------------------------------------------------------------------------------------

    def _width(self, layer: Any) -> float:
        return LINE_PX / max(float(self._viewer.scene.camera.zoom), 1e-6) / float(layer.scale[-1])

    def _on_zoom(self, event: Any = None) -> None:
        self._later.start()

    def _fit_width(self) -> None:
        """Lines keep their width on the screen once zooming pauses."""
        for layer in [x for x in self._viewer.layers if MARK in x.metadata and x.visible and hasattr(x, "shape_type")]:
            width = self._width(layer)
            if len(layer.data) and layer.metadata[MARK] not in self._filling and not 0.7 < width / max(layer.edge_width[0], 1e-9) < 1.4:
                layer.edge_width = width
                # napari does not draw that by itself.
                layer.refresh(extent=False, thumbnail=False)


class Between:
    """From the data coordinates of one flat layer to those of another; both are placed without bending."""

    def __init__(self, source: Any, target: Any) -> None:
        corners = np.array([target.world_to_data(source.data_to_world(p)[-2:])[-2:] for p in ((0, 0), (1, 0), (0, 1))], float)
        self._origin, self._matrix = corners[0], corners[1:] - corners[0]

    def to(self, points: Any) -> NDArray[np.float64]:
        """Points (n, 2) as ``(y, x)``."""
        return np.asarray(np.asarray(points, float)[:, -2:] @ self._matrix + self._origin)
