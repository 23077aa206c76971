"""The dock "Label super-resolution": label blocks, say what they hold, train, and map a slide with sharp outlines."""

from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QLabel, QWidget

from napari_histoseg.gui.annotate import ANNOTATE, CLASSES, DATASET, PATCHES, AnnotationPanel
from napari_histoseg.gui.lsrblocks import BlocksPanel
from napari_histoseg.gui.lsrcalibrate import TablePanel
from napari_histoseg.gui.lsrpaint import GridDesk
from napari_histoseg.gui.lsrplot import SharePlot, shares_of
from napari_histoseg.gui.models import choice_of
from napari_histoseg.gui.paneldock import PanelDock
from napari_histoseg.gui.parts import group
from napari_histoseg.gui.training import Scored
from napari_histoseg.gui.trainpanel import TrainPanel
from napari_histoseg.methods.lsr.config import LsrSettings, LsrTraining

BLOCKS, TABLE, TRAIN, APPLY = "Blocks", "Table", "Train", "Apply"
PLOT_TIP = "Bands are the stated shares ± SD, dots the shares in the map, of held-out blocks. Without any painted block you can check that dots lie on their bands."


class LsrDock(PanelDock):
    """Label blocks of a slide, state what blocks of each label hold, train a network on that, and map a slide with it.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "lsr"
    SETTINGS = LsrSettings
    BASIC = ("glass_um",)

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [])
        self._on_dataset()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        super()._make_parts()
        self.panel = AnnotationPanel(self.viewer, self.header, parts=(DATASET, CLASSES))
        # The same dataset again, for the page where blocks are painted exactly.
        self.painting = AnnotationPanel(self.viewer, self.header, parts=(ANNOTATE, PATCHES))
        self.grids = GridDesk(self.panel.desk, self)
        self.blocks = BlocksPanel(self.grids, self.header)
        self.table = TablePanel(self.grids, self.panel.tools)
        self.training = TrainPanel(
            self.METHOD, "label super-resolution", LsrTraining, None, basic=("level", "matching", "steps"), hidden=("start", "encoder_file", "crop_px")
        )
        self.plot = SharePlot()
        self.plot_note = QLabel(PLOT_TIP)
        self.plot_note.setWordWrap(True)
        self.plot_group = group("Shares in the map", self.plot, self.plot_note)

    def _lay_out(self) -> None:
        pages: list[tuple[str, str, list[QWidget]]] = [
            (BLOCKS, "Say how much of a class each block holds, or take that from a heatmap.", [self.panel, group("Blocks", self.blocks)]),
            (TABLE, "What blocks of each label hold, in percent.", [group("Shares of a block, in percent", self.table), self.painting]),
            (TRAIN, "Learn outlines whose shares agree with the table.", [self.training, self.plot_group]),
            (APPLY, "Map the view, a region or the slide.", [*self.run_parts(), self.areas, *self.result_parts()]),
        ]
        self.show_tabs(self.tabs, pages, 400)

    def _connect(self) -> None:
        super()._connect()
        self.training.started.connect(lambda: self._show_shares([]))
        # Maps are looked at without blocks over them.
        self.tabs.currentChanged.connect(lambda index: self.grids.layers.see(index in (0, 1)))

    # -- the dataset and its models -------------------------------------------------------------------------------------

    def _names(self) -> dict[int, str]:
        return {each.value: each.name for each in self.grids.classes}

    def _on_model(self) -> None:
        super()._on_model()
        card = self.models.choice.card if self.models.any else None
        if self.training.current is None:
            self._show_shares([] if card is None else shares_of(card, self._names()))

    def _show_shares(self, shares: list[Any]) -> None:
        self.plot.show_shares(shares)
        self.plot_group.setVisible(bool(shares))

    def _before_training(self) -> None:
        super()._before_training()
        self.grids.settle()
        source = self.training.form.editor("table").currentText()  # type: ignore[attr-defined]
        if source in ("auto", "dataset"):
            self.table.table.require()

    # -- while it learns ------------------------------------------------------------------------------------------------

    def _on_scored(self, scored: Scored) -> None:
        super()._on_scored(scored)
        # The file says which table was learned from: a stated one, or one that was measured.
        choice = choice_of(scored.weights)
        if choice is not None and choice.card is not None:
            self._show_shares(shares_of(choice.card, self._names(), scored.scores))

    def _on_trained(self, weights: Path) -> None:
        super()._on_trained(weights)
        self._on_model()
