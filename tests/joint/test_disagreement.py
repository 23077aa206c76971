"""The queue of places to annotate: what counts as disagreement, and which places are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from napari_histoseg._testing import he_image
from napari_histoseg.errors import PixelSizeError, RegionError, TileError, WeightsError
from napari_histoseg.methods.joint import disagreement as module
from napari_histoseg.methods.joint.disagreement import Place, candidates, disagreement, rank_places, turned_chances
from napari_histoseg.methods.joint.network import build
from napari_histoseg.nn.weights import ModelCard, save_weights
from napari_histoseg.slide import Box, Slide, TissueMask, open_slide

CLASSES = [{"value": 0, "name": "rest"}, {"value": 1, "name": "across"}]
SIDE = 64


class Fixed(nn.Module):
    """A convolution of the red channel; its output and the opposite are the logits of two classes."""

    def __init__(self, kernel: list[list[float]]) -> None:
        super().__init__()
        self.kernel = torch.tensor(kernel, dtype=torch.float32)[None, None]

    def forward(self, image: Tensor) -> Tensor:
        answer = 20 * nn.functional.conv2d(nn.functional.pad(image[:, :1], (1, 1, 1, 1), "replicate"), self.kernel)
        return torch.cat([-answer.abs() + 2, answer.abs() - 2], 1)


ROUND = Fixed([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
SIDEWAYS = Fixed([[0, 0, 0], [1, -2, 1], [0, 0, 0]])
"""Sees what changes from left to right only."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Joint weights of random numbers, at 1 µm/px."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    torch.manual_seed(1)
    card = ModelCard(method="joint", name="w", architecture="improved", width=8, mpp=1.0, classes=CLASSES)
    save_weights(path, build("improved", 8, 2), card)
    return path


def use(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    monkeypatch.setattr(module, "load_network", lambda weights: network)


def striped() -> Slide:
    """Gray all over, with vertical stripes in one square of the grid and a checkerboard in another."""
    image = np.full((4 * SIDE, 5 * SIDE, 3), 120, np.uint8)
    image[SIDE : 2 * SIDE, 3 * SIDE : 4 * SIDE : 4] = 30
    board = np.indices((SIDE, SIDE)).sum(0) // 2 % 2 * 90 + 30
    image[2 * SIDE : 3 * SIDE, SIDE : 2 * SIDE] = board[..., None]
    return open_slide(image, mpp=1.0)


def ranked(slide: Slide, weights: Path, **more: Any) -> list[Place]:
    return rank_places(slide, weights, **{"patch_px": SIDE, "mpp": 1.0, **more})


# -- disagreement -------------------------------------------------------------------------------------------------------


def test_a_network_that_sees_every_direction_alike_never_disagrees() -> None:
    found = disagreement(turned_chances(ROUND, he_image(96, 96, seed=1, mpp=1.0)))
    assert found.shape == (96, 96) and found.max() < 1e-6


def test_a_network_that_sees_one_direction_disagrees_with_itself() -> None:
    assert disagreement(turned_chances(SIDEWAYS, he_image(96, 96, seed=1, mpp=1.0))).mean() > 0.01


def test_answers_are_turned_back_to_where_they_belong() -> None:
    image = he_image(64, 64, seed=2, mpp=1.0)
    chances = turned_chances(ROUND, image)
    assert chances.shape == (4, 2, 64, 64)
    np.testing.assert_allclose(chances, np.broadcast_to(chances[:1], chances.shape), atol=1e-5)


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 1000))
def test_it_lies_between_nothing_and_the_log_of_the_answers(answers: int, classes: int, seed: int) -> None:
    chances = np.random.default_rng(seed).dirichlet(np.full(classes, 0.2), (answers, 3, 4)).transpose(0, 3, 1, 2)
    found = disagreement(chances)
    assert found.shape == (3, 4)
    assert (found >= 0).all() and (found <= np.log(min(answers, classes)) + 1e-9).all()
    np.testing.assert_allclose(found, disagreement(chances[::-1, ::-1]), atol=1e-12)


def test_opposite_certain_answers_disagree_by_log_two_and_shared_doubt_by_nothing() -> None:
    opposite = np.array([[1.0, 0.0], [0.0, 1.0]])[..., None, None]
    assert disagreement(opposite)[0, 0] == pytest.approx(np.log(2))
    assert disagreement(np.full((4, 2, 1, 1), 0.5))[0, 0] == pytest.approx(0)


# -- places -------------------------------------------------------------------------------------------------------------


def test_the_texture_that_divides_the_network_comes_first(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SIDEWAYS)
    first, *others = ranked(striped(), weights, keep=20)
    assert first.box == Box(3 * SIDE, SIDE, SIDE, SIDE) and first.classes == ("across", "rest")
    assert first.disagreement > 10 * max(p.disagreement for p in others if p.box.intersect(first.box.padded(2)).empty)
    assert others[-1].disagreement < 1e-6 and others[-1].classes == ("rest",)
    assert [p.disagreement for p in others] == sorted((p.disagreement for p in others), reverse=True)


def test_a_place_that_exists_is_not_named_again(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SIDEWAYS)
    taken = [Box(3 * SIDE - 10, 2 * SIDE - 1, 20, 20), Box(10, 10, 1, 1)]
    found = ranked(striped(), weights, taken=taken, keep=99)
    assert len(found) == 20 - 5
    assert all(p.box.intersect(t).empty for p in found for t in taken)


def test_the_same_seed_gives_the_same_list(weights: Path) -> None:
    slide = open_slide(he_image(500, 400, seed=4, mpp=1.0), mpp=1.0)
    lists = [ranked(slide, weights, seed=seed, count=8, keep=5) for seed in (3, 3, 4)]
    assert lists[0] == lists[1] and len(lists[0]) == 5
    assert {p.box for p in lists[0]} != {p.box for p in lists[2]}


def test_places_have_the_size_of_patches_and_do_not_overlap(weights: Path) -> None:
    slide = open_slide(he_image(700, 600, seed=5, mpp=0.5), mpp=0.5)
    found = ranked(slide, weights, patch_px=50, mpp=1.5, keep=99)
    assert len(found) == 4 * 4 and {p.box.shape for p in found} == {(150, 150)}
    assert all(a is b or a.box.intersect(b.box).empty for a in found for b in found)
    assert all(slide.bounds.intersect(p.box) == p.box for p in found)


def test_glass_is_not_named(weights: Path) -> None:
    image = np.full((1200, 1200, 3), 244, np.uint8)
    image[100:500, 100:700] = he_image(600, 400, seed=6, mpp=1.0)
    slide = open_slide(image, mpp=1.0)
    found = ranked(slide, weights, keep=99)
    tissue = Box(100, 100, 600, 400)
    assert found and all(p.box.intersect(tissue).area >= 0.6 * p.box.area for p in found)


def test_a_small_picture_is_tissue_everywhere_unless_a_mask_is_given(weights: Path) -> None:
    slide = open_slide(np.full((200, 200, 3), 244, np.uint8), mpp=1.0)
    assert len(ranked(slide, weights)) == 9
    left = np.zeros((20, 20), bool)
    left[:, :10] = True
    assert {p.box.x for p in ranked(slide, weights, tissue=TissueMask.from_array(left, slide))} == {4}


def test_a_region_bounds_the_search_and_a_small_one_has_one_place(weights: Path) -> None:
    slide = striped()
    region = Box(50, 70, 2 * SIDE + 5, SIDE + 9)
    found = ranked(slide, weights, region=region)
    assert len(found) == 2 and all(region.intersect(p.box) == p.box for p in found)
    (only,) = ranked(slide, weights, region=Box(100, 2, 20, 10))
    assert only.box == Box(100 + 10 - SIDE // 2, 0, SIDE, SIDE)
    with pytest.raises(RegionError, match="does not meet the slide"):
        ranked(slide, weights, region=Box(5000, 0, 10, 10))


def test_nothing_to_rank_is_an_empty_list(weights: Path) -> None:
    slide = striped()
    assert ranked(slide, weights, taken=[slide.bounds]) == []
    assert ranked(slide, weights, patch_px=1000) == []
    assert ranked(slide, weights, tissue=TissueMask.from_array(np.zeros((8, 8), bool), slide)) == []


def test_progress_is_told_and_what_it_raises_stops(weights: Path) -> None:
    seen: list[tuple[int, int]] = []
    ranked(striped(), weights, count=3, step=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        ranked(striped(), weights, step=stop)


def test_places_that_cannot_be_read_are_passed_over(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = striped()
    read = Slide.read_at
    broken = {"all": False}

    def fails(self: Slide, mpp: float, box: Box) -> np.ndarray:
        if broken["all"] or box.x < 2 * SIDE:
            raise TileError("a tile is damaged")
        return read(self, mpp, box)

    monkeypatch.setattr(Slide, "read_at", fails)
    assert {p.box.x for p in ranked(slide, weights, keep=99)} == {2 * SIDE, 3 * SIDE, 4 * SIDE}
    broken["all"] = True
    with pytest.raises(TileError, match="a tile is damaged"):
        ranked(slide, weights)


def test_what_cannot_be_ranked_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        ranked(striped(), tmp_path / "missing.safetensors")
    with pytest.raises(PixelSizeError):
        ranked(open_slide(np.zeros((99, 99, 3), np.uint8)), weights)
    with pytest.raises(PixelSizeError):
        ranked(open_slide(np.zeros((99, 99, 3), np.uint8), mpp=9.0), weights)


BOXES = st.builds(Box, st.integers(-50, 400), st.integers(-50, 400), st.integers(1, 300), st.integers(1, 300))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 150), BOXES, st.lists(BOXES, max_size=3))
def test_candidates_lie_on_the_slide_apart_from_all_others(width: int, height: int, side: int, area: Box, taken: list[Box]) -> None:
    slide = Box(0, 0, width, height)
    inside = area.intersect(slide)
    if inside.empty or (width // side) * (height // side) > 400:
        return
    found = list(candidates(slide, inside, side, taken, None, seed=1))
    assert all(slide.intersect(b) == b and b.shape == (side, side) for b in found)
    assert all(b.intersect(t).empty for b in found for t in taken)
    assert all(a is b or a.intersect(b).empty for a in found for b in found)
    assert all(not b.intersect(inside).empty for b in found)
    assert set(found) == set(candidates(slide, inside, side, taken, None, seed=2))


def test_a_million_squares_are_not_all_looked_at() -> None:
    slide = Box(0, 0, 128_000, 128_000)
    found = candidates(slide, slide, 128, [Box(i, 0, 1, 128_000) for i in range(0, 64_000, 64)], None, seed=0)
    assert all(next(found).x >= 63_900 for _ in range(20))
