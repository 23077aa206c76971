"""Pictures of a class's objects: typical ones, ones between classes, and outliers. Read from the slide on a thread as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtGui import QIcon, QImage, QKeyEvent, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.gui.annotatelist import icon_of
from napari_histoseg.gui.inspectordesk import Desk
from napari_histoseg.gui.jobs import Job, JobEvent, Plain, Said
from napari_histoseg.predict.events import Finished
from napari_histoseg.slide import Box

if TYPE_CHECKING:
    from napari_histoseg.results import Result
    from napari_histoseg.results.clusters import Clusters
    from napari_histoseg.slide import Slide

TYPICAL, BORDERLINE, OUTLIERS = "Typical", "Borderline", "Outliers"
TIPS = {
    TYPICAL: "The objects nearest to the middle of the class.",
    BORDERLINE: "The objects that could as well belong to another class, the least certain first.",
    OUTLIERS: "The objects farthest from the middle of the class.",
}
PICTURES = 60
PICTURE_PX = 64
FIELD_UM = 22.0
"""What a picture shows is so wide: a nucleus and what lies next to it."""
BATCH = 6
LINE = (255, 225, 77)
"""Outlines have the color of the outline in the slide."""

Picture = tuple[int, NDArray[np.uint8]]
"""Position of an object, and its picture (h, w, 3)."""


class Gallery(QWidget):
    """Pictures of the class that is looked at; a click chooses the object and flies there.

    Parameters
    ----------
    desk : Desk
    """

    def __init__(self, desk: Desk, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._desk = desk
        self._job: Job | None = None
        self._stale = True
        self.kinds = QTabBar()
        self.pictures = PictureList()
        self.words = QLabel()
        self.words.setWordWrap(True)
        self._lay_out()
        self.kinds.currentChanged.connect(self._renew)
        self.pictures.itemSelectionChanged.connect(self._on_selected)
        self.pictures.itemClicked.connect(self._on_clicked)
        self.pictures.itemActivated.connect(self._on_clicked)
        desk.opened.connect(self._renew)
        desk.value_changed.connect(self._renew)
        desk.objects_changed.connect(self._renew)
        desk.chosen_changed.connect(self._show_chosen)
        self._renew()

    def _lay_out(self) -> None:
        for name, tip in TIPS.items():
            self.kinds.setTabToolTip(self.kinds.addTab(name), tip)
        self.kinds.setExpanding(False)
        self.kinds.setDrawBase(False)
        self.kinds.setAccessibleName("Which pictures")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.setSpacing(4)
        layout.addWidget(self.kinds)
        layout.addWidget(self.words)
        layout.addWidget(self.pictures, 1)

    @property
    def kind(self) -> str:
        """Which pictures are shown."""
        return self.kinds.tabText(self.kinds.currentIndex())

    # -- reading ------------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Read nothing more."""
        if self._job is not None:
            self._job.cancel()
            self._job = None

    def showEvent(self, event: Any) -> None:
        """Pictures are read when somebody looks."""
        super().showEvent(event)
        if self._stale:
            self._renew()

    def _renew(self, _: Any = None) -> None:
        """Show the pictures of another class, or of the same when its objects changed; what was under way is given up."""
        self.release()
        with QSignalBlocker(self.pictures):
            self.pictures.clear()
        desk = self._desk
        self._say(self._why_not())
        self._stale = not self.isVisible()
        if self._stale or desk.clusters is None or desk.value is None or desk.slide is None or desk.result is None:
            return
        work = partial(pictures_of, desk.slide, desk.result, desk.clusters, ranking(self.kind, desk.value))
        job = Job("Pictures of objects", work)
        job.said.connect(self._take)
        job.failed.connect(self._on_failed)
        self._job = job
        job.start()

    def _why_not(self) -> str:
        desk = self._desk
        if desk.book is None:
            return "No result is open."
        if desk.clusters is None:
            return "A map of classes has no objects to show."
        if desk.slide is None:
            return "The slide of this result is not open, so there are no pictures. Open the slide."
        if desk.value is None:
            return "Click a class in the list to see its objects."
        return "" if (desk.values == desk.value).any() else "This class has no objects."

    def _say(self, words: str) -> None:
        self.words.setText(words)
        self.words.setVisible(bool(words))

    def _on_failed(self, sentence: str) -> None:
        if self.sender() is self._job:
            self._say(sentence)

    def _take(self, said: Any) -> None:
        """Pictures came; those of an earlier choice are thrown away."""
        if self.sender() is not self._job:
            return
        with QSignalBlocker(self.pictures):
            for position, pixels in said:
                self._add(position, pixels)

    def _add(self, position: int, pixels: NDArray[np.uint8]) -> None:
        clusters = self._desk.clusters
        assert clusters is not None
        item = QListWidgetItem(picture_icon(pixels), "")
        item.setData(Qt.ItemDataRole.UserRole, position)
        chance = float(clusters.probability[position])
        sure = "" if np.isnan(chance) else f", probability {chance:.2f}"
        item.setToolTip(f"Object {clusters.ids[position]}{sure}. Click to go there; Ctrl or Shift+click chooses several.")
        item.setData(Qt.ItemDataRole.AccessibleTextRole, f"object {clusters.ids[position]}{sure}")
        self.pictures.addItem(item)
        item.setSelected(position in self._desk.chosen)

    # -- choosing -----------------------------------------------------------------------------------------------------

    def positions(self) -> list[int]:
        """The objects whose pictures are there, in their order."""
        return [position_of(self.pictures.item(row)) for row in range(self.pictures.count())]

    def _on_selected(self) -> None:
        self._desk.choose([position_of(item) for item in self.pictures.selectedItems()])

    def _on_clicked(self, item: QListWidgetItem) -> None:
        self._desk.fly.emit(position_of(item))

    def _show_chosen(self) -> None:
        chosen = self._desk.chosen_mask()[self.positions()]
        with QSignalBlocker(self.pictures):
            for row, on in enumerate(chosen.tolist()):
                item = self.pictures.item(row)
                if item is not None and item.isSelected() != on:
                    item.setSelected(on)


class PictureList(QListWidget):
    """Pictures in rows that wrap; digits are left to the panel."""

    def __init__(self) -> None:
        super().__init__()
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setMovement(QListView.Movement.Static)
        self.setUniformItemSizes(True)
        self.setIconSize(QSize(PICTURE_PX, PICTURE_PX))
        self.setGridSize(QSize(PICTURE_PX + 6, PICTURE_PX + 6))
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        # napari's theme colors a selected item only faintly; a frame is seen around any picture.
        self.setStyleSheet("QListWidget::item:selected { border: 3px solid #ffe14d; } QListWidget::item { padding: 0px; }")
        self.setAccessibleName("Pictures of objects")
        self.setMinimumHeight(2 * PICTURE_PX + 20)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Enter flies to the picture in focus."""
        item = self.currentItem()
        if event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and item is not None:
            self.itemActivated.emit(item)
            return
        super().keyPressEvent(event)

    def keyboardSearch(self, search: str | None) -> None:
        """Not here: pictures have no text."""


def position_of(item: QListWidgetItem | None) -> int:
    """The object that a picture shows."""
    return -1 if item is None else int(item.data(Qt.ItemDataRole.UserRole))


def picture_icon(pixels: NDArray[np.uint8]) -> QIcon:
    """A picture (h, w, 3) as an icon that looks the same when it is selected."""
    data = pixels.tobytes()
    high, wide = pixels.shape[:2]
    image = QImage(data, wide, high, 3 * wide, QImage.Format.Format_RGB888)
    return icon_of(QPixmap.fromImage(image))


# -- on the thread --------------------------------------------------------------------------------------------------------

Ranking = Callable[["Clusters"], Any]


def ranking(kind: str, value: int) -> Ranking:
    """What gives the ids of the pictures, best first."""
    names = {TYPICAL: "typical", BORDERLINE: "borderline", OUTLIERS: "outliers"}
    return lambda clusters: getattr(clusters, names[kind])(value, PICTURES)


def pictures_of(slide: Slide, result: Result, clusters: Clusters, ranked: Ranking) -> Iterator[JobEvent]:
    """Pictures in small batches, as events of a job."""
    batch: list[Picture] = []
    for position in clusters.positions(ranked(clusters)).tolist():
        batch.append((position, picture_of(slide, result, clusters, position)))
        if len(batch) == BATCH:
            yield Said(batch)
            batch = []
    if batch:
        yield Said(batch)
    yield Finished(Plain(True), 0.0)  # type: ignore[arg-type]


def picture_of(slide: Slide, result: Result, clusters: Clusters, position: int, size: int = PICTURE_PX) -> NDArray[np.uint8]:
    """An object and what lies around it, ``(size, size, 3)``, with its outline."""
    from PIL import Image

    mpp = result.mpp or 1.0
    side = max(8, round(FIELD_UM / mpp))
    x, y = clusters.x_um[position] / mpp, clusters.y_um[position] / mpp
    box = Box(round(x - side / 2), round(y - side / 2), side, side)
    pixels = slide.read_at(mpp, box) if slide.mpp else slide.read(0, box)
    picture = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return with_outline(picture, object_mask(result, box, int(clusters.ids[position])))


def object_mask(result: Result, box: Box, number: int) -> NDArray[np.bool_]:
    """Where an object lies in a box of working pixels; parts outside the result are empty."""
    mask = np.zeros((box.height, box.width), bool)
    frame = result.frame
    inside = box.intersect(frame)
    stored = result.arrays().get("labels")
    if stored is not None and not inside.empty:
        window = np.asarray(stored[0][inside.relative_to(frame).slices])
        mask[inside.relative_to(box).slices] = window == number
    return mask


def with_outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A line of one pixel around a mask, which may be of other pixels than the picture."""
    from scipy import ndimage

    high, wide = picture.shape[:2]
    rows = (np.arange(high) * mask.shape[0]) // high
    columns = (np.arange(wide) * mask.shape[1]) // wide
    large = mask[rows[:, None], columns]
    line = ndimage.binary_dilation(large) & ~large
    out = picture.copy()
    out[line] = LINE
    return out
