"""The three layers of an annotated slide: frames of patches, their masks, and the one mask that is painted."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.gui.annotatemap import MaskMap
from napari_histoseg.gui.layers import KEY, place
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import TURN_MS, add_in_turns, remove_by_frames
from napari_histoseg.slide import Box, Slide

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Vectors
    from napari.utils.colormaps import DirectLabelColormap
    from napari.viewer import Viewer

    from napari_histoseg.annotations.dataset import PatchClass

PATCHES, ANNOTATIONS, PAINT, PICTURE = "Patches", "Annotations", "Paint", "Patch image"
MASK_COLOR = "#101010"
UNKNOWN_COLOR = "#8a8a8a"
CHOSEN_COLOR = "#ffe14d"
BACKGROUND_COLOR = "#8c8c8c"
FAINT = "#8c8c8c80"
FRAME_PX = 2.5
"""Frames are this wide on the screen."""
MASK_OPACITY = 0.55
GAP_UM = 200.0

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """What is drawn around a patch; ``box`` in level-0 pixels. Each of ``more`` colors has a line within the first."""

    box: Box
    color: str
    chosen: bool = False
    more: tuple[str, ...] = ()


def class_colors(classes: Sequence[PatchClass]) -> DirectLabelColormap:
    """Classes in their colors, background in faint gray unless it has a color of its own, and nothing where nobody annotated."""
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, Any] = {0: FAINT, UNLABELED: "transparent", None: "#ff00ff"}
    colors |= {each.value: each.color for each in classes}
    return DirectLabelColormap(color_dict=colors, background_value=UNLABELED)


def warm_colors(*types: type[np.generic]) -> None:
    """Have napari compile what it needs for such colors, half a second's worth for each type of pixels, before somebody waits for a layer."""
    for each in types:
        class_colors(()).map(np.zeros((2, 2), each))
    # Single labels are looked up by themselves, as numbers of either kind.
    for one in {*types, np.uint8}:
        class_colors(()).map(np.zeros(1, one))
    # Compiling leaves garbage, which takes a third of a second to collect: now, and not in the middle of a stroke.
    gc.collect()


class AnnotationLayers(QObject):
    """Keeps the layers of one viewer; they lie over one slide at a time.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    added = Signal()
    """One of the layers is there now."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.patches: Vectors | None = None
        self.annotations: Labels | None = None
        self.paint: Labels | None = None
        self.map: MaskMap | None = None
        self._frames: tuple[Frame, ...] = ()
        self._drawn_width = 0.0
        self._slide: Slide | None = None
        self._origin = (0.0, 0.0)
        # Frames keep their width on the screen once zooming pauses.
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(120)
        self._later.timeout.connect(self._fit_width)
        viewer.scene.camera.events.zoom.connect(self._on_zoom)

    def ours(self, layer: Any) -> bool:
        """Whether a layer is one of these, or another one of the dataset's."""
        return layer is not None and "annotate" in layer.metadata.get(KEY, {})

    def keyed(self, layer: Any) -> bool:
        """Whether the panel's keys mean a layer: other ones of the dataset have keys of their own."""
        return self.ours(layer) and layer.metadata[KEY]["annotate"] in (PATCHES, ANNOTATIONS, PAINT, PICTURE)

    # -- the slide ------------------------------------------------------------------------------------------------------

    def lie_over(self, image: Image, slide: Slide, mpp: float) -> None:
        """Put the layers over a slide; masks have ``mpp`` µm per pixel."""
        self._slide, self._frames = slide, ()
        self._origin = (float(image.translate[-2]), float(image.translate[-1]))
        self.map = MaskMap(*slide.size_at(mpp))
        pixel = slide.width * slide.require_mpp() / self.map.levels[0].shape[1]
        where = place(pixel, slide.mpp, origin=self._origin)
        if self.annotations is None or not self._seen_again(self.annotations):
            self.annotations = self._add(self.map.levels, ANNOTATIONS, "labels", where, multiscale=True, opacity=MASK_OPACITY)
            self.annotations.editable = False
        else:
            self.annotations.data = self.map.levels
            self._move(self.annotations, where)
        # Each takes napari a tenth of a second; the window answers in between.
        QTimer.singleShot(2 * TURN_MS, self._make_patches)
        QTimer.singleShot(4 * TURN_MS, self._make_paint)

    def _make_patches(self) -> None:
        if self.map is None or self.annotations not in self._viewer.layers:
            return
        self._seen_again(self.patches)
        self.draw(self._frames, force=True)

    def _make_paint(self) -> None:
        if self.map is None or self.annotations not in self._viewer.layers:
            # The dataset was left meanwhile, or the window is closing.
            return
        self._seen_again(self.paint)
        self._add_paint()
        # A layer that was not seen had no mode of its own.
        self.added.emit()

    def _add_paint(self) -> None:
        if self.paint is None or self.paint not in self._viewer.layers:
            where = place(1.0, 1.0)
            self.paint = self._add(np.full((1, 1), UNLABELED, np.uint8), PAINT, "labels", where, opacity=MASK_OPACITY)

    def _add(self, data: Any, name: str, kind: str, where: dict[str, Any], **keywords: Any) -> Any:
        """Add a layer without taking the choice away from the one that is worked on."""
        chosen = self._viewer.layers.selection.active
        if kind == "labels":
            keywords["colormap"] = class_colors(())
        made = data, {"name": name, "metadata": {KEY: {"annotate": name}}, **where, **keywords}, kind
        # Modes can be given to a layer that is seen.
        layer = add_in_turns(self._viewer, made, self, self.added.emit)
        if chosen is not None:
            self._viewer.layers.selection.active = chosen
        return layer

    @staticmethod
    def _move(layer: Any, where: dict[str, Any]) -> None:
        # Each of these makes napari measure all layers anew, also where nothing changes.
        if not np.allclose(layer.scale, where["scale"], rtol=1e-9, atol=0):
            layer.scale = where["scale"]
        if not np.allclose(layer.translate, where["translate"], rtol=1e-9, atol=1e-9):
            layer.translate = where["translate"]

    def color(self, classes: Sequence[PatchClass]) -> None:
        """Show the classes in these colors."""
        for layer in (self.annotations, self.paint):
            if layer is not None and layer in self._viewer.layers:
                layer.colormap = class_colors(classes)

    def clear(self) -> None:
        """Hide the layers; the next dataset takes them again.

        Removing a layer makes napari collect garbage, which stops the window; and removing two of different kinds before the next
        drawing ends the program with some OpenGL drivers.
        """
        self.close()
        for layer in [x for x in self._viewer.layers if self.ours(x)]:
            layer.visible = False
        self.map = self._slide = None
        self._frames = ()

    def take_away(self) -> None:
        """Hide the layers, and remove them as frames are drawn."""
        self.clear()
        remove_by_frames(self._viewer, [layer for layer in self._viewer.layers if self.ours(layer)])

    def _seen_again(self, layer: Any) -> bool:
        """Whether a layer that an earlier dataset had is in the window; it is shown then."""
        if layer is None or layer not in self._viewer.layers:
            return False
        layer.visible = True
        return True

    # -- the mask that is painted -----------------------------------------------------------------------------------------

    def open(self, mask: Mask, box: Box) -> None:
        """Show a mask for painting; ``box`` is what it covers, in level-0 pixels."""
        assert self._slide is not None
        base = self._slide.require_mpp()
        self._without_picture()
        pixel = box.width * base / mask.shape[1]
        self._put(mask, place(pixel, base, box.x * base / pixel, box.y * base / pixel, self._origin))

    def open_beside(self, mask: Mask, mpp: float) -> None:
        """Show the mask of a patch that is an image of its own for painting."""
        self._put(mask, place(mpp, mpp, origin=_beside(mask.shape[1] * mpp)))

    def show_picture(self, image: NDArray[np.uint8], mpp: float) -> None:
        """Show a patch that is an image of its own, under its mask."""
        where = place(mpp, mpp, origin=_beside(image.shape[1] * mpp))
        self._without_picture()
        chosen = self._viewer.layers.selection.active
        self._viewer.add_image(image, rgb=True, name=PICTURE, metadata={KEY: {"annotate": PICTURE}}, **where)
        self._viewer.layers.move(len(self._viewer.layers) - 1, 0)
        self._viewer.layers.selection.active = chosen

    def _without_picture(self) -> None:
        for layer in [x for x in self._viewer.layers if x.metadata.get(KEY, {}).get("annotate") == PICTURE]:
            self._viewer.layers.remove(layer)

    def _put(self, mask: Mask, where: dict[str, Any]) -> None:
        self._add_paint()
        assert self.paint is not None
        self.paint.data = mask
        self._move(self.paint, where)

    def close(self) -> None:
        """Nothing is painted any more."""
        if self.paint is not None and self.paint in self._viewer.layers:
            self.paint.mode = "pan_zoom"
            self.paint.data = np.full((1, 1), UNLABELED, np.uint8)
        self._without_picture()

    def refresh(self) -> None:
        """Show the masks as they are in the map now."""
        if self.annotations is not None and self.annotations in self._viewer.layers:
            self.annotations.refresh(extent=False, thumbnail=False)

    # -- frames ------------------------------------------------------------------------------------------------------------

    def draw(self, frames: Sequence[Frame], force: bool = False) -> None:
        """Draw the frames of the slide's patches."""
        frames = tuple(frames)
        if (frames == self._frames and not force) or self._slide is None:
            return
        self._frames = frames
        if not force and (self.patches is None or self.patches not in self._viewer.layers):
            QTimer.singleShot(2 * TURN_MS, self._make_patches)
            return
        data, colors = _lines(frames, self._width())
        if self.patches is None or self.patches not in self._viewer.layers:
            where = place(self._slide.mpp, self._slide.mpp, origin=self._origin)
            style = {"vector_style": "line", "edge_width": self._width(), "edge_color": colors, "opacity": 1.0}
            self.patches = self._add(data, PATCHES, "vectors", where, **style)
            self._drawn_width = self._width()
            return
        self.patches.events.visible.connect(self._on_visible)
        if not self.patches.visible:
            # napari measures a layer that is not seen by what it held before; it is drawn when it is seen again.
            return
        self._move(self.patches, place(self._slide.mpp, self._slide.mpp, origin=self._origin))
        self.patches.data = data
        self.patches.edge_color = colors
        self._fit_width()

    def _on_visible(self, event: Any = None) -> None:
        if self.patches is not None and self.patches.visible:
            self.draw(self._frames, force=True)

    def _width(self) -> float:
        """Of a frame's line, in level-0 pixels."""
        base = (self._slide.mpp if self._slide is not None else None) or 1.0
        return FRAME_PX / max(float(self._viewer.scene.camera.zoom), 1e-6) / base

    def _on_zoom(self, event: Any = None) -> None:
        if self._frames:
            self._later.start()

    def _fit_width(self) -> None:
        width = self._width()
        if self.patches is None or self.patches not in self._viewer.layers or not self.patches.visible or not self._frames:
            return
        if not 0.8 < width / max(self._drawn_width, 1e-9) < 1.25:
            self._drawn_width = width
            self.patches.edge_width = width
            if any(frame.chosen or frame.more for frame in self._frames):
                self.patches.data, self.patches.edge_color = _lines(self._frames, width)


def _lines(frames: Sequence[Frame], width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lines (n, 2, 2) of start and direction, and their colors (n, 4); the chosen patch has a frame around it."""
    from napari.utils.colormaps.standardize_color import transform_color

    boxes = [(frame.box, frame.color, 0.5 * width) for frame in frames]
    boxes += [(frame.box, color, -(i + 0.5) * width) for frame in frames for i, color in enumerate(frame.more)]
    boxes += [(frame.box, CHOSEN_COLOR, 1.5 * width) for frame in frames if frame.chosen]
    if not boxes:
        return np.zeros((1, 2, 2)), np.zeros((1, 4))
    shades = {color: transform_color(color)[0] for _, color, _ in boxes}
    lines, colors = [], []
    for box, color, out in boxes:
        # Corners of pixels lie half a pixel before napari's whole numbers; the line lies around the patch, not on it.
        y, x, h, w = box.y - 0.5 - out, box.x - 0.5 - out, box.height + 2 * out, box.width + 2 * out
        half = width / 2
        lines += [
            ((y, x - half), (0, w + width)),
            ((y + h, x - half), (0, w + width)),
            ((y - half, x), (h + width, 0)),
            ((y - half, x + w), (h + width, 0)),
        ]
        colors += [shades[color]] * 4
    return np.array(lines, float), np.array(colors, float)


def _beside(width_um: float) -> tuple[float, float]:
    """Where a picture of its own lies, ``(y, x)`` in µm: left of the slide."""
    return 0.0, -width_um - GAP_UM


def beside(shape: tuple[int, ...], mpp: float) -> NDArray[np.float64]:
    """Corners ``(y, x)`` in µm of a patch ``(h, w, …)`` that is an image of its own."""
    top, left = _beside(shape[1] * mpp)
    return np.array([(top, left), (top + shape[0] * mpp, left + shape[1] * mpp)])
