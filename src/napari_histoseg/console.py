"""What the command line shows while it works: a progress line and notes on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TextIO, cast

from napari_histoseg.errors import RunError

if TYPE_CHECKING:
    from napari_histoseg.predict.events import Finished, RunEvent
    from napari_histoseg.train.loop import Trained, TrainEvent


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def left(done: int, total: int, first: int, seconds: float) -> str:
    """Time left, from the pace since ``first`` items were there; empty before the first is done."""
    fresh = done - first
    return f", {clock(seconds / fresh * (total - done))} left" if fresh > 0 and done < total else ""


class Progress:
    """A line that is redrawn on a terminal; in a log, one line now and then.

    Parameters
    ----------
    stream : text stream, optional
        stderr when not given.
    every_s : float, optional
        Least time between two updates: 0.1 s on a terminal, 15 s in a log.
    """

    def __init__(self, stream: TextIO | None = None, every_s: float | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._every = every_s if every_s is not None else (0.1 if self._live else 15.0)
        self._last = -float("inf")
        self._width = 0

    def update(self, text: str, always: bool = False) -> None:
        """Show a new state; dropped when the last is younger than ``every_s``, unless ``always``."""
        now = time.monotonic()
        if not always and now - self._last < self._every:
            return
        self._last = now
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """A line that stays."""
        self.close()
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """End the redrawn line."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
        self._width = 0


def _closing(events: Iterator[Any]) -> closing[Any]:
    """Events come from generators, whose ``close`` ends the work and keeps what is done."""
    return closing(cast(Any, events))


def watch_run(events: Iterator[RunEvent], progress: Progress) -> Finished:
    """Drive a run to its end and show how it goes on. On any exception the run is closed and stays resumable.

    Raises
    ------
    HistosegError
        What the run raises.
    """
    from napari_histoseg.predict.events import Finished, Notice, Started, TileDone

    first = 0
    with _closing(events):
        for event in events:
            match event:
                case Started():
                    first = event.done
                    before = f", {first} of them done before" if first else ""
                    progress.note(f"{event.total} tiles at {event.mpp:.3g} µm/px on {event.device} ({event.precision}){before}")
                case TileDone():
                    time_left = left(event.done, event.total, first, event.seconds)
                    text = f"{event.done}/{event.total} tiles, {event.n_objects} objects{time_left}"
                    progress.update(text, always=event.done == event.total)
                case Notice():
                    progress.note(f"note: {event.message}")
                case Finished():
                    return event
    raise RunError("The run ended without a result.")


def watch_training(events: Iterator[TrainEvent], progress: Progress) -> Trained:
    """Drive a training to its end and show how it goes on.

    Raises
    ------
    HistosegError
        What the training raises.
    """
    from napari_histoseg.train.loop import StepDone, Trained, Validated

    first: int | None = None
    with _closing(events):
        for event in events:
            match event:
                case StepDone():
                    first = event.step - 1 if first is None else first
                    time_left = left(event.step, event.steps, first, event.seconds)
                    progress.update(f"step {event.step}/{event.steps}, loss {event.loss:.4g}{time_left}")
                case Validated():
                    scores = ", ".join(f"{name} {value:.4g}" for name, value in event.scores.items())
                    progress.note(f"step {event.step}: {scores}{' (best so far, kept)' if event.best else ''}")
                case Trained():
                    return event
    raise RunError("The training ended without weights.")
