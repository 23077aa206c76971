"""Learning kinds of tissue in the window: from slides that are open, from files, or from a patch dataset."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_histoseg.gui.curve import LearningCurve
from napari_histoseg.gui.form import SettingsForm
from napari_histoseg.gui.jobs import Progress
from napari_histoseg.gui.models import shipped_card
from napari_histoseg.gui.tissueslides import LessonSlides
from napari_histoseg.gui.training import Losses, Scored
from napari_histoseg.gui.trainpanel import TrainPanel
from napari_histoseg.methods.settings import RunSettings, Settings
from napari_histoseg.methods.tissue.config import Clustering, TissueTraining
from napari_histoseg.methods.tissue.netsettings import NetTraining

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_histoseg.gui.header import SlideHeader
    from napari_histoseg.gui.where import WherePicker

log = logging.getLogger(__name__)

NETWORK = "paper"
"""The variant with a network, whose training can be watched."""
LOSSES = {"pseudo": "loss of the classes", "reconstruction": "reconstruction"}
USED_BY: dict[str, tuple[str, ...]] = {
    "window_um": ("improved",),
    "n_words": ("improved",),
    "smooth_um": ("kmeans", "mean_shift"),
    "superpixel_um": ("normalized_cut", "fuzzy_cmeans"),
    "fuzziness": ("fuzzy_cmeans",),
    "net_steps": (NETWORK,),
    **dict.fromkeys(NetTraining.model_fields.keys() - Clustering.model_fields.keys() - RunSettings.model_fields.keys(), (NETWORK,)),
    "val_fraction": (NETWORK,),
}
"""The variants that a setting is of; settings that are not named are of all."""


def variant_in(form: SettingsForm) -> str:
    """The chosen variant."""
    return str(form.editor("variant").currentText())  # type: ignore[attr-defined]


def show_used(form: SettingsForm, model: type[Settings], given: frozenset[str] = frozenset()) -> None:
    """Enable the settings that the chosen variant has, but not those that something else has ``given``."""
    variant = variant_in(form)
    for name in model.model_fields:
        form.editor(name).setEnabled(name not in given and variant in USED_BY.get(name, (variant,)))


class TissueLessons(TrainPanel):
    """Learns a model of tissue from several slides, to be used on all of them and on others.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    header : SlideHeader
        Its slide is the one that regions are drawn on.
    where : WherePicker
        Knows the drawn regions.
    """

    def __init__(self, viewer: Viewer, header: SlideHeader, where: WherePicker, parent: QWidget | None = None) -> None:
        self.source = LessonSlides(viewer, header, where)
        self.counts = LearningCurve()
        super().__init__("tissue", "kinds of tissue", TissueTraining, None, basic=("variant", "n_classes", "mpp", "steps"), parent=parent)
        self.curve.noun = ""
        self.counts.noun, self.counts.scored, self.counts.height_px = "", False, 76
        self.counts.setAccessibleName("Number of classes")
        self.train_button.setToolTip("Learn kinds of tissue. The model is put into 'models' of the folder for results, and into the list under Map.")
        self.source.changed.connect(self._on_source)
        self.source.message.connect(lambda sentence: self.progress.say(sentence, problem=True))
        self.form.changed.connect(self._on_form)
        self._on_form()
        self._on_source()

    def _lay_out(self) -> None:
        super()._lay_out()
        # Classes are not learned by going on from those of another model.
        self.warm.hide()
        layout = self.layout()
        assert isinstance(layout, QVBoxLayout)
        layout.insertWidget(0, self.source)
        layout.insertWidget(layout.indexOf(self.curve) + 1, self.counts)
        self.counts.hide()

    @property
    def network(self) -> bool:
        """Whether a network is trained, with steps to be watched."""
        return variant_in(self.form) == NETWORK

    def _on_form(self) -> None:
        show_used(self.form, TissueTraining)

    def _on_source(self) -> None:
        # What will be written when the training begins.
        self.dataset = Path() if self.source.any else None
        self.show_state()

    def show_state(self) -> None:
        """Enable what can be done now."""
        super().show_state()
        running = self.current is not None
        self.source.setEnabled(not running)
        self.form.setEnabled(not running)
        # What has no steps has no best step.
        self.stop_button.setEnabled(running and self.network)

    # -- while it learns ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        assert self.home is not None
        mpp = self.form.values().model_dump()["mpp"]
        self.dataset = self.source.folder(self.home, mpp)
        self.counts.clear(self.form.values().model_dump()["steps"])
        try:
            super()._begin()
        finally:
            for each in (self.curve, self.counts):
                each.setVisible(self.network and self.current is not None)
        self.progress.wait("Reading the slides…")

    def _on_progress(self, progress: Progress) -> None:
        if self.current is None or self.current.paused:
            return
        if self.curve.losses:
            classes = round(self.counts.losses["classes"][-1][1]) if self.counts.losses else 0
            found = f" · {classes} classes" if classes else ""
            self.progress.show_progress(progress, f"Step {progress.done:,} of {progress.total:,}{found}")
        else:
            self.progress.show_progress(progress, "Learning from the slides")

    def _on_said(self, what: Any) -> None:
        if isinstance(what, Losses):
            self.curve.add_losses(what.step, {title: what.values[name] for name, title in LOSSES.items() if name in what.values})
            if "classes" in what.values:
                self.counts.add_losses(what.step, {"classes": round(what.values["classes"])})
            return
        if isinstance(what, Scored) and not self.network:
            # It is the only one, at the end: there is no curve to put it on.
            self.scored.emit(what)
            return
        super()._on_said(what)

    def _on_finished(self, trained: Any) -> None:
        super()._on_finished(trained)
        found = classes_in(trained.weights)
        self.progress.rest(f"Learned {found} class{'' if found == 1 else 'es'} in {trained.seconds:.0f} s. Model: {trained.weights.name}")


def classes_in(weights: Path) -> int:
    """How many classes a model has."""
    try:
        return len(shipped_card(weights).classes)
    except (OSError, ValueError, KeyError):
        log.debug("The card of %s cannot be read", weights, exc_info=True)
        return 0
