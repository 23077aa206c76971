"""The object table on disk: one Parquet part a commit, merged into one file sorted by id at the end."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from napari_histoseg.errors import ResultError
from napari_histoseg.results.files import atomic

OBJECTS = "objects.parquet"
PARTS = "parts"
OUTLINE = "outline"
_TILES = b"histoseg.tiles"
_FAN_IN = 32
_BATCH_ROWS = 2048
_GROUP_ROWS = 32768

_LEADING: dict[str, pa.DataType] = {
    "id": pa.uint32(),
    "centroid_x_um": pa.float64(),
    "centroid_y_um": pa.float64(),
    "class": pa.string(),
    "probability": pa.float32(),
    "area_um2": pa.float32(),
}
"""Columns that every table begins with, so that a table without objects has them too."""


def to_arrow(objects: pd.DataFrame | None) -> pa.Table:
    """A table with the fixed columns first, the outline last, sorted by id.

    Raises
    ------
    ResultError
        The objects have no ``id``.
    """
    if objects is None or (objects.empty and "id" not in objects.columns):
        return pa.table({name: pa.array([], kind) for name, kind in _LEADING.items()})
    if "id" not in objects.columns:
        raise ResultError(f"The object table has no column 'id'; it has {', '.join(map(str, objects.columns))}.")
    middle = [str(c) for c in objects.columns if c not in _LEADING and c != OUTLINE]
    names = [*_LEADING, *middle, *([OUTLINE] if OUTLINE in objects.columns else [])]
    fields = {name: _column(objects, name) for name in names}
    return pa.table(fields).sort_by("id")


def _column(objects: pd.DataFrame, name: str) -> pa.Array:
    if name not in objects.columns:
        return pa.nulls(len(objects), _LEADING[name])
    values = objects[name]
    if name == OUTLINE:
        return pa.array(values.tolist(), pa.binary())
    if name in _LEADING:
        return pa.array(values.tolist() if name == "class" else values.to_numpy(), _LEADING[name], from_pandas=True)
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    return pa.array(values, from_pandas=False)


def write_part(folder: Path, number: int, objects: pa.Table, tiles: Iterable[int]) -> None:
    """Commit the objects of some tiles: after this returns they survive a crash."""
    parts = folder / PARTS
    parts.mkdir(exist_ok=True)
    table = objects.replace_schema_metadata({**_metadata(objects.schema), _TILES: encode_tiles(tiles)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    with atomic(parts / f"{number:06d}.parquet") as file:
        file.write(buffer.getbuffer())


def encode_tiles(tiles: Iterable[int]) -> bytes:
    """Tile indices as JSON ranges ``[[start, stop], ...]``, half-open."""
    ranges: list[list[int]] = []
    for tile in sorted(set(tiles)):
        if ranges and ranges[-1][1] == tile:
            ranges[-1][1] = tile + 1
        else:
            ranges.append([tile, tile + 1])
    return json.dumps(ranges).encode()


def tiles_of(path: Path) -> frozenset[int]:
    """The tiles whose objects a part (or the merged table) holds."""
    text = _metadata(pq.read_schema(path)).get(_TILES, b"[]")
    return frozenset(tile for start, stop in json.loads(text) for tile in range(start, stop))


def table_files(folder: Path) -> list[Path]:
    """The files that together hold every object once: the merged table and the parts it does not hold yet."""
    merged = folder / OBJECTS
    parts = sorted((folder / PARTS).glob("[0-9]*.parquet"))
    if not merged.exists():
        return parts
    # A run that was killed between merging and tidying up leaves parts that the merged table holds already.
    known = tiles_of(merged)
    return [merged, *(part for part in parts if not (tiles := tiles_of(part)) or not tiles <= known)]


def committed_tiles(files: Sequence[Path]) -> frozenset[int]:
    """The tiles of all given files."""
    return frozenset().union(*(tiles_of(path) for path in files)) if files else frozenset()


def count_rows(files: Sequence[Path]) -> int:
    """Number of rows of all given files, from their footers."""
    return sum(int(pq.read_metadata(path).num_rows) for path in files)


def next_part(folder: Path) -> int:
    """A part number that no part has."""
    numbers = [int(path.stem) for path in (folder / PARTS).glob("[0-9]*.parquet")]
    return max(numbers, default=-1) + 1


def unified_schema(files: Sequence[Path]) -> pa.Schema:
    """The schema that holds the columns of every file, fixed columns first and the outline last."""
    empty = to_arrow(None).schema
    schemas = [empty, *(_without_tiles(pq.read_schema(path)) for path in files)]
    union = pa.unify_schemas([s.remove_metadata() for s in schemas], promote_options="permissive")
    fields = [f for f in union if f.name != OUTLINE]
    return pa.schema([*fields, *(f for f in union if f.name == OUTLINE)])


def iter_sorted(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Rows of several files, each sorted by id, as tables in rising order of id, with bounded memory.

    Parameters
    ----------
    files : sequence of Path
        At most a few dozen; see `merge_table` for more.
    columns : sequence of str, optional
        Only these columns (``id`` is always read).
    """
    schema = unified_schema(files)
    names = [n for n in schema.names if columns is None or n in columns or n == "id"]
    schema = pa.schema([schema.field(n) for n in names])
    with ExitStack() as stack:
        runs = [_Run(stack.enter_context(pq.ParquetFile(path)), schema) for path in files]
        while active := [run for run in runs if run.fill()]:
            # Up to the smallest of the runs' last ids no run can still bring a row.
            bound = min(run.last for run in active)
            ready = pa.concat_tables([run.take(bound) for run in active])
            yield ready if len(active) == 1 else ready.sort_by("id")


def iter_rows(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Rows of any number of files with bounded memory; sorted only if few (a finished run has one)."""
    for start in range(0, len(files), _FAN_IN):
        yield from iter_sorted(files[start : start + _FAN_IN], columns)


def read_all(files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Some columns of several files in memory, file after file."""
    schema = unified_schema(files)
    schema = pa.schema([schema.field(name) for name in columns])
    tables = []
    for path in files:
        with pq.ParquetFile(path) as file:
            tables.append(conform(file.read([n for n in columns if n in file.schema_arrow.names]), schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


class _Run:
    """One sorted file, read batch by batch."""

    def __init__(self, file: pq.ParquetFile, schema: pa.Schema) -> None:
        self._schema = schema
        names = [n for n in schema.names if n in file.schema_arrow.names]
        self._batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=names)
        self._rows = schema.empty_table()
        self._ids = np.empty(0, np.uint32)

    @property
    def last(self) -> int:
        return int(self._ids[-1])

    def fill(self) -> bool:
        """Hold at least one row; False at the end of the file."""
        while self._rows.num_rows == 0:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._rows = conform(pa.Table.from_batches([batch]), self._schema)
            self._ids = self._rows["id"].to_numpy()
        return True

    def take(self, bound: int) -> pa.Table:
        count = int(np.searchsorted(self._ids, bound, side="right"))
        ready, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        self._ids = self._ids[count:]
        return ready


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns of ``schema``: cast, missing ones null."""
    columns = [table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


Enrich = Callable[[pd.DataFrame], pd.DataFrame]
"""From ``id``, ``centroid_x_um`` and ``centroid_y_um`` of all objects, more columns, row for row."""


def merge_table(folder: Path, enrich: Enrich | None = None) -> None:
    """Merge every part into ``objects.parquet``, sorted by id; removing the parts is the caller's."""
    files = table_files(folder)
    tiles = committed_tiles(files)
    schema = unified_schema(files)
    scratch = folder / "merging"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        while len(files) > _FAN_IN:
            scratch.mkdir(exist_ok=True)
            groups = [files[i : i + _FAN_IN] for i in range(0, len(files), _FAN_IN)]
            files = [_merge_group(group, scratch, schema) for group in groups]
        more = _more_columns(files, enrich)
        full = pa.schema([f for f in schema if f.name != OUTLINE and f.name not in more.column_names])
        full = pa.schema([*full, *more.schema, *(f for f in schema if f.name == OUTLINE)])
        write_table(folder / OBJECTS, _beside(iter_sorted(files), more), full, encode_tiles(tiles))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _more_columns(files: Sequence[Path], enrich: Enrich | None) -> pa.Table:
    if enrich is None:
        return pa.table({})
    known = ["id", "centroid_x_um", "centroid_y_um"]
    rows = [t for t in iter_sorted(files, known) if t.num_rows]
    objects = pa.concat_tables(rows) if rows else to_arrow(None).select(known)
    return pa.Table.from_pandas(enrich(objects.select(known).to_pandas()), preserve_index=False).replace_schema_metadata(None)


def _beside(tables: Iterable[pa.Table], more: pa.Table) -> Iterator[pa.Table]:
    """The tables with the next rows of ``more`` as further columns."""
    start = 0
    for table in tables:
        for name in more.column_names:
            column = more[name].slice(start, table.num_rows)
            at = table.column_names.index(name) if name in table.column_names else None
            table = table.append_column(name, column) if at is None else table.set_column(at, name, column)
        start += table.num_rows
        yield table


def _merge_group(group: Sequence[Path], scratch: Path, schema: pa.Schema) -> Path:
    path = scratch / f"{uuid.uuid4().hex}.parquet"
    write_table(path, iter_sorted(group), schema, durable=False)
    for source in group:
        if source.parent == scratch:
            source.unlink()
    return path


def write_table(
    path: Path,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    tiles: bytes | None = None,
    durable: bool = True,
) -> None:
    """Stream tables into one Parquet file with even row groups; the same rows are the same bytes, however they come."""
    if tiles is not None:
        schema = schema.with_metadata({_TILES: tiles})
    with (
        atomic(path, durable) as file,
        pq.ParquetWriter(pa.PythonFile(file, "w"), schema, compression="zstd") as writer,
    ):
        for table in rechunked(tables, _GROUP_ROWS):
            # Chunk by chunk, a column that outgrows its dictionary would leave it at another row for other chunks.
            writer.write_table(conform(table, schema).combine_chunks(), row_group_size=_GROUP_ROWS)


def rechunked(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ``rows`` rows, the last one shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(waiting, promote_options="permissive")
            yield whole.slice(0, rows)
            count -= rows
            waiting = [whole.slice(rows)] if count else []
    if count:
        yield pa.concat_tables(waiting, promote_options="permissive")


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """The table as pandas has it; missing classes become ``None``."""
    return cast(pd.DataFrame, table.to_pandas())


def without_ids(table: pa.Table, ids: Iterable[int]) -> pa.Table:
    """The rows whose id is not among ``ids``."""
    removed = pa.array(sorted(ids), pa.uint32())
    return table.filter(pc.invert(pc.is_in(table["id"], value_set=removed))) if len(removed) else table


def _metadata(schema: pa.Schema) -> dict[bytes, bytes]:
    return dict(schema.metadata or {})


def _without_tiles(schema: pa.Schema) -> pa.Schema:
    kept = {k: v for k, v in _metadata(schema).items() if k != _TILES}
    return schema.with_metadata(kept or None)
