"""Pictures of objects: the same whichever tile they are cut from."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoseg._testing import he_tissue
from napari_histoseg.errors import SettingsError, TileError
from napari_histoseg.methods.cells.crops import CropStyle, crops_of, iter_crops, reach_px, sample_of, windows_of
from napari_histoseg.methods.cells.objects import ObjectIndex
from napari_histoseg.methods.cells.sources import LabelImage, source_of
from napari_histoseg.objects.measure import MEASUREMENTS, measure
from napari_histoseg.slide import Box, Slide, open_slide

WIDTH, HEIGHT, MPP = 420, 330, 0.5
IMAGE, NUCLEI = he_tissue(WIDTH, HEIGHT, seed=4, mpp=MPP)
LABELS = NUCLEI.astype(np.uint32)

STYLES = [
    CropStyle(),
    CropStyle(surroundings=False),
    CropStyle(context="fixed", field_um=31),
    CropStyle(crop_px=32, context="fixed", field_um=9.3, surroundings=False),
]


@pytest.fixture(scope="module")
def slide() -> Slide:
    """A synthetic slide."""
    return open_slide(IMAGE, mpp=MPP)


def all_crops(slide: Slide, labels: Any, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids and crops of all tiles, by ascending id."""
    groups = list(iter_crops(slide, source_of(labels, slide), **{"mpp": MPP, **keywords}))
    ids = np.concatenate([group.ids for group in groups])
    order = np.argsort(ids)
    return ids[order], np.concatenate([group.crops for group in groups])[order]


# -- one object --------------------------------------------------------------------------------------------------------


def test_a_tight_crop_is_the_square_around_the_object_and_a_pixel_more() -> None:
    labels = np.zeros((100, 120), np.uint32)
    labels[30:36, 50:60] = 9
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    (crop,) = crops_of(image, labels)
    square = image[33 - 6 : 33 + 6, 49:61]
    np.testing.assert_array_equal(crop, cv2.resize(square, (40, 40), interpolation=cv2.INTER_LINEAR))


def test_a_fixed_crop_is_a_field_around_the_centroid() -> None:
    labels = np.zeros((100, 120), np.uint32)
    labels[30:36, 50:60] = 9
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    (crop,) = crops_of(image, labels, style=CropStyle(context="fixed", field_um=20), mpp=0.5)
    np.testing.assert_array_equal(crop, image[13:53, 35:75])
    (small,) = crops_of(image, labels, style=CropStyle(crop_px=20, context="fixed", field_um=20), mpp=0.5)
    np.testing.assert_array_equal(small, cv2.resize(crop, (20, 20), interpolation=cv2.INTER_AREA))


def test_without_surroundings_only_the_object_is_seen() -> None:
    labels = np.zeros((60, 60), np.uint32)
    labels[10:48, 10:48] = 1
    labels[20:25, 20:25] = 2
    image = np.full((60, 60, 3), 100, np.uint8)
    first, second = crops_of(image, labels, style=CropStyle(surroundings=False))
    assert (first == 255).all(2).sum() == 40 * 40 - (38 * 38 - 25)
    assert set(np.unique(first)) == {100, 255}
    # Enlarged from 7 x 7 pixels, a corner of which is white.
    assert (second[0, 0] == 255).all() and (second[20, 20] == 100).all()


@pytest.mark.parametrize(("rows", "columns"), [(slice(0, 9), slice(0, 5)), (slice(91, 100), slice(117, 120)), (slice(0, 100), slice(40, 44))])
def test_beyond_the_image_a_crop_is_mirrored(rows: slice, columns: slice) -> None:
    labels = np.zeros((100, 120), np.uint32)
    labels[rows, columns] = 3
    image = np.random.default_rng(1).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    wide, found = (np.pad(a, ((200, 200), (200, 200), (0, 0))[: a.ndim], mode=m) for a, m in ((image, "symmetric"), (labels, "constant")))
    for style in (CropStyle(), CropStyle(surroundings=False), CropStyle(context="fixed", field_um=60)):
        np.testing.assert_array_equal(crops_of(image, labels, style=style, mpp=0.5), crops_of(wide, found, style=style, mpp=0.5))


def test_a_window_larger_than_the_image_is_mirrored_as_often_as_needed() -> None:
    image = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    labels = np.ones((5, 7), np.uint32)
    (crop,) = crops_of(image, labels, style=CropStyle(context="fixed", field_um=40), mpp=1)
    np.testing.assert_array_equal(crop, np.pad(image, ((17, 18), (16, 17), (0, 0)), mode="symmetric"))


def test_crops_come_in_the_order_of_the_ids_asked_for() -> None:
    every = crops_of(IMAGE, LABELS)
    np.testing.assert_array_equal(crops_of(IMAGE, LABELS, [7, 3, 7]), every[[6, 2, 6]])
    assert crops_of(IMAGE, LABELS, []).shape == (0, 40, 40, 3)
    assert crops_of(IMAGE, np.zeros_like(LABELS)).shape == (0, 40, 40, 3)


def test_objects_that_the_labels_do_not_show_need_a_window() -> None:
    with pytest.raises(ValueError, match="no pixel of the objects 99999"):
        crops_of(IMAGE, LABELS, [1, 99999])
    crop = crops_of(IMAGE, LABELS, [99999], np.array([[10, 20, 40]], np.int32))
    np.testing.assert_array_equal(crop[0], IMAGE[20:60, 10:50])


@pytest.mark.parametrize(("image", "labels"), [(IMAGE[:-1], LABELS), (IMAGE.astype(float), LABELS), (IMAGE[..., 0], LABELS)])
def test_an_image_that_is_not_that_of_the_labels_is_refused(image: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        crops_of(image, labels)


@pytest.mark.parametrize("change", [{"crop_px": 7}, {"crop_px": 300}, {"context": "wide"}, {"field_um": 0}, {"field_um": 101}])
def test_impossible_styles_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="must be"):
        CropStyle(**change)


def test_a_fixed_field_needs_a_pixel_size() -> None:
    with pytest.raises(SettingsError, match="pass mpp"):
        crops_of(IMAGE, LABELS, style=CropStyle(context="fixed"))


# -- tile by tile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES, ids=lambda s: f"{s.context}-{s.surroundings}")
@pytest.mark.parametrize("tile_px", [64, 100, 1024])
def test_crops_by_tiles_are_those_of_the_whole_image(style: CropStyle, tile_px: int, slide: Slide) -> None:
    ids, crops = all_crops(slide, LABELS, style=style, tile_px=tile_px)
    np.testing.assert_array_equal(ids, np.arange(1, LABELS.max() + 1))
    np.testing.assert_array_equal(crops, crops_of(IMAGE, LABELS, style=style, mpp=MPP))


@settings(max_examples=25, deadline=None)
@given(
    mpp=st.sampled_from([0.25, 0.5, 0.503, 1.1]), tile_px=st.integers(40, 400), style=st.sampled_from(STYLES),
    labels=st.sampled_from(["same", "coarse", "placed"]),
)  # fmt: skip
def test_crops_do_not_depend_on_the_tiles_at_any_pixel_size(
    slide: Slide, mpp: float, tile_px: int, style: CropStyle, labels: str
) -> None:
    given_as = {"same": LABELS, "coarse": LABELS[::2, ::2], "placed": LabelImage(LABELS, 0.31, 7.7, 20.3)}[labels]
    ids, crops = all_crops(slide, given_as, mpp=mpp, tile_px=tile_px, style=style)
    again, whole = all_crops(slide, given_as, mpp=mpp, tile_px=5000, style=style)
    np.testing.assert_array_equal(ids, again)
    np.testing.assert_array_equal(crops, whole)


def test_an_object_larger_than_any_window_is_seen_around_its_centroid(slide: Slide) -> None:
    labels = np.zeros_like(LABELS)
    labels[5:320, 3:410] = 8
    labels[100:110, 100:110] = 9
    for surroundings in (True, False):
        style = CropStyle(surroundings=surroundings)
        ids, crops = all_crops(slide, labels, tile_px=64, style=style)
        assert ids.tolist() == [8, 9]
        np.testing.assert_array_equal(crops, crops_of(IMAGE, labels, style=style, mpp=MPP))
    index = source_of(labels, slide).index()
    window = windows_of(index, np.array([0]), CropStyle(), mpp=MPP, downsample=1)[0]
    assert window[2] == 200


def test_tiles_with_a_margin_of_the_reach_hold_all_that_is_needed(slide: Slide) -> None:
    index = source_of(LABELS, slide).index()
    for style in STYLES:
        margin = reach_px(index, style, mpp=MPP, downsample=1)
        whole = crops_of(IMAGE, LABELS, style=style, mpp=MPP)
        for keep in (Box(64, 64, 64, 64), Box(0, 192, 64, 64), Box(384, 320, 64, 64)):
            read = keep.padded(margin).intersect(slide.bounds)
            found = index.within(keep)
            windows = windows_of(index, found, style, mpp=MPP, downsample=1) - (read.x, read.y, 0)
            crops = crops_of(IMAGE[read.slices], LABELS[read.slices], index.ids[found], windows, style=style)
            np.testing.assert_array_equal(crops, whole[found])


def test_no_object_no_crop(slide: Slide) -> None:
    assert list(iter_crops(slide, source_of(np.zeros_like(LABELS), slide), mpp=MPP)) == []
    assert reach_px(source_of(np.zeros_like(LABELS), slide).index(), CropStyle(), mpp=MPP, downsample=1) == 0


def test_only_the_ids_asked_for_are_read(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    read, areas = slide.read_at, []
    monkeypatch.setattr(slide, "read_at", lambda mpp, box: (areas.append(box.area), read(mpp, box))[1])
    groups = list(iter_crops(slide, source_of(LABELS, slide), mpp=MPP, ids=[12, 3, 999_999]))
    assert [group.ids.tolist() for group in groups] == [[3, 12]]
    assert sum(areas) < IMAGE[..., 0].size / 5


def test_crowded_tiles_come_in_parts(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histoseg.methods.cells.crops.MOST_AT_ONCE", 30)
    sizes = [len(group.ids) for group in iter_crops(slide, source_of(LABELS, slide), mpp=MPP)]
    assert max(sizes) == 30 and sum(sizes) == LABELS.max()


def test_measurements_come_a_row_an_object(slide: Slide) -> None:
    spread = LABELS * np.uint32(1_000_003)
    tables = [g.table for g in iter_crops(slide, source_of(spread, slide), mpp=MPP, tile_px=128, measure=measure)]
    expected = measure(NUCLEI, IMAGE, mpp=MPP)
    for table in tables:
        assert table is not None and list(table.columns) == ["id", *MEASUREMENTS]
        at = np.searchsorted(expected["id"], table["id"] // 1_000_003)
        np.testing.assert_allclose(table[list(MEASUREMENTS)], expected.iloc[at][list(MEASUREMENTS)], rtol=1e-6, atol=1e-9)
    assert sum(map(len, tables)) == len(expected)  # type: ignore[arg-type]


def test_an_object_too_small_for_the_working_pixels_has_a_crop_and_an_empty_row(slide: Slide) -> None:
    labels = np.zeros_like(LABELS)
    labels[11, 11], labels[100:120, 100:120] = 5, 6
    (group,) = iter_crops(slide, source_of(labels, slide), mpp=4 * MPP, measure=measure)
    assert group.ids.tolist() == [5, 6] and len(group.crops) == 2
    assert group.table is not None and np.isnan(group.table["area_um2"].iloc[0]) and group.table["area_um2"].iloc[1] == 100


def test_damaged_parts_are_told_and_left_out(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    read = slide.read_at

    def torn(mpp: float, box: Box) -> Any:
        if box.contains_point(10, 10):
            raise TileError("torn")
        return read(mpp, box)

    monkeypatch.setattr(slide, "read_at", torn)
    source = source_of(LABELS, slide)
    with pytest.raises(TileError, match="torn"):
        list(iter_crops(slide, source, mpp=MPP, tile_px=128))
    problems: list[TileError] = []
    rest = np.concatenate([g.ids for g in iter_crops(slide, source, mpp=MPP, tile_px=128, on_error=problems.append)])
    assert len(problems) == 1
    np.testing.assert_array_equal(np.sort(rest), np.setdiff1d(LABELS[LABELS > 0], source.index().ids[source.index().within(Box(0, 0, 128, 128))]))


# -- samples -----------------------------------------------------------------------------------------------------------


def strewn(n: int, side: float, seed: int = 0) -> ObjectIndex:
    """Points, denser on the right."""
    places = np.random.default_rng(seed).power([2, 1], (n, 2)) * side
    return ObjectIndex(np.arange(1, n + 1), places[:, 0], places[:, 1], np.hstack([places, places]))


def tiles_of(index: ObjectIndex, positions: Any, side: float) -> set[tuple[int, int]]:
    return {(int(x // side), int(y // side)) for x, y in zip(index.x[positions], index.y[positions], strict=True)}


def test_a_sample_has_its_size_and_needs_few_tiles() -> None:
    index = strewn(20_000, 20_000)
    every = np.arange(len(index))
    chosen = sample_of(index, every, 1000, 1000)
    assert len(chosen) == 1000 == len(np.unique(chosen))
    assert len(tiles_of(index, chosen, 1000)) <= 3 * (1000 // 64 + 1)
    np.testing.assert_array_equal(chosen, sample_of(index, every, 1000, 1000))
    assert set(chosen) != set(sample_of(index, every, 1000, 1000, seed=1))
    np.testing.assert_array_equal(sample_of(index, every, 20_000, 1000), every)
    assert len(sample_of(index, every[:0], 10, 1000)) == 0


def test_each_object_has_the_same_chance() -> None:
    index = strewn(600, 4000)
    every, draws = np.arange(len(index)), 1500
    counts = np.zeros(len(index))
    for seed in range(draws):
        counts[sample_of(index, every, 130, 1000, seed)] += 1
    dense = index.x > 3000
    share = counts[dense].sum() / counts.sum()
    assert abs(share - dense.mean()) < 0.02
    expected = draws * 130 / 600
    assert counts.min() > 0.75 * expected and counts.max() < 1.25 * expected


def test_tiles_with_few_objects_do_not_make_a_sample_smaller() -> None:
    places = np.column_stack([np.arange(500) * 1000.0, np.zeros(500)])
    index = ObjectIndex(np.arange(1, 501), places[:, 0], places[:, 1], np.hstack([places, places]))
    assert len(np.unique(sample_of(index, np.arange(500), 300, 1000))) == 300


def test_crops_of_a_sample(slide: Slide) -> None:
    ids, crops = all_crops(slide, LABELS, tile_px=64, sample=50, seed=3)
    assert len(np.unique(ids)) == 50
    np.testing.assert_array_equal(crops, crops_of(IMAGE, LABELS, ids))
