"""Every export is read back by an independent reader."""

from __future__ import annotations

import errno
import gzip
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
import zarr
from ome_zarr_models.v05.image_label import ImageLabel
from PIL import Image

from napari_histoseg.errors import ResultError, SettingsError, StorageError
from napari_histoseg.results import Result, ResultStore, export, geojson, open_result
from napari_histoseg.results.edit import Editor
from napari_histoseg.slide.geometry import Box


@pytest.mark.parametrize("name", ["out.geojson", "out.geojson.gz"])
def test_geojson_is_what_qupath_reads(finished: Result, scene: Any, tmp_path: Path, name: str) -> None:
    path = export(finished, tmp_path / name)
    data = path.read_bytes()
    collection = json.loads(gzip.decompress(data) if name.endswith("gz") else data)
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == len(scene.objects)
    for feature, (_, row) in zip(collection["features"], scene.objects.iterrows(), strict=True):
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert feature["geometry"]["type"] == "Polygon"
        ring = feature["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1]
        # Level-0 pixels of 0.25 µm.
        assert shape.centroid.x * 0.25 == pytest.approx(row["centroid_x_um"], abs=0.01)
        assert shape.is_valid
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"] == {"name": "nucleus", "color": [255, 136, 0]}
        measured = properties["measurements"]
        assert measured["area_um2"] == pytest.approx(row["area_um2"], rel=1e-6)
        assert ("eccentricity" in measured) == (not np.isnan(row["eccentricity"]))


def stored(scene: Any, new_record: Any, path: Path, outlines: list[Any], **columns: Any) -> Result:
    """A result with the given outlines."""
    n = len(outlines)
    objects = pd.DataFrame(
        {
            "id": range(1, n + 1),
            "centroid_x_um": 200.0,
            "centroid_y_um": 100.0,
            "class": "nucleus",
            "outline": outlines,
        }
    ).assign(**columns)
    store = ResultStore.create(path, new_record(), ("labels", "objects"))
    store.add(0, scene.tiles[0], objects=objects)
    return store.finish()


def test_geojson_of_odd_outlines(scene: Any, new_record: Any, tmp_path: Path) -> None:
    square = shapely.box(0, 0, 9, 9)
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    shapes = [shapely.MultiPolygon([square]), shapely.MultiPolygon([square, shapely.box(20, 0, 25, 5)]), bow]
    outlines = [*(shapely.to_wkb(s) for s in shapes), None]
    result = stored(scene, new_record, tmp_path / "r", outlines)
    features = [json.loads(text) for text in geojson.features(result)]
    assert [f["geometry"]["type"] for f in features] == ["Polygon", "MultiPolygon", "MultiPolygon", "Point"]
    assert all(shapely.from_geojson(json.dumps(f["geometry"])).is_valid for f in features)
    assert features[3]["geometry"]["coordinates"] == [800, 400]


@pytest.mark.parametrize("name", ["lymphocyte", 'a "quoted", név'])
def test_classes_that_the_record_does_not_know_have_a_color(scene: Any, new_record: Any, tmp_path: Path, name: str) -> None:
    result = stored(scene, new_record, tmp_path / "r", [None], **{"class": name})
    (feature,) = (json.loads(text) for text in geojson.features(result))
    assert feature["properties"]["classification"]["name"] == name
    assert len(feature["properties"]["classification"]["color"]) == 3


def test_csv(finished: Result, scene: Any, tmp_path: Path) -> None:
    table = pd.read_csv(export(finished, tmp_path / "out.csv"))
    expected = scene.objects.drop(columns="outline")
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=1e-5)


def test_parquet(finished: Result, scene: Any, tmp_path: Path) -> None:
    table = pq.read_table(export(finished, tmp_path / "out.parquet")).to_pandas()
    pd.testing.assert_frame_equal(table, scene.objects, check_dtype=False)


def test_anndata(finished: Result, scene: Any, tmp_path: Path) -> None:
    data = anndata.read_h5ad(export(finished, tmp_path / "out.h5ad"))
    np.testing.assert_allclose(data.obsm["spatial"], scene.objects[["centroid_x_um", "centroid_y_um"]])
    assert list(data.var_names) == ["area_um2", "eccentricity"]
    np.testing.assert_allclose(data.X[:, 0], scene.objects["area_um2"], rtol=1e-6)
    assert set(data.obs["class"]) == {"nucleus"}
    assert list(data.obs_names) == [str(i) for i in scene.objects["id"]]
    assert json.loads(data.uns["histoseg"]["record"])["method"] == "nuclei"


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif"])
def test_tiff(finished: Result, scene: Any, tmp_path: Path, name: str) -> None:
    with tifffile.TiffFile(export(finished, tmp_path / name)) as tif:
        page = tif.pages[0]
        np.testing.assert_array_equal(page.asarray(), scene.labels)
        numerator, denominator = page.tags["XResolution"].value
        assert 1e4 / (numerator / denominator) == pytest.approx(0.5)
        assert page.tags["ResolutionUnit"].value == 3
        if name == "out.ome.tif":
            assert [level.shape for level in tif.series[0].levels] == [(1100, 1500), (550, 750), (275, 375)]
            np.testing.assert_array_equal(tif.series[0].levels[2].asarray(), finished.pyramid[2].compute())
            pixels = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]
            assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.5, "µm")
            assert pixels["Plane"]["PositionX"] == pytest.approx(150.125)


def test_an_image_result_becomes_an_rgb_tiff(scene: Any, write: Any, tmp_path: Path) -> None:
    result = write(tmp_path / "r", scene, outputs=("image",))
    with tifffile.TiffFile(export(result, tmp_path / "out.ome.tif")) as tif:
        np.testing.assert_array_equal(tif.series[0].asarray(), scene.image)


def test_zarr(finished: Result, scene: Any, tmp_path: Path) -> None:
    path = export(finished, tmp_path / "out.ome.zarr")
    group = zarr.open_group(path, mode="r")
    ImageLabel.from_zarr(group)
    np.testing.assert_array_equal(np.asarray(group["0"]), scene.labels)


def test_png_shows_the_labels_over_the_slide(finished: Result, scene: Any, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(export(finished, tmp_path / "out.png")))
    assert picture.shape == (1100, 1500, 3)
    assert (picture[scene.labels == 0] == 255).all()
    assert (picture[scene.labels != 0] != 255).any(axis=-1).all()
    small = np.asarray(Image.open(export(finished, tmp_path / "small.png", max_px=400)))
    assert max(small.shape) <= 400


def test_png_lies_where_the_slide_does(scene: Any, write: Any, tmp_path: Path) -> None:
    from napari_histoseg.slide import open_slide

    pixels = np.full((3000, 4000, 3), 200, np.uint8)
    pixels[:, :1000] = (20, 40, 60)
    result = write(tmp_path / "r", scene, outputs=("labels",))
    path = export(result, tmp_path / "out.png", slide=open_slide(pixels, mpp=0.25))
    picture = np.asarray(Image.open(path))
    # The dark part ends at level-0 column 1000, working column 500, column 200 of the frame.
    clear = scene.labels == 0
    assert (picture[:, :195][clear[:, :195]] == (20, 40, 60)).all()
    assert (picture[:, 205:][clear[:, 205:]] == 200).all()


def test_exports_follow_corrections(own: Result, tmp_path: Path) -> None:
    editor = Editor(own)
    victim = int(own.objects["id"].iloc[0])
    editor.delete(victim)
    added = editor.add(Box(310, 150, 9, 7), np.ones((7, 9), bool))
    reopened = open_result(own.path)
    ids = pq.read_table(export(reopened, tmp_path / "a.parquet"))["id"].to_pylist()
    assert victim not in ids
    assert added in ids
    features = json.loads(export(reopened, tmp_path / "a.geojson").read_text())["features"]
    assert len(features) == len(ids)
    labels = tifffile.imread(export(reopened, tmp_path / "a.tif"))
    assert set(np.unique(labels)) - {0} == set(ids)


class Enough(Exception):
    """What a caller raises to stop an export."""


@pytest.mark.parametrize("name", ["a.geojson", "a.csv", "a.parquet", "a.h5ad", "a.tif", "a.ome.tif", "a.zarr", "a.png"])
def test_an_export_can_be_stopped_and_leaves_nothing(finished: Result, tmp_path: Path, name: str) -> None:
    def stop(done: int, total: int) -> None:
        raise Enough

    with pytest.raises(Enough):
        export(finished, tmp_path / name, step=stop)
    assert not list(tmp_path.iterdir())


def test_an_export_tells_how_far_it_is(finished: Result, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    export(finished, tmp_path / "a.ome.tif", step=lambda done, total: steps.append((done, total)))
    totals = {total for _, total in steps}
    assert len(totals) == 1
    assert [done for done, _ in steps] == list(range(totals.pop()))


def test_an_unfinished_result_can_be_exported(scene: Any, write: Any, tmp_path: Path) -> None:
    result = write(tmp_path / "r", scene, "cancelled")
    assert len(pd.read_csv(export(result, tmp_path / "a.csv"))) == len(scene.objects)


def test_an_empty_result_exports(scene: Any, new_record: Any, tmp_path: Path) -> None:
    result = ResultStore.create(tmp_path / "r", new_record(), ("labels", "objects")).finish()
    assert json.loads(export(result, tmp_path / "a.geojson").read_text())["features"] == []
    assert len(pd.read_csv(export(result, tmp_path / "a.csv"))) == 0
    assert anndata.read_h5ad(export(result, tmp_path / "a.h5ad")).n_obs == 0
    assert not tifffile.imread(export(result, tmp_path / "a.tif")).any()
    assert (np.asarray(Image.open(export(result, tmp_path / "a.png"))) == 255).all()


def test_an_unknown_extension_is_refused_with_the_known_ones(finished: Result, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'out\.docx'.*\.geojson\.gz.*\.h5ad.*\.png"):
        export(finished, tmp_path / "out.docx")


def test_objects_are_missed_where_there_are_none(scene: Any, write: Any, tmp_path: Path) -> None:
    result = write(tmp_path / "r", scene, outputs=("image",))
    with pytest.raises(SettingsError, match=r"no objects to write as \.geojson\. Export it as one of \.ome\.tiff, .*\.png\.$"):
        export(result, tmp_path / "out.geojson")


def test_a_file_that_exists_is_kept_unless_told_otherwise(finished: Result, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(ResultError, match="exists"):
        export(finished, path)
    assert path.read_text() == "mine"
    export(finished, path, overwrite=True)
    assert path.read_text().startswith("id,")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(ResultError, match="is a folder"):
        export(finished, tmp_path / "folder.zarr", overwrite=True)


def test_a_full_disk_leaves_no_half_file(finished: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match=r"the disk is full\. Free space and export again"):
        export(finished, tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == []
