"""Labels or images as tiled TIFF and pyramidal OME-TIFF, streamed tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.results.files import Step, no_step
from napari_histoseg.results.pyramid import Kind
from napari_histoseg.results.result import Result

TILE_PX = 512
_BIGTIFF_BYTES = 2**31


def main_kind(result: Result) -> Kind:
    """What an image file of a result shows: its labels, else its image, else its probability map."""
    kinds: tuple[Kind, ...] = ("labels", "image", "probability")
    for kind in kinds:
        if result.levels(kind):
            return kind
    raise SettingsError(f"A result of {result.record.method} has no pixels. Export it as .csv or .parquet.")


def shown_levels(result: Result, kind: Kind) -> list[da.Array]:
    """An output at every level, finest first; class maps with the values of the classes that are shown."""
    return result.pyramid if kind == "labels" else result.levels(kind)


def write_tiff(result: Result, path: Path, step: Step = no_step) -> None:
    """A tiled TIFF with µm/px in its resolution tags."""
    kind = main_kind(result)
    level = shown_levels(result, kind)[0]
    with tifffile.TiffWriter(path, bigtiff=level.nbytes > _BIGTIFF_BYTES) as writer:
        writer.write(_counted([level], step)[0], **_options(level, result.mpp), metadata=None, software="napari-histoseg")


def write_ome_tiff(result: Result, path: Path, step: Step = no_step) -> None:
    """A pyramidal OME-TIFF: coarser levels in SubIFDs, µm/px and the place on the slide in OME-XML."""
    kind = main_kind(result)
    levels = shown_levels(result, kind)
    metadata: dict[str, Any] = {
        "axes": "YXS" if kind == "image" else "YX",
        "Name": f"{result.record.method} {kind}",
    }
    if result.mpp is not None:
        y, x = result.translation_um()
        metadata |= {
            "PhysicalSizeX": result.mpp,
            "PhysicalSizeY": result.mpp,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeYUnit": "µm",
            "Plane": {"PositionX": [x], "PositionY": [y], "PositionXUnit": ["µm"], "PositionYUnit": ["µm"]},
        }
    big = sum(level.nbytes for level in levels) > _BIGTIFF_BYTES
    with tifffile.TiffWriter(path, bigtiff=big, ome=True) as writer:
        for number, (level, pieces) in enumerate(zip(levels, _counted(levels, step), strict=True)):
            mpp = None if result.mpp is None else result.mpp * 2**number
            options = _options(level, mpp)
            if number == 0:
                options |= {"subifds": len(levels) - 1, "metadata": metadata}
            else:
                options |= {"subfiletype": 1, "metadata": None}
            writer.write(pieces, **options)


def _counted(levels: Sequence[da.Array], step: Step) -> list[Iterator[NDArray[Any]]]:
    """The tiles of each level; ``step`` hears of every one in all of them."""
    per_level = [-(-a.shape[0] // TILE_PX) * -(-a.shape[1] // TILE_PX) for a in levels]

    def count(level: da.Array, before: int) -> Iterator[NDArray[Any]]:
        for number, tile in enumerate(tiles(level), before):
            step(number, sum(per_level))
            yield tile

    return [count(level, sum(per_level[:i])) for i, level in enumerate(levels)]


def tiles(level: da.Array) -> Iterator[NDArray[Any]]:
    """Full-size tiles of an array ``(y, x)`` or ``(y, x, c)`` in TIFF's order, one row of them in memory."""
    height, width = level.shape[:2]
    for top in range(0, height, TILE_PX):
        band = np.asarray(level[top : top + TILE_PX])
        for left in range(0, width, TILE_PX):
            tile = band[:, left : left + TILE_PX]
            missing = [(0, TILE_PX - tile.shape[0]), (0, TILE_PX - tile.shape[1])]
            yield np.pad(tile, missing + [(0, 0)] * (tile.ndim - 2))


def _options(level: da.Array, mpp: float | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "shape": level.shape,
        "dtype": level.dtype,
        "tile": (TILE_PX, TILE_PX),
        "compression": "zlib",
        "photometric": "rgb" if level.ndim == 3 else "minisblack",
    }
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    return options
