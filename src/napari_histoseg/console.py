"""What the command line shows: progress on stderr, JSON on stdout; and how Ctrl-C stops it."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from napari_histoseg.errors import RunError

if TYPE_CHECKING:
    from types import FrameType

    from napari_histoseg.predict.events import Finished, RunEvent
    from napari_histoseg.train.loop import Trained, TrainEvent

Event = TypeVar("Event")
REDRAW_S = 0.1
LOG_STEPS = 10
"""In a log, a line at every tenth."""


def print_json(value: Any) -> None:
    """Print JSON on stdout; it has no NaN, so a number that is not defined is null."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def help_without_command(context: click.Context) -> None:
    """A group called without a command shows its help."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def clock(seconds: float) -> str:
    """``75`` → ``1:15``."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


class Progress:
    """A line that is redrawn on a terminal; in a log, a line at every tenth.

    Parameters
    ----------
    stream : text stream, optional
        stderr when not given.
    now : callable, optional
        The time in seconds.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._now = now
        self._live = self._stream.isatty()
        self._drawn = -float("inf")
        self._step = 0
        self._width = 0
        self.start(0)

    def start(self, done: int) -> None:
        """Time left is reckoned from here, where ``done`` items are there already."""
        self._first, self._begun = done, self._now()

    def update(self, done: int, total: int, text: str) -> None:
        """Show a new state and the time left, if it is time to."""
        now = self._now()
        if self._live and now - self._drawn < REDRAW_S and done < total:
            return
        step = LOG_STEPS * done // max(total, 1)
        if not self._live and step == self._step:
            return
        self._drawn, self._step = now, step
        line = text + self._left(done, total)
        if self._live:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
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

    def _left(self, done: int, total: int) -> str:
        fresh = done - self._first
        if fresh <= 0 or done >= total:
            return ""
        return f", {clock((self._now() - self._begun) / fresh * (total - done))} left"


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and ``kill`` ask instead of strike: yields a function that tells whether they did.

    Work then ends between two steps, with everything stored. A second Ctrl-C strikes at once.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    # Python hands signals to the main thread only; one that the caller ignores (nohup) stays ignored.
    in_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = {n: handler for n in numbers if (handler := signal.getsignal(n)) not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until_stopped(events: Iterator[Event]) -> Generator[Event]:
    """The events of a run or training, until Ctrl-C; then the run is closed, which keeps what is done.

    Raises
    ------
    KeyboardInterrupt
        Somebody asked to stop.
    """
    with ExitStack() as stack, closing(cast(Any, events)):
        asked: Callable[[], bool] | None = None
        for event in events:
            # Until the first event nothing is written, and loading may take long: there Ctrl-C strikes at once.
            asked = asked or stack.enter_context(stop_request())
            yield event
            if asked():
                raise KeyboardInterrupt


def watch_run(events: Iterator[RunEvent], progress: Progress) -> Finished:
    """Drive a run to its end and show how it goes on. On any exception the run is closed and stays resumable.

    Raises
    ------
    HistosegError
        What the run raises.
    KeyboardInterrupt
        On Ctrl-C.
    """
    from napari_histoseg.predict.events import Finished, Fitting, Notice, Started, TileDone

    with closing(until_stopped(events)) as going:
        for event in going:
            match event:
                case Started():
                    progress.start(event.done)
                    before = f", {event.done} of them done before" if event.done else ""
                    where = f"{event.mpp:.3g} µm/px on {event.device} ({event.precision})"
                    progress.note(f"{event.total} tiles at {where}{before}")
                case Fitting():
                    if event.done in (0, event.total):
                        progress.start(0)
                    progress.update(event.done, event.total, f"{event.words.lower()}: {event.done}/{event.total}")
                case TileDone():
                    found = f", {event.n_objects} objects" if event.n_objects else ""
                    text = f"{event.done}/{event.total} tiles{found}"
                    progress.update(event.done, event.total, text)
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
    KeyboardInterrupt
        On Ctrl-C.
    """
    from napari_histoseg.train.loop import Preparing, StepDone, Trained, Validated

    started = False
    with closing(until_stopped(events)) as going:
        for event in going:
            match event:
                case StepDone():
                    if not started:
                        progress.start(event.step)
                        started = True
                    losses = {"loss": event.loss, **event.parts}
                    text = f"step {event.step}/{event.steps}, " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                    progress.update(event.step, event.steps, text)
                case Preparing():
                    progress.update(event.done, event.total, f"{event.words.lower()}: {event.done}/{event.total}")
                case Validated():
                    scores = ", ".join(f"{name} {value:.4g}" for name, value in event.scores.items())
                    progress.note(f"step {event.step}: {scores}{' (best so far, kept)' if event.best else ''}")
                case Trained():
                    return event
    raise RunError("The training ended without weights.")
