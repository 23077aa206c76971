"""`export`: a result as a file for other programs; the extension says which."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from napari_histoseg.errors import ResultError, SettingsError
from napari_histoseg.results import classmap, geojson, overlay, tables, tiff
from napari_histoseg.results.files import Step, no_step, storage_errors
from napari_histoseg.results.pyramid import folder_name, name_labels
from napari_histoseg.results.result import Result, open_result

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

Write = Callable[[Result, Path, Step], None]
OF_OBJECTS: tuple[Write, ...] = (geojson.write_geojson, tables.write_csv, tables.write_parquet, tables.write_h5ad)


def export(
    result: Result | Path | str,
    out: Path | str,
    *,
    overwrite: bool = False,
    slide: Slide | None = None,
    max_px: int = 2400,
    step: Step = no_step,
) -> Path:
    """Write a result as a file; it appears under its name only when it is complete.

    ``.geojson``, ``.geojson.gz``
        Polygons in level-0 pixels with class colors and measurements, as QuPath reads them: objects, or the regions of a
        class map.
    ``.csv``, ``.parquet``, ``.h5ad``
        The object table; ``.parquet`` with outlines, ``.h5ad`` (AnnData) with ``obsm["spatial"]`` in µm and the embedding, where
        there is one, in ``obsm["X_embedding"]``. Of a class map,
        ``.csv`` is the area of each class.
    ``.tif``, ``.tiff``, ``.ome.tif``, ``.ome.tiff``
        The labels (or the image, where a method makes none) with their pixel size; OME-TIFF with pyramid.
    ``.zarr``
        The OME-Zarr pyramid.
    ``.png``
        A picture of the labels over the slide.

    Parameters
    ----------
    result : Result or path
    out : path
    overwrite : bool
        Replace a file that is there.
    slide : Slide, optional
        For ``.png``; opened from the record's path when not given, white when that is gone.
    max_px : int
        Longer side of the ``.png`` at most.
    step : callable, optional
        Called with (pieces written, pieces in all) before each piece. What it raises stops the export, which then leaves
        nothing behind.

    Raises
    ------
    SettingsError
        The extension is unknown, or the result has nothing for it.
    ResultError
        The file exists.
    StorageError
        Writing failed.
    """
    source = result if isinstance(result, Result) else open_result(result)
    target = Path(out)

    writers = _writers(slide, max_px) | (classmap.WRITERS if classmap.is_class_map(source) else {})
    extension = next((e for e in writers if target.name.lower().endswith(e)), None)
    if extension is None:
        raise SettingsError(f"{target.name!r} has no extension that a result can be exported to. Use one of {', '.join(writers)}.")
    if writers[extension] in OF_OBJECTS and not source.has_objects:
        others = ", ".join(e for e, write in writers.items() if write not in OF_OBJECTS)
        raise SettingsError(f"A result of {source.record.method} has no objects to write as {extension}. Export it as one of {others}.")
    _check_target(target, overwrite)
    with storage_errors(target, remedy="export again"):
        _write(source, target, writers[extension], extension, step)
    return target


def _writers(slide: Slide | None, max_px: int) -> dict[str, Write]:
    """The writer of each extension; longer extensions come before those that they end with."""

    def picture(result: Result, path: Path, step: Step) -> None:
        step(0, 1)
        overlay.write_png(result, path, slide, max_px)

    return {
        ".geojson.gz": geojson.write_geojson,
        ".geojson": geojson.write_geojson,
        ".ome.tiff": tiff.write_ome_tiff,
        ".ome.tif": tiff.write_ome_tiff,
        ".tiff": tiff.write_tiff,
        ".tif": tiff.write_tiff,
        ".csv": tables.write_csv,
        ".parquet": tables.write_parquet,
        ".h5ad": tables.write_h5ad,
        ".zarr": _copy_zarr,
        ".png": picture,
    }


def _write(source: Result, target: Path, write: Write, extension: str, step: Step) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Same extension, because the writers look at it.
    partial = target.with_name(f".{uuid.uuid4().hex}{extension}")
    try:
        write(source, partial, step)
        if target.is_dir():
            shutil.rmtree(target)
        partial.replace(target)
    finally:
        with suppress(OSError):
            _remove(partial)


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise ResultError(f"{target} exists. Choose another name, or pass --overwrite.")
    # Only what an export could have made is replaced.
    if target.is_dir() and not (target.name.lower().endswith(".zarr") and (target / "zarr.json").is_file()):
        raise ResultError(f"{target} is a folder, so it is not overwritten. Choose another name.")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy_zarr(result: Result, path: Path, step: Step) -> None:
    source = result.path / folder_name(tiff.main_kind(result))
    total, copied = sum(1 for each in source.rglob("*") if each.is_file()), count()

    def copy(name: str, target: str) -> str:
        step(next(copied), total)
        return shutil.copy2(name, target)

    shutil.copytree(source, path, copy_function=copy)
    if classmap.is_class_map(result):
        _show_classes(result, path)


def _show_classes(result: Result, path: Path) -> None:
    """Give a copy of the labels the values, names and colors that the classes have by then."""
    state = result.class_reader.state
    name_labels(path, state.classes)
    group: Any = zarr.open_group(path, mode="r+")
    for array in group.arrays() if state.renumbers else ():
        for box, block in classmap.blocks(array[1]):
            array[1][box.slices] = state.shown_pixels(block)
