"""``histoseg demo``: the main job on a sample, from pixels to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari_histoseg as hs
from napari_histoseg.samples import sample_slide
from napari_histoseg.summary import summarize

if TYPE_CHECKING:
    from napari_histoseg.console import Progress

FILES = {"picture": "overlay.png", "outlines": "nuclei.geojson.gz", "table": "nuclei.csv"}


def run_demo(out: Path, progress: Progress, download: bool = True) -> dict[str, Any]:
    """Find the nuclei of the sample slide and write a picture, outlines and a table into ``out``.

    Run again, it replaces what it wrote.

    Returns
    -------
    dict
        Counts, sizes, seconds and the files written; only JSON types.

    Raises
    ------
    HistosegError
        What the run or the export raises.
    """
    from napari_histoseg.console import watch_run

    with sample_slide(download) as slide:
        progress.note(
            f"{slide.name}: {slide.width} × {slide.height} px, {slide.mpp:.3g} µm/px ({slide.mpp_source})"
        )
        if slide.mpp_source == "user":
            progress.note(
                f"The sample slide is not on this machine and {'could not be' if download else 'was not'} downloaded, so "
                "this is stained tissue that comes with scikit-image. It is immunohistochemistry, not H&E, and its pixel "
                "size is assumed."
            )
        finished = watch_run(hs.iter_run("nuclei", slide, out=out / "result", overwrite=True), progress)
        result = finished.result
        files = {
            kind: str(hs.export(result, out / name, overwrite=True, slide=slide))
            for kind, name in FILES.items()
        }
        found = summarize(slide, result, finished.seconds)
    areas = result.objects["area_um2"]
    return {
        "slide": slide.name,
        **found,
        "mean_area_um2": float(areas.mean()) if len(areas) else None,
        "sd_area_um2": float(areas.std()) if len(areas) > 1 else None,
        "files": {**files, "result": str(result.path)},
    }
