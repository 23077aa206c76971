"""The nucleus under a click."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histoseg.methods.nuclei.interactive import nucleus_at


def hills(*centers: tuple[int, int], height: float = 0.4, radius: float = 7, size: int = 96) -> np.ndarray:
    """Probability hills with steep sides, as a network draws nuclei that it is unsure of."""
    rows, columns = np.mgrid[:size, :size]
    distance = np.min([np.hypot(rows - y, columns - x) for y, x in centers], axis=0)
    return height / (1 + np.exp((distance - radius) * 1.5))


NONE = np.zeros((96, 96), np.uint32)


@pytest.mark.parametrize("height", [0.15, 0.3, 0.49, 0.9])
def test_finds_the_disk_under_the_click_at_any_probability(height: float) -> None:
    mask = nucleus_at(hills((48, 48), height=height), NONE, (50, 46))
    assert mask is not None
    assert mask[48, 48]
    assert mask.sum() == pytest.approx(np.pi * 49, rel=0.3)


def test_keeps_apart_from_an_unlabelled_neighbor() -> None:
    mask = nucleus_at(hills((48, 40), (48, 53)), NONE, (48, 40))
    assert mask is not None
    assert mask[48, 38]
    assert not mask[48, 53]


def test_splits_a_flat_top_by_its_shape() -> None:
    mask = nucleus_at(hills((48, 40), (48, 52), height=0.99, radius=8), NONE, (48, 38))
    assert mask is not None
    assert not mask[48, 52]


def test_takes_no_pixel_of_a_nucleus_that_is_there() -> None:
    labels = NONE.copy()
    labels[40:60, 47:60] = 7
    mask = nucleus_at(hills((48, 42), (48, 53)), labels, (48, 42))
    assert mask is not None
    assert not mask[labels != 0].any()


def test_the_mask_is_one_piece_without_holes() -> None:
    from scipy import ndimage

    probability = hills((48, 48), radius=9)
    probability[47:49, 47:49] = 0.2
    mask = nucleus_at(probability, NONE, (44, 44))
    assert mask is not None
    assert ndimage.label(mask)[1] == 1
    assert (ndimage.binary_fill_holes(mask) == mask).all()


def test_a_click_beside_the_hill_still_finds_it() -> None:
    mask = nucleus_at(hills((48, 48), radius=5), NONE, (48, 55))
    assert mask is not None
    assert mask[48, 48]


def taken() -> np.ndarray:
    labels = NONE.copy()
    labels[48, 48] = 3
    return labels


@pytest.mark.parametrize(
    ("probability", "labels", "point"),
    [
        pytest.param(np.zeros((96, 96)), NONE, (48, 48), id="empty glass"),
        pytest.param(np.full((96, 96), 0.05), NONE, (48, 48), id="too little everywhere"),
        pytest.param(hills((48, 48)), taken(), (48, 48), id="on a nucleus"),
        pytest.param(hills((48, 48)), NONE, (-1, 48), id="outside the window"),
        pytest.param(hills((48, 48), radius=1), NONE, (48, 48), id="smaller than a nucleus"),
        pytest.param(np.full((96, 96), 0.9), NONE, (48, 48), id="larger than a nucleus"),
    ],
)
def test_says_none_where_there_is_no_nucleus(
    probability: np.ndarray, labels: np.ndarray, point: tuple[int, int]
) -> None:
    assert nucleus_at(probability, labels, point, min_area_px=40) is None


def test_a_nucleus_at_the_windows_edge_is_found() -> None:
    mask = nucleus_at(hills((2, 48)), NONE, (2, 48))
    assert mask is not None
    assert mask[0, 48]
