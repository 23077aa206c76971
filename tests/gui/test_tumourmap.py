"""Outlines at any threshold, without a window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_histoseg._testing_tumour import MPP, tumour_model, tumour_picture
from napari_histoseg.annotations.geojson import read_geojson
from napari_histoseg.errors import ResultError
from napari_histoseg.gui.tumourmap import (
    Heat,
    area_of_result,
    area_words,
    copied,
    heat_of,
    lines_around,
    without_repeats,
    written,
)
from napari_histoseg.gui.tumourworst import pictures_of, read_worst, table_beside
from napari_histoseg.predict.run import iter_run
from napari_histoseg.results import Result
from napari_histoseg.slide import open_slide


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("map")
    slide = open_slide(tumour_picture(512)[0], mpp=MPP)
    return list(iter_run("tumour", slide, weights=tumour_model(folder / "small.safetensors"), out=folder / "map.histoseg"))[-1].result


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(1, 16))
def test_lines_lie_between_inside_and_outside(mask: np.ndarray, step: int) -> None:
    lines = lines_around(mask, step)
    padded = np.pad(mask, 1)
    edges = (padded[1:] != padded[:-1]).sum() + (padded[:, 1:] != padded[:, :-1]).sum()
    assert lines[:, 1].sum() == edges * step
    assert ((lines[:, 1] > 0).sum(1) == 1).all()
    # Corners of pixels, in coordinates that are whole in the middle of pixels.
    assert np.allclose((lines[:, 0] + 0.5) % step, 0)


def test_lines_of_a_rectangle_are_its_sides() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:7] = True
    lines = lines_around(mask, 4)
    assert sorted(map(tuple, lines.reshape(-1, 4).tolist())) == [(3.5, 7.5, 0, 20), (3.5, 7.5, 8, 0), (3.5, 27.5, 8, 0), (11.5, 7.5, 0, 20)]


def test_areas_are_counted_at_the_finest_pixels(result: Result) -> None:
    heat = heat_of(result)
    assert heat is not None
    stored = np.asarray(result.arrays()["probability"][0][:])
    for threshold in (0.0, 0.25, 0.5, 1.0):
        inside = (stored >= threshold * 255) & (stored > 0)
        assert heat.above(threshold) == pytest.approx(inside.sum() * result.mpp**2)
    labels = np.asarray(result.labels)
    assert heat.outlined == pytest.approx(labels.sum() * result.mpp**2)
    assert area_words(result) == f"{labels.sum() * result.mpp**2 / 1e6:.3g} mm² of tumour"
    assert area_of_result(result, 0.2).area * MPP**2 == pytest.approx(heat.outlined, rel=0.03)


def test_a_large_heatmap_is_drawn_from_a_coarser_level() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    values, step = without_repeats(patches.repeat(4, 0).repeat(4, 1)[:-1, :-3], 8)
    assert step == 32
    np.testing.assert_array_equal(values, patches)
    heat = Heat(values, step, np.bincount(patches.ravel(), minlength=256) * 32**2, 0, 64.0)
    assert heat.above(0.5) == (patches >= 128).sum() * 32**2 * 64
    np.testing.assert_array_equal(np.unique(heat.lines(0.5)[:, 0] % 32), [31.5])


def test_only_whole_results_are_outlined_anew(result: Result, tmp_path: Path) -> None:
    copied(result.path, tmp_path / "a.histoseg", {**result.record.settings, "mc_samples": 2})
    record = json.loads((tmp_path / "a.histoseg" / "run.json").read_text())
    assert record["status"] == "cancelled" and record["outputs"] == ["labels", "probability", "uncertainty"]
    assert (tmp_path / "a.histoseg" / "uncertainty.ome.zarr").is_dir()
    with pytest.raises(ResultError, match="not whole"):
        copied(tmp_path / "a.histoseg", tmp_path / "b.histoseg", {})


def test_an_outline_is_written_for_qupath(tmp_path: Path) -> None:
    area = shapely.union_all([shapely.box(0, 0, 100, 50).difference(shapely.box(10, 10, 20, 20)), shapely.box(200, 0, 210, 10)])
    regions = read_geojson(written(tmp_path / "x.geojson.gz", area, 0.5))
    assert {r.geometry.area: r.measurements for r in regions} == {4900: {"area µm²": 1225.0}, 100: {"area µm²": 25.0}}
    assert {r.object_type for r in regions} == {"annotation"}


def test_the_worst_patches_are_read_where_they_lie(tmp_path: Path) -> None:
    picture, _ = tumour_picture(256)
    weights = tmp_path / "w.safetensors"
    assert read_worst(weights) == []
    rows = ["s.svs,1,0.02,64.0,32.0,64.0,64.0", "gone.svs,0,0.9,0,0,64,64", "s.svs,0,0.8,128,128,64,64"]
    table_beside(weights).write_text("\n".join(["name,label,probability,x,y,width,height", *rows]))
    first, _, third = read_worst(weights)
    assert first.words == "tumour, probability of tumour 2%" and third.label == 0
    said = [event.value for event in pictures_of(weights, {"s.svs": lambda: open_slide(picture, mpp=MPP)}) if hasattr(event, "value")]
    pictures = [pixels for _, batch in said for _, pixels in batch]
    assert len(pictures) == 2 and said[0][0]
    assert abs(pictures[0].mean((0, 1)) - picture[32:96, 64:128].mean((0, 1))).max() < 3
