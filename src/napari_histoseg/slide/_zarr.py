"""OME-Zarr 0.4 (zarr 2) and 0.5 (zarr 3) images, read by zarr-python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_histoseg.errors import SlideError
from napari_histoseg.slide._array import ArraySource
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.normalize import Layout
from napari_histoseg.slide.units import to_um

METADATA = {"zarr.json", ".zattrs", ".zarray", ".zgroup"}


class ZarrSource(ArraySource):
    """An OME-Zarr image folder, or a folder that is one plain zarr array."""

    def __init__(self, path: str) -> None:
        node = _open(path)
        if isinstance(node, zarr.Array):
            super().__init__([node], Path(path).name, "zarr", path)
            return
        node, image = _image(node, path)
        datasets = image.get("datasets") or []
        arrays = [_dataset(node, str(d.get("path", "")), path) for d in datasets]
        axes = image.get("axes") or []
        if not arrays or len(axes) != len(arrays[0].shape):
            raise SlideError(f"{path} is no OME-Zarr image: its axes and its arrays do not fit together.")
        super().__init__(arrays, Path(path).name, "ome-zarr", path, _layout(axes, arrays[0].shape, path))
        self.set_pixel_size(*_pixel_size(axes, datasets[0], image))

    def identity(self) -> bytes:
        """The metadata files, and a sample of the coarsest level."""
        root = Path(str(self.path))
        parts = [
            p.read_bytes() for depth in ("*", "*/*") for p in sorted(root.glob(depth)) if p.name in METADATA
        ]
        last = self.levels[-1]
        box = Box(0, 0, min(last.width, 512), min(last.height, 512))
        return b"\0".join([*parts, np.ascontiguousarray(self._raw(len(self.levels) - 1, box)).tobytes()])


def is_zarr(place: Path) -> bool:
    """Whether a folder holds zarr metadata."""
    return any((place / name).is_file() for name in METADATA)


def _open(path: str) -> zarr.Group | zarr.Array[Any]:
    try:
        return zarr.open(path, mode="r")
    except Exception as error:  # zarr and its codecs raise many kinds for damaged metadata
        raise SlideError(f"{path} is not a slide or image that can be read ({error}).") from error


def _attributes(group: zarr.Group) -> dict[str, Any]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    return dict(ome) if isinstance(ome, dict) else attributes


def _image(group: zarr.Group, path: str) -> tuple[zarr.Group, dict[str, Any]]:
    """The group that holds the image, and its ``multiscales`` entry."""
    attributes = _attributes(group)
    if "bioformats2raw.layout" in attributes and "0" in group:
        inner = group["0"]
        if isinstance(inner, zarr.Group):
            group, attributes = inner, _attributes(inner)
    if "plate" in attributes:
        raise SlideError(f"{path} is a plate of many wells. Open one of its images (a folder such as A/1/0).")
    if "image-label" in attributes:
        raise SlideError(f"{path} is a label image, not a picture. Open the image that it belongs to.")
    scales = attributes.get("multiscales")
    if not isinstance(scales, list) or not scales or not isinstance(scales[0], dict):
        raise SlideError(
            f"{path} is a zarr folder without OME-Zarr image metadata (multiscales). Open the image group."
        )
    return group, scales[0]


def _dataset(group: zarr.Group, name: str, path: str) -> zarr.Array[Any]:
    """One level; its path may not leave the folder."""
    root = Path(path).resolve()
    place = (root / group.path / name).resolve()
    if not name or not place.is_relative_to(root):
        raise SlideError(
            f"{path}: the level {json.dumps(name)} lies outside the folder. Levels must be inside it."
        )
    try:
        node = group[name]
    except Exception as error:  # zarr and its codecs raise many kinds for damaged metadata
        raise SlideError(f"{path}: the level {json.dumps(name)} cannot be opened ({error}).") from error
    if not isinstance(node, zarr.Array):
        raise SlideError(f"{path}: the level {json.dumps(name)} is a group, not an array.")
    return node


def _layout(axes: list[Any], shape: tuple[int, ...], path: str) -> Layout:
    names = [str(axis.get("name") if isinstance(axis, dict) else axis) for axis in axes]
    if "y" not in names or "x" not in names:
        raise SlideError(f"{path} has the axes {names}. An image has y and x.")
    channel = names.index("c") if "c" in names else None
    if channel is not None and names.index("y") < channel < names.index("x"):
        raise SlideError(f"{path} has the axes {names}. The channels come before y or after x.")
    long = {n: s for n, s in zip(names, shape, strict=True) if n not in ("y", "x", "c") and s > 1}
    if long:
        text = ", ".join(f"{n} of length {s}" for n, s in long.items())
        raise SlideError(
            f"{path} is a stack ({text}). Save the one plane that is to be analyzed as its own image."
        )
    return Layout(len(names), names.index("y"), names.index("x"), channel)


def _pixel_size(
    axes: list[Any], dataset: dict[str, Any], image: dict[str, Any]
) -> tuple[float | None, float | None]:
    """µm/px of x and y; None where the axes have no unit."""
    found: dict[str, float | None] = {}
    for number, axis in enumerate(axes):
        if not isinstance(axis, dict) or axis.get("name") not in ("x", "y"):
            continue
        value = to_um(axis.get("unit"))
        scales = [_scale(entry, number) for entry in (dataset, image)]
        if value is None or all(s is None for s in scales):
            return None, None
        for s in scales:
            value *= 1.0 if s is None else s
        found[axis["name"]] = value
    return found.get("x"), found.get("y")


def _scale(entry: dict[str, Any], axis: int) -> float | None:
    for step in entry.get("coordinateTransformations") or []:
        if step.get("type") == "scale" and isinstance(step.get("scale"), list) and axis < len(step["scale"]):
            return float(step["scale"][axis])
    return None
