"""Scores of stain normalization, and `score stain` over files, folders and results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_histoseg._testing import he_image
from napari_histoseg.cli import main
from napari_histoseg.errors import SettingsError, SlideError
from napari_histoseg.metrics import score as score_module
from napari_histoseg.metrics.score import score
from napari_histoseg.metrics.stain import (
    euclidean,
    find_glass,
    glass_change,
    hellinger,
    hematoxylin,
    hematoxylin_similarity,
    histogram_correlation,
    histograms,
    score_stain,
    seam,
)
from napari_histoseg.results import ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide.geometry import Box

Score = Callable[[Any, Any], float]
pictures = arrays(np.uint8, (8, 9, 3))
PAIRS: list[tuple[Score, float, float, float]] = [
    (histogram_correlation, 1, -1, 1),
    (hellinger, 0, 0, 1),
    (euclidean, 0, 0, 3**0.5),
    (hematoxylin_similarity, 1, -1, 1),
]


def plain(value: int | tuple[int, int, int], height: int = 8, width: int = 9) -> Any:
    """A picture of one color."""
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def tissue() -> Any:
    """Stained tissue with a strip of glass."""
    image = he_image(128, 96, seed=1)
    image[:, :40] = 244
    return image


@settings(max_examples=40, deadline=None)
@given(a=pictures, b=pictures)
@pytest.mark.parametrize(("value", "ideal", "low", "high"), PAIRS)
def test_a_pair_is_scored_alike_both_ways_and_within_bounds(
    value: Score, ideal: float, low: float, high: float, a: Any, b: Any
) -> None:
    assert value(a, a) == pytest.approx(ideal, abs=1e-12)
    assert value(a, b) == pytest.approx(value(b, a), abs=1e-12)
    assert low - 1e-12 <= value(a, b) <= high + 1e-12


@settings(max_examples=40, deadline=None)
@given(a=pictures, b=pictures, seed=st.integers(0, 99))
def test_histograms_do_not_know_where_a_pixel_lies(a: Any, b: Any, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(a.reshape(-1, 3)).reshape(6, 12, 3)
    assert histogram_correlation(shuffled, b) == pytest.approx(histogram_correlation(a, b), abs=1e-12)
    assert hellinger(shuffled, b) == pytest.approx(hellinger(a, b), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(a=pictures, b=pictures, bins=st.sampled_from([2, 7, 64, 256]))
def test_histograms_score_as_in_opencv(a: Any, b: Any, bins: int) -> None:
    rows = [tuple(row.astype(np.float32) for row in pair) for pair in zip(histograms(a, bins), histograms(b, bins), strict=True)]
    correlation = np.mean([cv2.compareHist(p, q, cv2.HISTCMP_CORREL) for p, q in rows])
    distance = np.mean([cv2.compareHist(p, q, cv2.HISTCMP_BHATTACHARYYA) for p, q in rows])
    np.testing.assert_allclose(histograms(a, bins).sum(1), 1)
    assert hellinger(a, b, bins) == pytest.approx(distance, abs=1e-3)
    if all(np.ptp(row) for pair in rows for row in pair):
        assert histogram_correlation(a, b, bins) == pytest.approx(correlation, abs=1e-4)


def test_known_values() -> None:
    black, white = plain(0), plain(255)
    assert euclidean(black, white) == pytest.approx(3**0.5)
    assert euclidean(plain((3, 0, 0)), plain((0, 4, 0))) == pytest.approx(5 / 255)
    assert hellinger(black, white) == 1
    assert hellinger(black, white, bins=2) == 1
    assert hellinger(plain(10), plain(20), bins=2) == 0
    assert histogram_correlation(black, white) == pytest.approx(-1 / 255)
    assert hellinger(np.concatenate([black, white]), black) == pytest.approx((1 - 0.5**0.5) ** 0.5)


def test_flat_histograms_correlate_with_their_like_alone() -> None:
    flat = np.zeros((1, 256, 3), np.uint8) + np.arange(256, dtype=np.uint8)[:, None]
    assert histogram_correlation(flat, flat) == 1
    assert histogram_correlation(flat, plain(7)) == 0


def test_hematoxylin_is_told_from_eosin() -> None:
    vectors = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
    unit = np.array(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = np.array([[0.0, 0.0], [0.8, 0.0], [0.0, 0.8], [0.5, 0.5]])
    image = np.rint(255 * 10 ** -(amounts @ unit)).astype(np.uint8)[None]
    np.testing.assert_allclose(hematoxylin(image)[0], amounts[:, 0], atol=0.01)
    swapped = hematoxylin(image, vectors[::-1])
    np.testing.assert_allclose(swapped[0], amounts[:, 1], atol=0.01)


def test_similarity_falls_with_structure_and_not_with_eosin(tissue: Any) -> None:
    blurred = cv2.GaussianBlur(tissue, (0, 0), 3)
    assert hematoxylin_similarity(blurred, tissue) < 0.9
    eosin = np.array((0.07, 0.99, 0.11)) / np.linalg.norm((0.07, 0.99, 0.11))
    redder = np.rint(tissue * 10 ** -(0.1 * eosin)).astype(np.uint8)
    assert hematoxylin_similarity(redder, tissue) > 0.99
    own = ((0.6, 0.7, 0.3), (0.1, 0.9, 0.2))
    assert hematoxylin_similarity(tissue, tissue, own) == pytest.approx(1)
    assert hematoxylin_similarity(tissue, tissue, own, ((0.7, 0.6, 0.2), own[1])) < 0.999


def test_the_change_of_glass_is_in_gray_levels(tissue: Any) -> None:
    changed = tissue.copy()
    changed[:, :20] -= 3
    assert find_glass(tissue)[:, :40].all()
    assert find_glass(tissue)[:, 40:].mean() < 0.5
    assert not find_glass(plain(200), (244, 244, 244)).any() and find_glass(plain(200), (205, 205, 205)).all()
    assert glass_change(tissue, tissue) == 0
    assert 0 < glass_change(changed, tissue) < 3
    assert glass_change(changed, tissue, np.arange(128)[None].repeat(96, 0) < 20) == 3
    assert np.isnan(glass_change(changed, tissue, np.zeros((96, 128), bool)))


def test_a_seam_is_a_step_at_a_border_only(tissue: Any) -> None:
    noise = np.random.default_rng(0).integers(90, 110, (64, 64, 3)).astype(np.uint8)
    jump = noise.copy()
    jump[:, 32:] += 60
    assert seam(noise, [], [32]) == pytest.approx(1, abs=0.1)
    assert seam(jump, [], [32]) > 5
    assert seam(jump, [32], []) == pytest.approx(1, abs=0.2)
    assert seam(jump, [], [32], source=noise) == np.inf
    assert seam(noise, [32], [32], source=noise) == 1
    assert seam(plain(5), [4], [4]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: euclidean(p, p[1:]), "The picture has shape (8, 9, 3) and the target (7, 9, 3). Give pictures of one shape."),
        (lambda p: glass_change(p, p[1:]), "The picture has shape (8, 9, 3) and the source (7, 9, 3). Give pictures of one shape."),
        (lambda p: hematoxylin_similarity(p, p[1:]), "The picture has shape (8, 9, 3) and the source (7, 9, 3). Give pictures of one shape."),
        (lambda p: seam(p, [4], [], p[1:]), "The picture has shape (8, 9, 3) and the source (7, 9, 3). Give pictures of one shape."),
        (lambda p: glass_change(p, p, p[..., 0][1:]), "The picture has shape (8, 9, 3) and the glass (7, 9). Give one value a pixel."),
        (
            lambda p: hematoxylin_similarity(p[:6], p[:6]),
            "Structural similarity needs at least 7 × 7 px. The picture has 9 × 6.",
        ),
        (
            lambda p: hellinger(p, p[..., 0]),
            "The picture has shape (8, 9) and type uint8. Give an RGB picture (height, width, 3) of uint8.",
        ),
        (
            lambda p: euclidean(p, p / 255),
            "The target has shape (8, 9, 3) and type float64. Give an RGB picture (height, width, 3) of uint8.",
        ),
        (
            lambda p: score_stain(p[:0], p),
            "The prediction is empty: its shape is (0, 9, 3). Give a picture with at least one pixel.",
        ),
        (lambda p: hellinger(p, p, bins=1), "A histogram has from 2 to 256 bins. Got 1 instead."),
        (
            lambda p: seam(p, [8], []),
            "Borders of tiles lie inside the picture, from 1 to 7 for its rows. Got 8 instead.",
        ),
        (
            lambda p: seam(p, [], [0]),
            "Borders of tiles lie inside the picture, from 1 to 8 for its columns. Got 0 instead.",
        ),
        (lambda p: seam(p, [], []), "There are no steps to compare: give at least one border, and tiles of at least 2 px."),
    ],
)
def test_wrong_pictures_are_named(call: Callable[[Any], float], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        call(plain(200))
    assert str(error.value) == message


def test_what_cannot_be_scored_is_not_a_number(tissue: Any) -> None:
    scores = score_stain(tissue, tissue[:50], tissue)
    assert np.isnan(scores["euclidean"])
    assert scores["hematoxylin_ssim"] == pytest.approx(1) and scores["glass_change"] == 0
    assert np.isnan(score_stain(plain(60)[:4], plain(60), plain(60)[:4])["hematoxylin_ssim"])
    assert set(score_stain(tissue, tissue)) == {"histogram_correlation", "hellinger", "euclidean"}


# -- score("stain", ...) and the command --------------------------------------------------------------------------------


def write(folder: Path, **images: Any) -> Path:
    """PNG files."""
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_files_and_results_score_as_arrays_do(tissue: Any, tmp_path: Path) -> None:
    expected = score_stain(tissue, tissue[::-1], tissue[:, ::-1])
    folder = write(tmp_path / "f", p=tissue, t=tissue[::-1], s=tissue[:, ::-1])
    np.save(folder / "p.npy", tissue)
    source = folder / "s.png"
    assert score("stain", tissue, tissue[::-1], source=tissue[:, ::-1]) == expected
    assert score("stain", folder / "p.png", str(folder / "t.png"), source=source) == expected
    box = Box(0, 0, 128, 96)
    record = RunRecord(
        method="stain", slide=SlideRecord(name="a", fingerprint="f", width=128, height=96, mpp=0.5), mpp=0.5, frame=box, tile_px=512,
        halo_px=0, n_tiles=1,
    )
    store = ResultStore.create(tmp_path / "r", record, ("image",))
    store.add(0, box, image=(box, tissue))
    result = store.finish()
    assert score("stain", result, folder / "t.png", source=source) == expected
    assert score("stain", tmp_path / "r", folder / "t.png", source=source) == expected
    assert score("stain", folder / "p.npy", folder / "t.png", source=source) == expected


def test_a_folder_scores_against_one_target_or_one_each(tissue: Any, tmp_path: Path) -> None:
    made = write(tmp_path / "made", a=tissue, b=tissue[:40, 40:])
    before = write(tmp_path / "before", a=tissue[:, ::-1], b=tissue[40:80, 40:])
    one = score("stain", made, tissue, source=before)
    assert one["n_images"] == 2
    assert one["images"]["a"] == score_stain(tissue, tissue, tissue[:, ::-1])
    assert one["euclidean"] == one["images"]["a"]["euclidean"] == 0
    assert np.isnan(one["images"]["b"]["euclidean"]) and one["sd"]["euclidean"] == 0
    assert one["hellinger"] == pytest.approx(one["images"]["b"]["hellinger"] / 2)
    each = score("stain", made, write(tmp_path / "wanted", a=tissue, b=tissue[:40, 40:]))
    assert each["hellinger"] == 0 and each["sd"]["histogram_correlation"] == pytest.approx(0)
    (before / "b.png").unlink()
    with pytest.raises(SettingsError, match=r"^Pictures pair by file name, but b has no source\.$"):
        score("stain", made, tissue, source=before)
    with pytest.raises(SettingsError, match=r"^There are several predictions and one source\. Give one source a prediction\.$"):
        score("stain", made, tissue, source=tissue)
    with pytest.raises(SettingsError, match=r"^There are 2 predictions and 1 sources\. Give one prediction a source\.$"):
        score("stain", [tissue, tissue], tissue, source=[tissue])


def test_what_is_no_picture_is_named(tissue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^The picture is empty: its shape is \(0, 5, 3\)\. Give a picture with at least one pixel\.$"):
        score("stain", np.zeros((0, 5, 3), np.uint8), tissue)
    with pytest.raises(SlideError, match=r"nowhere\.png does not exist\.$"):
        score("stain", "nowhere.png", tissue)
    (tmp_path / "none").mkdir()
    with pytest.raises(SettingsError, match=r"none holds no pictures \(.*\.jpg, \.jpeg\) and is no result folder\.$"):
        score("stain", tmp_path / "none", tissue)
    with pytest.raises(SettingsError, match=r"^nuclei is scored without a source\. Leave the source out\.$"):
        score("nuclei", tissue[..., 0], tissue[..., 0], source=tissue)
    monkeypatch.setattr(score_module, "MAX_PICTURE", 1000)
    with pytest.raises(SettingsError, match=r"128 × 96 px, and at most 1,000 can be scored at once\. Score a region\.$"):
        score("stain", tissue, tissue)


def test_a_result_without_a_picture_is_named(tmp_path: Path, tissue: Any) -> None:
    box = Box(0, 0, 9, 9)
    slide = SlideRecord(name="a", fingerprint="f", width=9, height=9, mpp=0.5)
    record = RunRecord(method="nuclei", slide=slide, mpp=0.5, frame=box, tile_px=512, halo_px=0, n_tiles=1)
    store = ResultStore.create(tmp_path / "r", record, ("labels",))
    store.add(0, box, labels=(box, np.zeros((9, 9), np.int32)))
    with pytest.raises(SettingsError, match=r"^The result of nuclei holds no picture\. Give the result of a method that makes one\.$"):
        score("stain", store.finish(), tissue)


def test_the_command_prints_json(tissue: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "f", p=tissue, t=tissue[:50])
    words = ["score", "stain", str(folder / "p.png"), str(folder / "t.png")]
    assert main([*words, "--source", str(folder / "p.png")]) == 0
    scores = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert scores["euclidean"] is None
    assert scores["glass_change"] == 0 and scores["hematoxylin_ssim"] == pytest.approx(1)
    assert main(words) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"histogram_correlation", "hellinger", "euclidean"}
    assert main([*words, "--source", str(folder / "t.png")]) == 2
    said = capsys.readouterr().err
    assert said.strip() == "histoseg: The picture has shape (96, 128, 3) and the source (50, 128, 3). Give pictures of one shape."
    assert main(["score", "nuclei", *words[2:], "--source", words[2]]) == 2
    assert capsys.readouterr().err.strip() == "histoseg: nuclei is scored without a source. Leave the source out."
