"""What a run found, in numbers: how many objects, on how much tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg.results.classmap import class_areas, is_class_map
from napari_histoseg.slide import Box, TissueMask, is_field, tissue_mask

if TYPE_CHECKING:
    from napari_histoseg.results import Result
    from napari_histoseg.slide import Slide


def summarize(slide: Slide, result: Result, seconds: float) -> dict[str, Any]:
    """The summary that ``histoseg run`` prints; only JSON types.

    ``area_mm2`` is the area of tissue in the region (of the region, when the run was told to compute glass too, or the picture is a small
    field).
    """
    record = result.record
    area = examined_mm2(slide, result)
    objects = len(result.objects) if result.has_objects else None
    named = _classes(result)
    classes = {"classes": named} if named else {}
    return {
        "result": str(result.path),
        "method": record.method,
        "status": record.status,
        "objects": objects,
        "area_mm2": area,
        "density_per_mm2": objects / area if objects is not None and area > 0 else None,
        **classes,
        "tiles": record.n_tiles,
        "failed_tiles": record.failed_tiles,
        "notices": record.notices,
        "mpp": record.mpp,
        "device": record.device,
        "seconds": round(seconds, 3),
    }


def _classes(result: Result) -> dict[str, dict[str, float]]:
    """Area and share of each class of a class map; count and share of each class of objects, where there are several."""
    if not is_class_map(result):
        return _counts(result) if result.has_objects and len(result.classes) > 1 else {}
    rows = class_areas(result).set_index("class")[["area_mm2", "share"]]
    return {str(name): {"area_mm2": float(row.area_mm2), "share": float(row.share)} for name, row in rows.iterrows()}


def _counts(result: Result) -> dict[str, dict[str, float]]:
    found = result.objects["class"].value_counts()
    counts = {c.name: int(found.get(c.name, 0)) for c in result.classes}
    total = max(sum(counts.values()), 1)
    return {name: {"objects": count, "share": count / total} for name, count in counts.items()}


def examined_mm2(slide: Slide, result: Result) -> float:
    """Area of the tissue that a run examined, mm²; of its whole region when it did not look for tissue."""
    import shapely

    record = result.record
    box = result.region or slide.bounds
    tissue = tissue_mask(slide) if record.settings.get("tissue_only") and not is_field(slide) else None
    if record.outline is None:
        area, share = float(box.area), 1.0 if tissue is None else tissue.fraction(box)
    else:
        whole = shapely.box(slide.bounds.x, slide.bounds.y, slide.bounds.right, slide.bounds.bottom)
        outline = shapely.from_wkt(record.outline).intersection(whole)
        area, share = outline.area, 1.0 if tissue is None else _tissue_share(tissue, outline, box)
    return float(area * share * slide.require_mpp() ** 2 / 1e6)


def _tissue_share(tissue: TissueMask, outline: Any, box: Box) -> float:
    """Part of an outline (level-0 pixels) that is tissue: of the mask's pixels whose centers it holds."""
    import shapely

    height, width = tissue.mask.shape
    part = box.scaled(1 / tissue.downsample).intersect(Box(0, 0, width, height))
    x = (np.arange(part.x, part.right) + 0.5) * tissue.downsample
    y = (np.arange(part.y, part.bottom) + 0.5) * tissue.downsample
    shapely.prepare(outline)
    inside = shapely.contains_xy(outline, x[None, :], y[:, None])
    # An outline smaller than a mask pixel may hold no center.
    return float(tissue.mask[part.slices][inside].mean()) if inside.any() else tissue.fraction(box)
