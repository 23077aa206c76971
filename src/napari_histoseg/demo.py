"""``histoseg demo``: the main job on a sample, from pixels to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_histoseg as hs
from napari_histoseg.samples import sample_slide

if TYPE_CHECKING:
    from napari_histoseg.console import Progress


def run_demo(out: Path, progress: Progress) -> dict[str, Any]:
    """Find the nuclei of the sample slide and write a picture, outlines and a table into ``out``.

    Returns
    -------
    dict
        The slide, counts and sizes, seconds and the files written; only JSON types.

    Raises
    ------
    HistosegError
        What the run or the export raises.
    """
    from napari_histoseg.console import watch_run

    slide = sample_slide()
    mpp = slide.require_mpp()
    progress.note(f"{slide.name}: {slide.width} × {slide.height} px, {mpp:.3g} µm/px ({slide.mpp_source})")
    if slide.mpp_source == "user":
        progress.note(
            "The sample slide is not on this machine and could not be downloaded, so this is stained tissue that comes "
            "with scikit-image. It is immunohistochemistry, and its pixel size is assumed."
        )
    finished = watch_run(hs.iter_run("nuclei", slide, out=out / "result", overwrite=True), progress)
    result = finished.result
    files = {
        kind: str(hs.export(result, out / f"nuclei{extension}", overwrite=True, slide=slide))
        for kind, extension in {"picture": ".png", "outlines": ".geojson", "table": ".csv"}.items()
    }
    tissue_mm2 = hs.tissue_mask(slide).area_px * mpp**2 / 1e6
    areas = result.objects["area_um2"].to_numpy(float)
    return {
        "slide": slide.name,
        "mpp": mpp,
        "mpp_source": slide.mpp_source,
        "nuclei": len(areas),
        "tissue_mm2": round(tissue_mm2, 4),
        "nuclei_per_mm2": round(len(areas) / tissue_mm2, 1) if tissue_mm2 > 0 else 0.0,
        "mean_area_um2": round(float(np.mean(areas)), 2) if len(areas) else 0.0,
        "seconds": round(finished.seconds, 2),
        "device": result.record.device,
        "files": {**files, "result": str(result.path)},
    }
