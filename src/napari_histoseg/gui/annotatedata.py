"""Which dataset is open, what is wrong with it, and what can be brought into it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QMenu, QPushButton, QVBoxLayout, QWidget

from napari_histoseg.gui.annotateimport import AskRegions
from napari_histoseg.gui.annotatenew import NewDataset
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.folders import FolderPicker
from napari_histoseg.gui.parts import button

if TYPE_CHECKING:
    from napari_histoseg.annotations.imports import ImportReport, Kind, Outside
    from napari_histoseg.annotations.places import SlideRef
    from napari_histoseg.gui.annotatedesk import Desk
    from napari_histoseg.results.files import Step

GEOJSON, MASKS, CLASSES = "QuPath GeoJSON of this slide…", "Folder of images and masks…", "Folder with a folder for each class…"

NOTICES = 4
"""So many remarks of an import are shown."""


class DatasetRow(QWidget):
    """New, open, import, and slides that are missing.

    Parameters
    ----------
    desk : Desk
    mpp : float
        Suggested µm per pixel of new datasets.
    """

    def __init__(self, desk: Desk, mpp: float, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk, self._mpp = desk, mpp
        self.name = QLabel()
        self.name.setWordWrap(True)
        self.new_button = button("New…", "Make a dataset: a folder that keeps what you paint.", self.ask_new)
        self.open_button = button("Open…", "Go on with a dataset.", self.ask_open)
        self.import_button = QPushButton("Import")
        self.import_button.setToolTip("Bring in annotations that were made elsewhere.")
        self.actions_of: dict[str, Any] = {}
        self.missing = QLabel()
        self.missing.setWordWrap(True)
        self.find_button = QPushButton("Find slide…")
        self.find_button.setToolTip("Say where a slide of the dataset is now; its contents are compared.")
        self._slides: list[SlideRef] = []
        self._asked = 0
        self._lay_out()
        self.find_button.clicked.connect(lambda _=False: self.ask_slide())
        desk.dataset_changed.connect(self.reload)
        desk.slide_changed.connect(self.look_for_slides)
        desk.changed.connect(self._count)
        desk.slide_changed.connect(self._count)
        self.reload()

    def _lay_out(self) -> None:
        menu = QMenu(self.import_button)
        for text, action in ((GEOJSON, self.ask_geojson), (MASKS, lambda: self.ask_folder("masks")), (CLASSES, lambda: self.ask_folder("classes"))):
            made = menu.addAction(text)
            assert made is not None
            made.triggered.connect(lambda _=False, a=action: a())
            self.actions_of[text] = made
        self.import_button.setMenu(menu)
        buttons = QHBoxLayout()
        for each in (self.new_button, self.open_button, self.import_button):
            buttons.addWidget(each)
        lost = QHBoxLayout()
        lost.addWidget(self.missing, 1)
        lost.addWidget(self.find_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.name)
        layout.addLayout(buttons)
        layout.addLayout(lost)

    # -- showing ------------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Show the dataset that is open."""
        self._count()
        self.look_for_slides()

    def _count(self, change: Any = None) -> None:
        session = self._desk.session
        self.import_button.setEnabled(session is not None)
        self.actions_of[GEOJSON].setEnabled(self._desk.slide is not None)
        if session is None:
            self.name.setText("No dataset is open.")
            self.name.setToolTip("")
            return
        patches = self._desk.patches()
        slides = len({patch.patch.slide for patch in patches if patch.patch.slide is not None})
        n = len(patches)
        text = f"<b>{session.folder.name}</b> at {session.mpp:g} µm/px, {n} patch{'' if n == 1 else 'es'}"
        self.name.setText(text + (f" on {slides} slides" if slides > 1 else ""))
        self.name.setToolTip(str(session.folder))

    def look_for_slides(self) -> None:
        """Which slides of the dataset cannot be read; looked up on a thread."""
        session = self._desk.session
        self._show_missing([])
        if session is None:
            return
        self._asked += 1
        asked = self._asked

        def done(slides: list[SlideRef]) -> None:
            if asked == self._asked and self._desk.session is session:
                self._show_missing([slide for slide in slides if not slide.found])

        in_background("Looking for slides", session.slides, done, self._desk.problem.emit, self)

    def _show_missing(self, slides: list[SlideRef]) -> None:
        self._slides = slides
        names = ", ".join(Path(slide.path.replace("\\", "/")).name for slide in slides[:3])
        more = f" and {len(slides) - 3} more" if len(slides) > 3 else ""
        what = "is not where it was" if len(slides) == 1 else "are not where they were"
        self.missing.setText(f"{names}{more} {what}. Open it, or say where it is." if slides else "")
        self.missing.setVisible(bool(slides))
        self.find_button.setVisible(bool(slides))

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask_new(self) -> None:
        """Ask for a folder, µm per pixel and classes, and make a dataset."""
        dialog = NewDataset(self._mpp, self)
        if dialog.exec():
            folder, mpp, classes = dialog.values()
            self._desk.do(lambda: self._desk.create(folder, mpp, classes))

    def ask_open(self) -> None:
        """Ask for a dataset's folder and open it."""
        session = self._desk.session
        start = FolderPicker.default() if session is None else session.folder.parent
        if chosen := QFileDialog.getExistingDirectory(self, "Open a dataset", str(start)):
            self._desk.do(lambda: self._desk.open(chosen))

    def ask_slide(self) -> None:
        """Ask where the first of the missing slides is."""
        if not self._slides:
            return
        slide = self._slides[0]
        chosen, _ = QFileDialog.getOpenFileName(self, f"Where is {Path(slide.path).name}?", str(Path(slide.path).parent))
        if chosen:
            self.found(slide, chosen)

    def found(self, slide: SlideRef, path: str) -> None:
        """Take a missing slide from a file; refused when its contents are another slide's."""

        def done() -> None:
            self._desk.require().relocate(slide.fingerprint, path)
            self._desk.said.emit(f"{Path(path).name} is found.")

        self._desk.do(done)
        self.look_for_slides()

    def ask_geojson(self) -> None:
        """Ask for a GeoJSON file and what to make of it, and bring its regions in."""
        chosen, _ = QFileDialog.getOpenFileName(self, "Import regions", "", "GeoJSON (*.geojson *.json *.geojson.gz *.json.gz)")
        if not chosen:
            return
        slide = self._desk.slide
        dialog = AskRegions(Path(chosen), self._desk.group_here() or ("" if slide is None else Path(slide.name).stem), self)
        if dialog.exec():
            outside, group = dialog.values()
            self._desk.do(lambda: self.import_geojson(Path(chosen), outside, group))

    def ask_folder(self, kind: Kind) -> None:
        """Ask for a folder of annotated images and bring them in."""
        if chosen := QFileDialog.getExistingDirectory(self, MASKS if kind == "masks" else CLASSES):
            self._desk.do(lambda: self.import_folder(Path(chosen), kind))

    # -- importing ------------------------------------------------------------------------------------------------------

    def import_geojson(self, path: Path, outside: Outside = "unlabeled", group: str | None = None) -> None:
        """Regions of the slide that is annotated become painted patches; see `annotations.imports.import_geojson`."""
        from napari_histoseg.annotations.imports import import_geojson

        session, slide = self._desk.require(), self._desk.require_slide()
        side = self._desk.patch_px * session.mpp
        self._import(path, lambda step: import_geojson(session, slide, path, patch_um=side, outside=outside, group=group, step=step))

    def import_folder(self, path: Path, kind: Kind) -> None:
        """Annotated images become patches; they are copied into the dataset."""
        from napari_histoseg.annotations.imports import import_folder

        session = self._desk.require()
        self._import(path, lambda step: import_folder(session, path, kind=kind, step=step))

    def _import(self, path: Path, work: Callable[[Step], Any]) -> None:
        self._desk.choose(None)
        self._desk.said.emit("")
        self._desk.in_turns(f"Importing {path.name}", work, partial(self._imported, path), f"Cancelled. Nothing was imported from {path.name}.")

    def _imported(self, path: Path, report: ImportReport) -> None:
        n = len(report.added)
        more = [f"And {len(report.notices) - NOTICES} more remarks."] if len(report.notices) > NOTICES else []
        self._desk.said.emit(" ".join([f"{n} patch{'' if n == 1 else 'es'} from {path.name}.", *report.notices[:NOTICES], *more]))

