"""What the docks of all methods that run over a slide have in common: where, how, progress, cancel, resume, results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QGridLayout, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError, PixelSizeError, RegionError, ResultError
from napari_histoseg.gui.export import export_result
from napari_histoseg.gui.features import show_measurements
from napari_histoseg.gui.folders import FolderPicker, fresh_folder, read_record
from napari_histoseg.gui.form import SettingsForm
from napari_histoseg.gui.header import SlideHeader
from napari_histoseg.gui.jobs import Job, Progress
from napari_histoseg.gui.live_run import LiveRun, Request
from napari_histoseg.gui.modelpicker import ModelChoice, ModelPicker
from napari_histoseg.gui.models import choice_of
from napari_histoseg.gui.parts import button, column, group, scrolled
from napari_histoseg.gui.progress import ProgressPanel
from napari_histoseg.gui.shown import result_of
from napari_histoseg.gui.slides import open_slide_by
from napari_histoseg.gui.warm import wait_until_warm, warm_up
from napari_histoseg.gui.where import WherePicker, view_box
from napari_histoseg.methods.settings import RunSettings
from napari_histoseg.predict.events import RunEvent

if TYPE_CHECKING:
    import napari

    from napari_histoseg.gui.training import Scored
    from napari_histoseg.results import Result
    from napari_histoseg.results.record import RunRecord

log = logging.getLogger(__name__)


def engine(*args: Any, **keywords: Any) -> Iterator[RunEvent]:
    """`napari_histoseg.predict.run.iter_run`, imported on the worker thread."""
    wait_until_warm(args[0])
    from napari_histoseg.predict.run import iter_run

    return iter_run(*args, **keywords)


class RunDock(QScrollArea):
    """Base of a method's dock.

    A subclass names the method, its settings and its words, and adds parts of its own.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    models : list of ModelChoice
        The models to choose from; empty where a model has to be trained first.
    """

    METHOD: ClassVar[str]
    NOUN: ClassVar[str]
    """What is found, as in "381 nuclei"."""
    SETTINGS: ClassVar[type[RunSettings]]
    BASIC: ClassVar[tuple[str, ...]] = ()
    """Settings that are always seen."""
    HIDDEN: ClassVar[tuple[str, ...]] = ()
    """Settings that another part of the dock sets."""
    LIVE: ClassVar[type[LiveRun]] = LiveRun
    """How a run is shown."""
    PREVIEW_UM: ClassVar[float] = 512.0
    """A preview covers at most this much a side, so that it takes seconds wherever the view is."""

    def __init__(self, viewer: napari.viewer.Viewer, models: list[ModelChoice]) -> None:
        super().__init__()
        warm_up(viewer)
        self.viewer = viewer
        self.engine: Callable[..., Iterator[RunEvent]] = engine
        self.current: LiveRun | None = None
        self.exporting: Job | None = None
        self._stopped: dict[str, Request] = {}
        self.header = SlideHeader(viewer)
        self.where = WherePicker(viewer)
        self.models = ModelPicker(self.METHOD, models)
        self.form = SettingsForm(self.SETTINGS, basic=self.BASIC, hidden=self.HIDDEN)
        self.folder = FolderPicker()
        self.progress = ProgressPanel(self.NOUN)
        self._make_buttons()
        self._make_parts()
        self._lay_out()
        self._connect()
        self._show_state()

    # -- what a method says of itself ---------------------------------------------------------------------------------

    @property
    def result(self) -> Result | None:
        """The result that is exported: of the method, and its layer is chosen."""
        result = result_of(self.viewer.layers.selection.active)
        return result if result is not None and result.record.method == self.METHOD else None

    def settings_of(self, choice: ModelChoice) -> dict[str, Any]:
        """Settings that follow from the chosen model."""
        return {}

    def weights_of(self, record: RunRecord) -> Path | None:
        """The weights to go on with, in a run that an earlier session left unfinished."""
        return self.models.choice.weights

    def in_words(self, result: Result) -> str:
        """What a run found, for the line under the bar."""
        return f"{len(result.objects):,} {self.NOUN}"

    def _make_parts(self) -> None:
        """Widgets of the method's own."""

    def _lay_out(self) -> None:
        self.show_parts(self.header, *self.run_parts(), *self.result_parts())

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_buttons(self) -> None:
        self.preview_button = button("Preview", "Try the settings on the middle of the current view.", self.preview)
        self.run_button = button("Run", f"Find the {self.NOUN} in the chosen place.", self.run)
        self.run_button.setDefault(True)
        self.cancel_button = button("Cancel", "Stop after the tile in hand; what is done stays.", self.cancel)
        self.resume_button = button("Resume", "Go on with the unfinished run of this slide.", self.resume)
        self.open_button = button("Open result…", "Show an earlier result.", self.open_result)
        self.export_button = button("Export…", "GeoJSON for QuPath, tables, label images.", self.export)

    def run_parts(self) -> list[QWidget]:
        """Where, how, the buttons, the folder and the progress, from top to bottom."""
        buttons = self._grid(self.preview_button, self.run_button, self.cancel_button, self.resume_button)
        return [group("Where", self.where), group("How", self.models, self.form), buttons, self.folder, self.progress]

    def result_parts(self) -> list[QWidget]:
        """Opening and exporting."""
        return [self._grid(self.open_button, self.export_button)]

    @staticmethod
    def _grid(*widgets: QWidget) -> QWidget:
        inside = QWidget()
        grid = QGridLayout(inside)
        grid.setContentsMargins(0, 0, 0, 0)
        for i, each in enumerate(widgets):
            grid.addWidget(each, i // 2, i % 2)
        return inside

    def show_parts(self, *parts: QWidget) -> None:
        """Lay parts out below each other, to be scrolled."""
        self.setWidget(column(*parts))
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(340)

    def show_tabs(self, tabs: QTabWidget, pages: Sequence[tuple[str, str, Sequence[QWidget]]], least_px: int, *below: QWidget) -> None:
        """Lay pages (title, tool tip, parts) out in tabs, under the slide and above parts that are seen from every page."""
        for title, tip, parts in pages:
            tabs.setTabToolTip(tabs.addTab(scrolled(*parts), title), tip)
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.header)
        layout.addWidget(tabs, 1)
        for part in below:
            layout.addWidget(part)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setMinimumWidth(least_px)

    def _connect(self) -> None:
        for part in (self.header.message, self.models.message):
            part.connect(self._problem)
        self.header.changed.connect(self._show_state)
        self.models.changed.connect(self._show_state)
        self.folder.changed.connect(self._show_state)
        self.viewer.layers.selection.events.active.connect(self._show_state)
        self.viewer.layers.events.removed.connect(self._show_state)

    @property
    def busy(self) -> bool:
        """Whether a run or an export is under way."""
        return self.current is not None or self.exporting is not None

    def _show_state(self, event: Any = None) -> None:
        ready = self.header.layer is not None and not self.busy
        self.preview_button.setEnabled(ready and self.models.any)
        self.run_button.setEnabled(ready and self.models.any)
        self.cancel_button.setEnabled(self.busy)
        self.resume_button.setEnabled(ready and self.models.any and self._unfinished() is not None)
        self.export_button.setEnabled(self.result is not None and not self.busy)

    def _problem(self, sentence: str) -> None:
        self.progress.say(sentence, problem=True)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def preview(self) -> None:
        """Run on the middle of the view, into a folder that goes with the window."""
        self._try(lambda: self._start(self._request(preview=True)))

    def run(self) -> None:
        """Run on the chosen place, into a new folder."""
        self._try(lambda: self._start(self._request(preview=False)))

    def resume(self) -> None:
        """Go on with the unfinished run of this slide."""
        self._try(self._resume)

    def cancel(self) -> None:
        """Stop after the tile in hand; an export at once."""
        if self.exporting is not None:
            self.exporting.cancel()
        elif self.current is not None:
            self.current.job.cancel()
            self.cancel_button.setEnabled(False)
            self.progress.words.setText("Stopping after the tile in hand…")

    def _try(self, action: Callable[[], None]) -> None:
        """Do something that may be refused; the reason goes on the message line."""
        self.progress.say("")
        try:
            action()
        except PixelSizeError as error:
            self.header.ask_pixel_size()
            self._problem(str(error))
        except HistosegError as error:
            log.debug("Refused", exc_info=True)
            self._problem(str(error))

    def _request(self, preview: bool, model: ModelChoice | None = None, largest_um: float | None = None) -> Request:
        """What to run: the chosen model, or another one; a preview covers at most ``largest_um`` a side, where that is given."""
        slide, layer = self.header.slide(), self.header.layer
        assert layer is not None
        mpp = slide.require_mpp()
        model = model or self.models.choice
        settings = self.form.values(**self.settings_of(model))
        assert isinstance(settings, self.SETTINGS)
        if preview:
            region: Any = view_box(self.viewer, layer, slide, largest=round((largest_um or self.PREVIEW_UM) / mpp))
            out = self.folder.preview(slide.name, self.METHOD)
        else:
            where = self.where.where(layer, slide)
            region = where.region
            if where.tissue_only is not None:
                settings = settings.replace(tissue_only=where.tissue_only)
            out = fresh_folder(self.folder.folder, slide.name, self.METHOD)
        title = f"{f'Preview of {self.METHOD}' if preview else self.METHOD.capitalize()} on {slide.name}"
        tissue = self.header.tissue_mask()
        return Request(self.METHOD, title, slide, out, region, model.weights, tissue, settings, preview=preview, stain=self.header.stain)

    def map_view(self, scored: Scored, largest_um: float | None = None) -> None:
        """Preview the best weights of a training so far, when nothing else is being run."""
        if not scored.best or self.busy or self.header.layer is None or (choice := choice_of(scored.weights)) is None:
            return
        try:
            self._start(self._request(preview=True, model=choice, largest_um=largest_um))
        except HistosegError as error:
            log.debug("No preview while training: %s", error)

    def _resume(self) -> None:
        request = self._unfinished()
        if request is None:
            raise ResultError("There is no unfinished run of this slide in the folder for results. Press Run.")
        self._start(request)

    def _unfinished(self) -> Request | None:
        """The run to go on with: of this session, or found in the folder for results."""
        try:
            slide = self.header.slide()
        except HistosegError:
            return None
        if request := self._stopped.get(slide.fingerprint()):
            return request.resumed()
        folder = self.folder.unfinished(slide.fingerprint(), self.METHOD)
        record = read_record(folder) if folder else None
        if folder is None or record is None:
            return None
        region: Any = record.region
        if record.outline is not None:
            import shapely

            region = shapely.from_wkt(record.outline)
        settings = self.SETTINGS.parse(record.settings)
        weights = self.weights_of(record)
        title = f"{self.METHOD.capitalize()} on {slide.name}"
        return Request(self.METHOD, title, slide, folder, region, weights, self.header.tissue_mask(), settings, resume=True, stain=self.header.stain)

    def _start(self, request: Request) -> None:
        layer = self.header.layer
        if layer is None:
            raise RegionError("No slide is open.")
        run = self.LIVE(self.viewer, layer, request, self.engine, self)
        self.current = run
        self._stopped.pop(request.slide.fingerprint(), None)
        run.job.progress.connect(self._on_progress)
        run.job.notice.connect(self.progress.say)
        run.job.failed.connect(self._on_failed)
        run.job.cancelled.connect(self._on_cancelled)
        run.job.finished.connect(self._on_finished)
        run.job.ended.connect(self._on_ended)
        run.done.connect(self._on_result)
        self.progress.wait("Loading the model…")
        run.start()
        self._show_state()

    def _on_progress(self, progress: Progress) -> None:
        self.progress.show_progress(progress, f"{progress.words}: {progress.done:,} of {progress.total:,}" if progress.words else "")

    def _on_result(self, result: Any) -> None:
        run = self.current
        if run is not None and run.labels is not None and run.labels in self.viewer.layers:
            show_measurements(run.labels, result)
            self.viewer.layers.selection.active = run.labels

    def _on_finished(self, result: Any) -> None:
        words = self.in_words(result)
        preview = self._request_now().preview
        self.progress.rest(f"Preview: {words}; it is not kept." if preview else f"Done: {words}. Result: {result.path}")

    def _on_cancelled(self) -> None:
        request = self._request_now()
        if not request.preview:
            self._stopped[request.slide.fingerprint()] = request
        self.progress.rest("Cancelled. What is done is kept; Resume goes on.")

    def _on_failed(self, sentence: str) -> None:
        request = self._request_now()
        if not request.preview and (request.out / "run.json").is_file():
            self._stopped[request.slide.fingerprint()] = request
        self.progress.rest()
        self._problem(sentence)

    def _request_now(self) -> Request:
        assert self.current is not None
        return self.current.request

    def _on_ended(self) -> None:
        if self.current is not None:
            self.current.setParent(None)
        self.current = None
        self._show_state()

    # -- results ------------------------------------------------------------------------------------------------------

    def open_result(self) -> None:
        """Choose a result folder and show it."""
        chosen = QFileDialog.getExistingDirectory(self, "Open a result", str(self.folder.folder))
        if chosen:
            self._try(lambda: self.show_result(Path(chosen)))

    def show_result(self, path: Path) -> None:
        """Show a stored result over its slide."""
        from napari_histoseg.gui.reader import read_one
        from napari_histoseg.gui.shown import show_layers

        show_layers(self.viewer, read_one(path))

    def export(self) -> None:
        """Choose a file and write the chosen result into it."""
        result = self.result
        if result is not None:
            slide = open_slide_by(result.record.slide.fingerprint, self.viewer.layers)
            self._wait_for(export_result(self, result, slide, self.progress, self._problem))

    def _wait_for(self, job: Job | None) -> None:
        self.exporting = job
        if job is not None:
            job.ended.connect(self._on_exported)
        self._show_state()

    def _on_exported(self) -> None:
        self.exporting = None
        self._show_state()
