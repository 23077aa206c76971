"""A training in the window: its job, what it says, pause and stop. Events come from `napari_histoseg.iter_train`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject

from napari_histoseg.gui.jobs import Job, JobEvent, Part, Plain, Said
from napari_histoseg.predict.events import Finished, Fitting

SAY_S = 0.25
"""Least time between two points of the curve."""
PAUSE_S = 0.05

Trainer = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Lesson:
    """What a training is started with."""

    method: str
    dataset: Path
    out: Path
    settings: dict[str, Any]
    stain: tuple[Any, str] | None = None
    title: str = "Training"


@dataclass(frozen=True)
class Losses:
    """Mean losses since the last point, by name."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """Held-out scores; ``best`` when ``weights`` was written anew. ``stage`` names the last losses, where each stage of a training has one of its own."""

    step: int
    scores: dict[str, float]
    best: bool
    weights: Path
    stage: str = ""


@dataclass
class _Mean:
    """Losses that were not said yet."""

    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    said: float = 0.0

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1

    def due(self) -> bool:
        return bool(self.sums) and time.perf_counter() - self.said >= SAY_S

    def take(self) -> dict[str, float]:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums, self.said = {}, time.perf_counter()
        return means


def trainer(*args: Any, **keywords: Any) -> Iterator[Any]:
    """`napari_histoseg.iter_train`, imported on the worker thread."""
    from napari_histoseg.gui.warm import wait_until_warm

    wait_until_warm(args[0])
    from napari_histoseg.api import iter_train

    return iter_train(*args, **keywords)


class LiveTraining(QObject):
    """Runs a training as a job.

    The job's signals say how it goes: ``progress`` in steps, ``said`` with `Losses` and `Scored`, ``finished`` with the loop's
    ``Trained``.

    Parameters
    ----------
    lesson : Lesson
    engine : callable
        `trainer`, or something like it.
    """

    def __init__(self, lesson: Lesson, engine: Trainer = trainer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.lesson = lesson
        self._engine = engine
        self._paused, self._stop = threading.Event(), threading.Event()
        self.job = Job(lesson.title, self._events, self)

    def start(self) -> None:
        """Begin."""
        self.job.start()

    @property
    def paused(self) -> bool:
        """Whether it waits."""
        return self._paused.is_set()

    def pause(self) -> None:
        """Wait after the step in hand."""
        self._paused.set()

    def go_on(self) -> None:
        """Go on after a pause."""
        self._paused.clear()

    def stop(self) -> None:
        """Score once more after the step in hand, and end with the best weights."""
        self._stop.set()
        self._paused.clear()

    def _events(self) -> Iterator[JobEvent]:
        wanted = self.lesson
        stain = {} if wanted.stain is None else {"stain": wanted.stain[0], "stain_method": wanted.stain[1]}
        events = self._engine(wanted.method, wanted.dataset, out=wanted.out, stop=self._stop.is_set, **stain, **wanted.settings)
        from napari_histoseg.train.loop import Preparing, StepDone, Trained, Validated

        mean, stage = _Mean(), ""
        with closing(events):  # type: ignore[type-var]
            for event in events:
                if isinstance(event, StepDone):
                    if event.step == 1:
                        yield Part(0, event.steps)
                    # While pictures are only looked at, nothing is lost.
                    if event.parts or event.loss:
                        mean.add(event.parts or {"loss": event.loss})
                    if mean.due():
                        yield Said(Losses(event.step, mean.take()))
                    stage = next(iter(event.parts), "") if len(event.parts) == 1 else ""
                    yield Part(event.step, event.steps)
                elif isinstance(event, Preparing):
                    yield Fitting(event.done, event.total, event.words)
                elif isinstance(event, Validated):
                    yield Said(Scored(event.step, event.scores, event.best, event.weights, stage))
                elif isinstance(event, Trained):
                    yield Finished(Plain(event), event.seconds)  # type: ignore[arg-type]
                while self.paused and not self.job.cancelling:
                    time.sleep(PAUSE_S)
