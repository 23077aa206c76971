"""The table of shares: what blocks of each coarse label hold of each class, typed in, checked as it is typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_histoseg.annotations.dataset import PatchDataset, Statistic
from napari_histoseg.errors import DatasetError, SettingsError
from napari_histoseg.gui.annotatelist import icon_of
from napari_histoseg.gui.parts import swatch
from napari_histoseg.gui.qt import Signal
from napari_histoseg.methods.lsr.table import ASKED, BACKGROUND, stated, statistic

if TYPE_CHECKING:
    from napari_histoseg.gui.annotatedesk import Desk

USUAL_SD = 0.05
"""Where only a mean is typed."""
NUMBER = r"(\d+(?:[.,]\d+)?)"
SHARE = re.compile(rf"^\s*{NUMBER}\s*%?\s*(?:(?:±|\+\s*/?\s*-|;)?\s*{NUMBER}\s*%?)?\s*$")
ROW_PX, MOST_ROWS, SCROLL_PX = 24, 12, 16
FEW_CLASSES = 2
"""So many share the width of the dock; more are scrolled."""
PROBLEM_COLOR = "#ff8c66"
BLOCKS_TIP = "Blocks of the dataset with this label."
PAINTED_TIP = f"Blocks that are painted exactly, of the {ASKED} that a measured table asks for."
REST_TIP = "What the classes leave of a block; computed."
SHARE_TIP = "Mean ± standard deviation of the class's share of such a block, in percent, such as 70 ± 5. Empty: not stated."


def parse_share(text: str, spread: float | None = None) -> tuple[float, float]:
    """Mean and standard deviation (0–1) of a share as it is typed, in percent: ``70 ± 5``, ``70+-5``, ``70 5``, ``70``.

    Parameters
    ----------
    text : str
    spread : float, optional
        The standard deviation where none is typed.

    Raises
    ------
    SettingsError
        It is no share.
    """
    match = SHARE.match(text)
    if match is None:
        raise SettingsError(f"'{text.strip()}' is no share. Write mean and standard deviation in percent, such as 70 ± 5.")
    mean, typed = (None if part is None else float(part.replace(",", ".")) / 100 for part in match.groups())
    assert mean is not None
    sd = typed if typed is not None else spread or USUAL_SD
    if mean > 1:
        raise SettingsError(f"A share of {mean:.0%} is more than a whole block. Write a mean from 0 to 100 %.")
    if not 0 < sd <= 1:
        raise SettingsError(f"A standard deviation is above 0 and at most 100 %, and {sd:.0%} was given. Write 0.1 where all blocks hold the same.")
    return mean, sd


def share_text(eta: float, rho: float) -> str:
    """A share as it is shown."""
    return f"{100 * eta:.3g} ± {100 * rho:.2g}"


def with_share(rows: Sequence[Statistic], coarse: int, value: int, share: tuple[float, float] | None) -> list[Statistic]:
    """A table after one of its shares was typed anew, or taken away; background has the rest then."""
    kept = [row for row in rows if row.coarse != coarse or row.class_value not in (value, BACKGROUND)]
    return sorted([*kept, *([] if share is None else [statistic(coarse, value, *share)])], key=lambda row: (row.coarse, row.class_value))


def table_problems(dataset: PatchDataset, labels: Iterable[int]) -> list[str]:
    """What is wrong with the shares that are stated, for the coarse labels that blocks have."""
    wanted = sorted(labels)
    if not wanted:
        return []
    if not dataset.statistics:
        return ["No shares are stated yet. Type them, take a preset, or measure them in painted blocks."]
    try:
        stated(dataset, wanted)
    except DatasetError as error:
        return [str(error).removeprefix(f"The table of {dataset.folder} cannot be used: ")]
    return []


class ShareTable(QTableWidget):
    """A row for each coarse label, a column for each class; what is typed goes to the dataset, and can be undone.

    Parameters
    ----------
    desk : Desk
    """

    edited = Signal()
    """Something was typed that could not be taken over, or was corrected."""

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self.wrong: dict[tuple[int, int], tuple[str, str]] = {}
        """What was typed by coarse label and class value, and why it cannot be used."""
        self._rows: list[int] = []
        self._values: list[int] = []
        self.setAccessibleName("Shares of the classes in blocks of each coarse label")
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setWordWrap(False)
        rows = self.verticalHeader()
        assert rows is not None
        rows.hide()
        rows.setDefaultSectionSize(ROW_PX)
        self.setTabKeyNavigation(False)
        self.cellChanged.connect(self._on_typed)

    # -- looks ------------------------------------------------------------------------------------------------------------

    def show_table(self, totals: Mapping[int, int], painted: Mapping[int, int]) -> None:
        """Show the dataset's table, with how many blocks there are of each coarse label, and are painted exactly."""
        session = self._desk.session
        dataset = None if session is None else session.dataset
        self._values = [] if dataset is None else sorted(c.value for c in dataset.classes if c.value)
        named = {} if dataset is None else {c.value: c for c in dataset.coarse_classes}
        rows = () if dataset is None else dataset.statistics
        self._rows = sorted({*named, *totals, *(row.coarse for row in rows)})
        self.wrong = {cell: said for cell, said in self.wrong.items() if cell[0] in self._rows and cell[1] in self._values}
        with QSignalBlocker(self):
            self._show_head(dataset)
            self.setRowCount(len(self._rows))
            for i, label in enumerate(self._rows):
                own = {row.class_value: row for row in rows if row.coarse == label}
                name, color = (named[label].name, named[label].color) if label in named else (str(label), None)
                self._cell(i, 0, name, "Coarse label.").setIcon(icon_of(swatch(color)))
                for j, value in enumerate(self._values, 1):
                    self._share(i, j, label, value, own.get(value))
                self._cell(i, len(self._values) + 1, rest_text(own, self._values), REST_TIP)
                self._cell(i, len(self._values) + 2, f"{totals.get(label, 0):,}", BLOCKS_TIP)
                self._cell(i, len(self._values) + 3, f"{painted.get(label, 0)}/{ASKED}", PAINTED_TIP)
        self._fit()

    def _show_head(self, dataset: PatchDataset | None) -> None:
        names = {} if dataset is None else {c.value: c.name for c in dataset.classes}
        titles = ["Blocks with", *(names[value] for value in self._values), names.get(BACKGROUND, "rest"), "Blocks", "Exact"]
        tips = ["", *[SHARE_TIP] * len(self._values), REST_TIP, BLOCKS_TIP, PAINTED_TIP]
        self.setColumnCount(len(titles))
        for column, (title, tip) in enumerate(zip(titles, tips, strict=True)):
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)

    def _share(self, row: int, column: int, label: int, value: int, known: Statistic | None) -> None:
        typed = self.wrong.get((label, value))
        text = typed[0] if typed else "" if known is None else share_text(known.eta, known.rho)
        item = self._cell(row, column, text, typed[1] if typed else SHARE_TIP)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
        if typed:
            item.setForeground(QColor(PROBLEM_COLOR))

    def _cell(self, row: int, column: int, text: str, tip: str) -> QTableWidgetItem:
        item = QTableWidgetItem(text)
        item.setToolTip(tip)
        item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
        if column:
            item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
        self.setItem(row, column, item)
        return item

    def _fit(self) -> None:
        """As high as its rows, up to a dozen."""
        head = self.horizontalHeader()
        assert head is not None
        few = len(self._values) <= FEW_CLASSES
        for column in range(self.columnCount()):
            wide = few and 1 <= column <= len(self._values)
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch if wide else QHeaderView.ResizeMode.ResizeToContents)
        scroll = 0 if few else SCROLL_PX
        self.setFixedHeight(min(max(len(self._rows), 2), MOST_ROWS) * ROW_PX + head.sizeHint().height() + scroll + 4)

    # -- typing -----------------------------------------------------------------------------------------------------------

    def _on_typed(self, row: int, column: int) -> None:
        if not 1 <= column <= len(self._values):
            return
        item = self.item(row, column)
        assert item is not None
        self.type_share(self._rows[row], self._values[column - 1], item.text())

    def type_share(self, coarse: int, value: int, text: str) -> None:
        """Take a share over as it is typed; what cannot be used stays in its cell, and says why."""
        session = self._desk.require()
        rows = session.dataset.statistics
        before = next((row for row in rows if row.coarse == coarse and row.class_value == value), None)
        self.wrong.pop((coarse, value), None)
        try:
            share = parse_share(text, None if before is None else before.rho) if text.strip() else None
        except SettingsError as error:
            self.wrong[coarse, value] = text, str(error)
        else:
            new = with_share(rows, coarse, value, share)
            if before is None or share is None or share_text(*share) != share_text(before.eta, before.rho):
                self._desk.do(lambda: session.blocks.state(new))
        self.edited.emit()

    @property
    def problems(self) -> list[str]:
        """What was typed and cannot be used."""
        session = self._desk.session
        named = {} if session is None else {c.value: c.name for c in session.dataset.coarse_classes}
        return [f"{named.get(label, label)}: {said}" for (label, _), (_, said) in sorted(self.wrong.items())]

    def require(self) -> None:
        """Raise a `DatasetError` when something was typed that cannot be used."""
        if self.problems:
            raise DatasetError("The table of shares cannot be used. " + " ".join(self.problems))


def rest_text(own: Mapping[int, Any], values: Sequence[int]) -> str:
    """What the classes leave of a block; empty where nothing is stated."""
    if BACKGROUND in own:
        return share_text(own[BACKGROUND].eta, own[BACKGROUND].rho)
    if not own:
        return ""
    rest = 1 - sum(own[value].eta for value in values if value in own)
    return f"{100 * rest:.3g}" if abs(rest) >= 5e-4 else "0"

