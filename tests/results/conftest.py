"""A small synthetic run: discs on a frame, cut into tiles, some of them across tile borders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray

from napari_histoseg.results import ClassRecord, Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide.geometry import Box

FRAME = Box(300, 140, 1500, 1100)
TILE_PX = 300
MPP, BASE_MPP = 0.5, 0.25


@dataclass
class Scene:
    """What a run over the frame would give: ids are those of the tile that holds the disc's center."""

    labels: NDArray[np.uint32]
    objects: pd.DataFrame
    tiles: list[Box]
    probability: NDArray[np.uint8]
    image: NDArray[np.uint8]

    def tile(self, index: int) -> dict[str, Any]:
        """Arguments of ``ResultStore.add`` for one tile."""
        keep = self.tiles[index]
        inside = keep.relative_to(FRAME)
        x = self.objects["centroid_x_um"] / MPP
        y = self.objects["centroid_y_um"] / MPP
        mine = self.objects[(x >= keep.x) & (x < keep.right) & (y >= keep.y) & (y < keep.bottom)]
        read = keep.padded(40)
        reach = read.intersect(FRAME)
        labels = np.zeros(read.shape, np.uint32)
        pixels = self.labels[reach.relative_to(FRAME).slices]
        labels[reach.relative_to(read).slices] = np.where(np.isin(pixels, mine["id"]), pixels, 0)
        return {
            "tile_index": index,
            "keep": keep,
            "labels": (read, labels),
            "objects": mine.sample(frac=1, random_state=index),
            "probability": (keep, self.probability[inside.slices]),
            "image": (keep, self.image[inside.slices]),
        }


def make_scene() -> Scene:
    """Discs of radius 4 to 12 px that do not touch."""
    rng = np.random.default_rng(5)
    labels = np.zeros(FRAME.shape, np.uint32)
    rows, columns = np.mgrid[: FRAME.height, : FRAME.width]
    tiles = [
        Box(x, y, TILE_PX, TILE_PX).intersect(FRAME)
        for y in range(FRAME.y, FRAME.bottom, TILE_PX)
        for x in range(FRAME.x, FRAME.right, TILE_PX)
    ]
    found: list[dict[str, Any]] = []
    for number in range(260):
        y, x = rng.uniform(0, FRAME.height), rng.uniform(0, FRAME.width)
        radius = rng.uniform(4, 12)
        near = (slice(max(int(y) - 15, 0), int(y) + 16), slice(max(int(x) - 15, 0), int(x) + 16))
        disc = (rows[near] + 0.5 - y) ** 2 + (columns[near] + 0.5 - x) ** 2 < radius**2
        if (labels[near][disc] != 0).any() or not disc.any():
            continue
        px, py = x + FRAME.x, y + FRAME.y
        owner = next(i for i, box in enumerate(tiles) if box.contains_point(px, py))
        identity = owner * 1000 + number + 1
        labels[near][disc] = identity
        outline = shapely.Point(px * MPP / BASE_MPP, py * MPP / BASE_MPP).buffer(radius * MPP / BASE_MPP)
        found.append(
            {
                "id": np.uint32(identity),
                "centroid_x_um": px * MPP,
                "centroid_y_um": py * MPP,
                "class": "nucleus",
                "probability": np.float32(rng.uniform(0.5, 1)),
                "area_um2": np.float32(disc.sum() * MPP**2),
                "eccentricity": np.float32(rng.uniform()) if number % 9 else np.float32(np.nan),
                "outline": shapely.to_wkb(outline),
            }
        )
    objects = pd.DataFrame(found).sort_values("id", ignore_index=True)
    probability = rng.integers(0, 256, FRAME.shape, dtype=np.uint8)
    image = rng.integers(0, 256, (*FRAME.shape, 3), dtype=np.uint8)
    return Scene(labels, objects, tiles, probability, image)


def make_record(**changes: Any) -> RunRecord:
    """The record of the synthetic run."""
    slide = SlideRecord(
        name="scene.svs",
        path=None,
        fingerprint="sha256:abc",
        width=4000,
        height=3000,
        mpp=BASE_MPP,
        mpp_source="file",
        format="array",
    )
    fields: dict[str, Any] = {
        "method": "nuclei",
        "settings": {"threshold": 0.5},
        "weights": {"name": "compact", "sha256": "12ab"},
        "slide": slide,
        "mpp": MPP,
        "frame": FRAME,
        "tile_px": TILE_PX,
        "halo_px": 40,
        "n_tiles": 20,
        "classes": [ClassRecord(value=1, name="nucleus", color="#ff8800")],
    }
    return RunRecord.model_validate({**fields, **changes})


ALL = ("labels", "objects", "probability", "image")


def write_result(path: Path | None, scene: Scene, status: Any = "finished", outputs: tuple[str, ...] = ALL) -> Result:
    """Store every tile of the scene."""
    store = ResultStore.create(path, make_record(n_tiles=len(scene.tiles)), outputs)
    for index in range(len(scene.tiles)):
        store.add(**scene.tile(index))
    return store.finish(status)


@pytest.fixture(scope="session")
def scene() -> Scene:
    """The synthetic run's outcome."""
    return make_scene()


@pytest.fixture(scope="session")
def finished(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The scene as a finished result; not to be changed."""
    return write_result(tmp_path_factory.mktemp("results") / "scene", scene)


@pytest.fixture
def own(scene: Scene, tmp_path: Path) -> Result:
    """The scene as a finished result that a test may change."""
    return write_result(tmp_path / "own", scene)


@pytest.fixture
def new_record() -> Any:
    """Makes records of the synthetic run, some fields changed."""
    return make_record


@pytest.fixture
def write() -> Any:
    """Writes a scene as a result."""
    return write_result


CLASSES = [ClassRecord(value=v, name=f"cluster {v}", color=color) for v, color in ((1, "#e6194b"), (2, "#3cb44b"), (3, "#4363d8"))]
CELLS_FRAME = Box(0, 0, 64, 64)


def make_cells(n: int = 300, k: int = 3, d: int = 4, seed: int = 0) -> pd.DataFrame:
    """Objects in k well separated groups, sorted by id; two of three measurements have gaps."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(1, k + 1, n).astype(np.int32)
    centers = rng.normal(size=(k + 1, d)) * 8
    places = (centers[cluster] + rng.normal(size=(n, d))).astype(np.float32)
    objects = pd.DataFrame(
        {
            "id": np.sort(rng.choice(10 * n, n, replace=False) + 1).astype(np.uint32),
            "centroid_x_um": rng.uniform(0, 32, n),
            "centroid_y_um": rng.uniform(0, 32, n),
            "class": [f"cluster {v}" for v in cluster],
            "probability": rng.uniform(0.4, 1, n).astype(np.float32),
            "area_um2": (cluster * 10 + rng.normal(size=n)).astype(np.float32),
            "eccentricity": np.where(rng.uniform(size=n) < 0.1, np.nan, rng.uniform(size=n)).astype(np.float32),
            "cluster": cluster,
        }
    )
    for number in range(d):
        objects[f"embedding_{number:02d}"] = places[:, number]
    outlines = [shapely.to_wkb(shapely.box(4 * x, 4 * y, 4 * x + 2, 4 * y + 2)) for x, y in objects[["centroid_x_um", "centroid_y_um"]].round().to_numpy(int)]
    return objects.assign(outline=outlines)


@pytest.fixture
def cells(tmp_path: Path) -> Result:
    """300 objects in three clusters, with embedding; labels are empty."""
    return write_cells(tmp_path / "cells", make_cells())


def write_cells(path: Path, objects: pd.DataFrame, **changes: Any) -> Result:
    """Store objects with clusters as a finished result."""
    fields: dict[str, Any] = {"method": "cells", "frame": CELLS_FRAME, "n_tiles": 1, "classes": CLASSES, **changes}
    store = ResultStore.create(path, make_record(**fields), ("labels", "objects"))
    store.add(0, CELLS_FRAME, objects=objects)
    return store.finish()


@pytest.fixture(scope="session")
def new_cells() -> Any:
    """Makes tables of objects with clusters."""
    return make_cells


@pytest.fixture(scope="session")
def store_cells() -> Any:
    """Stores tables of objects with clusters as results."""
    return write_cells
