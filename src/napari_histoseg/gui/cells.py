"""The dock "Cells": group nuclei into classes, look at the classes and name them, learn them for other slides."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import napari
from qtpy.QtWidgets import QWidget

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.cellslearn import CellsLessons
from napari_histoseg.gui.classdock import ClassesDock
from napari_histoseg.gui.live_run import Request
from napari_histoseg.gui.modelpicker import ModelChoice
from napari_histoseg.gui.nucleipicker import NucleiPicker
from napari_histoseg.gui.warm import warm_method
from napari_histoseg.methods.cells.config import CellsSettings

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_histoseg.results import Result

NEW = "New classes of this slide"
NEW_NOTE = (
    "The nuclei are grouped by what they look like, without labels. Name the classes under Classes and save them: as a model they give "
    "the nuclei of other slides the same names and colors."
)
OF_MODEL = ("method", "n_classes", "colors")
"""Settings that a model brings along."""


class CellsDock(ClassesDock):
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
    TABS = (
        ("Group", "Group the nuclei of a slide into classes."),
        ("Classes", "Look at the classes, name them, put them right."),
        ("Train", "Learn classes for other slides."),
    )
    NOTHING = "No classes are shown. Run under Group, or choose the layer of a result with classes."
    SAVED = "Run gives the nuclei of any slide these classes."
    training: CellsLessons

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [ModelChoice(NEW, "", None, None, NEW_NOTE)])
        warm_method(self.METHOD, "napari_histoseg.methods.cells.predictor", "sklearn.cluster", "sklearn.decomposition")
        self._on_header()
        self._follow()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        self._grouped: Labels | None = None
        self.nuclei = NucleiPicker(self.viewer)
        self.training = CellsLessons(self.nuclei)
        super()._make_parts()
        self.run_button.setToolTip("Group the nuclei in the chosen place.")

    def run_parts(self) -> list[QWidget]:
        """As in other docks, with the nuclei."""
        where, how, *others = super().run_parts()
        return [where, self.nuclei, how, *others]

    def _connect(self) -> None:
        super()._connect()
        self.training.source.changed.connect(self._on_header)

    # -- what a method says of itself ---------------------------------------------------------------------------------

    def has_found(self, result: "Result") -> bool:
        """Whether there are nuclei."""
        return bool(len(result.objects))

    def has_classes(self, result: "Result") -> bool:
        """Whether it is a map of classes, or has nuclei in classes."""
        return super().has_classes(result) or (result.record.method == self.METHOD and bool(len(result.objects)))

    def settings_of(self, choice: ModelChoice) -> dict[str, Any]:
        """The nuclei."""
        layer = self.header.layer
        assert layer is not None
        return {"labels": self.nuclei.labels(layer, self.header.slide())}

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
        super()._on_header()
        source = self.training.source.folder
        if source is not None and (source / "run.json").is_file():
            # A result is of its slide as it was read then; pictures of a dataset can be read in any colors.
            self.training.stain = None

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

    def _is_covered(self, layer: Any, result: "Result") -> bool:
        return bool(layer == self._grouped) or super()._is_covered(layer, result)
