"""Label images in files: NumPy, PNG, TIFF, and (OME-)Zarr."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.cells.planes import Plane
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.units import to_um

IMAGES = (".png", ".tif", ".tiff", ".npy")
WHOLE_BYTES = 2 << 30
"""Largest image that is taken into memory where its format cannot be read in parts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file says that its image lies: µm per pixel, and the upper left corner in µm from the slide's."""

    mpp: float
    x_um: float
    y_um: float


def open_file(path: Path) -> tuple[Plane, Place | None]:
    """The label image in a file or folder, and where it lies, if the file says so.

    Raises
    ------
    SettingsError
        It cannot be read, or is no label image.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _open_zarr(path)
    if suffix not in IMAGES:
        raise SettingsError(
            f"{path} holds no objects that can be read. Give a result folder, a label image ({', '.join(IMAGES)}), "
            "an OME-Zarr folder, or a .geojson file."
        )
    readers = {".png": _open_png, ".npy": _open_npy}
    try:
        return Plane(readers.get(suffix, _open_tiff)(path), str(path)), None
    except SettingsError:
        raise
    except Exception as error:  # every library raises its own kinds for damaged files
        raise SettingsError(f"{path} cannot be read as a label image ({error}).") from error


def _open_npy(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _open_png(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        # A palette's colors mean nothing here: its indices are the ids.
        return np.asarray(image)


def _open_tiff(path: Path) -> Any:
    import tifffile

    from napari_histoseg.slide._tiff import Bytes
    from napari_histoseg.slide._tiff_meta import check_complete

    with tifffile.TiffFile(path) as tif:
        check_complete(tif, str(path))
        series = max(tif.series, key=lambda s: int(np.prod(s.shape)))
        page = None if series.pages[0] is None else series.pages[0].aspage()
        lead = series.shape[:-2] if "S" not in series.axes else series.shape
        plain = page is not None and int(page.photometric) == 1 and page.samplesperpixel == 1
        if plain and all(n == 1 for n in lead) and len(series.pages) == 1:
            return _TiffPlane(Bytes(str(path)), page)
        if int(np.prod(series.shape)) * np.dtype(series.dtype).itemsize > WHOLE_BYTES:
            raise SettingsError(f"{path} is too large to be read at once. Save the ids as a plain tiled TIFF or as OME-Zarr.")
        return series.asarray()


class _TiffPlane:
    """A TIFF page as an array; segments that are not stored hold no object."""

    def __init__(self, file: Any, page: Any) -> None:
        from napari_histoseg.slide._tiff import Plane as Segments

        class Sparse(Segments):
            def _segment(self, number: int) -> npt.NDArray[Any] | None:
                found = super()._segment(number)
                return np.zeros((*self.tile[::-1], self.samples), self.dtype) if found is None else found

        self._segments = Sparse(file, page)
        self.shape = (self._segments.height, self._segments.width)
        self.dtype = self._segments.dtype
        self.chunks = self._segments.tile[::-1]

    def __getitem__(self, index: tuple[slice, slice]) -> npt.NDArray[Any]:
        rows, columns = index
        box = Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        return self._segments.read(box)[..., 0]


def _open_zarr(path: Path) -> tuple[Plane, Place | None]:
    import zarr

    try:
        node = zarr.open(path, mode="r")
    except Exception as error:  # zarr and its codecs raise many kinds for what is no zarr or damaged
        raise SettingsError(f"{path} is neither a result folder nor an OME-Zarr label image ({error}).") from error
    if isinstance(node, zarr.Array):
        return Plane(node, str(path)), None
    group = _label_group(node, path)
    attributes = _attributes(group)
    scales = attributes.get("multiscales")
    entry = scales[0] if isinstance(scales, list) and scales and isinstance(scales[0], dict) else {}
    datasets = entry.get("datasets")
    dataset = datasets[0] if isinstance(datasets, list) and datasets and isinstance(datasets[0], dict) else {"path": "0"}
    array = _array(group, str(dataset.get("path", "")), path)
    return Plane(array, str(path)), _place(entry, dataset, array)


def _attributes(group: Any) -> dict[str, Any]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    return dict(ome) if isinstance(ome, dict) else attributes


def _label_group(group: Any, path: Path) -> Any:
    """The group with the label image: this one, or the only one among the labels of a picture."""
    if "labels" not in group or "image-label" in _attributes(group):
        return group
    names = _attributes(group["labels"]).get("labels")
    names = [str(name) for name in names] if isinstance(names, list) else sorted(str(name) for name in group["labels"])
    if len(names) != 1:
        raise SettingsError(f"{path} is a picture with {len(names)} label images. Give one of them: {path}/labels/<name>. {' '.join(names)}")
    if names[0] not in group["labels"]:
        raise SettingsError(f"{path} names the label image '{names[0]}', but does not hold it.")
    return group["labels"][names[0]]


def _array(group: Any, name: str, path: Path) -> Any:
    """One level; its path may not leave the folder."""
    import zarr

    root = path.resolve()
    inside = (root / group.path / name).resolve().is_relative_to(root)
    try:
        node = group[name] if name and inside else None
    except Exception as error:  # zarr and its codecs raise many kinds for damaged metadata
        raise SettingsError(f"{path}: the level '{name}' cannot be opened ({error}).") from error
    if not isinstance(node, zarr.Array):
        raise SettingsError(f"{path} holds no label image: its level '{name}' is no array inside the folder.")
    return node


def _place(entry: dict[str, Any], dataset: dict[str, Any], array: Any) -> Place | None:
    """Where the metadata put the image; None where they give no lengths."""
    axes = entry.get("axes")
    if not isinstance(axes, list) or len(axes) != len(array.shape):
        return None
    found: dict[str, tuple[float, float]] = {}
    for number, axis in enumerate(axes):
        unit = to_um(axis.get("unit")) if isinstance(axis, dict) else None
        if unit is not None and axis.get("name") in ("x", "y"):
            scale, shift = _along(entry, dataset, number)
            found[axis["name"]] = scale * unit, shift * unit
    if len(found) < 2 or not all(np.isfinite(v).all() and v[0] > 0 for v in found.values()):
        return None
    (x_mpp, x), (y_mpp, y) = found["x"], found["y"]
    mpp = (x_mpp + y_mpp) / 2
    return Place(mpp, x, y) if abs(x_mpp - y_mpp) <= 0.01 * mpp else None


def _along(entry: dict[str, Any], dataset: dict[str, Any], axis: int) -> tuple[float, float]:
    """Scale and translation along an axis; those of the level come before those of the image."""
    scale, shift = 1.0, 0.0
    for owner in (dataset, entry):
        for step in owner.get("coordinateTransformations") or []:
            values = step.get(step.get("type")) if isinstance(step, dict) else None
            if not isinstance(values, list) or axis >= len(values):
                continue
            if step["type"] == "scale":
                scale, shift = scale * float(values[axis]), shift * float(values[axis])
            elif step["type"] == "translation":
                shift += float(values[axis])
    return scale, shift
