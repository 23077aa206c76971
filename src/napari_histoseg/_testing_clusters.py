"""Results with clusters for tests, benchmarks and documentation: objects in known groups, of any number. Everything is seeded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_histoseg.objects.colors import PALETTE
from napari_histoseg.results import ClassRecord, Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoseg.slide import Slide

GROUP_SPREAD, GROUP_DISTANCE = 1.0, 4.0
FINER = {4: 1, 5: 1, 6: 2}
"""Finer values of `tissue_result`, and the class of each; classes have the values 1 to 3."""


def cluster_table(labels: NDArray[np.integer], mpp: float, classes: int = 4, dimensions: int = 8, seed: int = 0) -> pd.DataFrame:
    """A table of the objects in a label picture (h, w) with classes, as a run writes it.

    Larger objects are more often in later classes; the embedding has a cloud for each class.
    """
    rng = np.random.default_rng(seed)
    flat = labels.ravel()
    count = np.bincount(flat)
    ids = np.flatnonzero(count)
    ids = ids[ids > 0]
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]]
    x = np.bincount(flat, weights=columns.ravel())[ids] / count[ids] + 0.5
    y = np.bincount(flat, weights=rows.ravel())[ids] / count[ids] + 0.5
    area = count[ids] * mpp**2
    return cluster_columns(ids, x * mpp, y * mpp, area, classes, dimensions, rng)


def cluster_columns(
    ids: NDArray[Any], x_um: NDArray[Any], y_um: NDArray[Any], area_um2: NDArray[Any], classes: int, dimensions: int, rng: np.random.Generator
) -> pd.DataFrame:
    """The same for objects that are known."""
    n = len(ids)
    rank = np.argsort(np.argsort(area_um2 + rng.normal(0, 0.5 * max(area_um2.std(), 1e-9), n)))
    cluster = (1 + rank * classes // max(n, 1)).astype(np.int32)
    centers = rng.normal(0, GROUP_DISTANCE, (classes, dimensions))
    embedding = (centers[cluster - 1] + rng.normal(0, GROUP_SPREAD, (n, dimensions))).astype(np.float32)
    return pd.DataFrame(
        {
            "id": ids.astype(np.uint32),
            "centroid_x_um": x_um,
            "centroid_y_um": y_um,
            "class": np.array([f"cluster {k}" for k in range(classes + 1)], object)[cluster],
            "probability": rng.uniform(0.4, 1, n).astype(np.float32),
            "area_um2": area_um2.astype(np.float32),
            "eccentricity": rng.uniform(0, 0.95, n).astype(np.float32),
            "hematoxylin_od_mean": (0.3 + 0.1 * cluster + rng.normal(0, 0.05, n)).astype(np.float32),
            "cluster": cluster,
            **{f"embedding_{k:02d}": embedding[:, k] for k in range(dimensions)},
        }
    )


def cluster_result(path: Path | None, slide: Slide, labels: NDArray[np.integer], classes: int = 4, seed: int = 0) -> Result:
    """A finished result with clusters over a whole slide, whose level 0 the labels (h, w) cover pixel by pixel."""
    assert slide.mpp is not None
    objects = cluster_table(labels, slide.mpp, classes, seed=seed)
    return stored(path, slide_record(slide), labels, objects, classes, slide.mpp)


def large_cluster_result(path: Path | None, objects: int, classes: int = 8, mpp: float = 0.5, seed: int = 0) -> Result:
    """Many small square objects on a grid, on a slide that is nowhere."""
    step, size = 12, 7
    side = int(np.ceil(np.sqrt(objects)))
    high, wide = step * -(-objects // side), step * side
    rows, columns = np.mgrid[:high, :wide]
    inside = (rows % step < size) & (columns % step < size)
    labels = ((rows // step) * side + columns // step + 1) * inside
    labels = np.where(labels <= objects, labels, 0).astype(np.uint32)
    number = np.arange(objects)
    middle = size / 2
    x, y = (number % side * step + middle) * mpp, (number // side * step + middle) * mpp
    rng = np.random.default_rng(seed)
    table = cluster_columns(number + 1, x, y, rng.gamma(6, 6, objects), classes, 16, rng)
    record = SlideRecord(name="grid", fingerprint="sha256:grid", width=wide, height=high, mpp=mpp, mpp_source="user")
    return stored(path, record, labels, table, classes, mpp)


def tissue_result(path: Path | None, slide: Slide, spacing_um: float = 20.0, seed: int = 0) -> Result:
    """A finished map of three classes with finer values and patches, over a whole slide.

    The finer values 1 to 6 are rectangles, three beside each other in two rows. In the embedding 4 lies near 1, and 5 far from both.
    """
    assert slide.mpp is not None
    rows, columns = np.mgrid[: slide.height, : slide.width]
    labels = (1 + 3 * (2 * rows // slide.height) + 3 * columns // slide.width).astype(np.uint32)
    step = round(spacing_um / slide.mpp)
    y, x = (part.ravel() for part in np.mgrid[step // 2 : slide.height : step, step // 2 : slide.width : step])
    cluster = labels[y, x].astype(np.int32)
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0], [10, 0], [0, 10], [1, 0], [0, -8], [10, 1]], np.float32)
    embedding = places[cluster - 1] + rng.normal(0, 0.2, (len(cluster), 2)).astype(np.float32)
    patches = pd.DataFrame(
        {
            "id": np.arange(1, len(cluster) + 1, dtype=np.uint32),
            "centroid_x_um": (x + 0.5) * slide.mpp,
            "centroid_y_um": (y + 0.5) * slide.mpp,
            "class": [f"cluster {FINER.get(value, value)}" for value in cluster.tolist()],
            "probability": rng.uniform(0.4, 1, len(cluster)).astype(np.float32),
            "cluster": cluster,
            **{f"embedding_{k:02d}": embedding[:, k] for k in range(2)},
        }
    )
    return stored(path, slide_record(slide), labels, None, 3, slide.mpp, FINER, patches)


def slide_record(slide: Slide) -> SlideRecord:
    """What a run writes about a slide."""
    return SlideRecord(
        name=slide.name,
        path=slide.path,
        fingerprint=slide.fingerprint(),
        width=slide.width,
        height=slide.height,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        format=slide.format,
    )


def stored(
    path: Path | None,
    slide: SlideRecord,
    labels: NDArray[np.integer],
    objects: pd.DataFrame | None,
    classes: int,
    mpp: float,
    merged: Mapping[int, int] | None = None,
    patches: pd.DataFrame | None = None,
) -> Result:
    """A finished result of one tile; without objects its labels are values of classes, or finer ones that ``merged`` leads to classes."""
    frame = Box(0, 0, labels.shape[1], labels.shape[0])
    records = [ClassRecord(value=k, name=f"cluster {k}", color=PALETTE[(k - 1) % len(PALETTE)]) for k in range(1, classes + 1)]
    fields: dict[str, Any] = {"settings": {}, "n_tiles": 1, "tile_px": 512, "halo_px": 0, "classes": records, "merged": merged or {}}
    record = RunRecord(method="cells" if objects is not None else "tissue", slide=slide, mpp=mpp, frame=frame, **fields)
    tables = {"objects": objects, "patches": patches}
    outputs = ("labels", *(kind for kind, rows in tables.items() if rows is not None))
    store = ResultStore.create(path, record, outputs)
    store.add(0, frame, labels=(frame, labels.astype(np.uint32)), **tables)
    return store.finish()
