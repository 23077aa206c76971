"""Probabilities of blocks from maps: stored results and pictures that cover a slide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.coarse import check_range
from napari_histoseg.annotations.heattiles import LEAST_KNOWN, covered_share
from napari_histoseg.errors import DatasetError
from napari_histoseg.results import Result
from napari_histoseg.slide import Slide
from napari_histoseg.slide.geometry import Box

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".npy")
PIXELS_A_BLOCK = 8
"""A level of a map is fine enough when a block is so many of its pixels wide."""
STRIP_PX = 1024
FULL_SCALE = {"u1": 255, "u2": 65535}

Values = NDArray[np.float64]


def result_values(result: Result, grid: BlockGrid, slide: Slide) -> Values:
    """Mean probability of each block in a stored map, read in strips from a coarse level.

    Returns
    -------
    (rows, columns) float64
        NaN where the run covered less than half of a block.

    Raises
    ------
    DatasetError
        The result is of another slide, has not finished, or has no map of a probability.
    """
    record = result.record
    if record.slide.fingerprint != slide.fingerprint():
        raise DatasetError(f"The result {result.path} is of the slide {record.slide.name}, and not of {slide.name}. Give this slide's result.")
    levels = result.probability_pyramid
    if not levels:
        raise DatasetError(f"The result of {record.method} in {result.path} has no map of a probability. Give one that has, for instance of tumour.")
    if not result.finished:
        raise DatasetError(f"The run in {result.path} has not finished, so that parts of its map are empty. Finish it with --resume first.")
    reached = grid.side_px / (PIXELS_A_BLOCK * result.downsample)
    level = max((k for k in range(len(levels)) if 2**k <= reached), default=0)
    px, frame = result.downsample * 2**level, result.frame
    extent = frame.height / 2**level, frame.width / 2**level
    corner = frame.y * result.downsample, frame.x * result.downsample
    values = _means(lambda a, b: np.asarray(levels[level][a:b], np.float64), levels[level].shape, extent, grid, corner, (px, px))
    if record.outline is not None:
        values[covered_share([shapely.from_wkt(record.outline)], grid) < LEAST_KNOWN] = np.nan
    return values


def picture_values(source: str | Path | NDArray[Any], grid: BlockGrid, area: Box, name: str = "") -> Values:
    """Mean of a gray picture over each block; pixels that are NaN do not count.

    Parameters
    ----------
    source : path or (h, w) array
        PNG, TIFF, JPEG, NPY. Of whole numbers, the largest that 8 or 16 bits hold is probability 1; where there are only 0 and 1,
        these are. Others are probabilities.
    grid : BlockGrid
    area : Box
        What the picture shows, in level-0 pixels.
    name : str
        For messages; the file's when not given.

    Returns
    -------
    (rows, columns) float64
        NaN where the picture shows less than half of a block, or more than half of it is NaN.

    Raises
    ------
    DatasetError
        It cannot be read, has other proportions than the area, or holds other values.
    """
    is_file = isinstance(source, (str, Path))
    name = name or (str(source) if is_file else "The picture")
    pixels = _probabilities(_gray(_read(Path(source)) if isinstance(source, (str, Path)) else np.asarray(source), name), name)
    height, width = pixels.shape
    # Programs round the sides of maps up, down or to the nearest pixel.
    if abs(width * area.height - height * area.width) > area.width + area.height:
        raise DatasetError(
            f"{name} has {width} × {height} px, and what it should show {area.width} × {area.height} px, which has other proportions. "
            "Give a picture of the whole slide, or say which area it shows."
        )
    px = area.height / height, area.width / width
    return _means(lambda a, b: pixels[a:b], pixels.shape, (height, width), grid, (area.y, area.x), px)


def _read(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise DatasetError(f"{path} does not exist.")
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            return np.asarray(tifffile.imread(path))
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        with Image.open(path) as image:
            return np.array(image.convert("RGB") if image.mode in ("P", "CMYK") else image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be read as a picture: {error}") from error


def _gray(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    if pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4):
        colors = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
        if (colors != colors[..., :1]).any():
            raise DatasetError(f"{name} is a picture in color. Give the probability itself as a gray picture.")
        pixels = colors[..., 0]
    if pixels.ndim != 2:
        raise DatasetError(f"{name} has the shape {pixels.shape}. Give one plane of pixels.")
    if not pixels.size:
        raise DatasetError(f"{name} is empty. Give a picture with at least one pixel.")
    return pixels


def _probabilities(pixels: NDArray[Any], name: str) -> Values:
    kind = f"{pixels.dtype.kind}{pixels.dtype.itemsize}"
    if pixels.dtype.kind not in "bf" and kind not in FULL_SCALE:
        raise DatasetError(f"{name} has the type {pixels.dtype}. Give 8 or 16 bits a pixel, or floating point numbers between 0 and 1.")
    values = pixels.astype(np.float64)
    if kind in FULL_SCALE and values.max() > 1:
        values /= FULL_SCALE[kind]
    check_range(values, name)
    return values


def _means(
    rows: Callable[[int, int], Values],
    shape: tuple[int, ...],
    extent: tuple[float, float],
    grid: BlockGrid,
    corner: tuple[float, float],
    px: tuple[float, float],
) -> Values:
    """Area means of pixels over blocks.

    Parameters
    ----------
    rows : callable
        (first, last) → those rows of pixels.
    shape : (h, w)
        Of all pixels.
    extent : (h, w)
        How far they reach, in pixels: the last ones may lie outside the map in part.
    grid : BlockGrid
    corner, px : (y, x)
        Of the pixels, in level-0 pixels.
    """
    counts = grid.rows, grid.columns
    starts = grid.y, grid.x
    y, x = (
        np.clip((start + grid.side_px * np.arange(n + 1) - c) / p, 0, reach)
        for start, n, c, p, reach in zip(starts, counts, corner, px, extent, strict=True)
    )
    total, known = np.zeros(counts), np.zeros(counts)
    for first in range(0, shape[0], STRIP_PX):
        last = min(first + STRIP_PX, shape[0])
        if y[-1] <= first or y[0] >= last:
            continue
        strip = rows(first, last)
        at = np.clip(y - first, 0, last - first)
        there = ~np.isnan(strip)
        known += _sums(_sums(there.astype(np.float64), at).T, x).T
        total += _sums(_sums(np.where(there, strip, 0.0), at).T, x).T
    enough = known * px[0] * px[1] >= (LEAST_KNOWN - 1e-9) * grid.side_px**2
    return np.clip(np.where(enough, total / np.maximum(known, 1e-12), np.nan), 0, 1)


def _sums(values: Values, edges: Values) -> Values:
    """Sums of rows between edges, which may cut a row."""
    running = np.vstack([np.zeros((1, values.shape[1])), np.cumsum(values, 0)])
    low = np.minimum(edges.astype(int), len(values) - 1)
    part = (edges - low)[:, None]
    return np.asarray(np.diff(running[low] * (1 - part) + running[low + 1] * part, axis=0))
