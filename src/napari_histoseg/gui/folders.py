"""Where results of the window go."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QLineEdit, QPushButton, QWidget

from napari_histoseg.errors import HistosegError
from napari_histoseg.gui.qt import Signal
from napari_histoseg.results.files import TemporaryFolder

if TYPE_CHECKING:
    from napari_histoseg.results.record import RunRecord


def safe_name(text: str) -> str:
    """A slide's name as part of a folder's name."""
    stem = text.rsplit(".", 1)[0] if "." in text else text
    return re.sub(r"[^\w-]+", "_", stem).strip("_") or "slide"


def fresh_folder(parent: Path, slide: str, method: str) -> Path:
    """A folder in ``parent`` that does not exist yet: ``<slide>-<method>``, numbered from the second on."""
    name = f"{safe_name(slide)}-{method}"
    number, folder = 1, parent / f"{name}.histoseg"
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}.histoseg"
    return folder


class FolderPicker(QWidget):
    """The folder that results are put into; when empty, one in the user's documents."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.line = QLineEdit()
        self.line.setPlaceholderText(str(self.default()))
        self.line.setToolTip(
            f"Each run makes a new folder in here. Empty: {self.default()}, where results stay until you delete them."
        )
        browse = QPushButton("…")
        browse.setFixedWidth(28)
        browse.clicked.connect(self._browse)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Results in"))
        layout.addWidget(self.line, 1)
        layout.addWidget(browse)
        self.line.textChanged.connect(lambda _: self.changed.emit())
        self._previews: TemporaryFolder | None = None

    @staticmethod
    def default() -> Path:
        """Where results go when no folder is given: ``HISTOSEG_RESULTS``, else the user's documents; never a cache, which people clear."""
        named = os.environ.get("HISTOSEG_RESULTS")
        return Path(named) if named else Path(platformdirs.user_documents_dir()) / "histoseg results"

    @property
    def folder(self) -> Path:
        """The chosen folder; results become folders inside it."""
        text = self.line.text().strip()
        return Path(text).expanduser() if text else self.default()

    def preview(self, slide: str, method: str) -> Path:
        """A folder for a preview; it goes when the window does."""
        if self._previews is None:
            self._previews = TemporaryFolder()
        return fresh_folder(self._previews.path, slide, method)

    def unfinished(self, fingerprint: str, method: str) -> Path | None:
        """The newest result in the chosen folder (or the folder itself) that is not finished, of this slide and method."""
        folders = [self.folder, *self.folder.glob("*.histoseg")] if self.folder.is_dir() else []
        found = [folder for folder in folders if _is_unfinished(folder, fingerprint, method)]
        return max(found, key=lambda folder: (folder / "run.json").stat().st_mtime, default=None)

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder for results", str(self.folder))
        if chosen:
            self.line.setText(chosen)


def read_record(folder: Path) -> RunRecord | None:
    """The run record of a folder; None when it is no readable result."""
    from napari_histoseg.results.record import RunRecord

    if not (folder / "run.json").is_file():
        return None
    try:
        return RunRecord.read(folder)
    except HistosegError:
        return None


def _is_unfinished(folder: Path, fingerprint: str, method: str) -> bool:
    from napari_histoseg.results.lock import holder

    record = read_record(folder)
    if record is None or record.status == "finished" or holder(folder) is not None:
        return False
    return record.slide.fingerprint == fingerprint and record.method == method
