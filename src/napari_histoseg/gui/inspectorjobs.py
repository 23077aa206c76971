"""Work of the inspector on threads: one piece at a time, and of several that were asked for only the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject

from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.jobs import Job
from napari_histoseg.gui.qt import Signal

Work = Callable[[], Any]
Done = Callable[[Any], None]


class Latest(QObject):
    """Does what was asked for last. What is asked for meanwhile waits its turn, and what was asked for before is forgotten.

    Parameters
    ----------
    title : str
        What napari's closing dialog calls the work.
    """

    busy = Signal(bool)
    failed = Signal(str)

    def __init__(self, title: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._title = title
        self._job: Job | None = None
        self._wanted: tuple[Work, Done] | None = None
        self._next = False

    @property
    def running(self) -> bool:
        """Whether something is under way that is still wanted."""
        return self._wanted is not None

    def ask(self, work: Work, done: Done) -> None:
        """Call ``work`` on a thread and hand what it returns to ``done``, unless something else is asked for before."""
        self._wanted = (work, done)
        self.busy.emit(True)
        if self._job is None:
            self._begin()
        else:
            self._next = True

    def drop(self) -> None:
        """Nothing is wanted any more. Work that cannot be stopped goes on unseen, and nothing waits for it."""
        was = self.running
        self._wanted, self._next = None, False
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        if was:
            self.busy.emit(False)

    def _begin(self) -> None:
        assert self._wanted is not None
        self._next = False
        # Methods, not functions: Qt forgets them with this object.
        self._job = in_background(self._title, self._wanted[0], self._on_done, self._on_failed)
        self._job.ended.connect(self._on_ended)

    def _take(self) -> Done | None:
        """Who wants what a job brings; None when nobody does any more."""
        if self.sender() is not self._job or self._next or self._wanted is None:
            return None
        _, done = self._wanted
        self._wanted = None
        self.busy.emit(False)
        return done

    def _on_done(self, value: Any) -> None:
        if (done := self._take()) is not None:
            done(value)

    def _on_failed(self, sentence: str) -> None:
        if self._take() is not None:
            self.failed.emit(sentence)

    def _on_ended(self) -> None:
        if self.sender() is self._job:
            self._job = None
            if self._wanted is not None:
                self._begin()
