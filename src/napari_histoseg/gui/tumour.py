"""The dock "Tumour": outline tumour on a few slides, train, and get a heatmap and a refined outline on the next one."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from qtpy.QtWidgets import QTabWidget, QWidget

from napari_histoseg.errors import ResultError, SlideError, WeightsError
from napari_histoseg.gui.annotatelayers import warm_colors
from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.folders import fresh_folder
from napari_histoseg.gui.highlight import fly_to
from napari_histoseg.gui.layers import world_points
from napari_histoseg.gui.live_run import Request
from napari_histoseg.gui.models import choice_of
from napari_histoseg.gui.parts import group
from napari_histoseg.gui.rundock import RunDock
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.training import Scored
from napari_histoseg.gui.trainpanel import models_in
from napari_histoseg.gui.tumourheat import HeatPanel
from napari_histoseg.gui.tumourkeep import FOLDER
from napari_histoseg.gui.tumourlearn import TumourLessons
from napari_histoseg.gui.tumourmap import area_words
from napari_histoseg.gui.tumourrun import Again, HeatRun
from napari_histoseg.gui.tumourslides import AnnotatedSlides
from napari_histoseg.gui.tumourworst import Wrong
from napari_histoseg.methods.tumour.config import TumourSettings

if TYPE_CHECKING:
    from napari_histoseg.results import Result
    from napari_histoseg.results.record import RunRecord

TABS = (
    ("Slides", "Outline the tumour of a few slides; see what is known of each, and what is wrong."),
    ("Train", "Learn from the outlined slides."),
    ("Map", "Map the tumour of a view, a region or a slide."),
)
SLIDES, TRAINING, RUNNING = range(3)
LEARNING_UM = 2048.0
"""Side of previews while a training needs the processor, too."""
LOOK_UM = 600.0
"""So much is seen around a patch that somebody flies to."""


class TumourDock(RunDock):
    """Outline tumour, learn from it, map it.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    METHOD = "tumour"
    NOUN = "tumour"
    SETTINGS = TumourSettings
    LIVE = HeatRun
    BASIC = ("outline", "threshold", "overlap", "mc_samples")
    PREVIEW_UM = 4096.0

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer, [])
        self._on_folder()
        self._list_models()
        self._on_header()
        self._follow()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        warm_colors(np.uint32)
        self.slides = AnnotatedSlides(self.viewer, self.header)
        self.training = TumourLessons(self.slides)
        self.heat = HeatPanel(self.viewer, self.where)
        self.tabs = QTabWidget()
        self.run_button.setToolTip("Map the tumour of the chosen place.")
        self.slides.result = self._latest
        self.heat.outline_of = self._outline_of

    def run_parts(self) -> list[QWidget]:
        """As in other docks; the progress is seen from every tab."""
        return [part for part in super().run_parts() if part is not self.progress]

    def _lay_out(self) -> None:
        insides = ((self.slides,), (self.training,), (*self.run_parts(), group("Heatmap and outline", self.heat), *self.result_parts()))
        self.show_tabs(self.tabs, [(*words, parts) for words, parts in zip(TABS, insides, strict=True)], 420, self.progress)

    def _connect(self) -> None:
        super()._connect()
        self.header.changed.connect(self._on_header)
        self.folder.changed.connect(self._on_folder)
        self.models.changed.connect(self._on_model)
        self.slides.message.connect(self._problem)
        self.slides.said.connect(self.progress.say)
        self.slides.progress.connect(self._on_reading)
        self.slides.opened.connect(self._on_dataset)
        self.training.started.connect(lambda: self.progress.say(""))
        self.training.scored.connect(self._on_scored)
        self.training.trained.connect(self._on_trained)
        self.training.worst.go.connect(self._go_to)
        self.heat.said.connect(self.progress.say)
        self.heat.problem.connect(self._problem)
        self.heat.refine.connect(self.refine)
        self.tabs.currentChanged.connect(self._show_state)
        self.viewer.layers.selection.events.active.connect(self._follow)
        self.viewer.layers.events.inserted.connect(self._on_inserted)

    def _show_state(self, event: Any = None) -> None:
        super()._show_state(event)
        self.slides.show_state()
        previewing = self.current is not None and self.current.request.preview
        # A training says how it goes by itself, and its previews say nothing.
        self.progress.setVisible(self.tabs.currentIndex() != TRAINING or (self.busy and not previewing))
        self.heat.busy = self.busy or self.header.layer is None
        self.heat.show_state()

    # -- what a method says of itself ---------------------------------------------------------------------------------

    @property
    def result(self) -> "Result | None":
        """The result that is exported: its layer is chosen, or it is looked at."""
        return super().result or self.heat.result

    def _latest(self) -> "Result | None":
        result = self.heat.result
        return result if result is not None and result.finished else None

    def weights_of(self, record: "RunRecord") -> Path | None:
        """The model that a run had, as far as it is listed."""
        listed = [each.weights for each in self.models.choices if each.weights is not None]
        file = None if record.weights is None else (record.weights.model_extra or {}).get("file")
        named = [path for path in listed if path.name == file]
        return named[-1] if named else self.models.choice.weights if self.models.any else None

    def _outline_of(self, result: "Result") -> str:
        """How a model outlines when that is left to it."""
        path = None if result.record.weights is None else self.weights_of(result.record)
        card = next((each.card for each in self.models.choices if each.weights == path), None)
        refiner = None if card is None else card.settings.get("refiner")
        return "" if refiner is None else "smoothed" if refiner == "none" else "refined"

    def in_words(self, result: "Result") -> str:
        """The area of the outline."""
        return area_words(result)

    # -- models and slides --------------------------------------------------------------------------------------------

    def _on_folder(self) -> None:
        self.slides.home = self.folder.folder

    def _on_header(self) -> None:
        self.training.stain = self.header.stain
        self.training.show_state()
        layer = self.header.layer
        if layer is not None:
            for entry in self.slides.entries:
                if entry.known.layer == layer:
                    self.slides.choose(entry.key)
                    break

    def _list_models(self) -> None:
        """The models of the open dataset, the newest chosen; without one, those of the folder for results."""
        home = self.slides.keeper.folder
        folders = [home] if home is not None else sorted(self.folder.folder.glob(f"{FOLDER}*"))
        self.models.set_choices([choice for folder in folders for path in models_in(folder, self.METHOD) if (choice := choice_of(path))])

    def _on_dataset(self, folder: Any) -> None:
        self._list_models()
        self._show_state()

    def _on_model(self) -> None:
        self.training.model = self.models.choice.weights if self.models.any else None
        self.training.show_state()

    def _on_reading(self, progress: Any) -> None:
        if progress is None:
            self.progress.rest()
        else:
            self.progress.show_progress(progress, f"Reading the slides: {progress.done:,} of {progress.total:,}")

    def _go_to(self, wrong: Wrong) -> None:
        """Show a patch in its slide, which is opened where it is not open."""
        name = Path(wrong.slide.split(" at ")[0]).name
        entry = next((each for each in self.slides.entries if each.name == wrong.slide or each.known.name == name), None)
        if entry is None:
            self._problem(f"The slide {name} is not in the list of slides any more.")
            return
        if entry.known.layer is None:
            self.slides.go_to(entry)
        if entry.known.layer is None:
            self._problem(str(SlideError(f"{name} could not be opened.")))
            return
        box = wrong.box
        point = world_points(entry.known.layer, [(box.x + box.width / 2, box.y + box.height / 2)])[0]
        fly_to(self.viewer, point, LOOK_UM)

    # -- while it learns ------------------------------------------------------------------------------------------------

    def _on_scored(self, scored: Scored) -> None:
        if self.training.watch.isChecked():
            self.map_view(scored, LEARNING_UM)

    def _on_trained(self, weights: Path) -> None:
        self.models.add_file(weights)

    # -- runs -----------------------------------------------------------------------------------------------------------

    def _start(self, request: Request) -> None:
        super()._start(request)
        if isinstance(self.current, HeatRun):
            self.current.shown.connect(self.heat.show_state)

    def _on_result(self, result: Any) -> None:
        super()._on_result(result)
        run = self.current
        if run is None:
            return
        for layer in self.viewer.layers:
            # Two outlines on one place cannot be read.
            other = result_of(layer)
            if other is not None and other is not result and other.record.method == self.METHOD and other.record.slide.fingerprint == result.record.slide.fingerprint:
                layer.visible = False
        if not (run.request.preview and self.tabs.currentIndex() == TRAINING):
            self.heat.show_result(result)

    def _on_finished(self, result: Any) -> None:
        preview = self._request_now().preview
        self.progress.rest("Measuring the area…")

        def measured(words: str) -> None:
            if not self.busy:
                self.progress.rest(f"Preview: {words}; it is not kept." if preview else f"Done: {words}. Result: {result.path}")

        in_background("Measuring the area", lambda: self.in_words(result), measured, self._problem, self)

    def _follow(self, event: Any = None) -> None:
        """Look at the result whose layer is chosen."""
        chosen = super().result
        if chosen is not None and chosen is not self.heat.result:
            self.heat.show_result(chosen)
        self._show_state()

    def _on_inserted(self, event: Any = None) -> None:
        """A result that is opened is looked at."""
        result = result_of(getattr(event, "value", None))
        if result is not None and result.record.method == self.METHOD and not self.busy:
            self.heat.show_result(result)

    def refine(self) -> None:
        """Outline the heatmap that is looked at by the refining network."""
        self._try(lambda: self._start(self._refine_request()))

    def _refine_request(self) -> Request:
        result, layer = self.heat.result, self.header.layer
        if result is None or layer is None:
            raise ResultError("There is no heatmap to refine. Press Run, or open a result.")
        record = result.record
        slide = self.header.slide()
        if slide.fingerprint() != record.slide.fingerprint:
            raise SlideError(f"The heatmap is of {record.slide.name}, and the slide that is chosen above is {slide.name}. Choose the heatmap's slide.")
        if (weights := self.weights_of(record)) is None:
            raise WeightsError("The model that this heatmap was made with is not in the list. Choose its file as the model.")
        entered = self.form.values().model_dump()
        changed = {name: entered[name] for name in ("threshold", "mc_samples")}
        settings = TumourSettings.parse({**record.settings, **changed, "outline": "refined"})
        region: Any = record.region
        if record.outline is not None:
            import shapely

            region = shapely.from_wkt(record.outline)
        preview = str(result.path).startswith(str(self.folder.preview(slide.name, self.METHOD).parent))
        out = self.folder.preview(slide.name, self.METHOD) if preview else fresh_folder(self.folder.folder, slide.name, self.METHOD)
        title = f"Refining the outline of {slide.name}"
        base = Request(self.METHOD, title, slide, out, region, weights, self.header.tissue_mask(), settings, resume=True, preview=preview, stain=self.header.stain)
        return Again(**{each.name: getattr(base, each.name) for each in fields(base)}, source=result.path)
