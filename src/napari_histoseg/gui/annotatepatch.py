"""The list of patches with what can be said of the chosen one: patient, split, removal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QItemSelectionModel, QModelIndex, QSignalBlocker
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_histoseg.gui.annotatekeys import REMOVE
from napari_histoseg.gui.annotatelist import PatchModel, PatchView
from napari_histoseg.gui.parts import button

if TYPE_CHECKING:
    from napari_histoseg.gui.annotatedesk import Desk

SPLITS: dict[str, Any] = {"any part": None, "training": "train", "validation": "val", "test": "test"}


class PatchList(QWidget):
    """Click a patch to fly there and take it in hand.

    Parameters
    ----------
    desk : Desk
    model : PatchModel
    """

    def __init__(self, desk: Desk, model: PatchModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk, self._model = desk, model
        self.view = PatchView(model)
        self.group = QLineEdit()
        self.group.setPlaceholderText("patient or group")
        self.group.setToolTip("Patches of one patient never come into training and validation at once. Empty: each slide is a group.")
        self.split = QComboBox()
        self.split.addItems(list(SPLITS))
        self.split.setToolTip("Which part of a training the patch belongs to; any part leaves that to the training.")
        self.remove_button = button("Remove", f"Remove the chosen patch ({REMOVE}); undo brings it back.", partial(desk.try_, desk.remove))
        self._lay_out()
        self.view.clicked.connect(self._on_clicked)
        self.view.activated.connect(self._on_clicked)
        self.group.editingFinished.connect(self._on_group)
        self.split.activated.connect(self._on_split)
        for signal in (desk.chosen_changed, desk.changed, desk.dataset_changed):
            signal.connect(self.follow)
        self.follow()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(QLabel("Group"))
        row.addWidget(self.group, 1)
        row.addWidget(self.split)
        row.addWidget(self.remove_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.view)
        layout.addLayout(row)

    def follow(self, change: Any = None) -> None:
        """Show the patch in hand."""
        patch = self._desk.current
        for each in (self.group, self.split, self.remove_button):
            each.setEnabled(patch is not None)
        with QSignalBlocker(self.group), QSignalBlocker(self.split):
            if not self.group.hasFocus() or patch is None:
                self.group.setText("" if patch is None else patch.patch.group or "")
            self.group.setCursorPosition(0)
            split = None if patch is None else patch.patch.split
            self.split.setCurrentIndex(list(SPLITS.values()).index(split))
        row = self._model.row_of(self._desk.chosen)
        selection = self.view.selectionModel()
        if selection is None:
            return
        if row < 0:
            selection.clear()
        elif self.view.currentIndex().row() != row or not selection.hasSelection():
            index = self._model.index(row)
            selection.setCurrentIndex(index, QItemSelectionModel.SelectionFlag.ClearAndSelect)
            self.view.scrollTo(index)

    def _on_clicked(self, index: QModelIndex) -> None:
        number = self._model.id_at(index.row())
        self._desk.do(lambda: self._desk.go_to(number))

    def _on_group(self) -> None:
        patch, text = self._desk.current, self.group.text().strip()
        if patch is not None and text != (patch.patch.group or ""):
            self._desk.do(lambda: self._desk.set_group(patch.id, text or None))

    def _on_split(self, row: int) -> None:
        patch, split = self._desk.current, list(SPLITS.values())[row]
        if patch is not None and split != patch.patch.split:
            self._desk.do(lambda: self._desk.require().set_split(patch.id, split))
