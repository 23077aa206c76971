"""A function on a thread: an overview read, an export. Errors come back as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from qtpy.QtCore import QObject

from napari_histoseg.gui.jobs import Job, JobEvent, Part, Plain
from napari_histoseg.predict.events import Finished
from napari_histoseg.results.files import Step

LOOK_S = 0.1


def in_background(
    title: str,
    work: Callable[[], Any],
    done: Callable[[Any], None],
    failed: Callable[[str], None],
    parent: QObject | None = None,
) -> Job:
    """Start ``work`` on a thread and hand what it returns to ``done``, on the main thread.

    Parameters
    ----------
    title : str
        What napari's closing dialog calls it.
    failed : callable
        Takes the sentence when ``work`` raises.
    """

    def events() -> Iterator[JobEvent]:
        yield Finished(Plain(work()), 0.0)  # type: ignore[arg-type]

    return _started(Job(title, events, parent), done, failed)


class _Stopped(Exception):
    """Raised inside work that was cancelled."""


def in_steps(
    title: str,
    work: Callable[[Step], Any],
    done: Callable[[Any], None],
    failed: Callable[[str], None],
    parent: QObject | None = None,
) -> Job:
    """The same for work that says how far it is, and so can be cancelled: at its next step.

    Parameters
    ----------
    work : callable
        Takes a function to call with (pieces done, pieces in all) before each piece.
    """
    begin = Part(0, 1)
    state = [begin]

    def step(pieces: int, total: int) -> None:
        if job.cancelling:
            raise _Stopped
        state[0] = Part(pieces, total)

    def events() -> Iterator[JobEvent]:
        yield begin
        with ThreadPoolExecutor(1, "histoseg-steps") as pool:
            future = pool.submit(work, step)
            while not job.cancelling and not _ended(future):
                yield state[0]
            # The pool waits for work that was cancelled.
        if not job.cancelling or future.exception() is None:
            yield Finished(Plain(future.result()), 0.0)  # type: ignore[arg-type]

    job = Job(title, events, parent)
    return _started(job, done, failed)


def _ended(future: Future[Any]) -> bool:
    try:
        future.exception(timeout=LOOK_S)
    except NotYet:
        return False
    return True


def _started(job: Job, done: Callable[[Any], None], failed: Callable[[str], None]) -> Job:
    job.finished.connect(done)
    job.failed.connect(failed)
    job.start()
    return job
