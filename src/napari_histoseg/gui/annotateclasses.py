"""The classes of a dataset: names, colors, keys, and how much of each was annotated."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHBoxLayout,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.gui.annotatelayers import BACKGROUND_COLOR
from napari_histoseg.gui.annotatelist import icon_of
from napari_histoseg.gui.parts import button, swatch

if TYPE_CHECKING:
    from napari_histoseg.annotations.entries import ClassCount
    from napari_histoseg.gui.annotatedesk import Desk

KEY_COLUMN, COLOR, NAME, PATCHES, AREA = range(5)
TITLES = ("Key", "", "Class", "Patches", "Area")
TIPS = (
    "Press the key to paint with the class, or to give it to a chosen classification patch.",
    "Double click to choose another color.",
    "Double click to rename.",
    "Segmentation patches with the class + classification patches of it.",
    "Painted area.",
)
UM2_PER_MM2 = 1e6
ROW_PX = 22
BACKGROUND_NAME = "background"


class ClassTable(QWidget):
    """Choose, name, color, add and remove classes.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self._values: list[int] = []
        self.table = QTableWidget(0, len(TITLES))
        self.add_button = button("Add class", "A new class with the next free key.", partial(desk.try_, self.add))
        self.remove_button = button("Remove class", "Remove the chosen class, unless something is annotated with it.", partial(desk.try_, self.remove))
        self._lay_out()
        self.table.itemChanged.connect(self._on_renamed)
        self.table.cellClicked.connect(self._on_clicked)
        self.table.cellDoubleClicked.connect(self._on_double_click)
        desk.dataset_changed.connect(self.reload)
        desk.changed.connect(self.reload)
        desk.class_changed.connect(self._select)
        self.reload()

    def _lay_out(self) -> None:
        table = self.table
        table.setHorizontalHeaderLabels(TITLES)
        for column, tip in enumerate(TIPS):
            item = table.horizontalHeaderItem(column)
            if item is not None:
                item.setToolTip(tip)
        rows, head = table.verticalHeader(), table.horizontalHeader()
        assert rows is not None and head is not None
        rows.hide()
        rows.setDefaultSectionSize(ROW_PX)
        head.setMinimumSectionSize(18)
        for column in range(len(TITLES)):
            stretch = column == NAME
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch if stretch else QHeaderView.ResizeMode.ResizeToContents)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        # Digits choose classes; they shall not search the table.
        table.setTabKeyNavigation(False)
        table.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(table)
        row = QHBoxLayout()
        row.addWidget(self.add_button)
        row.addWidget(self.remove_button)
        layout.addLayout(row)

    # -- showing ------------------------------------------------------------------------------------------------------

    def reload(self, change: Any = None) -> None:
        """Show the classes and their numbers as they are now; the background comes first."""
        session = self._desk.session
        self.setEnabled(session is not None)
        counts = {} if session is None else {each.value: each for each in session.counts()}
        values = [] if session is None else [0, *sorted(each.value for each in session.classes if each.value)]
        named = set() if session is None else {each.value for each in session.classes}
        with QSignalBlocker(self.table):
            if values != self._values:
                self._values = values
                self.table.setRowCount(len(values))
            for row, value in enumerate(values):
                count = counts.get(value)
                self._show(row, KEY_COLUMN, str(value) if value <= 9 else "")
                self._show(row, NAME, count.name if count is not None else BACKGROUND_NAME, editable=True, faint=value not in named)
                self._show(row, COLOR, "", color=count.color if count is not None and value in named else BACKGROUND_COLOR)
                self._show(row, PATCHES, patches_text(count), right=True)
                self._show(row, AREA, "" if count is None else area_text(count.painted_um2), right=True)
        self._select()
        self._fit()

    def _show(self, row: int, column: int, text: str, color: str | None = None, **looks: bool) -> None:
        item = self.table.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.table.setItem(row, column, item)
        item.setText(text)
        item.setToolTip(TIPS[column])
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        item.setFlags(flags | Qt.ItemFlag.ItemIsEditable if looks.get("editable") else flags)
        if color is not None:
            item.setIcon(icon_of(swatch(color)))
        if looks.get("right"):
            item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
        font = item.font()
        font.setItalic(looks.get("faint", False))
        item.setFont(font)

    def _select(self) -> None:
        if self._desk.value in self._values:
            with QSignalBlocker(self.table):
                self.table.selectRow(self._values.index(self._desk.value))

    def _fit(self) -> None:
        """As high as its rows, up to eight; a table that scrolls inside a dock that scrolls is a nuisance."""
        head = self.table.horizontalHeader()
        assert head is not None
        rows = min(max(len(self._values), 2), 8)
        self.table.setFixedHeight(rows * ROW_PX + head.sizeHint().height() + 4)

    # -- changing -----------------------------------------------------------------------------------------------------

    def _on_clicked(self, row: int, column: int) -> None:
        self._desk.do(lambda: self._desk.set_class(self._values[row]))

    def _on_double_click(self, row: int, column: int) -> None:
        if column == COLOR:
            self._desk.do(lambda: self.choose_color(self._values[row]))

    def choose_color(self, value: int) -> None:
        """Ask for the color of a class."""
        session = self._desk.require()
        now = next((each.color for each in session.classes if each.value == value), BACKGROUND_COLOR)
        chosen = QColorDialog.getColor(QColor(now), self, "Color of the class")
        if chosen.isValid():
            self.recolor(value, chosen.name())

    def recolor(self, value: int, color: str) -> None:
        """Give a class another color; the background gets its name with it."""
        session = self._desk.require()
        if all(each.value != value for each in session.classes):
            session.add_class(BACKGROUND_NAME, color, value=0)
        else:
            session.recolor_class(value, color)

    def _on_renamed(self, item: QTableWidgetItem) -> None:
        if item.column() == NAME:
            value, name = self._values[item.row()], item.text()
            if not self._desk.do(lambda: self.rename(value, name)):
                self.reload()

    def rename(self, value: int, name: str) -> None:
        """Give a class another name; the background gets one."""
        session = self._desk.require()
        if all(each.value != value for each in session.classes):
            session.add_class(name, value=0)
        else:
            session.rename_class(value, name)

    def add(self) -> None:
        """Add a class with a name to be changed, and choose it."""
        session = self._desk.require()
        taken = {each.name for each in session.classes}
        number = len(taken) + 1
        while f"class {number}" in taken:
            number += 1
        made = session.add_class(f"class {number}")
        self._desk.value = made.value
        self._desk.class_changed.emit()
        item = self.table.item(self._values.index(made.value), NAME)
        if item is not None:
            self.table.editItem(item)

    def remove(self) -> None:
        """Remove the chosen class."""
        session = self._desk.require()
        session.remove_class(self._desk.value)
        values = [each.value for each in session.classes if each.value]
        self._desk.value = values[0] if values else 0
        self._desk.class_changed.emit()


def patches_text(count: ClassCount | None) -> str:
    """Segmentation patches with a class + classification patches of it."""
    if count is None or not count.mask_patches + count.label_patches:
        return ""
    return f"{count.mask_patches} + {count.label_patches}"


def area_text(um2: float) -> str:
    """An area with its unit: mm² from a hundredth of one on."""
    if um2 <= 0:
        return ""
    return f"{um2 / UM2_PER_MM2:.2f} mm²" if um2 >= UM2_PER_MM2 / 100 else f"{um2:,.0f} µm²"
