"""A grid of blocks over a slide as napari layers: a pixel a block to be painted in, and the lines between blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.gui.annotatelayers import class_colors
from napari_histoseg.gui.layers import KEY, place
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import add_in_turns

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Vectors
    from napari.viewer import Viewer

    from napari_histoseg.annotations.blocks import BlockGrid
    from napari_histoseg.annotations.dataset import PatchClass
    from napari_histoseg.slide import Slide

BLOCKS, LINES = "Blocks", "Lines between blocks"
OPACITY, DIMMED = 0.45, 0.1
"""Of the labels, and of labels under a block that is painted exactly."""
LINE_COLOR = "#202020"
LINE_OPACITY = 0.55
LINE_PX = 1.2
"""Lines are this wide on the screen."""
LEAST_PX = 5.0
"""Of a block on the screen; lines between smaller ones would hide the slide."""
SETTLED_MS = 120
BRUSH = (1, 64)
"""In blocks."""


class GridLayers(QObject):
    """Keeps the two layers of a grid in one viewer; they lie over one slide at a time.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    stroke = Signal()
    """A stroke has ended."""
    ready = Signal()
    """The layer can be painted in."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.blocks: Labels | None = None
        self.lines: Vectors | None = None
        self.value: int | None = 0
        """The coarse label to paint with; None erases."""
        self.brush = 1
        self.painting = False
        """Whether the brush is in hand."""
        self._laid = False
        self._seen = True
        self._side_um = 0.0
        self._drawn_width = 0.0
        self._base = 1.0
        # Lines keep their width on the screen once zooming pauses.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SETTLED_MS)
        self._later.timeout.connect(self._fit_lines)
        # The brush is put down while a layer goes, and taken up again when the window was drawn without it.
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(SETTLED_MS)
        self._again.timeout.connect(self.apply)
        viewer.scene.camera.events.zoom.connect(self._on_zoom)
        viewer.layers.events.removing.connect(self._on_removing)

    def _there(self, layer: Any) -> bool:
        return layer is not None and layer in self._viewer.layers

    @property
    def chosen(self) -> bool:
        """Whether the blocks are the chosen layer."""
        return self._there(self.blocks) and self._viewer.layers.selection.active == self.blocks

    # -- over the slide -------------------------------------------------------------------------------------------------

    def lie_over(self, image: Image, slide: Slide, grid: BlockGrid, labels: NDArray[np.uint8], classes: Sequence[PatchClass]) -> None:
        """Put a grid with its labels (rows, columns) over a slide."""
        self._laid = True
        self._base = base = slide.require_mpp()
        self._side_um = side = grid.side_px * base
        origin = (float(image.translate[-2]), float(image.translate[-1]))
        where = place(side, base, grid.x * base / side, grid.y * base / side, origin)
        chosen = self._viewer.layers.selection.active
        blocks = self.blocks
        if blocks is not None and self._there(blocks):
            blocks.data = labels.copy()
            _move(blocks, where)
            blocks.colormap = class_colors(classes)
            blocks.visible = self._seen
            self.apply()
        else:
            looks = {"opacity": OPACITY, "colormap": class_colors(classes)}
            made = labels.copy(), {"name": BLOCKS, "metadata": {KEY: {"annotate": BLOCKS}}, **where, **looks}, "labels"
            self.blocks = add_in_turns(self._viewer, made, self, self._on_ready)
            self.blocks.events.paint.connect(self._on_paint)
            self.blocks.events.brush_size.connect(self._on_brush)
        self._draw(grid, place(base, base, origin=origin))
        if chosen is not None:
            self._viewer.layers.selection.active = chosen

    def _draw(self, grid: BlockGrid, where: dict[str, Any]) -> None:
        data = grid_lines(grid)
        self._drawn_width = self._width()
        lines = self.lines
        if lines is not None and self._there(lines):
            lines.visible = self._seen
            lines.data = data
            _move(lines, where)
            lines.edge_width = self._drawn_width
        else:
            style = {"vector_style": "line", "edge_width": self._drawn_width, "edge_color": LINE_COLOR, "opacity": LINE_OPACITY}
            made = data, {"name": LINES, "metadata": {KEY: {"annotate": LINES}}, **where, **style}, "vectors"
            self.lines = add_in_turns(self._viewer, made, self, self._fit_seen)
        self._fit_lines()

    def show(self, labels: NDArray[np.uint8]) -> None:
        """Show other labels in the same grid."""
        if self.blocks is not None and self._there(self.blocks):
            self.blocks.data = labels.copy()

    def color(self, classes: Sequence[PatchClass]) -> None:
        """Show the labels in these colors."""
        if self.blocks is not None and self._there(self.blocks):
            self.blocks.colormap = class_colors(classes)

    def hide(self) -> None:
        """Show no grid; the layers stay for the next one."""
        self.lay_down()
        self._laid = False
        self._fit_seen()

    def see(self, seen: bool) -> None:
        """Show the grid where there is one, or leave the view to something else."""
        self._seen = seen
        self._fit_seen()
        self.apply()

    def _fit_seen(self) -> None:
        for layer in (self.blocks, self.lines):
            if layer is not None and self._there(layer) and layer.visible != (self._laid and self._seen):
                layer.visible = self._laid and self._seen

    def dim(self, dimmed: bool) -> None:
        """Let the slide be seen under the labels."""
        if self.blocks is not None and self._there(self.blocks):
            self.blocks.opacity = DIMMED if dimmed else OPACITY

    # -- the brush --------------------------------------------------------------------------------------------------------

    def take(self, value: int | None) -> None:
        """Take the brush with a coarse label, or the eraser (None), and choose the layer."""
        self.value, self.painting = value, True
        if self.blocks is not None and self._there(self.blocks):
            self._viewer.layers.selection.active = self.blocks
        self.apply()

    def lay_down(self) -> None:
        """Drag moves the view again."""
        self.painting = False
        self.apply()

    def set_brush(self, size: int) -> None:
        """Side of the brush, in blocks."""
        self.brush = min(max(int(size), BRUSH[0]), BRUSH[1])
        self.apply()

    def apply(self) -> None:
        """Give the layer the mode of the tool."""
        blocks = self.blocks
        if blocks is None or not self._there(blocks) or not blocks.visible:
            return
        blocks.mode = "pan_zoom" if not self.painting else "erase" if self.value is None else "paint"
        blocks.brush_size = self.brush
        if self.value is not None:
            blocks.selected_label = self.value

    def _on_ready(self) -> None:
        self._fit_seen()
        # Modes can be given to a layer that is seen.
        self.apply()
        self.ready.emit()

    def _on_paint(self, event: Any = None) -> None:
        self.stroke.emit()

    def _on_brush(self, event: Any = None) -> None:
        if self.blocks is not None and self.painting:
            self.brush = min(max(int(self.blocks.brush_size), BRUSH[0]), BRUSH[1])

    def _on_removing(self, event: Any = None) -> None:
        """Put the brush down: drawing its circle while a layer goes ends the program with some OpenGL drivers."""
        if self.blocks is not None and self._there(self.blocks):
            self.blocks.mode = "pan_zoom"
            self.blocks.cursor = "standard"
            self._again.start()

    # -- lines ------------------------------------------------------------------------------------------------------------

    def _width(self) -> float:
        """Of a line, in level-0 pixels."""
        return LINE_PX / max(float(self._viewer.scene.camera.zoom), 1e-6) / self._base

    def _on_zoom(self, event: Any = None) -> None:
        if self.lines is not None:
            self._later.start()

    def _fit_lines(self) -> None:
        lines = self.lines
        if lines is None or not self._there(lines) or not lines.visible:
            return
        opacity = LINE_OPACITY if self._side_um * float(self._viewer.scene.camera.zoom) >= LEAST_PX else 0.0
        if lines.opacity != opacity:
            lines.opacity = opacity
        width = self._width()
        if opacity and not 0.8 < width / max(self._drawn_width, 1e-9) < 1.25:
            self._drawn_width = width
            lines.edge_width = width


def grid_lines(grid: BlockGrid) -> NDArray[np.float64]:
    """Start and direction ``(y, x)`` of all lines of a grid (n, 2, 2), in napari's level-0 coordinates."""
    # Corners of pixels lie half a pixel before napari's whole numbers.
    x, y = grid.x - 0.5, grid.y - 0.5
    across = [((y + row * grid.side_px, x), (0, grid.box.width)) for row in range(grid.rows + 1)]
    down = [((y, x + column * grid.side_px), (grid.box.height, 0)) for column in range(grid.columns + 1)]
    return np.array([*across, *down], float)


def _move(layer: Any, where: dict[str, Any]) -> None:
    # Each of these makes napari measure all layers anew, also where nothing changes.
    if not np.allclose(layer.scale, where["scale"], rtol=1e-9, atol=0):
        layer.scale = where["scale"]
    if not np.allclose(layer.translate, where["translate"], rtol=1e-9, atol=1e-9):
        layer.translate = where["translate"]
