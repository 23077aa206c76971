"""Objects as GeoJSON that QuPath reads: polygons in level-0 pixels, classes with colors, measurements.

The rules are QuPath's (https://qupath.readthedocs.io, "Exporting annotations"): rings are closed, a
MultiPolygon of one part is a Polygon, the color belongs to ``classification``, numbers are finite.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from napari_histoseg.objects.colors import PALETTE
from napari_histoseg.results.classes import CLUSTER, CORRECTED, EMBEDDING
from napari_histoseg.results.files import Step, no_step
from napari_histoseg.results.pyramid import rgb
from napari_histoseg.results.result import Result

STEP_OBJECTS = 1000
DECIMALS = 2
"""Coordinates are rounded to a hundredth of a level-0 pixel."""
_PALETTE = PALETTE[:8]
_NOT_MEASURED = ("id", "class", "outline", CLUSTER, CORRECTED)


def write_geojson(result: Result, path: Path, step: Step = no_step) -> None:
    """Stream a result's objects into a FeatureCollection; compressed when the name ends in ``.gz``."""

    def counted() -> Iterator[str]:
        total = result.n_stored
        for number, feature in enumerate(features(result)):
            if number % STEP_OBJECTS == 0:
                step(number, total)
            yield feature

    write_collection(path, counted())


def write_collection(path: Path, texts: Iterable[str]) -> None:
    """Write the JSON texts of features as a FeatureCollection; compressed when the name ends in ``.gz``."""
    with path.open("wb") as plain:
        if path.name.endswith(".gz"):
            # No time stamp: the same result gives the same bytes.
            with gzip.GzipFile("", "wb", 6, plain, mtime=0) as packed:
                _write(packed.write, texts)
        else:
            _write(plain.write, texts)


def _write(write: Callable[[bytes], Any], texts: Iterable[str]) -> None:
    write(b'{"type":"FeatureCollection","features":[')
    separator = "\n"
    for feature in texts:
        write((separator + feature).encode())
        separator = ",\n"
    write(b"\n]}\n")


def features(result: Result) -> Iterator[str]:
    """Every object as the JSON text of a GeoJSON feature."""
    colors = class_colors(result)
    for objects in result.iter_objects():
        geometries = shapely.to_geojson(_geometries(objects, result))
        names = [c for c in objects.columns if c not in _NOT_MEASURED and not c.startswith(EMBEDDING) and _numeric(objects[c])]
        values = _significant(objects[names].to_numpy(float))
        finite: list[bool] = [bool(row.all()) for row in np.isfinite(values)]
        heads = {name: _classification(name, colors) for name in objects["class"].unique()}
        rows = zip(objects["id"].tolist(), objects["class"], geometries, values.tolist(), finite, strict=True)
        for identity, name, geometry, row, clean in rows:
            measured = {n: v for n, v in zip(names, row, strict=True) if clean or math.isfinite(v)}
            yield (
                f'{{"type":"Feature","id":"{UUID(int=identity)}","geometry":{geometry},"properties":'
                f'{{"objectType":"detection",{heads[name]}"measurements":{json.dumps(measured)}}}}}'
            )


def _classification(name: object, colors: dict[str, str]) -> str:
    if not isinstance(name, str):
        return ""
    value = {"name": name, "color": rgb(color_of(name, colors))}
    return f'"classification":{json.dumps(value, ensure_ascii=False)},'


def _significant(values: NDArray[np.float64], digits: int = 7) -> NDArray[np.float64]:
    """Numbers rounded to what a 32-bit float holds, so that their text is short."""
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(values))) + 1 - digits)
        # Division by a power of ten is exact to the last digit; multiplication by its inverse is not.
        rounded = np.where(unit < 1, np.round(values / unit) / np.round(1 / unit), np.round(values / unit) * unit)
    return np.where(np.isfinite(rounded), rounded, values)


def class_colors(result: Result) -> dict[str, str]:
    """``#rrggbb`` of each class that the result names."""
    return {c.name: c.color for c in result.classes}


def color_of(name: str, colors: dict[str, str]) -> str:
    """A class's color, given or made up from its name, the same every time."""
    return colors.get(name) or _PALETTE[sum(name.encode()) % len(_PALETTE)]


def _geometries(objects: pd.DataFrame, result: Result) -> NDArray[np.object_]:
    downsample, mpp = result.downsample, result.mpp or 1.0
    x = objects["centroid_x_um"].to_numpy(float) / mpp * downsample
    y = objects["centroid_y_um"].to_numpy(float) / mpp * downsample
    points: NDArray[np.object_] = shapely.points(np.round(x, DECIMALS), np.round(y, DECIMALS))
    if "outline" not in objects.columns:
        return points
    shapes: NDArray[np.object_] = shapely.from_wkb(objects["outline"].where(objects["outline"].notna(), None).to_numpy(object))
    shapes = shapely.transform(shapes, lambda xy: np.round(xy, DECIMALS))
    broken = ~(shapely.is_valid(shapes) | shapely.is_missing(shapes))
    shapes[broken] = [_polygons_only(shape) for shape in shapely.make_valid(shapes[broken])]
    single = (shapely.get_type_id(shapes) == shapely.GeometryType.MULTIPOLYGON) & (shapely.get_num_geometries(shapes) == 1)
    shapes[single] = shapely.get_geometry(shapes[single], 0)
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    return np.where(missing, points, shapes)


def _polygons_only(shape: shapely.Geometry) -> shapely.Geometry:
    """The areas of a repaired outline, without the lines and points that repairing may leave."""
    parts = shapely.get_parts(shapely.get_parts(np.array([shape])))
    areas = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return areas[0] if len(areas) == 1 else shapely.MultiPolygon(list(areas))


def _numeric(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))
