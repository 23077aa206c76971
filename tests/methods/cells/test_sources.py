"""Ids from results, label images and GeoJSON: the same pixel whatever the box, and every object once."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import shapely
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_histoseg._testing import he_tissue
from napari_histoseg.errors import DatasetError, PixelSizeError, ResultError, SettingsError, TileError
from napari_histoseg.methods.cells import polygons
from napari_histoseg.methods.cells.objects import ObjectIndex
from napari_histoseg.methods.cells.planes import Plane
from napari_histoseg.methods.cells.sources import LabelImage, LabelSource, ObjectSource, source_of
from napari_histoseg.objects.measure import object_table
from napari_histoseg.results import ClassRecord, Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide import Box, Slide, open_slide

WIDTH, HEIGHT, MPP = 300, 220, 0.5
IMAGE, LABELS = he_tissue(WIDTH, HEIGHT, seed=2, mpp=MPP)
NUMBERS = LABELS.astype(np.uint32)
WHOLE = Box(0, 0, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def slide() -> Slide:
    """A synthetic slide."""
    return open_slide(IMAGE, mpp=MPP)


def record_of(slide: Slide, mpp: float, frame: Box, outputs: tuple[str, ...] = ("labels", "objects")) -> RunRecord:
    """The record of a run over a frame of the slide."""
    about = SlideRecord(
        name=slide.name, fingerprint=slide.fingerprint(), width=slide.width, height=slide.height, mpp=slide.mpp, mpp_source="user"
    )
    return RunRecord(
        method="nuclei", slide=about, mpp=mpp, frame=frame, tile_px=512, halo_px=0, n_tiles=1, outputs=outputs,
        classes=[ClassRecord(value=1, name="nucleus")],
    )  # fmt: skip


def result_of(path: Path, slide: Slide, frame: Box, outlines: bool = True) -> Result:
    """The nuclei of the slide's frame as a result at the slide's own pixel size."""
    part = LABELS[frame.slices]
    table = object_table(part, IMAGE[frame.slices], mpp=MPP, origin_px=(frame.x, frame.y))
    if not outlines:
        table = table.drop(columns="outline")
    store = ResultStore.create(path, record_of(slide, MPP, frame), ("labels", "objects"))
    store.add(0, frame, labels=(frame, part), objects=table)
    return store.finish("finished")


def geojson(shapes: list[Any], path: Path, properties: list[dict[str, Any]] | None = None) -> Path:
    """Shapes as a FeatureCollection."""
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": (properties or [{}] * len(shapes))[i]}
        for i, shape in enumerate(shapes)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


# -- every way in ------------------------------------------------------------------------------------------------------


def _npy(labels: Any, folder: Path) -> Any:
    np.save(folder / "labels.npy", labels)
    return folder / "labels.npy"


def _png(labels: Any, folder: Path) -> Any:
    Image.fromarray(labels.astype(np.uint16)).save(folder / "labels.png")
    return folder / "labels.png"


def _tiff(labels: Any, folder: Path, **how: Any) -> Any:
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint32), **how)
    return folder / "labels.tif"


def _tiled(labels: Any, folder: Path) -> Any:
    return str(_tiff(labels, folder, tile=(64, 64), compression="zlib"))


def _palette(labels: Any, folder: Path) -> Any:
    colors = np.zeros((3, 65536), np.uint16)
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint16), photometric="palette", colormap=colors)
    return folder / "labels.tif"


def _zarr(labels: Any, folder: Path) -> Any:
    array = zarr.create_array(folder / "labels.zarr", shape=labels.shape, chunks=(100, 90), dtype=np.uint32)
    array[:] = labels
    return folder / "labels.zarr"


def _ome_zarr(labels: Any, folder: Path, inside: str = "") -> Path:
    group = zarr.open_group(folder / "labels.ome.zarr", mode="w")
    if inside:
        group.create_group("labels").attrs["ome"] = {"labels": [inside]}
        group = group["labels"].create_group(inside)
    group.create_array("finest", data=np.asarray(labels)[None], chunks=(1, 64, 64))
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [1.0, MPP, MPP]}]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "finest", "coordinateTransformations": steps}]}]}
    return folder / "labels.ome.zarr"


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "array": lambda labels, folder: labels,
    "int64": lambda labels, folder: labels.astype(np.int64),
    "with axes of length 1": lambda labels, folder: labels[None, None],
    "dask": lambda labels, folder: da.from_array(labels, chunks=(70, 90)),
    "pyramid": lambda labels, folder: [labels, labels[::2, ::2]],
    "npy": _npy,
    "png": _png,
    "tiff": _tiff,
    "tiled tiff": _tiled,
    "tiff with a palette": _palette,
    "zarr": _zarr,
    "ome-zarr": _ome_zarr,
    "labels of a picture": lambda labels, folder: _ome_zarr(labels, folder, "nuclei"),
    "placed": lambda labels, folder: LabelImage(labels, MPP),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same_ids_and_objects(way: str, slide: Slide, tmp_path: Path) -> None:
    source = source_of(WAYS[way](NUMBERS, tmp_path), slide)
    np.testing.assert_array_equal(source.read(WHOLE, MPP), NUMBERS)
    plain = source_of(NUMBERS, slide)
    assert source.kind == "labels"
    assert source.describe()["fingerprint"] == plain.describe()["fingerprint"]


@pytest.mark.parametrize("outlines", [True, False], ids=["by outlines", "by pixels"])
def test_a_result_gives_its_objects_where_they_lie(outlines: bool, slide: Slide, tmp_path: Path) -> None:
    frame = Box(40, 30, 200, 150)
    result = result_of(tmp_path / "run", slide, frame, outlines)
    expected = np.zeros_like(NUMBERS)
    expected[frame.slices] = NUMBERS[frame.slices]
    for given_as in (result, result.path, str(result.path)):
        source = source_of(given_as, slide)
        np.testing.assert_array_equal(source.read(WHOLE, MPP), expected)
        np.testing.assert_array_equal(source.read(WHOLE.padded(20), MPP), np.pad(expected, 20))
    index, plain = source.index(), source_of(expected, slide).index()
    np.testing.assert_array_equal(index.ids, plain.ids)
    np.testing.assert_allclose(index.x, plain.x)
    np.testing.assert_allclose(index.y, plain.y)
    np.testing.assert_array_equal(index.boxes, plain.boxes)
    assert source.describe()["kind"] == "result" and source.describe()["path"] == str(result.path)


def test_a_result_is_read_at_another_pixel_size(slide: Slide, tmp_path: Path) -> None:
    source = source_of(result_of(tmp_path / "run", slide, Box(40, 30, 200, 150)), slide)
    finer = source.read(WHOLE.scaled(2), MPP / 2)
    np.testing.assert_array_equal(finer[::2, ::2], source.read(WHOLE, MPP))
    np.testing.assert_array_equal(finer[1::2, 1::2], source.read(WHOLE, MPP))


def test_traced_outlines_come_back_as_the_same_pixels(slide: Slide, tmp_path: Path) -> None:
    table = object_table(LABELS, IMAGE, mpp=MPP)
    path = geojson([shapely.from_wkb(w) for w in table["outline"]], tmp_path / "nuclei.geojson")
    source = source_of(path, slide)
    np.testing.assert_array_equal(source.read(WHOLE, MPP), NUMBERS)
    np.testing.assert_array_equal(source.index().boxes, source_of(NUMBERS, slide).index().boxes)
    assert source.kind == "geojson"


# -- the same pixel whatever the box -----------------------------------------------------------------------------------

BLOBS = shapely.MultiPolygon([shapely.Point(60, 50).buffer(21.3), shapely.Point(200.4, 120).buffer(30)])
SHAPES = [
    BLOBS,
    shapely.Point(201, 121).buffer(26).difference(shapely.Point(203, 118).buffer(11)),
    shapely.box(-20, 100, 80.5, 300),
    shapely.Polygon([(100, 10), (290, 30), (120, 200)]),
]


@pytest.fixture(scope="module")
def sources(slide: Slide, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ObjectSource]:
    """Objects of every kind, some at another pixel size."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        "result": source_of(result_of(folder / "run", slide, Box(33, 21, 211, 170)), slide),
        "labels": source_of(da.from_array(NUMBERS, chunks=(64, 71)), slide),
        "coarse": source_of(NUMBERS[::2, ::2], slide),
        "fine": source_of(np.kron(NUMBERS, np.ones((3, 3), np.uint32)), slide),
        "placed": source_of(LabelImage(NUMBERS, 0.317, 11.3, -8.9), slide),
        "geojson": source_of(geojson(SHAPES, folder / "shapes.geojson"), slide),
    }


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["result", "labels", "coarse", "fine", "placed", "geojson"]),
    mpp=st.sampled_from([0.25, 0.5, 0.503, 0.7, 1.0, 2.1]),
    x=st.integers(-30, 300), y=st.integers(-30, 220), width=st.integers(1, 130), height=st.integers(1, 130),
)  # fmt: skip
def test_a_pixel_is_the_same_whatever_the_box(
    sources: dict[str, ObjectSource], kind: str, mpp: float, x: int, y: int, width: int, height: int
) -> None:
    source, box = sources[kind], Box(x, y, width, height)
    around = Box(-40, -40, 700, 560)
    whole = source.read(around, mpp)
    assert whole.dtype == np.uint32
    np.testing.assert_array_equal(source.read(box, mpp), whole[box.intersect(around).relative_to(around).slices])


def test_reading_a_huge_box_reads_the_labels_in_parts(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histoseg.methods.cells.sources.SPAN_PX", 50)
    source = source_of(NUMBERS, slide)
    assert isinstance(source, LabelSource)
    read, sides = source.placed.plane.read, []
    monkeypatch.setattr(source.placed.plane, "read", lambda box: (sides.append(box.shape), read(box))[1])
    np.testing.assert_array_equal(source.read(Box(0, 0, WIDTH // 2, HEIGHT // 2), 2 * MPP), NUMBERS[1::2, 1::2])
    assert max(max(shape) for shape in sides) <= 50 and len(sides) > 10


def test_a_pixel_belongs_to_the_last_shape_that_holds_its_center(sources: dict[str, ObjectSource]) -> None:
    labels = sources["geojson"].read(WHOLE, MPP)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = np.zeros(labels.shape, np.uint32)
    for number, shape in enumerate(SHAPES, 1):
        expected[shapely.contains_xy(shape, columns, rows)] = number
    # What runs exactly through centers may fall to either side.
    np.testing.assert_array_equal(labels, expected)


def test_neighbors_share_an_edge_without_gap_or_overlap(slide: Slide, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = np.vstack([rng.uniform(0, [WIDTH, HEIGHT], (60, 2)), [[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]]])
    cells = shapely.delaunay_triangles(shapely.MultiPoint(points)).geoms
    source = source_of(geojson(list(cells), tmp_path / "cells.geojson"), slide)
    once = source.read(WHOLE, MPP)
    backwards = source_of(geojson(list(cells)[::-1], tmp_path / "back.geojson"), slide).read(WHOLE, MPP)
    assert (once > 0).all()
    np.testing.assert_array_equal(once, len(cells) + 1 - backwards.astype(int))


# -- the index ---------------------------------------------------------------------------------------------------------


def test_the_index_tells_centroids_and_boxes_in_level_0_pixels(slide: Slide) -> None:
    labels = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint16)
    labels[10:14, 20:30] = 700
    labels[0, 0] = 3
    labels[-1, -2:] = 41
    index = source_of(labels, slide).index()
    assert index.ids.tolist() == [3, 41, 700]
    assert index.boxes.tolist() == [[0, 0, 2, 2], [WIDTH - 4, HEIGHT - 2, 4, 2], [40, 20, 20, 8]]
    assert (index.x[2], index.y[2]) == (50, 24)
    assert index.positions_of([700, 5, 3]).tolist() == [2, 0]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 200), seed=st.integers(0, 9), flat=st.booleans(),
    x=st.integers(-50, 1000), y=st.integers(-50, 1000), width=st.integers(1, 900), height=st.integers(1, 900),
)  # fmt: skip
def test_within_finds_the_centroids_in_a_box(n: int, seed: int, flat: bool, x: int, y: int, width: int, height: int) -> None:
    places = np.random.default_rng(seed).uniform(0, 1000, (n, 2)).round(1)
    if flat:
        places[:, 1] = 7
    index = ObjectIndex(np.arange(1, n + 1), places[:, 0], places[:, 1], np.hstack([places, places]))
    box = Box(x, y, width, height)
    assert index.within(box).tolist() == [i for i, place in enumerate(places) if box.contains_point(*place)]


@settings(max_examples=30, deadline=None)
@given(downsample=st.sampled_from([1.0, 0.5, 2.0, 1.99203, 3.7]), tile=st.integers(20, 400), seed=st.integers(0, 9))
def test_each_object_is_within_one_tile(downsample: float, tile: int, seed: int) -> None:
    # Many centroids lie exactly on borders.
    places = np.random.default_rng(seed).integers(0, 1000, (300, 2)) * downsample
    index = ObjectIndex(np.arange(1, 301), places[:, 0], places[:, 1], np.hstack([places, places]))
    tiles = [Box(x, y, tile, tile) for y in range(0, 1000, tile) for x in range(0, 1000, tile)]
    found = np.concatenate([index.within(box, downsample) for box in tiles])
    np.testing.assert_array_equal(np.sort(found), np.arange(300))


def test_the_index_of_a_big_array_is_made_in_parts(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, value in (("BLOCK_PX", 64), ("BLOCK_AREA", 4000)):
        monkeypatch.setattr(f"napari_histoseg.methods.cells.planes.{constant}", value)
    monkeypatch.setattr("napari_histoseg.methods.cells.sources.MERGE_EVERY", 4)
    read: list[int] = []

    def block(part: Any) -> Any:
        read.append(part.size)
        return part

    lazy = da.from_array(NUMBERS, chunks=(50, 40)).map_blocks(block, dtype=np.uint32, meta=np.empty((0, 0), np.uint32))
    found, plain = source_of(lazy, slide).index(), source_of(NUMBERS, slide).index()
    assert found.fingerprint() == plain.fingerprint()
    assert sum(read) == NUMBERS.size


@pytest.mark.parametrize("chunks", [(7, WIDTH), (HEIGHT, WIDTH), (50, 40), (1, 1)])
def test_blocks_cover_an_image_once_and_stay_small(chunks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, value in (("BLOCK_PX", 64), ("BLOCK_AREA", 5000)):
        monkeypatch.setattr(f"napari_histoseg.methods.cells.planes.{constant}", value)
    seen = np.zeros(LABELS.shape, int)
    for box in Plane(da.zeros(LABELS.shape, dtype=np.uint8, chunks=chunks), "labels").blocks():
        seen[box.slices] += 1
        assert box.area <= 5000
    assert (seen == 1).all()


def test_objects_whose_centroid_is_off_the_slide_are_left_out(slide: Slide, tmp_path: Path) -> None:
    shapes = [shapely.box(-30, 10, 10, 40), shapely.box(-10, 10, 30, 40)]
    source = source_of(geojson(shapes, tmp_path / "edge.geojson"), slide)
    assert source.index().ids.tolist() == [2]
    assert source.describe()["count"] == 1


def test_the_index_is_made_once_by_many_threads(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(NUMBERS, slide)
    assert isinstance(source, LabelSource)
    make, calls = source._make_index, []
    monkeypatch.setattr(source, "_make_index", lambda: (calls.append(1), make())[1])
    found: list[ObjectIndex] = []
    threads = [threading.Thread(target=lambda: found.append(source.index())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 1 and len({id(index) for index in found}) == 1


def test_other_objects_have_another_fingerprint(slide: Slide) -> None:
    moved = np.roll(NUMBERS, 1, axis=1)
    assert source_of(moved, slide).describe()["fingerprint"] != source_of(NUMBERS, slide).describe()["fingerprint"]
    json.dumps(source_of(moved, slide).describe())


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2)])
def test_labels_without_objects_have_an_empty_index(shape: tuple[int, int], slide: Slide) -> None:
    index = source_of(np.zeros(shape, np.uint8), slide).index()
    assert len(index) == 0 and index.boxes.shape == (0, 4) and len(index.within(WHOLE)) == 0
    assert index.positions_of([1]).tolist() == []


def test_geojson_without_areas_has_an_empty_index(slide: Slide, tmp_path: Path) -> None:
    source = source_of(geojson([shapely.Point(3, 3)], tmp_path / "points.geojson"), slide)
    assert len(source.index()) == 0 and not source.read(WHOLE, MPP).any()
    assert "Point" in source.notes[0]


# -- scales ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4, 7, 16])
@pytest.mark.parametrize("rounding", [np.floor, np.ceil, np.round])
def test_levels_of_a_pyramid_lie_where_they_belong(factor: int, rounding: Callable[[float], float], slide: Slide) -> None:
    labels = np.zeros((int(rounding(HEIGHT / factor)), int(rounding(WIDTH / factor))), np.uint8)
    labels[2, 5] = 9
    index = source_of(labels, slide).index()
    assert index.boxes.tolist() == [[5 * factor, 2 * factor, factor, factor]]


def test_a_label_image_lies_where_it_is_said_to_lie(slide: Slide) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[4, 6] = 5
    index = source_of(LabelImage(labels, mpp=1.0, x_um=10, y_um=20), slide).index()
    assert index.boxes.tolist() == [[20 + 12, 40 + 8, 2, 2]]


def test_ome_zarr_of_a_part_lies_where_its_metadata_put_it(slide: Slide, tmp_path: Path) -> None:
    path = _ome_zarr(NUMBERS[50:150, 100:220], tmp_path)
    group = zarr.open_group(path, mode="a")
    entry = dict(group.attrs["ome"])  # type: ignore[call-overload]
    entry["multiscales"][0]["datasets"][0]["coordinateTransformations"].append(
        {"type": "translation", "translation": [0, 50 * MPP, 100 * MPP]}
    )
    group.attrs["ome"] = entry
    read = source_of(path, slide).read(WHOLE, MPP)
    np.testing.assert_array_equal(read[50:150, 100:220], NUMBERS[50:150, 100:220])
    assert not read[:, :100].any()


# -- GeoJSON -----------------------------------------------------------------------------------------------------------


def test_of_a_file_with_detections_the_annotations_around_them_are_left_out(slide: Slide, tmp_path: Path) -> None:
    kinds = [{"objectType": kind} for kind in ("annotation", "detection", "cell")]
    shapes = [shapely.box(0, 0, 200, 200), shapely.box(10, 10, 20, 20), shapely.box(30, 30, 40, 40)]
    source = source_of(geojson(shapes, tmp_path / "qupath.geojson", kinds), slide)
    assert source.index().boxes.tolist() == [[10, 10, 10, 10], [30, 30, 10, 10]]
    assert "1 annotations" in source.notes[-1]


def test_packed_geojson_is_read(slide: Slide, tmp_path: Path) -> None:
    plain = geojson(SHAPES, tmp_path / "shapes.geojson")
    packed = tmp_path / "shapes.geojson.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert source_of(packed, slide).describe()["fingerprint"] == source_of(plain, slide).describe()["fingerprint"]


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(slide: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(polygons, "PIECE", 1 << 16)
    path = tmp_path / "bomb.geojson"
    path.write_bytes(gzip.compress(b" " * (1 << 22)))
    with pytest.raises(SettingsError, match="more than"):
        source_of(path, slide)


def test_broken_outlines_are_repaired_and_told(slide: Slide, tmp_path: Path) -> None:
    path = tmp_path / "broken.geojson"
    bow = {"type": "Polygon", "coordinates": [[[10, 10], [30, 30], [30, 10], [10, 30]]]}
    flat = {"type": "Polygon", "coordinates": [[[1, 1], [1, 1], [1, 1]]]}
    path.write_text(json.dumps([{"geometry": bow}, {"geometry": flat}]))
    source = source_of(path, slide)
    assert len(source.index()) == 1 and len(source.notes) >= 2


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "float": (NUMBERS.astype(np.float32), "whole numbers"),
    "bool": (NUMBERS > 0, "mask of true and false"),
    "negative": (NUMBERS.astype(np.int32) - 1, "value -1"),
    "too large": (NUMBERS.astype(np.int64) + (1 << 33), "0 is background"),
    "picture": (IMAGE, "picture in colors"),
    "stack": (np.zeros((5, HEIGHT, WIDTH), np.uint8), "one plane"),
    "line": (np.zeros(7, np.uint8), "flat"),
    "transposed": (NUMBERS.T, "same proportions"),
    "part": (NUMBERS[:100], "LabelImage"),
    "nothing": (np.zeros((0, 0), np.uint8), "same proportions"),
    "number": (5, "is a int"),
    "list": ([[1, 2], [3, 4]], "is a list"),
    "empty list": ([], "is a list"),
    "beside": (LabelImage(NUMBERS, MPP, x_um=WIDTH * MPP + 1), "does not lie over"),
    "no pixel size": (LabelImage(NUMBERS, 0.0), "must be positive"),
    "no place": (LabelImage(NUMBERS, 0.5, x_um=float("nan")), "must be numbers|all three"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_holds_no_objects_of_the_slide_is_refused(case: str, slide: Slide) -> None:
    labels, words = REFUSED[case]
    with pytest.raises(SettingsError, match=words):
        source_of(labels, slide).index()


def _text(folder: Path, name: str, content: bytes = b"nothing") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


FILES: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "missing": (lambda f: f / "none.tif", SettingsError, "does not exist"),
    "text": (lambda f: _text(f, "a.txt"), SettingsError, "no objects that can be read"),
    "png": (lambda f: _text(f, "a.png"), SettingsError, "cannot be read"),
    "tiff": (lambda f: _text(f, "a.tif"), SettingsError, "cannot be read"),
    "npy": (lambda f: _text(f, "a.npy"), SettingsError, "cannot be read"),
    "geojson": (lambda f: _text(f, "a.geojson"), DatasetError, "GeoJSON"),
    "deep": (lambda f: _text(f, "a.geojson", b'{"a":' * 100_000), SettingsError, "nested too deeply"),
    "torn gzip": (lambda f: _text(f, "a.geojson.gz", gzip.compress(b"{}" * 999)[:-9]), SettingsError, "GeoJSON"),
    "folder": (lambda f: f, SettingsError, "neither a result folder"),
    "result": (lambda f: _text(f, "run.json").parent, ResultError, "damaged"),
    "elsewhere": (lambda f: geojson([shapely.box(900, 900, 950, 950)], f / "a.geojson"), SettingsError, "does not lie over"),
    "colors": (lambda f: (Image.fromarray(IMAGE).save(f / "a.png"), f / "a.png")[1], SettingsError, "picture in colors"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_without_objects_are_refused(case: str, slide: Slide, tmp_path: Path) -> None:
    make, error, words = FILES[case]
    with pytest.raises(error, match=words):
        source_of(make(tmp_path), slide)


def test_a_picture_with_several_label_images_asks_which(slide: Slide, tmp_path: Path) -> None:
    path = _ome_zarr(NUMBERS, tmp_path, "nuclei")
    zarr.open_group(path, mode="a")["labels"].attrs["ome"] = {"labels": ["nuclei", "cells"]}
    with pytest.raises(SettingsError, match="nuclei cells"):
        source_of(path, slide)


def test_a_level_outside_the_folder_is_refused(slide: Slide, tmp_path: Path) -> None:
    _zarr(NUMBERS, tmp_path)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "../labels.zarr"}]}]}
    with pytest.raises(SettingsError, match="no array inside"):
        source_of(tmp_path / "a.zarr", slide)


def test_a_result_of_another_slide_is_refused(slide: Slide, tmp_path: Path) -> None:
    result = result_of(tmp_path / "run", slide, WHOLE)
    with pytest.raises(SettingsError, match="fingerprints differ"):
        source_of(result, open_slide(IMAGE[::-1].copy(), mpp=MPP))


def test_a_class_map_is_refused(slide: Slide, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "map", record_of(slide, MPP, WHOLE, ("labels",)), ("labels",))
    store.add(0, WHOLE, labels=(WHOLE, (LABELS > 0).astype(np.int32)))
    with pytest.raises(SettingsError, match="classes of areas"):
        source_of(store.finish("finished"), slide)


def test_a_slide_without_a_pixel_size_is_refused() -> None:
    with pytest.raises(PixelSizeError):
        source_of(NUMBERS, open_slide(IMAGE))


def test_labels_that_cannot_be_read_say_where(slide: Slide) -> None:
    def fail(part: Any) -> Any:
        raise OSError("disk gone")

    lazy = da.from_array(NUMBERS, chunks=(50, 40)).map_blocks(fail, dtype=np.uint32, meta=np.empty((0, 0), np.uint32))
    with pytest.raises(TileError, match=r"x 0 to 10.*disk gone"):
        source_of(lazy, slide).read(Box(0, 0, 10, 10), MPP)
