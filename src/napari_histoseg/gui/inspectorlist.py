"""The classes of a result as a list: keys, colors, names, sizes, the mean of a measurement; to rename, recolor, tick and choose."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QColor, QKeyEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QGridLayout,
    QHeaderView,
    QPushButton,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.gui.annotatelist import icon_of
from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.parts import button, swatch
from napari_histoseg.gui.tablemodel import text_of

TICK, COLOR, NAME, SIZE, SHARE, MEAN = range(6)
TITLES = ("", "", "Class", "Objects", "Share", "Mean")
TIPS = (
    "Tick classes to merge them. A digit is the key that gives the class to the chosen objects.",
    "Double click to choose another color.",
    "Click to look at the class below. Double click, or F2, to rename it.",
    "Objects in the class; in a map of classes its area in mm².",
    "Part of all objects; in a map of classes of all that has a class.",
    "Mean of the measurement that is chosen under 'Measurements'.",
)
ROW_PX = 22
MOST_ROWS = 10
SPLIT = "Cluster the objects of the class that is looked at anew."
SPLIT_MAP = "Part the class that is looked at along the finer classes in it, those that look alike together. Its pixels change at once."
CHOOSE = "Choose all objects of the class that is looked at: they stand out in slide and map."
CHOOSE_MAP = "Choose all patches of the class that is looked at: they stand out in the map of patches."
KEYS = 9
"""Classes that have a key."""


class ClassList(QTableWidget):
    """A row a class. Digits are left to the panel."""

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(0, len(TITLES), parent)
        self._desk = desk
        self._values: list[int] = []
        self._means: dict[int, float] = {}
        self._lay_out()
        self.itemChanged.connect(self._on_edited)
        self.currentCellChanged.connect(self._on_current)
        self.cellDoubleClicked.connect(self._on_double_click)
        desk.opened.connect(self._on_opened)
        desk.classes_changed.connect(self.reload)
        desk.value_changed.connect(self._select)

    def _lay_out(self) -> None:
        self.setHorizontalHeaderLabels(TITLES)
        for column, tip in enumerate(TIPS):
            item = self.horizontalHeaderItem(column)
            if item is not None:
                item.setToolTip(tip)
        rows, head = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None and head is not None
        rows.hide()
        rows.setDefaultSectionSize(ROW_PX)
        head.setMinimumSectionSize(18)
        for column in range(len(TITLES)):
            mode = QHeaderView.ResizeMode.Stretch if column == NAME else QHeaderView.ResizeMode.ResizeToContents
            head.setSectionResizeMode(column, mode)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTabKeyNavigation(False)
        self.setAccessibleName("Classes")
        self._fit()

    # -- showing ------------------------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        self._means = {}
        self.reload()

    def reload(self) -> None:
        """Show the classes and their numbers as they are now."""
        classes, sizes = self._desk.classes, self._desk.sizes()
        whole = sum(sizes.values()) or 1.0
        area = self._desk.book is None or self._desk.is_map
        ticked = set(self.ticked())
        with QSignalBlocker(self):
            self._values = [c.value for c in classes]
            self.setRowCount(len(classes))
            for row, each in enumerate(classes):
                size = sizes.get(each.value, 0.0)
                self._show_tick(row, each.value in ticked, keyed=not area)
                self._show(row, COLOR, "", color=each.color)
                self._show(row, NAME, each.name, editable=True)
                self._show(row, SIZE, f"{size:.2f}" if area else f"{size:,.0f}", right=True)
                self._show(row, SHARE, f"{100 * size / whole:.0f} %", right=True)
                self._show(row, MEAN, text_of(self._means.get(each.value, float("nan"))), right=True)
        title = self.horizontalHeaderItem(SIZE)
        if title is not None:
            title.setText("mm²" if area and self._desk.book is not None else "Objects")
        self.setColumnHidden(MEAN, area)
        self._select()
        self._fit()

    def show_means(self, title: str, means: dict[int, float]) -> None:
        """Show the mean of a measurement for each class."""
        self._means = means
        item = self.horizontalHeaderItem(MEAN)
        if item is not None:
            item.setToolTip(f"Mean of {title}. Choose another measurement under 'Measurements'.")
        with QSignalBlocker(self):
            for row, value in enumerate(self._values):
                self._show(row, MEAN, text_of(means.get(value, float("nan"))), right=True)

    def _show(self, row: int, column: int, text: str, color: str | None = None, **looks: bool) -> QTableWidgetItem:
        item = self.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.setItem(row, column, item)
            item.setToolTip(TIPS[column])
            flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
            item.setFlags(flags | Qt.ItemFlag.ItemIsEditable if looks.get("editable") else flags)
        # Columns are as wide as their cells, so each change costs a look at the whole column.
        if item.text() != text:
            item.setText(text)
            if column == NAME:
                item.setToolTip(f"{text}: {TIPS[column]}")
        named = f"color {color}"
        if color is not None and item.data(Qt.ItemDataRole.AccessibleTextRole) != named:
            item.setIcon(icon_of(swatch(color)))
            item.setData(Qt.ItemDataRole.AccessibleTextRole, named)
        if looks.get("right"):
            item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
        return item

    def _show_tick(self, row: int, on: bool, keyed: bool) -> None:
        item = self._show(row, TICK, str(row + 1) if row < KEYS and keyed else "")
        state = Qt.CheckState.Checked if on else Qt.CheckState.Unchecked
        if item.data(Qt.ItemDataRole.CheckStateRole) is None or item.checkState() != state:
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(state)

    def _select(self) -> None:
        value = self._desk.value
        with QSignalBlocker(self):
            if value in self._values:
                self.setCurrentCell(self._values.index(value), NAME)
            else:
                self.setCurrentCell(-1, -1)
                self.clearSelection()

    def _fit(self) -> None:
        """As high as its rows, up to ten."""
        head = self.horizontalHeader()
        assert head is not None
        self.setFixedHeight(min(max(len(self._values), 3), MOST_ROWS) * ROW_PX + head.sizeHint().height() + 4)

    # -- changing -----------------------------------------------------------------------------------------------------

    def ticked(self) -> list[int]:
        """Values of the ticked classes, in the order of the list."""
        found = []
        for row, value in enumerate(self._values):
            item = self.item(row, TICK)
            if item is not None and item.checkState() == Qt.CheckState.Checked:
                found.append(value)
        return found

    def tick(self, values: list[int]) -> None:
        """Tick these classes and no others."""
        for row, value in enumerate(self._values):
            self._show_tick(row, value in values, keyed=not self._desk.is_map)

    def value_at(self, row: int) -> int | None:
        """The class in a row; None beyond the list."""
        return self._values[row] if 0 <= row < len(self._values) else None

    def _on_current(self, row: int, *_: int) -> None:
        self._desk.look_at(self.value_at(row))

    def _on_double_click(self, row: int, column: int) -> None:
        if column == COLOR and (value := self.value_at(row)) is not None:
            self.choose_color(value)

    def choose_color(self, value: int) -> None:
        """Ask for the color of a class."""
        now = self._desk.class_of(value)
        chosen = QColorDialog.getColor(QColor(now.color if now else "#808080"), self, "Color of the class")
        if chosen.isValid():
            self._desk.do(lambda: self._desk.require().recolor(value, chosen.name()))

    def _on_edited(self, item: QTableWidgetItem) -> None:
        value = self.value_at(item.row())
        if item.column() != NAME or value is None:
            return
        if not self._desk.do(lambda: self._desk.require().rename(value, item.text())):
            self.reload()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Space ticks the class, C asks for its color; letters do not search."""
        if event is None:
            return
        value = self._desk.value
        if event.key() == Qt.Key.Key_Space and value in self._values:
            item = self.item(self._values.index(value), TICK)
            if item is not None:
                off = item.checkState() == Qt.CheckState.Unchecked
                item.setCheckState(Qt.CheckState.Checked if off else Qt.CheckState.Unchecked)
        elif event.key() == Qt.Key.Key_C and not event.modifiers() and value is not None:
            self.choose_color(value)
        else:
            super().keyPressEvent(event)

    def keyboardSearch(self, search: str | None) -> None:
        """Not here: names are few, and digits are keys of the panel."""


class ClassBar(QWidget):
    """The list and the buttons that change it."""

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self.list = ClassList(desk)
        self.merge_button = self._button("Merge", "Make one class of those that are ticked; the largest keeps its name and color.", self.merge)
        self.parts = QSpinBox()
        self.parts.setRange(2, 9)
        self.parts.setToolTip("How many classes to split into.")
        self.parts.setAccessibleName("Classes to split into")
        self.split_button = self._button("Split into", SPLIT, self.split)
        self.choose_button = self._button("Choose all", CHOOSE, desk.choose_class)
        self.undo_button = self._button("Undo", "Ctrl+Z", desk.undo)
        self.redo_button = self._button("Redo", "Ctrl+Shift+Z", desk.redo)
        self._lay_out()
        desk.opened.connect(self.show_state)
        desk.classes_changed.connect(self.show_state)
        self.show_state()

    def _button(self, text: str, tip: str, action: Any) -> QPushButton:
        return button(text, tip, partial(self._desk.try_, action))

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(4)
        for place, widget in enumerate((self.merge_button, self.split_button, self.parts, self.undo_button, self.redo_button, self.choose_button)):
            grid.addWidget(widget, place // 3, place % 3)
        for column in (0, 1, 2):
            grid.setColumnStretch(column, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.list)
        layout.addLayout(grid)

    def merge(self) -> None:
        """Make one class of those that are ticked."""
        self._desk.merge(self.list.ticked())
        self.list.tick([])

    def split(self) -> None:
        """Make several of the class that is looked at."""
        self._desk.split(self.parts.value())

    def show_state(self) -> None:
        """What can be done now; undo and redo say what they would do."""
        book, objects, maps = self._desk.book, self._desk.clusters is not None, self._desk.is_map
        self.split_button.setToolTip(SPLIT_MAP if maps else SPLIT)
        self.choose_button.setToolTip(CHOOSE_MAP if maps else CHOOSE)
        for each in (self.list, self.merge_button):
            each.setEnabled(book is not None)
        for other in (self.split_button, self.parts, self.choose_button):
            other.setEnabled(objects)
        undo, redo = (None, None) if book is None else (book.can_undo, book.can_redo)
        self.undo_button.setEnabled(undo is not None)
        self.redo_button.setEnabled(redo is not None)
        self.undo_button.setToolTip(f"Take back: {undo} (Ctrl+Z)" if undo else "Ctrl+Z")
        self.redo_button.setToolTip(f"Do again: {redo} (Ctrl+Shift+Z)" if redo else "Ctrl+Shift+Z")
