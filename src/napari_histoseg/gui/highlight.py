"""Pointing at one object: where it is, its outline, and flying there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.gui.layers import KEY
from napari_histoseg.gui.shown import result_of
from napari_histoseg.slide import Box

if TYPE_CHECKING:
    from napari.layers import Labels, Shapes
    from napari.viewer import Viewer

    from napari_histoseg.results import Result

NAME = "Selected object"
VIEW_UM = 100.0
"""After flying to an object at least this much around it is magnified enough to be judged."""
REACH_UM = 40.0


def center_of(layer: Labels, result: Result, row: Any) -> NDArray[np.float64]:
    """World point (y, x) of an object, from its row of the table."""
    mpp = result.mpp or 1.0
    frame = result.frame
    data = (row["centroid_y_um"] / mpp - frame.y - 0.5, row["centroid_x_um"] / mpp - frame.x - 0.5)
    return np.asarray(layer.data_to_world(data), float)


def fly_to(viewer: Viewer, point: NDArray[np.float64], view_um: float = VIEW_UM) -> None:
    """Put a world point into the middle; come nearer, so that ``view_um`` around it are seen, when it would be too small to see."""
    camera = viewer.scene.camera
    wanted = min(viewer.canvas.size) / view_um
    camera.center = (0.0, float(point[0]), float(point[1]))
    if camera.zoom < wanted / 2:
        camera.zoom = wanted


def highlight(viewer: Viewer, layer: Labels, row: Any) -> None:
    """Draw the outline of an object over everything else."""
    result = result_of(layer)
    if result is None:
        return
    corners = outline_of(result, int(row["id"]), float(row["centroid_x_um"]), float(row["centroid_y_um"]))
    mark = _emptied(_mark(viewer, layer))
    if corners is not None:
        mark.add_polygons([np.array([layer.data_to_world(point) for point in corners])], edge_width=_width(viewer))
        mark.selected_data = set()


def show_line(viewer: Viewer, layer: Labels, start: Any, end: Any) -> None:
    """Draw the line of a drag, between two world points."""
    mark = _emptied(_mark(viewer, layer))
    mark.add_lines([np.array([start, end], float)[:, -2:]], edge_width=_width(viewer))
    mark.selected_data = set()


def clear_marks(viewer: Viewer) -> None:
    """Take outline and line away."""
    for mark in viewer.layers:
        if mark.metadata.get(KEY, {}).get("highlight"):
            _emptied(mark)


def _width(viewer: Viewer) -> float:
    """Two canvas pixels, in the world's units."""
    return 2 / max(float(viewer.scene.camera.zoom), 1e-6)


def _emptied(mark: Any) -> Shapes:
    mark.selected_data = set(range(len(mark.data)))
    mark.remove_selected()
    return cast("Shapes", mark)


def _mark(viewer: Viewer, layer: Labels) -> Shapes:
    """The layer that the outline is drawn into; added when it is not there, without changing what is chosen."""
    found: list[Any] = [x for x in viewer.layers if x.metadata.get(KEY, {}).get("highlight")]
    if found:
        return cast("Shapes", found[0])
    chosen = viewer.layers.selection.active
    mark = viewer.add_shapes(
        ndim=2,
        name=NAME,
        edge_color="#ffe14d",
        face_color="transparent",
        units=layer.units,
        axis_labels=("y", "x"),
        metadata={KEY: {"highlight": True}},
    )
    viewer.layers.selection.active = chosen
    return mark


def outline_of(result: Result, number: int, x_um: float, y_um: float) -> NDArray[np.float64] | None:
    """The longest outline (n, 2) of an object, in data coordinates of the labels layer; None when it is gone."""
    from skimage.measure import find_contours

    mpp = result.mpp or 1.0
    frame = result.frame
    reach = round(REACH_UM / mpp)
    x, y = round(x_um / mpp) - frame.x, round(y_um / mpp) - frame.y
    box = Box(x - reach, y - reach, 2 * reach, 2 * reach).intersect(Box(0, 0, frame.width, frame.height))
    if box.empty:
        return None
    window = np.asarray(result.arrays()["labels"][0][box.slices]) == number
    contours = find_contours(np.pad(window, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    if not contours:
        return None
    longest = max(contours, key=len)
    return np.asarray(longest[:-1] - 1 + (box.y, box.x), float)
