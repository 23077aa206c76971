"""The table of annotated slides: a line for each, with what is known of it and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_histoseg.gui.tumourentry import Entry
from napari_histoseg.gui.tumouroutline import mm2

NAME, OUTLINE, GRADE, PATIENT, PIXEL, STAIN = range(6)
COLUMNS = {
    "Slide": "With a check mark: learned from. Double click: open the slide, and go there.",
    "Outline": "What somebody outlined, or what is wrong.",
    "Grade": "Of the tumour, as a number or a word. Training draws all grades evenly. May be left out.",
    "Patient": "Slides of one patient are held out together. The file's name where nothing is entered.",
    "µm/px": "Size of a pixel of the finest level.",
    "Stain": "How training reads the slide: as it was scanned, or normalized to the colors that are chosen above.",
}
PROBLEM_COLOR = "#ff8c66"
LIST_PX = 170
WIDTHS = {NAME: 104, GRADE: 44, PATIENT: 54, PIXEL: 46, STAIN: 46}
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
        for column, width in WIDTHS.items():
            self.setColumnWidth(column, width)
        header.setSectionResizeMode(OUTLINE, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(36)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        rows.hide()
        rows.setDefaultSectionSize(22)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setMinimumHeight(LIST_PX)
        # The tab key goes on to the buttons.
        self.setTabKeyNavigation(False)

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Show these slides."""
        with QSignalBlocker(self):
            self.setRowCount(len(lines))
            for row, line in enumerate(lines):
                for column in range(len(COLUMNS)):
                    self.setItem(row, column, line.item(column))

    def choose(self, row: int) -> None:
        """Choose a line without saying so."""
        with QSignalBlocker(self):
            self.setCurrentCell(row, max(self.currentColumn(), 0))


@dataclass(frozen=True)
class Line:
    """What is shown of a slide; equal lines look the same.

    Attributes
    ----------
    key : str
    texts, tips : tuple of str
        For each column.
    usable, chosen, wrong : bool
        Whether it can be learned from, is, and whether something has to be seen to.
    """

    key: str
    texts: tuple[str, ...]
    tips: tuple[str, ...]
    usable: bool
    chosen: bool
    wrong: bool

    def item(self, column: int) -> QTableWidgetItem:
        """A field of the table."""
        item = QTableWidgetItem(self.texts[column])
        item.setToolTip(self.tips[column])
        item.setFlags(flags_of(self.usable, column))
        if column == NAME and self.usable:
            item.setCheckState(Qt.CheckState.Checked if self.chosen else Qt.CheckState.Unchecked)
        if column == OUTLINE and self.wrong:
            item.setForeground(QColor(PROBLEM_COLOR))
        return item


def line_of(entry: Entry, normalized: bool) -> Line:
    """A slide as a line, and whether it is read in other colors."""
    mpp = "?" if entry.known.mpp is None else f"{entry.known.mpp:.3g}"
    texts = {NAME: entry.name, OUTLINE: in_words(entry), GRADE: entry.grade, PATIENT: entry.patient, PIXEL: mpp, STAIN: "norm." if normalized else "scan"}
    tips = dict.fromkeys(texts, tip_of(entry))
    if not entry.patient:
        tips[PATIENT] = f"{entry.default_patient} (the file's name)"
    columns = range(len(COLUMNS))
    return Line(entry.key, tuple(texts[c] for c in columns), tuple(tips[c] for c in columns), entry.known.path is not None, entry.chosen, is_wrong(entry))


def is_wrong(entry: Entry) -> bool:
    """Whether something is wrong that somebody has to see to; a slide that is just open need not have an outline."""
    return bool(entry.problems) and (entry.chosen or entry.area is not None)


def in_words(entry: Entry) -> str:
    """The outline, or what is wrong."""
    if not is_wrong(entry):
        mpp = entry.known.mpp
        return entry.outline if mpp is None or entry.area is None or entry.area.is_empty else mm2(entry.area.area * mpp**2)
    return "⚠ " + ", ".join(problem if len(problem) < SHORT else "see the tip" for problem in entry.problems)


def tip_of(entry: Entry) -> str:
    """All that is wrong, and where the file is."""
    problems = [f"{entry.name} {p}" if len(p) >= SHORT else f"{p[0].upper()}{p[1:]}." for p in entry.problems]
    return "\n".join([*problems, f"{entry.name}: {entry.outline}", entry.known.path or NO_FILE])


def flags_of(usable: bool, column: int) -> Qt.ItemFlag:
    """What can be done with a field."""
    if not usable:
        return Qt.ItemFlag.NoItemFlags
    own = {NAME: Qt.ItemFlag.ItemIsUserCheckable, GRADE: Qt.ItemFlag.ItemIsEditable, PATIENT: Qt.ItemFlag.ItemIsEditable}
    return Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | own.get(column, Qt.ItemFlag.NoItemFlags)
