"""Probabilities of blocks from lists of places: tables of points and tiles, and areas that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import areal, burned
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.coarse import check_range
from napari_histoseg.annotations.geojson import Region, read_geojson
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide import Slide
from napari_histoseg.slide.geometry import Box

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PROBABILITIES = ("probability", "tumour", "tumor", "score")
"""What the number of a point, a tile or an area may be called, in this order."""
LEAST_KNOWN = 0.5
"""A block of which less is known has no value."""
SAMPLES = 16
"""Places looked at along a side of a block: areas are told to 1/256 of it."""
BATCH = 20_000
STRIP_SAMPLES = 2**24

Values = NDArray[np.float64]


# -- tables -------------------------------------------------------------------------------------------------------------


def table_values(source: str | Path | pd.DataFrame, grid: BlockGrid, slide: Slide, notices: list[str] | None = None) -> Values:
    """Mean probability in each block of a table of points or tiles.

    Parameters
    ----------
    source : path or DataFrame
        Columns ``x`` and ``y`` in level-0 pixels, or ``x_um`` and ``y_um``; and ``probability`` (or ``tumour``, ``tumor``, ``score``). With
        ``width`` and ``height`` (or ``width_um`` and ``height_um``) the rows are tiles, and x and y their left upper corners.
    grid : BlockGrid
    slide : Slide
    notices : list of str, optional
        Collects sentences about what was left out.

    Returns
    -------
    (rows, columns) float64
        NaN in blocks without a point, or of which tiles cover less than half.

    Raises
    ------
    DatasetError
        Columns are missing, hold no numbers or no probabilities, or no row lies on the slide.
    """
    name = str(source) if isinstance(source, (str, Path)) else "The table"
    table = _read(Path(source)) if isinstance(source, (str, Path)) else source
    table = table.rename(columns=lambda c: str(c).strip().lower())
    x, y, width, height, probability = _columns(table, name, slide)
    check_range(probability, name)
    known = ~(np.isnan(x) | np.isnan(y) | np.isnan(probability) | np.isnan(width) | np.isnan(height))
    middle_x, middle_y = x + width / 2, y + height / 2
    inside = known & (middle_x >= 0) & (middle_x < slide.width) & (middle_y >= 0) & (middle_y < slide.height)
    if not inside.any():
        spans = f"x {_span(middle_x)}, y {_span(middle_y)}"
        raise DatasetError(f"{name} has no row on {slide.name} ({slide.width} × {slide.height} px): its rows lie at {spans} px. Give the table of this slide.")
    if notices is not None:
        _say(notices, int((~known).sum()), "row has no number and was", "rows have no number and were")
        _say(notices, int((known & ~inside).sum()), f"row lies outside {slide.name} and was", f"rows lie outside {slide.name} and were")
    x, y, width, height, probability = (v[inside] for v in (x, y, width, height, probability))
    if not width.any():
        return _point_means(x, y, probability, grid)
    return _area_means(shapely.box(x, y, x + width, y + height), probability, grid)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise DatasetError(f"{path} does not exist.")
    try:
        return pd.read_csv(path, sep="\t" if ".tsv" in path.name.lower() else ",", skipinitialspace=True)
    except pd.errors.EmptyDataError:
        raise DatasetError(f"{path} is empty. Give a table with a head and rows.") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as a table: {error}") from error


def _columns(table: pd.DataFrame, name: str, slide: Slide) -> tuple[Values, Values, Values, Values, Values]:
    """x, y, width and height in level-0 pixels, and the probability."""
    unit = next((u for u in ("", "_um") if {f"x{u}", f"y{u}"} <= set(table)), None)
    number = next((c for c in PROBABILITIES if c in table), None)
    if unit is None or number is None:
        has = ", ".join(map(str, table)) or "none"
        raise DatasetError(f"{name} has the columns {has}. It needs x and y (level-0 pixels), or x_um and y_um, and one of {', '.join(PROBABILITIES)}.")
    if not len(table):
        raise DatasetError(f"{name} has no rows. Give a row for each point or tile.")
    sides = [f"{c}{unit}" in table for c in ("width", "height")]
    if any(sides) and not all(sides):
        raise DatasetError(f"{name} has one of the columns width{unit} and height{unit}. Tiles have both, and points neither.")
    factor = 1 / slide.require_mpp() if unit else 1.0
    x, y = (factor * _numbers(table, f"{c}{unit}", name) for c in "xy")
    width, height = (factor * _numbers(table, f"{c}{unit}", name) if any(sides) else np.zeros(len(table)) for c in ("width", "height"))
    if any(sides) and not (np.nanmin(width) > 0 and np.nanmin(height) > 0):
        raise DatasetError(f"{name} has tiles without an area. Their width{unit} and height{unit} are above 0.")
    return x, y, width, height, _numbers(table, number, name)


def _numbers(table: pd.DataFrame, column: str, name: str) -> Values:
    given = table[column]
    numbers = pd.to_numeric(given, errors="coerce")
    wrong = np.flatnonzero((numbers.isna() & given.notna()).to_numpy())
    if len(wrong):
        raise DatasetError(f"{name} has {given.iloc[wrong[0]]!r} in row {wrong[0] + 1} of the column {column}. Give a number.")
    return np.asarray(numbers, np.float64)


def _span(values: Values) -> str:
    return f"{np.nanmin(values):.0f} to {np.nanmax(values):.0f}" if not np.isnan(values).all() else "nowhere"


def _point_means(x: Values, y: Values, probability: Values, grid: BlockGrid) -> Values:
    column, row = (np.floor((v - start) / grid.side_px).astype(int) for v, start in ((x, grid.x), (y, grid.y)))
    there = (column >= 0) & (column < grid.columns) & (row >= 0) & (row < grid.rows)
    place, size = (row * grid.columns + column)[there], grid.rows * grid.columns
    count = np.bincount(place, minlength=size)
    total = np.bincount(place, probability[there], minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(grid.rows, grid.columns)


def _area_means(shapes: Sequence[shapely.Geometry] | NDArray[np.object_], numbers: Values, grid: BlockGrid) -> Values:
    """Mean of the numbers of areas in each block, by how much of it they cover."""
    tree, areas = shapely.STRtree(shapes), np.asarray(shapes, object)
    bounds = shapely.bounds(areas)
    # Tiles are rectangles, whose common part with a block takes no geometry.
    bent = ~np.isclose(shapely.area(areas), (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1]))
    size = grid.rows * grid.columns
    total, covered = np.zeros(size), np.zeros(size)
    for first in range(0, size, BATCH):
        row, column = np.divmod(np.arange(first, min(first + BATCH, size)), grid.columns)
        left, top = grid.x + column * grid.side_px, grid.y + row * grid.side_px
        blocks = shapely.box(left, top, left + grid.side_px, top + grid.side_px)
        which, found = tree.query(blocks)
        own, other = np.stack([left, top, left + grid.side_px, top + grid.side_px], 1)[which], bounds[found]
        sides = np.minimum(own[:, 2:], other[:, 2:]) - np.maximum(own[:, :2], other[:, :2])
        part = np.clip(sides, 0, None).prod(1)
        rest = bent[found]
        part[rest] = shapely.area(shapely.intersection(blocks[which[rest]], areas[found[rest]]))
        covered += np.bincount(first + which, part, minlength=size)
        total += np.bincount(first + which, part * numbers[found], minlength=size)
    enough = covered >= (LEAST_KNOWN - 1e-9) * grid.side_px**2
    return np.where(enough, total / np.maximum(covered, 1e-12), np.nan).reshape(grid.rows, grid.columns)


# -- areas --------------------------------------------------------------------------------------------------------------


def area_values(
    source: str | Path | Sequence[Region], grid: BlockGrid, slide: Slide, class_name: str | None = None, notices: list[str] | None = None
) -> Values:
    """How much of each block areas cover; or, where they carry a probability (as QuPath's tiles may), its mean.

    Parameters
    ----------
    source : path or sequence of Region
        GeoJSON in level-0 pixels. A probability is a number among the measurements of an area, called ``probability`` (or ``tumour``,
        ``tumor``, ``score``).
    grid : BlockGrid
    slide : Slide
    class_name : str, optional
        The class whose areas count; needed where there are several classes without probabilities.
    notices : list of str, optional
        Collects sentences about what was left out.

    Returns
    -------
    (rows, columns) float64
        Of areas with a probability NaN in blocks of which they cover less than half.

    Raises
    ------
    DatasetError
        The file cannot be read, no area lies on the slide, or it is not said which class counts.
    """
    name = str(source) if isinstance(source, (str, Path)) else "The list of areas"
    notices = [] if notices is None else notices
    given = read_geojson(source, notices) if isinstance(source, (str, Path)) else list(source)
    if not given:
        raise DatasetError(f"{name} holds no area. Draw areas, and export them as GeoJSON.")
    regions = _of_class(given, class_name, name)
    window = shapely.box(0, 0, slide.width, slide.height)
    inside = [r for r in regions if r.geometry.intersects(window)]
    if not inside:
        raise DatasetError(f"{name} has no area on {slide.name} ({slide.width} × {slide.height} px). Give the areas of this slide, in its level-0 pixels.")
    _say(notices, len(regions) - len(inside), f"area lies outside {slide.name} and was", f"areas lie outside {slide.name} and were")
    numbers = np.array([_probability(r) for r in inside])
    if np.isnan(numbers).all():
        return covered_share([r.geometry for r in inside], grid)
    check_range(numbers, name)
    known = ~np.isnan(numbers)
    _say(notices, int((~known).sum()), "area has no probability and was", "areas have no probability and were")
    return _area_means([r.geometry for r, k in zip(inside, known, strict=True) if k], numbers[known], grid)


def class_names(regions: Sequence[Region]) -> list[str]:
    """The classes of areas, without those that QuPath ignores (``Ignore*``)."""
    return sorted({r.class_name for r in regions if r.class_name and not r.class_name.endswith("*")})


def _of_class(regions: Sequence[Region], class_name: str | None, name: str) -> Sequence[Region]:
    names = class_names(regions)
    shown = ", ".join(f"'{n}'" for n in names)
    if class_name is not None:
        if class_name not in names:
            raise DatasetError(f"{name} has no area of the class '{class_name}'. Its classes are: {shown or 'none'}.")
        return [r for r in regions if r.class_name == class_name]
    if len(names) > 1 and all(np.isnan(_probability(r)) for r in regions):
        raise DatasetError(f"{name} has areas of the classes {shown}. Say which one counts, with --class, or class_name= in Python.")
    return [r for r in regions if not (r.class_name or "").endswith("*")]


def _probability(region: Region) -> float:
    named = {key.strip().lower(): value for key, value in region.measurements.items()}
    return next((named[key] for key in PROBABILITIES if key in named), float("nan"))


def covered_share(shapes: Sequence[shapely.Geometry], grid: BlockGrid) -> Values:
    """Share of each block (rows, columns) that lies in areas, which may overlap."""
    joined = areal(shapely.union_all(shapes))
    share = np.zeros((grid.rows, grid.columns))
    height = max(1, STRIP_SAMPLES // (grid.columns * SAMPLES**2))
    for first in range(0, grid.rows, height):
        n = min(height, grid.rows - first)
        box = Box(grid.x, grid.y + first * grid.side_px, grid.columns * grid.side_px, n * grid.side_px)
        samples = burned(joined, box, (n * SAMPLES, grid.columns * SAMPLES))
        share[first : first + n] = samples.reshape(n, SAMPLES, grid.columns, SAMPLES).mean((1, 3))
    return share


def _say(notices: list[str], n: int, one: str, many: str) -> None:
    if n:
        notices.append(f"{n} {one if n == 1 else many} left out.")
