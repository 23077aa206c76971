"""Outlines from coarse labels: values computed by hand, what holds for any, and `score lsr` over what people have."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_histoseg.cli import main
from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics import score_lsr, score_tumour
from napari_histoseg.metrics.lsr import islands, near_boundary
from napari_histoseg.metrics.score import METHODS, score
from napari_histoseg.results import ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide.geometry import Box

TRUE = np.array([[1, 1, 1, 1, 0, 0, 0, 0]], np.uint8)
FOUND = np.array([[0, 1, 1, 1, 1, 1, 0, 0]], np.uint8)
NONE = np.zeros_like(TRUE)
maps = arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 1, 0, 2]))
truths = arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 1, 0, 2, 255]))


def test_overlap_by_hand() -> None:
    # Both 3, found 5, true 4.
    assert score_lsr(FOUND, TRUE) == pytest.approx({"iou": 3 / 6, "dice": 6 / 9})


def test_masked_scores_by_hand() -> None:
    # At 10 µm/px the pixels within 15 µm of the edge after the fourth are the third to sixth: both 2, found 4, true 2.
    scores = score_lsr(FOUND, TRUE, mpp=10, within_um=15)
    assert (scores["masked_iou"], scores["masked_dice"]) == pytest.approx((2 / 4, 4 / 6))
    assert score_lsr(FOUND, TRUE, mpp=10, within_um=14)["masked_iou"] == pytest.approx(1 / 2)
    assert score_lsr(FOUND, TRUE, mpp=10)["masked_iou"] == pytest.approx(3 / 6)


def test_classes_count_alike_however_large() -> None:
    true = np.array([[1, 1, 1, 1, 2, 0]])
    found = np.array([[1, 1, 1, 0, 2, 2]])
    assert score_lsr(found, true) == pytest.approx({"iou": (3 / 4 + 1 / 2) / 2, "dice": (6 / 7 + 2 / 3) / 2})


def test_what_is_not_annotated_takes_no_part() -> None:
    true = TRUE.copy()
    true[0, [0, 4]] = 255
    assert score_lsr(FOUND, true) == pytest.approx({"iou": 3 / 4, "dice": 6 / 7})
    # The edge lies in the gap: what is beside it is one pixel farther from the other class.
    assert near_boundary(true, 1.4).tolist() == [[False] * 8]
    assert near_boundary(true, 1.5).tolist() == [[False, False, False, True, False, True, False, False]]


@pytest.mark.parametrize(("found", "true", "value"), [(NONE, NONE, 1), (NONE, TRUE, 0), (TRUE, NONE, 0), (TRUE, TRUE, 1)])
def test_pictures_of_background_only_have_scores(found: np.ndarray, true: np.ndarray, value: float) -> None:
    scores = score_lsr(found, true, mpp=1.0)
    assert scores["iou"] == scores["dice"] == value


@pytest.mark.parametrize("true", [NONE, NONE + 1])
def test_without_a_true_boundary_there_are_no_masked_scores(true: np.ndarray) -> None:
    scores = score_lsr(FOUND, true, mpp=1.0)
    assert math.isnan(scores["masked_iou"]) and math.isnan(scores["masked_dice"]) and not math.isnan(scores["iou"])


def test_distance_is_straight_and_on_both_sides() -> None:
    true = np.zeros((9, 9), int)
    true[4, 4] = 1
    y, x = np.mgrid[:9, :9]
    away = np.hypot(y - 4, x - 4)
    for within in (0.5, 1, 2, 3):
        np.testing.assert_array_equal(near_boundary(true, within), away <= within + 0.5)


def pepper() -> np.ndarray:
    """A large disc with a hole of one pixel, two islands beside it, and one at the edge of the picture."""
    y, x = np.mgrid[:60, :60]
    found = (np.hypot(y - 30, x - 25) < 16).astype(np.uint8)
    found[30, 25] = 0
    found[5:7, 50:52] = 1
    found[50, 50] = found[51, 51] = 1
    found[0, 0] = 1
    return found


def test_islands_by_hand() -> None:
    found = pepper()
    known = np.ones(found.shape, bool)
    assert islands(found, known, 4.5) == 3
    assert islands(found, known, 4) == 2
    assert islands(found, known, 1e9) == 4
    known[52, 52] = False
    assert islands(found, known, 4.5) == 2
    # 60 × 60 px of 10 µm are 0.36 mm²; an island is smaller than 1000 µm², ten pixels.
    assert score_lsr(found, found, mpp=10)["islands_per_mm2"] == pytest.approx(3 / 0.36)
    # At 20 µm/px two and a half pixels are as much.
    assert score_lsr(found, found, mpp=20)["islands_per_mm2"] == pytest.approx(2 / 1.44)


def test_without_a_pixel_size_the_rest_is_left_out() -> None:
    assert list(score_lsr(FOUND, TRUE)) == ["iou", "dice"]
    assert list(score_lsr(FOUND, TRUE, mpp=1)) == ["iou", "dice", "masked_iou", "masked_dice", "islands_per_mm2"]


@given(maps, truths)
def test_scores_lie_between_none_and_all(p: np.ndarray, t: np.ndarray) -> None:
    if (t == 255).all():
        return
    scores = score_lsr(p, t, mpp=2.0, within_um=3.0)
    assert all(0 <= scores[name] <= 1 or math.isnan(scores[name]) for name in ("iou", "dice", "masked_iou", "masked_dice"))
    assert scores["iou"] <= scores["dice"] and scores["islands_per_mm2"] >= 0
    best = score_lsr(np.where(t == 255, p, t), t, mpp=2.0, within_um=3.0)
    assert best["iou"] == best["dice"] == 1 and (best["masked_iou"] == 1 or math.isnan(best["masked_iou"]))


@given(maps, truths)
def test_a_band_as_wide_as_the_picture_masks_nothing(p: np.ndarray, t: np.ndarray) -> None:
    scores = score_lsr(p, t, mpp=1.0) if (t != 255).any() else {}
    if scores and not math.isnan(scores["masked_iou"]):
        assert scores["masked_iou"] == scores["iou"] and scores["masked_dice"] == scores["dice"]


@given(arrays(np.uint8, (5, 6), elements=st.integers(0, 1)), arrays(np.uint8, (5, 6), elements=st.integers(0, 1)))
def test_of_one_class_the_overlap_is_that_of_tumour(p: np.ndarray, t: np.ndarray) -> None:
    other = score_tumour(p, t)
    assert score_lsr(p, t) == pytest.approx({"iou": other["iou"], "dice": other["dice"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((FOUND[:, :3], TRUE), "Prediction and truth must be pictures of one shape. Got (1, 3) and (1, 8)."),
        ((FOUND, np.full_like(TRUE, 255)), "Nothing in the truth is annotated: all of it is 255. Give a truth with at least one labeled pixel."),
        ((255 * FOUND, TRUE), "The prediction has the values [255], which are no classes. Classes are 1 to 254, and 0 is background."),
        ((FOUND, TRUE, 0), "mpp must be above 0. Got 0."),
        ((FOUND, TRUE, math.nan), "mpp must be above 0. Got nan."),
        ((FOUND, TRUE, 1, -3), "within_um must be above 0. Got -3."),
    ],
)
def test_what_cannot_be_scored_is_said(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        score_lsr(*arguments)
    assert str(caught.value) == message


# -- score lsr ----------------------------------------------------------------------------------------------------------


def test_a_coarse_map_is_scored_at_the_truths_pixel_size() -> None:
    found = pepper()
    true = found.repeat(20, 0).repeat(20, 1)
    scores = score("lsr", found, true, mpp=0.5)
    assert scores["iou"] == scores["masked_iou"] == 1
    assert scores["islands_per_mm2"] == pytest.approx(3 / 0.36)


def test_a_result_brings_its_pixel_size(tmp_path: Path) -> None:
    found = pepper()
    frame = Box(0, 0, 60, 60)
    slide = SlideRecord(name="a", fingerprint="f", width=600, height=600, mpp=1.0)
    record = RunRecord(method="lsr", slide=slide, mpp=10.0, frame=frame, tile_px=512, halo_px=0, n_tiles=1)
    store = ResultStore.create(tmp_path / "r", record, ("labels",))
    store.add(0, frame, labels=(frame, found.astype(np.uint32)))
    result = store.finish()
    true = np.roll(found, 2, 1).repeat(2, 0).repeat(2, 1)
    expected = score("lsr", found, true, mpp=5.0, within_um=50)
    assert score("lsr", result, true, within_um=50) == score("lsr", tmp_path / "r", true, within_um=50) == expected
    assert score("lsr", result, true, mpp=50.0, within_um=50) != expected


def test_the_command_scores_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, first in (("p", FOUND), ("t", TRUE)):
        (tmp_path / folder).mkdir()
        Image.fromarray(first).save(tmp_path / folder / "a.png")
        Image.fromarray(NONE).save(tmp_path / folder / "b.png")
    assert main(["score", "lsr", str(tmp_path / "p"), str(tmp_path / "t"), "--mpp", "10", "--within-um", "15"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["iou"] == pytest.approx((1 / 2 + 1) / 2)
    # What is not defined takes no part in a mean.
    assert scores["masked_iou"] == pytest.approx(1 / 2) and scores["images"]["b"]["masked_iou"] is None
    assert main(["score", "lsr", str(tmp_path / "p" / "a.png"), str(tmp_path / "t" / "a.png")]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx({"iou": 1 / 2, "dice": 2 / 3})


def test_a_distance_needs_a_pixel_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(TRUE).save(tmp_path / "a.png")
    assert main(["score", "lsr", str(tmp_path / "a.png"), str(tmp_path / "a.png"), "--within-um", "15"]) == 2
    assert capsys.readouterr().err == "histoseg: Scores within 15 µm need the pixel size. Give it with --mpp, or mpp= in Python.\n"


@pytest.mark.parametrize("method", [m for m in METHODS if m != "lsr"])
def test_other_methods_have_no_use_for_these(method: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{method} is scored without a pixel size\. Leave mpp out\. Got 0\.5\.$"):
        score(method, FOUND, TRUE, mpp=0.5)
    with pytest.raises(SettingsError, match=rf"^{method} is scored without a distance\. Leave within_um out\. Got 15\.$"):
        score(method, FOUND, TRUE, within_um=15)


def test_classes_are_refused() -> None:
    with pytest.raises(SettingsError, match="lsr is scored without classes"):
        score("lsr", FOUND, TRUE, ["normal", "tumour"])
