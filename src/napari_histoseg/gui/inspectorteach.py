"""Telling which objects are of which class, and learning from that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_histoseg.errors import SettingsError
from napari_histoseg.gui.annotatelist import icon_of
from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.parts import button

if TYPE_CHECKING:
    from napari_histoseg.results.record import ClassRecord

SWATCH_PX = 12


class Teach(QWidget):
    """What is chosen, "These are …", and learning from corrections.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self.words = QLabel()
        # One line, whatever it says: the parts below shall not jump with each click.
        self.words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.name = QComboBox()
        self.name.setEditable(True)
        self.name.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.name.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.name.setMinimumContentsLength(10)
        self.name.setToolTip("A class of the list, or a new name: that makes a new class.")
        self.name.setAccessibleName("Class of the chosen objects")
        self.assign_button = button("These are", "Give the chosen objects this class. Keys 1 to 9 give the classes of the list.", self.assign)
        self.none_button = button("Choose none", "Esc", lambda: desk.choose([]))
        tip = "Tell all other objects apart by your corrections (a classifier over the embedding). Corrected ones keep their class."
        self.learn_button = button("Learn from corrections", tip, partial(desk.try_, desk.learn))
        self.live = QCheckBox("after each")
        self.live.setToolTip("Learn again after each correction, once objects of two classes were corrected.")
        self._lay_out()
        editor = self.name.lineEdit()
        if editor is not None:
            editor.returnPressed.connect(self.assign)
        self.live.toggled.connect(self._on_live)
        desk.opened.connect(self._on_opened)
        desk.classes_changed.connect(self.reload)
        desk.chosen_changed.connect(self.show_state)
        self.reload()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(4)
        grid.addWidget(self.assign_button, 0, 0)
        grid.addWidget(self.name, 0, 1)
        grid.addWidget(self.none_button, 0, 2)
        grid.addWidget(self.learn_button, 1, 0, 1, 2)
        grid.addWidget(self.live, 1, 2)
        grid.setColumnStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.words)
        layout.addLayout(grid)

    def _on_opened(self) -> None:
        self.name.setEditText("")
        self.reload()

    def reload(self) -> None:
        """Offer the classes as they are now; what is being typed stays."""
        typed = self.name.currentText()
        with QSignalBlocker(self.name):
            self.name.clear()
            for each in self._desk.classes:
                swatch = QPixmap(SWATCH_PX, SWATCH_PX)
                swatch.fill(QColor(each.color))
                self.name.addItem(icon_of(swatch), each.name)
            self.name.setCurrentIndex(self.name.findText(typed))
            self.name.setEditText(typed)
        self.show_state()

    def show_state(self) -> None:
        """How many are chosen, and what can be done with them."""
        there, count = self._desk.objects is not None, len(self._desk.chosen)
        self.setVisible(not self._desk.is_map)
        for each in (self.name, self.assign_button, self.none_button):
            each.setEnabled(there and count > 0)
        corrected = 0 if self._desk.book is None or not there else len(self._desk.book.corrections())
        self.learn_button.setEnabled(corrected > 0)
        self.live.setEnabled(there)
        words = self._in_words(count, corrected)
        self.words.setText(words)
        self.words.setToolTip(words or "")

    def _in_words(self, count: int, corrected: int) -> str:
        desk = self._desk
        if desk.objects is None:
            return ""
        said = f" · {corrected:,} corrected" if corrected else ""
        if not count:
            return f"Click objects in slide, gallery or map{said}"
        if count > 1:
            return f"{count:,} objects are chosen{said}"
        position = int(desk.chosen[0])
        found: ClassRecord | None = desk.class_of(int(desk.values[position]))
        chance = float(desk.objects.probability[position])
        sure = "" if chance != chance else f", probability {chance:.2f}"
        return f"Object {desk.ids[position]}: {found.name if found else 'no class'}{sure}{said}"

    def assign(self) -> None:
        """Give the chosen objects the class of this name."""
        name = self.name.currentText().strip()

        def work() -> None:
            if not name:
                raise SettingsError("Choose a class beside 'These are', or type a new name.")
            self._desk.assign(name)

        self._desk.do(work)

    def assign_row(self, row: int) -> None:
        """Give the chosen objects the class of a row of the list."""
        classes = self._desk.classes

        def work() -> None:
            if row >= len(classes):
                raise SettingsError(f"There is no class {row + 1} in the list; it has {len(classes)}.")
            self._desk.assign(classes[row].value)

        self._desk.do(work)

    def _on_live(self, on: bool) -> None:
        self._desk.live = on
