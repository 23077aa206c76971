"""The dock "Joint": annotate a few patches, train on them, map the slide, correct, train again."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtWidgets import QLabel, QTabWidget, QWidget

from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.annotate import AnnotationPanel
from napari_histoseg.gui.annotatelayers import warm_colors
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.jointnext import NextPlaces
from napari_histoseg.gui.models import choice_of
from napari_histoseg.gui.parts import group
from napari_histoseg.gui.rundock import RunDock
from napari_histoseg.gui.training import Scored
from napari_histoseg.gui.trainpanel import TrainPanel, models_in
from napari_histoseg.methods.joint.config import JointSettings, JointTraining

if TYPE_CHECKING:
    from napari_histoseg.results import Result

log = logging.getLogger(__name__)

ANNOTATE, TRAIN, APPLY = "Annotate", "Train", "Apply"


def compare(dataset: Path, old: Path, new: Path) -> dict[str, Any]:
    """`methods.joint.train.compare`, imported on the worker thread."""
    from napari_histoseg.methods.joint.train import compare as compared

    return compared(dataset, old, new)


def advise(dataset: Path, weights: Path) -> str:
    """Which class's patch would help most, as a sentence; empty when that cannot be told."""
    from napari_histoseg.methods.joint.advice import advise_on

    found = advise_on(read_dataset(dataset), weights, models_in(dataset, "joint"))
    return found[0].sentence if found else ""


class JointDock(RunDock):
    """Annotate patches, train one network on outlines and classes together, and map a slide with it.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "joint"
    NOUN = "classes"
    SETTINGS = JointSettings
    BASIC = ("glass_um",)
    PREVIEW_UM = 2048.0

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [])
        self._on_dataset()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        # Of masks that are painted, and of maps.
        warm_colors(np.uint8, np.uint32)
        self.panel = AnnotationPanel(self.viewer, self.header)
        self.training = TrainPanel(
            self.METHOD, "joint", JointTraining, compare, basic=("steps", "mix", "mpp"), hidden=("start", "encoder_file")
        )
        self.training.prepare = self._before_training
        self.next = NextPlaces(self.panel)
        self.advice = QLabel()
        self.advice.setWordWrap(True)
        self.areas = QLabel()
        self.areas.setWordWrap(True)
        self.areas.setTextInteractionFlags(self.areas.textInteractionFlags().TextSelectableByMouse)
        self.tabs = QTabWidget()

    def _lay_out(self) -> None:
        pages: list[tuple[str, str, list[QWidget]]] = [
            (ANNOTATE, "Outline a few patches, give many a class.", [self.panel]),
            (TRAIN, "Train on all of them together.", [self.training, self.advice, group("Annotate next", self.next)]),
            (APPLY, "Map the view, a region or the slide.", [*self.run_parts(), self.areas, *self.result_parts()]),
        ]
        self.show_tabs(self.tabs, pages, 380)

    def _connect(self) -> None:
        super()._connect()
        self.header.message.connect(self.panel._complain)
        self.panel.dataset_changed.connect(self._on_dataset)
        self.panel.changed.connect(self._on_annotated)
        self.training.started.connect(self._on_training)
        self.training.scored.connect(self._on_scored)
        self.training.trained.connect(self._on_trained)
        self.models.changed.connect(self._on_model)
        self.header.changed.connect(self._on_model)

    def in_words(self, result: "Result") -> str:
        """What was mapped; the areas follow, because they have to be counted."""
        named = ", ".join(c.name for c in result.classes if c.value)
        in_background("Measuring areas", lambda: area_words(result), self.areas.setText, self._problem, self)
        return f"a map of {named}"

    # -- the dataset and its models -------------------------------------------------------------------------------------

    def _on_dataset(self) -> None:
        session = self.panel.session
        self.training.dataset = None if session is None else session.folder
        self.advice.setText("")
        if session is not None:
            self.training.form.set_values(mpp=session.mpp)
            self._list_models(session.folder)
        self._on_model()
        self._show_state()

    def _list_models(self, dataset: Path) -> None:
        """The models of a dataset, the newest chosen."""
        self.models.set_choices([choice for path in models_in(dataset, self.METHOD) if (choice := choice_of(path))])

    def _on_annotated(self, changed: Any = None) -> None:
        self.training.show_state()

    def _on_model(self) -> None:
        self.training.model = self.models.choice.weights if self.models.any else None
        self.training.stain = self.header.stain
        self.training.show_state()
        self.next.use(self.training.model, self.header.stain)

    def _before_training(self) -> None:
        self.panel.desk.settle()
        self.panel.desk.save_unsaved()

    # -- while it learns ------------------------------------------------------------------------------------------------

    def _on_training(self) -> None:
        self.advice.setText("")

    def _on_scored(self, scored: Scored) -> None:
        """Map the view with the best weights so far, when nothing else is being mapped."""
        if not (scored.best and self.training.watch.isChecked()) or self.busy or self.header.layer is None:
            return
        if (choice := choice_of(scored.weights)) is None:
            return
        try:
            self._start(self._request(preview=True, model=choice))
        except HistosegError as error:
            log.debug("No preview while training: %s", error)

    def _on_trained(self, weights: Path) -> None:
        session = self.panel.session
        if session is None or weights.parent.parent != session.folder:
            self.models.add_file(weights)
        else:
            folder = session.folder
            self._list_models(folder)
            in_background("Estimating what would help", lambda: advise(folder, weights), self.advice.setText, log.debug, self)


def area_words(result: "Result") -> str:
    """The area of each class, a line each."""
    from napari_histoseg.results.classmap import class_areas

    rows = class_areas(result)
    return "<br>".join(f"{row['class']}: {row['area_mm2']:.3g} mm² ({row['share']:.0%})" for _, row in rows.iterrows())
