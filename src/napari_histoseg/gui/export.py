"""Writing a result to a file chosen in a dialog, on a thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QWidget

from napari_histoseg.gui.background import in_background
from napari_histoseg.gui.folders import safe_name

if TYPE_CHECKING:
    from napari_histoseg.results import Result
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
    parent: QWidget, result: Result, slide: Slide | None, say: Callable[[str], None], problem: Callable[[str], None]
) -> None:
    """Ask for a file and write the result into it; the extension decides the format. The dialog asks before replacing."""
    start = f"{safe_name(result.record.slide.name)}-{result.record.method}.geojson"
    name, chosen = QFileDialog.getSaveFileName(parent, "Export", start, ";;".join(FILTERS))
    if name:
        export_to(with_extension(name, chosen), result, slide, say, problem, parent)


def with_extension(name: str, chosen: str) -> Path:
    """The file's name, with the extension of the chosen filter when it has none that is known."""
    known = any(name.lower().endswith(extension) for extension in [*FILTERS.values(), ".tif"])
    return Path(name if known else name + FILTERS.get(chosen, ".geojson"))


def export_to(
    out: Path,
    result: Result,
    slide: Slide | None,
    say: Callable[[str], None],
    problem: Callable[[str], None],
    parent: QWidget,
) -> None:
    """Write the result into ``out`` on a thread and say so; ``slide`` is drawn under an overlay picture."""
    from napari_histoseg.results import export

    say(f"Writing {out}…")

    def write() -> Path:
        return export(result, out, overwrite=True, slide=slide)

    in_background(f"Exporting to {out.name}", write, lambda path: say(f"Written: {path}"), problem, parent)
