"""Where coarse labels come from, and the labels to paint with."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.coarse import AMOUNTS, amount_classes, amount_statistics
from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.annotatekeys import REDO, UNDO
from napari_histoseg.gui.annotatelist import icon_of
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.lsrkeys import GridKeys
from napari_histoseg.gui.lsrpaint import GridDesk, glass_blocks
from napari_histoseg.gui.lsrsource import HeatSource
from napari_histoseg.gui.parts import button, swatch
from napari_histoseg.gui.where import view_box
from napari_histoseg.slide import Box, tissue_mask

if TYPE_CHECKING:
    from napari_histoseg.annotations.dataset import PatchClass
    from napari_histoseg.gui.header import SlideHeader
    from napari_histoseg.slide import Slide, TissueMask

PAINT, HEAT, PATCHES = "Painting", "A heatmap, an image or a table", "Classified patches"
SOURCES = {
    PAINT: "You say how much of a class each block of a grid holds, by dragging over them.",
    HEAT: "Blocks are put into bins of a probability that is known already.",
    PATCHES: "Patches of this dataset that have one class: each becomes a block with that coarse label.",
}
SLIDE, VIEW, TISSUE = "the whole slide", "the current view", "the tissue"
BLOCK_UM = 100.0
NONE_VALUE = AMOUNTS[0].value
KEY, NAME, HERE, ALL = range(4)
COLUMNS = {"Key": "Press it to paint with this label.", "Blocks with": "", "Here": "Blocks of the grid on this slide.", "All": "Blocks of the dataset."}
ROW_PX, MOST_ROWS = 22, 11
HINT = "Drag over blocks to label them. 0 or Del erases, Esc puts the brush down; [ and ] change its size. Each stroke is saved."


class BlocksPanel(QWidget):
    """Lays grids, fills them from other sources, and has the labels to paint with.

    Parameters
    ----------
    grids : GridDesk
    header : SlideHeader
        Which slide, and its tissue.
    """

    def __init__(self, grids: GridDesk, header: SlideHeader, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grids, self._desk, self._header = grids, grids.desk, header
        self.keys = GridKeys(grids)
        self.source = QComboBox()
        for name, tip in SOURCES.items():
            self.source.addItem(name)
            self.source.setItemData(self.source.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.source.setToolTip("Where the coarse labels of blocks come from. Several sources may be mixed.")
        self.block_um = QDoubleSpinBox()
        self.block_um.setRange(2, 20_000)
        self.block_um.setDecimals(1)
        self.block_um.setSingleStep(10)
        self.block_um.setValue(BLOCK_UM)
        self.block_um.setSuffix(" µm")
        self.block_um.setKeyboardTracking(False)
        self.block_um.setToolTip("Side of a block. Large enough to be told apart at a glance, small enough to hold one kind of tissue and its edge.")
        self.heat = HeatSource(grids, self.block_um.value)
        self._make_painting()
        self._make_palette()
        self._lay_out()
        self.source.currentIndexChanged.connect(lambda _: self._show_page())
        self.shown.activated.connect(lambda _: self._desk.do(lambda: grids.open(self.shown.currentData())))
        self.palette_table.cellClicked.connect(lambda row, _: self._desk.do(lambda: grids.take(self._values[row])))
        for signal in (grids.changed, grids.tool_changed, self._desk.slide_changed, self._desk.dataset_changed, self._desk.busy_changed):
            signal.connect(self.show_state)
        self._show_page()
        self.show_state()

    # -- looks ------------------------------------------------------------------------------------------------------------

    def _make_painting(self) -> None:
        self.area = QComboBox()
        self.area.addItems([SLIDE, VIEW, TISSUE])
        self.area.setToolTip("Where the grid lies. Of the tissue: its bounding box.")
        self.glass = QCheckBox(f"Blocks of glass hold “{AMOUNTS[0].name}”")
        self.glass.setToolTip("Label blocks with next to no tissue at once. Otherwise they stay unlabeled, and nothing is learned from them.")
        self.lay_button = button("Lay grid", "Lay a grid of blocks over the slide, to be painted in.", partial(self._desk.try_, self.lay))
        self.adopt_button = button("Use their classes", "The class of each patch becomes its coarse label; undo takes it back.", partial(self._desk.try_, self.adopt))

    def _make_palette(self) -> None:
        self.shown = QComboBox()
        self.shown.setToolTip("The grid that is shown and painted in.")
        self.palette_table = QTableWidget(0, len(COLUMNS))
        self.palette_table.setAccessibleName("Coarse labels")
        self.palette_table.setHorizontalHeaderLabels(list(COLUMNS))
        for column, tip in enumerate(COLUMNS.values()):
            item = self.palette_table.horizontalHeaderItem(column)
            assert item is not None
            item.setToolTip(tip)
        head, rows = self.palette_table.horizontalHeader(), self.palette_table.verticalHeader()
        assert head is not None and rows is not None
        for column in (KEY, HERE, ALL):
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        rows.hide()
        rows.setDefaultSectionSize(ROW_PX)
        self.palette_table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.palette_table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.palette_table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.palette_table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._values: list[int | None] = []
        self.undo_button = button("Undo", UNDO, partial(self._desk.try_, self._grids.undo))
        self.redo_button = button("Redo", REDO, partial(self._desk.try_, self._grids.redo))
        self.hint = QLabel(HINT)
        self.hint.setWordWrap(True)

    def _lay_out(self) -> None:
        self.pages = dict(zip(SOURCES, (self._painting_page(), self.heat, self._patches_page()), strict=True))
        top = QFormLayout()
        top.setContentsMargins(0, 0, 0, 0)
        top.setVerticalSpacing(4)
        top.addRow("Labels from", self.source)
        self._size_label = QLabel("Blocks of")
        top.addRow(self._size_label, self.block_um)
        row = QHBoxLayout()
        row.addWidget(self.undo_button)
        row.addWidget(self.redo_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(top)
        for part in (*self.pages.values(), self.shown, self.palette_table, self.hint):
            layout.addWidget(part)
        layout.addLayout(row)

    def _painting_page(self) -> QWidget:
        page = QWidget()
        form = QFormLayout(page)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        form.addRow("Grid over", self.area)
        form.addRow(self.glass)
        form.addRow(self.lay_button)
        return page

    def _patches_page(self) -> QWidget:
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        note = QLabel("Patches with one class, given under Table ▸ Annotate or imported, become blocks.")
        note.setWordWrap(True)
        layout.addWidget(note)
        layout.addWidget(self.adopt_button)
        return page

    def _show_page(self) -> None:
        """What the chosen source asks for."""
        source = self.source.currentText()
        for name, page in self.pages.items():
            page.setVisible(name == source)
        for each in (self._size_label, self.block_um):
            each.setVisible(source != PATCHES)

    def show_state(self, event: Any = None) -> None:
        """Show grid, labels and counts, and enable what can be done now."""
        desk, grids = self._desk, self._grids
        open_ = desk.session is not None and not desk.busy
        self.lay_button.setEnabled(open_ and desk.slide is not None)
        self.adopt_button.setEnabled(open_ and any(len(patch.patch.labels) == 1 for patch in desk.patches()))
        self.undo_button.setEnabled(open_ and desk.session is not None and desk.session.can_undo is not None)
        self.redo_button.setEnabled(open_ and desk.session is not None and desk.session.can_redo is not None)
        self.hint.setVisible(grids.current is not None)
        self._show_grids()
        self._show_palette()

    def _show_grids(self) -> None:
        grids = self._grids.grids()
        with QSignalBlocker(self.shown):
            self.shown.clear()
            for patch in grids:
                assert patch.box is not None
                self.shown.addItem(f"{patch.id}: {patch.box.width * (patch.patch.slide_mpp or 1):,.0f} µm wide", patch.id)
            self.shown.setCurrentIndex(self.shown.findData(self._grids.current))
        self.shown.setVisible(len(grids) > 1)

    def _show_palette(self) -> None:
        classes, here, everywhere = self._grids.classes, self._grids.counts, self._grids.totals
        self._values = [*(each.value for each in classes), None]
        table = self.palette_table
        table.setVisible(bool(classes))
        if not classes:
            return
        with QSignalBlocker(table):
            table.setRowCount(len(self._values))
            for row, each in enumerate(classes):
                self._row(row, str(row + 1) if row < 9 else "", each.name, each.color, here.get(each.value, 0), everywhere.get(each.value, 0))
            grid = self._grids.grid
            rest = 0 if grid is None else grid.rows * grid.columns - sum(here.values())
            self._row(len(classes), "0", "no label (erase)", None, rest, None)
            self._select()
        head = table.horizontalHeader()
        assert head is not None
        table.setFixedHeight(min(len(self._values), MOST_ROWS) * ROW_PX + head.sizeHint().height() + 4)

    def _row(self, row: int, key: str, name: str, color: str | None, here: int, everywhere: int | None) -> None:
        texts = (key, name, f"{here:,}" if here else "", f"{everywhere:,}" if everywhere else "")
        for column, text in enumerate(texts):
            item = self.palette_table.item(row, column)
            if item is None:
                item = QTableWidgetItem()
                self.palette_table.setItem(row, column, item)
            item.setText(text)
            item.setToolTip(f"Paint blocks with this label{f' (key {key})' if key else ''}." if color else "Take labels away (key 0 or Del).")
            if column in (HERE, ALL):
                item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
            if column == NAME:
                item.setIcon(icon_of(swatch(color)))

    def _select(self) -> None:
        layers = self._grids.layers
        if layers.painting and layers.value in self._values:
            self.palette_table.selectRow(self._values.index(layers.value))
        else:
            self.palette_table.clearSelection()

    def showEvent(self, event: QShowEvent | None) -> None:
        """The keys work from now on."""
        super().showEvent(event)
        self.keys.make(self)
        self.heat.list_layers()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """The keys belong to others again."""
        super().hideEvent(event)
        self.keys.release()
        self._grids.leave()

    # -- grids ------------------------------------------------------------------------------------------------------------

    def lay(self) -> None:
        """Lay a grid over the slide, where it is wanted; the tissue is looked for first where it is needed."""
        slide = self._desk.require_slide()
        self._desk.require()
        BlockGrid.over(slide, self.block_um.value())
        if not self.glass.isChecked() and self.area.currentText() != TISSUE:
            self._lay(slide, None)
            return
        known = self._header.tissue_mask()
        if known is not None:
            self._lay(slide, known)
            return
        session = self._desk.session

        def done(mask: TissueMask) -> None:
            if self._desk.session is session and self._desk.slide is slide:
                self._desk.do(lambda: self._lay(slide, mask))

        self._desk.said.emit("Looking for the tissue…")
        in_background(f"Finding the tissue of {slide.name}", lambda: tissue_mask(slide), done, self._desk.problem.emit, self)

    def _lay(self, slide: Slide, tissue: TissueMask | None) -> None:
        grid = BlockGrid.over(slide, self.block_um.value(), self._area(slide, tissue))
        labels = grid.blank
        names: tuple[PatchClass, ...] = self._grids.classes if self._grids.totals else amount_classes()
        if tissue is not None and self.glass.isChecked():
            if all(each.value != NONE_VALUE or each.name != AMOUNTS[0].name for each in names):
                raise DatasetError(f"The dataset has no coarse label '{AMOUNTS[0].name}' for glass. Leave blocks of glass unlabeled.")
            labels[glass_blocks(grid, tissue)] = NONE_VALUE
        now = self._grids.grid
        if now == grid and self._grids.current is not None:
            raise DatasetError(f"This grid is there already, as {self._grids.current}. Paint in it, or choose another size of blocks.")
        if names == amount_classes():
            self._state_amounts()
        replaced = self._grids.lay(grid, labels, names, f"grid of {grid.rows} × {grid.columns} blocks laid")
        self._desk.do(lambda: self._grids.take(names[min(1, len(names) - 1)].value))
        glass = int((labels != UNLABELED).sum())
        said = [f"{grid.rows * grid.columns:,} blocks of {grid.side_px * slide.require_mpp():.0f} µm."]
        said += [f"{glass:,} of glass hold “{AMOUNTS[0].name}”."] if glass else []
        said += [f"They replaced {', '.join(replaced)}; {UNDO} brings that back."] if replaced else []
        self._desk.said.emit(" ".join([*said, "Press 1–5 and drag."]))

    def _area(self, slide: Slide, tissue: TissueMask | None) -> Box | None:
        where = self.area.currentText()
        if where == SLIDE:
            return None
        if where == VIEW:
            assert self._desk.layer is not None
            return view_box(self._desk.viewer, self._desk.layer, slide)
        assert tissue is not None
        rows, columns = (np.flatnonzero(tissue.mask.any(axis)) for axis in (1, 0))
        if not len(rows):
            raise DatasetError(f"No tissue was found on {slide.name}. Lay the grid over the whole slide, or paint the tissue above.")
        side, down = max(1, round(self.block_um.value() / slide.require_mpp())), tissue.downsample
        left, width = whole_blocks(columns[0] * down, (columns[-1] + 1) * down, side, slide.width)
        top, height = whole_blocks(rows[0] * down, (rows[-1] + 1) * down, side, slide.height)
        return Box(left, top, width, height)

    def _state_amounts(self) -> None:
        """A table to begin with, where none is stated."""
        session = self._desk.require()
        values = [each.value for each in session.classes if each.value]
        if not session.dataset.statistics and values:
            session.blocks.state(amount_statistics(values[0]), "usual shares stated")

    def adopt(self) -> None:
        """Make the classes of classification patches their coarse labels."""
        count = self._desk.require().blocks.adopt_labels()
        self._desk.said.emit(f"{count} patch{'' if count == 1 else 'es'} became blocks. {UNDO} takes it back. State what they hold under Table.")


def whole_blocks(first: float, last: float, side: int, size: int) -> tuple[int, int]:
    """Start and length of as many whole blocks as cover a stretch, inside a slide of this size, level-0 pixels."""
    length = min(math.ceil((last - first) / side) * side, size)
    start = min(max(round((first + last - length) / 2), 0), size - length)
    return start, length
