"""The table of shares with its presets, and measuring it in blocks that are painted exactly."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_histoseg.annotations.coarse import amount_classes, amount_statistics
from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.annotate import PROBLEM_STYLE
from napari_histoseg.gui.annotatetools import PAINT
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.lsrpainted import Shares, class_values, inside, next_block, shares_in, table_of
from napari_histoseg.gui.lsrtable import ShareTable, table_problems
from napari_histoseg.gui.parts import button
from napari_histoseg.gui.qt import Signal
from napari_histoseg.methods.lsr.table import ASKED, FEWEST, contradictions, paper_table, stated

if TYPE_CHECKING:
    from napari_histoseg.gui.annotatetools import Tools
    from napari_histoseg.gui.jobs import Job
    from napari_histoseg.gui.lsrpaint import GridDesk

LOOK_MS = 300
"""After a change, before painted blocks are measured anew."""
GOOD_STYLE = "color: #6fbf73;"
ABOUT = f"Paint {ASKED} blocks of each label exactly, and the table is measured instead of guessed. “Paint next block” picks them."


class TablePanel(QWidget):
    """States shares by typing, by a preset or by measuring, and says what is wrong with them.

    Parameters
    ----------
    grids : GridDesk
    tools : Tools
        Those that blocks are painted with.
    """

    measured = Signal()
    """What the painted blocks hold is known anew."""

    def __init__(self, grids: GridDesk, tools: Tools, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._grids, self._desk, self._tools = grids, grids.desk, tools
        self.shares: Shares = {}
        """Of the painted blocks, by coarse label."""
        self.current: Job | None = None
        self._again = False
        self.table = ShareTable(self._desk)
        self.problems = QLabel()
        self.problems.setWordWrap(True)
        self.of_class = QComboBox()
        self.of_class.setToolTip("The class whose amount the coarse labels say.")
        self.of_label = QLabel("of")
        do = self._desk.try_
        self.amounts_button = button("Usual shares", "What 'none', 'a little', 'about half', 'mostly' and 'all' usually mean, to begin with.", partial(do, self.take_amounts))
        self.paper_button = button("Paper's table", "Table 1 of Zhao et al. 2020: for ten bins of a tumour's probability, and one class.", partial(do, self.take_paper))
        self.about = QLabel(ABOUT)
        self.about.setWordWrap(True)
        self.next_button = button(
            "Paint next block", "Place a segmentation patch on a block of the label that has fewest painted ones, and go there.", partial(do, self.paint_next)
        )
        self.measure_button = button("Calibrate", f"Measure the table in the painted blocks; each label takes {FEWEST} or more.", partial(do, self.calibrate))
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(LOOK_MS)
        self._later.timeout.connect(self._look)
        self._lay_out()
        self.table.edited.connect(self.show_state)
        grids.changed.connect(self._on_change)
        self._desk.changed.connect(self._on_change)
        self._desk.dataset_changed.connect(self._on_dataset)
        self._desk.slide_changed.connect(self.show_state)
        self._on_dataset()

    def _lay_out(self) -> None:
        presets, calibrate = QHBoxLayout(), QHBoxLayout()
        for each in (self.amounts_button, self.of_label, self.of_class, self.paper_button):
            presets.addWidget(each)
        for each in (self.next_button, self.measure_button):
            calibrate.addWidget(each)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.table)
        layout.addWidget(self.problems)
        layout.addLayout(presets)
        layout.addWidget(self.about)
        layout.addLayout(calibrate)

    # -- following --------------------------------------------------------------------------------------------------------

    def _on_dataset(self) -> None:
        self.shares, self.table.wrong = {}, {}
        self._later.start()
        self.show_state()

    def _on_change(self, change: Any = None) -> None:
        self._later.start()
        self.show_state()

    def _look(self) -> None:
        """Measure the painted blocks on a thread."""
        session = self._desk.session
        if session is None:
            return
        if self.current is not None:
            self._again = True
            return
        dataset = session.dataset

        def done(shares: Shares) -> None:
            if self._desk.session is session:
                self.shares = shares
                self.show_state()
                self.measured.emit()

        self.current = in_background("Measuring painted blocks", lambda: shares_in(dataset), done, self._desk.problem.emit, self)
        self.current.ended.connect(self._on_ended)

    def _on_ended(self) -> None:
        self.current = None
        if self._again:
            self._again = False
            self._later.start()

    def show_state(self) -> None:
        """Show table and problems, and enable what can be done now."""
        session = self._desk.session
        painted = {label: len(rows) for label, rows in self.shares.items()}
        self.table.show_table(self._grids.totals, painted)
        self._show_classes()
        named = () if session is None else session.dataset.coarse_classes
        self.amounts_button.setEnabled(session is not None and bool(self._class_list()) and (not named or set(amount_classes()) <= set(named)))
        self.paper_button.setEnabled(session is not None)
        self.next_button.setEnabled(self._grids.current is not None)
        self.measure_button.setEnabled(any(len(rows) >= FEWEST for rows in self.shares.values()))
        problems = self.all_problems()
        good = session is not None and bool(self._grids.totals) and not problems
        self.problems.setText("The table can be used." if good else "\n".join(problems))
        self.problems.setStyleSheet(GOOD_STYLE if good else PROBLEM_STYLE)
        self.problems.setVisible(bool(self.problems.text()))

    def _class_list(self) -> list[tuple[int, str]]:
        session = self._desk.session
        return [] if session is None else [(c.value, c.name) for c in session.classes if c.value]

    def _show_classes(self) -> None:
        listed = self._class_list()
        if [self.of_class.itemText(i) for i in range(self.of_class.count())] != [name for _, name in listed]:
            before = self.of_class.currentData()
            self.of_class.clear()
            for value, name in listed:
                self.of_class.addItem(name, value)
            self.of_class.setCurrentIndex(max(self.of_class.findData(before), 0))
        for each in (self.of_label, self.of_class):
            each.setVisible(len(listed) > 1)

    def all_problems(self) -> list[str]:
        """What is wrong with the table: what was typed, sums, labels without shares, and painted blocks that say otherwise."""
        session = self._desk.session
        if session is None:
            return []
        problems = self.table.problems
        labels = self._grids.totals
        unfit = table_problems(session.dataset, labels)
        return [*problems, *unfit, *([] if unfit or not labels else self._contradictions())]

    def _contradictions(self) -> list[str]:
        dataset = self._desk.require().dataset
        table = stated(dataset, sorted(self._grids.totals))
        values = class_values(dataset)
        columns = [values.index(value) for value in table.values if value in values]
        if len(columns) < len(table.values):
            return []
        shares = {label: rows[:, columns] for label, rows in self.shares.items() if rows.shape[1] == len(values)}
        names = {c.value: c.name for c in dataset.classes} | {0: "background"}
        coarse = {label: str(label) for label in table.coarse} | {c.value: c.name for c in dataset.coarse_classes}
        return contradictions(table, shares, names, coarse)

    # -- presets ----------------------------------------------------------------------------------------------------------

    def take_amounts(self) -> None:
        """State what the five amounts usually mean."""
        value = self.of_class.currentData()
        if value is None:
            raise DatasetError("There is no class yet. Add one under Blocks ▸ Classes.")
        self.table.wrong.clear()
        self._desk.require().blocks.state(amount_statistics(int(value)), "usual shares stated")

    def take_paper(self) -> None:
        """State the paper's Table 1."""
        session = self._desk.require()
        table = paper_table(class_values(session.dataset))
        self.table.wrong.clear()
        session.blocks.state(table.statistics(), "the paper's shares stated")

    # -- painted blocks -----------------------------------------------------------------------------------------------------

    def calibrate(self) -> None:
        """State what the painted blocks hold, for the labels that have enough of them."""
        session = self._desk.require()
        table = table_of(self.shares, session.dataset)
        kept = [row for row in session.dataset.statistics if row.coarse not in table.coarse]
        self.table.wrong.clear()
        session.blocks.state([*kept, *table.statistics()], "shares measured in painted blocks")
        names = {c.value: c.name for c in session.dataset.coarse_classes}
        counts = ", ".join(f"{len(self.shares[label])} of '{names.get(label, label)}'" for label in table.coarse)
        rest = [names.get(label, str(label)) for label in sorted(self._grids.totals) if label not in table.coarse]
        more = f" The shares of {', '.join(rest)} stay as they were." if rest else ""
        self._desk.said.emit(f"Measured in painted blocks: {counts}.{more}")

    def paint_next(self) -> None:
        """Place a segmentation patch on a block of the label that has fewest painted ones, and go there to paint it."""
        grids, desk = self._grids, self._desk
        session, slide = desk.require(), desk.require_slide()
        labels, grid = grids.labels(), grids.grid
        if labels is None or grid is None:
            raise DatasetError("There is no grid on this slide. Lay one under Blocks, and label blocks in it.")
        grids.settle()
        taken = {place for patch in desk.here() if patch.kind == "mask" and patch.box is not None for place in inside(grid, patch.box)}
        begun = next((p for p in desk.here() if p.kind == "mask" and p.box is not None and self._unfinished(p.id) and inside(grid, p.box)), None)
        if begun is not None:
            desk.go_to(begun.id)
            self._tools.choose(PAINT)
            desk.said.emit(f"{begun.id} is not painted wholly yet. Paint it; B calls the rest background.")
            return
        painted = {label: len(rows) for label, rows in self.shares.items()}
        place = next_block(labels, sorted(taken), painted)
        if place is None:
            what = "has a label" if (labels == UNLABELED).all() else "is left to paint"
            raise DatasetError(f"No block of this grid {what}. Label blocks under Blocks, or go to another slide.")
        patch = session.add_mask_patch(slide, grid.block(*place), group=desk.group_here())
        desk.choose(patch.id)
        desk.fly_to(patch.id)
        self._tools.choose(PAINT)
        names = {c.value: c.name for c in grids.classes}
        label = int(labels[place])
        count = painted.get(label, 0) + 1
        desk.said.emit(f"Block {count} of {ASKED} with “{names.get(label, label)}”. Paint the classes; B calls the rest background.")

    def _unfinished(self, number: str) -> bool:
        return bool((np.asarray(self._desk.mask_of(number)) == UNLABELED).mean() > 0.1)
