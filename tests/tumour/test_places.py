"""Which patches are learned from: the paper's rules, counted on slides whose every patch is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.methods.tumour.places import inside, patches_of
from napari_histoseg.methods.tumour.sheets import Sheet
from napari_histoseg.slide import Box

SIDE = 10
TISSUE, GLASS = (200, 120, 180), (243, 243, 243)


def sheet(box: Box, tissue: np.ndarray, truth: np.ndarray) -> Sheet:
    """Working pixels that are tissue or glass, and tumour (1), none (0) or not annotated (255)."""
    return Sheet(box, 8.0, np.where(tissue[..., None], TISSUE, GLASS).astype(np.uint8), truth.astype(np.uint8))


def one(tissue: float = 1.0, tumour: float = 0.0, unknown: float = 0.0) -> Sheet:
    """A single patch with shares of tissue, of tumour, and of what nobody annotated."""
    flat = np.arange(SIDE * SIDE) / (SIDE * SIDE)
    truth = np.where(flat < tumour, 1, np.where(flat >= 1 - unknown, 255, 0))
    return sheet(Box(0, 0, SIDE, SIDE), (flat < tissue).reshape(SIDE, SIDE), truth.reshape(SIDE, SIDE))


@pytest.mark.parametrize(
    ("shares", "label"),
    [
        ({}, 0),
        ({"tumour": 1.0}, 1),
        ({"tumour": 0.26}, 1),
        ({"tumour": 0.25}, None),  # "more than 25 %"
        ({"tumour": 0.01}, None),
        ({"tissue": 0.25}, 0),  # "at least 25 %"
        ({"tissue": 0.24}, None),
        ({"tissue": 0.24, "tumour": 1.0}, None),
        ({"tissue": 0.0}, None),
        ({"unknown": 0.01}, None),
        ({"unknown": 0.01, "tumour": 0.9}, None),
        ({"unknown": 1.0}, None),
    ],
)
def test_the_rules_of_the_paper(shares: dict[str, float], label: int | None) -> None:
    found = patches_of(one(**shares), SIDE, 0.25, 0.25)
    assert found["label"].tolist() == ([] if label is None else [label])
    if label is not None:
        assert found.loc[0, ["tissue", "tumour"]].tolist() == pytest.approx([shares.get("tissue", 1), shares.get("tumour", 0)])


def test_glass_is_nothing_to_learn_from_even_where_no_tissue_is_asked_for() -> None:
    assert patches_of(one(tissue=0.0), SIDE, 0.0, 0.25).empty
    assert len(patches_of(one(tissue=0.01), SIDE, 0.0, 0.25)) == 1


def test_the_shares_are_settings() -> None:
    assert patches_of(one(tissue=0.4), SIDE, 0.5, 0.25).empty
    assert patches_of(one(tumour=0.4), SIDE, 0.25, 0.5).empty
    assert patches_of(one(tumour=0.1), SIDE, 0.25, 0.0)["label"].tolist() == [1]


def test_patches_lie_on_the_slide_s_grid_wholly_inside_of_the_part() -> None:
    box = Box(13, 27, 30, 24)
    whole = sheet(box, np.ones(box.shape, bool), np.zeros(box.shape))
    found = patches_of(whole, SIDE, 0.25, 0.25)
    assert sorted(zip(found["x"], found["y"], strict=True)) == [(20, 30), (20, 40), (30, 30), (30, 40)]


def test_each_patch_is_told_what_lies_under_it() -> None:
    box = Box(5, 0, 40, 25)
    rng = np.random.default_rng(0)
    tissue, truth = rng.random(box.shape) < 0.6, (np.indices(box.shape)[1] < 18).astype(int)
    found = patches_of(sheet(box, tissue, truth), SIDE, 0.25, 0.25)
    assert dict(zip(zip(found["x"], found["y"], strict=True), found["label"], strict=True)) == {
        (10, 0): 1, (10, 10): 1, (20, 0): 1, (20, 10): 1, (30, 0): 0, (30, 10): 0,
    }  # fmt: skip
    for row in found.itertuples():
        where = Box(row.x, row.y, SIDE, SIDE).relative_to(box).slices
        assert row.tissue == pytest.approx(tissue[where].mean())
        assert row.tumour == pytest.approx((truth[where] == 1).mean())


@pytest.mark.parametrize("box", [Box(1, 1, 17, 17), Box(0, 0, 9, 100), Box(0, 0, 0, 0)])
def test_a_part_without_a_whole_patch_has_none(box: Box) -> None:
    found = patches_of(sheet(box, np.ones(box.shape, bool), np.zeros(box.shape)), SIDE, 0.25, 0.25)
    assert found.empty
    assert list(found.columns) == ["x", "y", "label", "tissue", "tumour"]


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(1, 64))
def test_whole_patches_are_the_most_that_fit(x: int, y: int, width: int, height: int, side: int) -> None:
    box = Box(x, y, width, height)
    found = inside(box, side)
    assert all(v % side == 0 for v in (found.x, found.y, found.width, found.height))
    if found.empty:
        return
    assert found.intersect(box) == found
    assert found.x - x < side and found.y - y < side and box.right - found.right < side and box.bottom - found.bottom < side
