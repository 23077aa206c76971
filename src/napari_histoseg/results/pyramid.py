"""Image pyramids in OME-Zarr 0.5: shapes, metadata, and how one level follows from the finer one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec

from napari_histoseg.results.files import atomic, sync_file
from napari_histoseg.results.record import ClassRecord, RunRecord

Kind = Literal["labels", "probability", "uncertainty", "image"]
KINDS: tuple[Kind, ...] = ("labels", "probability", "uncertainty", "image")
CHUNK_PX = 512
DTYPES: dict[Kind, type[np.generic]] = {"labels": np.uint32, "probability": np.uint8, "uncertainty": np.uint8, "image": np.uint8}


def folder_name(kind: Kind) -> str:
    """Name of the OME-Zarr folder of an output inside a result folder."""
    return f"{kind}.ome.zarr"


def level_shapes(shape: tuple[int, int], chunk_px: int = CHUNK_PX) -> list[tuple[int, int]]:
    """``(height, width)`` of every level: halved, rounded up, until one chunk holds all."""
    shapes = [shape]
    while max(shapes[-1]) > chunk_px:
        height, width = shapes[-1]
        shapes.append(((height + 1) // 2, (width + 1) // 2))
    return shapes


def create_pyramid(folder: Path, kind: Kind, record: RunRecord) -> list[zarr.Array[Any]]:
    """Create the empty OME-Zarr pyramid of an output in the result folder; its levels, finest first."""
    path = folder / folder_name(kind)
    group = zarr.open_group(path, mode="w", zarr_format=3)
    channels = (3,) if kind == "image" else ()
    for level, shape in enumerate(level_shapes(record.frame.shape)):
        group.create_array(
            str(level),
            shape=(*channels, *shape),
            chunks=(*channels, CHUNK_PX, CHUNK_PX),
            serializer=BytesCodec(endian="little"),
            compressors=ZstdCodec(level=0, checksum=False),
            dtype=DTYPES[kind],
            fill_value=255 if kind == "image" else 0,
            dimension_names=("c", "y", "x") if channels else ("y", "x"),
        )
    group.attrs["ome"] = ome_metadata(kind, record)
    for metadata in path.rglob("zarr.json"):
        sync_file(metadata)
    return open_pyramid(folder, kind, mode="r+")


def open_pyramid(folder: Path, kind: Kind, mode: Literal["r", "r+"] = "r") -> list[zarr.Array[Any]]:
    """The levels of a stored output, finest first; an empty list when the result has no such output."""
    path = folder / folder_name(kind)
    if not (path / "zarr.json").exists():
        return []
    group = zarr.open_group(path, mode=mode, zarr_format=3)
    levels: list[zarr.Array[Any]] = []
    while str(len(levels)) in group:
        array = group[str(len(levels))]
        assert isinstance(array, zarr.Array)
        levels.append(array)
    return levels


def translation_um(record: RunRecord, level: int = 0) -> tuple[float, float]:
    """``(y, x)`` in µm from the center of the slide's first pixel to that of a level's first pixel.

    This is what OME-Zarr and napari call translation: both put a pixel's center at its index. Without a pixel
    size the unit is level-0 pixels.
    """
    unit, base = pixel_size(record)
    shift = (unit * 2**level - base) / 2
    return record.frame.y * unit + shift, record.frame.x * unit + shift


def pixel_size(record: RunRecord) -> tuple[float, float]:
    """Working and level-0 pixel size in µm; ``(1, 1)`` (pixels) when the slide has none."""
    if record.mpp is None or record.slide.mpp is None:
        return 1.0, 1.0
    return record.mpp, record.slide.mpp


def ome_metadata(kind: Kind, record: RunRecord) -> dict[str, Any]:
    """The ``ome`` attribute of an output's pyramid (OME-Zarr 0.5, https://ngff.openmicroscopy.org/0.5)."""
    space: dict[str, str] = {"type": "space"}
    if record.mpp is not None:
        space["unit"] = "micrometer"
    axes = [{"name": "y", **space}, {"name": "x", **space}]
    rgb = kind == "image"
    if rgb:
        axes.insert(0, {"name": "c", "type": "channel"})
    lead = [1.0] if rgb else []
    datasets = []
    unit, _ = pixel_size(record)
    for level in range(len(level_shapes(record.frame.shape))):
        scale = {"type": "scale", "scale": [*lead, unit * 2**level, unit * 2**level]}
        offset = [0.0] if rgb else []
        move = {"type": "translation", "translation": [*offset, *translation_um(record, level)]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, move]})
    multiscale = {
        "name": f"{record.method} {kind}",
        "axes": axes,
        "datasets": datasets,
        "type": "mode" if kind == "labels" else "mean",
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    if kind == "labels":
        ome["image-label"] = _image_label(record.classes)
    if rgb:
        ome["omero"] = _omero()
    return ome


def name_labels(path: Path, classes: Sequence[ClassRecord]) -> None:
    """Give the values of a stored label pyramid (its OME-Zarr folder) other names and colors."""
    about = path / "zarr.json"
    data = json.loads(about.read_text(encoding="utf-8"))
    data["attributes"]["ome"]["image-label"] = _image_label(classes)
    with atomic(about) as file:
        file.write(json.dumps(data, indent=2).encode())


def _image_label(classes: Sequence[ClassRecord]) -> dict[str, Any]:
    if not classes:
        return {}
    return {
        "colors": [{"label-value": c.value, "rgba": [*rgb(c.color), 255]} for c in classes],
        "properties": [{"label-value": c.value, "class": c.name} for c in classes],
    }


def _omero() -> dict[str, Any]:
    window = {"start": 0, "min": 0, "end": 255, "max": 255}
    colors = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    return {"channels": [{"label": n, "color": c, "active": True, "window": window} for n, c in colors]}


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue (0–255) of ``"#rrggbb"``."""
    digits = color.lstrip("#")
    return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)


def halve(block: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """The next coarser level of a block ``(..., h, w)`` whose origin lies at even coordinates.

    Labels take the most frequent of the four values (never a value that is not there); intensities their
    rounded mean. The last row or column of an odd size counts double.
    """
    pad = [(0, 0)] * (block.ndim - 2) + [(0, block.shape[-2] % 2), (0, block.shape[-1] % 2)]
    if any(after for _, after in pad):
        block = np.pad(block, pad, mode="edge")
    a, b = block[..., ::2, ::2], block[..., ::2, 1::2]
    c, d = block[..., 1::2, ::2], block[..., 1::2, 1::2]
    if kind == "labels":
        return _mode(a, b, c, d)
    total = a.astype(np.uint16) + b + c + d
    mean: NDArray[Any] = ((total + 2) // 4).astype(block.dtype)
    return mean


def _mode(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]) -> NDArray[Any]:
    # a wins unless another value occurs more often: b, c and d have to hold a pair while a stands alone.
    alone = (a != b) & (a != c) & (a != d)
    other = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    result: NDArray[Any] = np.where(alone, other, a)
    return result
