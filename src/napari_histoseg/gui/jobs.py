"""Event iterators on a thread: progress, cancel, and a clean end. The only thread code of the window.

The iterator is run, and closed, by one worker thread; everything that a `Job` emits arrives on the main thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QThreadPool

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.qt import Signal
from napari_histoseg.predict.events import Finished, Fitting, Notice, RunEvent, Started, TileDone
from napari_histoseg.slide import Box

log = logging.getLogger(__name__)

PERIOD_S = 0.4
"""Least time between two progress messages."""
COMMIT_S = 1.2
"""While somebody watches, tiles are brought to the disk, and so into view, this often."""
NICE = 5
"""The worker yields the processor to the window by this much (POSIX niceness; threads that it starts inherit it)."""


THREADS = 8
"""Jobs at a time at least. Qt takes one for each processor, so that on a laptop a training and a run would let nothing else begin."""

Stored = Callable[[Sequence[Box]], None]


def _nothing(_: Sequence[Box]) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Progress:
    """How far a run is; ``seconds_left`` None until it can be told; ``stored`` when there is something new to see.

    ``objects`` is None for work that finds none; ``words`` while a model looks at the slide before the first tile, or at the map after the last.
    """

    done: int
    total: int
    objects: int | None
    seconds_left: float | None
    stored: bool = True
    words: str = ""


@dataclass(frozen=True)
class Part:
    """A piece of work without tiles is done; ``done`` of ``total``."""

    done: int
    total: int


@dataclass(frozen=True)
class Said:
    """Something that the window should hear of, whatever it is."""

    value: Any


JobEvent = RunEvent | Part | Said


@dataclass(frozen=True)
class Plain:
    """What a plain function returned, None included, where a run has a result."""

    value: Any


@dataclass
class _End:
    """How the iterator ended: a result, a sentence, or neither when it was cancelled."""

    result: Any = None
    error: str | None = None


@dataclass
class _Pace:
    """When to say something again, and how long the rest will take."""

    said: float = 0.0
    committed: float = 0.0
    begun_with: int = 0
    begun_at: float = field(default_factory=time.perf_counter)
    handled: threading.Event = field(default_factory=threading.Event)
    doing: str = ""
    boxes: list[Box] = field(default_factory=list)
    """Of the tiles that nobody was told yet to be on the disk."""

    def begin(self, done: int) -> None:
        self.begun_with, self.begun_at = done, time.perf_counter()
        self.handled.set()

    def begin_other(self, piece: Part | Fitting) -> None:
        """Reckon anew what comes after other work, or begins or ends."""
        words = piece.words if isinstance(piece, Fitting) else ""
        if piece.done in (0, piece.total):
            self.begin(0)
        elif words != self.doing:
            self.begin(piece.done)
        self.doing = words

    def due(self) -> bool:
        """Whether the window is ready for another message."""
        now = time.perf_counter()
        if now - self.said < PERIOD_S or not self.handled.is_set():
            return False
        self.said = now
        self.handled.clear()
        return True

    def commit_due(self) -> bool:
        now = time.perf_counter()
        if now - self.committed < COMMIT_S:
            return False
        self.committed = now
        return True

    def progress(self, piece: TileDone | Part | Fitting) -> Progress:
        fresh = piece.done - self.begun_with
        spent = time.perf_counter() - self.begun_at
        left = spent / fresh * (piece.total - piece.done) if fresh > 0 else None
        objects = piece.n_objects if isinstance(piece, TileDone) else None
        return Progress(piece.done, piece.total, objects, left, words=piece.words if isinstance(piece, Fitting) else "")


def _no_events() -> Iterator[JobEvent]:
    """A job that has ended does nothing more."""
    return iter(())


@dataclass
class _Work:
    """What a job does. napari keeps a worker and its function as long as the window, so what they reach is let go at the end."""

    events: Callable[[], Iterator[JobEvent]]
    stored: Stored

    def forget(self) -> None:
        """On the main thread: the last user of something of Qt must not be another one."""
        self.events, self.stored = _no_events, _nothing


class _Worker(GeneratorWorker):  # type: ignore[misc]
    """A generator worker that is asked to end instead of being dropped, so that the iterator is closed on its thread."""

    stop: threading.Event

    def quit(self) -> None:
        """Called by napari when the window closes, and by `Job.cancel`."""
        self.stop.set()


class Job(QObject):
    """A run under way.

    Parameters
    ----------
    title : str
        What napari's closing dialog calls it.
    events : callable
        Returns the iterator; called on the worker thread, so it may take its time.
    stored : callable, optional
        Told the boxes of tiles that are on the disk now; called on the worker thread, before the window hears of it.
    """

    started = Signal(object)
    """`Started`."""
    progress = Signal(object)
    """`Progress`; a few a second at most."""
    notice = Signal(str)
    said = Signal(object)
    """The value of a `Said`."""
    failed = Signal(str)
    """A plain sentence."""
    finished = Signal(object)
    """The result."""
    cancelled = Signal()
    ended = Signal()
    """After any of the three ends."""

    def __init__(
        self, title: str, events: Callable[[], Iterator[JobEvent]], parent: QObject | None = None, stored: Stored | None = None
    ) -> None:
        super().__init__(parent)
        self.title = title
        self._stop = threading.Event()
        self._pace = _Pace()
        self._begun, self._done = threading.Event(), threading.Event()
        self._work = _Work(events, stored or _nothing)
        pump = _pump(self._work, self._stop, self._pace, self._begun, self._done)
        pump.__qualname__ = title
        self._worker: _Worker = create_worker(pump, _worker_class=_Worker, _start_thread=False)
        self._worker.stop = self._stop
        self._worker.yielded.connect(self._on_message)
        self._worker.returned.connect(self._on_end)

    def start(self) -> None:
        """Begin; a job starts once."""
        pool = QThreadPool.globalInstance()
        if pool is not None and pool.maxThreadCount() < THREADS:
            pool.setMaxThreadCount(THREADS)
        RUNNING.add(self)
        self._worker.start()

    def cancel(self) -> None:
        """Ask the run to end after the tile in hand; what is done stays."""
        self._stop.set()

    @property
    def cancelling(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until the iterator is closed and its store on the disk; False when that takes longer.

        A job that was cancelled while it waited for a thread has nothing to store: there may never be a thread for it.
        """
        if self.cancelling and not self._begun.is_set():
            return True
        return self._done.wait(seconds)

    def _on_message(self, message: object) -> None:
        if isinstance(message, Started):
            self.started.emit(message)
        elif isinstance(message, Notice):
            self.notice.emit(message.message)
        elif isinstance(message, Said):
            self.said.emit(message.value)
        elif isinstance(message, Progress):
            self.progress.emit(message)
            self._pace.handled.set()

    def _on_end(self, end: _End) -> None:
        RUNNING.discard(self)
        self._work.forget()
        if end.error is not None:
            self.failed.emit(end.error)
        elif end.result is not None:
            self.finished.emit(end.result.value if isinstance(end.result, Plain) else end.result)
        else:
            self.cancelled.emit()
        self.ended.emit()


RUNNING: set[Job] = set()
"""All jobs under way."""


def stop_all(seconds: float = 30.0) -> bool:
    """Cancel every job and wait until their stores are on the disk, at most this long in all."""
    jobs = list(RUNNING)
    for job in jobs:
        job.cancel()
    until = time.monotonic() + seconds
    stored = [job.wait(max(0.0, until - time.monotonic())) for job in jobs]
    return all(stored)


Pump = Callable[[], Generator[object, None, _End]]


def _pump(work: _Work, stop: threading.Event, pace: _Pace, begun: threading.Event, done: threading.Event) -> Pump:
    def pump() -> Generator[object, None, _End]:
        """Runs in the worker: events go out as they come, an error becomes the sentence that is shown."""
        begun.set()
        _step_back()
        end = _End()
        try:
            if stop.is_set():
                return end
            with closing(work.events()) as iterator:  # type: ignore[type-var]
                yield from _messages(iterator, stop, pace, end, work.stored)
            work.stored(pace.boxes)
        except HistosegError as error:
            log.debug("The run ended with an error", exc_info=True)
            end.error = str(error)
        except Exception as error:
            log.debug("The run ended unexpectedly", exc_info=True)
            end.error = f"The run stopped: {type(error).__name__}: {error}. The tiles done so far are kept; resume to go on."
        finally:
            done.set()
        return end

    return pump


def _messages(
    events: Iterator[JobEvent], stop: threading.Event, pace: _Pace, end: _End, stored: Stored
) -> Generator[object, None, None]:
    store: Any = None
    last: Progress | None = None
    fresh = False
    for event in events:
        if isinstance(event, Started):
            store = event.store
            pace.begin(event.done)
            yield event
        elif isinstance(event, TileDone):
            last = pace.progress(event)
            pace.boxes.append(event.box)
            # The run waits in its yield, so that this thread is the store's only user here.
            if store is not None and pace.commit_due():
                store.commit()
                stored(pace.boxes)
                pace.boxes, fresh = [], True
            if pace.due():
                yield replace(last, stored=fresh)
                last, fresh = None, False
        elif isinstance(event, (Part, Fitting)):
            pace.begin_other(event)
            if pace.due():
                yield pace.progress(event)
        elif isinstance(event, (Notice, Said)):
            yield event
        elif isinstance(event, Finished):
            end.result = event.result
        if stop.is_set() and end.result is None:
            break
    if last is not None:
        yield last


def _step_back() -> None:
    """Lower the priority of this thread and of the threads that it will start, where the system can."""
    if hasattr(os, "setpriority"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
