"""`Result`: a result folder to read, whether its run has finished or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import zarr
from numpy.typing import NDArray

from napari_histoseg.results import journal, table
from napari_histoseg.results.classes import BookReader, ClassState
from napari_histoseg.results.files import TemporaryFolder
from napari_histoseg.results.pyramid import KINDS, Kind, open_pyramid, translation_um
from napari_histoseg.results.record import ClassRecord, RunRecord
from napari_histoseg.slide.geometry import Box

BATCH_ROWS = 10_000


class Result:
    """Labels, maps, objects and the record of one run; all of it lazy.

    Pixels are in the working frame, offset by ``frame.x, frame.y``. Micrometers count from the upper left
    corner of the slide's first level-0 pixel. Made by `open_result`, or returned by a run.
    """

    def __init__(self, path: Path, keep: TemporaryFolder | None = None) -> None:
        self.path = path
        self._keep = keep
        self._record = RunRecord.read(path)
        self._journal = journal.Journal(path)
        self._arrays = {kind: levels for kind in KINDS if (levels := open_pyramid(path, kind))}
        self.class_reader = BookReader(path, self._record)
        self._base: pd.DataFrame | None = None
        self._edited: pd.DataFrame | None = None
        self._objects: tuple[ClassState, pd.DataFrame] | None = None
        self._patches: tuple[ClassState, pd.DataFrame] | None = None

    def __repr__(self) -> str:
        return f"<Result of {self.record.method} on {self.record.slide.name}, {self.record.status}: {self.path}>"

    @property
    def record(self) -> RunRecord:
        """The run record as it was when the result was opened."""
        return self._record

    @property
    def classes(self) -> list[ClassRecord]:
        """The classes as they are shown: the record's, as far as nobody renamed, recolored, merged or split them (`ClassBook`)."""
        return list(self.class_reader.state.classes)

    @property
    def class_of(self) -> dict[int, ClassRecord]:
        """The class that each stored value (of ``labels`` of a class map, or of column ``cluster``) is shown as."""
        return dict(self.class_reader.state.by_value)

    @property
    def mpp(self) -> float | None:
        """Working pixel size in µm/px; None when the slide has none."""
        return self._record.mpp

    @property
    def downsample(self) -> float:
        """Level-0 pixels per working pixel."""
        return self._record.downsample

    @property
    def frame(self) -> Box:
        """The covered pixels, in working pixels of the slide."""
        return self._record.frame

    @property
    def region(self) -> Box | None:
        """The region that the run was limited to, in level-0 pixels; None for the whole slide."""
        return self._record.region

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._record.status == "finished"

    @property
    def labels(self) -> da.Array:
        """Object ids, or values of the classes that are shown, uint32 ``(y, x)``; 0 is background."""
        return self._shown(self._finest("labels"))

    @property
    def pyramid(self) -> list[da.Array]:
        """The labels at every level, finest first."""
        return [self._shown(level) for level in self.levels("labels")]

    @property
    def probability(self) -> da.Array | None:
        """Probability map, float32 0–1 ``(y, x)``; None when the method has none."""
        return self._finest("probability") if "probability" in self._arrays else None

    @property
    def uncertainty(self) -> da.Array | None:
        """Standard deviation of the probability over passes with dropout, float32 0–0.5 ``(y, x)``; None when the run had none."""
        return self._finest("uncertainty") if "uncertainty" in self._arrays else None

    @property
    def probability_pyramid(self) -> list[da.Array]:
        """The probability map at every level, finest first."""
        return self.levels("probability")

    @property
    def image(self) -> da.Array | None:
        """RGB image, uint8 ``(y, x, 3)``; None when the method makes none."""
        return self._finest("image") if "image" in self._arrays else None

    @property
    def image_pyramid(self) -> list[da.Array]:
        """The image at every level, finest first."""
        return self.levels("image")

    def levels(self, kind: Kind) -> list[da.Array]:
        """An output at every level, finest first, as it is stored; an empty list when the result has no such output.

        Of a class map, `pyramid` has the values of the classes that are shown in place of the stored ones.
        The arrays stay valid as long as they are referred to, also when the result lies in a temporary
        folder. They are made anew by every call, so that a viewer's cache never shows what an edit replaced.
        """
        return [_lazy(array, kind, self._keep) for array in self._arrays.get(kind, [])]

    def arrays(self) -> dict[str, list[zarr.Array[Any]]]:
        """The stored pyramids by output, finest first: uint32 labels, uint8 maps, ``(3, y, x)`` image."""
        return {str(kind): list(levels) for kind, levels in self._arrays.items()}

    def translation_um(self, level: int = 0) -> tuple[float, float]:
        """``(y, x)`` in µm from the center of the slide's first pixel to that of a level's."""
        return translation_um(self._record, level)

    @property
    def has_objects(self) -> bool:
        """Whether the method writes an object table."""
        return "objects" in self._record.outputs

    @property
    def has_patches(self) -> bool:
        """Whether the method writes a table of places all over a class map, for looking at its classes."""
        return "patches" in self._record.outputs

    @property
    def patches(self) -> pd.DataFrame:
        """One row a patch, sorted by id; empty for a method that has none.

        Columns ``id``, ``centroid_x_um``, ``centroid_y_um``, ``class`` (as it is shown), ``probability``, and of most methods ``cluster``,
        the value that the pixels there are stored with, and ``embedding_00`` and so on.
        """
        state = self.class_reader.state
        if self._patches is None:
            files = table.table_files(self.path) if self.has_patches else []
            self._patches = state, state.over_patches(_read(files).drop(columns="area_um2").sort_values("id", ignore_index=True))
        elif self._patches[0] is not state:
            self._patches = state, state.over_patches(self._patches[1])
        return self._patches[1]

    @property
    def n_stored(self) -> int:
        """Objects that the run found, before corrections; counted without reading them."""
        return table.count_rows(self._object_files())

    @property
    def objects(self) -> pd.DataFrame:
        """One row an object, sorted by id, without outlines; user's corrections included.

        Columns ``id``, ``centroid_x_um``, ``centroid_y_um``, ``class``, ``probability``, ``area_um2`` and the
        method's measurements. Read once and kept; changed by edits and by the classes' book.
        """
        state = self.class_reader.state
        if self._objects is None or self._objects[0] is not state:
            self._objects = state, state.over(self.stored_objects)
        return self._objects[1]

    @property
    def stored_objects(self) -> pd.DataFrame:
        """The same with the classes that the run gave, before anyone changed those."""
        if self._base is None:
            self._base = _read(self._object_files())
        if self._edited is None:
            removed = self._base["id"].isin(sorted(self._journal.removed_ids()))
            added = self._journal.added_rows()
            parts = [self._base[~removed] if removed.any() else self._base]
            if added is not None and added.num_rows:
                parts.append(table.to_pandas(table.conform(added, self._stored_schema(outlines=False))))
            self._edited = _sorted_by_id(parts)
        return self._edited

    def table(self, outlines: bool = False) -> pd.DataFrame:
        """The object table, read anew; with ``outlines`` also column ``outline``.

        The outline is a WKB polygon in level-0 pixels whose corners lie at whole numbers (pixel-corner
        frame).
        """
        tables = list(self.iter_tables(outlines=outlines))
        if not tables:
            return table.to_pandas(self.schema(outlines).empty_table())
        return _sorted_by_id([table.to_pandas(pa.concat_tables(tables))])

    def schema(self, outlines: bool = True) -> pa.Schema:
        """The Arrow schema of the object table."""
        return _outline_last(self.class_reader.state.over_schema(self._stored_schema(outlines)), outlines)

    def _stored_schema(self, outlines: bool) -> pa.Schema:
        schema = table.unified_schema(self._object_files())
        added = self._journal.added_rows()
        if added is not None:
            extra = pa.schema([f for f in added.schema if f.name not in schema.names])
            schema = pa.unify_schemas([schema, extra])
        return _outline_last(schema, outlines)

    def iter_objects(self, batch: int = BATCH_ROWS, outlines: bool = True) -> Iterator[pd.DataFrame]:
        """The object table in pieces of ``batch`` rows; memory does not grow with the table."""
        for rows in table.rechunked(self.iter_tables(outlines), batch):
            yield table.to_pandas(rows)

    def iter_tables(self, outlines: bool = True) -> Iterator[pa.Table]:
        """The object table in Arrow pieces: rising ids, then the objects that a user made."""
        state, schema = self.class_reader.state, self._stored_schema(outlines)
        shown = _outline_last(state.over_schema(schema), outlines)
        files = self._object_files()
        removed = self._journal.removed_ids()
        for rows in table.iter_rows(files):
            kept = table.conform(table.without_ids(rows, removed), schema)
            if kept.num_rows:
                yield state.over_table(kept, shown)
        added = self._journal.added_rows()
        if added is not None and added.num_rows:
            yield state.over_table(table.conform(added, schema), shown)

    def label_at(self, x_um: float, y_um: float) -> int:
        """The label, as in `labels`, at a place in µm from the slide's corner; 0 on background and outside the frame."""
        column, row = self.to_px(x_um, y_um)
        if "labels" not in self._arrays or not self.frame.contains_point(column, row):
            return 0
        stored = np.asarray(self._arrays["labels"][0][row - self.frame.y, column - self.frame.x])
        return int((stored if self.has_objects else self.class_reader.state.shown_pixels(stored)).item())

    def to_px(self, x_um: float, y_um: float) -> tuple[int, int]:
        """``(column, row)`` of the working pixel of the slide that holds a place in µm."""
        mpp = self.mpp or 1.0
        return math.floor(x_um / mpp), math.floor(y_um / mpp)

    def refresh(self) -> None:
        """Take in corrections made since; an editor calls this after each edit."""
        self._edited = self._objects = None
        self._journal.refresh()

    def _object_files(self) -> list[Path]:
        return table.table_files(self.path) if self.has_objects else []

    def _shown(self, labels: da.Array) -> da.Array:
        """Labels with the values of the classes that are shown; ids of objects as they are."""
        if self.has_objects or not (state := self.class_reader.state).renumbers:
            return labels
        return cast(da.Array, cast(Any, labels).map_blocks(state.shown_pixels, dtype=labels.dtype, meta=np.empty((0, 0), labels.dtype)))

    def _finest(self, kind: Kind) -> da.Array:
        levels = self.levels(kind)
        if not levels:
            raise AttributeError(f"A result of {self.record.method} has no {kind}.")
        return levels[0]


def open_result(path: Path | str) -> Result:
    """Open a result folder.

    Raises
    ------
    ResultError
        It is no result, is damaged, or is in another version's format.
    """
    folder = Path(path)
    RunRecord.read(folder)
    journal.recover(folder)
    return Result(folder)


class _Source:
    """A zarr array as dask reads it; holds the temporary folder, so that it outlives the `Result`."""

    def __init__(self, array: zarr.Array[Any], keep: TemporaryFolder | None) -> None:
        self.array = array
        self.keep = keep
        self.shape = array.shape
        self.dtype = array.dtype
        self.ndim = array.ndim

    def __getitem__(self, key: Sequence[slice]) -> NDArray[Any]:
        return np.asarray(self.array[tuple(key)])


def _read(files: Sequence[Path]) -> pd.DataFrame:
    names = [name for name in table.unified_schema(files).names if name != table.OUTLINE]
    return table.to_pandas(table.read_all(files, names))


def _lazy(array: zarr.Array[Any], kind: Kind, keep: TemporaryFolder | None) -> da.Array:
    source = _Source(array, keep)
    # The name is random: the same array may hold other pixels later.
    meta = np.empty((0,) * array.ndim, array.dtype)
    lazy: Any = da.from_array(  # type: ignore[no-untyped-call]
        source, chunks=array.chunks, name=False, asarray=False, meta=meta
    )
    if kind == "image":
        lazy = da.moveaxis(lazy, 0, -1)
    elif kind == "probability":
        lazy = lazy.map_blocks(_unit, dtype=np.float32)
    elif kind == "uncertainty":
        lazy = lazy.map_blocks(_half, dtype=np.float32)
    return cast(da.Array, lazy)


def _unit(block: NDArray[np.uint8]) -> NDArray[np.float32]:
    return block.astype(np.float32) / np.float32(255)


def _half(block: NDArray[np.uint8]) -> NDArray[np.float32]:
    return block.astype(np.float32) / np.float32(510)


def _outline_last(schema: pa.Schema, outlines: bool) -> pa.Schema:
    fields = [f for f in schema if f.name != table.OUTLINE]
    return pa.schema([*fields, *(f for f in schema if f.name == table.OUTLINE and outlines)])


def _sorted_by_id(parts: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [part for part in parts if len(part)] or parts[:1]
    frame = filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)
    return frame.sort_values("id", kind="stable", ignore_index=True)
