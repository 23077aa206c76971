"""A method that needs no network: every dark blob is an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from napari_histoseg import methods
from napari_histoseg.methods.base import MethodSpec, Survey, TileFrame, TileOutput, Whole
from napari_histoseg.methods.settings import RunSettings
from napari_histoseg.slide import Box


class BlobSettings(RunSettings):
    """Settings of the fake method."""

    darkness: int = Field(128, ge=0, le=255, title="Darkness", description="Gray value below which a pixel is a blob.")


class BlobModel:
    """Connected dark pixels, kept by the tile that holds their center."""

    mpp = 0.5
    halo_px = 32
    stride_px = 16
    weights: dict[str, Any] | None = None
    classes = [{"value": 1, "name": "blob", "color": "#ff0000"}]
    merged: dict[int, int] = {}

    def __init__(self, settings: BlobSettings, steps: int = 0, given: Any = None) -> None:
        self.settings, self.steps, self.given = settings, steps, given
        self.surveys: list[Survey] = []

    def fit(self, survey: Survey) -> Iterator[tuple[int, int]]:
        self.surveys.append(survey)
        for step in range(self.steps):
            yield step, self.steps - 1

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images.mean(3, dtype=np.float32)[:, None]

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        labels, n = ndimage.label(raw[0] < self.settings.darkness)
        keep, read = frame.tile.keep, frame.tile.read
        centers = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, n + 1))).reshape(-1, 2) + 0.5
        mine = [i for i, (y, x) in enumerate(centers) if keep.contains_point(x + read.x, y + read.y)]
        lookup = np.zeros(n + 1, np.int32)
        lookup[[i + 1 for i in mine]] = np.arange(1, len(mine) + 1)
        out = lookup[labels]
        table = pd.DataFrame(
            {
                "id": np.arange(1, len(mine) + 1),
                "centroid_x_um": (centers[mine, 1] + read.x) * frame.mpp,
                "centroid_y_um": (centers[mine, 0] + read.y) * frame.mpp,
                "class": "blob",
                "probability": np.float32(1),
                "area_um2": np.bincount(out.ravel(), minlength=len(mine) + 1)[1:] * frame.mpp**2,
            }
        )
        chance = (255 - raw[0][keep.relative_to(read).slices]).astype(np.uint8)
        if self.given is not None:
            inside = read.intersect(self.given.frame)
            out = np.zeros(read.shape, np.uint32)
            out[inside.relative_to(read).slices] = self.given.labels[inside.relative_to(self.given.frame).slices].compute()
            table["id"] = [out[int(y), int(x)] for y, x in centers[mine]]
            return TileOutput((read, out), table.sort_values("id"), (keep, chance), own_ids=True)
        return TileOutput((read, out), table, (keep, chance))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"rank": np.arange(len(objects))}, index=objects.index)


class BlobMethod:
    """The fake method; ``models`` are those it has loaded."""

    spec = MethodSpec("blobs", "Blobs", "Finds dark blobs.", ("labels", "objects", "probability"), BlobSettings)

    def __init__(self) -> None:
        self.models: list[BlobModel] = []
        self.steps, self.given = 0, None

    def prepare(self, slide: Any, settings: Any, weights: Path | None) -> Any:
        return slide

    def load(self, slide: Any, settings: Any, weights: Path | None, device: Any, precision: Any) -> BlobModel:
        self.models.append(BlobModel(settings, self.steps, self.given))
        return self.models[-1]


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> BlobMethod:
    """The fake method, found by ``methods.get("blobs")``."""
    method = BlobMethod()
    known = methods.get
    monkeypatch.setattr(methods, "get", lambda name: method if name == "blobs" else known(name))
    return method


class ShadeModel(BlobModel):
    """A map of dark and light by shades, which are known once the slide was seen; a patch in the middle of each tile."""

    classes: list[dict[str, Any]] = []

    def fit(self, survey: Survey) -> Iterator[tuple[int, int]]:
        yield 0, 1
        self.classes = [{"value": 1, "name": "dark", "color": "#112233"}, {"value": 2, "name": "light", "color": "#445566"}]
        self.merged = {3: 2}

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        keep = frame.tile.keep
        own = raw[0][keep.relative_to(frame.tile.read).slices]
        values = np.where(own < self.settings.darkness, 1, 3).astype(np.int32)
        x, y = keep.x + keep.width / 2, keep.y + keep.height / 2
        middle = int(values[keep.height // 2, keep.width // 2])
        patch = {"id": 1, "centroid_x_um": x * frame.mpp, "centroid_y_um": y * frame.mpp, "class": "?", "probability": 1.0, "cluster": middle}
        return TileOutput((keep, values), patches=pd.DataFrame([{**patch, "embedding_00": float(own.mean())}]))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        raise AssertionError("A map has no objects.")


class ShadeMethod(BlobMethod):
    """The fake method of a class map."""

    spec = MethodSpec("shades", "Shades", "Tells dark from light.", ("labels", "patches"), BlobSettings)

    def load(self, slide: Any, settings: Any, weights: Path | None, device: Any, precision: Any) -> BlobModel:
        self.models.append(ShadeModel(settings))
        return self.models[-1]


@pytest.fixture
def shades(monkeypatch: pytest.MonkeyPatch) -> ShadeMethod:
    """The fake method of a class map, found by ``methods.get("shades")``."""
    method = ShadeMethod()
    known = methods.get
    monkeypatch.setattr(methods, "get", lambda name: method if name == "shades" else known(name))
    return method


class FineModel(BlobModel):
    """Looks at pixels four times as fine as those it writes, in squares of 16 of its own; then marks what is dark in the whole map."""

    mpp, scale, stride_px, halo_px = 2.0, 4, 16, 0
    outputs = ("labels", "probability", "uncertainty")
    classes = [{"value": 1, "name": "dark", "color": "#112233"}]

    def __init__(self, settings: BlobSettings, halo_px: int = 0) -> None:
        super().__init__(settings)
        self.halo_px = halo_px
        self.seen: list[tuple[Any, ...]] = []
        self.wholes: list[Whole] = []

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Means of squares of 16 × 16 working pixels."""
        self.seen.append(images.shape)
        n, height, width, _ = images.shape
        side = self.stride_px * self.scale
        return images.reshape(n, 1, height // side, side, width // side, side, 3).mean((3, 5, 6), dtype=np.float32)

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        keep, read = frame.tile.keep, frame.tile.read
        assert image.shape[:2] == (read.height * 4, read.width * 4)
        values = (255 - raw[0]).round().astype(np.uint8).repeat(self.stride_px, 0).repeat(self.stride_px, 1)
        return TileOutput(probability=(keep, values[keep.relative_to(read).slices]))

    def refine(self, whole: Whole) -> Iterator[TileOutput | str]:
        """What is darker than the mean of the whole map."""
        self.wholes.append(whole)
        values = np.asarray(whole.probability[:])
        yield "Something to know."
        for frame in whole.frames:
            keep = frame.tile.keep
            own = values[keep.relative_to(whole.frame).slices]
            yield TileOutput((keep, (own > values.mean()).astype(np.int32)), uncertainty=(keep, own // 2))


class FineMethod(BlobMethod):
    """The fake method that looks at finer pixels and decides in the end."""

    spec = MethodSpec("fine", "Fine", "Finds what is dark.", ("labels", "probability", "uncertainty"), BlobSettings)
    halo_px = 0

    def load(self, slide: Any, settings: Any, weights: Path | None, device: Any, precision: Any) -> BlobModel:
        self.models.append(FineModel(settings, self.halo_px))
        return self.models[-1]


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> FineMethod:
    """The fake method that looks at finer pixels, found by ``methods.get("fine")``."""
    method = FineMethod()
    known = methods.get
    monkeypatch.setattr(methods, "get", lambda name: method if name == "fine" else known(name))
    return method


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """600 × 900 pink pixels with dark discs, many of them across tile borders."""
    rng = np.random.default_rng(3)
    image = np.full((600, 900, 3), (230, 170, 200), np.uint8)
    rows, columns = np.mgrid[:600, :900]
    for y, x in rng.uniform(12, [588, 888], (150, 2)):
        image[(rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(4, 9) ** 2] = (60, 40, 110)
    return image


def objects_of(labels: NDArray[Any]) -> set[bytes]:
    """The objects of a label picture as a set of their pixels, whatever their ids."""
    found = ndimage.find_objects(labels.astype(np.int64))
    return {
        np.flatnonzero(labels == i).astype(np.int64).tobytes()
        for i, box in enumerate(found, 1)
        if box is not None
    }


@pytest.fixture
def whole_box() -> Box:
    """All of :func:`picture`."""
    return Box(0, 0, 900, 600)
