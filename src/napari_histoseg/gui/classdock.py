"""What docks have in common whose runs make classes: run, look at the classes and name them, learn them for other slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import QFileDialog, QLabel, QTabWidget, QWidget

from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.inspector import ClusterInspector
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.rundock import RunDock
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.slides import open_slide_by
from napari_histoseg.gui.trainpanel import TrainPanel

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_histoseg.results import Result
    from napari_histoseg.results.record import RunRecord

RUNNING, LOOKING, TRAINING = 0, 1, 2
"""Places of tabs."""


class ClassesDock(RunDock):
    """Base of the docks of classes, with a tab for runs, one for classes and one for learning.

    A subclass makes the panel that learns (`training`) before the other parts are made.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    models : list of ModelChoice
    """

    TABS: ClassVar[tuple[tuple[str, str], ...]]
    """Titles of the three tabs, and their tips."""
    NOTHING: ClassVar[str]
    """What is said where no classes are shown."""
    SAVED: ClassVar[str]
    """What a saved model does."""
    training: TrainPanel

    # -- what a method says of itself ---------------------------------------------------------------------------------

    def class_parts(self) -> list[QWidget]:
        """The inside of the tab for classes."""
        return [self.nothing, self.inspector, self.save_button]

    def has_found(self, result: Result) -> bool:
        """Whether a run that ended left classes to look at."""
        return True

    def has_classes(self, result: Result) -> bool:
        """Whether a result has classes that can be inspected here."""
        from napari_histoseg.results.classmap import is_class_map

        return is_class_map(result)

    @property
    def result(self) -> Result | None:
        """The result that is exported and saved: its layer is chosen, or its classes are looked at."""
        chosen = super().result
        looked_at = self.inspector.desk.result
        return looked_at if chosen is None and looked_at is not None and looked_at.record.method == self.METHOD else chosen

    def weights_of(self, record: RunRecord) -> Path | None:
        """The model that the run began with, as far as it is listed."""
        if record.weights is None:
            return None
        named = [each.weights for each in self.models.choices if each.card is not None and each.card.name == record.weights.name]
        return named[0] if named else self.models.choice.weights

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        self.inspector = ClusterInspector(self.viewer)
        self.nothing = QLabel(self.NOTHING)
        self.nothing.setWordWrap(True)
        self.save_button = button("Save classes for other slides…", "Write names, colors and corrections as a model for the next slide.", self.save_classes)
        self.tabs = QTabWidget()

    def run_parts(self) -> list[QWidget]:
        """As in other docks; the progress is seen from every tab."""
        return [part for part in super().run_parts() if part is not self.progress]

    def _lay_out(self) -> None:
        insides = ((*self.run_parts(), *self.result_parts()), self.class_parts(), (self.training,))
        self.show_tabs(self.tabs, [(*words, parts) for words, parts in zip(self.TABS, insides, strict=True)], 400, self.progress)

    def _connect(self) -> None:
        super()._connect()
        self.header.changed.connect(self._on_header)
        self.folder.changed.connect(self._on_header)
        self.models.changed.connect(self._on_model)
        self.inspector.message.connect(self.progress.say)
        self.inspector.changed.connect(self._show_state)
        self.training.started.connect(lambda: self.progress.say(""))
        self.training.trained.connect(self.models.add_file)
        self.tabs.currentChanged.connect(self._follow)
        self.viewer.layers.selection.events.active.connect(self._follow)
        self.viewer.layers.events.removed.connect(self._on_removed)

    def _show_state(self, event: Any = None) -> None:
        super()._show_state(event)
        result = self.result
        self.save_button.setEnabled(result is not None and result.finished and not self.busy)
        # A training says how it goes by itself, and its previews say nothing.
        previewing = self.current is not None and self.current.request.preview
        self.progress.setVisible(self.tabs.currentIndex() != TRAINING or (self.busy and not previewing))

    def _on_header(self) -> None:
        """Another slide, another look of it, or another folder."""
        self.training.stain = self.header.stain
        self.training.home = self.folder.folder
        self.training.show_state()

    def _on_model(self) -> None:
        """Another model is chosen."""

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _on_result(self, result: Any) -> None:
        super()._on_result(result)
        run = self.current
        if run is None or run.labels is None or not self.has_found(result):
            return
        # Two colors on one place cannot be read.
        for layer in self.viewer.layers:
            if layer != run.labels and self._is_covered(layer, result):
                layer.visible = False
        if run.request.preview and self.tabs.currentIndex() == TRAINING:
            # What is looked at stays, while a training shows what it has learned.
            return
        self._inspect(result, run.labels)
        if result.finished and not run.request.preview:
            self.tabs.setCurrentIndex(LOOKING)

    def _is_covered(self, layer: Any, result: Result) -> bool:
        """Whether a layer shows earlier classes of the same slide."""
        other = result_of(layer)
        return other is not None and other.record.method == self.METHOD and other.record.slide.fingerprint == result.record.slide.fingerprint

    # -- classes ------------------------------------------------------------------------------------------------------

    def _follow(self, event: Any = None) -> None:
        """Show the classes of the chosen layer, when they are in sight."""
        from napari.layers import Labels

        layer: Any = self.viewer.layers.selection.active
        result = result_of(layer)
        if self.tabs.currentIndex() == LOOKING and isinstance(layer, Labels) and result is not None and self.has_classes(result):
            self._inspect(result, layer)
        self._show_inspected()

    def _inspect(self, result: Result, layer: Labels) -> None:
        desk = self.inspector.desk
        # napari hands plugins a new wrapper of a layer each time, so that only == tells whether it is the same.
        if desk.result is not result or desk.layer != layer:
            self.inspector.show_result(result, layer, open_slide_by(result.record.slide.fingerprint, self.viewer.layers))
        self._show_inspected()

    def _show_inspected(self) -> None:
        there = self.inspector.desk.result is not None
        for part in self.class_parts():
            part.setVisible(there != (part is self.nothing))
        self._show_state()

    def _on_removed(self, event: Any = None) -> None:
        desk = self.inspector.desk
        if desk.result is not None and (desk.layer is None or desk.layer not in self.viewer.layers):
            self.inspector.clear()
            self._show_inspected()

    # -- the next slide -----------------------------------------------------------------------------------------------

    def save_classes(self) -> None:
        """Choose a file, and write the classes as a model."""
        result = self.result
        if result is None:
            return
        proposed = self.folder.folder / f"{result.path.stem}.safetensors"
        chosen, _ = QFileDialog.getSaveFileName(self, "Save classes for other slides", str(proposed), "Weights (*.safetensors)")
        if chosen:
            self.save_classes_to(Path(chosen), result)

    def save_classes_to(self, path: Path, result: Result) -> None:
        """Write the classes of a result as a model, list it and choose it."""
        path = path if path.suffix else path.with_suffix(".safetensors")
        self.progress.say("")
        in_background("Saving classes", lambda: carried(result, path), self._on_saved, self._problem, self)

    def _on_saved(self, path: Path) -> None:
        self.models.add_file(path)
        self.progress.say(f"Saved as {path}. It is the model now: {self.SAVED}")


def carried(result: Result, path: Path) -> Path:
    """`napari_histoseg.carry`, for a worker thread."""
    from napari_histoseg.api import carry

    return carry(result, path)
