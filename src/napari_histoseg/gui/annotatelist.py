"""The patches of a dataset as a list with thumbnails, which are made for the rows in sight."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, QPersistentModelIndex, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QImage, QKeyEvent, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QListView, QWidget

from napari_histoseg.gui.annotateload import THUMBNAIL_PX

if TYPE_CHECKING:
    from napari_histoseg.annotations.entries import Annotation
    from napari_histoseg.annotations.work import Changed
    from napari_histoseg.gui.annotatedesk import Desk

Index = QModelIndex | QPersistentModelIndex
NO_PARENT = QModelIndex()
KINDS = {"mask": "painted", "coarse": "coarse label", "blocks": "coarse blocks"}
SPLITS = {"train": "training", "val": "validation", "test": "test"}


class PatchModel(QAbstractListModel):
    """A row a patch, in the order of their making.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self._rows: list[Annotation] = []
        self._number: dict[str, int] = {}
        self._pictures: dict[str, QIcon] = {}
        self._stale: set[str] = set()
        blank = QPixmap(THUMBNAIL_PX, THUMBNAIL_PX)
        blank.fill(QColor("#808080"))
        self._blank = icon_of(blank)
        desk.dataset_changed.connect(self.reload)
        desk.changed.connect(self._on_change)
        desk.loader.thumbnail_made.connect(self._on_thumbnail)

    def row_of(self, number: str | None) -> int:
        """The row of a patch; -1 when it is not there."""
        return -1 if number is None else self._number.get(number, -1)

    def id_at(self, row: int) -> str:
        """The patch in a row."""
        return self._rows[row].id

    def reload(self) -> None:
        """Another dataset."""
        self.beginResetModel()
        self._pictures.clear()
        self._take(self._desk.patches())
        self.endResetModel()

    def _take(self, rows: list[Annotation]) -> None:
        self._rows = rows
        self._number = {patch.id: row for row, patch in enumerate(rows)}

    def _on_change(self, change: Changed) -> None:
        """Rows that stay are not laid out anew, so that list and selection keep their place."""
        fresh = self._desk.patches()
        ids, before = [patch.id for patch in fresh], [patch.id for patch in self._rows]
        # A class that changed its color or name may be in any picture.
        self._stale |= set(ids) if change.classes else set(change.ids)
        if ids == before:
            self._take(fresh)
            self._say_changed(ids if change.classes else change.ids)
        elif ids[: len(before)] == before:
            self.beginInsertRows(NO_PARENT, len(before), len(ids) - 1)
            self._take(fresh)
            self.endInsertRows()
        else:
            self.layoutAboutToBeChanged.emit()
            kept = self.persistentIndexList()
            numbers = [self._rows[index.row()].id for index in kept]
            self._take(fresh)
            for index, number in zip(kept, numbers, strict=True):
                row = self.row_of(number)
                self.changePersistentIndex(index, self.index(row) if row >= 0 else QModelIndex())
            self.layoutChanged.emit()

    def _say_changed(self, numbers: Iterable[str]) -> None:
        rows = sorted(self._number[number] for number in numbers if number in self._number)
        if rows:
            self.dataChanged.emit(self.index(rows[0]), self.index(rows[-1]))

    def _on_thumbnail(self, number: str, picture: Any) -> None:
        height, width = picture.shape[:2]
        image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self._pictures[number] = icon_of(QPixmap.fromImage(image))
        self._say_changed([number])

    # -- Qt's side ------------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        """Number of patches."""
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Picture and words of a row."""
        if not index.isValid():
            return None
        patch = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{patch.id}  {kind_of(patch)}\n{where_of(patch)}"
        if role == Qt.ItemDataRole.ToolTipRole:
            keys = "" if patch.kind == "mask" else "\n1–9 is its class; Shift with a number adds a further one, or takes it away."
            return f"{patch.patch.source}\nClick to go there; Del removes it.{keys}"
        if role == Qt.ItemDataRole.DecorationRole:
            return self._picture(patch.id)
        return None

    def _picture(self, number: str) -> QIcon:
        if number not in self._pictures or number in self._stale:
            self._stale.discard(number)
            self._desk.loader.ask(number)
        return self._pictures.get(number, self._blank)


def icon_of(picture: QPixmap) -> QIcon:
    """A picture that keeps its colors where its row is chosen or cannot be."""
    icon = QIcon()
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected, QIcon.Mode.Disabled):
        icon.addPixmap(picture, mode)
    return icon


def kind_of(patch: Annotation) -> str:
    """What was said about a patch, in a few words."""
    return " + ".join(patch.patch.labels) or KINDS.get(patch.kind, "no class yet")


def where_of(patch: Annotation) -> str:
    """Slide, group and split of a patch."""
    name = Path(patch.patch.source.replace("\\", "/")).name
    group = patch.patch.group
    parts = [name, group if group and group != Path(name).stem else "", SPLITS.get(patch.patch.split or "", "")]
    return " · ".join(part for part in parts if part)


class PatchView(QListView):
    """The list; letters and digits go to the window, whose shortcuts they are."""

    def __init__(self, model: PatchModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setModel(model)
        self.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.setSpacing(1)
        self.setUniformItemSizes(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(3 * (THUMBNAIL_PX + 8))

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Not to be searched by typing."""
        if event is not None and event.text().strip():
            event.ignore()
        else:
            super().keyPressEvent(event)
