"""Outlines of tumour: values computed by hand, what holds for any, and `score tumour` over what people have."""

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
from napari_histoseg.metrics.score import score
from napari_histoseg.metrics.tumour import score_tumour

TRUE = np.array([[1, 1, 1, 1, 0, 0, 0, 0]], np.uint8)
FOUND = np.array([[0, 1, 1, 1, 1, 1, 0, 0]], np.uint8)
NONE = np.zeros_like(TRUE)
outlines = arrays(np.uint8, (5, 6), elements=st.integers(0, 1))


def test_every_score_by_hand() -> None:
    # Both 3, found 5, tumour 4: recall and precision must not be swapped.
    assert score_tumour(FOUND, TRUE) == pytest.approx({"recall": 3 / 4, "precision": 3 / 5, "dice": 6 / 9, "iou": 3 / 6})


def test_what_is_not_annotated_takes_no_part() -> None:
    true = TRUE.copy()
    true[0, [0, 4]] = 255
    assert score_tumour(FOUND, true) == pytest.approx({"recall": 1, "precision": 3 / 4, "dice": 6 / 7, "iou": 3 / 4})


@pytest.mark.parametrize(("found", "true", "value"), [(NONE, NONE, 1), (NONE, TRUE, 0), (TRUE, NONE, 0), (TRUE, TRUE, 1)])
def test_slides_without_tumour_or_without_prediction_have_scores(found: np.ndarray, true: np.ndarray, value: float) -> None:
    assert score_tumour(found, true) == dict.fromkeys(("recall", "precision", "dice", "iou"), value)


def test_a_prediction_only_where_nothing_is_annotated_is_none() -> None:
    assert score_tumour(1 - TRUE, np.where(TRUE, 0, 255))["dice"] == 1


@given(outlines, outlines)
def test_swapping_the_two_swaps_recall_and_precision(a: np.ndarray, b: np.ndarray) -> None:
    one, other = score_tumour(a, b), score_tumour(b, a)
    assert one["recall"] == other["precision"] and one["precision"] == other["recall"]
    assert one["dice"] == other["dice"] and one["iou"] == other["iou"]


@given(outlines, outlines)
def test_dice_is_the_harmonic_mean_and_follows_from_iou(a: np.ndarray, b: np.ndarray) -> None:
    scores = score_tumour(a, b)
    assert all(0 <= v <= 1 for v in scores.values())
    assert scores["dice"] == pytest.approx(2 * scores["iou"] / (1 + scores["iou"]))
    if total := scores["recall"] + scores["precision"]:
        assert scores["dice"] == pytest.approx(2 * scores["recall"] * scores["precision"] / total)


@given(outlines, outlines, st.permutations(range(30)))
def test_where_pixels_lie_does_not_matter(a: np.ndarray, b: np.ndarray, order: list[int]) -> None:
    assert score_tumour(a.ravel()[order], b.ravel()[order]) == score_tumour(a, b)


@pytest.mark.parametrize(
    ("found", "true", "message"),
    [
        (FOUND[:, :3], TRUE, "Prediction and truth must have one shape. Got (1, 3) and (1, 8)."),
        (FOUND, np.full_like(TRUE, 255), "Nothing is annotated in the truth: all its pixels have the value 255. Give a truth with 0 and 1."),
        (255 * FOUND, TRUE, "The prediction has the values [255]. 1 is tumour, 0 is not. Write it with these values."),
        (FOUND, 2 * TRUE, "The truth has the values [2]. 1 is tumour, 0 is not, 255 what nobody annotated. Write it with these values."),
    ],
)
def test_what_cannot_be_scored_is_said(found: np.ndarray, true: np.ndarray, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        score_tumour(found, true)
    assert str(caught.value) == message


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_a_coarse_outline_is_scored_at_the_truths_pixel_size(factor: int) -> None:
    coarse = np.zeros((50, 60), np.uint8)
    coarse[10:30, 10:40] = 1
    true = coarse.repeat(factor, 0).repeat(factor, 1)
    assert score("tumour", coarse, true)["dice"] == 1
    assert score("tumour", true, coarse)["dice"] == 1
    # A slide's sides are no multiples of a coarse pixel.
    assert score("tumour", coarse, true[: -(factor // 2), : -(factor // 2)])["dice"] == pytest.approx(1, abs=0.03)


def test_an_outline_at_32_um_is_scored_on_a_slide_of_a_quarter_um() -> None:
    coarse = np.eye(4, 5, dtype=np.uint8)
    assert score("tumour", coarse, coarse.repeat(128, 0).repeat(128, 1))["iou"] == 1


def test_outlines_of_different_fields_are_refused() -> None:
    with pytest.raises(SettingsError, match="they do not show the same field"):
        score("tumour", np.zeros((20, 20), np.uint8), np.zeros((20 * 32, 40 * 32), np.uint8))


def test_several_slides_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, first in (("p", FOUND), ("t", TRUE)):
        (tmp_path / folder).mkdir()
        Image.fromarray(first).save(tmp_path / folder / "a.png")
        Image.fromarray(TRUE).save(tmp_path / folder / "b.png")
    assert main(["score", "tumour", str(tmp_path / "p"), str(tmp_path / "t")]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n_images"] == 2 and scores["images"]["a"]["dice"] == pytest.approx(2 / 3)
    assert scores["dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["sd"]["dice"] == pytest.approx(np.std([2 / 3, 1], ddof=1))


def test_classes_are_refused() -> None:
    with pytest.raises(SettingsError, match="tumour is scored without classes"):
        score("tumour", FOUND, TRUE, ["normal", "tumour"])
