"""Writing a normalized slide to disk, with progress and cancel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from napari_histoseg.gui.export import export_to
from napari_histoseg.gui.folders import fresh_folder, safe_name
from napari_histoseg.gui.jobs import Job
from napari_histoseg.gui.live_run import LiveRun, Request
from napari_histoseg.methods.stain.config import StainSettings

if TYPE_CHECKING:
    from napari_histoseg.gui.stain import StainDock
    from napari_histoseg.results import Result

METHOD = "stain"
FILTER = "Pyramidal OME-TIFF (*.ome.tif)"


class StainWriter(QObject):
    """Runs the method "stain" for the dock; one run at a time.

    Parameters
    ----------
    dock : StainDock
        Says what to write, where to, and shows how far it is.
    """

    def __init__(self, dock: StainDock) -> None:
        super().__init__(dock)
        self._dock = dock
        self._run: LiveRun | None = None
        self._export: Job | None = None
        self._stopped: Request | None = None
        self.result: Result | None = None

    @property
    def running(self) -> bool:
        """Whether something is being written."""
        return self._run is not None or self._export is not None

    def start(self) -> None:
        """Write the whole slide as chosen, or go on with what was stopped if it is the same."""
        slide, layer, target, method = self._dock.chosen()
        slide.require_mpp()
        weights = target if isinstance(target, Path) else None
        settings = StainSettings.parse({"target": None if weights else target, "method": method})
        out = fresh_folder(self._dock.folder.folder, slide.name, METHOD)
        request = Request(METHOD, f"Writing {slide.name}", slide, out, None, weights, None, settings)
        self._begin(self._again(request), layer)

    def _again(self, request: Request) -> Request:
        """The stopped run in place of the same one anew."""
        stopped = self._stopped
        same = stopped is not None and all(
            getattr(stopped, name) == getattr(request, name) for name in ("slide", "weights", "settings")
        )
        return stopped.resumed() if stopped is not None and same and (stopped.out / "run.json").is_file() else request

    def _begin(self, request: Request, layer: Any) -> None:
        run = self._run = LiveRun(self._dock.viewer, layer, request, self._dock.engine, self)
        panel = self._dock.progress
        run.job.progress.connect(panel.show_progress)
        run.job.notice.connect(panel.say)
        run.job.failed.connect(self._on_failed)
        run.job.cancelled.connect(self._on_cancelled)
        run.job.finished.connect(self._on_finished)
        run.job.ended.connect(self._on_ended)
        panel.wait("Measuring the slide's stain…")
        run.start()
        self._dock.show_state()

    def cancel(self) -> None:
        """Stop after the tile in hand; an export at once."""
        if self._export is not None:
            self._export.cancel()
        elif self._run is not None:
            self._run.job.cancel()
            self._dock.cancel_button.setEnabled(False)
            self._dock.progress.words.setText("Stopping after the tile in hand…")

    def export(self) -> None:
        """Ask for a file, and write the result into it as OME-TIFF."""
        if self.result is None:
            return
        start = f"{safe_name(self.result.record.slide.name)}-{METHOD}.ome.tif"
        name, _ = QFileDialog.getSaveFileName(self._dock, "Export", start, FILTER)
        if name:
            known = name.lower().endswith((".tif", ".tiff", ".zarr"))
            self.export_to(Path(name if known else f"{name}.ome.tif"))

    def export_to(self, out: Path) -> None:
        """Write the result into a file; `cancel` stops it."""
        assert self.result is not None
        self._export = export_to(out, self.result, None, self._dock.progress, self._dock.problem, self._dock)
        self._export.ended.connect(self._on_exported)
        self._dock.show_state()

    def _on_exported(self) -> None:
        self._export = None
        self._dock.show_state()

    def _on_finished(self, result: Result) -> None:
        self.result, self._stopped = result, None
        self._dock.progress.rest(f"Written: {result.path}. Open it like a slide, or export it as OME-TIFF.")

    def _on_cancelled(self) -> None:
        assert self._run is not None
        self._stopped = self._run.request
        self._dock.progress.rest("Cancelled. What is done is kept; Write to disk… goes on.")

    def _on_failed(self, sentence: str) -> None:
        assert self._run is not None
        self._stopped = self._run.request
        self._dock.progress.rest()
        self._dock.problem(sentence)

    def _on_ended(self) -> None:
        if self._run is not None:
            self._run.setParent(None)
        self._run = None
        self._dock.show_state()
