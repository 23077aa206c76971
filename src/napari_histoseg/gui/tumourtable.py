"""The table of annotated slides: a line for each, with what is known of it and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_histoseg.gui.tumourentry import Entry

NAME, OUTLINE, GRADE, PATIENT, PIXEL, STAIN = range(6)
COLUMNS = {
    "Slide": "With a check mark: learned from. Double click: open the slide, and go there.",
    "Outline": "What somebody outlined, or what is wrong.",
    "Grade": "Of the tumour, as a number or a word. Training draws all grades evenly. May be left out.",
    "Patient": "Slides of one patient are held out together. The file's name where nothing is entered.",
    "µm/px": "Size of a pixel of the finest level.",
    "Stain": "How training reads the slide: as it is, or in the colors that are chosen above.",
}
PROBLEM_COLOR = "#ff8c66"
LIST_PX = 170
SHORT = 40
"""Problems that are longer are said in the tip."""
NO_FILE = "It comes from no file. Save it as a TIFF, and open that, to learn from it."


class SlideTable(QTableWidget):
    """Lines of slides; grade and patient can be entered, and a check mark says what is learned from."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(COLUMNS), parent)
        self.setAccessibleName("Annotated slides")
        self.setHorizontalHeaderLabels(list(COLUMNS))
        for column, tip in enumerate(COLUMNS.values()):
            item = self.horizontalHeaderItem(column)
            assert item is not None
            item.setToolTip(tip)
        header, rows = self.horizontalHeader(), self.verticalHeader()
        assert header is not None and rows is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(OUTLINE, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(36)
        rows.hide()
        rows.setDefaultSectionSize(22)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setMinimumHeight(LIST_PX)
        # The tab key goes on to the buttons.
        self.setTabKeyNavigation(False)

    def show_entries(self, entries: Sequence[Entry], normalized: bool) -> None:
        """Show these slides, and whether they are read in other colors."""
        with QSignalBlocker(self):
            self.setRowCount(len(entries))
            for row, entry in enumerate(entries):
                self._show_row(row, entry, normalized)

    def choose(self, row: int) -> None:
        """Choose a line without saying so."""
        with QSignalBlocker(self):
            self.setCurrentCell(row, max(self.currentColumn(), 0))

    def _show_row(self, row: int, entry: Entry, normalized: bool) -> None:
        mpp = "?" if entry.known.mpp is None else f"{entry.known.mpp:.3g}"
        stain = "normalized" if normalized else "as it is"
        texts = {NAME: entry.name, OUTLINE: in_words(entry), GRADE: entry.grade, PATIENT: entry.patient, PIXEL: mpp, STAIN: stain}
        tip = tip_of(entry)
        for column, text in texts.items():
            item = QTableWidgetItem(text)
            item.setToolTip(tip)
            item.setFlags(flags_of(entry, column))
            self.setItem(row, column, item)
        name, outline, patient = (self.item(row, column) for column in (NAME, OUTLINE, PATIENT))
        assert name is not None and outline is not None and patient is not None
        if entry.known.path is not None:
            name.setCheckState(Qt.CheckState.Checked if entry.chosen else Qt.CheckState.Unchecked)
        if is_wrong(entry):
            outline.setForeground(QColor(PROBLEM_COLOR))
        if not entry.patient:
            patient.setToolTip(f"{entry.default_patient} (the file's name)")


def is_wrong(entry: Entry) -> bool:
    """Whether something is wrong that somebody has to see to; a slide that is just open need not have an outline."""
    return bool(entry.problems) and (entry.chosen or entry.area is not None)


def in_words(entry: Entry) -> str:
    """The outline, or what is wrong."""
    if not is_wrong(entry):
        return entry.outline
    return "⚠ " + ", ".join(problem if len(problem) < SHORT else "see the tip" for problem in entry.problems)


def tip_of(entry: Entry) -> str:
    """All that is wrong, and where the file is."""
    problems = [f"{entry.name} {p}" if len(p) >= SHORT else f"{p[0].upper()}{p[1:]}." for p in entry.problems]
    return "\n".join([*problems, entry.known.path or NO_FILE])


def flags_of(entry: Entry, column: int) -> Qt.ItemFlag:
    """What can be done with a field."""
    if entry.known.path is None:
        return Qt.ItemFlag.NoItemFlags
    own = {NAME: Qt.ItemFlag.ItemIsUserCheckable, GRADE: Qt.ItemFlag.ItemIsEditable, PATIENT: Qt.ItemFlag.ItemIsEditable}
    return Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | own.get(column, Qt.ItemFlag.NoItemFlags)
