"""Pictures of a class's objects, or patches: typical ones, ones between classes, outliers, and those that are chosen.

Read from the slide on a thread as they are needed.
"""

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
from napari_histoseg.gui.inspectordesk import OBJECT_UM, Desk
from napari_histoseg.gui.jobs import Job, JobEvent, Plain, Said
from napari_histoseg.predict.events import Finished
from napari_histoseg.slide import Box

if TYPE_CHECKING:
    from napari_histoseg.results import Result
    from napari_histoseg.results.clusters import Clusters
    from napari_histoseg.slide import Slide

TYPICAL, BORDERLINE, OUTLIERS, CHOSEN = "Typical", "Borderline", "Outliers", "Chosen"
TIPS = {
    TYPICAL: "The {} nearest to the middle of the class.",
    BORDERLINE: "The {} that could as well belong to another class, the least certain first.",
    OUTLIERS: "The {} farthest from the middle of the class.",
    CHOSEN: "The {} that are chosen, of whatever class.",
}
PICTURES = 60
PICTURE_PX, PATCH_PX = 64, 96
"""Side of the picture of an object and of a patch."""
BATCH = 6
LINE = (255, 225, 77)
"""Outlines have the color of the outline in the slide."""

Picture = tuple[int, NDArray[np.uint8]]
"""Position of an object, and its picture (h, w, 3)."""


class Gallery(QWidget):
    """Pictures of the class that is looked at; a click chooses the object and flies there. Those of what is chosen only fly.

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
        desk.opened.connect(self._on_opened)
        desk.value_changed.connect(self._on_value)
        desk.objects_changed.connect(self._renew)
        desk.chosen_changed.connect(self._show_chosen)
        desk.gathered.connect(self._on_gathered)
        self._on_opened()

    def _lay_out(self) -> None:
        for name in TIPS:
            self.kinds.addTab(name)
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

    def _on_opened(self) -> None:
        for tab, tip in enumerate(TIPS.values()):
            self.kinds.setTabToolTip(tab, tip.format(self._desk.nouns))
        self.pictures.show_size(PATCH_PX if self._desk.is_map else PICTURE_PX)
        self.pictures.setAccessibleName(f"Pictures of {self._desk.nouns}")
        self._renew()

    def _on_value(self) -> None:
        """Who looks at another class wants to see that, not what was chosen before."""
        if self.kind == CHOSEN:
            self._show(TYPICAL)
        else:
            self._renew()

    def _on_gathered(self) -> None:
        """Show the patches that were drawn around; objects stay where they are, to be given a class."""
        if self._desk.is_map and len(self._desk.chosen):
            self._show(CHOSEN)

    def _show(self, kind: str) -> None:
        self.kinds.setCurrentIndex(list(TIPS).index(kind))

    def _renew(self, _: Any = None) -> None:
        """Show the pictures of another class, or of the same when its objects changed; what was under way is given up."""
        self.release()
        with QSignalBlocker(self.pictures):
            self.pictures.clear()
        desk = self._desk
        why_not = self._why_not()
        self._say(why_not)
        self._stale = not self.isVisible()
        if self._stale or why_not or desk.clusters is None or desk.slide is None or desk.result is None:
            return
        draw = partial(patch_of, desk.slide, desk.clusters, desk.field_um) if desk.is_map else partial(picture_of, desk.slide, desk.result, desk.clusters)
        ranked = ranking(self.kind, desk.value or 0, desk.ids[desk.chosen])
        job = Job(f"Pictures of {desk.nouns}", partial(pictures_of, desk.clusters, ranked, draw))
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
        if self.kind == CHOSEN:
            return "" if len(desk.chosen) else f"Nothing is chosen. Draw around points of the map to choose {desk.nouns}."
        if desk.value is None:
            return f"Click a class in the list to see its {desk.nouns}."
        return "" if (desk.values == desk.value).any() else f"This class has no {desk.nouns}."

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
        name = f"{self._desk.noun} {clusters.ids[position]}{sure}"
        item.setToolTip(f"{name.capitalize()}. Click to go there; Ctrl or Shift+click chooses several.")
        item.setData(Qt.ItemDataRole.AccessibleTextRole, name)
        self.pictures.addItem(item)
        item.setSelected(self.kind != CHOSEN and position in self._desk.chosen)

    # -- choosing -----------------------------------------------------------------------------------------------------

    def positions(self) -> list[int]:
        """The objects whose pictures are there, in their order."""
        return [position_of(self.pictures.item(row)) for row in range(self.pictures.count())]

    def _on_selected(self) -> None:
        if self.kind == CHOSEN:
            # Choosing fewer would take away the pictures that are looked at.
            return
        self._desk.choose([position_of(item) for item in self.pictures.selectedItems()])

    def _on_clicked(self, item: QListWidgetItem) -> None:
        self._desk.fly.emit(position_of(item))

    def _show_chosen(self) -> None:
        if self.kind == CHOSEN:
            self._renew()
            return
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
        self.show_size(PICTURE_PX)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        # napari's theme colors a selected item only faintly; a frame is seen around any picture.
        self.setStyleSheet("QListWidget::item:selected { border: 3px solid #ffe14d; } QListWidget::item { padding: 0px; }")
        self.setMinimumHeight(2 * PICTURE_PX + 20)

    def show_size(self, side: int) -> None:
        """Make room for pictures of so many pixels a side."""
        self.setIconSize(QSize(side, side))
        self.setGridSize(QSize(side + 6, side + 6))

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
Draw = Callable[[int], NDArray[np.uint8]]
"""From the position of an object to its picture."""


def ranking(kind: str, value: int, chosen: NDArray[Any]) -> Ranking:
    """What gives the ids of the pictures, best first."""
    if kind == CHOSEN:
        return lambda clusters: chosen[:PICTURES]
    names = {TYPICAL: "typical", BORDERLINE: "borderline", OUTLIERS: "outliers"}
    return lambda clusters: getattr(clusters, names[kind])(value, PICTURES)


def pictures_of(clusters: Clusters, ranked: Ranking, draw: Draw) -> Iterator[JobEvent]:
    """Pictures in small batches, as events of a job."""
    batch: list[Picture] = []
    for position in clusters.positions(ranked(clusters)).tolist():
        batch.append((position, draw(position)))
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
    side = max(8, round(OBJECT_UM / mpp))
    x, y = clusters.x_um[position] / mpp, clusters.y_um[position] / mpp
    box = Box(round(x - side / 2), round(y - side / 2), side, side)
    pixels = slide.read_at(mpp, box) if slide.mpp else slide.read(0, box)
    picture = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return with_outline(picture, object_mask(result, box, int(clusters.ids[position])))


def patch_of(slide: Slide, clusters: Clusters, field_um: float, position: int, size: int = PATCH_PX) -> NDArray[np.uint8]:
    """What lies around a patch, ``field_um`` wide, ``(size, size, 3)``."""
    from PIL import Image

    mpp = field_um / size if slide.mpp else 1.0
    side = size if slide.mpp else round(field_um)
    box = Box(round(clusters.x_um[position] / mpp - side / 2), round(clusters.y_um[position] / mpp - side / 2), side, side)
    pixels = slide.read_at(mpp, box) if slide.mpp else slide.read(0, box)
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


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
