"""Maps of clusters: by the highest overlap, and one to one; values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

import napari_histoseg as hs
from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.tissue import score_tissue

TRUE = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])


def test_names_of_clusters_do_not_matter() -> None:
    assert score_tissue(np.where(TRUE, 7, 3), TRUE)["mean_iou"] == 1
    assert score_tissue(np.where(TRUE, 7, 3), TRUE)["mean_iou_one_to_one"] == 1


def test_several_clusters_may_be_one_class_by_overlap_but_not_one_to_one() -> None:
    cut = np.array([[0, 0, 0, 5, 1, 1, 1, 1]])
    scores = score_tissue(cut, TRUE)
    assert scores["mean_iou"] == 1
    assert scores["mean_iou_one_to_one"] == pytest.approx((3 / 4 + 1) / 2)


def test_a_cluster_over_two_classes_counts_for_the_larger() -> None:
    wrong = np.array([[0, 0, 0, 0, 0, 1, 1, 1]])
    scores = score_tissue(wrong, TRUE)
    assert scores["iou_0"] == pytest.approx(4 / 5)
    assert scores["iou_1"] == pytest.approx(3 / 4)
    assert scores["accuracy"] == pytest.approx(7 / 8)
    assert scores["n_clusters"] == 2


def test_a_class_that_no_cluster_has_scores_nothing() -> None:
    assert score_tissue(np.zeros_like(TRUE), TRUE)["mean_iou"] == pytest.approx(0.5 / 2)


def test_what_is_not_annotated_takes_no_part() -> None:
    part = TRUE.copy()
    part[0, :2] = 255
    wrong_there = TRUE.copy()
    wrong_there[0, :2] = 9
    assert score_tissue(wrong_there, part)["mean_iou"] == 1


def test_names_are_used() -> None:
    assert {"iou_stroma", "iou_gland"} <= score_tissue(TRUE, TRUE, ["stroma", "gland"]).keys()


@pytest.mark.parametrize(
    ("predicted", "true", "classes", "words"),
    [
        (TRUE[:, :3], TRUE, None, r"Prediction and truth must have one shape. Got \(1, 3\) and \(1, 8\)."),
        (TRUE, np.full_like(TRUE, 255), None, "Nothing is annotated in the truth: all its pixels have the value 255. Give a truth with classes."),
        (TRUE, TRUE, ["one"], r"The values \[1\] are no classes: there are 1 names, of the values 0 to 0. Name every class."),
    ],
)
def test_what_cannot_be_scored_is_said(predicted: np.ndarray, true: np.ndarray, classes: list[str] | None, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        score_tissue(predicted, true, classes)


def test_is_scored_by_its_name() -> None:
    assert hs.score("tissue", TRUE, TRUE)["mean_iou"] == 1
