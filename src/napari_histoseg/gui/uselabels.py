"""Classes of a map as training labels: what to take, and handing it over on a thread."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Qt
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QSpinBox,
    QWidget,
)

from napari_histoseg.annotations.dataset import FILE_NAME
from napari_histoseg.annotations.frommap import PER_CLASS, SIDE_UM, UNSURE, Wanted, add, cut, hand_over
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.gui.annotatenew import fresh_name
from napari_histoseg.gui.annotateroom import ROOMS
from napari_histoseg.gui.background import in_background, in_steps
from napari_histoseg.gui.parts import button

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.viewer import Viewer

    from napari_histoseg.gui.annotatedesk import Desk
    from napari_histoseg.gui.jobs import Job
    from napari_histoseg.results import Result
    from napari_histoseg.results.record import ClassRecord
    from napari_histoseg.slide import Slide

UNNAMED = re.compile(r"cluster \d+")
LIST_PX = 140
VALUE = Qt.ItemDataRole.UserRole
NOTE = (
    "Patches are put around certain places of each class, apart from each other, and painted with the classes of the map. Glass, other classes and "
    "the least certain places stay unlabelled. A dataset that is there is extended; nothing in it changes."
)


class LabelsDialog(QDialog):
    """Which classes become labels, where, and how many patches.

    Parameters
    ----------
    classes : sequence of ClassRecord
        Of the map. Those that were named are checked; all, where none was.
    home : Path
        Folder in which a new dataset is proposed.
    """

    def __init__(self, classes: Sequence[ClassRecord], home: Path, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Use as training labels")
        self.folder = QLineEdit(str(fresh_name(home)))
        self.folder.setMinimumWidth(320)
        self.folder.setToolTip("A patch dataset to extend, or a new folder.")
        self.classes = _class_list(classes)
        self.per_class = QSpinBox()
        self.per_class.setRange(1, 1000)
        self.per_class.setValue(PER_CLASS)
        self.per_class.setToolTip("Patches around places of each class; there are fewer where there is no room.")
        self.side = QDoubleSpinBox()
        self.side.setRange(8, 4000)
        self.side.setDecimals(0)
        self.side.setValue(SIDE_UM)
        self.side.setSuffix(" µm")
        self.side.setToolTip("Side of a patch.")
        self.unsure = QSpinBox()
        self.unsure.setRange(0, 95)
        self.unsure.setValue(round(100 * UNSURE))
        self.unsure.setSuffix(" %")
        self.unsure.setToolTip("Share of each class, where the map is least certain, that is left unlabelled.")
        self._lay_out()

    def _lay_out(self) -> None:
        where = QWidget()
        row = QHBoxLayout(where)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.folder, 1)
        browse = button("…", "Choose a folder.", self._browse)
        browse.setFixedWidth(28)
        row.addWidget(browse)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        note = QLabel(NOTE)
        note.setWordWrap(True)
        layout = QFormLayout(self)
        for title, part in (
            ("Dataset", where), ("Classes", self.classes), ("Patches a class", self.per_class), ("Size", self.side), ("Leave out", self.unsure),
        ):  # fmt: skip
            layout.addRow(title, part)
        layout.addRow(note)
        layout.addRow(self.buttons)

    def _browse(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder of the dataset", str(Path(self.folder.text()).parent))
        if chosen:
            self.folder.setText(chosen)

    def values(self) -> tuple[Path, Wanted]:
        """The folder, and what to take."""
        items = [self.classes.item(row) for row in range(self.classes.count())]
        chosen = tuple(int(item.data(VALUE)) for item in items if item is not None and item.checkState() == Qt.CheckState.Checked)
        return Path(self.folder.text()).expanduser(), Wanted(chosen, self.per_class.value(), self.side.value(), self.unsure.value() / 100)


def _class_list(classes: Sequence[ClassRecord]) -> QListWidget:
    made = QListWidget()
    made.setToolTip("Classes with a check mark are painted; all others stay unlabelled.")
    made.setMaximumHeight(LIST_PX)
    named = [c for c in classes if not UNNAMED.fullmatch(c.name)]
    for c in classes:
        item = QListWidgetItem(c.name)
        color = QPixmap(12, 12)
        color.fill(QColor(c.color))
        item.setData(Qt.ItemDataRole.DecorationRole, color)
        item.setData(VALUE, c.value)
        item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked if c in named or not named else Qt.CheckState.Unchecked)
        made.addItem(item)
    return made


def use_labels(
    viewer: Viewer, result: Result, slide: Slide, folder: Path, wanted: Wanted, done: Callable[[str], None], failed: Callable[[str], None],
    parent: QObject,
) -> Job:  # fmt: skip
    """Hand classes of a map over to a dataset; ``done`` and ``failed`` take sentences. The job can be cancelled."""
    if not wanted.classes:
        raise DatasetError("No class was chosen. Put a check mark before at least one.")
    desk = desk_with(viewer, folder)
    if desk is not None:
        return _to_desk(desk, result, slide, wanted, done, failed, parent)

    def work(step: Callable[[int, int], None]) -> Any:
        return hand_over(result, slide, folder, wanted, step=step)

    return in_steps("Painting patches", work, lambda added: done(said(len(added), folder)), failed, parent)


def _to_desk(
    desk: Desk, result: Result, slide: Slide, wanted: Wanted, done: Callable[[str], None], failed: Callable[[str], None], parent: QObject
) -> Job:
    """To the dataset that is open in this window: it is changed on the main thread, like by hand, and shows at once."""
    session = desk.require()
    dataset = session.dataset

    def put(cuts: Any) -> None:
        """Add the patches that were cut, as long as the dataset is the one that was asked for."""
        if desk.session is not session:
            failed("The dataset was closed meanwhile. Nothing was added.")
            return
        try:
            add(session, result, slide, cuts)
        except HistosegError as error:
            failed(str(error))
        else:
            done(said(len(cuts), session.folder))

    return in_background("Painting patches", lambda: cut(result, slide, dataset, wanted), put, failed, parent)


def desk_with(viewer: Viewer, folder: Path) -> Desk | None:
    """The annotation desk of this window, when it has the dataset of a folder open."""
    folder = folder.parent if folder.name == FILE_NAME else folder
    window: Any = viewer.window
    for room in list(ROOMS):
        session = room.desk.session
        if room.window == window and session is not None and session.folder.resolve() == folder.resolve():
            return room.desk
    return None


def said(count: int, folder: Path) -> str:
    """What was done."""
    return f"{'1 patch was' if count == 1 else f'{count} patches were'} painted in {folder}. Open it under Annotate to correct them, or under Joint to train on them."
