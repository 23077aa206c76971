"""The dataset of a window: opened, shared by all panels, and told of when it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_histoseg.annotations.dataset import FILE_NAME
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.gui.annotateload import PatchLoader
from napari_histoseg.gui.background import in_background, in_steps
from napari_histoseg.gui.layers import KEY
from napari_histoseg.gui.qt import Signal
from napari_histoseg.slide import Slide

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_histoseg.annotations.dataset import PatchClass
    from napari_histoseg.annotations.entries import Annotation
    from napari_histoseg.annotations.session import AnnotationSession
    from napari_histoseg.annotations.work import Changed
    from napari_histoseg.gui.jobs import Job
    from napari_histoseg.results.files import Step

log = logging.getLogger(__name__)


class Book(QObject):
    """Opens datasets, one at a time, and tells on the main thread what happens to the open one.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    said = Signal(str)
    """A sentence about what was done."""
    problem = Signal(str)
    """A sentence about what was refused or failed."""
    dataset_changed = Signal()
    """Another dataset, or none."""
    changed = Signal(object)
    """Something in the dataset: `annotations.session.Changed`."""

    busy_changed = Signal()
    """Something long begins or ends, see `busy`."""

    _told = Signal(object)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.session: AnnotationSession | None = None
        self.loader = PatchLoader(self)
        self.busy = False
        """A dataset is being opened, or something imported into it."""
        self.job: Job | None = None
        """The import under way, which can be cancelled."""
        self.chosen: str | None = None
        """The patch in hand."""
        self._patches: dict[str, Annotation] = {}
        self._attached: set[str] = set()
        self._unsubscribe: Callable[[], None] = lambda: None
        # A session tells of changes on the thread that made them; the window hears of them on its own.
        self._told.connect(self._on_change)
        viewer.layers.events.inserted.connect(self._attach)

    # -- datasets -----------------------------------------------------------------------------------------------------

    def create(self, folder: str | Path, mpp: float, classes: Sequence[PatchClass] = ()) -> None:
        """Make a dataset in a folder and work in it."""
        from napari_histoseg.annotations.session import AnnotationSession

        if self._is_open(Path(folder)):
            return
        self._take(AnnotationSession.create(Path(folder), mpp=mpp, classes=classes))
        self.said.emit("The dataset is made. Press N to paint a patch here, C to give patches a class.")

    def open(self, folder: str | Path) -> None:
        """Work in a stored dataset; it is read on a thread."""
        folder = Path(folder)
        folder = folder.parent if folder.name == FILE_NAME else folder
        if self._is_open(folder):
            return

        def work() -> AnnotationSession:
            from napari_histoseg.annotations.session import AnnotationSession

            return AnnotationSession.open(folder)

        def done(session: AnnotationSession) -> None:
            self._take(session)
            n = len(session.patches)
            self.said.emit(f"Opened {n} patch{'es' if n != 1 else ''}.")

        self.in_thread(f"Opening {folder.name}", work, done)

    def _is_open(self, folder: Path) -> bool:
        """Whether it is the open dataset, which is said."""
        same = self.session is not None and self.session.folder.resolve() == folder.resolve()
        if same:
            self.said.emit("This dataset is open already.")
        return same

    def in_thread(self, title: str, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Do something with a dataset on a thread, which has it for itself meanwhile: panels are disabled."""
        self._be_busy(True)
        job = in_background(title, work, done, self.problem.emit, self)
        job.ended.connect(lambda: self._be_busy(False))

    def in_turns(self, title: str, work: Callable[[Step], Any], done: Callable[[Any], None], cancelled: str) -> None:
        """The same for work that says how far it is, and can be cancelled, which is said in the words of ``cancelled``."""
        self.job = in_steps(title, work, done, self.problem.emit, self)
        self.job.cancelled.connect(partial(self.said.emit, cancelled))
        self.job.ended.connect(self._end_turns)
        self._be_busy(True)

    def _end_turns(self) -> None:
        self.job = None
        self._be_busy(False)

    def _be_busy(self, busy: bool) -> None:
        self.busy = busy
        self.busy_changed.emit()

    def _take(self, session: AnnotationSession) -> None:
        self.close()
        self.session = session
        self._unsubscribe = session.subscribe(self._told.emit)
        self.loader.work_for(session)
        self._attach()
        self._read()
        self._opened()
        self.dataset_changed.emit()

    def close(self) -> None:
        """Leave the dataset; everything in it is on the disk already, but for masks that could not be written."""
        if self.session is None:
            return
        self._closing()
        self._unsubscribe()
        self.loader.work_for(None)
        self.session.close()
        self.session = None
        self._attached.clear()
        self._read()
        self._closed()
        self.dataset_changed.emit()

    def abandon(self) -> None:
        """Leave the dataset when there is no window any more."""
        if self.session is not None:
            self._unsubscribe()
            self.session.close()
            self.session = None

    def _opened(self) -> None:
        """A dataset is there; for classes that show it."""

    def _closing(self) -> None:
        """The dataset is about to be left; for classes that hold something back."""

    def _closed(self) -> None:
        """No dataset is there any more; for classes that show it."""

    def require(self) -> AnnotationSession:
        """The dataset.

        Raises
        ------
        DatasetError
            When none is open.
        """
        if self.session is None:
            raise DatasetError("No dataset is open. Press New… to make one, or Open… to go on with one.")
        return self.session

    def do(self, action: Callable[[], Any]) -> bool:
        """Do something that may be refused; the reason goes on the message line. Whether it was done."""
        try:
            action()
        except HistosegError as error:
            log.debug("Refused", exc_info=True)
            self.problem.emit(str(error))
            return False
        return True

    def try_(self, action: Callable[[], Any]) -> None:
        """`do`, for buttons, which want no answer."""
        self.do(action)

    def _attach(self, event: Any = None) -> None:
        """Tell the dataset which slides are open, so that those that moved are found."""
        session = self.session
        if session is None:
            return
        for layer in self.viewer.layers:
            slide = layer.metadata.get(KEY, {}).get("slide")
            # Patches are read as they were scanned.
            if isinstance(slide, Slide) and slide.stain is None and slide.fingerprint() not in self._attached:
                self._attached.add(slide.fingerprint())
                self.do(partial(session.attach, slide))

    def _read(self) -> None:
        self._patches = {} if self.session is None else {patch.id: patch for patch in self.session.patches}

    def _on_change(self, change: Changed) -> None:
        """The dataset changed: by this window, by undo, or by an import on a thread."""
        self._read()
        self._follow(change)
        self.changed.emit(change)

    def _follow(self, change: Changed) -> None:
        """Show a change; for classes that show the dataset."""

    # -- patches -----------------------------------------------------------------------------------------------------

    def patches(self) -> list[Annotation]:
        """All patches of the dataset, in order."""
        return list(self._patches.values())

    def find(self, number: str | None) -> Annotation | None:
        """A patch by its id."""
        return None if number is None else self._patches.get(number)

    @property
    def current(self) -> Annotation | None:
        """The chosen patch."""
        return self.find(self.chosen)
