"""The dock "Nuclei"."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QGridLayout, QScrollArea, QVBoxLayout, QWidget

from napari_histoseg.errors import HistosegError, PixelSizeError, RegionError, ResultError
from napari_histoseg.gui.edit import EditBar
from napari_histoseg.gui.export import export_result
from napari_histoseg.gui.features import show_measurements
from napari_histoseg.gui.folders import FolderPicker, fresh_folder, read_record
from napari_histoseg.gui.form import SettingsForm
from napari_histoseg.gui.header import SlideHeader
from napari_histoseg.gui.jobs import Job
from napari_histoseg.gui.live_run import LiveRun, Request
from napari_histoseg.gui.modelpicker import ModelPicker
from napari_histoseg.gui.models import nuclei_models
from napari_histoseg.gui.parts import button, group
from napari_histoseg.gui.progress import ProgressPanel
from napari_histoseg.gui.slides import open_slide_by
from napari_histoseg.gui.warm import wait_until_warm, warm_up
from napari_histoseg.gui.where import WherePicker, view_box
from napari_histoseg.methods.nuclei.config import NucleiSettings
from napari_histoseg.predict.events import RunEvent

log = logging.getLogger(__name__)

METHOD = "nuclei"
PREVIEW_UM = 512.0
"""A preview covers at most this much a side, so that it takes seconds wherever the view is."""


def engine(*args: Any, **keywords: Any) -> Iterator[RunEvent]:
    """`napari_histoseg.predict.run.iter_run`, imported on the worker thread."""
    wait_until_warm()
    from napari_histoseg.predict.run import iter_run

    return iter_run(*args, **keywords)


class NucleiDock(QScrollArea):
    """Find nuclei in the view, in drawn regions, in the tissue or on the whole slide, and correct them.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        warm_up(napari_viewer)
        self.viewer = napari_viewer
        self.engine: Callable[..., Iterator[RunEvent]] = engine
        self.current: LiveRun | None = None
        self.exporting: Job | None = None
        self._stopped: dict[str, Request] = {}
        self.header = SlideHeader(napari_viewer)
        self.where = WherePicker(napari_viewer)
        self.models = ModelPicker(METHOD, nuclei_models())
        self.form = SettingsForm(NucleiSettings, basic=("threshold", "min_area_um2"), hidden=("model",))
        self.folder = FolderPicker()
        self.progress = ProgressPanel("nuclei")
        self.edit = EditBar(napari_viewer)
        self._make_buttons()
        self._lay_out()
        self._connect()
        self._show_state()

    # -- looks --------------------------------------------------------------------------------------------------------

    def _make_buttons(self) -> None:
        self.preview_button = button("Preview", "Try the settings on the middle of the current view.", self.preview)
        self.run_button = button("Run", "Find the nuclei in the chosen place.", self.run)
        self.run_button.setDefault(True)
        self.cancel_button = button("Cancel", "Stop after the tile in hand; what is done stays.", self.cancel)
        self.resume_button = button("Resume", "Go on with the unfinished run of this slide.", self.resume)
        self.open_button = button("Open result…", "Show an earlier result.", self.open_result)
        self.export_button = button("Export…", "GeoJSON for QuPath, tables, label images.", self.export)

    def _lay_out(self) -> None:
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.addWidget(self.header)
        layout.addWidget(group("Where", self.where))
        layout.addWidget(group("How", self.models, self.form))
        buttons = QGridLayout()
        for i, each in enumerate((self.preview_button, self.run_button, self.cancel_button, self.resume_button)):
            buttons.addWidget(each, i // 2, i % 2)
        layout.addLayout(buttons)
        layout.addWidget(self.folder)
        layout.addWidget(self.progress)
        layout.addWidget(group("Correct", self.edit))
        last = QGridLayout()
        last.addWidget(self.open_button, 0, 0)
        last.addWidget(self.export_button, 0, 1)
        layout.addLayout(last)
        layout.addStretch(1)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(340)

    def _connect(self) -> None:
        for part in (self.header.message, self.models.message, self.edit.problem):
            part.connect(self._problem)
        self.edit.said.connect(self.progress.say)
        self.header.changed.connect(self._show_state)
        self.folder.changed.connect(self._show_state)
        self.viewer.layers.selection.events.active.connect(self._show_state)
        self.viewer.layers.events.removed.connect(self._show_state)

    def _show_state(self, event: Any = None) -> None:
        running = self.current is not None or self.exporting is not None
        there = self.header.layer is not None
        self.preview_button.setEnabled(there and not running)
        self.run_button.setEnabled(there and not running)
        self.cancel_button.setEnabled(running)
        self.resume_button.setEnabled(there and not running and self._unfinished() is not None)
        self.export_button.setEnabled(self.edit.result is not None and not running)

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

    def _request(self, preview: bool) -> Request:
        slide, layer = self.header.slide(), self.header.layer
        assert layer is not None
        mpp = slide.require_mpp()
        model = self.models.choice
        settings = self.form.values(model=model.model)
        assert isinstance(settings, NucleiSettings)
        if preview:
            region: Any = view_box(self.viewer, layer, slide, largest=round(PREVIEW_UM / mpp))
            out = self.folder.preview(slide.name, METHOD)
        else:
            where = self.where.where(layer, slide)
            region = where.region
            if where.tissue_only is not None:
                settings = settings.replace(tissue_only=where.tissue_only)
            out = fresh_folder(self.folder.folder, slide.name, METHOD)
        title = f"{'Preview of nuclei' if preview else 'Nuclei'} on {slide.name}"
        tissue = self.header.tissue_mask()
        return Request(METHOD, title, slide, out, region, model.weights, tissue, settings, preview=preview, stain=self.header.stain)

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
        folder = self.folder.unfinished(slide.fingerprint(), METHOD)
        record = read_record(folder) if folder else None
        if folder is None or record is None:
            return None
        region: Any = record.region
        if record.outline is not None:
            import shapely

            region = shapely.from_wkt(record.outline)
        settings = NucleiSettings.parse(record.settings)
        chosen = self.models.choice.weights
        title = f"Nuclei on {slide.name}"
        return Request(METHOD, title, slide, folder, region, chosen, self.header.tissue_mask(), settings, resume=True, stain=self.header.stain)

    def _start(self, request: Request) -> None:
        layer = self.header.layer
        if layer is None:
            raise RegionError("No slide is open.")
        run = LiveRun(self.viewer, layer, request, self.engine, self)
        self.current = run
        self._stopped.pop(request.slide.fingerprint(), None)
        run.job.progress.connect(self.progress.show_progress)
        run.job.notice.connect(self.progress.say)
        run.job.failed.connect(self._on_failed)
        run.job.cancelled.connect(self._on_cancelled)
        run.job.finished.connect(self._on_finished)
        run.job.ended.connect(self._on_ended)
        run.done.connect(self._on_result)
        self.progress.wait("Loading the model…")
        run.start()
        self._show_state()

    def _on_result(self, result: Any) -> None:
        run = self.current
        if run is not None and run.labels is not None and run.labels in self.viewer.layers:
            show_measurements(run.labels, result)
            self.viewer.layers.selection.active = run.labels

    def _on_finished(self, result: Any) -> None:
        count = f"{len(result.objects):,} nuclei"
        preview = self._request_now().preview
        self.progress.rest(f"Preview: {count}; it is not kept." if preview else f"Done: {count}. Result: {result.path}")

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
        result = self.edit.result
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
