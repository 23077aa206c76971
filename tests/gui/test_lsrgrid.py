"""Layers of a grid in a viewer without a window, and which blocks are painted exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image

from napari_histoseg._testing import he_image
from napari_histoseg.annotations.blocks import BlockGrid, blocks_of
from napari_histoseg.annotations.coarse import amount_classes
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchClass, PatchDataset
from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.annotatelayers import AnnotationLayers
from napari_histoseg.gui.layers import slide_layer
from napari_histoseg.gui.lsrgrid import LEAST_PX, LINE_OPACITY, LINE_PX, GridLayers, grid_lines
from napari_histoseg.gui.lsrpainted import beneath_masks, class_values, inside, next_block, shares_in, table_of
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.methods.lsr.measure import painted_shares
from napari_histoseg.slide import Box, open_slide

GRID = BlockGrid(20, 10, 30, 4, 6)


# -- layers -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def laid(qtbot: Any) -> tuple[ViewerModel, GridLayers]:
    """A grid over a slide of 0.5 µm/px that somebody moved."""
    viewer = ViewerModel()
    slide = open_slide(he_image(256, 192, seed=1, mpp=0.5), mpp=0.5)
    (image,) = show_layers(viewer, [slide_layer(slide)])
    image.translate = (100.0, 50.0)
    layers = GridLayers(viewer)
    viewer.scene.camera.zoom = 4.0
    labels = GRID.blank
    labels[1, 2] = 3
    layers.lie_over(image, slide, GRID, labels, amount_classes())
    qtbot.waitUntil(lambda: layers.blocks is not None and layers.blocks.visible and layers.lines is not None and layers.lines.visible)
    return viewer, layers


def test_a_grid_lies_on_its_pixels_also_when_the_slide_was_moved(laid: tuple[ViewerModel, GridLayers]) -> None:
    viewer, layers = laid
    image = viewer.layers[0]
    for row, column in ((0, 0), (4, 6)):
        there = image.data_to_world((10 + 30 * row - 0.5, 20 + 30 * column - 0.5))
        np.testing.assert_allclose(layers.blocks.data_to_world((row - 0.5, column - 0.5)), there)  # type: ignore[union-attr]
    np.testing.assert_allclose(layers.lines.data_to_world(layers.lines.data[0][0]), image.data_to_world((9.5, 19.5)))  # type: ignore[union-attr]
    assert len({str(unit) for layer in viewer.layers for unit in layer.units}) == 1


def test_labels_have_their_colors_and_none_is_clear(laid: tuple[ViewerModel, GridLayers]) -> None:
    _, layers = laid
    assert layers.blocks is not None
    shades = layers.blocks.colormap.map(np.array([3, UNLABELED], np.uint8))
    np.testing.assert_allclose(shades[0][:3] * 255, [0x21, 0x91, 0x8C], atol=1)
    assert shades[1][3] == 0


@pytest.mark.parametrize(("value", "mode"), [(4, "paint"), (0, "paint"), (None, "erase")])
def test_the_brush_is_a_block_wide_and_has_the_label(laid: tuple[ViewerModel, GridLayers], value: int | None, mode: str) -> None:
    _, layers = laid
    layers.take(value)
    assert layers.blocks is not None
    assert layers.chosen
    assert (layers.blocks.mode, layers.blocks.brush_size) == (mode, 1)
    layers.blocks.paint((2, 2), layers.blocks.selected_label if value is not None else layers.blocks.colormap.background_value)
    assert layers.blocks.data[2, 2] == (UNLABELED if value is None else value)
    assert (layers.blocks.data != GRID.blank).sum() == (1 if value is None else 2)
    layers.lay_down()
    assert layers.blocks.mode == "pan_zoom"


def test_the_brush_is_put_down_while_a_layer_goes_and_taken_up_again(laid: tuple[ViewerModel, GridLayers], qtbot: Any) -> None:
    viewer, layers = laid
    layers.take(2)
    modes = []
    other = viewer.add_points(ndim=2)
    viewer.layers.events.removing.connect(lambda event: modes.append(layers.blocks.mode))  # type: ignore[union-attr]
    viewer.layers.remove(other)
    assert modes[-1] == "pan_zoom"
    qtbot.waitUntil(lambda: layers.blocks.mode == "paint")  # type: ignore[union-attr]


def test_lines_keep_their_width_on_the_screen_and_hide_between_tiny_blocks(laid: tuple[ViewerModel, GridLayers], qtbot: Any) -> None:
    viewer, layers = laid
    lines = layers.lines
    assert lines is not None
    for zoom in (8.0, 1.0):
        viewer.scene.camera.zoom = zoom
        qtbot.waitUntil(lambda z=zoom: np.isclose(lines.edge_width, LINE_PX / z / 0.5))
        assert lines.opacity == pytest.approx(LINE_OPACITY)
    viewer.scene.camera.zoom = 0.9 * LEAST_PX / 15
    qtbot.waitUntil(lambda: lines.opacity == 0)


def test_layers_are_used_again_and_hidden_with_those_of_the_dataset(laid: tuple[ViewerModel, GridLayers]) -> None:
    viewer, layers = laid
    before = list(viewer.layers)
    annotations = AnnotationLayers(viewer)
    assert annotations.ours(layers.blocks)
    assert not annotations.keyed(layers.blocks)
    annotations.clear()
    assert not layers.blocks.visible  # type: ignore[union-attr]
    assert not layers.lines.visible  # type: ignore[union-attr]
    other = BlockGrid(0, 0, 64, 3, 4)
    image = before[0]
    layers.lie_over(image, image.metadata["histoseg"]["slide"], other, other.blank, amount_classes())
    assert list(viewer.layers) == before
    assert layers.blocks.visible  # type: ignore[union-attr]
    assert layers.blocks.data.shape == (3, 4)  # type: ignore[union-attr]


def test_lines_lie_between_blocks() -> None:
    lines = grid_lines(BlockGrid(5, 7, 10, 1, 2))
    across = [((6.5, 4.5), (0, 20)), ((16.5, 4.5), (0, 20))]
    down = [((6.5, 4.5), (10, 0)), ((6.5, 14.5), (10, 0)), ((6.5, 24.5), (10, 0))]
    np.testing.assert_array_equal(lines, [*across, *down])


# -- painted blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "places"),
    [
        (Box(20, 10, 30, 30), [(0, 0)]),
        (Box(21, 10, 30, 30), []),
        (Box(49, 39, 62, 62), [(1, 1), (1, 2), (2, 1), (2, 2)]),
        (Box(0, 0, 1000, 1000), [(r, c) for r in range(4) for c in range(6)]),
        (Box(300, 300, 90, 90), []),
    ],
)
def test_blocks_inside_a_box(box: Box, places: list[tuple[int, int]]) -> None:
    assert inside(GRID, box) == places
    everywhere = [(r, c) for r in range(4) for c in range(6)]
    assert places == [place for place in everywhere if GRID.block(*place).intersect(box) == GRID.block(*place)]


def test_the_next_block_is_of_the_label_with_fewest_painted_ones() -> None:
    labels = GRID.blank
    labels[0], labels[1, :2] = 2, 4
    assert next_block(labels, [], {2: 3, 4: 5})[0] == 0  # type: ignore[index]
    assert next_block(labels, [], {2: 3}) in [(1, 0), (1, 1)]
    assert next_block(labels, [(1, 0)], {2: 3}) == (1, 1)
    assert next_block(labels, [(1, 0), (1, 1)], {2: 3})[0] == 0  # type: ignore[index]
    assert next_block(GRID.blank, [], {}) is None
    # One after another, all over the grid and not along its rows.
    taken: list[tuple[int, int]] = []
    for _ in range(6):
        taken.append(next_block(labels, taken, {4: 9}))  # type: ignore[arg-type]
    assert sorted(taken) == [(0, column) for column in range(6)]
    assert taken != sorted(taken)


@pytest.fixture
def painted(tmp_path: Path) -> PatchDataset:
    """A grid of four labels, five painted blocks, a painted patch beside the grid, and a picture with a coarse label and a mask of another."""
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4
    labels[3] = UNLABELED
    Image.fromarray(labels).save(tmp_path / "grid.png")
    patches = [Patch(slide="s.svs", box=(20, 10, 180, 120), blocks="grid.png", slide_fingerprint="f"), Patch(image="a.png", coarse=1)]
    for i, (box, share) in enumerate((((20, 10, 60, 30), 0.5), ((50, 40, 90, 30), 0.25), ((20, 100, 30, 30), 1.0), ((400, 400, 30, 30), 1.0))):
        mask = np.zeros((box[3], box[2]), np.uint8)
        mask[: round(share * box[3])] = 2
        Image.fromarray(mask).save(tmp_path / f"mask{i}.png")
        patches.append(Patch(slide="s.svs", box=box, mask=f"mask{i}.png", slide_fingerprint="f"))
    classes = (PatchClass(value=2, name="gland"),)
    return PatchDataset(classes=classes, patches=tuple(patches), folder=tmp_path, coarse_classes=(PatchClass(value=2, name="half"),))


def test_looking_at_few_blocks_finds_what_looking_at_all_would(painted: PatchDataset) -> None:
    few = beneath_masks(painted)
    assert len(few) == 5
    everything = painted_shares(painted, blocks_of(painted), class_values(painted))
    found = shares_in(painted)
    assert set(found) == {label for label, rows in everything.items() if len(rows)}
    for label, rows in found.items():
        np.testing.assert_allclose(np.sort(rows, 0), np.sort(everything[label], 0))
    assert sum(map(len, found.values())) == 5


def test_a_table_is_measured_where_there_are_two_painted_blocks(painted: PatchDataset) -> None:
    shares = {1: np.array([[0.5, 0.5], [0.7, 0.3]]), 2: np.array([[0.0, 1.0]])}
    table = table_of(shares, painted)
    assert table.coarse == (1,)
    np.testing.assert_allclose(table.eta, [[0.6, 0.4]])
    with pytest.raises(DatasetError, match="'half' has 1"):
        table_of({2: shares[2]}, painted)
    with pytest.raises(DatasetError, match="'half' has 0"):
        table_of({}, painted)
