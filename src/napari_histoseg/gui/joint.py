"""The dock "Joint": annotate a few patches, train on them, map the slide, correct, train again."""

import logging
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QLabel, QWidget

from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.gui.annotate import AnnotationPanel
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.jointnext import NextPlaces
from napari_histoseg.gui.paneldock import PanelDock
from napari_histoseg.gui.parts import group
from napari_histoseg.gui.trainpanel import TrainPanel, models_in
from napari_histoseg.methods.joint.config import JointSettings, JointTraining

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


class JointDock(PanelDock):
    """Annotate patches, train one network on outlines and classes together, and map a slide with it.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "joint"
    SETTINGS = JointSettings
    BASIC = ("glass_um",)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [])
        self._on_dataset()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        super()._make_parts()
        self.panel = AnnotationPanel(self.viewer, self.header)
        self.training = TrainPanel(
            self.METHOD, "joint", JointTraining, compare, basic=("steps", "mix", "mpp"), hidden=("start", "encoder_file")
        )
        self.next = NextPlaces(self.panel)
        self.advice = QLabel()
        self.advice.setWordWrap(True)

    def _lay_out(self) -> None:
        pages: list[tuple[str, str, list[QWidget]]] = [
            (ANNOTATE, "Outline a few patches, give many a class.", [self.panel]),
            (TRAIN, "Train on all of them together.", [self.training, self.advice, group("Annotate next", self.next)]),
            (APPLY, "Map the view, a region or the slide.", [*self.run_parts(), self.areas, *self.result_parts()]),
        ]
        self.show_tabs(self.tabs, pages, 380)

    def _connect(self) -> None:
        super()._connect()
        self.training.started.connect(self._on_training)

    # -- the dataset and its models -------------------------------------------------------------------------------------

    def _on_dataset(self) -> None:
        session = self.panel.session
        self.advice.setText("")
        if session is not None:
            self.training.form.set_values(mpp=session.mpp)
        super()._on_dataset()

    def _on_model(self) -> None:
        super()._on_model()
        self.next.use(self.training.model, self.header.stain)

    # -- while it learns ------------------------------------------------------------------------------------------------

    def _on_training(self) -> None:
        self.advice.setText("")

    def _on_trained(self, weights: Path) -> None:
        super()._on_trained(weights)
        session = self.panel.session
        if session is not None and weights.parent.parent == session.folder:
            folder = session.folder
            in_background("Estimating what would help", lambda: advise(folder, weights), self.advice.setText, log.debug, self)
