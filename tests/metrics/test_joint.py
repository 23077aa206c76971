"""Scores of class maps, by hand, and `score joint` over what people have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_histoseg.cli import main
from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.joint import Counts, challenge_score, score_joint
from napari_histoseg.metrics.score import score

TRUE = np.array([[0, 0, 0, 0], [1, 1, 2, 2]], np.uint8)
PRED = np.array([[0, 0, 0, 1], [1, 2, 2, 2]], np.uint8)
maps = arrays(np.uint8, (6, 7), elements=st.integers(0, 3))


def test_every_score_by_hand() -> None:
    scores = score_joint(PRED, TRUE)
    # Class 0: tp 3, fp 0, fn 1; class 1: tp 1, fp 1, fn 1; class 2: tp 2, fp 1, fn 0.
    f1 = {0: 6 / 7, 1: 2 / 4, 2: 4 / 5}
    assert scores == pytest.approx(
        {
            "accuracy": 6 / 8,
            "foreground_accuracy": 3 / 4,
            "macro_f1": sum(f1.values()) / 3,
            "micro_f1": (4 * f1[0] + 2 * f1[1] + 2 * f1[2]) / 8,
            "iou": (3 / 4 + 1 / 3 + 2 / 3) / 3,
            "foreground_dice": 8 / 9,
            "f1_1": f1[1],
            "f1_2": f1[2],
            # |pred - gt| is 1 at two pixels. Counted are the wrong background (max(0, |0 - 2|) = 2), and the four
            # foreground pixels: max(1, 1) twice and max(2, 0) twice.
            "challenge": 1 - 2 / (2 + 1 + 1 + 2 + 2),
        }
    )


def test_the_challenge_score_of_the_paper() -> None:
    true, predicted = np.array([0, 1, 3, 2, 0]), np.array([3, 1, 0, 3, 0])
    # Errors 3, 0, 3, 1, 0; weights max(gt, |gt - 3|) of the counted pixels: 3, 2, 3, 2; the last pixel is right background.
    assert challenge_score(predicted, true) == pytest.approx(1 - 7 / 10)
    assert challenge_score(np.zeros(4), np.zeros(4)) == 1.0


@given(maps)
def test_the_truth_itself_scores_one(image: np.ndarray) -> None:
    scores = score_joint(image, image)
    assert all(v == pytest.approx(1) for v in scores.values() if not np.isnan(v))


@given(maps, maps)
def test_scores_lie_between_zero_and_one_and_tables_add_up(a: np.ndarray, b: np.ndarray) -> None:
    scores = score_joint(a, b, ["zero", "one", "two", "three"])
    assert all(0 <= v <= 1 + 1e-12 for k, v in scores.items() if not np.isnan(v) and k != "challenge")
    assert -1 < scores["challenge"] <= 1
    halves = Counts.of(a[:3], b[:3], 4) + Counts.of(a[3:], b[3:], 4)
    np.testing.assert_array_equal(halves.table, Counts.of(a, b, 4).table)
    assert halves.table.sum() == a.size


def test_what_is_not_annotated_takes_no_part() -> None:
    true, predicted = TRUE.copy(), PRED.copy()
    wrong = TRUE != PRED
    true[wrong] = 255
    assert score_joint(predicted, true)["accuracy"] == 1


def test_a_class_that_nobody_has_is_not_counted() -> None:
    named = score_joint(PRED, TRUE, ["background", "benign", "malignant", "other"])
    assert np.isnan(named["f1_other"]) and named["macro_f1"] == score_joint(PRED, TRUE)["macro_f1"]
    assert named["f1_malignant"] == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("predicted", "true", "classes", "message"),
    [
        (PRED[:1], TRUE, None, "Truth has shape (2, 4) and prediction (1, 4). Give pictures of one shape."),
        (PRED, np.full((2, 4), 255), None, "Nothing in the truth is annotated: all of it is 255. Give a truth with at least one labeled pixel."),
        (PRED, TRUE, ["a", "b"], "The values [2] are no classes: there are 2 names, of the values 0 to 1. Name every class."),
    ],
)
def test_bad_maps(predicted: np.ndarray, true: np.ndarray, classes: list[str] | None, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        score_joint(predicted, true, classes)
    assert str(caught.value) == message


def test_folders_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, first in (("p", PRED), ("t", TRUE)):
        (tmp_path / folder).mkdir()
        Image.fromarray(first).save(tmp_path / folder / "a.png")
        Image.fromarray(np.minimum(TRUE, 1)).save(tmp_path / folder / "b.png")
    scores = score("joint", tmp_path / "p", tmp_path / "t")
    assert scores["accuracy"] == pytest.approx((6 / 8 + 1) / 2) and scores["n_images"] == 2
    assert scores["f1_2"] == pytest.approx(4 / 5), "only one of the pictures shows it"
    code = main(["score", "joint", str(tmp_path / "p"), str(tmp_path / "t"), "--classes", "background, benign, malignant"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["f1_malignant"] == pytest.approx(4 / 5)


def test_a_source_is_refused() -> None:
    with pytest.raises(SettingsError, match="joint is scored without a source"):
        score("joint", PRED, TRUE, source=PRED)
