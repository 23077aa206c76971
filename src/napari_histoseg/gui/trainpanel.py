"""Training a method on the dataset that is open: settings, curve, pause, stop, and a guard against getting worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QCheckBox, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_histoseg.errors import DatasetError, HistosegError, StorageError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.curve import LearningCurve
from napari_histoseg.gui.form import SettingsForm
from napari_histoseg.gui.jobs import Progress
from napari_histoseg.gui.models import choice_of
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.progress import ProgressPanel
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.training import Lesson, LiveTraining, Losses, Scored, Trainer, trainer
from napari_histoseg.methods.settings import TrainSettings

Compare = Callable[[Path, Path, Path], dict[str, Any]]
"""(dataset, old weights, new weights) → ``better`` (None when that cannot be told) and ``message``."""

MODELS = "models"
"""Folder of a dataset that trained weights are put into."""


class TrainPanel(QWidget):
    """Trains a method and hands over its weights, unless they are worse than those in use.

    Parameters
    ----------
    method, title : str
        The method, and how it is called on progress.
    settings : type of TrainSettings
    basic, hidden : tuple of str
        Settings that are always seen, and that others set.
    compare : callable or None
        Scores old and new weights on the same held-out patches; without it new weights are always put in place.
    """

    started = Signal()
    scored = Signal(object)
    """`Scored`: held-out scores while it learns."""
    trained = Signal(object)
    """Path of the weights to use from now on."""
    ended = Signal()

    def __init__(
        self,
        method: str,
        title: str,
        settings: type[TrainSettings],
        compare: Compare | None,
        basic: tuple[str, ...] = ("steps",),
        hidden: tuple[str, ...] = ("start",),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.method, self.title = method, title
        self.engine: Trainer = trainer
        self.current: LiveTraining | None = None
        self.dataset: Path | None = None
        """Folder of the dataset to train on."""
        self.home: Path | None = None
        """Folder whose 'models' the weights go to; None is the dataset's."""
        self.model: Path | None = None
        """Weights in use: what a training may go on from, and is compared with."""
        self.stain: tuple[Any, str] | None = None
        self.prepare: Callable[[], None] = lambda: None
        """Called before a training: brings to the disk what is painted."""
        self._compare = compare
        self._doubtful: Path | None = None
        self.form = SettingsForm(settings, basic=basic, hidden=hidden)
        self.warm = QCheckBox("Go on from the model in use")
        self.warm.setToolTip("Start from the weights of the chosen model instead of from the beginning; classes are matched by name.")
        self.watch = QCheckBox("Preview the view as it learns")
        self.watch.setToolTip("After each scoring that is the best so far, map the middle of the current view.")
        self.watch.setChecked(True)
        self.curve = LearningCurve()
        self.progress = ProgressPanel("")
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self._make_buttons()
        self._lay_out()
        self.show_state()

    def _make_buttons(self) -> None:
        self.train_button = button("Train", "Train on the dataset that is open. The model is put into its folder 'models'.", self.train)
        self.train_button.setDefault(True)
        self.pause_button = button("Pause", "Wait after the step in hand, and go on when pressed again.", self.pause)
        self.stop_button = button("Stop and keep the best", "Score once more and end with the best weights so far.", self.stop)
        self.cancel_button = button("Cancel", "Stop at once and put no model in place.", self.cancel)
        self.use_button = button("Use it all the same", "Put the new model in place although it is worse.", self.use_doubtful)
        self.leave_button = button("Keep the old one", "Leave the model that is in use; the new file stays in the folder.", self.leave_doubtful)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.form, self.warm, self.watch):
            layout.addWidget(part)
        grid = QGridLayout()
        for i, each in enumerate((self.train_button, self.pause_button, self.stop_button, self.cancel_button)):
            grid.addWidget(each, i // 2, i % 2)
        layout.addLayout(grid)
        layout.addWidget(self.curve)
        layout.addWidget(self.progress)
        layout.addWidget(self.verdict)
        row = QHBoxLayout()
        row.addWidget(self.use_button)
        row.addWidget(self.leave_button)
        layout.addLayout(row)
        self.curve.hide()

    def show_state(self) -> None:
        """Enable what can be done now."""
        running = self.current is not None
        self.train_button.setEnabled(not running and self.dataset is not None)
        self.warm.setEnabled(not running and self.model is not None)
        for each in (self.pause_button, self.stop_button, self.cancel_button):
            each.setEnabled(running)
        self.pause_button.setText("Continue" if self.current is not None and self.current.paused else "Pause")
        for each in (self.use_button, self.leave_button):
            each.setVisible(self._doubtful is not None)
        self.verdict.setVisible(bool(self.verdict.text()))

    # -- training -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train on the dataset that is open."""
        self.progress.say("")
        try:
            self._begin()
        except HistosegError as error:
            self.progress.say(str(error), problem=True)

    def _begin(self) -> None:
        if self.dataset is None:
            raise DatasetError("No dataset is open. Press New… or Open… on the dock's first page.")
        self.prepare()
        settings = self.form.values()
        given = settings.model_dump(mode="json", exclude_defaults=True)
        if self.warm.isChecked() and self.model is not None:
            given["start"] = str(self.model)
        lesson = Lesson(self.method, self.dataset, fresh_file(self.home or self.dataset, self.method), given, self.stain, f"Training {self.title}")
        assert isinstance(settings, TrainSettings)
        self.curve.clear(settings.steps)
        self.curve.show()
        self._say_verdict("")
        run = self.current = LiveTraining(lesson, self.engine, self)
        run.job.said.connect(self._on_said)
        run.job.progress.connect(self._on_progress)
        run.job.failed.connect(self._on_failed)
        run.job.cancelled.connect(self._on_cancelled)
        run.job.finished.connect(self._on_finished)
        run.job.ended.connect(self._on_ended)
        self.progress.wait("Reading the patches…")
        run.start()
        self.started.emit()
        self.show_state()

    def pause(self) -> None:
        """Wait, or go on."""
        if self.current is None:
            return
        if self.current.paused:
            self.current.go_on()
        else:
            self.current.pause()
            self.progress.words.setText("Paused.")
        self.show_state()

    def stop(self) -> None:
        """End with the best weights so far."""
        if self.current is not None:
            self.current.stop()
            self.stop_button.setEnabled(False)
            self.progress.words.setText("Scoring once more…")

    def cancel(self) -> None:
        """Stop at once."""
        if self.current is not None:
            self.current.job.cancel()
            self.cancel_button.setEnabled(False)
            self.progress.words.setText("Stopping after the step in hand…")

    def _on_said(self, what: Any) -> None:
        if isinstance(what, Losses):
            self.curve.add_losses(what.step, what.values)
        elif isinstance(what, Scored):
            self.curve.add_score(what.step, what.scores["score"])
            self.scored.emit(what)

    def _on_progress(self, progress: Progress) -> None:
        if self.current is not None and not self.current.paused:
            what = f"{progress.words}:" if progress.words else "Step"
            self.progress.show_progress(progress, f"{what} {progress.done:,} of {progress.total:,}")

    def _on_failed(self, sentence: str) -> None:
        self.progress.rest()
        self.progress.say(sentence, problem=True)

    def _on_cancelled(self) -> None:
        self.progress.rest("Cancelled. The model in use is unchanged.")

    def _on_ended(self) -> None:
        if self.current is not None:
            self.current.setParent(None)
        self.current = None
        self.show_state()
        self.ended.emit()

    # -- the guard ----------------------------------------------------------------------------------------------------

    def _on_finished(self, trained: Any) -> None:
        new, score = trained.weights, trained.scores["score"]
        self.progress.rest(f"Trained in {trained.seconds:.0f} s: score {score:.3f}. Model: {new.name}")
        choice = choice_of(new)
        if choice is not None and choice.card is not None and choice.card.notices:
            self.progress.say(" ".join(choice.card.notices))
        old, dataset, compare = self.model, self.dataset, self._compare
        if compare is None or old is None or dataset is None or not old.is_file():
            self.trained.emit(new)
            return
        self._say_verdict("Comparing it with the model in use…")
        in_background("Comparing models", lambda: compare(dataset, old, new), lambda found: self._judge(new, found), self._unjudged(new), self)

    def _judge(self, new: Path, found: dict[str, Any]) -> None:
        if found["better"] is False:
            self._doubtful = new
            self._say_verdict(f"{found['message']} The model in use was kept.")
            return
        self._say_verdict(found["message"])
        self.trained.emit(new)

    def _unjudged(self, new: Path) -> Callable[[str], None]:
        def failed(sentence: str) -> None:
            self._doubtful = new
            self._say_verdict(f"The new model could not be compared with the one in use, which was kept: {sentence}")

        return failed

    def use_doubtful(self) -> None:
        """Put the worse model in place."""
        new, self._doubtful = self._doubtful, None
        self._say_verdict("")
        if new is not None:
            self.trained.emit(new)

    def leave_doubtful(self) -> None:
        """Keep the model in use."""
        self._doubtful = None
        self._say_verdict("")

    def _say_verdict(self, sentence: str) -> None:
        self.verdict.setText(sentence)
        self.show_state()


def fresh_file(dataset: Path, method: str) -> Path:
    """A weights file in the dataset's folder that does not exist yet.

    Raises
    ------
    StorageError
        If its folder cannot be made.
    """
    folder = dataset / MODELS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {folder} for the model cannot be made: {error.strerror}. Free space, or choose a dataset that you may write.") from error
    number = 1
    while (path := folder / f"{method}-{number:03d}.safetensors").exists() or path.with_suffix(".checkpoint.pt").exists():
        number += 1
    return path


def models_in(dataset: Path, method: str) -> list[Path]:
    """Weights of a method that were trained on a dataset, the newest last."""
    return sorted((dataset / MODELS).glob(f"{method}-*.safetensors"))
