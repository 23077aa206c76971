"""What is asked before regions are imported, and what is shown while something is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QDialog, QDialogButtonBox, QFormLayout, QHBoxLayout, QLabel, QLineEdit, QWidget

from napari_histoseg.gui.parts import button
from napari_histoseg.gui.progress import ProgressPanel

if TYPE_CHECKING:
    from napari_histoseg.annotations.imports import Outside
    from napari_histoseg.gui.annotatedesk import Desk
    from napari_histoseg.gui.jobs import Job, Progress

OUTSIDE: dict[str, Outside] = {"stays unlabelled": "unlabeled", "is background": "background"}


class AskRegions(QDialog):
    """What lies beside the regions of a file, and whose they are.

    Parameters
    ----------
    path : Path
        The file.
    group : str
        Suggested group.
    """

    def __init__(self, path: Path, group: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Import {path.name}")
        self.outside = QComboBox()
        self.outside.addItems(list(OUTSIDE))
        self.outside.setToolTip("Pixels of the new patches that no region covers.")
        self.group = QLineEdit(group)
        self.group.setPlaceholderText("the slide")
        self.group.setToolTip("The patient: patches of one never come into training and validation at once. Empty: the slide is a group.")
        note = QLabel("Call it background only where everything in sight was outlined.")
        note.setWordWrap(True)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QFormLayout(self)
        layout.addRow("What no region covers", self.outside)
        layout.addRow(note)
        layout.addRow("Group", self.group)
        layout.addRow(buttons)

    def values(self) -> tuple[Outside, str | None]:
        """What pixels outside are, and the group, as entered."""
        return OUTSIDE[self.outside.currentText()], self.group.text().strip() or None


class ImportBar(QWidget):
    """How far an import is, and a button to cancel it; hidden when there is none.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self._job: Job | None = None
        self.progress = ProgressPanel("")
        self.cancel_button = button("Cancel", "Stop importing. Nothing is added then.", self.cancel)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.progress, 1)
        layout.addWidget(self.cancel_button)
        desk.busy_changed.connect(self.follow)
        self.follow()

    def follow(self) -> None:
        """Show the import that begins, or that there is none any more."""
        job = self._desk.job
        self.setVisible(job is not None)
        if job is not None and job is not self._job:
            self.cancel_button.setEnabled(True)
            self.progress.wait(f"{job.title}…")
            job.progress.connect(self._on_progress)
        self._job = job

    def _on_progress(self, progress: Progress) -> None:
        if self._job is not None and not self._job.cancelling:
            self.progress.show_progress(progress, self._job.title)

    def cancel(self) -> None:
        """Ask the import to end."""
        if self._job is not None:
            self._job.cancel()
            self.cancel_button.setEnabled(False)
            self.progress.wait("Cancelling…")
