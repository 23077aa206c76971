"""Slides, results and tissue as napari layers, and back.

Scale, units and axis labels are set here and nowhere else. napari puts a pixel's center at its index, so an array whose
pixels are ``k`` times larger than the slide's starts ``(k - 1) / 2`` slide pixels further in.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.gui.features import status_table
from napari_histoseg.gui.live import live_levels
from napari_histoseg.slide import Box, Slide, TissueMask

if TYPE_CHECKING:
    from napari.layers import Labels, Layer
    from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap

    from napari_histoseg.results import Result
    from napari_histoseg.results.record import ClassRecord, RunRecord

LayerData = tuple[Any, dict[str, Any], str]
"""What a napari reader returns for a layer: data, keyword arguments, type."""

KEY = "histoseg"
"""Key of this package's entry in ``layer.metadata``."""

TISSUE_COLOR = "#2e9e6b"
HEAT_COLORS = ((0.0, "#2f6fd400"), (0.02, "#2f6fd424"), (0.35, "#35a0c850"), (0.5, "#f7e45a78"), (0.75, "#f7bc3c98"), (1.0, "#f2841ab8"))
"""Of a heatmap that is seen over its slide: clear, blue, yellow from even odds on, orange. Told apart by color-blind eyes, and from outlines."""
MAPPED = "Mapped tumour"
"""Name of a result's outline; one that a person drew is called otherwise."""
BAND_COLORS = ((0.0, "#00000000"), (0.1, "#00000000"), (0.3, "#8e24aa90"), (1.0, "#e040fbe0"))
HUES = (45 / 360, 235 / 360)
N_COLORS = 48


def place(
    pixel: float | None, base: float | None, x: float = 0, y: float = 0, origin: tuple[float, float] = (0.0, 0.0)
) -> dict[str, Any]:
    """Scale, translation, units and axis labels of a layer.

    Parameters
    ----------
    pixel, base : float or None
        µm per pixel of the layer and of the slide's level 0; without a pixel size both in level-0 pixels (``base`` None).
    x, y : float
        Upper left corner of the layer, in pixels of the layer, from the slide's upper left corner.
    origin : (y, x)
        Where the slide's layer was moved to, in the world's units.
    """
    unit = "pixel" if base is None else "um"
    pixel, base = pixel or 1.0, base or 1.0
    inward = (pixel - base) / 2
    return {
        "scale": (pixel, pixel),
        "translate": (origin[0] + y * pixel + inward, origin[1] + x * pixel + inward),
        "units": (unit, unit),
        "axis_labels": ("y", "x"),
    }


def slide_layer(slide: Slide) -> LayerData:
    """The slide as a lazy RGB image, multiscale when it has several levels."""
    levels = slide.pyramid()
    several = len(levels) > 1
    keywords = {
        "name": slide.name,
        "rgb": True,
        "multiscale": several,
        "metadata": {KEY: {"slide": slide, "facts": _facts(slide)}},
        **place(slide.mpp, slide.mpp),
    }
    return (levels if several else levels[0]), keywords, "image"


def _facts(slide: Slide) -> dict[str, Any]:
    return {
        "format": slide.format,
        "vendor": slide.vendor,
        "objective": slide.objective,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "levels": [(level.width, level.height, level.downsample) for level in slide.levels],
    }


def labels_layer(
    arrays: Sequence[Any],
    *,
    name: str,
    mpp: float,
    base: float,
    frame: Box,
    metadata: dict[str, Any],
    origin: tuple[float, float] = (0.0, 0.0),
    fresh: bool = False,
    classes: Sequence[ClassRecord] = (),
) -> LayerData:
    """Labels that grow on disk as a multiscale layer.

    Parameters
    ----------
    arrays : sequence of zarr.Array
        Finest first, (h, w).
    mpp, base : float
        µm per pixel of the labels, and of the slide's level 0.
    frame : Box
        Where they lie, in working pixels of the slide.
    metadata : dict
        Goes into ``layer.metadata["histoseg"]``.
    origin : (y, x)
        Where the slide's layer was moved to.
    fresh : bool
        Nothing was written yet; see `live_levels`.
    classes : sequence of ClassRecord
        For labels that are class values: names and colors of all that pixels are stored with. Without them labels are ids of objects.
    """
    keywords: dict[str, Any] = {
        "name": name,
        "multiscale": True,
        "opacity": 0.5 if classes else 0.6,
        "colormap": class_colors(classes) if classes else object_colors(),
        "metadata": {KEY: metadata},
        **place(mpp, base, frame.x, frame.y, origin),
    }
    if classes:
        keywords["features"] = class_table(classes)
    return live_levels(arrays, fresh), keywords, "labels"


def class_colors(classes: Sequence[ClassRecord]) -> DirectLabelColormap:
    """The colors that classes have; the background (0) and unknown values are clear."""
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[int | None, str] = {None: "transparent", 0: "transparent"}
    table.update({c.value: c.color for c in classes if c.value})
    return DirectLabelColormap(color_dict=table, name="histoseg classes")


def class_table(classes: Sequence[ClassRecord]) -> pd.DataFrame:
    """What napari says of the values of a map of classes."""
    names = {0: "background", **{c.value: c.name for c in classes}}
    return pd.DataFrame({"index": list(names), "class": list(names.values())})


def object_colors() -> CyclicLabelColormap:
    """Bright yellows, greens, cyans and blues: the hues that hematoxylin and eosin leave free. Neighbors differ."""
    from napari.utils.colormaps import CyclicLabelColormap

    hues = np.linspace(HUES[0], HUES[1], N_COLORS // 3, endpoint=False)
    colors = [colorsys.hsv_to_rgb(hue, s, v) for s, v in ((1.0, 1.0), (0.6, 1.0), (1.0, 0.8)) for hue in hues]
    shuffled = np.random.default_rng(1).permutation(np.array(colors))
    rgba = np.column_stack([shuffled, np.ones(len(shuffled))])
    return CyclicLabelColormap(colors=np.vstack([np.zeros((1, 4)), rgba]).astype(np.float32), name="histoseg objects")


def probability_layer(
    arrays: Sequence[Any],
    *,
    name: str,
    mpp: float,
    base: float,
    frame: Box,
    metadata: dict[str, Any],
    origin: tuple[float, float] = (0.0, 0.0),
) -> LayerData:
    """A probability map (0–255) as a multiscale heatmap."""
    keywords = {
        "name": name,
        "multiscale": True,
        "rgb": False,
        "colormap": "inferno",
        "contrast_limits": (0, 255),
        "blending": "additive",
        "opacity": 0.7,
        "visible": False,
        "metadata": {KEY: metadata},
        **place(mpp, base, frame.x, frame.y, origin),
    }
    return live_levels(arrays), keywords, "image"


def heat_layer(arrays: Sequence[Any], *, fresh: bool = False, metadata: dict[str, Any], **where: Any) -> LayerData:
    """A probability map (0–255) as a heatmap that is seen over its slide; parameters as of `probability_layer` and `labels_layer`."""
    _, keywords, kind = probability_layer(arrays, metadata={**metadata, "kind": "probability"}, **where)
    look = {"colormap": _ramp(HEAT_COLORS, "histoseg heat"), "blending": "translucent_no_depth", "opacity": 0.8, "visible": True}
    return live_levels(arrays, fresh), {**keywords, **look}, kind


def uncertainty_layer(arrays: Sequence[Any], *, metadata: dict[str, Any], **where: Any) -> LayerData:
    """A standard deviation (0–255 for 0–0.5) as a band over the slide, not seen at first."""
    data, keywords, kind = probability_layer(arrays, metadata={**metadata, "kind": "uncertainty"}, **where)
    look = {"colormap": _ramp(BAND_COLORS, "histoseg band"), "blending": "translucent_no_depth", "opacity": 1.0, "visible": False}
    return data, {**keywords, **look}, kind


def _ramp(stops: Sequence[tuple[float, str]], name: str) -> Any:
    from napari.utils.colormaps import Colormap

    return Colormap([color for _, color in stops], controls=[at for at, _ in stops], name=name)


def _heat_layers(result: Result, metadata: dict[str, Any], common: dict[str, Any]) -> list[LayerData]:
    """Heatmap and edge band of a result of tumour."""
    record, arrays = result.record, result.arrays()
    layers = []
    if arrays.get("probability"):
        layers.append(heat_layer(arrays["probability"], name=f"Probability of {record.slide.name}", metadata=metadata, **common))
    if arrays.get("uncertainty"):
        layers.append(uncertainty_layer(arrays["uncertainty"], name=f"Edge band of {record.slide.name}", metadata=metadata, **common))
    return layers


def result_layers(result: Result) -> list[LayerData]:
    """The layers of a stored result, placed over its slide."""
    from napari_histoseg.results.classmap import is_class_map, stored_classes

    record = result.record
    arrays = result.arrays()
    mpp, base = record.mpp, record.slide.mpp
    common: dict[str, Any] = {"mpp": mpp, "base": base, "frame": record.frame}
    metadata = {"result": result, "slide_fingerprint": record.slide.fingerprint}
    heat = record.method == "tumour"
    layers = _heat_layers(result, metadata, common) if heat else []
    if arrays.get("probability") and not heat:
        name = f"Probability of {record.slide.name}"
        layers.append(probability_layer(arrays["probability"], name=name, metadata=dict(metadata), **common))
    if arrays.get("labels"):
        name = f"{MAPPED if heat else record.method.capitalize()} of {record.slide.name}"
        classes = stored_classes(result) if is_class_map(result) else ()
        data, keywords, kind = labels_layer(arrays["labels"], name=name, metadata=dict(metadata), classes=classes, **common)
        if result.has_objects:
            keywords["features"] = status_table(result.objects)
            if len(result.class_of) > 1:
                keywords["colormap"] = _colors_of_objects(result)
        layers.append((data, keywords, kind))
    if pyramid := result.image_pyramid:
        layers.insert(0, _image_layer(result, list(pyramid), metadata, common))
    return layers


def _colors_of_objects(result: Result) -> DirectLabelColormap:
    """The colors of the classes that a result's objects have by now."""
    from napari_histoseg.gui.inspectorcolors import object_colors_of

    rows = result.stored_objects
    return object_colors_of(rows["id"].to_numpy(), result.class_reader.state.values_of_frame(rows), result.classes)


def _image_layer(result: Result, pyramid: list[Any], metadata: dict[str, Any], common: dict[str, Any]) -> LayerData:
    """A picture that a run made, in colors; when it covers the whole slide, other docks can read it as a slide."""
    record = result.record
    frame: Box = common["frame"]
    about = dict(metadata)
    if record.region is None:
        slide = _stored_slide(result)
        about |= {"slide": slide, "facts": _facts(slide)}
    several = len(pyramid) > 1
    keywords = {
        "name": f"{record.slide.name} as {_reference(record)}",
        "rgb": True,
        "multiscale": several,
        "metadata": {KEY: about},
        **place(common["mpp"], common["base"], frame.x, frame.y),
    }
    return (pyramid if several else pyramid[0]), keywords, "image"


def _reference(record: RunRecord) -> str:
    """What a normalized picture looks like."""
    stain = record.slide.stain or {}
    target = stain.get("target")
    name = target.get("name") if isinstance(target, dict) else target
    return str(name or stain.get("style") or record.method)


def _stored_slide(result: Result) -> Slide:
    """The picture of a result as a slide, under the name of the slide that it was made of."""
    from napari_histoseg.results.pyramid import folder_name
    from napari_histoseg.slide.open import open_source

    source = open_source(result.path / folder_name("image"))
    source.name = result.record.slide.name
    return Slide(source, result.record.mpp, "file")


def tissue_layer(tissue: TissueMask, slide: Slide) -> LayerData:
    """The tissue mask as a small editable labels layer: 1 is tissue, paint or erase to correct it."""
    from napari.utils.colormaps import DirectLabelColormap

    keywords = {
        "name": f"Tissue of {slide.name}",
        "opacity": 0.3,
        "colormap": DirectLabelColormap(color_dict={0: "transparent", 1: TISSUE_COLOR, None: TISSUE_COLOR}),
        "metadata": {KEY: {"tissue_of": slide.fingerprint()}},
        **place((slide.mpp or 1.0) * tissue.downsample, slide.mpp),
    }
    return tissue.mask.astype(np.uint8), keywords, "labels"


def tissue_of(layer: Labels, slide: Slide) -> TissueMask:
    """The tissue that a tissue layer shows now, corrections included."""
    return TissueMask.from_array(np.asarray(layer.data) > 0, slide)


def level0_points(layer: Layer, world: Any) -> NDArray[np.float64]:
    """World points (n, 2) as ``(y, x)`` → level-0 pixels (n, 2) as ``(x, y)`` of a slide's image layer.

    Level-0 coordinates are continuous: 0 is the left edge of the first pixel, where napari has -0.5.
    """
    points = np.atleast_2d(np.asarray(world, float))
    data = np.array([layer.world_to_data(point[-2:])[:2] for point in points])
    return data[:, ::-1] + 0.5


def world_points(layer: Layer, level0: Any) -> NDArray[np.float64]:
    """Level-0 pixels (n, 2) as ``(x, y)`` → world points (n, 2) as ``(y, x)``; the inverse of `level0_points`."""
    points = np.atleast_2d(np.asarray(level0, float))[:, ::-1] - 0.5
    return np.array([layer.data_to_world(point) for point in points])


def box_around(points: NDArray[np.float64], bounds: Box) -> Box:
    """The smallest box of whole pixels around points ``(x, y)``, cut to ``bounds``; empty when they do not meet."""
    low, high = np.floor(points.min(0) + 1e-6).astype(int), np.ceil(points.max(0) - 1e-6).astype(int)
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])).intersect(bounds)
