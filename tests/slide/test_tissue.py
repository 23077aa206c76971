"""Tissue is found; glass, dust and ink are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_histoseg import _testing as make
from napari_histoseg.slide import Box, TissueMask, is_field, open_slide, tissue_mask

# Part of the picture that is tissue, at least and at most; judged by eye on overlays.
FRACTIONS = {
    "almost-white-1": (0, 0),
    "almost-white-2": (0.005, 0.06),
    "almost-white-ihc": (0, 0),
    "diagnostic-slide-thumb-rgb": (0.3, 0.5),
    "high-nuclei-score-level0": (0.9, 1),
    "high-nuclei-score-level2": (0.1, 0.2),
    "high-nuclei-score-red-pen-level1": (0.8, 0.95),
    "kidney-ihc-level0-310-500-360-530": (0.7, 1),
    "kidney-ihc-level0-330-480-380-510": (0.25, 0.5),
    "kidney-ihc-level0-340-520-390-550": (0.7, 0.95),
    "liver-level2-10907-7808-11707-8608": (0.99, 1),
    "liver-level2-20914-13715-21714-14515": (0.1, 0.25),
    "liver-level2-38626-13514-39426-14315": (0, 0),
    "liver-level2-57138-8209-57938-9009": (0.6, 0.8),
    "low-nuclei-score-level0": (0.1, 0.35),
    "medium-nuclei-score-green-pen-level1": (0.3, 0.5),
    "medium-nuclei-score-level0": (0.85, 1),
    "medium-nuclei-score-level1-2": (0.95, 1),
    "medium-nuclei-score-level2": (0.7, 0.9),
    "no-tissue": (0, 0.001),
    "no-tissue2": (0, 0.005),
    "no-tissue-line": (0, 0.001),
    "no-tissue-green-pen": (0, 0.01),
    "no-tissue-red-pen": (0, 0.03),
    "tcga-green-pen": (0.65, 0.85),
    "tcga-red-pen": (0.45, 0.65),
    "tissue-level2-1784-6289-5880-10386": (0.6, 0.85),
    "tissue-level2-4760-5241-8856-9338": (0.6, 0.85),
    "very-low-nuclei-score-level0": (0.9, 1),
    "very-low-nuclei-score-red-pen-level1": (0.05, 0.25),
    "wsi-blue-pen": (0.25, 0.5),
}


@pytest.mark.parametrize("name", FRACTIONS)
def test_real_overviews(name: str, data_dir: Path) -> None:
    mask = tissue_mask(open_slide(data_dir / "background" / f"{name}.png")).mask
    low, high = FRACTIONS[name]
    assert low <= mask.mean() <= high


def stained(ink: tuple[int, int, int] | None = None) -> np.ndarray:
    """Tissue (left half) and glass, with a bar of ink across both."""
    picture = np.full((400, 800, 3), 243, np.uint8)
    picture[50:350, 50:400] = make.he_image(350, 300, mpp=8)
    if ink is not None:
        picture[180:220, 20:780] = ink
    return picture


@pytest.mark.parametrize(
    "ink", [(200, 25, 35), (25, 110, 85), (35, 85, 190), (25, 22, 28)], ids=["red", "green", "blue", "black"]
)
def test_ink_is_no_tissue(ink: tuple[int, int, int]) -> None:
    mask = tissue_mask(open_slide(stained(ink), mpp=8)).mask
    assert not mask[180:220].any()
    assert mask[60:170, 60:390].mean() > 0.95
    assert mask[230:340, 60:390].mean() > 0.95
    assert not mask[:, 410:].any()


def test_gray_dust_and_lines_are_no_tissue() -> None:
    picture = np.full((400, 400, 3), 240, np.uint8)
    picture[:, 200:206] = 120
    picture[50:60, 50:60] = 90
    assert not tissue_mask(open_slide(picture, mpp=8)).any


def test_large_holes_stay_and_debris_goes() -> None:
    picture = stained()
    picture[150:200, 150:200] = 243
    picture[20:26, 600:606] = (200, 100, 180)
    mask = tissue_mask(open_slide(picture, mpp=8)).mask
    assert not mask[155:195, 155:195].any()
    assert not mask[:40, 590:620].any()


def test_a_slide_without_tissue_has_an_empty_mask() -> None:
    mask = tissue_mask(open_slide(np.full((300, 500), 250, np.uint8)))
    assert not mask.any
    assert mask.area_px == 0
    assert mask.fraction(Box(0, 0, 500, 300)) == 0


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 20000, 3), (20000, 1, 3)])
def test_thin_slides_have_a_mask(shape: tuple[int, ...]) -> None:
    pink = np.empty(shape, np.uint8)
    pink[:] = (220, 120, 180)
    mask = tissue_mask(open_slide(pink, mpp=0.5))
    assert mask.mask.all()


def test_the_mask_has_the_wanted_resolution(tmp_path: Path) -> None:
    slide = open_slide(
        make.write_svs(tmp_path / "a.svs", make.he_image(1024, 1024), size=(40960, 20480), levels=(1, 16))
    )
    assert tissue_mask(slide).downsample == pytest.approx(32, rel=1e-3)
    assert tissue_mask(slide, mpp=16).downsample == pytest.approx(64, rel=1e-3)


def test_fractions_are_of_the_box_inside_the_slide() -> None:
    slide = open_slide(np.full((400, 600, 3), 200, np.uint8))
    half = np.zeros((40, 60), np.uint8)
    half[:, :30] = 1
    mask = TissueMask.from_array(half, slide)
    assert mask.downsample == 10
    assert mask.area_px == 400 * 300
    assert mask.fraction(Box(0, 0, 600, 400)) == 0.5
    assert mask.fraction(Box(250, 0, 100, 400)) == 0.5
    assert mask.fraction(Box(-500, 0, 600, 400)) == 1
    assert mask.fraction(Box(500, 100, 900, 90)) == 0
    assert mask.fraction(Box(5000, 0, 10, 10)) == 0


def test_the_bundled_overview_of_a_real_slide(data_dir: Path) -> None:
    with open_slide(data_dir / "slides" / "CMU-1-Small-Region.svs") as slide:
        mask = tissue_mask(slide)
    assert 0.3 < mask.mask.mean() < 0.5


@pytest.mark.parametrize(("side_px", "field"), [(3999, True), (4000, False)])
def test_below_a_square_millimeter_a_picture_is_a_field(side_px: int, field: bool) -> None:
    slide = open_slide(np.zeros((side_px, side_px, 3), np.uint8), mpp=0.25)
    assert is_field(slide) is field
