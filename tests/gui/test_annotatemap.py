"""Masks composed into a pyramid, and superpixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoseg._testing import he_image
from napari_histoseg.annotations.dataset import UNLABELED
from napari_histoseg.gui import annotatemap
from napari_histoseg.gui.annotatelayers import class_colors, warm_colors
from napari_histoseg.gui.annotatemap import COARSEST_PX, OVERVIEW_PX, MaskMap
from napari_histoseg.gui.annotatesuper import superpixels
from napari_histoseg.slide import Box

WIDTH, HEIGHT = 3000, 2200


def whole(boxes: dict[str, Box], masks: dict[str, np.ndarray]) -> np.ndarray:
    """What the finest level shall be."""
    out = np.full((HEIGHT, WIDTH), UNLABELED, np.uint8)
    for number, box in boxes.items():
        inside = box.intersect(Box(0, 0, WIDTH, HEIGHT))
        part = masks[number][inside.relative_to(box).slices]
        out[inside.slices][part != UNLABELED] = part[part != UNLABELED]
    return out


@st.composite
def patches(draw: st.DrawFn) -> tuple[dict[str, Box], dict[str, np.ndarray]]:
    boxes, masks = {}, {}
    for i in range(draw(st.integers(0, 5))):
        box = Box(draw(st.integers(0, 2800)), draw(st.integers(0, 2000)), draw(st.integers(1, 200)), draw(st.integers(1, 200)))
        boxes[f"p{i}"] = box
        masks[f"p{i}"] = np.random.default_rng(i).choice(np.array([0, 1, 2, UNLABELED], np.uint8), box.shape)
    return boxes, masks


@settings(deadline=None, max_examples=30)
@given(patches(), st.integers(0, 2900), st.integers(0, 2100), st.integers(1, 700), st.integers(1, 700))
def test_any_window_of_the_finest_level_is_what_was_painted_there(made: tuple, x: int, y: int, w: int, h: int) -> None:
    boxes, masks = made
    here = MaskMap(WIDTH, HEIGHT)
    here.place(boxes)
    for number, mask in masks.items():
        here.put(number, mask)
    expected = whole(boxes, masks)
    np.testing.assert_array_equal(here.levels[0][y : y + h, x : x + w], expected[y : y + h, x : x + w])


def test_coarser_levels_show_every_second_pixel_of_it() -> None:
    here = MaskMap(WIDTH, HEIGHT)
    box = Box(401, 303, OVERVIEW_PX, OVERVIEW_PX)
    mask = np.random.default_rng(0).integers(0, 3, box.shape).astype(np.uint8)
    here.place({"a": box})
    here.put("a", mask)
    finest = here.levels[0][:, :]
    np.testing.assert_array_equal(here.levels[1][:, :], finest[1::2, 1::2])
    np.testing.assert_array_equal(here.coarsest, finest[2::4, 2::4])


def test_single_pixels_can_be_asked_for_as_the_status_bar_does() -> None:
    here = MaskMap(WIDTH, HEIGHT)
    here.place({"a": Box(10, 20, 30, 30)})
    here.put("a", np.full((30, 30), 7, np.uint8))
    assert here.levels[0][25, 15] == 7
    assert here.levels[0][(np.int64(0), np.int64(0))] == UNLABELED
    with pytest.raises(IndexError):
        here.levels[0][HEIGHT, 0]


def test_a_slide_of_any_size_costs_the_memory_of_its_coarsest_level() -> None:
    here = MaskMap(400_000, 300_000)
    assert max(here.coarsest.shape) <= COARSEST_PX
    here.place({"a": Box(512 * 700, 512 * 500, 1024, 1024)})
    here.put("a", np.ones((1024, 1024), np.uint8))
    assert (here.levels[0][512 * 500 : 512 * 503, 512 * 700 : 512 * 703] == 1).sum() == 1024**2
    assert (here.coarsest == 1).sum() == 4


def test_moved_and_removed_patches_leave_nothing_behind() -> None:
    here = MaskMap(WIDTH, HEIGHT)
    mask = np.ones((100, 100), np.uint8)
    here.place({"a": Box(0, 0, 100, 100), "b": Box(50, 50, 100, 100)})
    here.put("a", mask)
    here.put("b", mask * 2)
    here.place({"b": Box(50, 50, 100, 100)})
    assert set(np.unique(here.coarsest)) == {2, UNLABELED}
    assert here.levels[0][10, 10] == UNLABELED
    here.place({})
    assert (here.coarsest == UNLABELED).all()


def test_the_patch_that_is_painted_is_left_out() -> None:
    here = MaskMap(WIDTH, HEIGHT)
    here.place({"a": Box(0, 0, 100, 100)})
    here.put("a", np.ones((100, 100), np.uint8))
    here.hide("a")
    assert (here.coarsest == UNLABELED).all()
    here.hide(None)
    assert (here.coarsest == 1).any()


def test_masks_out_of_sight_are_forgotten_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotatemap, "FULL", 4)
    here = MaskMap(WIDTH, HEIGHT)
    boxes = {f"p{i}": Box(256 * i, 0, 256, 256) for i in range(8)}
    here.place(boxes)
    for number in boxes:
        here.put(number, np.ones((256, 256), np.uint8))
    assert not here.wanted
    # An overview of it is shown meanwhile.
    assert (here.levels[0][0:256, 0:256] == 1).all()
    assert list(here.wanted) == ["p0"]


def test_superpixels_cover_the_patch_and_follow_its_edges() -> None:
    image = np.full((120, 150, 3), 240, np.uint8)
    image[:, 77:] = (150, 60, 140)
    pieces = superpixels(image)
    rows, columns = pieces.pixels(np.arange(pieces.labels.max() + 1))
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == image.shape[0] * image.shape[1]
    across = [len(np.unique(pieces.labels[:, :77][pieces.labels[:, :77] == i])) for i in np.unique(pieces.labels[:, 77:])]
    assert np.mean(across) < 0.1


def test_pieces_are_under_the_brush_for_the_greater_part() -> None:
    pieces = superpixels(he_image(128, 128, seed=1))
    under = pieces.under(64.2, 30.8, 14)
    rows, columns = np.ogrid[:128, :128]
    disk = (rows - 64.2) ** 2 + (columns - 30.8) ** 2 <= 14**2
    covered = np.bincount(pieces.labels[disk], minlength=pieces.labels.max() + 1) / np.bincount(pieces.labels.ravel())
    assert set(under) == set(np.flatnonzero(covered >= 0.5)) | {pieces.labels[64, 31]}
    assert len(under) > 2


def test_a_small_brush_has_the_piece_under_its_center() -> None:
    pieces = superpixels(he_image(128, 128, seed=1))
    assert pieces.under(10, 10, 0.1).tolist() == [pieces.labels[10, 10]]
    assert pieces.under(127.4, 127.4, 2).tolist() == [pieces.labels[127, 127]]
    assert not len(pieces.under(-40, 10, 5))


def test_what_compiling_colors_leaves_is_collected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("napari_histoseg.gui.annotatelayers.gc.collect", lambda: seen.append("collected"))
    colors = class_colors(())
    monkeypatch.setattr("napari_histoseg.gui.annotatelayers.class_colors", lambda _: colors)
    monkeypatch.setattr(type(colors), "map", lambda _, pixels: seen.append(str(pixels.dtype)))
    warm_colors(np.uint8, np.uint32)
    assert sorted(seen[:-1]) == ["uint32", "uint32", "uint8", "uint8"] and seen[-1] == "collected"
