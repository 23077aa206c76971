"""A run in the window: its job, its labels layer, and the slide that it belongs to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_histoseg.gui.jobs import Job, Progress
from napari_histoseg.gui.layers import (
    KEY,
    LayerData,
    class_colors,
    class_table,
    labels_layer,
    level0_points,
    probability_layer,
)
from napari_histoseg.gui.live import reload_levels
from napari_histoseg.gui.qt import Signal
from napari_histoseg.gui.shown import TURN_MS, add_in_turns
from napari_histoseg.methods.settings import RunSettings
from napari_histoseg.predict.events import Finished, RunEvent, Started, TileDone
from napari_histoseg.results.classes import BookReader
from napari_histoseg.slide import Box, Slide, TissueMask

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import Viewer

    from napari_histoseg.results import ClassRecord, Result, ResultStore

Engine = Callable[..., Iterator[RunEvent]]


SHOW_S = 1.0
"""A run waits this long at most for its layer to be shown: half the time it takes beside a network that keeps all cores busy."""


@dataclass(frozen=True)
class Request:
    """Everything a run is started with; kept, so that it can be resumed."""

    method: str
    title: str
    slide: Slide
    out: Path
    region: Any
    weights: Path | None
    tissue: TissueMask | None
    settings: RunSettings
    resume: bool = False
    preview: bool = False
    stain: tuple[Any, str] | None = None
    """Target and method of the colors to read the slide in; None as it is."""

    def resumed(self) -> Request:
        """The same run, going on."""
        return replace(self, resume=True)


@dataclass
class Focus:
    """The point being looked at, in level-0 pixels: written by the main thread, read by the run."""

    point: tuple[float, float] | None = None

    def __call__(self) -> tuple[float, float] | None:
        return self.point


class LiveRun(QObject):
    """Starts a run and shows its labels while they come, over the slide that it was started for.

    Parameters
    ----------
    viewer : napari.Viewer
    image : napari.layers.Image
        The slide's layer; only its placement is used.
    request : Request
    engine : callable
        `napari_histoseg.predict.run.iter_run`, or something like it.
    """

    done = Signal(object)
    """The `Result`, whole or cancelled."""

    def __init__(
        self, viewer: Viewer, image: Image, request: Request, engine: Engine, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.request = request
        self.labels: Labels | None = None
        self.probability: Layer | None = None
        self._viewer, self._image, self._engine = viewer, image, engine
        self.focus = Focus()
        self._place: dict[str, Any] = {}
        self._made: dict[str, LayerData] = {}
        self._shown = threading.Event()
        self._store: ResultStore | None = None
        self._known: Any = None
        # Written by the run's thread, shown by the main one.
        self._classes: list[ClassRecord] | None = None
        self._shown_classes: list[ClassRecord] | None = None
        self.job = Job(request.title, self._events, stored=self._reload)
        self.job.started.connect(self._on_started)
        self.job.progress.connect(self._on_progress)
        self.job.finished.connect(self._on_finished)
        self.job.cancelled.connect(self._on_stopped)
        self.job.failed.connect(self._on_stopped)
        viewer.scene.camera.events.center.connect(self._look)
        self._look()

    def start(self) -> None:
        """Begin."""
        self.job.start()

    def _events(self) -> Iterator[RunEvent]:
        """The run, on its thread; what reads the disk to be shown is done here, so that the window need not wait for it."""
        wanted = self.request
        run = self._engine(
            wanted.method,
            _in_colors(wanted.slide, wanted.stain),
            out=wanted.out,
            region=wanted.region,
            weights=wanted.weights,
            resume=wanted.resume,
            focus=self.focus,
            tissue=wanted.tissue,
            settings=wanted.settings,
        )
        with closing(run):  # type: ignore[type-var]
            for event in run:
                if isinstance(event, Started):
                    self._make_labels(event)
                elif isinstance(event, Finished):
                    self._make_probability(event.result)
                self._look_up_classes(event)
                yield event
                if isinstance(event, Started):
                    self._shown.wait(SHOW_S)

    def _make_labels(self, event: Started) -> None:
        self._place = {
            "mpp": event.mpp,
            "base": self.request.slide.require_mpp(),
            "frame": event.frame,
            "origin": tuple(float(t) for t in self._image.translate[-2:]),
        }
        if arrays := event.store.arrays().get("labels"):
            name, about = f"{self.request.method.capitalize()} {self._of}", self._about("labels")
            self._store = event.store
            self._look_up_classes(event)
            self._shown_classes = self._classes
            classes = self._classes or ()
            self._made["labels"] = labels_layer(arrays, name=name, metadata=about, fresh=not event.done, classes=classes, **self._place)

    def _look_up_classes(self, event: RunEvent) -> None:
        """The classes of a map, which may be known only once the slide was seen."""
        if not isinstance(event, Started | TileDone) or self._store is None or "objects" in self._store.record.outputs:
            return
        record = self._store.record
        if self._known != (known := (record.classes, record.merged)):
            self._known = known
            self._classes = BookReader(self._store.path, record).state.stored_classes

    def _show_classes(self, layer: Labels) -> None:
        """Give the labels the names and colors of the classes that are known by now."""
        classes = self._classes
        if classes and classes is not self._shown_classes:
            self._shown_classes = classes
            layer.colormap = class_colors(classes)
            layer.features = class_table(classes)

    def _make_probability(self, result: Result) -> None:
        if result.has_objects:
            _ = result.objects
        if arrays := result.arrays().get("probability"):
            name, about = f"Probability {self._of}", self._about("probability")
            self._made["probability"] = probability_layer(arrays, name=name, metadata=about, **self._place)

    def _reload(self, boxes: Sequence[Box]) -> None:
        if made := self._made.get("labels"):
            frame = self._place["frame"]
            reload_levels(made[0], [box.relative_to(frame) for box in boxes])

    def _look(self, event: Any = None) -> None:
        center = np.array(self._viewer.scene.camera.center[-2:], float)
        x, y = level0_points(self._image, center)[0]
        self.focus.point = (float(x), float(y))

    def _on_started(self, _: Started) -> None:
        self._hide_previews()
        if made := self._made.get("labels"):
            self.labels = self._show(made, then=self._shown.set)
        else:
            self._shown.set()

    @property
    def _of(self) -> str:
        return f"of {self.request.slide.name}{' preview' if self.request.preview else ''}"

    def _about(self, kind: str) -> dict[str, Any]:
        about = {"path": str(self.request.out), "kind": kind, "slide_fingerprint": self.request.slide.fingerprint()}
        return {**about, "preview_of": self._image} if self.request.preview else about

    def _show(self, made: LayerData, then: Callable[[], None] = lambda: None) -> Any:
        """Add a layer, or put it into the one that a resumed run or an earlier preview has.

        Removing layers would be simpler, but each removal makes napari collect garbage, which stops the window.
        """
        data, keywords, kind = made
        about = keywords["metadata"][KEY]
        for layer in self._viewer.layers:
            entry = layer.metadata.get(KEY, {})
            again = entry.get("path") == about["path"] or (self.request.preview and entry.get("preview_of") is self._image)
            if again and entry.get("kind") == about["kind"]:
                layer.metadata = keywords["metadata"]
                layer.data = data
                layer.translate, layer.scale = keywords["translate"], keywords["scale"]
                if "features" in keywords:
                    layer.colormap, layer.features = keywords["colormap"], keywords["features"]
                layer.visible = kind == "labels" or layer.visible
                then()
                return layer
        chosen = self._viewer.layers.selection.active
        layer = add_in_turns(self._viewer, made, self, then)
        # A run does not take the layer that somebody works on; showing other controls would also stop the window.
        if chosen is not None:
            self._viewer.layers.selection.active = chosen
        return layer

    def _hide_previews(self) -> None:
        for layer in self._viewer.layers:
            if layer.metadata.get(KEY, {}).get("preview_of") is self._image and not self.request.preview:
                layer.visible = False

    def _on_progress(self, progress: Progress) -> None:
        if progress.stored and self.labels is not None and self.labels in self._viewer.layers:
            self._show_classes(self.labels)
            self.labels.refresh(extent=False, thumbnail=False)

    def _on_finished(self, result: Result) -> None:
        self._unlook()
        self._attach(result)
        self.done.emit(result)

    def _on_stopped(self, *_: Any) -> None:
        """Cancelled or failed: what is done is a result too, when there is any."""
        self._unlook()
        if self.labels is None:
            return
        from napari_histoseg.results import open_result

        result = open_result(self.request.out)
        self._make_probability(result)
        self._attach(result)
        self.done.emit(result)

    def _attach(self, result: Result) -> None:
        if self.labels is not None and self.labels in self._viewer.layers:
            self._show_classes(self.labels)
            self._belongs(self.labels, result)
        if "probability" in self._made:
            # Each new layer stops the window for a moment, so this one waits until the rest has been shown.
            QTimer.singleShot(TURN_MS, lambda: self._show_probability(result))

    def _show_probability(self, result: Result) -> None:
        if self.labels is not None and self.labels in self._viewer.layers:
            self.probability = self._show(self._made["probability"])
            self._belongs(self.probability, result)

    @staticmethod
    def _belongs(layer: Any, result: Result) -> None:
        layer.metadata[KEY] = {**layer.metadata[KEY], "result": result}
        layer.refresh(extent=False)

    def _unlook(self) -> None:
        self._viewer.scene.camera.events.center.disconnect(self._look)
        self._store = None


def _in_colors(slide: Slide, stain: tuple[Any, str] | None) -> Slide:
    """The slide as a run reads it. Measuring takes a second, so this is for the run's thread."""
    if stain is None:
        return slide
    from napari_histoseg.methods.stain.resolve import stained

    return stained(slide, *stain)
