"""The dock "Cells": group nuclei into classes, look at the classes and name them, learn them for other slides."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
from qtpy.QtWidgets import QFileDialog, QLabel, QTabWidget, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.cellslearn import CellsLessons
from napari_histoseg.gui.inspector import ClusterInspector
from napari_histoseg.gui.live_run import Request
from napari_histoseg.gui.modelpicker import ModelChoice
from napari_histoseg.gui.nucleipicker import NucleiPicker
from napari_histoseg.gui.parts import button, scrolled
from napari_histoseg.gui.rundock import RunDock
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.slides import open_slide_by
from napari_histoseg.gui.warm import warm_method
from napari_histoseg.methods.cells.config import CellsSettings

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_histoseg.results import Result
    from napari_histoseg.results.record import RunRecord

log = logging.getLogger(__name__)

GROUP, CLASSES, TRAIN = "Group", "Classes", "Train"
TIPS = ("Group the nuclei of a slide into classes.", "Look at the classes, name them, put them right.", "Learn classes for other slides.")
NEW = "New classes of this slide"
NEW_NOTE = (
    "The nuclei are grouped by what they look like, without labels. Name the classes under Classes and save them: as a model they give "
    "the nuclei of other slides the same names and colors."
)
NOTHING = "No classes are shown. Run under Group, or choose the layer of a result with classes."
OF_MODEL = ("method", "n_classes", "colors")
"""Settings that a model brings along."""
LOOKING, TRAINING = 1, 2
"""Places of tabs."""


class CellsDock(RunDock):
    """Group nuclei that were found before into classes.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "cells"
    NOUN = "nuclei"
    SETTINGS = CellsSettings
    BASIC = OF_MODEL
    HIDDEN = ("labels",)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [ModelChoice(NEW, "", None, None, NEW_NOTE)])
        warm_method(self.METHOD, "napari_histoseg.methods.cells.predictor", "sklearn.cluster", "sklearn.decomposition")
        self._on_header()
        self._follow()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        self._grouped: Labels | None = None
        self.nuclei = NucleiPicker(self.viewer)
        self.inspector = ClusterInspector(self.viewer)
        self.nothing = QLabel(NOTHING)
        self.nothing.setWordWrap(True)
        self.training = CellsLessons(self.nuclei)
        self.save_button = button("Save classes for other slides…", "Write names, colors and corrections as a model for the next slide.", self.save_classes)
        self.run_button.setToolTip("Group the nuclei in the chosen place.")
        self.tabs = QTabWidget()

    def run_parts(self) -> list[QWidget]:
        """As in other docks, with the nuclei; the progress is seen from every tab."""
        where, how, *others = (part for part in super().run_parts() if part is not self.progress)
        return [where, self.nuclei, how, *others]

    def _lay_out(self) -> None:
        self.tabs.addTab(scrolled(*self.run_parts(), *self.result_parts()), GROUP)
        self.tabs.addTab(scrolled(self.nothing, self.inspector, self.save_button), CLASSES)
        self.tabs.addTab(scrolled(self.training), TRAIN)
        for i, tip in enumerate(TIPS):
            self.tabs.setTabToolTip(i, tip)
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.header)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(self.progress)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setMinimumWidth(400)

    def _connect(self) -> None:
        super()._connect()
        self.header.changed.connect(self._on_header)
        self.models.changed.connect(self._on_model)
        self.inspector.message.connect(self.progress.say)
        self.inspector.changed.connect(self._show_state)
        self.training.source.changed.connect(self._on_header)
        self.training.trained.connect(self.models.add_file)
        self.folder.changed.connect(self._on_header)
        self.tabs.currentChanged.connect(self._follow)
        self.viewer.layers.selection.events.active.connect(self._follow)
        self.viewer.layers.events.removed.connect(self._on_removed)

    def _show_state(self, event: Any = None) -> None:
        super()._show_state(event)
        result = self.result
        self.save_button.setEnabled(result is not None and result.finished and not self.busy)
        # A training says how it goes by itself.
        self.progress.setVisible(self.busy or self.tabs.currentIndex() != TRAINING)

    # -- what a method says of itself ---------------------------------------------------------------------------------

    @property
    def result(self) -> "Result | None":
        """The result that is exported and saved: its layer is chosen, or its classes are looked at."""
        chosen = super().result
        looked_at = self.inspector.desk.result
        return looked_at if chosen is None and looked_at is not None and looked_at.record.method == self.METHOD else chosen

    def settings_of(self, choice: ModelChoice) -> dict[str, Any]:
        """The nuclei."""
        layer = self.header.layer
        assert layer is not None
        return {"labels": self.nuclei.labels(layer, self.header.slide())}

    def weights_of(self, record: "RunRecord") -> Path | None:
        """The model that the run began with, as far as it is listed."""
        if record.weights is None:
            return None
        named = [each.weights for each in self.models.choices if each.card is not None and each.card.name == record.weights.name]
        return named[0] if named else self.models.choice.weights

    def in_words(self, result: "Result") -> str:
        """How many nuclei, and how many of each class."""
        counts = result.objects["class"].value_counts()
        parts = [f"{c.name} {counts[c.name]:,}" for c in result.classes if c.value and c.name in counts]
        classes = "1 class" if len(parts) == 1 else f"{len(parts)} classes"
        return f"{super().in_words(result)} in {classes}: {', '.join(parts)}" if parts else super().in_words(result)

    def _on_header(self) -> None:
        """Another slide, another look of it, or another folder."""
        try:
            fingerprint = self.header.slide().fingerprint()
        except HistosegError:
            fingerprint = None
        self.nuclei.set_slide(fingerprint)
        source = self.training.source.folder
        from_result = source is not None and (source / "run.json").is_file()
        # A result is of its slide as it was read then; pictures of a dataset can be read in any colors.
        self.training.stain = None if from_result else self.header.stain
        self.training.home = self.folder.folder

    def _on_model(self) -> None:
        """A model brings its own way and number of classes along."""
        new = self.models.choice.weights is None
        for name in OF_MODEL:
            self.form.editor(name).setEnabled(new)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        settings = request.settings
        assert isinstance(settings, CellsSettings)
        layer = self.header.layer
        if isinstance(settings.labels, dict) and not settings.labels.get("path") and layer is not None:
            # They came from a layer, of which a run cannot keep more than what it looked like.
            settings = settings.replace(labels=self.nuclei.labels(layer, request.slide))
            request = replace(request, settings=settings)
        self._grouped = self.nuclei.layer
        super()._start(request)

    def _on_result(self, result: Any) -> None:
        super()._on_result(result)
        run = self.current
        if run is None or run.labels is None or not len(result.objects):
            return
        # Two colors on one nucleus cannot be read.
        for layer in self.viewer.layers:
            if layer != run.labels and (layer == self._grouped or self._of_same(layer, result)):
                layer.visible = False
        self._inspect(result, run.labels)
        if result.finished and not run.request.preview:
            self.tabs.setCurrentIndex(LOOKING)

    def _of_same(self, layer: Any, result: "Result") -> bool:
        """Whether a layer shows earlier classes of the same slide."""
        other = result_of(layer)
        return other is not None and other.record.method == self.METHOD and other.record.slide.fingerprint == result.record.slide.fingerprint

    # -- classes ------------------------------------------------------------------------------------------------------

    def _follow(self, event: Any = None) -> None:
        """Show the classes of the chosen layer, when they are in sight."""
        layer: Any = self.viewer.layers.selection.active
        result = result_of(layer)
        if self.tabs.currentIndex() == LOOKING and result is not None and has_classes(result, layer):
            self._inspect(result, layer)
        self._show_inspected()

    def _inspect(self, result: "Result", layer: "Labels") -> None:
        desk = self.inspector.desk
        # napari hands plugins a new wrapper of a layer each time, so that only == tells whether it is the same.
        if desk.result is not result or desk.layer != layer:
            self.inspector.show_result(result, layer, open_slide_by(result.record.slide.fingerprint, self.viewer.layers))
        self._show_inspected()

    def _show_inspected(self) -> None:
        there = self.inspector.desk.result is not None
        self.nothing.setVisible(not there)
        self.inspector.setVisible(there)
        self.save_button.setVisible(there)
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
        chosen, _ = QFileDialog.getSaveFileName(self, "Save classes for other slides", str(self._proposed(result)), "Weights (*.safetensors)")
        if chosen:
            self.save_classes_to(Path(chosen), result)

    def _proposed(self, result: "Result") -> Path:
        stem = result.path.stem
        return self.folder.folder / f"{stem}.safetensors"

    def save_classes_to(self, path: Path, result: "Result") -> None:
        """Write the classes of a result as a model, list it and choose it."""
        path = path if path.suffix else path.with_suffix(".safetensors")
        self.progress.say("")
        in_background("Saving classes", lambda: carried(result, path), self._on_saved, self._problem, self)

    def _on_saved(self, path: Path) -> None:
        self.models.add_file(path)
        self.progress.say(f"Saved as {path}. It is the model now: Run gives the nuclei of any slide these classes.")


def has_classes(result: "Result", layer: Any) -> bool:
    """Whether a layer shows a result whose classes can be inspected."""
    from napari.layers import Labels

    from napari_histoseg.results.classmap import is_class_map

    if not isinstance(layer, Labels):
        return False
    return is_class_map(result) or (result.record.method == "cells" and bool(len(result.objects)))


def carried(result: "Result", path: Path) -> Path:
    """`napari_histoseg.carry`, for a worker thread."""
    from napari_histoseg.api import carry

    return carry(result, path)
