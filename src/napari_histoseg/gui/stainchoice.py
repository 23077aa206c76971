"""Two lists: which reference, and which method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.stainrefs import NEURAL, Reference, references, stain_methods

TITLES = {"macenko": "Macenko", "vahadane": "Vahadane", "reinhard": "Reinhard", NEURAL: "Neural style"}
TIPS = {
    "macenko": "Finds the two stains from the slide's colors, and gives them the reference's colors and amounts. Fast and usual.",
    "vahadane": "As Macenko, but finds the stains by a sparse factorization, which keeps them apart better where they overlap.",
    "reinhard": "Matches mean and spread of the tissue's colors. Knows no stains; works where they cannot be told apart.",
    NEURAL: "A trained network colors the tissue from its lightness alone. Slower; for slides that the others cannot bring together.",
}


class StainChoice(QWidget):
    """Reference and method; the list is the same everywhere."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._list = references()
        self.reference = QComboBox()
        self.method = QComboBox()
        for combo in (self.reference, self.method):
            combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.reference.setToolTip("What the slide shall look like. The dock 'Stain' adds references: a layer, a region, a file.")
        for name in stain_methods():
            self.method.addItem(TITLES[name], name)
            self.method.setItemData(self.method.count() - 1, TIPS[name], Qt.ItemDataRole.ToolTipRole)
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.addRow("Reference", self.reference)
        layout.addRow("Method", self.method)
        self._before_style = "macenko"
        self._fill()
        self._list.changed.connect(self._fill)
        self.reference.currentIndexChanged.connect(self._on_reference)
        self.method.currentIndexChanged.connect(self._on_method)

    @property
    def line(self) -> Reference | None:
        """The chosen reference; None when there is none to choose."""
        line: Reference | None = self.reference.currentData()
        return line

    @property
    def value(self) -> tuple[Any, str] | None:
        """Target and method, as `napari_histoseg.methods.stain.resolve.stained` takes them."""
        return None if self.line is None else (self.line.target, str(self.method.currentData()))

    def choose(self, line: Reference, method: str | None = None) -> None:
        """Choose a line of the list, and a method."""
        keys = [data.key if (data := self.reference.itemData(i)) else None for i in range(self.reference.count())]
        if line.key in keys:
            self.reference.setCurrentIndex(keys.index(line.key))
        if method is not None:
            self.method.setCurrentIndex(self.method.findData(method))

    def _fill(self) -> None:
        chosen, kind = self.line, None
        with QSignalBlocker(self.reference):
            self.reference.clear()
            for line in self._list.all():
                if kind not in (None, line.kind):
                    self.reference.insertSeparator(self.reference.count())
                kind = line.kind
                self.reference.addItem(line.name, line)
                self.reference.setItemData(self.reference.count() - 1, line.note, Qt.ItemDataRole.ToolTipRole)
            if chosen is not None:
                self.choose(chosen)
        if self.line != chosen:
            self._on_reference()

    def _on_reference(self) -> None:
        style = self.line is not None and isinstance(self.line.target, Path)
        with QSignalBlocker(self.method):
            if style and self.method.findData(NEURAL) < 0:
                self.method.addItem(TITLES[NEURAL], NEURAL)
            if style:
                self.method.setCurrentIndex(self.method.findData(NEURAL))
            elif not self.method.isEnabled():
                self.method.setCurrentIndex(self.method.findData(self._before_style))
        # A style is a network of its own: no other method can use it.
        self.method.setEnabled(not style)
        self._tip()
        self.changed.emit()

    def _on_method(self) -> None:
        self._before_style = str(self.method.currentData())
        self._tip()
        self.changed.emit()

    def _tip(self) -> None:
        self.method.setToolTip(TIPS.get(str(self.method.currentData()), ""))
