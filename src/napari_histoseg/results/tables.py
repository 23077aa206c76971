"""The object table as CSV, Parquet and AnnData."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from napari_histoseg.errors import SettingsError
from napari_histoseg.results import table
from napari_histoseg.results.classes import CLUSTER, CORRECTED, embedding_columns
from napari_histoseg.results.files import Step, no_step
from napari_histoseg.results.geojson import class_colors, color_of
from napari_histoseg.results.result import Result


def write_csv(result: Result, path: Path, step: Step = no_step) -> None:
    """One line an object, without outlines; UTF-8, comma, point."""
    with path.open("w", encoding="utf-8", newline="") as file:
        result.schema(outlines=False).empty_table().to_pandas().to_csv(file, index=False)
        written, total = 0, result.n_stored
        for objects in result.iter_objects(outlines=False):
            step(written, total)
            written += len(objects)
            objects.to_csv(file, index=False, header=False)


def write_parquet(result: Result, path: Path, step: Step = no_step) -> None:
    """One row an object, with outlines (WKB, level-0 pixels)."""
    table.write_table(path, _counted(result, step), result.schema())


def _counted(result: Result, step: Step) -> Iterator[pa.Table]:
    written, total = 0, result.n_stored
    for rows in result.iter_tables():
        step(written, total)
        written += rows.num_rows
        yield rows


def write_h5ad(result: Result, path: Path, step: Step = no_step) -> None:
    """AnnData, in one piece: measurements in ``X``, class in ``obs``, centroids (µm) in ``obsm["spatial"]``.

    Where there are any: the embedding in ``obsm["X_embedding"]``, cluster and corrected in ``obs``. Colors of the classes are in
    ``uns["class_colors"]``, in the order of the categories, as scanpy looks for them.
    """
    try:
        import anndata
    except ImportError as error:
        raise SettingsError("Writing .h5ad needs the package anndata. Install it with: pip install anndata") from error
    objects = result.objects
    step(0, 1)
    embedded = embedding_columns(list(objects.columns))
    known = {"id", "centroid_x_um", "centroid_y_um", "probability", CLUSTER, CORRECTED, *embedded}
    names = [c for c in objects.columns if c not in known and pd.api.types.is_numeric_dtype(objects[c])]
    obs = pd.DataFrame(
        {
            "id": objects["id"].to_numpy(),
            "class": pd.Categorical(objects["class"].to_numpy()),
            "probability": objects["probability"].to_numpy(np.float32, na_value=np.nan),
        },
        index=objects["id"].astype(str).to_numpy(),
    )
    for extra in (CLUSTER, CORRECTED):
        if extra in objects.columns:
            obs[extra] = objects[extra].to_numpy()
    data = anndata.AnnData(X=objects[names].to_numpy(np.float32, na_value=np.nan), obs=obs, var=pd.DataFrame(index=names))
    data.obsm["spatial"] = objects[["centroid_x_um", "centroid_y_um"]].to_numpy(np.float64)
    if embedded:
        data.obsm["X_embedding"] = objects[embedded].to_numpy(np.float32, na_value=np.nan)
    colors = class_colors(result)
    data.uns["class_colors"] = [color_of(name, colors) for name in obs["class"].cat.categories]
    data.uns["histoseg"] = {
        "method": result.record.method,
        "slide": result.record.slide.name,
        "fingerprint": result.record.slide.fingerprint,
        "spatial_unit": "micrometer",
        "record": result.record.model_dump_json(),
    }
    data.write_h5ad(path, compression="gzip")
