"""Cells keeps what every method keeps, whatever the way of grouping, and does as it says with every kind of nuclei it is given."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely.geometry
import skimage.io
import tifffile
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_tissue
from napari_histoseg.errors import DatasetError, HistosegError, SettingsError, WeightsError
from napari_histoseg.methods.cells.encoder import NUCLEI
from napari_histoseg.methods.cells.sources import LabelImage
from napari_histoseg.nn.weights import read_card, sha256_of
from napari_histoseg.predict.events import Fitting, Notice, TileDone
from napari_histoseg.results import Result, open_result
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.slide import Slide
from napari_histoseg.train.loop import StepDone, Trained

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
same = _module.same


@pytest.fixture(scope="module", autouse=True)
def listed() -> Iterator[None]:
    """The method under its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "cells"))))
        yield


# -- what every method keeps -------------------------------------------------------------------------------------------


class _Cells(_module.Conformance):
    method = "cells"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def given(cls) -> None:
        """The nuclei of the conformance slide, under ids with gaps."""
        labels = he_tissue(700, 600, seed=5, mpp=0.25, glass=0.05)[1]
        if cls.way == "features":
            # A network looks at each: half of them are enough.
            labels = np.where(labels % 2, labels, 0)
        around = {} if cls.way == "neighborhood" else {"around_um": 0}
        cls.fast = {"labels": np.where(labels, labels * 7, 0), "method": cls.way, **around}

    way = ""

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        """Nuclei are grouped as a whole, so tiles change nothing; only sums may differ in their last bit."""
        np.testing.assert_array_equal(np.asarray(a.labels), np.asarray(b.labels))
        first, second = a.objects, b.objects
        assert len(first) > 40 and first["cluster"].nunique() == 3
        inexact = [c for c in first if c.startswith("embedding") or c == "probability"]
        np.testing.assert_allclose(first[inexact], second[inexact], atol=1e-4)
        assert first.drop(columns=inexact).equals(second.drop(columns=inexact))

    def test_bfloat16_agrees_with_float32(self, slide: Slide) -> None:
        # Classes are always computed in float32.
        same(*[hs.run("cells", slide, **self.fast, precision=p) for p in ("float32", "bfloat16")])

    def test_glass_gives_nothing(self) -> None:
        # Larger than a field that somebody chose, all of which would count as tissue.
        glass = np.full((600, 600, 3), 243, np.uint8)
        labels = np.zeros((600, 600), np.int32)
        labels[50:70, 50:70], labels[200:215, 50:70], labels[300:320, 300:330] = 1, 2, 3
        result = hs.run("cells", hs.open_slide(glass, mpp=2.0), labels=labels, method=self.way, mpp=2.0, tissue_only=True)
        assert not np.asarray(result.labels).any()
        assert not len(result.objects)


class TestNeighborhood(_Cells):
    way = "neighborhood"


class TestPixels(_Cells):
    way = "pixels"


class TestMorphology(_Cells):
    way = "morphology"


class TestMixture(_Cells):
    way = "mixture"


class TestFeatures(_Cells):
    way = "features"


# -- two kinds of nuclei -----------------------------------------------------------------------------------------------

STEP, SIDE = 40, 400
"""Pixels between nuclei, and of a picture, at 0.25 µm/px."""
LARGE, SMALL = (14, (168, 140, 190)), (7, (70, 45, 110))
FAST: dict[str, Any] = {"n_classes": 2, "method": "pixels", "around_um": 0}


def two_kinds(seed: int = 0, kinds: tuple[int, ...] = (0, 1), darker: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture whose left half has large, pale nuclei (kind 0) and right half small, dark ones (1), their labels, and the kind of each label."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), (225, 190, 210), np.int16)
    labels = np.zeros((SIDE, SIDE), np.int32)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found = [-1]
    for y in range(STEP // 2, SIDE, STEP):
        for x in range(STEP // 2, SIDE, STEP):
            kind = kinds[int(x >= SIDE // 2)]
            radius, color = (LARGE, SMALL)[kind]
            at = (rows - y - rng.uniform(-2, 2)) ** 2 + (columns - x - rng.uniform(-2, 2)) ** 2 <= (radius + rng.uniform(-1, 1)) ** 2
            labels[at], image[at] = len(found), color
            found.append(kind)
    image += rng.integers(-8, 9, image.shape, dtype=np.int16) - darker
    return np.clip(image, 0, 255).astype(np.uint8), labels, np.array(found)


IMAGE, LABELS, KINDS = two_kinds()


@pytest.fixture(scope="module")
def slide() -> Slide:
    return hs.open_slide(IMAGE, mpp=0.25)


@pytest.fixture(scope="module")
def first(slide: Slide, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run on the slide with two kinds."""
    return hs.run("cells", slide, labels=LABELS, out=tmp_path_factory.mktemp("first") / "r", **FAST)


def alike(result: Result, kinds: np.ndarray = KINDS) -> float:
    """Adjusted Rand index of a result's classes and the kinds of its labels."""
    objects = result.objects
    return float(adjusted_rand_score(kinds[objects["id"]], objects["cluster"]))


def said(caught: pytest.ExceptionInfo[Any]) -> str:
    return str(caught.value)


@pytest.mark.parametrize("way", ["neighborhood", "pixels", "morphology", "mixture", "features"])
def test_two_kinds_are_found(slide: Slide, way: str) -> None:
    assert alike(hs.run("cells", slide, labels=LABELS, n_classes=2, method=way)) > 0.9


def test_objects_have_class_probability_embedding_and_measurements(first: Result) -> None:
    objects = first.objects
    assert {"id", "class", "probability", "cluster", "embedding_00", "area_um2", "hematoxylin_od_mean", "centroid_x_um"} <= set(objects)
    assert len(objects.filter(like="embedding_").columns) <= 16
    assert objects["probability"].between(0.5, 1).all()
    assert set(objects["class"]) == {"cluster 1", "cluster 2"}
    assert [(c.value, c.name) for c in first.classes] == [(1, "cluster 1"), (2, "cluster 2")]
    assert all((objects["class"] == f"cluster {k}").equals(objects["cluster"] == k) for k in (1, 2))
    assert first.record.settings["labels"]["kind"] == "labels" and first.record.settings["labels"]["count"] == 100
    rows, columns = np.nonzero(LABELS == 7)
    one = objects[objects["id"] == 7].iloc[0]
    assert (one["centroid_x_um"], one["centroid_y_um"]) == pytest.approx(((columns.mean() + 0.5) / 4, (rows.mean() + 0.5) / 4))
    assert one["area_um2"] == pytest.approx(len(rows) / 16)


# -- nuclei from anywhere ----------------------------------------------------------------------------------------------


def test_ids_stay_as_they_are_given(slide: Slide) -> None:
    numbers = np.sort(np.random.default_rng(1).choice(2**32 - 1, LABELS.max(), replace=False) + 1).astype(np.uint32)
    given = np.concatenate([np.zeros(1, np.uint32), numbers])[LABELS]
    assert given.max() > 2**31
    result = hs.run("cells", slide, labels=given, tile_px=128, **FAST)
    np.testing.assert_array_equal(result.objects["id"], numbers)
    np.testing.assert_array_equal(np.asarray(result.labels), given)


def test_a_result_and_its_folder_are_taken(slide: Slide, first: Result) -> None:
    again = hs.run("cells", slide, labels=first, **FAST)
    np.testing.assert_array_equal(np.asarray(again.labels), LABELS)
    pd.testing.assert_frame_equal(again.objects, first.objects)
    assert again.record.settings["labels"]["path"] == str(first.path)
    same(again, hs.run("cells", slide, labels=str(first.path), **FAST))


def test_geojson_is_taken(slide: Slide, tmp_path: Path) -> None:
    shapes = [shapely.geometry.Point(x, y).buffer(10 if x < 200 else 5) for x in range(20, 400, 40) for y in range(20, 400, 40)]
    features = [{"type": "Feature", "geometry": shapely.geometry.mapping(s), "properties": {}} for s in shapes]
    (tmp_path / "n.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    result = hs.run("cells", slide, labels=tmp_path / "n.geojson", **FAST)
    assert result.objects["id"].tolist() == list(range(1, 101))
    assert alike(result, np.array([-1, *[int(s.centroid.x >= 200) for s in shapes]])) == 1
    assert set(np.unique(np.asarray(result.labels))) == set(range(101))


def test_labels_of_another_pixel_size_are_taken(slide: Slide, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "l.tif", LABELS[::2, ::2].astype(np.uint16))
    for labels in (LABELS[::2, ::2], np.kron(LABELS, np.ones((2, 2), int)), tmp_path / "l.tif"):
        result = hs.run("cells", slide, labels=labels, **FAST)
        assert result.objects["id"].tolist() == list(range(1, 101))
        assert alike(result) == 1
        assert result.labels.shape == LABELS.shape
        assert (np.asarray(result.labels) == LABELS).mean() > 0.95


def test_a_slide_of_another_pixel_size_is_seen_at_the_models(slide: Slide) -> None:
    half = hs.open_slide(IMAGE.reshape(200, 2, 200, 2, 3).mean((1, 3)).astype(np.uint8), mpp=0.5)
    result = hs.run("cells", half, labels=LABELS, **FAST)
    assert result.mpp == 0.25
    np.testing.assert_array_equal(np.asarray(result.labels), LABELS)
    assert alike(result) == 1


def test_labels_may_lie_on_a_part_of_the_slide(slide: Slide) -> None:
    part = LabelImage(LABELS[100:300, 80:320], mpp=0.25, x_um=20, y_um=25)
    result = hs.run("cells", slide, labels=part, **FAST)
    labels = np.asarray(result.labels)
    np.testing.assert_array_equal(labels[100:300, 80:320], LABELS[100:300, 80:320])
    assert labels.any() and not labels[:100].any()


def test_a_region_has_the_nuclei_whose_center_lies_in_it(slide: Slide) -> None:
    result = hs.run("cells", slide, labels=LABELS, region=(80, 40, 200, 120), **FAST)
    rows, columns = np.divmod(result.objects["id"].to_numpy() - 1, 10)
    assert set(rows) == {1, 2, 3} and set(columns) == {2, 3, 4, 5, 6}
    assert len(result.objects) == 15
    with pytest.raises(SettingsError) as caught:
        hs.run("cells", slide, labels=np.where(np.arange(SIDE) < 200, LABELS, 0), region=(240, 0, 160, 400), **FAST)
    assert said(caught) == "There are no nuclei here to group. Segment nuclei first (histoseg run nuclei), or choose a region that holds some."


def test_nuclei_at_the_border_are_grouped() -> None:
    moved = [np.roll(a, (-20, -20), (0, 1))[:-41, :-41] for a in (IMAGE, LABELS)]
    image, labels = np.ascontiguousarray(moved[0]), moved[1]
    touching = np.unique(np.concatenate([labels[0], labels[:, 0]]))[1:]
    assert len(touching) == 19
    whole = hs.run("cells", hs.open_slide(image, mpp=0.25), labels=labels, **FAST)
    np.testing.assert_array_equal(np.asarray(whole.labels), labels)
    assert set(touching) <= set(whole.objects["id"])
    assert alike(whole) == 1
    same(whole, hs.run("cells", hs.open_slide(image, mpp=0.25), labels=labels, tile_px=96, **FAST))


# -- hard to group -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["neighborhood", "pixels", "morphology", "mixture"])
def test_nuclei_without_a_pixel_at_the_working_size_have_a_class(slide: Slide, way: str) -> None:
    labels = LABELS.copy()
    for number in (13, 57):
        labels[labels == number] = 0
    labels[61, 101], labels[221, 261] = 13, 57
    result = hs.run("cells", slide, labels=labels, n_classes=2, method=way, mpp=1.0)
    objects = result.objects.set_index("id")
    assert len(objects) == 100
    gone = sorted(set(range(1, 101)) - set(np.unique(np.asarray(result.labels))))
    assert gone == [13, 57]
    assert objects.loc[gone, "area_um2"].isna().all()
    assert objects.loc[gone, "centroid_x_um"].tolist() == [101.5 / 4, 261.5 / 4]
    assert objects["cluster"].isin([1, 2]).all()
    assert objects["probability"].between(0.5, 1).all()
    assert objects.filter(like="embedding_").notna().all(axis=None)
    kept = objects.drop(index=gone)
    assert adjusted_rand_score(KINDS[kept.index], kept["cluster"]) > 0.9


@pytest.mark.parametrize("way", ["neighborhood", "pixels", "morphology", "mixture", "features"])
def test_nuclei_that_are_all_alike_are_said_to_be(way: str) -> None:
    image, labels = np.full((240, 240, 3), 200, np.uint8), np.zeros((240, 240), np.int32)
    for number in range(25):
        y, x = 48 * (number // 5) + 14, 48 * (number % 5) + 14
        labels[y : y + 20, x : x + 20], image[y : y + 20, x : x + 20] = number + 1, 90
    events: list[Any] = list(hs.iter_run("cells", hs.open_slide(image, mpp=0.25), labels=labels, method=way, around_um=0))
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert notices == ["The nuclei are so alike that they fall into 1 of the 3 classes. Lower n_classes, or choose another region."]
    assert events[-1].result.objects["cluster"].nunique() == 1
    assert events[-1].result.record.notices == notices


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (
            None,
            "The method 'cells' groups nuclei that were found before. Give them as labels: a result of nuclei, a label image, or a GeoJSON file.",
        ),
        (
            np.zeros((SIDE, SIDE), int),
            "There are no nuclei here to group. Segment nuclei first (histoseg run nuclei), or choose a region that holds some.",
        ),
        (np.where(LABELS == 5, 5, 0), "There is 1 nucleus, too few for 2 classes. Lower n_classes, or choose a larger region."),
        (
            LABELS[:, :200],
            "The label image has 200 × 400 px and the array 400 × 400 px: they do not have the same proportions. A label image covers the whole "
            "slide; where it shows a part of it, say where that lies with LabelImage(array, mpp, x_um, y_um).",
        ),
        ("nowhere.tif", "nowhere.tif does not exist. Give a result folder, a label image or a GeoJSON file."),
        (
            {"kind": "labels", "path": None, "count": 100, "fingerprint": "sha256:0"},
            "The nuclei of this run were given as an array, which was not kept. Give them again as labels.",
        ),
    ],
    ids=["none", "empty", "few", "shape", "nowhere", "array of a record"],
)
def test_what_are_no_nuclei_is_said(slide: Slide, tmp_path: Path, labels: Any, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        hs.run("cells", slide, labels=labels, out=tmp_path / "r", **FAST)
    assert said(caught) == sentence
    assert not (tmp_path / "r").exists()


def test_nuclei_of_another_slide_are_refused(first: Result) -> None:
    other = hs.open_slide(two_kinds(3)[0], mpp=0.25)
    with pytest.raises(SettingsError) as caught:
        hs.run("cells", other, labels=first, **FAST)
    assert said(caught) == (
        f"{first.path} was made of the array, not of the array (their fingerprints differ). Choose the slide that it was made of."
    )


# -- stopped in the middle ---------------------------------------------------------------------------------------------


def interrupted(slide: Slide, out: Path, kind: type, labels: Any) -> Result:
    """A run that is closed at its first event of a kind."""
    events = hs.iter_run("cells", slide, labels=labels, out=out, tile_px=96, **FAST)
    for event in events:
        if isinstance(event, kind):
            events.close()
    return open_result(out)


@pytest.mark.parametrize("kind", [Fitting, TileDone])
def test_a_run_closed_while_it_looks_or_groups_goes_on_to_the_same(slide: Slide, first: Result, tmp_path: Path, kind: type) -> None:
    stopped = interrupted(slide, tmp_path / "r", kind, LABELS)
    assert stopped.record.status == "cancelled"
    resumed = hs.run("cells", slide, labels=LABELS, out=tmp_path / "r", resume=True, tile_px=96, **FAST)
    same(resumed, hs.run("cells", slide, labels=LABELS, tile_px=96, **FAST))


def test_an_array_must_be_given_again_and_be_the_same(slide: Slide, tmp_path: Path) -> None:
    stopped = interrupted(slide, tmp_path / "r", TileDone, LABELS)
    how: dict[str, Any] = {"out": tmp_path / "r", "resume": True, "tile_px": 96, **FAST}
    with pytest.raises(SettingsError) as caught:
        hs.run("cells", slide, **how)
    assert said(caught).startswith("The method 'cells' groups nuclei that were found before.")
    with pytest.raises(SettingsError) as caught:
        hs.run("cells", slide, out=tmp_path / "r", resume=True, **stopped.record.settings)
    assert said(caught) == "The nuclei of this run were given as an array, which was not kept. Give them again as labels."
    with pytest.raises(HistosegError) as refused:
        hs.run("cells", slide, labels=np.where(LABELS == 5, 0, LABELS), **how)
    one = r"\{'kind': 'labels', 'path': None, 'count': %d, 'fingerprint': 'sha256:[0-9a-f]{64}'\}"
    assert re.fullmatch(
        f"{tmp_path / 'r'} cannot be resumed, because this run differs from the one that made it: setting labels was {one % 100}, now {one % 99}. "
        "Run with the same input, or choose another folder.",
        said(refused),
    )
    assert hs.run("cells", slide, labels=LABELS, **how).finished


def test_nuclei_in_a_file_are_found_again_by_the_record(slide: Slide, tmp_path: Path) -> None:
    np.save(tmp_path / "n.npy", LABELS)
    stopped = interrupted(slide, tmp_path / "r", TileDone, tmp_path / "n.npy")
    assert hs.run("cells", slide, out=tmp_path / "r", resume=True, **stopped.record.settings).finished


# -- carried to another slide ------------------------------------------------------------------------------------------


def dataset_of(folder: Path, pictures: int = 2) -> Path:
    """A patch dataset of pictures with two kinds of nuclei."""
    patches = []
    for seed in range(pictures):
        image, labels, _ = two_kinds(seed)
        for name, array in ((f"{seed}.png", image), (f"{seed}_nuclei.png", labels.astype(np.uint16))):
            skimage.io.imsave(folder / name, array, check_contrast=False)
        patches.append({"image": f"{seed}.png", "mask": f"{seed}_nuclei.png"})
    (folder / "dataset.json").write_text(json.dumps({"version": 1, "mpp": 0.25, "patches": patches}))
    return folder


def records(result: Result) -> list[tuple[int, str, str | None]]:
    return [(c.value, c.name, c.color) for c in result.classes]


@pytest.mark.parametrize("way", ["neighborhood", "pixels", "morphology", "mixture", "features"])
def test_classes_are_learned_from_a_dataset_and_named_on_another_slide(tmp_path: Path, way: str) -> None:
    weights = hs.train("cells", dataset_of(tmp_path), out=tmp_path / "w.safetensors", n_classes=2, method=way)
    card = read_card(weights, "cells")
    assert card.architecture == way
    assert [c["value"] for c in card.classes] == [1, 2]
    assert card.scores["validation"]["nuclei"] == 200
    assert card.scores["validation"]["score"] > 0.9
    image, labels, kinds = two_kinds(7)
    # What the weights say counts, not what is asked for here.
    result = hs.run("cells", hs.open_slide(image, mpp=0.25), labels=labels, weights=weights, n_classes=5, method="pixels")
    assert alike(result, kinds) > 0.9
    assert records(result) == [(c["value"], c["name"], c["color"]) for c in card.classes]
    assert (result.record.settings["method"], result.record.settings["n_classes"]) == (way, 2)
    assert result.record.weights is not None and result.record.weights.sha256 == sha256_of(weights)


def test_classes_are_learned_from_a_result_of_nuclei(first: Result, tmp_path: Path) -> None:
    skimage.io.imsave(tmp_path / "s.png", IMAGE, check_contrast=False)
    on_disk = hs.open_slide(tmp_path / "s.png", mpp=0.25)
    nuclei = hs.run("cells", on_disk, labels=LABELS, out=tmp_path / "nuclei", **FAST)
    weights = hs.train("cells", nuclei.path, out=tmp_path / "w.safetensors", **FAST)
    again = hs.run("cells", on_disk, labels=nuclei, weights=weights)
    pd.testing.assert_series_equal(again.objects["cluster"], nuclei.objects["cluster"])
    assert records(again) == records(nuclei)
    (tmp_path / "s.png").unlink()
    with pytest.raises(DatasetError) as caught:
        hs.train("cells", nuclei.path, out=tmp_path / "w.safetensors", **FAST)
    assert said(caught) == f"The slide of {nuclei.path} is not at {tmp_path / 's.png'}. Put it back, or learn from a patch dataset."
    with pytest.raises(DatasetError) as caught:
        hs.train("cells", first.path, out=tmp_path / "w.safetensors", **FAST)
    assert said(caught) == f"The slide of {first.path} is not at any path. Put it back, or learn from a patch dataset."


def test_the_model_in_a_result_names_another_slide_the_same(first: Result) -> None:
    image, labels, kinds = two_kinds(8, kinds=(1, 0))
    other = hs.open_slide(image, mpp=0.25)
    result = hs.run("cells", other, labels=labels, weights=first.path / "model.safetensors")
    of_kind = first.objects.groupby(KINDS[first.objects["id"]])["cluster"].agg(lambda c: c.mode()[0])
    assert (of_kind[kinds[result.objects["id"]]].to_numpy() == result.objects["cluster"]).all()
    assert records(result) == records(first)


def test_names_and_colors_that_a_person_gave_go_along(slide: Slide, first: Result, tmp_path: Path) -> None:
    own = hs.run("cells", slide, labels=LABELS, out=tmp_path / "r", **FAST)
    book = ClassBook(own)
    book.rename(1, "tumor")
    book.recolor(2, "#123456")
    weights = hs.carry(own, tmp_path / "named.safetensors")
    image, labels, _ = two_kinds(8)
    result = hs.run("cells", hs.open_slide(image, mpp=0.25), labels=labels, weights=weights)
    assert [(c.value, c.name) for c in result.classes] == [(1, "tumor"), (2, "cluster 2")]
    assert result.classes[1].color == "#123456"
    assert set(result.objects["class"]) == {"tumor", "cluster 2"}


@pytest.mark.parametrize("way", ["neighborhood", "pixels"])
def test_a_class_is_no_stain_where_colors_are_relative(slide: Slide, tmp_path: Path, way: str) -> None:
    image, labels, kinds = two_kinds(4, darker=60)
    darker = hs.open_slide(image, mpp=0.25)
    found = {}
    for colors in ("relative", "absolute"):
        made = hs.run("cells", slide, labels=LABELS, n_classes=2, method=way, colors=colors, out=tmp_path / colors)
        of_kind = made.objects.groupby(KINDS[made.objects["id"]])["cluster"].agg(lambda c: c.mode()[0])
        result = hs.run("cells", darker, labels=labels, weights=tmp_path / colors / "model.safetensors")
        found[colors] = float((of_kind[kinds[result.objects["id"]]].to_numpy() == result.objects["cluster"]).mean())
    assert found["relative"] > 0.9 > found["absolute"]


def test_classes_may_be_missing_on_another_slide(slide: Slide, tmp_path: Path) -> None:
    made = hs.run("cells", slide, labels=LABELS, colors="absolute", out=tmp_path / "r", **FAST)
    image, labels, _ = two_kinds(5, kinds=(0, 0))
    result = hs.run("cells", hs.open_slide(image, mpp=0.25), labels=labels, weights=tmp_path / "r" / "model.safetensors")
    large = made.objects.set_index("id").loc[1, "cluster"]
    assert set(result.objects["cluster"]) == {large}
    assert records(result) == records(made)
    one = np.where(labels == 3, 3, 0)
    alone = hs.run("cells", hs.open_slide(image, mpp=0.25), labels=one, weights=tmp_path / "r" / "model.safetensors")
    assert alone.objects["id"].tolist() == [3] and alone.objects["cluster"].tolist() == [large]


def test_damaged_weights_and_those_of_other_methods_are_named(slide: Slide, first: Result, tmp_path: Path) -> None:
    damaged = tmp_path / "d.safetensors"
    damaged.write_bytes((first.path / "model.safetensors").read_bytes()[:-200])
    for file in (damaged, tmp_path / "none.safetensors", NUCLEI):
        with pytest.raises(WeightsError) as caught:
            hs.run("cells", slide, labels=LABELS, weights=file)
        assert str(file) in said(caught)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"patches": [{"image": "0.png", "label": "a"}], "classes": [{"value": 1, "name": "a"}]},
            "{folder} has no patch with a mask. Classes of cells are learned from nuclei: instance masks, a number for each, 0 elsewhere.",
        ),
        ({"mpp": None}, 'The pixel size of 0.png is unknown. Write "mpp" (µm/px) into dataset.json.'),
    ],
)
def test_datasets_without_nuclei_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    file = dataset_of(tmp_path, pictures=1) / "dataset.json"
    file.write_text(json.dumps({k: v for k, v in {**json.loads(file.read_text()), **changes}.items() if v is not None}))
    with pytest.raises(DatasetError) as caught:
        hs.train("cells", tmp_path, out=tmp_path / "w.safetensors", **FAST)
    assert said(caught) == sentence.format(folder=tmp_path)


def test_datasets_with_too_few_nuclei_are_refused(tmp_path: Path) -> None:
    dataset_of(tmp_path, pictures=1)
    skimage.io.imsave(tmp_path / "0_nuclei.png", np.where(LABELS == 4, 4, 0).astype(np.uint16), check_contrast=False)
    with pytest.raises(SettingsError) as caught:
        hs.train("cells", tmp_path, out=tmp_path / "w.safetensors", **FAST)
    assert said(caught) == "There is 1 nucleus, too few for 2 classes. Lower n_classes, or choose a larger region."
    skimage.io.imsave(tmp_path / "0_nuclei.png", np.zeros((SIDE, SIDE), np.uint16), check_contrast=False)
    with pytest.raises(SettingsError) as caught:
        hs.train("cells", tmp_path, out=tmp_path / "w.safetensors", **FAST)
    assert said(caught) == "There are no nuclei here to group. Segment nuclei first (histoseg run nuclei), or choose a region that holds some."


# -- the generative network --------------------------------------------------------------------------------------------

GAN: dict[str, Any] = {"method": "infogan", "n_classes": 2, "steps": 6, "validate_every": 2, "batch": 8, "width": 4, "start_steps": 2, "view_batch": 8, "threads": 1}


def test_a_run_trains_the_generative_network_and_its_model_says_the_same(slide: Slide, tmp_path: Path) -> None:
    events: list[Any] = list(hs.iter_run("cells", slide, labels=LABELS, method="infogan", n_classes=2, gan_steps=3, out=tmp_path / "r"))
    result = events[-1].result
    assert [(e.done, e.total) for e in events if isinstance(e, Fitting)][-3:] == [(1, 3), (2, 3), (3, 3)]
    assert len(result.objects) == 100 and result.objects["cluster"].isin([1, 2]).all()
    again = hs.run("cells", slide, labels=LABELS, weights=tmp_path / "r" / "model.safetensors")
    same(again, result)


def test_a_training_of_the_generative_network_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    data = dataset_of(tmp_path)
    whole = hs.train("cells", data, out=tmp_path / "whole.safetensors", **GAN)
    part = tmp_path / "part.safetensors"
    events = hs.iter_train("cells", data, out=part, **GAN)
    steps = 0
    for event in events:
        steps += isinstance(event, StepDone)
        if steps == 2 + 3:  # two pictures, and three steps of which two are in the checkpoint
            events.close()
    assert not part.exists()
    assert hs.train("cells", data, out=part, resume=True, **GAN) == part
    image, labels, _ = two_kinds(7)
    other = hs.open_slide(image, mpp=0.25)
    same(*[hs.run("cells", other, labels=labels, weights=file) for file in (whole, part)])
    assert not [p.name for p in tmp_path.iterdir() if p.suffix in (".pt", ".partial") or p.match("*.gan*.safetensors")]


def test_a_training_told_to_stop_ends_with_weights_that_work(slide: Slide, tmp_path: Path) -> None:
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) > 4

    events = list(hs.iter_train("cells", dataset_of(tmp_path), out=tmp_path / "w.safetensors", stop=stop, **GAN))
    assert isinstance(events[-1], Trained)
    assert hs.run("cells", slide, labels=LABELS, weights=tmp_path / "w.safetensors").finished


def test_a_training_without_a_network_told_to_stop_learns_from_what_it_saw(slide: Slide, tmp_path: Path) -> None:
    events = list(hs.iter_train("cells", dataset_of(tmp_path), out=tmp_path / "w.safetensors", stop=lambda: True, **FAST))
    assert isinstance(events[-1], Trained) and events[-1].scores["nuclei"] == 100
    assert alike(hs.run("cells", slide, labels=LABELS, weights=tmp_path / "w.safetensors")) == 1


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        (
            {"labels": np.where(LABELS < 51, LABELS, 0)},
            "There are 50 nuclei, too few to train a generative network: it needs 64. Choose another method, or a larger region.",
        ),
        ({"crop_px": 48}, "The generative network is for pictures of 40 px. Got crop_px 48 instead; leave it at 40."),
    ],
)
def test_what_the_generative_network_cannot_do_is_said(slide: Slide, how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HistosegError) as caught:
        hs.run("cells", slide, **{"labels": LABELS, "method": "infogan", "n_classes": 2, "gan_steps": 2, **how})
    assert said(caught) == sentence
