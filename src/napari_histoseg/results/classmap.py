"""Class maps: results whose labels are class values. Area of each class, and its regions as outlines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import dask.array as da
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from napari_histoseg.results.files import Step, no_step
from napari_histoseg.results.geojson import DECIMALS, color_of, write_collection
from napari_histoseg.results.pyramid import rgb
from napari_histoseg.results.record import ClassRecord
from napari_histoseg.results.result import Result
from napari_histoseg.results.shapes import outline_of
from napari_histoseg.slide.geometry import Box

BLOCK_PX = 2048


def is_class_map(result: Result) -> bool:
    """Whether the labels of a result are class values, not ids of objects."""
    return "labels" in result.record.outputs and not result.has_objects


def classes_of(result: Result) -> list[ClassRecord]:
    """The classes that are regions of their own: all but the background, which has the value 0."""
    return [c for c in result.classes if c.value]


def stored_classes(result: Result) -> list[ClassRecord]:
    """Every value that pixels are stored with, with the name and color that it is shown with; without those that are shown as background."""
    return result.class_reader.state.stored_classes


def stored_areas(result: Result, step: Step = no_step) -> dict[int, int]:
    """Area of each value that pixels are stored with, in working pixels; 0 for those that no pixel has."""
    counts = np.zeros(1 + max(result.class_of, default=0), np.int64)
    for _, block in blocks(result.levels("labels")[0], step):
        counts += np.bincount(block.ravel(), minlength=len(counts))[: len(counts)]
    return {value: int(counts[value]) for value in result.class_of}


def class_areas(result: Result, step: Step = no_step) -> pd.DataFrame:
    """Area of each class.

    Returns
    -------
    DataFrame
        A row a class: ``value``, ``class``, ``area_mm2`` (NaN without a pixel size), ``area_px`` (working pixels), ``share`` of what
        all classes cover together. The background is no class of its own: where nothing was computed is background, too.
    """
    classes, known = classes_of(result), result.class_of
    shown = dict.fromkeys((c.value for c in result.classes), 0)
    for value, count in stored_areas(result, step).items():
        shown[known[value].value] += count
    pixels = np.array([shown[c.value] for c in classes], np.int64)
    return pd.DataFrame(
        {
            "value": [c.value for c in classes],
            "class": [c.name for c in classes],
            "area_mm2": pixels * ((result.mpp or np.nan) / 1000) ** 2,
            "area_px": pixels,
            "share": pixels / max(int(pixels.sum()), 1),
        }
    )


def blocks(labels: da.Array, step: Step = no_step) -> Iterator[tuple[Box, NDArray[np.uint32]]]:
    """The labels in squares of 2048 px; boxes count from the array's corner."""
    height, width = labels.shape
    corners = [(x, y) for y in range(0, height, BLOCK_PX) for x in range(0, width, BLOCK_PX)]
    for number, (x, y) in enumerate(corners):
        step(number, len(corners))
        box = Box(x, y, min(BLOCK_PX, width - x), min(BLOCK_PX, height - y))
        yield box, np.asarray(labels[box.slices])


def write_areas(result: Result, path: Path, step: Step = no_step) -> None:
    """The area of each class as CSV; UTF-8, comma, point."""
    class_areas(result, step).to_csv(path, index=False)


def write_regions(result: Result, path: Path, step: Step = no_step) -> None:
    """Every connected region of a class as a GeoJSON annotation with its area; compressed when the name ends in ``.gz``."""

    def features() -> Iterator[str]:
        for number, (region_class, shape) in enumerate(regions(result, step), 1):
            yield _feature(number, region_class, shape, result)

    write_collection(path, features())


def regions(result: Result, step: Step = no_step) -> Iterator[tuple[ClassRecord, shapely.Polygon]]:
    """Every connected region of a class: its exact outline along pixel edges, with holes, in level-0 pixels."""
    classes = {c.value: c for c in classes_of(result)}
    parts: dict[int, list[Any]] = {value: [] for value in classes}
    for box, block in blocks(result.labels, step):
        for value in np.intersect1d(np.unique(block), list(classes)).tolist():
            parts[value].append(outline_of(block == value, (result.frame.x + box.x, result.frame.y + box.y), 1.0))
    for value, found in parts.items():
        # Pieces of neighboring blocks share an edge at whole numbers, so that they join without a seam.
        whole = shapely.union_all(found)
        for shape in shapely.get_parts(whole):
            yield classes[value], shapely.transform(shape.simplify(0), lambda xy: np.round(xy * result.downsample, DECIMALS))


def _feature(number: int, region_class: ClassRecord, shape: shapely.Polygon, result: Result) -> str:
    base = result.record.slide.mpp
    measured = {} if base is None else {"area µm²": round(shape.area * base**2, 2)}
    color = color_of(region_class.name, {region_class.name: region_class.color})
    properties = {
        "objectType": "annotation",
        "classification": {"name": region_class.name, "color": rgb(color)},
        "measurements": measured,
    }
    geometry = shapely.to_geojson(shape)
    return f'{{"type":"Feature","id":"{UUID(int=number)}","geometry":{geometry},"properties":{json.dumps(properties, ensure_ascii=False)}}}'


Write = Callable[[Result, Path, Step], None]
WRITERS: dict[str, Write] = {".geojson.gz": write_regions, ".geojson": write_regions, ".csv": write_areas}
"""What a class map writes in place of objects."""
