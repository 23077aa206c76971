"""Slides and results as layers: scale, units, placement, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Image, Labels, Layer, Shapes

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg._testing_clusters import tissue_result
from napari_histoseg.errors import RegionError, SlideError
from napari_histoseg.gui.inspectorcolors import rgba
from napari_histoseg.gui.layers import (
    box_around,
    labels_layer,
    level0_points,
    place,
    result_layers,
    slide_layer,
    tissue_layer,
    tissue_of,
    world_points,
)
from napari_histoseg.gui.live import live_levels, reload_levels, show_changes
from napari_histoseg.gui.slides import is_slide_layer, set_pixel_size, slide_of
from napari_histoseg.gui.where import drawn_region, outline
from napari_histoseg.results import ClassRecord, Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.slide import Box, TissueMask, open_slide


def layer_of(data: Any, keywords: dict[str, Any], kind: str) -> Any:
    return Layer.create(data, keywords, kind)


def test_a_slide_is_a_multiscale_rgb_layer_with_units(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", he_image(1024, 768), mpp=0.25, levels=(1, 4))
    layer = layer_of(*slide_layer(open_slide(path)))
    assert layer.multiscale
    assert layer.rgb
    assert tuple(layer.scale) == (0.25, 0.25)
    assert tuple(str(u) for u in layer.units) == ("micrometer", "micrometer")
    assert layer.axis_labels == ("y", "x")
    assert slide_of(layer).path == str(path)


def test_a_class_map_has_the_names_and_colors_of_its_classes(tmp_path: Path) -> None:
    values = np.zeros((64, 64), np.uint32)
    values[8:24, 8:24], values[30:60, 30:60] = 1, 2
    array = zarr.create_array(tmp_path / "a.zarr", data=values)
    classes = [ClassRecord(value=0, name="stroma"), ClassRecord(value=1, name="gland", color="#2ca02c"), ClassRecord(value=2, name="fat", color="#d62728")]
    layer = layer_of(*labels_layer([array], name="x", mpp=1, base=1, frame=Box(0, 0, 64, 64), metadata={}, classes=classes))
    np.testing.assert_allclose(layer.get_color(1)[:3], np.array([0x2C, 0xA0, 0x2C]) / 255, atol=1e-3)
    assert layer.get_color(0) is None
    assert layer.get_color(77)[3] == 0
    assert "class: gland" in layer.get_status((10, 10), world=True)["value"]


@pytest.fixture
def classed(tmp_path: Path) -> Any:
    """Stores two squares (10 and 11) as a class map or as objects of classes 1 and 2, renamed since."""

    def store(objects: pd.DataFrame | None) -> Result:
        values = np.zeros((64, 64), np.uint32)
        values[8:24, 8:24], values[30:60, 30:60] = (1, 2) if objects is None else (10, 11)
        frame = Box(0, 0, 64, 64)
        slide = SlideRecord(name="s", fingerprint="sha256:0", width=64, height=64, mpp=1.0)
        classes = [ClassRecord(value=1, name="a", color="#2ca02c"), ClassRecord(value=2, name="b", color="#d62728")]
        record = RunRecord(method="cells", slide=slide, mpp=1.0, frame=frame, tile_px=64, halo_px=0, n_tiles=1, classes=classes)
        store = ResultStore.create(tmp_path / "r", record, ("labels",) if objects is None else ("labels", "objects"))
        store.add(0, frame, labels=(frame, values), objects=objects)
        book = ClassBook(store.finish())
        book.rename(2, "gland")
        book.recolor(2, "#102030")
        return book.result

    return store


@pytest.mark.parametrize("of_objects", [False, True])
def test_layers_of_a_result_show_what_a_person_named(classed: Any, of_objects: bool) -> None:
    known = {"centroid_x_um": [16.0, 45.0], "centroid_y_um": [16.0, 45.0], "class": ["a", "b"], "cluster": [1, 2]}
    result = classed(pd.DataFrame({"id": [10, 11], **known}) if of_objects else None)
    ids = (10, 11) if of_objects else (1, 2)

    def shown() -> tuple[list[Any], list[str]]:
        layer = layer_of(*result_layers(result)[-1])
        assert layer.get_color(0) is None
        return [tuple(np.round(layer.get_color(i)[:3] * 255)) for i in ids], [layer.get_status((p, p), world=True)["value"] for p in (12, 40)]

    colors, words = shown()
    assert colors == [(0x2C, 0xA0, 0x2C), (0x10, 0x20, 0x30)]
    assert "class: a" in words[0] and "class: gland" in words[1]
    ClassBook(result).merge([2, 1])
    colors, words = shown()
    assert colors == [(0x10, 0x20, 0x30)] * 2
    assert all("class: gland" in each for each in words)


def test_finer_values_of_a_map_have_the_colors_and_names_of_their_classes(tmp_path: Path) -> None:
    result = tissue_result(tmp_path / "r", open_slide(np.full((300, 600, 3), 200, np.uint8), mpp=0.5))
    for split in (False, True):
        if split:
            ClassBook(result).split_values(1, [[1, 5], [4]])
        layer = layer_of(*result_layers(result)[-1])
        assert {value: layer.get_status((y, x), world=True)["value"].split("class: ")[1] for value, y, x in ((1, 10, 10), (4, 140, 10), (5, 140, 150))} == {
            1: "cluster 1",
            4: "cluster 1 (2)" if split else "cluster 1",
            5: "cluster 1",
        }
        for value, each in result.class_of.items():
            np.testing.assert_allclose(layer.get_color(value), rgba(each.color), atol=1e-6)


def test_without_a_pixel_size_the_units_are_pixels() -> None:
    layer = layer_of(*slide_layer(open_slide(he_image(64, 64))))
    assert tuple(layer.scale) == (1, 1)
    assert {str(u) for u in layer.units} == {"pixel"}


@pytest.mark.parametrize(
    ("units", "scale", "mpp"),
    [("um", 0.5, 0.5), ("nm", 250, 0.25), ("mm", 0.001, 1.0), ("pixel", 2, None)],
)
def test_the_pixel_size_of_a_foreign_layer_is_its_scale(units: str, scale: float, mpp: float | None) -> None:
    layer = Image(he_image(80, 60), rgb=True, scale=(scale, scale), units=units)
    slide = slide_of(layer)
    assert slide.mpp == (None if mpp is None else pytest.approx(mpp))
    assert slide.mpp_source == ("layer" if mpp else None)
    assert (slide.width, slide.height) == (80, 60)
    assert slide_of(layer) is slide


@pytest.mark.parametrize("multiscale", [False, True])
def test_pixels_of_a_foreign_layer_are_the_slides(multiscale: bool) -> None:
    image = he_image(200, 120)
    data = [da.from_array(image), da.from_array(image[::2, ::2])] if multiscale else image
    slide = slide_of(Image(data, rgb=True, multiscale=multiscale))
    assert len(slide.levels) == 1 + multiscale
    np.testing.assert_array_equal(slide.read(0, Box(10, 20, 30, 40)), image[20:60, 10:40])


def test_new_pixels_in_a_foreign_layer_are_a_new_slide() -> None:
    layer = Image(he_image(64, 64), rgb=True)
    first = slide_of(layer)
    layer.data = he_image(64, 64, seed=9)
    assert slide_of(layer).fingerprint() != first.fingerprint()


def test_a_stack_is_refused_in_words() -> None:
    with pytest.raises(SlideError, match="a slide has two"):
        slide_of(Image(np.zeros((4, 8, 8))))


def test_only_flat_images_are_offered() -> None:
    assert is_slide_layer(Image(he_image(64, 64), rgb=True))
    assert not is_slide_layer(Image(np.zeros((4, 8, 8))))
    assert not is_slide_layer(Labels(np.zeros((8, 8), int)))


def test_stating_the_pixel_size_scales_the_layer() -> None:
    layer = layer_of(*slide_layer(open_slide(he_image(64, 64))))
    slide = set_pixel_size(layer, 0.3)
    assert tuple(layer.scale) == (0.3, 0.3)
    assert str(layer.units[0]) == "micrometer"
    assert slide_of(layer) is slide
    assert slide.mpp_source == "user"


@given(
    x=st.floats(0, 5000), y=st.floats(0, 5000), mpp=st.floats(0.1, 2), moved=st.tuples(st.floats(-50, 50), st.floats(-50, 50))
)
def test_world_and_level0_pixels_are_inverse(x: float, y: float, mpp: float, moved: tuple[float, float]) -> None:
    layer = Image(np.zeros((4, 4, 3), np.uint8), rgb=True, scale=(mpp, mpp), translate=moved)
    np.testing.assert_allclose(level0_points(layer, world_points(layer, [(x, y)])), [(x, y)], atol=1e-6)


@pytest.mark.parametrize(("factor", "x", "y"), [(1, 0, 0), (2, 10, 4), (0.5, 7, 3), (16, 1, 2)])
def test_layers_of_other_resolution_cover_the_same_ground(factor: float, x: int, y: int) -> None:
    base = 0.25
    fine = Image(np.zeros((8, 8)), **{k: v for k, v in place(base, base).items() if k != "axis_labels"})
    coarse = Image(np.zeros((8, 8)), **{k: v for k, v in place(base * factor, base, x, y).items() if k != "axis_labels"})
    # The corner of the coarse layer, half a pixel before its first center, in pixels of the fine one.
    corner = np.array(fine.world_to_data(coarse.data_to_world((-0.5, -0.5)))) + 0.5
    np.testing.assert_allclose(corner, (y * factor, x * factor))


def test_tissue_goes_to_a_layer_and_back() -> None:
    slide = open_slide(he_image(640, 480), mpp=0.5)
    mask = np.zeros((30, 40), bool)
    mask[5:20, 6:30] = True
    tissue = TissueMask.from_array(mask, slide)
    layer = layer_of(*tissue_layer(tissue, slide))
    assert layer.editable
    assert tuple(layer.scale) == (8, 8)
    back = tissue_of(layer, slide)
    np.testing.assert_array_equal(back.mask, mask)
    assert back.downsample == tissue.downsample


def test_what_is_written_to_the_pyramid_is_shown_at_every_level() -> None:
    import zarr

    arrays = [zarr.create_array({}, shape=(n, n), chunks=(64, 64), dtype="uint32") for n in (256, 128, 64)]
    layer = Labels(live_levels(arrays), multiscale=True)
    for level, array in enumerate(arrays):
        array[10:20, 10:20] = 7
        layer.data_level = level
        show_changes(layer)
        assert (np.asarray(layer.data[level][10:20, 10:20]) == 7).all()
    assert (layer._level_materializer(2)[10:20, 10:20] == 7).all()


def test_a_pyramid_of_one_level_is_shown_too() -> None:
    import zarr

    array = zarr.create_array({}, shape=(40, 31), chunks=(64, 64), dtype="uint32")
    layer = Labels(live_levels([array]), multiscale=True)
    array[:] = 3
    show_changes(layer)
    assert (np.asarray(layer.data[1]) == 3).all()


@given(
    box=st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(0, 90), st.integers(0, 90)),
)
def test_cutting_a_live_level_is_cutting_its_array(box: tuple[int, int, int, int]) -> None:
    import zarr

    values = np.arange(70 * 83, dtype=np.uint32).reshape(70, 83)
    array = zarr.create_array({}, shape=values.shape, chunks=(32, 32), dtype="uint32")
    array[:] = values
    level = live_levels([array])[0]
    top, bottom, left, right = box
    np.testing.assert_array_equal(level[top:bottom, left:right], values[top:bottom, left:right])
    np.testing.assert_array_equal(level[top:bottom:1, :], values[top:bottom])
    assert level[5, 6] == values[5, 6]


@given(data=st.data())
def test_a_fresh_pyramid_shows_what_was_announced_and_forgetting_shows_all(data: st.DataObject) -> None:
    import zarr

    arrays = [zarr.create_array({}, shape=s, chunks=(16, 16), dtype="uint32") for s in ((70, 83), (35, 42), (18, 21))]
    levels = live_levels(arrays, fresh=True)
    seen = data.draw(st.booleans(), label="looked at before")
    if seen:
        assert not np.asarray(levels[0][0:70, 0:83]).any()
    x, y = data.draw(st.integers(0, 82)), data.draw(st.integers(0, 69))
    box = Box(x, y, data.draw(st.integers(1, 83 - x)), data.draw(st.integers(1, 70 - y)))
    for i, array in enumerate(arrays):
        array[box.y >> i : -(-box.bottom >> i), box.x >> i : -(-box.right >> i)] = 5
    if seen:
        assert not np.asarray(levels[0][0:70, 0:83]).any()
    reload_levels(levels, [box])
    for array, level in zip(arrays, levels, strict=True):
        np.testing.assert_array_equal(level[0 : array.shape[0], 0 : array.shape[1]], array[:])
    arrays[0][:] = 9
    levels[0].forget()
    assert (levels[0][0:70, 0:83] == 9).all()


SQUARE = np.array([[10.0, 20.0], [10.0, 60.0], [50.0, 60.0], [50.0, 20.0]])


def test_one_rectangle_is_a_box_and_several_shapes_are_their_union() -> None:
    slide = open_slide(he_image(200, 150), mpp=0.5)
    image = layer_of(*slide_layer(slide))
    shapes = Shapes([SQUARE * 0.5 - 0.25], shape_type="rectangle", units="um")
    assert drawn_region(shapes, image, slide) == Box(20, 10, 40, 40)
    shapes.add_ellipses([SQUARE * 0.5 + 10])
    region = drawn_region(shapes, image, slide)
    assert not isinstance(region, Box)
    assert region.area == pytest.approx(1600 + np.pi * 400 - region_overlap(), rel=0.02)


def region_overlap() -> float:
    import shapely

    square = shapely.box(20, 10, 60, 50)
    disk = shapely.Point(60.5, 50.5).buffer(20)
    return float(square.intersection(disk).area)


def test_shapes_beside_the_slide_are_refused() -> None:
    slide = open_slide(he_image(64, 64), mpp=0.5)
    with pytest.raises(RegionError, match="do not meet"):
        drawn_region(Shapes([SQUARE + 500], units="um"), layer_of(*slide_layer(slide)), slide)


def test_an_ellipse_keeps_its_axes() -> None:
    points = outline("ellipse", SQUARE)
    np.testing.assert_allclose(points.min(0), SQUARE.min(0), atol=0.1)
    np.testing.assert_allclose(points.max(0), SQUARE.max(0), atol=0.1)


def test_boxes_are_cut_to_the_slide() -> None:
    assert box_around(np.array([[-5.5, 2.2], [7.1, 30]]), Box(0, 0, 20, 20)) == Box(0, 2, 8, 18)
    assert box_around(np.array([[50.0, 50.0], [60.0, 60.0]]), Box(0, 0, 20, 20)).empty
