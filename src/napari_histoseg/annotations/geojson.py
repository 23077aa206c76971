"""Regions from GeoJSON, as QuPath and others write it: level-0 pixels, names, classes with colors, measurements."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import burned, polygons_of
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Region:
    """One drawn area.

    Attributes
    ----------
    geometry : shapely Polygon or MultiPolygon
        Valid, in level-0 pixels whose corners lie at whole numbers.
    name : str or None
        The object's own name.
    class_name, color : str or None
        Its class and the class's ``#rrggbb``.
    measurements : dict of str to float
    object_type : str or None
        QuPath's ``annotation``, ``detection``, …
    """

    geometry: shapely.Polygon | shapely.MultiPolygon
    name: str | None = None
    class_name: str | None = None
    color: str | None = None
    measurements: dict[str, float] = field(default_factory=dict)
    object_type: str | None = None


def read_geojson(path: Path | str, problems: list[str] | None = None) -> list[Region]:
    """Read the areas of a GeoJSON file; points and lines in it are left out.

    Rings that are not closed, cross themselves or hold single impossible coordinates are repaired.

    Parameters
    ----------
    path : path
        ``.geojson``, ``.json``, or either with ``.gz``: a FeatureCollection, a list of features, one feature, or a
        bare geometry.
    problems : list of str, optional
        Collects a sentence about everything repaired or left out. Without it, an area that cannot be repaired is an
        error.

    Raises
    ------
    DatasetError
        The file cannot be read or is no GeoJSON, or (without ``problems``) names every area that is beyond repair.
    """
    path = Path(path)
    beyond_repair: list[str] = []
    notes: list[str] = []
    regions = []
    for number, feature in enumerate(_features(_load(path), path)):
        geometry = _geometry(feature.get("geometry"), _numbered(number, notes), _numbered(number, beyond_repair))
        if geometry is not None:
            regions.append(_region(geometry, feature.get("properties")))
    if problems is None and beyond_repair:
        raise DatasetError(f"{path} has {len(beyond_repair)} areas that cannot be used. {' '.join(beyond_repair)} Draw them again.")
    if problems is not None:
        problems += notes + beyond_repair
    return regions


def _numbered(number: int, sentences: list[str]) -> Say:
    return lambda text: sentences.append(f"Feature {number}: {text}.")


def rasterize(regions: Iterable[Region], box: Box, downsample: float = 1.0, values: Mapping[str, int] | None = None) -> NDArray[Any]:
    """Paint regions into a mask; a pixel belongs to a region that holds its center (`areas.burned`), and to the last of several.

    Parameters
    ----------
    regions : iterable of Region
    box : Box
        What the mask covers, in pixels of ``downsample`` level-0 pixels each.
    downsample : float
        Level-0 pixels per mask pixel.
    values : mapping of str to int, optional
        Value of each class; regions of other classes are left out.

    Returns
    -------
    (h, w) bool, or uint8 or uint16 with ``values``
    """
    largest = max(values.values(), default=0) if values is not None else 0
    mask: NDArray[Any] = np.zeros(box.shape, bool if values is None else np.uint8 if largest < 256 else np.uint16)
    for region in regions:
        value: int | None = 1 if values is None else values.get(region.class_name or "")
        if value is None or region.geometry.is_empty:
            continue
        scaled = shapely.transform(region.geometry, lambda points: points / downsample)
        left, top, right, bottom = scaled.bounds
        x, y = math.floor(left), math.floor(top)
        part = Box(x, y, math.ceil(right) - x, math.ceil(bottom) - y).intersect(box)
        if not part.empty:
            mask[part.relative_to(box).slices][burned(scaled, part, part.shape)] = value
    return mask


def _load(path: Path) -> Any:
    try:
        data = path.read_bytes()
        # By content: browsers and people rename files.
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return json.loads(text.decode("utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist.") from None
    except (OSError, EOFError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as GeoJSON: {error}") from error


def _features(data: Any, path: Path) -> Iterator[dict[str, Any]]:
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "FeatureCollection":
        data = data.get("features")
    elif kind == "Feature":
        data = [data]
    elif kind is not None:
        data = [{"geometry": data}]
    if not isinstance(data, list) or not all(isinstance(feature, dict) for feature in data):
        raise DatasetError(f"{path} is no GeoJSON: it holds no feature, list of features or FeatureCollection.")
    for feature in data:
        # A list may hold bare geometries too.
        yield feature if "geometry" in feature else {"geometry": feature}


def _geometry(data: Any, note: Say, fail: Say) -> shapely.Polygon | shapely.MultiPolygon | None:
    kind = data.get("type") if isinstance(data, dict) else None
    if kind == "GeometryCollection":
        members = [_geometry(member, note, fail) for member in data.get("geometries") or []]
        return _joined([part for member in members if member is not None for part in polygons_of(member)])
    if kind not in ("Polygon", "MultiPolygon"):
        note(f"it is a {kind or 'nothing'}, no area, and was left out")
        return None
    coordinates = data.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list):
        fail("it has no coordinates")
        return None
    parts = [area for rings in polygons for area in _polygon(rings, note, fail)]
    return _joined(parts)


def _polygon(rings: Any, note: Say, fail: Say) -> list[shapely.Polygon]:
    """A polygon from its rings, repaired; several when it crossed itself, none when it is beyond repair."""
    if not isinstance(rings, list) or not rings:
        fail("a polygon has no ring")
        return []
    clean = [_ring(ring, note) for ring in rings]
    if clean[0] is None:
        fail("its outline has fewer than three usable points")
        return []
    if any(ring is None for ring in clean[1:]):
        note("a hole with fewer than three usable points was filled")
    area = shapely.Polygon(clean[0], [ring for ring in clean[1:] if ring is not None])
    if area.is_valid:
        return [area]
    parts = polygons_of(shapely.make_valid(area))
    if parts:
        note("it crossed itself and was repaired")
    else:
        fail("its outline encloses nothing")
    return parts


def _ring(data: Any, note: Say) -> NDArray[np.float64] | None:
    """The usable points ``(n, 2)`` of a ring, closed; None when they are fewer than three."""
    plain = _plain_ring(data)
    if plain is not None:
        return plain
    points = [p[:2] for p in data if _is_point(p)] if isinstance(data, list) else []
    if isinstance(data, list) and len(points) < len(data):
        note(f"{len(data) - len(points)} impossible coordinates were dropped")
    if len(points) > 2 and points[0] != points[-1]:
        note("its ring was closed")
        points.append(points[0])
    ring = np.array(points, float)
    return ring if len(points) >= 4 and len(set(map(tuple, points))) >= 3 else None


def _plain_ring(data: Any) -> NDArray[np.float64] | None:
    """The points of a ring that needs no repair, as nearly all do: a file may hold hundreds of thousands."""
    if not isinstance(data, list) or len(data) < 4 or data[0] != data[-1]:
        return None
    try:
        points = np.array(data)
    except ValueError:
        return None
    if points.ndim != 2 or points.shape[1] < 2 or points.dtype.kind not in "if" or not np.isfinite(points).all():
        return None
    ring = points[:, :2].astype(np.float64)
    return ring if len(set(map(tuple, ring.tolist()))) >= 3 else None


def _is_point(data: Any) -> bool:
    return isinstance(data, list) and len(data) >= 2 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in data[:2])


def _joined(areas: list[shapely.Polygon]) -> shapely.Polygon | shapely.MultiPolygon | None:
    if len(areas) < 2:
        return areas[0] if areas else None
    whole = shapely.MultiPolygon(areas)
    # Parts that overlap make a MultiPolygon invalid.
    union = whole if whole.is_valid else shapely.union_all(areas)
    assert isinstance(union, (shapely.Polygon, shapely.MultiPolygon))
    return union


def _region(geometry: shapely.Polygon | shapely.MultiPolygon, data: Any) -> Region:
    properties = data if isinstance(data, dict) else {}
    given = properties.get("classification")
    given = {"name": given} if isinstance(given, str) else given
    kind = given if isinstance(given, dict) else {}
    names = kind.get("names")
    class_name = kind.get("name") or (": ".join(map(str, names)) if isinstance(names, list) and names else None)
    return Region(
        geometry,
        name=_text(properties.get("name")),
        class_name=_text(class_name),
        color=_color(kind) or _color(properties),
        measurements=_measurements({"probability": properties.get("probability")}) | _measurements(properties.get("measurements")),
        object_type=_text(properties.get("objectType") or properties.get("object_type")),
    )


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _color(data: Mapping[str, Any]) -> str | None:
    """``#rrggbb`` from ``color`` ``[r, g, b]``, or from the signed integer ``colorRGB`` of older QuPath."""
    color, packed = data.get("color"), data.get("colorRGB")
    if isinstance(color, list) and len(color) >= 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in color[:3]):
        return f"#{color[0]:02x}{color[1]:02x}{color[2]:02x}"
    return f"#{packed & 0xFFFFFF:06x}" if isinstance(packed, int) else None


def _measurements(data: Any) -> dict[str, float]:
    """Finite numbers from ``{name: value}``, or from the list of name and value of older QuPath."""
    if isinstance(data, list):
        data = {str(m["name"]): m.get("value") for m in data if isinstance(m, dict) and "name" in m}
    if not isinstance(data, dict):
        return {}
    return {str(k): float(v) for k, v in data.items() if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)}
