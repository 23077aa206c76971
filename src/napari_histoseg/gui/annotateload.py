"""What is read or computed for patches on a thread: thumbnails, and superpixels of the one that is painted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.jobs import Job
from napari_histoseg.gui.qt import Signal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histoseg.annotations.session import AnnotationSession
    from napari_histoseg.gui.annotatesuper import Superpixels

THUMBNAIL_PX = 56
BATCH = 6
"""So many thumbnails are made before the first of them is shown."""
KEPT = 4
"""Superpixels of the patches last painted."""
WAIT_S = 5.0


class PatchLoader(QObject):
    """Does one thing at a time, the thing last asked for first; tells the main thread."""

    thumbnail_made = Signal(str, object)
    """Patch and picture, (h, w, 3)."""
    pieces_found = Signal(str)
    """The superpixels of this patch are there."""
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session: AnnotationSession | None = None
        self._asked: OrderedDict[str, None] = OrderedDict()
        self._pieces: OrderedDict[str, Superpixels] = OrderedDict()
        self._wanted: str | None = None
        self._jobs: list[Job] = []

    def work_for(self, session: AnnotationSession | None) -> None:
        """Another dataset; what was asked for the last one is forgotten, and nothing of it is read any more on return."""
        self._session = None
        self._asked.clear()
        self._pieces.clear()
        self._wanted = None
        for job in self._jobs:
            job.wait(WAIT_S)
        self._session = session

    # -- thumbnails ---------------------------------------------------------------------------------------------------

    def ask(self, number: str) -> None:
        """Make the thumbnail of a patch."""
        self._asked[number] = None
        self._asked.move_to_end(number)
        self._go_on()

    def _thumbnails(self, session: AnnotationSession) -> None:
        batch = [self._asked.popitem()[0] for _ in range(min(BATCH, len(self._asked)))]

        def work() -> dict[str, NDArray[np.uint8]]:
            made = {}
            for number in batch:
                try:
                    made[number] = session.thumbnail(number, THUMBNAIL_PX)
                except HistosegError:
                    # It was removed meanwhile; the list has no row for it any more.
                    continue
            return made

        def done(made: dict[str, Any]) -> None:
            for number, picture in made.items():
                self.thumbnail_made.emit(number, picture)

        self._start("Pictures of patches", session, work, done)

    # -- superpixels --------------------------------------------------------------------------------------------------

    def pieces(self, number: str | None) -> Superpixels | None:
        """The superpixels of a patch; None as long as they are being found."""
        return None if number is None else self._pieces.get(number)

    def find_pieces(self, number: str | None) -> None:
        """Find the superpixels of the patch that is painted now; None when none is."""
        self._wanted = None if number in self._pieces else number
        if number is not None and number in self._pieces:
            self._pieces.move_to_end(number)
        self._go_on()

    def _superpixels(self, session: AnnotationSession) -> None:
        number, self._wanted = self._wanted, None
        assert number is not None

        def work() -> Superpixels:
            from napari_histoseg.gui.annotatesuper import superpixels

            return superpixels(session.image(number))

        def done(pieces: Superpixels) -> None:
            self._pieces[number] = pieces
            while len(self._pieces) > KEPT:
                self._pieces.popitem(last=False)
            self.pieces_found.emit(number)

        self._start("Superpixels of a patch", session, work, done)

    # -- one after the other --------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        session = self._session
        if session is None or self._jobs:
            return
        if self._wanted is not None:
            self._superpixels(session)
        elif self._asked:
            self._thumbnails(session)

    def _start(self, title: str, session: AnnotationSession, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def of_this(handle: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda value: handle(value) if self._session is session else None

        def ended() -> None:
            self._jobs.remove(job)
            job.setParent(None)
            self._go_on()

        job = in_background(title, work, of_this(done), of_this(self.failed.emit), self)
        self._jobs.append(job)
        job.ended.connect(ended)
