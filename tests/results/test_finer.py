"""Class maps with finer values: classes are shown, finer ones are stored; patches to look at; splits along finer values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_histoseg._testing_clusters import FINER, slide_record, stored, tissue_result
from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.score import read_labels
from napari_histoseg.results import ClassRecord, Result, ResultStore, RunRecord, export, open_result
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.results.classmap import class_areas, is_class_map, regions, stored_areas, stored_classes
from napari_histoseg.results.clusters import Clusters
from napari_histoseg.results.record import differences
from napari_histoseg.slide import Slide, open_slide

WIDTH, HEIGHT, MPP = 1200, 600, 0.5


@pytest.fixture(scope="module")
def slide() -> Slide:
    return open_slide(np.full((HEIGHT, WIDTH, 3), 200, np.uint8), mpp=MPP)


@pytest.fixture
def tissue(slide: Slide, tmp_path: Path) -> Result:
    """Three classes; pixels have the values 1 to 6."""
    return tissue_result(tmp_path / "tissue", slide)


def raw(result: Result) -> NDArray[np.uint32]:
    return np.asarray(result.arrays()["labels"][0][:])


def shown(result: Result) -> NDArray[np.uint32]:
    """The class of each pixel, when every way of reading it agrees, in this and in a newly opened result."""
    known = {0: 0, **{value: each.value for value, each in result.class_of.items()}}
    wanted = np.vectorize(known.__getitem__, otypes=[np.uint32])(raw(result))
    for each in (result, open_result(result.path)):
        assert each.labels.dtype == np.uint32
        np.testing.assert_array_equal(each.labels, wanted)
        np.testing.assert_array_equal(each.pyramid[0], wanted)
        assert {v for level in each.pyramid for v in np.unique(np.asarray(level))} == set(np.unique(wanted))
        assert class_areas(each).set_index("value").area_px.to_dict() == {c.value: int((wanted == c.value).sum()) for c in each.classes}
    return wanted


# -- what is shown ------------------------------------------------------------------------------------------------------


def test_pixels_are_stored_finer_than_they_are_shown(tissue: Result) -> None:
    assert is_class_map(tissue) and not tissue.has_objects
    assert set(np.unique(raw(tissue))) == {1, 2, 3, 4, 5, 6}
    assert set(np.unique(shown(tissue))) == {1, 2, 3}
    assert [c.value for c in tissue.classes] == [1, 2, 3]
    assert {v: c.value for v, c in tissue.class_of.items()} == {1: 1, 2: 2, 3: 3, **FINER}
    assert {c.value: c.color for c in stored_classes(tissue)} == {v: c.color for v, c in tissue.class_of.items()}
    assert stored_areas(tissue) == {v: int((raw(tissue) == v).sum()) for v in range(1, 7)}
    assert set(np.unique(np.asarray(tissue.levels("labels")[0]))) == {1, 2, 3, 4, 5, 6}


def test_the_label_at_a_place_is_that_of_the_class(tissue: Result) -> None:
    values = shown(tissue)
    for x, y in ((10, 10), (10, 590), (599, 590), (1190, 590)):
        assert tissue.label_at((x + 0.5) * MPP, (y + 0.5) * MPP) == values[y, x]
    assert tissue.label_at(-1, 5) == 0


def test_background_and_values_without_class_stay(slide: Slide, tmp_path: Path) -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint32)
    values[:100], values[100:200], values[200:210] = 1, 2, 9
    made = stored(tmp_path / "r", slide_record(slide), values, None, 1, MPP, {2: 1})
    np.testing.assert_array_equal(made.labels, np.where(values == 2, 1, values))
    assert not made.has_patches and made.patches.empty and "centroid_x_um" in made.patches.columns


def test_every_export_of_pixels_has_classes(tissue: Result, tmp_path: Path) -> None:
    ClassBook(tissue).merge([3, 2])
    values = shown(tissue)
    for name in ("a.tif", "a.ome.tif"):
        np.testing.assert_array_equal(tifffile.imread(export(tissue, tmp_path / name)), values)
    group: Any = zarr.open_group(export(tissue, tmp_path / "a.zarr"), mode="r")
    for level, wanted in zip(sorted(group.array_keys()), tissue.pyramid, strict=True):
        np.testing.assert_array_equal(group[level][:], wanted)
    assert {c["label-value"] for c in group.attrs["ome"]["image-label"]["colors"]} == {1, 3}
    assert pd.read_csv(export(tissue, tmp_path / "a.csv"))["value"].tolist() == [1, 3]
    found = json.loads(export(tissue, tmp_path / "a.geojson").read_text())["features"]
    assert {f["properties"]["classification"]["name"] for f in found} == {"cluster 1", "cluster 3"}
    assert {each.value: shape.area for each, shape in regions(tissue)}.keys() == {1, 3}
    with pytest.raises(SettingsError, match="has no objects to write as"):
        export(tissue, tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_labels(tissue), values)
    np.testing.assert_array_equal(raw(tissue), raw(open_result(tissue.path)))


def test_a_picture_has_no_border_between_finer_values(tissue: Result, tmp_path: Path) -> None:
    from PIL import Image

    picture = np.asarray(Image.open(export(tissue, tmp_path / "a.png")))
    # 1 lies over 4, both of class 1.
    assert (picture[250:350, 100] == picture[250, 100]).all()


# -- the record ---------------------------------------------------------------------------------------------------------


def test_merged_values_are_in_the_record_and_older_records_have_none(tissue: Result) -> None:
    record = tissue.record
    assert record.merged == FINER
    assert RunRecord.model_validate_json(record.model_dump_json()) == record
    data = json.loads(record.model_dump_json())
    del data["merged"]
    assert RunRecord.model_validate(data).merged == {}
    assert differences(record, record.replaced(merged={}, classes=[])) == []


def test_classes_that_are_known_late_are_on_the_disk_before_their_tiles(new_record: Any, tmp_path: Path) -> None:
    record = new_record(classes=[])
    store = ResultStore.create(tmp_path / "r", record, ("labels", "patches"))
    classes = [ClassRecord(value=1, name="a", color="#010203"), ClassRecord(value=2, name="b", color="#040506")]
    store.settle(classes, {3: 1})
    store.close()
    found = RunRecord.read(tmp_path / "r")
    assert found.classes == classes and found.merged == {3: 1}
    group: Any = zarr.open_group(tmp_path / "r" / "labels.ome.zarr", mode="r")
    colors = {c["label-value"]: c["rgba"][:3] for c in group.attrs["ome"]["image-label"]["colors"]}
    assert colors == {1: [1, 2, 3], 2: [4, 5, 6], 3: [1, 2, 3]}
    resumed = ResultStore.resume(tmp_path / "r", record)
    assert resumed.record.classes == classes and resumed.record.merged == {3: 1}
    resumed.close()


# -- patches ------------------------------------------------------------------------------------------------------------


def test_patches_have_the_class_that_is_shown_and_the_value_that_is_stored(tissue: Result) -> None:
    patches = tissue.patches
    assert patches["id"].is_monotonic_increasing and patches["id"].is_unique and len(patches) == 30 * 15
    assert list(patches.columns)[:6] == ["id", "centroid_x_um", "centroid_y_um", "class", "probability", "cluster"]
    rows, columns = ((patches[f"centroid_{axis}_um"] / MPP).astype(int) for axis in "yx")
    np.testing.assert_array_equal(patches["cluster"], raw(tissue)[rows, columns])
    ClassBook(tissue).rename(1, "muscle")
    ClassBook(tissue).merge([3, 2])
    for each in (tissue, open_result(tissue.path)):
        assert each.patches["class"].tolist() == [each.class_of[v].name for v in patches["cluster"]]
        assert set(each.patches["class"]) == {"muscle", "cluster 3"}
        pd.testing.assert_frame_equal(each.patches.drop(columns="class"), patches.drop(columns="class"))


def test_patches_are_no_objects(tissue: Result) -> None:
    assert tissue.objects.empty and tissue.n_stored == 0
    assert tissue.table().empty and list(tissue.iter_objects()) == []
    for call in (lambda b: b.split(1, {1: 0, 2: 1}), lambda b: b.assign([1], 2)):
        with pytest.raises(SettingsError, match="map of classes and has no objects"):
            call(ClassBook(tissue))


def test_patches_are_there_once_after_a_killed_run_went_on(new_record: Any, tmp_path: Path) -> None:
    record = new_record(n_tiles=2)
    row = {"centroid_x_um": 1.0, "centroid_y_um": 2.0, "class": "nucleus", "probability": 0.5, "cluster": 1, "embedding_00": 0.5}
    store = ResultStore.create(tmp_path / "r", record, ("labels", "patches"))
    store.add(0, record.frame, patches=pd.DataFrame([{"id": 7, **row}, {"id": 3, **row}]))
    store.commit()
    store.add(1, record.frame, patches=pd.DataFrame([{"id": 11, **row}]))
    store.close()
    assert open_result(tmp_path / "r").patches["id"].tolist() == [3, 7]
    store = ResultStore.resume(tmp_path / "r", record)
    assert store.done == {0} and store.n_objects == 0
    store.add(1, record.frame, patches=pd.DataFrame([{"id": 11, **row}]))
    result = store.finish(enrich=lambda objects: pytest.fail("patches are no objects"))
    assert result.patches["id"].tolist() == [3, 7, 11]
    assert "area_um2" not in result.patches


# -- splits -------------------------------------------------------------------------------------------------------------


def test_a_split_gives_finer_values_a_class_of_their_own(tissue: Result) -> None:
    book, stored_pixels = ClassBook(tissue), raw(tissue)
    assert book.stored_values(1) == [1, 4, 5]
    said: list[Any] = []
    book.subscribe(said.append)
    assert book.split_values(1, [[4, 5], [1]]) == [4, 1]
    assert [(c.value, c.name) for c in book.classes] == [(1, "cluster 1"), (2, "cluster 2"), (3, "cluster 3"), (4, "cluster 1 (2)")]
    assert len({c.color for c in book.classes}) == 4
    assert [(c.sentence, c.classes, c.objects) for c in said] == [("Split cluster 1 into 2", True, True)]
    values = shown(tissue)
    np.testing.assert_array_equal(values == 4, np.isin(stored_pixels, [4, 5]))
    assert book.stored_values(4) == [4, 5] and book.stored_values(1) == [1]
    assert set(tissue.patches["class"][tissue.patches["cluster"] == 5]) == {"cluster 1 (2)"}
    assert book.undo() == "Split cluster 1 into 2"
    assert set(np.unique(shown(tissue))) == {1, 2, 3}
    book.redo()
    np.testing.assert_array_equal(shown(tissue), values)


def test_splitting_and_merging_follow_each_other(tissue: Result) -> None:
    book = ClassBook(tissue)
    assert book.split_values(1, [[1], [5], [4]]) == [1, 5, 4]
    book.merge([5, 2])
    assert book.stored_values(5) == [2, 5, 6]
    assert [c.name for c in book.classes] == ["cluster 1", "cluster 3", "cluster 1 (2)", "cluster 1 (3)"]
    shown(tissue)
    assert book.split_values(5, [[2, 6], [5]]) == [2, 5]
    assert book.find(2).name == "cluster 1 (2) (2)"
    shown(tissue)
    book.merge([1, 2, 3, 4, 5])
    assert set(np.unique(shown(tissue))) == {1}
    while book.undo():
        shown(tissue)
    assert {v: c.value for v, c in tissue.class_of.items()} == {1: 1, 2: 2, 3: 3, **FINER}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_merges_and_splits_keep_each_value_in_one_class(tissue: Result, data: st.DataObject) -> None:
    book = ClassBook(tissue)
    while book.undo():
        pass
    for _ in range(6):
        values = [c.value for c in book.classes]
        value = data.draw(st.sampled_from(values))
        finer = book.stored_values(value)
        if len(finer) > 1 and data.draw(st.booleans()):
            cut = data.draw(st.integers(1, len(finer) - 1))
            book.split_values(value, [finer[:cut], finer[cut:]])
        elif len(values) > 1:
            book.merge(data.draw(st.permutations(values))[:2])
        found = sorted(v for c in book.classes for v in book.stored_values(c.value))
        assert found == [1, 2, 3, 4, 5, 6]
        assert all(c.value in book.stored_values(c.value) for c in book.classes)


@pytest.mark.parametrize(
    ("value", "parts", "words"),
    [
        (3, [[3], []], "cluster 3 has no finer classes, so it cannot be split"),
        (1, [[1, 4, 5]], "two or more parts"),
        (1, [[1, 4, 5], []], "none of them empty"),
        (1, [[1], [4]], r"each of its stored values once: 1, 4, 5\. Got \[\[1\], \[4\]\]"),
        (1, [[1, 4], [4, 5]], "once"),
        (1, [[1, 4], [5, 6]], "once"),
        (9, [[1], [4]], "No class has the value 9"),
    ],
)
def test_a_split_that_cannot_be_says_why(tissue: Result, value: int, parts: list[list[int]], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ClassBook(tissue).split_values(value, parts)
    assert ClassBook(tissue).can_undo is None


def test_objects_are_not_split_along_values(cells: Result) -> None:
    book = ClassBook(cells)
    book.merge([1, 2])
    with pytest.raises(SettingsError, match="split by objects"):
        book.split_values(1, [[1], [2]])


# -- patches as clusters ------------------------------------------------------------------------------------------------


def test_patches_are_looked_at_as_objects_are(tissue: Result) -> None:
    found = Clusters.of(tissue)
    assert len(found) == len(tissue.patches)
    np.testing.assert_array_equal(found.stored, tissue.patches["cluster"])
    assert set(found.cluster.tolist()) == {1, 2, 3}
    assert list(found.measurements.columns) == []
    assert len(found.typical(1, 5)) == len(found.borderline(2, 5)) == len(found.outliers(3, 5)) == 5
    points = found.plane()
    ClassBook(tissue).merge([3, 2])
    after = found.follow(tissue)
    assert after.ids is found.ids and after.plane() is points
    assert set(after.cluster.tolist()) == {1, 3} and after.sizes()[3] == found.sizes()[2] + found.sizes()[3]


def test_a_map_whose_patches_are_still_to_come_is_opened_too(new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ("labels", "patches"))
    result = store.finish("cancelled")
    found = Clusters.of(result)
    assert len(found) == 0 and found.sizes() == {1: 0} and found.plane().shape == (0, 2)
    assert list(found.typical(1)) == [] and found.follow(result).ids is found.ids


def test_dividing_follows_the_looks_of_the_patches(tissue: Result) -> None:
    found = Clusters.of(tissue)
    # 4 lies near 1, 5 far from both.
    assert found.divide(1, 2) == [[1, 4], [5]]
    assert found.divide(1, 3) == [[1], [4], [5]]
    book = ClassBook(tissue)
    book.merge([1, 2, 3])
    assert found.follow(tissue).divide(1, 4) == [[1, 4], [2, 6], [3], [5]]
    assert found.follow(tissue).divide(1, 4) == Clusters.of(open_result(tissue.path)).divide(1, 4)
    book.split_values(1, found.follow(tissue).divide(1, 4))
    assert [book.stored_values(c.value) for c in book.classes] == [[1, 4], [2, 6], [3], [5]]


@pytest.mark.parametrize(
    ("value", "k", "words"), [(3, 2, "cluster 3 has no finer classes"), (1, 1, r"finer classes with patches \(3\)"), (1, 4, r"\(3\)")]
)
def test_dividing_into_too_many_says_why(tissue: Result, value: int, k: int, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Clusters.of(tissue).divide(value, k)


def test_values_without_patches_go_with_the_first_part(tissue: Result, slide: Slide, tmp_path: Path) -> None:
    patches = tissue.patches
    few = stored(tmp_path / "few", slide_record(slide), raw(tissue), None, 3, MPP, FINER, patches[patches["cluster"] != 4])
    assert Clusters.of(few).divide(1, 2) == [[1, 4], [5]]
    none = stored(tmp_path / "none", slide_record(slide), raw(tissue), None, 3, MPP, FINER, patches[patches["cluster"] != 1])
    assert Clusters.of(none).divide(1, 2) == [[1, 4], [5]]
