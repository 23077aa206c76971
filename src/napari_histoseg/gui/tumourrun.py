"""A run of tumour in the window: the heatmap grows, the outline follows at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_histoseg.gui.layers import KEY, MAPPED, heat_layer, uncertainty_layer
from napari_histoseg.gui.live import CoarseLevel, LiveLevel, reload_levels
from napari_histoseg.gui.live_run import LiveRun, Request
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import TURN_MS
from napari_histoseg.gui.tumourmap import copied
from napari_histoseg.predict.events import RunEvent, Started
from napari_histoseg.slide import Box

if TYPE_CHECKING:
    from napari_histoseg.results import Result

CONTOUR_PX = 3


@dataclass(frozen=True)
class Again(Request):
    """A run that takes the heatmap of a result, and outlines it anew."""

    source: Path | None = None


class HeatRun(LiveRun):
    """A run whose heatmap is shown while it grows; the outline follows at the end."""

    shown = Signal()
    """Another layer of the result is there; they come one after another, the last ones after the end."""
    _waiting: Started | None = None

    def _events(self) -> Iterator[RunEvent]:
        again = self.request if isinstance(self.request, Again) and not self.request.out.exists() else None
        begun = again is None or again.source is None
        try:
            if again is not None and again.source is not None:
                copied(again.source, again.out, again.settings.model_dump(mode="json"))
            with closing(super()._events()) as events:  # type: ignore[type-var]
                for event in events:
                    begun = True
                    yield event
        finally:
            if not begun:
                # A copy that was never outlined is nobody's result.
                shutil.rmtree(self.request.out, ignore_errors=True)

    def _make_labels(self, event: Started) -> None:
        super()._make_labels(event)
        if "labels" in self._made:
            self._made["labels"][1]["name"] = f"{MAPPED} {self._of}"
        if arrays := event.store.arrays().get("probability"):
            about = self._about("probability")
            self._made["heat"] = heat_layer(arrays, fresh=not event.done, name=f"Probability {self._of}", metadata=about, **self._place)

    def _make_probability(self, result: Result) -> None:
        arrays = result.arrays()
        if levels := arrays.get("probability"):
            self._made["probability"] = heat_layer(levels, name=f"Probability {self._of}", metadata=self._about("probability"), **self._place)
        if levels := arrays.get("uncertainty"):
            self._made["uncertainty"] = uncertainty_layer(levels, name=f"Edge band {self._of}", metadata=self._about("uncertainty"), **self._place)
        # The outline was written in one go, after the last tile.
        for level in self._made["labels"][0] if "labels" in self._made else ():
            if isinstance(level, LiveLevel):
                level.forget()
            elif isinstance(level, CoarseLevel):
                level.update()

    def _reload(self, boxes: Sequence[Box]) -> None:
        super()._reload(boxes)
        if made := self._made.get("heat"):
            frame = self._place["frame"]
            reload_levels(made[0], [box.relative_to(frame) for box in boxes])

    def _on_started(self, started: Started) -> None:
        if heat := self._made.get("heat"):
            self.probability = self._show(heat)
        # Each new layer stops the window for a moment, and the outline comes last.
        self._waiting = started
        QTimer.singleShot(2 * TURN_MS, self._show_outline)

    def _show_outline(self) -> None:
        started, self._waiting = self._waiting, None
        if started is not None:
            super()._on_started(started)
            if self.labels is not None:
                as_line(self.labels)

    def _on_finished(self, result: Result) -> None:
        self._show_outline()
        super()._on_finished(result)

    def _on_stopped(self, *said: Any) -> None:
        self._show_outline()
        super()._on_stopped(*said)

    def _on_progress(self, progress: Any) -> None:
        super()._on_progress(progress)
        if progress.stored and self.probability is not None and self.probability in self._viewer.layers:
            self.probability.refresh(extent=False, thumbnail=False)

    def _show_probability(self, result: Result) -> None:
        super()._show_probability(result)
        if "uncertainty" in self._made:
            QTimer.singleShot(TURN_MS, lambda: self._show_band(result))
        self.shown.emit()

    def _show_band(self, result: Result) -> None:
        self._belongs(self._show(self._made["uncertainty"]), result)
        self.shown.emit()


def as_line(layer: Any, zoom: float = 0.0) -> None:
    """Show labels as a line, which lets the heatmap be seen.

    Parameters
    ----------
    zoom : float
        Pixels of the screen for each unit of the world. Lines are measured in pixels of labels, which may be larger than those of the screen.
    """
    width = max(1, round(CONTOUR_PX / max(1.0, zoom * float(layer.scale[-1]))))
    if layer.contour != width:
        layer.contour = width
    if layer.opacity != 1.0:
        layer.opacity = 1.0


def kind_of(layer: Any) -> str:
    """What of a result a layer shows: ``labels``, ``probability`` or ``uncertainty``."""
    return str(layer.metadata.get(KEY, {}).get("kind", "labels"))
