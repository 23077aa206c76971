"""Class maps: areas and outlines of their regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05.image_label import ImageLabel
from PIL import Image

from napari_histoseg.annotations.geojson import rasterize, read_geojson
from napari_histoseg.errors import SettingsError
from napari_histoseg.results import ClassRecord, Result, ResultStore, export, open_result
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.results.classmap import class_areas, regions, stored_classes
from napari_histoseg.slide.geometry import Box

CLASSES = [
    ClassRecord(value=0, name="stroma", color="#cccccc"),
    ClassRecord(value=1, name="benign gland", color="#2ca02c"),
    ClassRecord(value=2, name="malignant gland", color="#d62728"),
    ClassRecord(value=3, name="vessel", color="#1f77b4"),
]


@pytest.fixture
def labels() -> NDArray[np.uint32]:
    """A ring of 1 around a disc of 2, and a lone piece of 1; nothing of 3."""
    rows, columns = np.mgrid[:1100, :1500]
    distance = np.hypot(rows - 500, columns - 700)
    labels = np.where(distance < 150, 2, np.where(distance < 400, 1, 0)).astype(np.uint32)
    labels[1000:1010, 1400:1420] = 1
    return labels


@pytest.fixture
def class_map(labels: NDArray[np.uint32], new_record: Any, tmp_path: Path) -> Result:
    record = new_record().replaced(classes=CLASSES, method="joint")
    frame: Box = record.frame
    store = ResultStore.create(tmp_path / "result", record, ("labels", "probability"))
    store.add(0, frame, labels=(frame, labels), probability=(frame, np.full(frame.shape, 200, np.uint8)))
    return store.finish()


def test_areas_are_counted(class_map: Result, labels: NDArray[np.uint32]) -> None:
    table = class_areas(class_map).set_index("class")
    assert list(table.index) == ["benign gland", "malignant gland", "vessel"]
    assert table.area_px.tolist() == [(labels == 1).sum(), (labels == 2).sum(), 0]
    assert class_map.mpp is not None
    assert table.area_mm2["malignant gland"] == pytest.approx((labels == 2).sum() * (class_map.mpp / 1000) ** 2)
    assert table.share.sum() == pytest.approx(1)


@pytest.mark.parametrize("block", [2048, 256])
def test_regions_are_exact_and_have_no_seams(
    class_map: Result, labels: NDArray[np.uint32], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_histoseg.results.classmap.BLOCK_PX", block)
    found = list(regions(class_map))
    assert sorted(each.name for each, _ in found) == ["benign gland", "benign gland", "malignant gland"]
    ring = max((shape for each, shape in found if each.value == 1), key=lambda shape: shape.area)
    assert len(ring.interiors) == 1
    for value in (1, 2):
        area = sum(shape.area for each, shape in found if each.value == value)
        assert area == pytest.approx((labels == value).sum() * class_map.downsample**2)
    assert all(shape.is_valid for _, shape in found)


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_geojson_comes_back_as_the_same_pixels(class_map: Result, labels: NDArray[np.uint32], tmp_path: Path, name: str) -> None:
    areas = read_geojson(export(class_map, tmp_path / name))
    assert {(area.class_name, area.color) for area in areas} == {("benign gland", "#2ca02c"), ("malignant gland", "#d62728")}
    assert {area.object_type for area in areas} == {"annotation"}
    again = rasterize(areas, class_map.frame, class_map.downsample, {"benign gland": 1, "malignant gland": 2})
    np.testing.assert_array_equal(again, labels)


def test_measured_area_is_in_square_micrometers(class_map: Result, labels: NDArray[np.uint32], tmp_path: Path) -> None:
    features = json.loads(export(class_map, tmp_path / "a.geojson").read_text())["features"]
    (disc,) = [f for f in features if f["properties"]["classification"]["name"] == "malignant gland"]
    assert class_map.mpp is not None
    assert disc["properties"]["measurements"]["area µm²"] == pytest.approx((labels == 2).sum() * class_map.mpp**2, rel=1e-4)
    assert shapely.from_geojson(json.dumps(disc["geometry"])).geom_type == "Polygon"


def test_csv_is_the_area_of_each_class(class_map: Result, tmp_path: Path) -> None:
    table = pd.read_csv(export(class_map, tmp_path / "a.csv"))
    assert table.columns.tolist() == ["value", "class", "area_mm2", "area_px", "share"]
    assert table["class"].tolist() == ["benign gland", "malignant gland", "vessel"]


def test_a_class_map_has_no_object_table(class_map: Result, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"joint has no objects to write as \.parquet\. Export it as one of \.geojson\.gz"):
        export(class_map, tmp_path / "a.parquet")


def test_the_picture_has_the_colors_of_the_classes(class_map: Result, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(export(class_map, tmp_path / "a.png")))
    assert picture[500, 700].tolist() == pytest.approx([255 - 0.3 * (255 - 0xD6), 255 - 0.3 * (255 - 0x27), 255 - 0.3 * (255 - 0x28)], abs=1)


# -- classes that a person renamed, recolored and merged ----------------------------------------------------------------


@pytest.fixture
def renamed(class_map: Result) -> Result:
    """Both glands are one class with another name and color; pixels are as they were."""
    book = ClassBook(class_map)
    book.merge([2, 1])
    book.rename(2, "gland")
    book.recolor(2, "#102030")
    return class_map


def test_merged_classes_have_their_area_together(renamed: Result, labels: NDArray[np.uint32]) -> None:
    for result in (renamed, open_result(renamed.path)):
        table = class_areas(result).set_index("class")
        assert table.area_px.to_dict() == {"gland": int((labels > 0).sum()), "vessel": 0}
    np.testing.assert_array_equal(renamed.labels, np.where(labels > 0, 2, 0))
    ClassBook(renamed).undo()
    ClassBook(renamed).undo()
    ClassBook(renamed).undo()
    assert class_areas(renamed)["class"].tolist() == ["benign gland", "malignant gland", "vessel"]


def test_merged_regions_have_no_border_inside(renamed: Result, labels: NDArray[np.uint32], tmp_path: Path) -> None:
    found = sorted((shape for _, shape in regions(renamed)), key=lambda shape: -shape.area)
    assert [len(shape.interiors) for shape in found] == [0, 0]
    areas = read_geojson(export(renamed, tmp_path / "a.geojson"))
    assert {(area.class_name, area.color) for area in areas} == {("gland", "#102030")}
    again = rasterize(areas, renamed.frame, renamed.downsample, {"gland": 1})
    np.testing.assert_array_equal(again, labels > 0)


def test_csv_and_picture_have_the_new_classes(renamed: Result, tmp_path: Path) -> None:
    assert pd.read_csv(export(renamed, tmp_path / "a.csv"))["class"].tolist() == ["gland", "vessel"]
    picture = np.asarray(Image.open(export(renamed, tmp_path / "a.png")))
    light = [255 - 0.3 * (255 - v) for v in (0x10, 0x20, 0x30)]
    # Inside the disc, on what was its border, and in the ring.
    for column in (700, 850, 900):
        assert picture[500, column].tolist() == pytest.approx(light, abs=1)


def test_a_copy_of_the_pyramid_has_the_classes_by_then(renamed: Result, labels: NDArray[np.uint32], tmp_path: Path) -> None:
    group = zarr.open_group(export(renamed, tmp_path / "a.zarr"), mode="r")
    np.testing.assert_array_equal(group["0"][:], np.where(labels > 0, 2, 0))
    label = ImageLabel.from_zarr(group).ome_attributes.image_label
    assert {c.label_value: tuple(c.rgba) for c in label.colors} == {
        0: (0xCC, 0xCC, 0xCC, 255),
        2: (0x10, 0x20, 0x30, 255),
        3: (0x1F, 0x77, 0xB4, 255),
    }
    assert group.attrs["ome"]["image-label"]["properties"][1] == {"label-value": 2, "class": "gland"}


def test_a_class_can_become_background_but_not_the_other_way_round(class_map: Result, labels: NDArray[np.uint32]) -> None:
    book = ClassBook(class_map)
    with pytest.raises(SettingsError, match=r"background \(0\) cannot become part"):
        book.merge([1, 0])
    book.merge([1], into=0)
    table = class_areas(class_map).set_index("class")
    assert table.area_px.to_dict() == {"malignant gland": int((labels == 2).sum()), "vessel": 0}
    assert table.share["malignant gland"] == 1
    assert [each.name for each, _ in regions(class_map)] == ["malignant gland"]
    assert [c.value for c in stored_classes(class_map)] == [0, 2, 3]


@pytest.mark.parametrize(
    "call", [lambda b: b.split(1, {1: 0, 2: 1}), lambda b: b.assign([1], 2), lambda b: b.relabel([1], [2], "x")], ids=["split", "assign", "relabel"]
)
def test_pixels_are_not_objects(class_map: Result, call: Any) -> None:
    with pytest.raises(SettingsError, match=r"map of classes and has no objects\. Rename, recolor or merge"):
        call(ClassBook(class_map))
