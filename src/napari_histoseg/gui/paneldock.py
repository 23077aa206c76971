"""What docks have in common that learn from the dataset of the annotation panel, and map classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QLabel, QTabWidget

from napari_histoseg.gui.annotate import AnnotationPanel
from napari_histoseg.gui.annotatelayers import warm_colors
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.models import choice_of
from napari_histoseg.gui.rundock import RunDock
from napari_histoseg.gui.trainpanel import TrainPanel, models_in

if TYPE_CHECKING:
    from napari_histoseg.gui.training import Scored
    from napari_histoseg.results import Result


class PanelDock(RunDock):
    """Base of docks with an annotation panel, a training on its dataset, and maps of classes.

    A subclass makes ``panel`` and ``training`` in `_make_parts`.
    """

    NOUN = "classes"
    PREVIEW_UM = 2048.0

    panel: AnnotationPanel
    training: TrainPanel

    def _make_parts(self) -> None:
        # Of masks that are painted, and of maps.
        warm_colors(np.uint8, np.uint32)
        self.areas = QLabel()
        self.areas.setWordWrap(True)
        self.areas.setTextInteractionFlags(self.areas.textInteractionFlags().TextSelectableByMouse)
        self.tabs = QTabWidget()

    def _connect(self) -> None:
        super()._connect()
        self.training.prepare = self._before_training
        self.header.message.connect(self.panel._complain)
        self.panel.dataset_changed.connect(self._on_dataset)
        self.panel.changed.connect(self._on_annotated)
        self.training.scored.connect(self._on_scored)
        self.training.trained.connect(self._on_trained)
        self.models.changed.connect(self._on_model)
        self.header.changed.connect(self._on_model)

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Panels on pages that are not in sight are not told when the dock is closed."""
        super().hideEvent(event)
        QTimer.singleShot(0, self._on_hidden)

    def _on_hidden(self) -> None:
        for panel in self.findChildren(AnnotationPanel):
            panel.leave_if_closed()

    def in_words(self, result: Result) -> str:
        """What was mapped; the areas follow, because they have to be counted."""
        named = ", ".join(c.name for c in result.classes if c.value)
        in_background("Measuring areas", lambda: area_words(result), self.areas.setText, self._problem, self)
        return f"a map of {named}"

    def _on_dataset(self) -> None:
        """Train on the dataset that is open, and list its models."""
        session = self.panel.session
        self.training.dataset = None if session is None else session.folder
        if session is not None:
            self._list_models(session.folder)
        self._on_model()
        self._show_state()

    def _list_models(self, dataset: Path) -> None:
        """The models of a dataset, the newest chosen."""
        self.models.set_choices([choice for path in models_in(dataset, self.METHOD) if (choice := choice_of(path))])

    def _on_annotated(self, changed: Any = None) -> None:
        self.training.show_state()

    def _on_model(self) -> None:
        self.training.model = self.models.choice.weights if self.models.any else None
        self.training.stain = self.header.stain
        self.training.show_state()

    def _before_training(self) -> None:
        self.panel.desk.settle()
        self.panel.desk.save_unsaved()

    def _on_scored(self, scored: Scored) -> None:
        if self.training.watch.isChecked():
            self.map_view(scored)

    def _on_trained(self, weights: Path) -> None:
        session = self.panel.session
        if session is None or weights.parent.parent != session.folder:
            self.models.add_file(weights)
        else:
            self._list_models(session.folder)


def area_words(result: Result) -> str:
    """The area of each class, a line each."""
    from napari_histoseg.results.classmap import class_areas

    rows = class_areas(result)
    # Of a single class the share is all there is.
    shares = [f" ({share:.0%})" if len(rows) > 1 else "" for share in rows["share"]]
    return "<br>".join(f"{row['class']}: {row['area_mm2']:.3g} mm²{share}" for share, (_, row) in zip(shares, rows.iterrows(), strict=True))
