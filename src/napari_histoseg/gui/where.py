"""Where to run: the current view, drawn regions, the tissue, or the whole slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QButtonGroup, QGridLayout, QPushButton, QRadioButton, QWidget

from napari_histoseg.errors import RegionError
from napari_histoseg.gui.layers import KEY, box_around, level0_points
from napari_histoseg.slide import Box, Slide

if TYPE_CHECKING:
    from napari.layers import Image, Shapes
    from napari.viewer import Viewer
    from shapely import Geometry

VIEW, DRAWN, TISSUE, WHOLE = "Current view", "Drawn regions", "Tissue", "Whole slide"
TIPS = {
    VIEW: "What the window shows now.",
    DRAWN: "The shapes of the layer 'Regions'.",
    TISSUE: "The whole slide without the glass.",
    WHOLE: "Everything, glass included.",
}
REGIONS = "Regions"
ELLIPSE_POINTS = 64


@dataclass(frozen=True)
class Where:
    """A place to run at: a region in level-0 pixels (None is the whole slide), and whether glass is left out.

    ``tissue_only`` None leaves that to the settings.
    """

    region: Box | Geometry | None
    tissue_only: bool | None


class WherePicker(QWidget):
    """The four places, and a button that starts drawing."""

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        self.group = QButtonGroup(self)
        self.buttons: dict[str, QRadioButton] = {}
        for i, name in enumerate((VIEW, TISSUE, WHOLE, DRAWN)):
            button = QRadioButton(name)
            button.setToolTip(TIPS[name])
            self.group.addButton(button)
            self.buttons[name] = button
            layout.addWidget(button, i // 2, i % 2)
        self.draw = QPushButton("Draw regions")
        self.draw.setToolTip("Add or choose the layer 'Regions' and draw with its rectangle, ellipse or polygon tool.")
        self.draw.clicked.connect(self.start_drawing)
        layout.addWidget(self.draw, 1, 2)
        layout.setColumnStretch(0, 1)
        layout.setColumnStretch(1, 1)
        self.buttons[VIEW].setChecked(True)

    @property
    def choice(self) -> str:
        """Name of the chosen place."""
        return next(name for name, button in self.buttons.items() if button.isChecked())

    def regions_layer(self) -> Shapes | None:
        """The newest layer of drawn regions."""
        from napari.layers import Shapes

        found = [x for x in self._viewer.layers if isinstance(x, Shapes) and KEY in x.metadata]
        return found[-1] if found else None

    def start_drawing(self) -> None:
        """Choose the regions layer, adding it when there is none, with its polygon tool."""
        layer = self.regions_layer()
        if layer is None:
            unit = next((x.units for x in self._viewer.layers), ("pixel", "pixel"))
            layer = self._viewer.add_shapes(
                ndim=2,
                name=REGIONS,
                edge_color="#ffb000",
                face_color="transparent",
                edge_width=_edge_width(self._viewer),
                units=unit[-2:],
                axis_labels=("y", "x"),
                metadata={KEY: {"regions": True}},
            )
        self._viewer.layers.selection.active = layer
        layer.mode = "add_rectangle"
        self.buttons[DRAWN].setChecked(True)

    def where(self, layer: Image, slide: Slide) -> Where:
        """The chosen place on a slide.

        Raises
        ------
        RegionError
            When nothing is drawn, or the place does not meet the slide.
        """
        if self.choice == TISSUE:
            return Where(None, True)
        if self.choice == WHOLE:
            return Where(None, False)
        if self.choice == VIEW:
            return Where(view_box(self._viewer, layer, slide), None)
        shapes = self.regions_layer()
        if shapes is None or not len(shapes.data):
            raise RegionError("No region is drawn. Press 'Draw regions' and draw at least one, or choose another place.")
        return Where(drawn_region(shapes, layer, slide), None)


def _edge_width(viewer: Viewer) -> float:
    return 3 / max(float(viewer.scene.camera.zoom), 1e-6)


def view_box(viewer: Viewer, layer: Image, slide: Slide, largest: int | None = None) -> Box:
    """The level-0 pixels of a slide that the window shows, at most ``largest`` a side around the middle.

    Raises
    ------
    RegionError
        When the slide is out of sight.
    """
    camera = viewer.scene.camera
    center = np.array(camera.center[-2:], float)
    half = np.array(viewer.canvas.size, float) / (2 * camera.zoom)
    seen = level0_points(layer, [center - half, center + half])
    box = box_around(seen, slide.bounds)
    if box.empty:
        raise RegionError(f"{slide.name} is out of sight. Move the view onto it (Home shows all), or choose another place.")
    if largest is None:
        return box
    width, height = min(box.width, largest), min(box.height, largest)
    return Box(box.x + (box.width - width) // 2, box.y + (box.height - height) // 2, width, height)


def drawn_region(shapes: Shapes, layer: Image, slide: Slide) -> Box | Geometry:
    """The union of drawn shapes in level-0 pixels of a slide; a `Box` when it is one upright rectangle.

    Raises
    ------
    RegionError
        When none of the shapes has an area, or none meets the slide.
    """
    import shapely

    polygons = []
    for kind, vertices in zip(shapes.shape_type, shapes.data, strict=True):
        world = np.array([shapes.data_to_world(v) for v in outline(kind, vertices)])
        polygons.append(shapely.make_valid(shapely.Polygon(level0_points(layer, world))))
    bounds = slide.bounds
    whole = shapely.box(bounds.x, bounds.y, bounds.right, bounds.bottom)
    region = shapely.intersection(shapely.union_all(polygons), whole)
    if region.area < 1:
        raise RegionError(f"The drawn regions do not meet {slide.name}. Draw them on the slide.")
    left, top, right, bottom = region.bounds
    if abs(region.area - (right - left) * (bottom - top)) < 1e-6 * region.area:
        return box_around(np.array([[left, top], [right, bottom]]), bounds)
    return region


def outline(kind: str, vertices: Any) -> np.ndarray[Any, Any]:
    """Corners (n, 2) of a shape of napari's Shapes layer; ellipses come as their four bounding corners."""
    points = np.asarray(vertices, float)[:, -2:]
    if kind != "ellipse":
        return points if len(points) > 2 else np.vstack([points, points[::-1], points[:1]])
    center = points.mean(0)
    a, b = (points[1] - points[0]) / 2, (points[3] - points[0]) / 2
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)[:, None]
    return np.asarray(center + np.cos(angle) * a + np.sin(angle) * b)
