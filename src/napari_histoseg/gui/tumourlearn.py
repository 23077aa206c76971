"""Learning tumour in the window, from the slides that were outlined."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.gui.jobs import Progress
from napari_histoseg.gui.training import Losses, Scored
from napari_histoseg.gui.trainpanel import TrainPanel
from napari_histoseg.gui.tumourslides import AnnotatedSlides
from napari_histoseg.gui.tumourworst import WorstPatches
from napari_histoseg.methods.tumour.config import TumourTraining

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histoseg.slide import Slide

CLASSIFIER, REFINER, FOLDS = "classifier", "refiner", "cross-fitting"


def line_of(stage: str) -> str:
    """The line of the curve that a stage's losses belong to: classifiers for cross-fitting share one."""
    return FOLDS if stage.startswith("fold ") else stage


class TumourLessons(TrainPanel):
    """Learns a classifier of patches, and the network that refines its heatmaps.

    Parameters
    ----------
    slides : AnnotatedSlides
        What is learned from.
    """

    def __init__(self, slides: AnnotatedSlides, parent: QWidget | None = None) -> None:
        self.slides = slides
        self.worst = WorstPatches()
        basic = ("backbone", "refiner", "steps", "refine_steps")
        super().__init__("tumour", "tumour", TumourTraining, None, basic=basic, hidden=("start", "encoder_file"), parent=parent)
        self.train_button.setToolTip("Check the list of slides, then train on them. The model is put into the folder 'models' of their dataset.")
        slides.changed.connect(self._on_slides)
        slides.tumour_class = self._tumour_class
        self._on_slides()

    def _lay_out(self) -> None:
        super()._lay_out()
        layout = self.layout()
        assert isinstance(layout, QVBoxLayout)
        layout.insertWidget(layout.indexOf(self.progress) + 1, self.worst)

    def _tumour_class(self) -> str:
        return str(self.form.editor("tumour_class").text())  # type: ignore[attr-defined]

    def _on_slides(self) -> None:
        # What will be written when the training begins.
        self.dataset = Path() if self.slides.entries else None
        self.show_state()

    def show_state(self) -> None:
        """Enable what can be done now."""
        super().show_state()
        self.form.setEnabled(self.current is None)

    # -- while it learns ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.dataset = self.slides.ready()
        self.home = None
        super()._begin()
        self.worst.clear()
        self.worst.slides = openers(self.dataset)
        settings = self.form.values().model_dump()
        parts = 0 if settings["backbone"] == "none" else settings["steps"]
        if settings["refiner"] != "none":
            parts *= 1 + (settings["folds"] if settings["folds"] > 1 else 0)
            parts += settings["refine_steps"]
        self.curve.clear(parts)
        self.progress.wait("Reading the slides…")

    def _on_progress(self, progress: Progress) -> None:
        if self.current is None or self.current.paused:
            return
        if progress.words:
            self.progress.show_progress(progress, f"{progress.words}: {progress.done:,} of {progress.total:,}")
            return
        stage = next(reversed(self.curve.losses), "")
        self.progress.show_progress(progress, f"Step {progress.done:,} of {progress.total:,}{f' · {stage}' if stage else ''}")

    def _on_said(self, what: Any) -> None:
        if isinstance(what, Losses):
            values = {line_of(name): value for name, value in what.values.items()}
            self.curve.add_losses(what.step, values)
            return
        if isinstance(what, Scored):
            if line_of(what.stage) == FOLDS:
                # Of a classifier that is not kept.
                return
            if what.best and what.stage == CLASSIFIER:
                self.worst.look(what.weights)
        super()._on_said(what)

    def _on_finished(self, trained: Any) -> None:
        super()._on_finished(trained)
        named = {"classifier": "classifier {:.3f} of held-out patches", "refiner": "outline {:.3f} (Dice)"}
        scores = [text.format(trained.scores[name]) for name, text in named.items() if name in trained.scores]
        said = f": {', '.join(scores)}" if scores else ""
        self.progress.rest(f"Trained in {trained.seconds:.0f} s{said}. Model: {trained.weights.name}")
        self.worst.look(trained.weights)


def openers(folder: Path) -> dict[str, Callable[[], Slide]]:
    """What opens each slide of a dataset, by the name that training calls it."""
    dataset = read_dataset(folder)
    found: dict[str, Callable[[], Slide]] = {}
    for patch in dataset.patches:
        place = "" if patch.box is None or patch.box[:2] == (0, 0) else f" at {patch.box[0]}, {patch.box[1]}"
        found[f"{patch.source}{place}"] = partial(dataset.open, patch)
    return found
