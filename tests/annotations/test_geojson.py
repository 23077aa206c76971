"""Regions from GeoJSON: as QuPath writes it, as others do, and broken."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoseg.annotations.geojson import Region, rasterize, read_geojson
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [2, 4], [4, 4], [4, 2], [2, 2]]


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Writes content as a file and reads its regions."""

    def write_and_read(content: Any, problems: list[str] | None = None) -> list[Region]:
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps(content))
        return read_geojson(path, problems)

    return write_and_read


def test_what_qupath_writes(read: Any) -> None:
    (region,) = read(
        {
            "type": "FeatureCollection",
            "features": [
                feature(
                    polygon(SQUARE, HOLE),
                    objectType="annotation",
                    name="first",
                    classification={"name": "Tumor", "color": [200, 0, 16]},
                    measurements={"Area µm^2": 12.5, "bad": None},
                )
            ],
        }
    )
    assert region.geometry.equals(shapely.Polygon(SQUARE, [HOLE]))
    assert (region.name, region.class_name, region.color) == ("first", "Tumor", "#c80010")
    assert region.measurements == {"Area µm^2": 12.5}
    assert region.object_type == "annotation"


def test_what_older_qupath_wrote(read: Any) -> None:
    (region,) = read(
        [
            feature(
                polygon(SQUARE),
                classification={"name": "Stroma", "colorRGB": -6895466},
                measurements=[{"name": "Length", "value": 3}],
            )
        ]
    )
    assert (region.class_name, region.color) == ("Stroma", "#96c896")
    assert region.measurements == {"Length": 3}


@pytest.mark.parametrize(
    "content",
    [feature(polygon(SQUARE)), [feature(polygon(SQUARE))], polygon(SQUARE), [polygon(SQUARE)]],
    ids=["feature", "list", "geometry", "list of geometries"],
)
def test_other_shapes_of_the_file(read: Any, content: Any) -> None:
    (region,) = read(content)
    assert region.geometry.area == 100
    assert (region.name, region.class_name, region.color) == (None, None, None)


@pytest.mark.parametrize("name", ["a.geojson.gz", "renamed.geojson"])
def test_compressed_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(json.dumps(feature(polygon(SQUARE))).encode()))
    assert len(read_geojson(path)) == 1


@pytest.mark.parametrize(
    ("rings", "area", "problem"),
    [
        ([SQUARE[:-1]], 100, "its ring was closed"),
        ([[*SQUARE[:2], [float("nan"), 3], *SQUARE[2:]]], 100, "1 impossible coordinates were dropped"),
        ([[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]], 8, "it crossed itself and was repaired"),
        ([SQUARE, [[1, 1], [2, 2]]], 100, "a hole with fewer than three usable points was filled"),
    ],
)
def test_broken_rings_are_repaired(read: Any, rings: Any, area: float, problem: str) -> None:
    problems: list[str] = []
    (region,) = read(feature(polygon(*rings)), problems)
    assert region.geometry.is_valid
    assert region.geometry.area == pytest.approx(area)
    assert any(problem in text for text in problems)
    assert len(read(feature(polygon(*rings)))) == 1


@pytest.mark.parametrize(
    ("geometry", "problem"),
    [
        (polygon([[0, 0], [1, 1]]), "fewer than three usable points"),
        (polygon([[0, 0], [1, 1], [2, 2], [0, 0]]), "encloses nothing"),
        (polygon(), "has no ring"),
        ({"type": "MultiPolygon"}, "has no coordinates"),
    ],
)
def test_what_is_beyond_repair_is_named(read: Any, geometry: Any, problem: str) -> None:
    content = [feature(polygon(SQUARE)), feature(geometry)]
    with pytest.raises(DatasetError, match=f"Feature 1: .*{problem}"):
        read(content)
    problems: list[str] = []
    assert len(read(content, problems)) == 1
    assert len(problems) == 1


def test_points_and_lines_are_left_out(read: Any) -> None:
    problems: list[str] = []
    content = [feature({"type": "Point", "coordinates": [1, 2]}), feature(None), feature(polygon(SQUARE))]
    assert len(read(content, problems)) == 1
    assert len(problems) == 2


def test_multipolygons(read: Any) -> None:
    other = [[20, 0], [30, 0], [30, 10], [20, 10], [20, 0]]
    overlapping = [[5, 0], [15, 0], [15, 10], [5, 10], [5, 0]]
    one, two, joined = read(
        [feature({"type": "MultiPolygon", "coordinates": c}) for c in ([[SQUARE]], [[SQUARE], [other]], [[SQUARE], [overlapping]])]
    )
    assert one.geometry.geom_type == "Polygon"
    assert two.geometry.geom_type == "MultiPolygon"
    assert joined.geometry.area == 150


@pytest.mark.parametrize("text", ["", "{", "3", '{"a": 1}', "[1]"])
def test_a_file_that_is_no_geojson_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"a\.geojson"):
        read_geojson(path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_geojson(tmp_path / "b.geojson")


def test_exports_come_back_as_they_went(tmp_path: Path) -> None:
    import pandas as pd

    from napari_histoseg.results import ResultStore, RunRecord, SlideRecord, export

    box = Box(0, 0, 64, 64)
    slide = SlideRecord(name="a", fingerprint="f", width=64, height=64, mpp=0.5)
    record = RunRecord(method="nuclei", slide=slide, mpp=0.5, frame=box, tile_px=64, halo_px=0, n_tiles=1)
    store = ResultStore.create(None, record, ("objects",))
    outline = shapely.Polygon(SQUARE, [HOLE])
    row = {"id": 7, "centroid_x_um": 2.5, "centroid_y_um": 2.5, "class": "nucleus", "outline": shapely.to_wkb(outline)}
    store.add(0, box, objects=pd.DataFrame([row]))
    (region,) = read_geojson(export(store.finish(), tmp_path / "a.geojson.gz"))
    assert region.geometry.equals(outline)
    assert region.class_name == "nucleus"


def test_holes_are_not_painted() -> None:
    mask = rasterize([Region(shapely.Polygon(SQUARE, [HOLE]))], Box(-2, -1, 14, 13))
    assert mask.dtype == bool
    assert mask.sum() == 96
    assert mask[1, 2]
    assert not mask[0].any()
    assert not mask[3:5, 4:6].any()


def test_classes_are_painted_as_their_values() -> None:
    regions = [
        Region(shapely.box(0, 0, 8, 8), class_name="a"),
        Region(shapely.box(4, 0, 12, 8), class_name="b"),
        Region(shapely.box(0, 0, 99, 99), class_name="other"),
    ]
    mask = rasterize(regions, Box(0, 0, 8, 4), downsample=2, values={"a": 1, "b": 2})
    np.testing.assert_array_equal(mask, np.tile([1, 1, 2, 2, 2, 2, 0, 0], (4, 1)))
    assert mask.dtype == np.uint8
    assert rasterize(regions, Box(0, 0, 2, 2), values={"a": 700}).dtype == np.uint16


coordinate = st.integers(-20, 60).map(lambda v: v + 0.25)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7), st.sampled_from([1.0, 2.0, 0.5]))
def test_a_painted_pixel_is_one_whose_center_lies_inside(points: Any, downsample: float) -> None:
    shape = shapely.make_valid(shapely.Polygon(points))
    areas = [g for g in shapely.get_parts(shape) if g.geom_type == "Polygon"]
    box = Box(-3, 2, 21, 17)
    mask = rasterize([Region(area) for area in areas], box, downsample)
    y, x = np.mgrid[box.y : box.bottom, box.x : box.right]
    centers = shapely.points((x + 0.5) * downsample, (y + 0.5) * downsample)
    union = shapely.union_all(areas) if areas else shapely.Polygon()
    sure = shapely.distance(centers, union.boundary) > 1e-6 if areas else np.ones(box.shape, bool)
    np.testing.assert_array_equal(mask[sure], shapely.contains(union, centers)[sure])
