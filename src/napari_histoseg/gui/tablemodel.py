"""An object table as a Qt model: only the cells in sight are formatted, so 100,000 rows stay fluid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt

Index = QModelIndex | QPersistentModelIndex
NO_PARENT = QModelIndex()

TITLES = {
    "id": "Id",
    "class": "Class",
    "probability": "Probability",
    "area_um2": "Area µm²",
    "perimeter_um": "Perimeter µm",
    "major_axis_um": "Major axis µm",
    "minor_axis_um": "Minor axis µm",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    "orientation_deg": "Orientation °",
    "hematoxylin_od_mean": "Hematoxylin OD",
    "hematoxylin_od_sd": "Hematoxylin SD",
    "eosin_od_mean": "Eosin OD",
    "eosin_od_sd": "Eosin SD",
    "centroid_x_um": "x µm",
    "centroid_y_um": "y µm",
}


class TableModel(QAbstractTableModel):
    """Rows of a DataFrame with a column ``id``, in an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = pd.DataFrame({"id": []})
        self._columns: list[NDArray[Any]] = []
        self._names: list[str] = []
        self._order = np.empty(0, np.int64)
        self._place = np.empty(0, np.int64)
        self._sorted: tuple[int, Qt.SortOrder] = (0, Qt.SortOrder.AscendingOrder)

    def set_frame(self, frame: pd.DataFrame) -> None:
        """Show another table, sorted as before."""
        self.beginResetModel()
        self.frame = frame
        known = [name for name in TITLES if name in frame.columns and _says_something(frame[name])]
        self._names = known + [str(name) for name in frame.columns if name not in TITLES]
        self._columns = [frame[name].to_numpy() for name in self._names]
        self._reorder()
        self.endResetModel()

    def _reorder(self) -> None:
        column, direction = self._sorted
        rows = len(self.frame)
        order = np.arange(rows)
        if column < len(self._columns):
            values = self._columns[column]
            order = np.argsort(values.astype(str) if values.dtype == object else values, kind="stable")
        self._order = order if direction == Qt.SortOrder.AscendingOrder else order[::-1]
        self._place = np.empty(rows, np.int64)
        self._place[self._order] = np.arange(rows)

    def id_at(self, row: int) -> int:
        """The object in a row."""
        return int(self.frame["id"].iloc[int(self._order[row])])

    def row_of(self, number: int) -> int:
        """The row of an object; -1 when it is not there."""
        found = np.flatnonzero(self.frame["id"].to_numpy() == number)
        return int(self._place[found[0]]) if len(found) else -1

    def object_at(self, row: int) -> pd.Series[Any]:
        """The measurements in a row."""
        return self.frame.iloc[int(self._order[row])]

    # -- Qt's side ------------------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = NO_PARENT) -> int:
        """Number of objects."""
        return 0 if parent.isValid() else len(self.frame)

    def columnCount(self, parent: Index = NO_PARENT) -> int:
        """Number of measurements."""
        return 0 if parent.isValid() else len(self._names)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text of a cell."""
        if not index.isValid():
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return text_of(self._columns[index.column()][self._order[index.row()]])
        if role == Qt.ItemDataRole.TextAlignmentRole and self._columns[index.column()].dtype != object:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Titles with units; row numbers."""
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if orientation == Qt.Orientation.Vertical:
            return str(section + 1)
        name = self._names[section]
        return TITLES.get(name, name.replace("_um", " µm").replace("_", " ").capitalize())

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; equal values keep their order."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        ids = [self.id_at(index.row()) for index in before]
        self._sorted = (column, order)
        self._reorder()
        for index, number in zip(before, ids, strict=True):
            self.changePersistentIndex(index, self.index(self.row_of(number), index.column()))
        self.layoutChanged.emit()


def _says_something(column: pd.Series[Any]) -> bool:
    """Whether a column of text has any text; numbers always say something."""
    return column.dtype != object or bool(column.notna().any() and (column.dropna() != "").any())


def text_of(value: Any) -> str:
    """A cell's text: four significant digits for measurements."""
    if not isinstance(value, (float, np.floating)):
        return "" if value is None else str(value)
    number = float(value)
    if not np.isfinite(number):
        return ""
    return f"{number:.1f}" if abs(number) >= 100 else f"{number:.4g}"
