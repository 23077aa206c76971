"""Scores of classes of cells, by hand and by brute force, and `score cells` over what people have."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import adjusted_rand_score, balanced_accuracy_score, f1_score, precision_score, recall_score  # type: ignore[import-untyped]

from napari_histoseg.cli import main
from napari_histoseg.errors import ResultError, SettingsError
from napari_histoseg.metrics.cells import Matching, adjusted_rand, agreement, contingency, majority, score_cells
from napari_histoseg.metrics.score import score
from napari_histoseg.results import Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.results.record import ClassRecord
from napari_histoseg.slide.geometry import Box

TRUE = np.array(["a", "a", "a", "a", "b", "b", "b", "c"])
FOUND = np.array([2, 2, 2, 9, 9, 9, 2, 5])
labelings = st.integers(1, 40).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 4))] * 2))
tables = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, 20)))

# -- pure functions ----------------------------------------------------------------------------------------------------


def test_every_score_by_hand() -> None:
    scores = score_cells(FOUND, TRUE)
    assert scores["matched"] == {"2": "a", "5": "c", "9": "b"}
    assert scores["classes"] == ["a", "b", "c"]
    assert scores["confusion"] == [[3, 1, 0], [1, 2, 0], [0, 0, 1]]
    assert scores["n_objects"] == 8
    assert scores["accuracy"] == 6 / 8
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 3 + 1) / 3)
    assert (scores["precision_a"], scores["sensitivity_a"], scores["f1_a"]) == (3 / 4, 3 / 4, 3 / 4)
    assert (scores["precision_b"], scores["sensitivity_b"], scores["f1_b"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert scores["macro_f1"] == pytest.approx((3 / 4 + 2 / 3 + 1) / 3)
    # Pairs together in both: 3 + 0 + 1 + 0; in the truth 6 + 3; among the clusters 6 + 3; of 28.
    assert scores["ari"] == pytest.approx((4 - 81 / 28) / (9 - 81 / 28))


def test_clusters_left_over_join_the_class_of_most_of_their_objects() -> None:
    true = np.repeat([1, 2], [10, 10])
    found = np.array([7] * 6 + [8] * 4 + [7] * 1 + [9] * 9)
    scores = score_cells(found, true)
    assert scores["matched"] == {"7": "1", "8": "1", "9": "2"}
    assert scores["confusion"] == [[10, 0], [1, 9]]


def test_every_class_has_a_cluster_where_there_are_enough() -> None:
    # Most of each cluster is of the first class; the second one gets the cluster that costs least.
    assert Matching.best([[9, 8, 7], [1, 2, 0]]).class_of.tolist() == [0, 1, 0]


def test_classes_left_over_have_no_objects() -> None:
    scores = score_cells([1, 1, 1, 2, 2, 2], ["a", "a", "b", "c", "c", "c"])
    assert scores["matched"] == {"1": "a", "2": "c"}
    assert scores["confusion"] == [[2, 0, 0], [1, 0, 0], [0, 0, 3]]
    assert np.isnan(scores["precision_b"])
    assert scores["sensitivity_b"] == scores["f1_b"] == 0
    assert scores["balanced_accuracy"] == pytest.approx(2 / 3)


def test_names_of_the_truth_are_taken_as_they_are() -> None:
    swapped = np.array(["b", "b", "b", "a"])
    assert score_cells(swapped, ["a", "a", "a", "b"])["accuracy"] == 0
    assert score_cells(["x", "x", "x", "a"], ["a", "a", "a", "b"])["accuracy"] == 1
    # Numbers of clusters mean nothing, also where a class has the same number.
    assert score_cells([2, 2, 2, 1], [1, 1, 1, 2])["accuracy"] == 1


@given(tables)
def test_no_matching_has_more_right(table: np.ndarray) -> None:
    classes, found = table.shape
    matching = Matching.best(table)
    every = min(classes, found)
    choices = [c for c in product(range(classes), repeat=found) if len(set(c)) == every]
    right = max(sum(int(table[k, i]) for i, k in enumerate(choice)) for choice in choices)
    assert len(set(matching.class_of.tolist())) == every
    assert np.trace(matching.confusion) == right
    assert matching.confusion.sum() == table.sum()
    np.testing.assert_array_equal(matching.confusion.sum(1), table.sum(1))


@pytest.mark.filterwarnings("ignore:A single label was found", "ignore:y_pred contains classes not in y_true")
@given(labelings)
def test_scores_are_those_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, true = pair
    scores = score_cells([f"cluster {v}" for v in found], true)
    said = np.array([int(scores["matched"][f"cluster {v}"]) for v in found])
    assert scores["accuracy"] == pytest.approx((said == true).mean())
    names = [int(c) for c in scores["classes"]]
    for score_of, kind in ((precision_score, "precision"), (recall_score, "sensitivity"), (f1_score, "f1")):
        expected = score_of(true, said, labels=names, average=None, zero_division=np.nan if kind == "precision" else 0)
        np.testing.assert_allclose([scores[f"{kind}_{name}"] for name in names], expected)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, said))
    assert scores["ari"] == pytest.approx(adjusted_rand_score(true, found))


@given(labelings)
def test_the_rand_index_is_that_of_scikit_learn_either_way_round(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand(b, a))
    assert adjusted_rand(a, a * 3 + 1) == 1


@given(labelings, st.permutations(range(5)))
def test_what_clusters_are_called_changes_no_score(pair: tuple[np.ndarray, np.ndarray], names: list[int]) -> None:
    found, true = pair
    one, other = (score_cells(called, [f"c{v}" for v in true]) for called in (found, np.array(names)[found]))
    for name in ("accuracy", "ari"):
        assert one[name] == pytest.approx(other[name])


@given(arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 4)))
def test_the_truth_under_other_numbers_scores_one(true: np.ndarray) -> None:
    scores = score_cells(4 - true, true)
    assert scores["accuracy"] == scores["balanced_accuracy"] == scores["macro_f1"] == scores["ari"] == 1


def test_agreement_is_the_mean_over_all_pairs() -> None:
    a, b, c = np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]), np.array([0, 1, 0, 1])
    assert agreement([a, b]) == 1
    assert agreement([a, b, c]) == pytest.approx((1 + 2 * adjusted_rand_score(a, c)) / 3)


@pytest.mark.parametrize(("given", "lengths"), [([], "none"), ([[1, 2]], "2"), ([[1, 2], [1, 2, 3]], "2, 3")])
def test_agreement_needs_clusterings_of_the_same_objects(given: list[list[int]], lengths: str) -> None:
    with pytest.raises(SettingsError) as error:
        agreement(given)
    assert str(error.value) == f"Agreement needs two or more clusterings of the same objects. Got clusterings of {lengths} objects."


def test_scores_need_objects() -> None:
    with pytest.raises(SettingsError) as error:
        score_cells([], [])
    assert str(error.value) == "There are no objects to score. Give at least one object with its class."
    with pytest.raises(SettingsError) as error:
        contingency([1], [1, 2])
    assert str(error.value) == "There are 1 predicted and 2 true classes. Give one of each for every object."


def test_an_object_has_the_class_under_most_of_its_pixels() -> None:
    labels = np.array([[5, 5, 5, 0, 70000], [5, 5, 9, 9, 70000], [3, 3, 3, 9, 9]], np.uint32)
    values = np.array([[0, 0, 2, 2, 0], [1, 2, 4, 3, 0], [255, 255, 7, 3, 4]], np.uint8)
    ids, classes = majority(labels, values)
    assert dict(zip(ids.tolist(), classes.tolist(), strict=True)) == {3: 7, 5: 2, 9: 3}
    assert all(len(part) == 0 for part in majority(labels, np.zeros_like(values)))


@given(arrays(np.uint32, (6, 7), elements=st.integers(0, 4)), arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_the_majority_of_every_object_by_counting(labels: np.ndarray, values: np.ndarray) -> None:
    expected = {}
    for number in np.unique(labels[labels > 0]):
        counts = np.bincount(values[labels == number], minlength=256)[1:255]
        if counts.any():
            expected[int(number)] = int(counts.argmax()) + 1
    assert dict(zip(*(part.tolist() for part in majority(labels, values)), strict=True)) == expected


# -- what people have --------------------------------------------------------------------------------------------------

IDS = np.array([2, 5, 6, 40, 70000], np.uint32)
CLASSES = ["cancer", "cancer", "immune", "immune", "immune"]


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """Five squares, of which the fourth is in the wrong cluster."""
    return result_of(tmp_path / "cells", [2, 2, 1, 2, 1])


def squares() -> np.ndarray:
    labels = np.zeros((40, 120), np.uint32)
    for place, number in enumerate(IDS):
        labels[10:28, 24 * place + 3 : 24 * place + 19] = number
    return labels


def result_of(path: Path, found: list[int], method: str = "cells") -> Result:
    box = Box(0, 0, 120, 40)
    record = RunRecord(
        method=method, slide=SlideRecord(name="a", fingerprint="f", width=120, height=40, mpp=0.5), mpp=0.5, frame=box,
        tile_px=512, halo_px=0, n_tiles=1, classes=[ClassRecord(value=k, name=f"cluster {k}") for k in (1, 2)],
    )  # fmt: skip
    table = pd.DataFrame({"id": IDS, "centroid_x_um": 1.0, "centroid_y_um": 1.0, "probability": np.float32(1)})
    if method == "cells":
        table["class"] = [f"cluster {k}" for k in found]
        table["cluster"] = np.array(found, np.int32)
    store = ResultStore.create(path, record, ("labels", "objects"))
    store.add(0, box, labels=(box, squares()), objects=table)
    return store.finish("finished")


def csv(path: Path, classes: list[Any] = CLASSES, ids: Any = IDS) -> Path:
    pd.DataFrame({"id": ids, "class": classes}).to_csv(path, index=False)
    return path


def class_image(classes: list[int] = [1, 1, 2, 2, 2]) -> np.ndarray:  # noqa: B006
    values = np.zeros((40, 120), np.uint8)
    for number, value in zip(IDS, classes, strict=True):
        values[squares() == number] = value
    return values


def test_a_table_says_the_classes(result: Result, tmp_path: Path) -> None:
    scores = score("cells", result, csv(tmp_path / "t.csv"))
    assert scores["matched"] == {"cluster 1": "immune", "cluster 2": "cancer"}
    assert scores["confusion"] == [[2, 0], [1, 2]]
    assert (scores["accuracy"], scores["n_objects"], scores["n_left_out"]) == (4 / 5, 5, 0)
    assert score("cells", tmp_path / "cells", str(tmp_path / "t.csv")) == scores


def test_a_class_image_says_the_classes(result: Result, tmp_path: Path) -> None:
    image = class_image()
    scores = score("cells", result, image)
    assert scores["confusion"] == [[2, 0], [1, 2]]
    assert scores["classes"] == ["1", "2"]
    Image.fromarray(image).save(tmp_path / "t.png")
    named = score("cells", result, tmp_path / "t.png", classes=["none", "cancer", "immune"])
    assert named == score("cells", result, csv(tmp_path / "t.csv"))


@pytest.mark.parametrize("factor", [2, 4])
def test_a_class_image_may_have_another_pixel_size(result: Result, factor: int) -> None:
    image = class_image()
    finer, coarser = np.kron(image, np.ones((factor, factor), np.uint8)), image[::factor, ::factor]
    assert score("cells", result, finer) == score("cells", result, coarser) == score("cells", result, image)


def test_objects_without_a_class_take_no_part(result: Result, tmp_path: Path) -> None:
    for truth in (csv(tmp_path / "t.csv", [1, 1, None, 2, 2]), csv(tmp_path / "t2.csv", [1, 1, 2, 2], [2, 5, 40, 70000]), class_image([1, 1, 0, 2, 2])):
        scores = score("cells", result, truth)
        assert (scores["n_objects"], scores["n_left_out"], scores["accuracy"]) == (4, 1, 3 / 4)


def test_names_that_a_person_gave_are_scored_as_they_are(result: Result, tmp_path: Path) -> None:
    truth = csv(tmp_path / "t.csv")
    book = ClassBook(result)
    book.rename(1, "cancer")
    book.rename(2, "immune")
    assert score("cells", tmp_path / "cells", truth)["confusion"] == [[0, 2], [2, 1]]


def test_several_results_are_matched_each_by_itself(result: Result, tmp_path: Path) -> None:
    other = result_of(tmp_path / "other", [1, 1, 2, 2, 2])
    truth = csv(tmp_path / "t.csv")
    scores = score("cells", [result, other], [truth, truth])
    assert scores["accuracy"] == pytest.approx((4 / 5 + 1) / 2)
    assert (scores["n_objects"], scores["n_left_out"], scores["n_images"]) == (10, 0, 2)
    assert scores["images"]["1"]["matched"] == {"cluster 1": "cancer", "cluster 2": "immune"}
    assert "confusion" not in scores
    (tmp_path / "truths").mkdir()
    (tmp_path / "results").mkdir()
    for name in ("cells", "other"):
        csv(tmp_path / "truths" / f"{name}.csv")
        (tmp_path / name).rename(tmp_path / "results" / name)
    by_name = score("cells", tmp_path / "results", tmp_path / "truths")
    assert by_name["images"] == {"cells": scores["images"]["0"], "other": scores["images"]["1"]}


def test_the_command_prints_json(result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(class_image()).save(tmp_path / "t.png")
    assert main(["score", "cells", str(result.path), str(tmp_path / "t.png"), "--classes", "none,cancer,immune"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["f1_cancer"] == pytest.approx(4 / 5)
    assert printed["confusion"] == [[2, 0], [1, 2]]


# -- bad input ---------------------------------------------------------------------------------------------------------


def says(error: pytest.ExceptionInfo[Any], sentence: str, **places: Any) -> None:
    assert str(error.value) == sentence.format(**places)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,kind\n1,a\n", "{path} has the columns name, kind. A truth for cells has the columns id and class."),
        ("id,class\n2,a\n2,b\n", "{path} has the id 2 more than once. Give every object one class."),
        ("id,class\nfirst,a\n", "{path} has the id 'first'. Ids are those of the objects: whole numbers from 1."),
        ("id,class\n2.5,a\n", "{path} has the id '2.5'. Ids are those of the objects: whole numbers from 1."),
        ("id,class\n0,a\n", "{path} has the id '0'. Ids are those of the objects: whole numbers from 1."),
        ("id,class\n,a\n", "{path} has the id 'nan'. Ids are those of the objects: whole numbers from 1."),
        ("id,class\n999,a\n", "The truth says no class of any of the 5 objects of {result}. Give the truth of this result."),
        ("id,class\n", "The truth says no class of any of the 5 objects of {result}. Give the truth of this result."),
        ("", "{path} cannot be read as a table: No columns to parse from file"),
    ],
)
def test_a_table_that_says_no_classes_is_named(result: Result, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SettingsError) as error:
        score("cells", result, tmp_path / "t.csv")
    says(error, sentence, path=tmp_path / "t.csv", result=result.path)


def test_a_table_that_is_not_there_is_named(result: Result, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        score("cells", result, tmp_path / "t.csv")
    says(error, "{path} does not exist.", path=tmp_path / "t.csv")


def test_class_images_of_another_field_or_of_nothing_are_refused(result: Result) -> None:
    with pytest.raises(SettingsError) as error:
        score("cells", result, np.ones((40, 80), int))
    says(
        error,
        "The prediction has shape (40, 120) and the truth (40, 80): they do not show the same field. Score the region that the truth covers.",
    )
    with pytest.raises(SettingsError) as error:
        score("cells", result, np.zeros((40, 120), int))
    says(error, "The truth says no class of any of the 5 objects of {path}. Give the truth of this result.", path=result.path)


def test_classes_name_every_value_and_no_name(result: Result, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        score("cells", result, class_image(), classes=["none", "cancer"])
    says(error, "The values [2] are no classes: there are 2 names, of the values 0 to 1. Name every class.")
    with pytest.raises(SettingsError) as error:
        score("cells", result, csv(tmp_path / "t.csv"), classes=["none", "cancer", "immune"])
    says(error, "The classes of the truth have names: cancer, immune. Leave classes out.")


def test_predictions_that_are_no_classes_of_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        score("cells", squares(), class_image())
    says(error, "Classes of cells are scored from a result. Got ndarray; give a result of cells, or its folder.")
    nuclei = result_of(tmp_path / "n", [], method="nuclei")
    with pytest.raises(SettingsError) as error:
        score("cells", nuclei, class_image())
    says(error, "The result of nuclei in {path} has no classes of cells. Give a result of cells.", path=nuclei.path)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ResultError):
        score("cells", tmp_path / "empty.txt", class_image())
