"""Coarse labels from bins, amounts and classes of patches, and probabilities of blocks from maps, tables and areas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations import coarse
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.bringblocks import values_of
from napari_histoseg.annotations.dataset import Patch, PatchClass, PatchDataset
from napari_histoseg.annotations.geojson import Region
from napari_histoseg.annotations.heat import picture_values
from napari_histoseg.annotations.heattiles import area_values as values_of_areas
from napari_histoseg.annotations.heattiles import covered_share
from napari_histoseg.errors import DatasetError
from napari_histoseg.results import Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide import Box, Slide, open_slide

WIDTH, HEIGHT, MPP = 1200, 800, 0.5


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_svs(tmp_path_factory.mktemp("slide") / "a.svs", he_image(WIDTH, HEIGHT, seed=1, mpp=MPP), mpp=MPP)
    with open_slide(path) as slide:
        yield slide


@pytest.fixture(scope="module")
def grid(slide: Slide) -> BlockGrid:
    """2 × 3 blocks of 400 px."""
    return BlockGrid.over(slide, 200)


# -- bins ---------------------------------------------------------------------------------------------------------------


def test_a_bin_holds_its_lower_edge_and_the_last_one_both() -> None:
    values = [0, 0.2, 0.49999, 0.5, 1, np.nan]
    assert coarse.quantized(values, (0, 0.2, 0.5, 1)).tolist() == [0, 1, 1, 2, 2, 255]


def test_the_last_digits_of_a_mean_do_not_choose_its_bin() -> None:
    assert coarse.quantized([0.1 + 0.2, 0.7 - 1e-15], coarse.even_edges(10)).tolist() == [3, 7]


@given(arrays(np.float64, (3, 4), elements=st.floats(0, 1)), st.integers(2, 100))
def test_every_value_lies_in_its_bin(values: np.ndarray, bins: int) -> None:
    edges = np.array(coarse.even_edges(bins))
    labels = coarse.quantized(values, edges)
    assert (edges[labels] <= values + 1e-8).all() and (values <= edges[labels.astype(int) + 1] + 1e-8).all()


def test_bins_have_names_and_colors_from_dark_to_light() -> None:
    found = coarse.bins((0, 0.125, 0.95, 1))
    assert [c.name for c in found] == ["0–12.5 %", "12.5–95 %", "95–100 %"]
    assert [c.value for c in found] == [0, 1, 2]
    assert (found[0].color, found[1].color, found[2].color) == ("#440154", "#21918c", "#fde725")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coarse.even_edges(1), "1 bins were asked for. Give 2 to 100; 10 are usual."),
        (lambda: coarse.checked_edges([0, 0.5, 0.5, 1]), "The edges of the bins are 0, 0.5, 0.5, 1. They rise from 0 to 1, for instance 0, 0.2, 0.5, 1."),
        (lambda: coarse.checked_edges([0.1, 1]), "The edges of the bins are 0.1, 1. They rise from 0 to 1, for instance 0, 0.2, 0.5, 1."),
        (lambda: coarse.checked_edges([]), "The edges of the bins are none. They rise from 0 to 1, for instance 0, 0.2, 0.5, 1."),
        (lambda: coarse.checked_edges([0, float("nan"), 1]), "The edges of the bins are 0, nan, 1. They rise from 0 to 1, for instance 0, 0.2, 0.5, 1."),
        (lambda: coarse.quantized([0, 50.0], (0, 0.5, 1)), "The map holds values from 0 to 50; probabilities lie between 0 and 1. Divide percentages by 100."),
        (lambda: coarse.quantized([-1, 0.5], (0, 0.5, 1)), "The map holds values from -1 to 0.5; probabilities lie between 0 and 1. Bring them to this range first."),
        (lambda: coarse.quantized([np.nan], (0, 0.5, 1)), "The map holds no number: all are NaN. Give probabilities between 0 and 1."),
        (lambda: coarse.quantized([], (0, 0.5, 1)), "The map holds no number: it is empty. Give probabilities between 0 and 1."),
    ],
)  # fmt: skip
def test_what_makes_no_bins_is_said(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        call()
    assert str(caught.value) == message


def test_amounts_rise_and_can_be_stated_in_a_dataset() -> None:
    assert [c.name for c in coarse.amount_classes()] == ["none", "a little", "about half", "mostly", "all"]
    rows = coarse.amount_statistics(2)
    assert [r.coarse for r in rows] == [1, 2, 3, 4, 5] and {r.class_value for r in rows} == {2}
    assert [r.eta for r in rows] == [0, 0.15, 0.5, 0.85, 1] and min(r.rho for r in rows) > 0


# -- classes of patches -------------------------------------------------------------------------------------------------


def labeled(*labels: Any, **more: Any) -> PatchDataset:
    classes = (PatchClass(value=1, name="benign"), PatchClass(value=4, name="tumor", color="#aa0000"), PatchClass(value=2, name="fat"))
    patches = [Patch(image=f"{i}.png", label=label) for i, label in enumerate(labels)]
    return PatchDataset(classes=classes, patches=(*patches, *more.pop("others", ())), folder=Path("d"), **more)


def test_the_class_of_a_classification_patch_is_its_coarse_label() -> None:
    found = coarse.from_labels(labeled("tumor", None, ["benign", "tumor"], "benign"))
    assert [p.coarse for p in found.patches] == [4, None, None, 1]
    assert found.patches[2].labels == ("benign", "tumor")
    assert [(c.value, c.name) for c in found.coarse_classes] == [(1, "benign"), (4, "tumor")]


def test_without_classification_patches_there_is_nothing_to_take() -> None:
    with pytest.raises(DatasetError, match=r"^No patch of d has one class for all of it\. Add classification patches"):
        coarse.from_labels(labeled(None, ["benign", "tumor"]))


def test_labels_in_use_keep_their_meaning() -> None:
    other = labeled("tumor", others=(Patch(image="o.png", coarse=4),), coarse_classes=(PatchClass(value=4, name="mostly"),))
    with pytest.raises(DatasetError) as caught:
        coarse.from_labels(other)
    assert str(caught.value) == (
        "The coarse labels of d have other meanings: 4 is 'mostly' and not 'tumor'. Take the same bins or amounts as before, or another dataset."
    )


def test_names_that_nothing_has_make_room() -> None:
    other = labeled("tumor", others=(Patch(image="o.png", coarse=3),), coarse_classes=coarse.amount_classes())
    assert [(c.value, c.name) for c in coarse.from_labels(other).coarse_classes] == [(3, "about half"), (4, "tumor")]


# -- pictures -----------------------------------------------------------------------------------------------------------

CELLS = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def enlarged(cells: np.ndarray, factor: int) -> np.ndarray:
    return cells.repeat(factor, 0).repeat(factor, 1)


@pytest.mark.parametrize("factor", [1, 7, 40])
@pytest.mark.parametrize(
    ("name", "kind", "scale"),
    [("a.png", np.uint8, 1), ("a.tif", np.uint8, 1), ("a.png", np.uint16, 257), ("a.tif", np.float32, 1 / 255), ("a.npy", np.float64, 1 / 255)],
)
def test_a_picture_of_any_depth_is_averaged_over_blocks(tmp_path: Path, slide: Slide, grid: BlockGrid, name: str, kind: Any, scale: float, factor: int) -> None:
    pixels = enlarged((CELLS * float(scale)).astype(kind), factor)
    path = tmp_path / name
    {".png": lambda: Image.fromarray(pixels).save(path), ".tif": lambda: tifffile.imwrite(path, pixels), ".npy": lambda: np.save(path, pixels)}[path.suffix]()
    np.testing.assert_allclose(values_of(path, grid, slide), CELLS / 255, atol=1e-6)
    np.testing.assert_allclose(values_of(pixels, grid, slide), CELLS / 255, atol=1e-6)


def test_a_block_that_cuts_pixels_has_their_shares(slide: Slide) -> None:
    # Blocks of 300 px on pixels of 400: the second block has 100 px of the first pixel, and 200 of the second.
    grid = BlockGrid(0, 0, 300, 1, 4)
    np.testing.assert_allclose(values_of(CELLS[:1].repeat(2, 0), grid, slide)[0] * 255, [0, 34, 68, 102], atol=1e-9)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 2, 4, 5, 8]))
def test_the_mean_of_a_block_is_that_of_the_map_under_it(side: int, x: int, y: int, factor: int) -> None:
    grid = BlockGrid(x, y, side, min(5, (HEIGHT - y) // side), min(5, (WIDTH - x) // side))
    pixels = np.random.default_rng(side).random((2 * factor, 3 * factor))
    under = enlarged(pixels, 400 // factor)[grid.box.slices]
    means = under.reshape(grid.rows, side, grid.columns, side).mean((1, 3))
    np.testing.assert_allclose(picture_values(pixels, grid, Box(0, 0, WIDTH, HEIGHT)), means, atol=1e-9)


def test_a_mask_of_zeros_and_ones_is_a_map(slide: Slide, grid: BlockGrid) -> None:
    mask = enlarged(np.array([[0, 1, 1], [1, 0, 1]], np.uint8), 4)
    mask[:4, 4:6] = 0
    assert values_of(mask, grid, slide).tolist() == values_of(mask > 0, grid, slide).tolist() == [[0, 0.5, 1], [1, 0, 1]]


def test_nan_is_left_out_and_a_block_that_is_mostly_nan_is_unknown(slide: Slide, grid: BlockGrid) -> None:
    values = enlarged(CELLS / 255, 4)
    values[0:4, 0:3] = np.nan
    values[0:4, 4:6] = np.nan
    values[4:8, 8] = np.nan
    found = values_of(values, grid, slide)
    assert np.isnan(found[0, 0]) and found[0, 1] == pytest.approx(0.2) and found[1, 2] == 1


def test_a_picture_may_show_a_part_of_the_slide(slide: Slide) -> None:
    area = Box(400, 400, 800, 400)
    grid = BlockGrid.over(slide, 200)
    found = values_of(np.array([[0.25, 0.75]]), grid, slide, area=area)
    np.testing.assert_array_equal(found, [[np.nan] * 3, [np.nan, 0.25, 0.75]])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 12), np.nan), "The picture holds no number: all are NaN. Give probabilities between 0 and 1."),
        (np.linspace(0, 100, 96).reshape(8, 12), "The picture holds values from 0 to 100; probabilities lie between 0 and 1. Divide percentages by 100."),
        (np.full((8, 12), np.inf), "The picture holds values from inf to inf; probabilities lie between 0 and 1. Bring them to this range first."),
        (
            np.zeros((8, 8)),
            "The picture has 8 × 8 px, and what it should show 1200 × 800 px, which has other proportions. Give a picture of the whole slide, or say which area it shows.",
        ),
        (np.zeros((0, 8)), "The picture is empty. Give a picture with at least one pixel."),
        (np.zeros((8, 12), np.int32), "The picture has the type int32. Give 8 or 16 bits a pixel, or floating point numbers between 0 and 1."),
        (he_image(12, 8), "The picture is a picture in color. Give the probability itself as a gray picture."),
        (np.zeros((2, 8, 12)), "The picture has the shape (2, 8, 12). Give one plane of pixels."),
    ],
)
def test_what_is_no_map_is_said(slide: Slide, grid: BlockGrid, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        values_of(pixels, grid, slide)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.jpg"])
def test_a_damaged_picture_is_named(tmp_path: Path, slide: Slide, grid: BlockGrid, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=rf"{name} cannot be read as a picture: "):
        values_of(tmp_path / name, grid, slide)


@pytest.mark.parametrize(("name", "message"), [("no.png", "no.png does not exist"), ("", r"says nothing about blocks\. Give a result's folder, a gray picture")])
def test_what_is_no_source_is_said(tmp_path: Path, slide: Slide, grid: BlockGrid, name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        values_of(tmp_path / name, grid, slide)


# -- results ------------------------------------------------------------------------------------------------------------


def heatmap(folder: Path, slide: Slide, heat: np.ndarray, frame: Box, downsample: int, *, finish: bool = True, **about: Any) -> Result:
    """A stored map, uint8 in the frame's working pixels."""
    where = SlideRecord(name=slide.name, fingerprint=about.pop("fingerprint", slide.fingerprint()), width=slide.width, height=slide.height, mpp=slide.mpp)
    record = RunRecord(method="tumour", slide=where, mpp=MPP * downsample, frame=frame, tile_px=4096, halo_px=0, n_tiles=1, outputs=("labels", "probability"), **about)
    store = ResultStore.create(folder, record, ("labels", "probability"))
    store.add(0, frame, labels=(frame, np.zeros(frame.shape, np.uint32)), probability=(frame, heat))
    return store.finish("finished" if finish else "cancelled")


@pytest.mark.parametrize("downsample", [1, 4, 50])
def test_a_stored_heatmap_is_averaged_over_blocks(tmp_path: Path, slide: Slide, grid: BlockGrid, downsample: int) -> None:
    frame = Box(0, 0, WIDTH // downsample, HEIGHT // downsample)
    heat = enlarged(CELLS, 400 // downsample)
    result = heatmap(tmp_path / "r", slide, heat, frame, downsample)
    np.testing.assert_allclose(values_of(result, grid, slide), CELLS / 255, atol=0.004)
    np.testing.assert_array_equal(values_of(tmp_path / "r", grid, slide), values_of(result, grid, slide))


def test_a_result_of_a_region_says_nothing_outside(tmp_path: Path, slide: Slide, grid: BlockGrid) -> None:
    result = heatmap(tmp_path / "r", slide, np.full((100, 250), 51, np.uint8), Box(50, 100, 250, 100), 4, region=Box(200, 400, 1000, 400))
    np.testing.assert_allclose(values_of(result, grid, slide), [[np.nan] * 3, [0.2] * 3], atol=1e-6)


def test_a_result_of_a_polygon_says_nothing_beside_it(tmp_path: Path, slide: Slide, grid: BlockGrid) -> None:
    outline = "POLYGON ((0 0, 1200 0, 1200 800, 0 0))"
    result = heatmap(tmp_path / "r", slide, np.full((200, 300), 255, np.uint8), Box(0, 0, 300, 200), 4, region=Box(0, 0, 1200, 800), outline=outline)
    np.testing.assert_array_equal(np.isnan(values_of(result, grid, slide)), [[True, False, False], [True, True, False]])


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"fingerprint": "another"}, r"is of the slide a\.svs, and not of a\.svs\. Give this slide's result\."),
        ({"finish": False}, r"has not finished, so that parts of its map are empty\. Finish it with --resume first\."),
    ],
)
def test_a_result_of_another_slide_or_half_a_result_is_refused(tmp_path: Path, slide: Slide, grid: BlockGrid, about: dict[str, Any], message: str) -> None:
    result = heatmap(tmp_path / "r", slide, np.zeros((200, 300), np.uint8), Box(0, 0, 300, 200), 4, **about)
    with pytest.raises(DatasetError, match=message):
        values_of(result, grid, slide)


def test_a_result_without_a_probability_is_refused(tmp_path: Path, slide: Slide, grid: BlockGrid) -> None:
    where = SlideRecord(name=slide.name, fingerprint=slide.fingerprint(), width=slide.width, height=slide.height, mpp=slide.mpp)
    record = RunRecord(method="joint", slide=where, mpp=2.0, frame=Box(0, 0, 300, 200), tile_px=512, halo_px=0, n_tiles=1)
    result = ResultStore.create(tmp_path / "r", record, ("labels",)).finish()
    with pytest.raises(DatasetError, match=r"The result of joint in .* has no map of a probability\. Give one that has, for instance of tumour\."):
        values_of(result, grid, slide)


# -- tables -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["", "_um"])
def test_points_of_a_table_are_averaged_in_their_block(tmp_path: Path, slide: Slide, grid: BlockGrid, unit: str) -> None:
    points = np.array([(10, 10, 0.2), (390, 399, 0.4), (400, 0, 1.0), (1199, 799, 0.3)])
    points[:, :2] *= MPP if unit else 1
    path = tmp_path / "a.csv"
    pd.DataFrame(points, columns=[f"x{unit}", f" Y{unit}", "Tumour"]).to_csv(path, index=False)
    np.testing.assert_allclose(values_of(path, grid, slide), [[0.3, 1.0, np.nan], [np.nan, np.nan, 0.3]])


def test_tiles_of_a_table_count_as_far_as_they_cover_a_block(slide: Slide, grid: BlockGrid) -> None:
    tiles = pd.DataFrame({"x": [0, 400, 600], "y": 0, "width": [400, 200, 200], "height": [400, 400, 100], "score": [0.5, 0.2, 0.7]})
    # The second block has half of itself from one tile and an eighth from the other; nothing is known of the third.
    np.testing.assert_allclose(values_of(tiles, grid, slide)[0], [0.5, (0.2 * 4 + 0.7) / 5, np.nan])


def test_rows_without_a_number_or_off_the_slide_are_left_out_and_said(slide: Slide, grid: BlockGrid) -> None:
    table = pd.DataFrame({"x": [1, 2, -5, 9999], "y": [1, 2, 5, 5], "probability": [0.5, np.nan, 0.1, 0.1]})
    notices: list[str] = []
    assert values_of(table, grid, slide, notices=notices)[0, 0] == 0.5
    assert notices == ["1 row has no number and was left out.", "2 rows lie outside a.svs and were left out."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{path} is empty. Give a table with a head and rows."),
        ("x,y,probability\n", "{path} has no rows. Give a row for each point or tile."),
        ("x,probability\n1,0.5\n", "{path} has the columns x, probability. It needs x and y (level-0 pixels), or x_um and y_um, and one of probability, tumour, tumor, score."),
        ("x,y,p\n1,1,0.5\n", "{path} has the columns x, y, p. It needs x and y (level-0 pixels), or x_um and y_um, and one of probability, tumour, tumor, score."),
        ("x,y,score\n1,1,0.5\n1,high,0.5\n", "{path} has 'high' in row 2 of the column y. Give a number."),
        ("x,y,width,score\n1,1,4,0.5\n", "{path} has one of the columns width and height. Tiles have both, and points neither."),
        ("x,y,width,height,score\n1,1,4,0,0.5\n", "{path} has tiles without an area. Their width and height are above 0."),
        ("x,y,score\n1,1,55\n", "{path} holds values from 55 to 55; probabilities lie between 0 and 1. Divide percentages by 100."),
        ("x,y,score\n1,1,\n", "{path} holds no number: all are NaN. Give probabilities between 0 and 1."),
        ("x,y,score\n5000,1,1\n6000,1,1\n", "{path} has no row on a.svs (1200 × 800 px): its rows lie at x 5000 to 6000, y 1 to 1 px. Give the table of this slide."),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, slide: Slide, grid: BlockGrid, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        values_of(path, grid, slide)
    assert str(caught.value) == message.format(path=path)


# -- areas --------------------------------------------------------------------------------------------------------------


def feature(x: float, y: float, width: float, height: float, name: str | None = "Tumor", **properties: Any) -> dict[str, Any]:
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    kind = {} if name is None else {"classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {**kind, **properties}}


def geojson(folder: Path, *features: dict[str, Any]) -> Path:
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_areas_are_told_by_the_share_of_a_block_that_they_cover(tmp_path: Path, slide: Slide, grid: BlockGrid) -> None:
    # Where two overlap, a place counts once.
    path = geojson(tmp_path, feature(0, 0, 600, 400), feature(100, 100, 100, 100), feature(800, 400, 100, 100))
    np.testing.assert_allclose(values_of(path, grid, slide), [[1, 0.5, 0], [0, 0, 1 / 16]], atol=1 / 256)


@given(st.integers(0, 1100), st.integers(0, 700), st.integers(1, 1300), st.integers(1, 900))
def test_all_shares_together_are_the_area_on_the_blocks(x: int, y: int, width: int, height: int) -> None:
    grid = BlockGrid(100, 50, 160, 4, 6)
    inside = Box(x, y, width, height).intersect(grid.box)
    share = covered_share([shapely.box(x, y, x + width, y + height)], grid)
    assert abs(share.sum() * grid.side_px**2 - inside.area) <= 10 * (inside.width + inside.height) + 100


def test_areas_with_a_probability_are_averaged(tmp_path: Path, slide: Slide, grid: BlockGrid) -> None:
    tiles = [
        feature(0, 0, 400, 400, "A", measurements={"Probability": 0.25}),
        feature(400, 0, 200, 400, "B", measurements=[{"name": "tumour", "value": 0.5}]),
        feature(600, 0, 200, 400, None, probability=1.0),
        feature(800, 0, 400, 400, "A"),
    ]
    notices: list[str] = []
    found = values_of(geojson(tmp_path, *tiles), grid, slide, notices=notices)
    np.testing.assert_allclose(found, [[0.25, 0.75, np.nan], [np.nan] * 3])
    assert notices == ["1 area has no probability and was left out."]


def test_an_area_of_any_shape_counts_as_far_as_it_covers_a_block(slide: Slide, grid: BlockGrid) -> None:
    square, corner = shapely.box(0, 0, 400, 400), shapely.Polygon([(400, 0), (800, 0), (400, 400)])
    regions = [Region(area, measurements={"score": value}) for area, value in ((square, 0.5), (corner, 0.2), (shapely.box(700, 300, 800, 400), 1.0))]
    # Half of the second block, and a sixteenth.
    np.testing.assert_allclose(values_of_areas(regions, grid, slide)[0], [0.5, (0.2 * 8 + 1) / 9, np.nan])


def test_one_of_several_classes_is_chosen(tmp_path: Path, slide: Slide, grid: BlockGrid) -> None:
    path = geojson(tmp_path, feature(0, 0, 1200, 800, "Tissue"), feature(0, 0, 400, 400), feature(0, 0, 9, 9, "Ignore*"))
    assert values_of(path, grid, slide, class_name="Tumor").tolist() == [[1, 0, 0], [0, 0, 0]]
    with pytest.raises(DatasetError) as caught:
        values_of(path, grid, slide)
    assert str(caught.value) == f"{path} has areas of the classes 'Tissue', 'Tumor'. Say which one counts, with --class, or class_name= in Python."
    with pytest.raises(DatasetError) as caught:
        values_of(path, grid, slide, class_name="tumor")
    assert str(caught.value) == f"{path} has no area of the class 'tumor'. Its classes are: 'Tissue', 'Tumor'."


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "{path} holds no area. Draw areas, and export them as GeoJSON."),
        ([feature(5000, 0, 9, 9)], "{path} has no area on a.svs (1200 × 800 px). Give the areas of this slide, in its level-0 pixels."),
        ([feature(0, 0, 900, 900, probability=7)], "{path} holds values from 7 to 7; probabilities lie between 0 and 1. Divide percentages by 100."),
        (
            [feature(0, 0, 9, 9, probability=0.5)],
            "No block of a.svs has a value: the source covers less than half of each. Give a source that covers the blocks, or choose other blocks.",
        ),
    ],
)
def test_what_is_wrong_with_areas_is_said(tmp_path: Path, slide: Slide, grid: BlockGrid, features: list[Any], message: str) -> None:
    path = geojson(tmp_path, *features)
    with pytest.raises(DatasetError) as caught:
        values_of(path, grid, slide)
    assert str(caught.value) == message.format(path=path)
