"""A slide read through a normalizer: same colors wherever it is read, nothing rewritten."""

from __future__ import annotations

import pickle
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_histoseg._testing import he_image
from napari_histoseg.slide import Box, Slide, open_slide, tissue_mask
from napari_histoseg.slide.normalized import read_stained


class Negative:
    """A function of the pixel alone."""

    halo_px, stride_px = 0, 1

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return 255 - pixels

    def key(self) -> str:
        return "negative"

    def describe(self) -> dict[str, Any]:
        return {"method": "negative"}


class Blocks(Negative):
    """Depends on the surroundings, and on where the blocks of 8 begin."""

    halo_px, stride_px = 10, 8

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        smooth = cv2.blur(pixels, (5, 5))
        return np.kron(smooth[::8, ::8], np.ones((8, 8, 1), np.uint8)) // 2 + cv2.blur(pixels, (3, 3)) // 2

    def key(self) -> str:
        return "blocks"


PIXELS = he_image(203, 151, seed=1, mpp=0.5)
SLIDE = open_slide(PIXELS, mpp=0.5)


def test_every_read_is_normalized_and_the_slide_itself_is_not() -> None:
    slide = SLIDE.with_stain(Negative())
    np.testing.assert_array_equal(slide.read(0, slide.bounds), 255 - PIXELS)
    np.testing.assert_array_equal(slide.pyramid()[0].compute(), 255 - PIXELS)
    np.testing.assert_array_equal(slide.thumbnail(203), 255 - PIXELS)
    np.testing.assert_array_equal(slide.unstained.read(0, slide.bounds), PIXELS)
    np.testing.assert_array_equal(SLIDE.read(0, SLIDE.bounds), PIXELS)
    assert slide.describe()["stain"] == {"method": "negative"}


def test_outside_is_white() -> None:
    read = SLIDE.with_stain(Negative()).read(0, Box(-4, -4, 8, 8))
    assert (read[:4] == 255).all() and (read[:, :4] == 255).all()
    np.testing.assert_array_equal(read[4:, 4:], 255 - PIXELS[:4, :4])
    assert (SLIDE.with_stain(Negative()).read(0, Box(-40, 0, 8, 8)) == 255).all()


@given(x=st.integers(-20, 190), y=st.integers(-20, 140), width=st.integers(1, 90), height=st.integers(1, 90))
def test_a_pixel_does_not_depend_on_the_box_that_it_is_read_in(x: int, y: int, width: int, height: int) -> None:
    bounds = Box(0, 0, 203, 151)
    whole = read_stained(lambda box: PIXELS[box.slices], bounds, Blocks(), bounds)
    box = Box(x, y, width, height)
    part = read_stained(lambda box: PIXELS[box.slices], bounds, Blocks(), box)
    inside = box.intersect(bounds)
    if not inside.empty:
        np.testing.assert_array_equal(part[inside.relative_to(box).slices], whole[inside.slices])
    outside = np.ones(box.shape, bool)
    outside[inside.relative_to(box).slices] = False
    assert inside.empty or (part[outside] == 255).all()


@pytest.mark.parametrize("change", [lambda s: s.with_mpp(0.25), lambda s: s.with_icc(), lambda s: pickle.loads(pickle.dumps(s))])
def test_other_views_of_the_slide_keep_the_stain(change: Any) -> None:
    slide: Slide = change(SLIDE.with_stain(Negative()))
    np.testing.assert_array_equal(slide.read(0, Box(3, 3, 20, 20)), 255 - PIXELS[3:23, 3:23])


def test_tissue_is_looked_for_on_the_slide_as_scanned() -> None:
    np.testing.assert_array_equal(tissue_mask(SLIDE.with_stain(Negative())).mask, tissue_mask(SLIDE).mask)


def test_the_content_is_the_same_and_the_arrays_are_not() -> None:
    stained = SLIDE.with_stain(Negative())
    assert stained.fingerprint() == SLIDE.fingerprint()
    assert stained.pyramid()[0].name != SLIDE.pyramid()[0].name
