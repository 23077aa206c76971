"""The patch in hand and the slide under it: what all annotation panels of a window share."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.errors import DatasetError, HistosegError, RegionError, SlideError
from napari_histoseg.gui.annotatebook import Book
from napari_histoseg.gui.annotatego import bring_slide, fly
from napari_histoseg.gui.annotatelayers import MASK_COLOR, UNKNOWN_COLOR, AnnotationLayers, Frame, beside
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.layers import level0_points, world_points
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.slides import slide_of
from napari_histoseg.slide import Box, Slide

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_histoseg.annotations.dataset import PatchClass
    from napari_histoseg.annotations.entries import Annotation
    from napari_histoseg.annotations.work import Changed

log = logging.getLogger(__name__)

PATCH_PX = 256
Mask = NDArray[np.uint8]


class Desk(Book):
    """Makes and opens patches, keeps what is painted, and shows it over the slide.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    chosen_changed = Signal()
    """Another patch is in hand, or none."""
    class_changed = Signal()
    """Another class is chosen."""
    slide_changed = Signal()
    size_changed = Signal()
    """New patches have another size."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(viewer, parent)
        self.layer: Image | None = None
        self.slide: Slide | None = None
        self.value = 1
        """Class to paint with."""
        self.patch_px = PATCH_PX
        self.layers = AnnotationLayers(viewer, self)
        self.unsaved: dict[str, Mask] = {}
        """Masks that could not be written, by patch; they are written with the next stroke."""
        self._colors: tuple[PatchClass, ...] | None = None
        self._painted = False
        # napari tells of a polygon before its pixels are there.
        self._stroke = QTimer(self)
        self._stroke.setSingleShot(True)
        self._stroke.setInterval(0)
        self._stroke.timeout.connect(self.save_stroke)
        self._turn = QTimer(self)
        self._turn.setInterval(20)
        self._turn.timeout.connect(self._load_some)
        self.layers.added.connect(self._show_colors)
        viewer.layers.events.removing.connect(self._on_removing)
        viewer.layers.events.removed.connect(self._on_removed)

    def _opened(self) -> None:
        values = [each.value for each in self.require().classes if each.value]
        self.value = values[0] if values else 0
        self._lay_out()

    def _closing(self) -> None:
        self.settle()
        self.save_unsaved()
        self._turn.stop()

    def _closed(self) -> None:
        self.chosen = None
        self.unsaved.clear()
        self.layers.clear()
        self.chosen_changed.emit()

    # -- slides -------------------------------------------------------------------------------------------------------

    def require_slide(self) -> Slide:
        """The slide that is annotated.

        Raises
        ------
        SlideError
            When none is open.
        PixelSizeError
            When its pixel size is not known.
        """
        if self.slide is None:
            raise SlideError("No slide is open. Open one with File ▸ Open File(s)…, or a sample with File ▸ Open Sample.")
        self.slide.require_mpp()
        return self.slide

    def use(self, layer: Image | None) -> None:
        """Annotate the slide of a layer."""
        slide: Slide | None = None
        if layer is not None:
            try:
                slide = slide_of(layer)
            except HistosegError:
                log.debug("No slide behind %s", layer.name, exc_info=True)
        if layer is self.layer and slide is self.slide:
            return
        self.layer, self.slide = layer, slide
        self._attach()
        if self.current is None or not self._lies_here(self.current):
            self.choose(None)
        self._lay_out()
        self.slide_changed.emit()

    def _on_removing(self, event: Any = None) -> None:
        """Put the brush down: drawing its circle while a layer goes ends the program with some OpenGL drivers."""
        paint = self.layers.paint
        if paint is not None and paint in self.viewer.layers:
            paint.mode = "pan_zoom"
            paint.cursor = "standard"

    def _on_removed(self, event: Any = None) -> None:
        if self.layer is not None and self.layer not in self.viewer.layers:
            self.choose(None)
            self.layer = self.slide = None
            self.layers.clear()
            self.slide_changed.emit()
        elif self.painting and self.layers.paint not in self.viewer.layers:
            # Somebody deleted the layer; what was painted in it is stored.
            self.choose(None)

    def _lies_here(self, patch: Annotation) -> bool:
        return self.slide is not None and patch.box is not None and patch.slide_fingerprint == self.slide.fingerprint()

    def _opens(self, patch: Annotation | None) -> bool:
        """Whether a patch is painted, and what lies under it can be shown now."""
        return patch is not None and patch.kind == "mask" and (patch.box is None or (self._lies_here(patch) and self.layers.map is not None))

    def here(self) -> list[Annotation]:
        """The patches of the slide that is annotated."""
        return [patch for patch in self._patches.values() if self._lies_here(patch)]

    # -- showing ------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Put the layers over the slide; masks come in turns of the event loop."""
        if self.session is None or self.slide is None or self.layer is None or self.slide.mpp is None:
            self.layers.clear()
            return
        self.layers.lie_over(self.layer, self.slide, self.session.mpp)
        self._colors = None
        self._show()

    def _follow(self, change: Changed) -> None:
        if self.chosen is not None and self.current is None:
            self.choose(None)
        if self.layers.map is not None:
            self.layers.map.want(change.ids)
        self._show()
        if self.chosen in change.ids and not self._painted:
            self._repaint()

    def _show(self) -> None:
        """Bring the layers up to date."""
        session, slide = self.session, self.slide
        if self.layers.map is None or slide is None or session is None:
            return
        if session.classes != self._colors:
            self._show_colors()
        self._draw_frames()
        factor = slide.require_mpp() / session.mpp
        self.layers.map.place({p.id: _rounded(p.box, factor) for p in self.here() if p.kind == "mask" and p.box is not None})
        self._turn.start()

    def _show_colors(self) -> None:
        if self.session is not None:
            self._colors = self.session.classes
            self.layers.color(self._colors)

    def _draw_frames(self) -> None:
        colors = {each.name: each.color for each in self.session.classes} if self.session is not None else {}
        frames = []
        for patch in self.here():
            assert patch.box is not None
            shades = [colors.get(name, UNKNOWN_COLOR) for name in patch.patch.labels]
            first, *more = shades or [MASK_COLOR if patch.kind == "mask" else UNKNOWN_COLOR]
            frames.append(Frame(patch.box, first, patch.id == self.chosen, tuple(more)))
        self.layers.draw(frames)

    def _load_some(self) -> None:
        """Load masks for a few milliseconds, and show them."""
        session, masks = self.session, self.layers.map
        if session is None or masks is None or not masks.wanted:
            self._turn.stop()
            return
        until = time.perf_counter() + 0.012
        while masks.wanted and time.perf_counter() < until:
            number = next(reversed(masks.wanted))
            try:
                masks.put(number, session.mask(number))
            except HistosegError as error:
                masks.wanted.pop(number, None)
                self.problem.emit(str(error))
        self.layers.refresh()
        if not masks.wanted:
            self._turn.stop()

    # -- the patch in hand ----------------------------------------------------------------------------------------------

    @property
    def painting(self) -> bool:
        """Whether the patch in hand can be painted."""
        return self._opens(self.current) and self.layers.paint is not None

    def choose(self, number: str | None) -> None:
        """Take a patch in hand; a mask is opened for painting when its slide is the one that is annotated."""
        self.settle()
        patch = self.find(number)
        self.chosen = None if patch is None else patch.id
        self._show_mask(patch if self._opens(patch) else None)
        self._draw_frames()
        self.chosen_changed.emit()

    def _show_mask(self, patch: Annotation | None) -> None:
        if patch is None:
            self.layers.close()
        elif patch.box is not None:
            self.layers.open(self.mask_of(patch.id), patch.box)
        else:
            self.layers.open_beside(self.mask_of(patch.id), patch.mpp)
        if self.current is not None and self.current.box is None:
            self._show_image(self.current)
        self.loader.find_pieces(None if patch is None else patch.id)
        if self.layers.map is not None:
            self.layers.map.hide(None if patch is None else patch.id)
            self.layers.refresh()

    def _show_image(self, patch: Annotation) -> None:
        """A patch that is an image of its own lies left of the slide."""

        def done(image: Any) -> None:
            if self.chosen == patch.id:
                self.layers.show_picture(image, patch.mpp)
                fly(self.viewer, beside(image.shape, patch.mpp))
                # Showing a picture takes the paint layer's turn.
                self.chosen_changed.emit()

        in_background("Reading a patch", partial(self.require().image, patch.id), done, self.problem.emit, self)

    def mask_of(self, number: str) -> Mask:
        """A copy of a patch's mask; the painted one where it could not be written."""
        waiting = self.unsaved.get(number)
        return self.require().mask(number) if waiting is None else waiting.copy()

    # -- going to patches -----------------------------------------------------------------------------------------------

    def go_to(self, number: str) -> None:
        """Fly to a patch and take it in hand; its slide is shown, and opened when it is not open yet.

        Raises
        ------
        DatasetError
            There is no such patch, or its slide is not where it was.
        """
        patch = self.find(number)
        if patch is None:
            raise DatasetError(f"There is no patch {number}.")
        if patch.box is not None and not self._lies_here(patch):
            self.choose(None)
            bring_slide(self, patch)
            return
        self.choose(number)
        self.fly_to(number)

    def arrive(self, layer: Image, number: str) -> None:
        """The slide of a patch is there."""
        self.viewer.layers.selection.active = layer
        self.use(layer)
        patch = self.find(number)
        if patch is not None and self._lies_here(patch):
            self.go_to(number)

    def fly_to(self, number: str) -> None:
        """Move the view onto a patch of this slide."""
        patch = self.find(number)
        if patch is not None and patch.box is not None and self.layer is not None and self._lies_here(patch):
            box = patch.box
            fly(self.viewer, world_points(self.layer, [(box.x, box.y), (box.right, box.bottom)]))

    def at(self, world: Any) -> Annotation | None:
        """The patch at a world point; of several the smallest."""
        if self.layer is None:
            return None
        x, y = level0_points(self.layer, world)[0]
        hits = [patch for patch in self.here() if patch.box is not None and patch.box.contains_point(x, y)]
        return min(hits, key=lambda patch: patch.box.area if patch.box is not None else 0, default=None)

    # -- making patches ---------------------------------------------------------------------------------------------------

    def set_patch_px(self, side: int) -> None:
        """Give new patches another side, in pixels of the masks."""
        self.patch_px = side
        self.size_changed.emit()

    def box_at(self, world: Any) -> Box:
        """A patch around a world point in level-0 pixels: on whole working pixels, moved to lie inside the slide."""
        session, slide = self.require(), self.require_slide()
        assert self.layer is not None
        factor = session.mpp / slide.require_mpp()
        wide, high = slide.size_at(session.mpp)
        px, py = min(self.patch_px, wide), min(self.patch_px, high)
        x, y = level0_points(self.layer, world)[0] / factor
        if not (0 <= x < wide and 0 <= y < high):
            raise RegionError(f"This place is beside {slide.name}. Move the view onto the slide (Home shows all of it).")
        left, top = round(min(max(x - px / 2, 0), wide - px)), round(min(max(y - py / 2, 0), high - py))
        x0, y0 = round(left * factor), round(top * factor)
        return Box(x0, y0, round((left + px) * factor) - x0, round((top + py) * factor) - y0).intersect(slide.bounds)

    def new_mask_patch(self) -> None:
        """Place a patch for painting in the middle of the view and open it."""
        box = self.box_at(np.array(self.viewer.scene.camera.center[-2:], float))
        patch = self.require().add_mask_patch(self.require_slide(), box, group=self.group_here())
        self.choose(patch.id)
        self.fly_to(patch.id)
        self.said.emit(patch.notice or f"Patch {patch.id} is there. Choose a class with its key and paint; every stroke is saved.")

    def new_label_patch(self, world: Any) -> None:
        """Place a patch around a world point, for the class that is given next."""
        patch = self.require().add_label_patch(self.require_slide(), self.box_at(world), None, group=self.group_here())
        self.choose(patch.id)
        self.said.emit("Press 1–9 for its class; Shift with a number adds a further one.")

    def group_here(self) -> str | None:
        """Patches of a slide belong to one patient: what was said of one holds for the next."""
        here = self.here()
        return here[-1].patch.group if here else None

    def set_group(self, number: str, group: str | None) -> None:
        """Say which patient, or other group, a patch belongs to; the next ones on this slide will too."""
        self.require().set_group(number, group)

    def remove(self, number: str | None = None) -> None:
        """Remove a patch, the chosen one when none is named; undo brings it back."""
        number = number or self.chosen
        if number is None:
            raise DatasetError("No patch is chosen. Click one in the list or in the picture.")
        if number == self.chosen:
            self.choose(None)
        self.require().remove(number)
        self.said.emit(f"Removed patch {number}. Ctrl+Z brings it back.")

    # -- classes ------------------------------------------------------------------------------------------------------------

    def set_class(self, value: int) -> None:
        """Choose the class to paint with; a chosen classification patch becomes of it."""
        session = self.require()
        listed = {each.value: each.name for each in session.classes}
        if value not in listed and value != 0:
            raise DatasetError(f"There is no class with the key {value}. Add one below the list of classes.")
        self.value = value
        self.class_changed.emit()
        patch = self.current
        if patch is not None and patch.kind in ("label", "unlabeled"):
            if value not in listed:
                raise DatasetError("The background has no name yet. Give it one in the list of classes to use it for whole patches.")
            session.set_label(patch.id, value)
            self.said.emit(f"Patch {patch.id}: {listed[value]}.")

    def toggle_class(self, value: int) -> None:
        """Add a class to those of the chosen classification patch, or take it away."""
        session, patch = self.require(), self.current
        if patch is None or patch.kind not in ("label", "unlabeled"):
            raise DatasetError("Only a classification patch can have several classes. Choose one, or press C to place one.")
        named = {each.value: each.name for each in session.classes}
        now = session.toggle_label(patch.id, value)
        self.said.emit(f"Patch {patch.id}: {' + '.join(named[v] for v in now) or 'no class'}.")

    # -- strokes ------------------------------------------------------------------------------------------------------------

    def end_stroke(self) -> None:
        """A stroke has ended: its mask is written as soon as napari is done with it."""
        self._stroke.start()

    def settle(self) -> None:
        """Write a stroke that has just ended, before something else happens."""
        if self._stroke.isActive():
            self._stroke.stop()
            self.save_stroke()

    def save_stroke(self) -> None:
        """Write the mask that is painted; what cannot be written stays in memory and is tried again."""
        patch, paint = self.current, self.layers.paint
        if not self.painting or patch is None or paint is None:
            return
        mask = np.array(paint.data, np.uint8)
        self.unsaved[patch.id] = mask
        self._painted = True
        try:
            self.save_unsaved()
        finally:
            self._painted = False

    def save_unsaved(self) -> None:
        """Try to write what could not be written before."""
        for number, mask in list(self.unsaved.items()):
            if self.find(number) is None or self.do(partial(self.require().set_mask, number, mask)):
                del self.unsaved[number]

    def fill_rest(self) -> None:
        """Call everything in the open patch that is not labelled background."""
        self.settle()
        if not self.painting or self.layers.paint is None:
            raise DatasetError("No segmentation patch is open. Press N to place one, or click one in the list.")
        mask = np.array(self.layers.paint.data, np.uint8)
        rest = mask == UNLABELED
        if not rest.any():
            self.said.emit("Every pixel of this patch is labelled already.")
            return
        mask[rest] = 0
        self.layers.paint.data = mask
        self.save_stroke()
        self.said.emit(f"Filled {rest.mean():.0%} of the patch with background. Ctrl+Z takes it back.")

    # -- undo ---------------------------------------------------------------------------------------------------------------

    def undo(self) -> None:
        """Take back the last change and say which it was."""
        self.settle()
        if self.chosen in self.unsaved:
            del self.unsaved[str(self.chosen)]
            self._repaint()
            self.said.emit("Undid: painting that could not be saved.")
            return
        self.said.emit(self.require().undo() or "There is nothing to undo.")

    def redo(self) -> None:
        """Do again what was taken back and say what it was."""
        self.settle()
        self.said.emit(self.require().redo() or "There is nothing to do again.")

    def _repaint(self) -> None:
        """Show the mask in hand as it is stored."""
        if self.painting and self.layers.paint is not None and self.chosen is not None:
            self.layers.paint.data = self.mask_of(self.chosen)


def _rounded(box: Box, factor: float) -> Box:
    """A box in working pixels, to the nearest."""
    x, y = round(box.x * factor), round(box.y * factor)
    return Box(x, y, max(1, round(box.right * factor) - x), max(1, round(box.bottom * factor) - y))
