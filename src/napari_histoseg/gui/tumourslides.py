"""The slides whose tumour somebody outlined, as a list: what is known of each, what is wrong with it, and how it gets its outline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QTableWidgetItem, QVBoxLayout, QWidget

from napari_histoseg.annotations.areas import Area, clipped
from napari_histoseg.errors import DatasetError, HistosegError, SlideError
from napari_histoseg.gui.annotatekeys import main_window
from napari_histoseg.gui.background import in_background, in_steps
from napari_histoseg.gui.inspectorjobs import Latest
from napari_histoseg.gui.lessons import FILES, shown_by
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.slides import slide_of
from napari_histoseg.gui.tumourdraw import Drawings
from napari_histoseg.gui.tumourentry import Entry, read_file, read_outline, tissue_in, wrong_with
from napari_histoseg.gui.tumourkeep import Keeper
from napari_histoseg.gui.tumourmap import area_of_result
from napari_histoseg.gui.tumourtable import GRADE, NAME, PATIENT, Line, SlideTable, line_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_histoseg.gui.header import SlideHeader
    from napari_histoseg.gui.jobs import Job
    from napari_histoseg.results import Result

log = logging.getLogger(__name__)

OUTLINES = "Outlines (*.geojson *.geojson.gz *.json *.png *.tif *.tiff);;All files (*)"
SAVE_MS = 400


class AnnotatedSlides(QWidget):
    """A list of slides with what was outlined on each; every change is on the disk a moment later.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    header : SlideHeader
    """

    changed = Signal()
    opened = Signal(object)
    """The folder of another dataset; None where a new list began."""
    message = Signal(str)
    """What is wrong, as a sentence."""
    said = Signal(str)
    progress = Signal(object)
    """`Progress` of slides that are read; None at the end."""

    def __init__(self, viewer: Viewer, header: SlideHeader, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._header = viewer, header
        self.home = Path()
        """Where a new dataset is made."""
        self.tumour_class: Callable[[], str] = str
        self.result: Callable[[], Result | None] = lambda: None
        """The result whose map can be taken as an outline."""
        self.keeper = Keeper()
        self.drawings = Drawings(viewer, self)
        self.reading: Job | None = None
        self._shown: list[str] = []
        self._seen: list[Line] = []
        self._edited: set[str] = set()
        self._saving = Latest("Saving outlines", self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(SAVE_MS)
        self._make_parts()
        self._lay_out()
        self._connect()
        self.refresh()

    def _make_parts(self) -> None:
        self.table = SlideTable()
        self.where = QLabel()
        self.where.setWordWrap(True)
        self.where.setTextInteractionFlags(self.where.textInteractionFlags().TextSelectableByMouse)
        self.outline_button = button("Outline the tumour", "Draw around tumour on the chosen slide, with the mouse held down. Drawn again: further areas.", self.outline)
        self.cut_button = button("Cut out", "Draw around what is no tumour inside of an outline.", self.cut_out)
        self.none_button = button("No tumour", "Say that the chosen slide has no tumour anywhere.", self.mark_empty)
        self.import_button = button("Add outline…", "Take the outline of the chosen slide from QuPath (GeoJSON) or from a mask.", self._choose_outline)
        self.take_button = button("From the map", "Take the outline that was mapped on this slide, to be corrected and learned from.", self.take_map)
        self.remove_button = button("Remove", "Take the slide out of the list, with its outline. Files of slides are never touched.", self.remove)
        self.add_button = button("Add files…", "Add slides that are not open. An outline beside a slide, such as name.geojson or name-mask.png, is found.", self._choose_files)
        self.open_button = button("Open dataset…", "Go on with slides that were outlined before.", self._choose_dataset)
        self.new_button = button("New list", "Begin another list. What was outlined stays in its folder.", self.new)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table, 1)
        grid = QGridLayout()
        several = (self.outline_button, self.cut_button, self.none_button, self.import_button, self.take_button, self.remove_button)
        for i, each in enumerate((*several, self.add_button, self.open_button, self.new_button)):
            grid.addWidget(each, i // 3, i % 3)
        layout.addLayout(grid)
        layout.addWidget(self.where)

    def _connect(self) -> None:
        self.table.itemChanged.connect(self._on_item)
        self.table.currentCellChanged.connect(lambda *_: self._show_state())
        self.table.cellDoubleClicked.connect(self._on_double)
        self._later.timeout.connect(self._save)
        self._saving.failed.connect(self.message)
        self.drawings.edited.connect(self._on_drawn)
        self._viewer.layers.events.inserted.connect(self.refresh)
        self._viewer.layers.events.removed.connect(self.refresh)
        self._header.changed.connect(self.refresh)

    # -- what others ask ----------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """All slides, in the order of the list."""
        return list(self.keeper.entries.values())

    @property
    def any(self) -> bool:
        """Whether a slide is chosen to be learned from."""
        return any(each.chosen for each in self.entries)

    @property
    def current(self) -> Entry | None:
        """The slide whose line is chosen."""
        row = self.table.currentRow()
        return self.keeper.entries.get(self._shown[row]) if 0 <= row < len(self._shown) else None

    def choose(self, key: str) -> None:
        """Choose a line."""
        if key in self._shown:
            self.table.choose(self._shown.index(key))

    def ready(self) -> Path:
        """The dataset to learn from, with all that was drawn.

        Raises
        ------
        DatasetError
            Names everything that is wrong, at once.
        HistosegError
            It cannot be written.
        """
        self._take_drawn()
        if sentences := wrong_with(self.entries):
            raise DatasetError(" ".join(sentences))
        self.flush()
        assert self.keeper.folder is not None
        return self.keeper.folder

    # -- the list -----------------------------------------------------------------------------------------------------

    def refresh(self, event: Any = None) -> None:
        """List the slides of the viewer, and those that are kept."""
        entries = self.keeper.entries
        known = {k.fingerprint: k for layer in self._viewer.layers if (k := shown_by(layer)) is not None}
        for fingerprint, each in known.items():
            mine = [entry for entry in entries.values() if entry.known.fingerprint == fingerprint]
            for entry in mine:
                entry.trouble = "" if entry.known.layer is None and entry.trouble.startswith("cannot be read") else entry.trouble
                entry.known = each
            if not mine:
                entry = Entry.of(each)
                entries[entry.key] = entry
        for key, entry in list(entries.items()):
            if entry.known.layer is not None and entry.known.fingerprint not in known:
                entry.known = entry.known.closed()
                if not entry.listed:
                    del entries[key]
        self._show_outlines()
        self._show()

    def _show_outlines(self) -> None:
        """Slides that are opened again come with what was outlined on them."""
        for entry in self.entries:
            if entry.known.layer is not None and entry.area is not None and not entry.area.is_empty and self.drawings.layer(entry.key) is None and not entry.was_shown:
                # A person who removes the layer wants it gone, so that it comes by itself just once.
                entry.was_shown = True
                self._draw(entry)

    def _draw(self, entry: Entry) -> Any:
        """The layer of an outline, made when there is none."""
        image = entry.known.layer
        if image is None:
            raise SlideError(f"{entry.name} is not open. Double click its line to open it.")
        return self.drawings.layer(entry.key) or self.drawings.show(entry.key, f"Tumour of {entry.name}", entry.area, image, entry.known.mpp)

    def _show(self) -> None:
        seen = [line_of(each, self._header.stain is not None) for each in self.entries]
        if seen == self._seen:
            # Layers come and go, and most of them change nothing here.
            self._show_state()
            return
        self._seen = seen
        chosen = self.current
        self._shown = [each.key for each in self.entries]
        self.table.show_lines(seen)
        if self._shown:
            place = self._shown.index(chosen.key) if chosen is not None and chosen.key in self._shown else len(self._shown) - 1
            self.table.choose(place)
        self._show_state()
        self.changed.emit()

    def _show_state(self) -> None:
        entry = self.current
        usable = entry is not None and entry.known.path is not None and self.reading is None
        for each in (self.outline_button, self.none_button, self.import_button):
            each.setEnabled(usable)
        self.cut_button.setEnabled(usable and entry is not None and entry.area is not None and not entry.area.is_empty)
        self.take_button.setEnabled(usable and self._map() is not None)
        self.remove_button.setEnabled(entry is not None and entry.listed)
        for each in (self.add_button, self.open_button):
            each.setEnabled(self.reading is None)
        self.new_button.setEnabled(self.reading is None and self.keeper.folder is not None)
        folder = self.keeper.folder
        self.where.setText("Outlines are kept as they are drawn." if folder is None else f"Kept in {folder}")

    def show_state(self) -> None:
        """Enable what can be done now."""
        self._show_state()

    def _on_item(self, item: QTableWidgetItem) -> None:
        entry = self.keeper.entries[self._shown[item.row()]]
        if item.column() == NAME:
            entry.chosen = item.checkState() == Qt.CheckState.Checked
            entry.listed = entry.listed or entry.chosen
        elif item.column() == GRADE:
            entry.grade = item.text().strip()
        elif item.column() == PATIENT:
            entry.patient = item.text().strip()
        self._touched()

    def _on_double(self, row: int, column: int) -> None:
        if column not in (GRADE, PATIENT):
            self.go_to(self.entries[row])

    def go_to(self, entry: Entry) -> None:
        """Open a slide where it is not open, and choose it."""
        if entry.known.layer is None:
            if entry.known.path is not None:
                self._viewer.open(entry.known.path, plugin="napari-histoseg")
            return
        self._viewer.layers.selection.active = entry.known.layer

    # -- outlines -----------------------------------------------------------------------------------------------------

    def outline(self) -> None:
        """Draw tumour on the chosen slide."""
        self._start_drawing(cut=False)

    def cut_out(self) -> None:
        """Draw what is no tumour inside of an outline."""
        self._start_drawing(cut=True)

    def _start_drawing(self, cut: bool) -> None:
        entry = self.current
        if entry is None:
            return
        if entry.known.layer is None:
            self.go_to(entry)
        try:
            layer = self._draw(entry)
        except HistosegError as error:
            self.message.emit(str(error))
            return
        entry.was_shown = True
        self.drawings.draw(layer, cut)
        self.said.emit(f"{'Draw around what is no tumour' if cut else 'Draw around tumour'} on {entry.name} with the mouse held down. It is kept as you let go.")

    def _on_drawn(self, key: str) -> None:
        self._edited.add(key)
        self._later.start()

    def _take_drawn(self) -> None:
        """Bring what was drawn into the list."""
        edited, self._edited = self._edited, set()
        for key in edited:
            entry, layer = self.keeper.entries.get(key), self.drawings.layer(key)
            if entry is not None and layer is not None and entry.known.layer is not None:
                self._give(entry, self.drawings.area(layer, entry.known.layer))
        if edited:
            self._show()

    def _give(self, entry: Entry, area: Area | None) -> None:
        """Another outline for a slide; its tissue is looked up, to see whether the outline lies on it."""
        if area is not None:
            area = clipped(area, entry.box)
        entry.draw(area, entry.rest)
        image = entry.known.layer
        if entry.tissue is None and image is not None:
            slide = slide_of(image)

            def found(tissue: Any) -> None:
                entry.tissue = tissue
                self._show()

            in_background("Finding the tissue", lambda: tissue_in(slide), found, log.debug, self)

    def mark_empty(self) -> None:
        """Say that the chosen slide has no tumour."""
        self._replace(shapely.MultiPolygon())

    def _replace(self, area: Area | None, entry: Entry | None = None, rest: Any = None) -> None:
        """Another outline that was not drawn, and its layer with it."""
        entry = entry or self.current
        if entry is None:
            return
        self._edited.discard(entry.key)
        entry.rest = rest
        entry.trouble = ""
        self._give(entry, area)
        layer = self.drawings.layer(entry.key)
        if entry.known.layer is not None and (layer is not None or (entry.area is not None and not entry.area.is_empty)):
            entry.was_shown = True
            self.drawings.show(entry.key, f"Tumour of {entry.name}", entry.area, entry.known.layer, entry.known.mpp)
        self._touched()

    def _choose_outline(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "The outline of this slide", "", OUTLINES)
        if chosen:
            self.import_outline(Path(chosen))

    def import_outline(self, path: Path) -> None:
        """Take the outline of the chosen slide from a file."""
        entry = self.current
        if entry is None:
            return
        box, name = entry.box, self.tumour_class()
        in_background(f"Reading {path.name}", lambda: read_outline(path, box, name), lambda found: self._replace(found[0], entry, found[1]), self.message.emit, self)

    def _map(self) -> Result | None:
        """The result of the chosen slide."""
        entry, result = self.current, self.result()
        same = entry is not None and result is not None and result.record.slide.fingerprint == entry.known.fingerprint
        return result if same else None

    def take_map(self) -> None:
        """Take the outline of a result, to be corrected."""
        entry, result = self.current, self._map()
        if entry is None or result is None:
            return

        def taken(area: Area) -> None:
            self._replace(area, entry)
            self.said.emit(f"The map's outline is that of {entry.name} now. Correct it where it is wrong, then train again.")

        in_background("Taking the outline", lambda: area_of_result(result), taken, self.message.emit, self)

    def remove(self) -> None:
        """Take the chosen slide out of the list."""
        entry = self.current
        if entry is None:
            return
        entry.listed = entry.chosen = False
        entry.area, entry.patch = None, None
        entry.version += 1
        entry.was_shown = False
        self.drawings.take_away([entry.key])
        if entry.known.layer is None:
            del self.keeper.entries[entry.key]
        self._touched()

    # -- files and datasets -------------------------------------------------------------------------------------------

    def _choose_files(self) -> None:
        chosen, _ = QFileDialog.getOpenFileNames(self, "Slides to learn from", "", FILES)
        if chosen:
            self.add_files([Path(each) for each in chosen])

    def add_files(self, paths: Sequence[Path]) -> None:
        """Add slides with the outlines beside them; they are looked at on a thread."""
        name = self.tumour_class()

        def read(step: Any) -> tuple[list[Entry], list[str]]:
            found, problems = [], []
            for number, path in enumerate(paths):
                step(number, len(paths))
                try:
                    found.append(read_file(path, name))
                except HistosegError as error:
                    problems.append(str(error))
            return found, problems

        self._read("Reading the slides", read, self._on_files)

    def _on_files(self, found: tuple[list[Entry], list[str]]) -> None:
        for entry in found[0]:
            there = self.keeper.entries.get(entry.key)
            if there is None:
                self.keeper.entries[entry.key] = entry
            elif there.area is None:
                there.listed = there.chosen = True
                there.tissue, there.trouble = entry.tissue, entry.trouble
                if entry.area is not None:
                    there.draw(entry.area, entry.rest)
        self.refresh()
        self._touched()
        if found[1]:
            self.message.emit(" ".join(found[1]))

    def _choose_dataset(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "A dataset of outlined slides", str(self.home))
        if chosen:
            self.open_dataset(Path(chosen))

    def open_dataset(self, folder: Path) -> None:
        """Go on with a dataset, in place of the list that is there, which stays in its own folder."""
        if not self._put_away():
            return
        self.keeper.tumour_class = self.tumour_class()

        def opened(place: Callable[[], None]) -> None:
            self.drawings.take_away([each.key for each in self.entries])
            place()
            self.refresh()
            self.opened.emit(self.keeper.folder)

        self._read("Reading the slides", lambda step: self.keeper.read(folder, step), opened)

    def _read(self, title: str, work: Callable[[Any], Any], done: Callable[[Any], None]) -> None:
        job = in_steps(title, work, done, self.message.emit, self)
        self.reading = job
        job.progress.connect(self.progress.emit)
        job.ended.connect(self._on_read)
        self._show_state()

    def _on_read(self) -> None:
        self.reading = None
        self.progress.emit(None)
        self._show_state()
        self.changed.emit()

    def new(self) -> None:
        """Begin another list."""
        if self._put_away():
            self.drawings.take_away([each.key for each in self.entries])
            self.keeper.forget()
            self.refresh()
            self.opened.emit(None)

    def _put_away(self) -> bool:
        """Write what is there; False where that fails, and nothing may be left behind."""
        try:
            self.flush()
        except HistosegError as error:
            self.message.emit(str(error))
            return False
        return True

    # -- saving -------------------------------------------------------------------------------------------------------

    def _touched(self) -> None:
        self._show()
        self._later.start()

    def _save(self) -> None:
        self._take_drawn()
        write, home = self.keeper.shot(), self.home
        self._saving.ask(lambda: write(home), lambda _: self._show_state())

    def flush(self) -> None:
        """Write now what is not on the disk yet.

        Raises
        ------
        HistosegError
        """
        self._later.stop()
        self._take_drawn()
        self.keeper.shot()(self.home)
        self._show_state()

    def hideEvent(self, event: Any) -> None:
        """Nothing waits while nobody looks."""
        super().hideEvent(event)
        if self._later.isActive():
            self._put_away()
        QTimer.singleShot(0, self._on_hidden)

    def _on_hidden(self) -> None:
        """Hidden docks stay in the window; closed ones do not, and others may go on with their dataset."""
        if main_window(self) is None and self._put_away():
            self.drawings.take_away([each.key for each in self.entries])
            self.keeper.forget()
            self.refresh()
