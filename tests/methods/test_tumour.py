"""Tumour keeps what every method keeps, and its outline what its heatmap and its refiner say."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import napari_histoseg as hs
from napari_histoseg._testing import he_image
from napari_histoseg._testing_tumour import SMALL, tumour_dataset, tumour_model, tumour_picture
from napari_histoseg.cli import main
from napari_histoseg.errors import PixelSizeError, SettingsError, TileError, WeightsError
from napari_histoseg.methods.tumour.baselines import otsu, smoothed
from napari_histoseg.methods.tumour.config import TumourSettings
from napari_histoseg.results.classmap import class_areas
from napari_histoseg.slide import Box, Slide

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

MPP = 4.0


def picture(width: int = 1200, height: int = 1000) -> NDArray[np.uint8]:
    """Sparse tissue beside dense, in squares, with glass around: 600 x 500 working pixels of 8 µm."""
    sparse, dense = (he_image(width, height, seed=5 + i, mpp=mpp, glass=0.05) for i, mpp in enumerate((0.5, 2.0)))
    rows, columns = np.mgrid[:height, :width] // 250
    return np.where(((rows + columns) % 2 == 0)[..., None], sparse, dense // 4 * 3).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files of every kind."""
    found = tmp_path_factory.mktemp("weights")
    tumour_model(found / "both.safetensors", rounds=12)
    tumour_model(found / "heat.safetensors", rounds=12, refiner="none")
    tumour_model(found / "low.safetensors", rounds=12, backbone="none")
    tumour_model(found / "paper.safetensors", variant="paper")
    return found


@pytest.fixture(scope="module", autouse=True)
def ready(folder: Path) -> Iterator[None]:
    """Their weights to the kinds."""
    for kind in _kinds():
        kind.fast = {"weights": folder / f"{kind.model}.safetensors", **kind.how}
    yield


def _kinds() -> Iterator[type[_Tumour]]:
    return iter(_Tumour.__subclasses__())


class _Tumour(_module.Conformance):
    method = "tumour"
    model: ClassVar[str]
    how: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls) -> Slide:
        return hs.open_slide(picture(), mpp=MPP)

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        labels = [np.asarray(r.labels) for r in (a, b)]
        assert a.mpp == b.mpp == 8.0 and labels[0].shape == labels[1].shape == (500, 600)
        assert set(np.unique(labels[0])) == {0, 1} and 0.02 < labels[0].mean() < 0.9
        assert (labels[0] == labels[1]).mean() >= (0.9999 if least is None else least)
        if least is None:
            for name in ("probability", "uncertainty"):
                if getattr(a, name) is not None:
                    difference = np.abs(np.asarray(getattr(a, name)) - np.asarray(getattr(b, name)))
                    assert difference.max() <= 1.01 / 255
        assert len(np.unique(np.asarray(a.probability))) > 20


class TestRefined(_Tumour):
    model = "both"


class TestSmoothed(_Tumour):
    model, how = "both", {"outline": "smoothed"}


class TestOverlap(_Tumour):
    model, how = "heat", {"overlap": 0.5}


class TestLowResolution(_Tumour):
    model = "low"


class TestUncertainty(_Tumour):
    model, how = "both", {"mc_samples": 2}


# -- the outline --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slide() -> Slide:
    """As in the conformance tests."""
    return hs.open_slide(picture(), mpp=MPP)


@pytest.fixture(scope="module")
def runs(slide: Slide, folder: Path) -> dict[str, Any]:
    """A run of each outline by the same model."""
    return {outline: hs.run("tumour", slide, weights=folder / "both.safetensors", outline=outline, precision="float32") for outline in ("auto", "refined", "smoothed", "threshold")}


def stored(result: Any, kind: str = "probability") -> NDArray[np.uint8]:
    return np.asarray(result.arrays()[kind][0][:])


def test_the_outline_is_as_asked_for_and_the_heatmap_always_the_same(runs: dict[str, Any]) -> None:
    heat = stored(runs["threshold"])
    for result in runs.values():
        np.testing.assert_array_equal(stored(result), heat)
    labels = {name: np.asarray(result.labels) for name, result in runs.items()}
    np.testing.assert_array_equal(labels["auto"], labels["refined"])
    np.testing.assert_array_equal(labels["threshold"], heat >= 127.5)
    np.testing.assert_array_equal(labels["smoothed"], smoothed(heat >= 127.5, 20))
    assert len({each.tobytes() for each in labels.values()}) == 3


def test_the_heatmap_has_a_value_for_each_patch(runs: dict[str, Any]) -> None:
    heat = stored(runs["auto"])[:480, :576].reshape(15, 32, 18, 32)
    assert (heat == heat[:, :1, :, :1]).all()


@pytest.mark.parametrize("threshold", [0.2, 0.8])
@pytest.mark.parametrize("outline", ["threshold", "refined"])
def test_the_threshold_moves_the_outline(slide: Slide, folder: Path, runs: dict[str, Any], outline: str, threshold: float) -> None:
    result = hs.run("tumour", slide, weights=folder / "both.safetensors", outline=outline, threshold=threshold, precision="float32")
    labels, middle = np.asarray(result.labels), np.asarray(runs[outline].labels)
    if outline == "threshold":
        np.testing.assert_array_equal(labels, stored(result) >= threshold * 255)
    assert labels.sum() != middle.sum()
    assert ((labels <= middle) if threshold > 0.5 else (labels >= middle)).all()


def test_the_class_has_a_name_and_an_area(runs: dict[str, Any]) -> None:
    result = runs["auto"]
    assert [(c.value, c.name) for c in result.record.classes] == [(1, "tumour")] and not result.has_objects
    (row,) = class_areas(result).itertuples()
    count = int(np.asarray(result.labels).sum())
    assert row.area_px == count > 0 and row.area_mm2 == pytest.approx(count * 64e-6)


def test_uncertainty_lies_where_passes_differ(slide: Slide, folder: Path, runs: dict[str, Any]) -> None:
    result = hs.run("tumour", slide, weights=folder / "both.safetensors", mc_samples=3, precision="float32")
    spread = np.asarray(result.uncertainty)
    assert spread.shape == (500, 600) and 0.01 < spread.max() <= 0.5
    assert all(each.uncertainty is None for each in runs.values())
    again = hs.run("tumour", slide, weights=folder / "both.safetensors", mc_samples=3, precision="float32", seed=5)
    assert (np.asarray(again.uncertainty) != spread).any()
    for how in ({"outline": "smoothed"}, {"outline": "threshold"}):
        assert hs.run("tumour", slide, weights=folder / "both.safetensors", mc_samples=3, **how).uncertainty is None
    assert hs.run("tumour", slide, weights=folder / "heat.safetensors", mc_samples=3).uncertainty is None


@pytest.mark.parametrize("model", ["both", "heat", "low", "paper"])
def test_a_region_covers_only_the_region_and_lies_right(slide: Slide, folder: Path, model: str) -> None:
    weights = folder / f"{model}.safetensors"
    region = Box(301, 203, 501, 403)
    whole = hs.run("tumour", slide, weights=weights, precision="float32")
    part = hs.run("tumour", slide, weights=weights, region=region, precision="float32", tile_px=96)
    frame = Box(150, 101, 251, 202)
    assert part.frame == frame and part.labels.shape == part.probability.shape == frame.shape
    if model != "low":
        # The heatmap does not hang on what was asked for: patches lie on the slide's grid.
        np.testing.assert_allclose(stored(part), stored(whole)[frame.slices], atol=1)
    if model in ("both", "low"):
        agreement = (np.asarray(part.labels) == np.asarray(whole.labels)[frame.slices]).mean()
        assert agreement > 0.7, "only near the border there is less to see"
    if model == "low":
        assert np.asarray(part.probability).std() > 0.01
    assert set(np.unique(np.asarray(part.labels))) <= {0, 1}


def test_a_drawn_region_is_mapped_where_its_tiles_are(slide: Slide, folder: Path) -> None:
    import shapely

    corner = shapely.Polygon([(0, 0), (500, 0), (0, 500)])
    result = hs.run("tumour", slide, weights=folder / "both.safetensors", region=corner, tile_px=64, mc_samples=2, precision="float32")
    frame = result.frame
    assert frame == Box(0, 0, 250, 250)
    far = (slice(192, 250), slice(192, 250))
    for kind in ("probability", "uncertainty", "labels"):
        assert not stored(result, kind)[far].any() and stored(result, kind).any()


def test_glass_has_no_probability(folder: Path) -> None:
    image = np.full((640, 640, 3), 243, np.uint8)
    image[:256] = he_image(640, 256, seed=3)
    result = hs.run("tumour", hs.open_slide(image, mpp=MPP), weights=folder / "both.safetensors")
    assert stored(result)[:128].any() and not stored(result)[128:].any()


@pytest.mark.parametrize(("least", "some"), [(0.9, False), (0.1, True)])
def test_patches_of_little_tissue_have_none_where_more_is_asked_for(folder: Path, least: float, some: bool) -> None:
    image = picture(256, 256)
    image[:, np.arange(256) % 64 < 32] = 243
    result = hs.run("tumour", hs.open_slide(image, mpp=MPP), weights=folder / "both.safetensors", least_tissue=least, tissue_only=False)
    assert bool(stored(result).any()) == some


def test_slides_of_finer_pixels_give_the_same_map(folder: Path) -> None:
    image, _ = tumour_picture(512, seed=2)
    coarse = image.reshape(256, 2, 256, 2, 3).mean((1, 3)).round().astype(np.uint8)
    found = [hs.run("tumour", hs.open_slide(each, mpp=mpp), weights=folder / "heat.safetensors", precision="float32") for each, mpp in ((image, 2.0), (coarse, 4.0))]
    assert [r.labels.shape for r in found] == [(128, 128)] * 2 and [r.mpp for r in found] == [8.0] * 2
    maps = [stored(each).astype(float) for each in found]
    assert np.abs(maps[0] - maps[1]).mean() < 12 and np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.95


def test_a_level_of_nearly_the_right_pixels_is_taken_as_it_is(folder: Path) -> None:
    result = hs.run("tumour", hs.open_slide(picture(), mpp=4.4), weights=folder / "both.safetensors")
    assert result.mpp == pytest.approx(8.8) and result.labels.shape == (500, 600)


def test_what_cannot_be_read_is_left_out_and_the_rest_refined(
    slide: Slide, folder: Path, runs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, damage = slide.read_at, Box(600, 500, 20, 20)

    def failing(mpp: float, box: Box) -> NDArray[np.uint8]:
        if not box.scaled(mpp / MPP).intersect(damage).empty:
            raise TileError("Level 0, x 600, y 500: the JPEG data are damaged.")
        return read(mpp, box)

    monkeypatch.setattr(slide, "read_at", failing)
    result = hs.run("tumour", slide, weights=folder / "both.safetensors", tile_px=96, precision="float32")
    assert result.record.status == "finished" and len(result.record.failed_tiles) == 1
    assert result.record.notices[-1] == "The refiner saw glass where the slide could not be read: Level 0, x 600, y 500: the JPEG data are damaged."
    far = (slice(0, 128), slice(0, 128))
    labels, whole = np.asarray(result.labels), np.asarray(runs["auto"].labels)
    assert (labels[far] == whole[far]).mean() > 0.99 and labels.any()


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_a_refined_outline_of_a_model_without_refiner_is_refused(slide: Slide, folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        hs.run("tumour", slide, weights=folder / "heat.safetensors", outline="refined")
    assert str(caught.value) == "heat.safetensors has no network that refines. Set outline to smoothed or threshold, or train with a refiner."


@pytest.mark.parametrize("outline", ["smoothed", "threshold"])
def test_low_resolution_alone_has_no_heatmap_to_threshold(slide: Slide, folder: Path, outline: str) -> None:
    with pytest.raises(SettingsError) as caught:
        hs.run("tumour", slide, weights=folder / "low.safetensors", outline=outline)
    assert str(caught.value) == "low.safetensors has no classifier, and so no heatmap. Set outline to auto or refined."


def test_without_weights_there_is_nothing_to_run(slide: Slide) -> None:
    with pytest.raises(WeightsError, match=r"The method 'tumour' has no weights of its own: it learns from slides that you outlined\. Train it"):
        hs.run("tumour", slide)


def test_a_slide_coarser_than_the_model_is_refused(folder: Path) -> None:
    coarse = hs.open_slide(picture(), mpp=9.0)
    with pytest.raises(PixelSizeError, match="the model was made for 4 µm/px"):
        hs.run("tumour", coarse, weights=folder / "both.safetensors")
    small = hs.open_slide(picture(200, 200), mpp=9.0)
    assert hs.run("tumour", small, weights=folder / "both.safetensors", force_mpp=True).mpp == 9.0


@pytest.mark.parametrize("value", [0, 0.5, "0.75"])
def test_an_overlap_may_be_given_as_a_number(value: Any) -> None:
    assert TumourSettings.parse({"overlap": value}).overlap == f"{float(value):g}"
    with pytest.raises(SettingsError, match="overlap"):
        TumourSettings.parse({"overlap": 0.3})


# -- baselines ----------------------------------------------------------------------------------------------------------


def test_otsu_finds_the_tissue() -> None:
    image = np.full((100, 120, 3), 243, np.uint8)
    image[20:80, 30:100] = (200, 120, 180)
    expected = np.zeros((100, 120), bool)
    expected[20:80, 30:100] = True
    np.testing.assert_array_equal(otsu(image), expected)
    assert not otsu(np.full((9, 9, 3), 243, np.uint8)).any()


def test_smoothing_fills_gaps_and_removes_islands() -> None:
    outline = np.zeros((100, 100), bool)
    outline[20:80, :70] = True
    outline[40:44, 30:34] = False
    outline[10:13, 90:93] = True
    done = smoothed(outline, 10)
    assert done[42, 32] and not done[11, 91]
    # What reaches the picture's border is not opened there, and straight edges stay.
    np.testing.assert_array_equal(done[30:70, :60], True)
    assert done[20:80, 0].all() and not done[:19].any() and not done[:, 71:].any()
    np.testing.assert_array_equal(smoothed(outline, 0), outline)


# -- from the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_trains_runs_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tumour_dataset(tmp_path / "data", count=3)
    out, result = tmp_path / "w.safetensors", tmp_path / "r"
    sets = [word for key, value in {**SMALL, "folds": 1}.items() for word in ("--set", f"{key}={value}")]
    assert main(["train", "tumour", str(data), "--out", str(out), *sets]) == 0
    told = capsys.readouterr()
    assert "reading the slides: 3/3" in told.err and "mapping the slides" in told.err and "step 4/4" in told.err
    tumour_model(out)
    slide = data / "slide0.png"
    assert main(["run", "tumour", str(slide), "--mpp", "4", "--out", str(result), "--weights", str(out), "--set", "mc_samples=2"]) == 0
    opened = hs.open_result(result)
    assert opened.record.status == "finished" and opened.uncertainty is not None and opened.labels.shape == (128, 128)
    outlines = tmp_path / "o.geojson"
    assert main(["export", str(result), str(outlines)]) == 0
    features = json.loads(outlines.read_text())["features"]
    assert features and {f["properties"]["classification"]["name"] for f in features} == {"tumour"}
    # In level-0 pixels: areas of the map times the square of its pixels.
    import shapely

    area = sum(shapely.from_geojson(json.dumps(f["geometry"])).area for f in features)
    assert area == pytest.approx(4 * int(np.asarray(opened.labels).sum()))
    assert main(["run", "tumour", str(slide), "--mpp", "4", "--out", str(tmp_path / "s"), "--weights", str(slide)]) == 2
    assert "is not a weights file" in capsys.readouterr().err
