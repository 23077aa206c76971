"""Writing a result to a file chosen in a dialog, on a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QWidget

from napari_histoseg.gui.background import in_steps
from napari_histoseg.gui.folders import safe_name

if TYPE_CHECKING:
    from napari_histoseg.gui.jobs import Job
    from napari_histoseg.gui.progress import ProgressPanel
    from napari_histoseg.results import Result
    from napari_histoseg.results.files import Step
    from napari_histoseg.slide import Slide

FILTERS = {
    "GeoJSON for QuPath (*.geojson)": ".geojson",
    "GeoJSON, compressed (*.geojson.gz)": ".geojson.gz",
    "Table, CSV (*.csv)": ".csv",
    "Table, Parquet (*.parquet)": ".parquet",
    "AnnData (*.h5ad)": ".h5ad",
    "Label image, OME-TIFF (*.ome.tif)": ".ome.tif",
    "Overlay picture (*.png)": ".png",
}


def export_result(
    parent: QWidget, result: Result, slide: Slide | None, panel: ProgressPanel, problem: Callable[[str], None]
) -> Job | None:
    """Ask for a file and write the result into it; the extension decides the format. The dialog asks before replacing.

    Returns the job, which can be cancelled; None when no file was chosen.
    """
    start = f"{safe_name(result.record.slide.name)}-{result.record.method}.geojson"
    name, chosen = QFileDialog.getSaveFileName(parent, "Export", start, ";;".join(FILTERS))
    return export_to(with_extension(name, chosen), result, slide, panel, problem, parent) if name else None


def with_extension(name: str, chosen: str) -> Path:
    """The file's name, with the extension of the chosen filter when it has none that is known."""
    known = any(name.lower().endswith(extension) for extension in [*FILTERS.values(), ".tif"])
    return Path(name if known else name + FILTERS.get(chosen, ".geojson"))


def export_to(
    out: Path,
    result: Result,
    slide: Slide | None,
    panel: ProgressPanel,
    problem: Callable[[str], None],
    parent: QWidget,
) -> Job:
    """Write the result into ``out`` on a thread and show how far it is; ``slide`` is drawn under an overlay picture.

    The job that is returned can be cancelled; nothing is left behind then.
    """
    from napari_histoseg.results import export

    def write(step: Step) -> Path:
        return export(result, out, overwrite=True, slide=slide, step=step)

    def refused(sentence: str) -> None:
        panel.rest()
        problem(sentence)

    panel.wait(f"Writing {out}…")
    job = in_steps(f"Exporting to {out.name}", write, lambda path: panel.rest(f"Written: {path}"), refused, parent)
    job.progress.connect(lambda progress: panel.show_progress(progress, f"Writing {out.name}"))
    job.cancelled.connect(lambda: panel.rest(f"Cancelled. {out.name} was not written."))
    return job
