"""The questions to ask before a new dataset is made."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QWidget,
)

from napari_histoseg.annotations.dataset import PatchClass
from napari_histoseg.gui.folders import FolderPicker
from napari_histoseg.objects.colors import PALETTE

MPP_TIP = "At 2 µm/px a gland is a hand's breadth of pixels; nuclei need 0.25 to 0.5. It cannot be changed later."


class NewDataset(QDialog):
    """Where the dataset goes, how fine masks are, and the first classes.

    Parameters
    ----------
    mpp : float
        Suggested µm per pixel.
    """

    def __init__(self, mpp: float, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("New dataset")
        self.folder = QLineEdit(str(fresh_name(FolderPicker.default())))
        self.folder.setMinimumWidth(320)
        self.folder.setToolTip("Made when it does not exist. The slides are not copied.")
        self.mpp = QDoubleSpinBox()
        self.mpp.setRange(0.1, 32)
        self.mpp.setDecimals(3)
        self.mpp.setValue(mpp)
        self.mpp.setSuffix(" µm/px")
        self.mpp.setToolTip(MPP_TIP)
        self.classes = QLineEdit()
        self.classes.setPlaceholderText("benign, malignant")
        self.classes.setToolTip("Names with commas between them. They can be changed, and more be added, at any time.")
        browse = QPushButton("…")
        browse.setFixedWidth(28)
        browse.clicked.connect(self._browse)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        where = QWidget()
        row = QHBoxLayout(where)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, 1)
        row.addWidget(browse)
        layout = QFormLayout(self)
        layout.addRow("Folder", where)
        layout.addRow("Masks at", self.mpp)
        layout.addRow("Classes", self.classes)
        note = QLabel("Pixels that nobody paints stay unlabelled. The background has the key 0 and needs no class.")
        note.setWordWrap(True)
        layout.addRow(note)
        layout.addRow(buttons)

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder of the new dataset", str(Path(self.folder.text()).parent))
        if chosen:
            self.folder.setText(chosen)

    def values(self) -> tuple[Path, float, tuple[PatchClass, ...]]:
        """Folder, µm per pixel and classes as entered."""
        return Path(self.folder.text()).expanduser(), self.mpp.value(), classes_of(self.classes.text())


def classes_of(text: str) -> tuple[PatchClass, ...]:
    """Classes from names with commas between them; two when there are none."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip())) or ["class 1", "class 2"]
    return tuple(PatchClass(value=i + 1, name=name, color=PALETTE[i % len(PALETTE)]) for i, name in enumerate(names))


def fresh_name(parent: Path) -> Path:
    """A folder for patches in ``parent`` that does not exist yet."""
    number, folder = 1, parent / "annotations"
    while folder.exists():
        number += 1
        folder = parent / f"annotations-{number}"
    return folder
