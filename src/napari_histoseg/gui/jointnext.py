"""The queue "annotate this next": places of the slide where the network disagrees with itself, walked by keyboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtGui import QHideEvent, QKeySequence, QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QLabel, QListWidget, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError, WeightsError
from napari_histoseg.gui.annotatego import fly
from napari_histoseg.gui.annotatekeys import NEXT, PREVIOUS
from napari_histoseg.gui.background import in_steps
from napari_histoseg.gui.jobs import Job
from napari_histoseg.gui.layers import world_points
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.progress import ProgressPanel

if TYPE_CHECKING:
    from napari_histoseg.gui.annotate import AnnotationPanel
    from napari_histoseg.methods.joint.disagreement import Place
    from napari_histoseg.results.files import Step
    from napari_histoseg.slide import Box, Slide

HINT = "Finds places where the model in use disagrees with itself. A patch there teaches it most."


class NextPlaces(QWidget):
    """Lists places worth a patch, and flies to them.

    Parameters
    ----------
    panel : AnnotationPanel
        Says which slide, which patches there are, and makes new ones.
    """

    def __init__(self, panel: AnnotationPanel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._panel = panel
        self._weights: Path | None = None
        self._stain: tuple[Any, str] | None = None
        self.places: list[Place] = []
        self.current: Job | None = None
        self.list = QListWidget()
        self.list.setMaximumHeight(150)
        self.list.setToolTip("Click, or step with the keys . and , to fly there.")
        self.hint = QLabel(HINT)
        self.hint.setWordWrap(True)
        self.progress = ProgressPanel("")
        self.find_button = button("Find places", "Rank places of the slide by how much the model disagrees with itself.", self.find_places)
        self.back_button = button("◂", f"The place before (key {PREVIOUS}).", lambda: self.step(-1))
        self.next_button = button("▸", f"The next place (key {NEXT}).", lambda: self.step(1))
        self.paint_button = button("Paint here", "Place a segmentation patch here (key N under Annotate).", self.paint)
        self.back_button.setShortcut(QKeySequence(PREVIOUS))
        self.next_button.setShortcut(QKeySequence(NEXT))
        self._lay_out()
        self.list.currentRowChanged.connect(self._on_row)
        panel.desk.slide_changed.connect(self._on_slide)
        self.show_state()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.hint)
        row = QHBoxLayout()
        for each in (self.find_button, self.back_button, self.next_button, self.paint_button):
            row.addWidget(each)
        layout.addLayout(row)
        layout.addWidget(self.list)
        layout.addWidget(self.progress)

    def use(self, weights: Path | None, stain: tuple[Any, str] | None) -> None:
        """The model in use, and the colors that it reads the slide in."""
        if weights != self._weights:
            self._fill([])
        self._weights, self._stain = weights, stain
        self.show_state()

    def show_state(self) -> None:
        """Enable what can be done now."""
        self.find_button.setText("Find places" if self.current is None else "Cancel")
        self.find_button.setEnabled(self._weights is not None)
        for each in (self.back_button, self.next_button, self.paint_button):
            each.setEnabled(bool(self.places))
        self.list.setVisible(bool(self.places))
        self._take_keys()

    def _take_keys(self) -> None:
        self._panel.keys.lend_steps(self, self.isVisible() and bool(self.places))

    def showEvent(self, event: QShowEvent | None) -> None:
        """The keys step through the places, also beside a list of patches."""
        super().showEvent(event)
        self._take_keys()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """The keys belong to the list of patches again."""
        super().hideEvent(event)
        self._take_keys()

    def find_places(self) -> None:
        """Rank places of the slide, or stop ranking."""
        if self.current is not None:
            self.current.cancel()
            return
        self.progress.say("")
        try:
            self._begin()
        except HistosegError as error:
            self.progress.say(str(error), problem=True)

    def _begin(self) -> None:
        desk, weights, stain = self._panel.desk, self._weights, self._stain
        if weights is None:
            raise WeightsError("There is no model yet. Train one first.")
        slide, session = desk.require_slide(), desk.require()
        taken = [each.box for each in session.patches_of(slide) if each.box is not None]
        side, mpp = desk.patch_px, session.mpp

        def work(step: Step) -> list[Place]:
            return ranked(slide, weights, stain, side, mpp, taken, step)

        self.progress.wait("Looking at the slide…")
        self.current = in_steps("Finding places to annotate", work, self._on_found, self._on_failed, self)
        self.current.progress.connect(lambda progress: self.progress.show_progress(progress, f"{progress.done} of {progress.total} places"))
        self.current.cancelled.connect(lambda: self.progress.rest("Cancelled."))
        self.current.ended.connect(self._on_ended)
        self.show_state()

    def _on_found(self, places: list[Place]) -> None:
        self.progress.rest("" if places else "No place on tissue is free of patches.")
        self._fill(places)
        if places:
            self.list.setCurrentRow(0)

    def _on_failed(self, sentence: str) -> None:
        self.progress.rest()
        self.progress.say(sentence, problem=True)

    def _on_ended(self) -> None:
        self.current = None
        self.show_state()

    def _on_slide(self) -> None:
        self._fill([])

    def _fill(self, places: Sequence[Place]) -> None:
        self.places = list(places)
        self.list.blockSignals(True)
        self.list.clear()
        for number, place in enumerate(self.places, 1):
            self.list.addItem(f"{number}.  {place.disagreement:.2f}  {' / '.join(place.classes)}")
        self.list.blockSignals(False)
        self.show_state()

    def step(self, by: int) -> None:
        """Go on in the list, or back."""
        if self.places:
            self.list.setCurrentRow((self.list.currentRow() + by) % len(self.places))

    def paint(self) -> None:
        """Place a segmentation patch at the chosen place."""
        if 0 <= self.list.currentRow() < len(self.places):
            self._on_row(self.list.currentRow())
            self._panel.desk.do(self._panel.desk.new_mask_patch)

    def _on_row(self, row: int) -> None:
        layer = self._panel.desk.layer
        if layer is None or not 0 <= row < len(self.places):
            return
        box: Box = self.places[row].box
        fly(self._panel.desk.viewer, world_points(layer, [(box.x, box.y), (box.right, box.bottom)]))


def ranked(
    slide: Slide, weights: Path, stain: tuple[Any, str] | None, patch_px: int, mpp: float, taken: Sequence[Box], step: Step
) -> list[Place]:
    """`rank_places` on the slide in the colors that the model reads; imported on the worker thread."""
    from napari_histoseg.gui.warm import wait_until_warm

    wait_until_warm()
    from napari_histoseg.methods.joint.disagreement import rank_places
    from napari_histoseg.slide import tissue_mask
    from napari_histoseg.slide.tissue import is_field

    if stain is not None:
        from napari_histoseg.methods.stain.resolve import stained

        slide = stained(slide, *stain)
    tissue = None if is_field(slide) else tissue_mask(slide)
    return rank_places(slide, weights, patch_px=patch_px, mpp=mpp, taken=taken, tissue=tissue, step=step)
