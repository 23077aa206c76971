"""Slides at low resolution: picture, tissue and truth lie on each other, wherever a part begins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import napari_histoseg as hs
from napari_histoseg._testing import he_image
from napari_histoseg.errors import PixelSizeError
from napari_histoseg.methods.tumour import sheets
from napari_histoseg.methods.tumour.sheets import Outlined, cell_means, sheet_of, stained, working_mpp
from napari_histoseg.methods.tumour.slides import _Raster
from napari_histoseg.slide import Box, Slide


def outlined(slide: Slide, mask: np.ndarray, part: Box | None = None) -> Outlined:
    return Outlined("s", lambda: slide, part, _Raster(mask.astype(np.uint8)))


@given(st.integers(0, 150), st.integers(0, 150), st.integers(40, 250), st.integers(40, 250), st.sampled_from([0.5, 1.0, 1.7]), st.sampled_from([1, 2, 3]))
def test_the_truth_lies_on_the_picture(x: int, y: int, width: int, height: int, mpp: float, finer: int) -> None:
    # A mask of any resolution over a part of a slide whose dark pixels are tumour.
    part = Box(x, y, width, height)
    rows, columns = np.mgrid[:400, :400]
    dark = ((columns // 40) + (rows // 40)) % 2 == 0
    image = np.where(dark[..., None], 60, 200).astype(np.uint8).repeat(3, 2)
    mask = dark[part.slices].repeat(finer, 0).repeat(finer, 1)
    slide = hs.open_slide(image, mpp=mpp)
    sheet = sheet_of(outlined(slide, mask, part), slide, 2.0, 4)
    assert sheet.truth.shape == sheet.box.shape == sheet.picture.shape[:2]
    assert sheet.mpp == working_mpp(slide, 2.0, 4)
    # Far from the squares' edges every pixel is right.
    factor = mpp / sheet.mpp
    near_x, near_y = ((np.arange(n) + first + 0.5) / factor % 40 for first, n in ((sheet.box.x, sheet.box.width), (sheet.box.y, sheet.box.height)))
    clear = [np.minimum(near, 40 - near) > 1.6 / factor for near in (near_x, near_y)]
    known = clear[1][:, None] & clear[0][None, :]
    known[[0, -1]] = False
    known[:, [0, -1]] = False
    np.testing.assert_array_equal((sheet.picture[..., 0] < 130)[known], (sheet.truth == 1)[known])


def test_the_truth_of_a_pixel_is_that_of_its_center() -> None:
    slide = hs.open_slide(np.full((64, 80, 3), 200, np.uint8), mpp=2.0)
    mask = np.random.default_rng(0).integers(0, 2, (64, 80))
    sheet = sheet_of(outlined(slide, mask), slide, 2.0, 4)
    np.testing.assert_array_equal(sheet.truth, mask[2::4, 2::4])
    part = sheet_of(outlined(slide, mask[8:40, 16:72], Box(16, 8, 56, 32)), slide, 2.0, 4)
    np.testing.assert_array_equal(part.truth, mask[10:40:4, 18:72:4])


def test_blocks_give_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = hs.open_slide(he_image(500, 400, seed=1), mpp=4.0)
    whole = sheet_of(outlined(slide, np.zeros((4, 5))), slide, 4.0, 2)
    monkeypatch.setattr(sheets, "BLOCK_PX", 64)
    part = sheet_of(outlined(slide, np.zeros((4, 5)), Box(101, 33, 300, 300)), slide, 4.0, 2)
    assert whole.box == Box(0, 0, 250, 200)
    np.testing.assert_array_equal(part.picture, whole.picture[part.box.slices])


def test_a_part_that_reaches_past_the_slide_is_cut() -> None:
    slide = hs.open_slide(he_image(100, 100, seed=1), mpp=8.0)
    mask = np.zeros((10, 10))
    mask[:, :5] = 1
    sheet = sheet_of(outlined(slide, mask, Box(0, 0, 100, 200)), slide, 8.0, 1)
    assert sheet.box == Box(0, 0, 100, 100)
    assert (sheet.truth[:, :50] == 1).all() and not sheet.truth[:, 50:].any()


@pytest.mark.parametrize(("mpp", "own"), [(1.0, 8.0), (0.5, 8.0), (1.1, 8.8), (0.25, 8.0), (2.0, 8.0)])
def test_slides_of_any_pixel_size_are_brought_to_about_8_um(mpp: float, own: float) -> None:
    assert working_mpp(hs.open_slide(np.zeros((64, 64, 3), np.uint8), mpp=mpp), 1.0, 8) == pytest.approx(own)


@pytest.mark.parametrize(("mpp", "words"), [(None, "has no pixel size"), (2.3, "2.2 times coarser")])
def test_slides_of_no_or_too_coarse_pixels_are_refused(mpp: float | None, words: str) -> None:
    with pytest.raises(PixelSizeError, match=words):
        working_mpp(hs.open_slide(np.zeros((64, 64, 3), np.uint8), mpp=mpp), 1.0, 8)


def test_means_of_cells_and_pixels_of_tissue() -> None:
    values = np.arange(24).reshape(4, 6)
    assert cell_means(values, 2).tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]
    colors = np.array([[(243, 243, 243), (200, 120, 180), (220, 200, 210), (0, 0, 0)]], np.uint8)
    # Pale gray, pink, and what is hardly pink: less than a tenth of the largest saturation. Black has no color.
    assert stained(colors).tolist() == [[False, True, False, False]]
    assert stained(np.array([[(220, 197, 210)]], np.uint8)).all()
