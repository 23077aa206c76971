"""One short function on a thread: an overview read, an export. Errors come back as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qtpy.QtCore import QObject

from napari_histoseg.gui.jobs import Job, Plain
from napari_histoseg.predict.events import Finished, RunEvent


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

    def events() -> Iterator[RunEvent]:
        yield Finished(Plain(work()), 0.0)  # type: ignore[arg-type]

    job = Job(title, events, parent)
    job.finished.connect(done)
    job.failed.connect(failed)
    job.start()
    return job

