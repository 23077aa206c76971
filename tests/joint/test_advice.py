"""Advice which class to annotate: what the estimate keeps, and where its numbers come from."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.io
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.annotations.dataset import PatchDataset
from napari_histoseg.errors import DatasetError, WeightsError
from napari_histoseg.methods.joint.advice import (
    Point,
    advise,
    advise_on,
    counts_of,
    fitted_exponent,
    history_of,
)
from napari_histoseg.methods.joint.network import build
from napari_histoseg.nn.weights import ModelCard, save_weights

SHARE = st.floats(0, 1)
PATCHES = st.integers(0, 10_000)
NAMES = st.sampled_from(["stroma", "gland", "fat", "mucus"])
POINTS = st.lists(st.builds(Point, NAMES, PATCHES, SHARE), max_size=12)


# -- the estimate -------------------------------------------------------------------------------------------------------


@given(st.dictionaries(NAMES, PATCHES, min_size=1), st.dictionaries(NAMES, st.one_of(SHARE, st.just(math.nan))), POINTS)
def test_every_class_is_ranked_by_a_gain_that_can_be(counts: dict[str, int], f1: dict[str, float], history: list[Point]) -> None:
    found = advise(counts, f1, history)
    assert sorted(a.name for a in found) == sorted(counts)
    gains = [a.gain for a in found]
    assert gains == sorted(gains, reverse=True)
    for a in found:
        missing = 1 - (a.f1 if a.f1 is not None else 0)
        assert math.isfinite(a.gain) and 0 <= a.gain <= missing / len(counts) + 1e-12
        assert 0 <= a.exponent <= 2


@given(st.integers(0, 1000), SHARE, st.floats(0, 0.5))
def test_a_class_with_fewer_patches_or_a_lower_f1_gains_no_less(patches: int, f1: float, less: float) -> None:
    def gain(patches: int, f1: float) -> float:
        return next(a.gain for a in advise({"this": patches, "other": 5}, {"this": f1, "other": 0.5}) if a.name == "this")

    assert gain(patches, f1) >= gain(patches + 1, f1)
    assert gain(patches, max(f1 - less, 0)) >= gain(patches, f1)


@given(st.floats(0.05, 1.5), st.floats(0.2, 0.9), st.lists(st.integers(1, 500), min_size=3, max_size=8, unique=True))
def test_a_power_law_is_found_again(exponent: float, first: float, patches: list[int]) -> None:
    points = [Point("gland", n, 1 - first * n**-exponent) for n in patches if first * n**-exponent > 2e-3]
    found = fitted_exponent(points)
    if len(points) < 3:
        assert found is None
    else:
        assert found == pytest.approx(exponent, abs=1e-6)


def test_errors_that_rise_with_patches_never_make_a_patch_harmful() -> None:
    worse = [Point("gland", n, 0.9 - 0.1 * n) for n in (1, 2, 3)]
    assert fitted_exponent(worse) == 0
    assert advise({"gland": 4}, {"gland": 0.4}, worse)[0].gain == 0


def test_an_own_exponent_needs_three_different_numbers_of_patches() -> None:
    twice = [Point("gland", 2, 0.4), Point("gland", 2, 0.5), Point("gland", 4, 0.6)]
    assert fitted_exponent(twice) is None
    (advice,) = advise({"gland": 4}, {"gland": 0.6}, [*twice, Point("fat", 9, 0.8)])
    assert (advice.exponent, advice.fitted) == (0.5, False)
    (advice,) = advise({"gland": 8}, {"gland": 0.7}, twice)
    assert advice.fitted and 0 < advice.exponent < 1, "today's numbers are a point too"


def test_the_gain_is_that_of_the_formula() -> None:
    (gland, stroma) = advise({"stroma": 16, "gland": 3}, {"stroma": 0.9, "gland": 0.4, "background": 0.8})
    assert gland.gain == pytest.approx(0.6 * (1 - (3 / 4) ** 0.5) / 3)
    assert stroma.gain == pytest.approx(0.1 * (1 - (16 / 17) ** 0.5) / 3)


@pytest.mark.parametrize(
    ("counts", "f1", "sentence"),
    [
        (
            {"malignant gland": 3, "fat": 9},
            {"malignant gland": 0.42, "fat": 0.9},
            "A patch of 'malignant gland' would help most: it has 3 patches and F1 0.42; expected +0.04 macro F1 (estimate).",
        ),
        ({"fat": 1}, {"fat": 1.0}, "A patch of 'fat' would help most: it has 1 patch and F1 1.00; expected less than +0.01 macro F1 (estimate)."),
        (
            {"fat": 0, "gland": 50},
            {"gland": 0.9},
            "A patch of 'fat' would help most: it has no patch, and its F1 was not measured; expected +0.02 macro F1 (estimate).",
        ),
    ],
)
def test_a_person_is_told_in_a_sentence(counts: dict[str, int], f1: dict[str, float], sentence: str) -> None:
    found = advise(counts, f1)
    assert found[0].sentence == sentence
    assert all("would help less" in a.sentence for a in found[1:])


def test_without_classes_there_is_no_advice() -> None:
    assert advise({}, {}) == []


def test_advice_needs_no_torch() -> None:
    check = "import napari_histoseg.methods.joint.advice, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


# -- the numbers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> PatchDataset:
    """Three masks and three labels of two classes, and a class that nothing shows."""

    def mask(name: str, *values: int) -> str:
        skimage.io.imsave(tmp_path / name, np.repeat(np.array(values, np.uint8), 8).reshape(-1, 8), check_contrast=False)
        return name

    patches: list[dict[str, Any]] = [
        {"id": "p1", "image": "a.png", "mask": mask("1.png", 0, 1)},
        {"id": "p2", "image": "b.png", "mask": mask("2.png", 1, 2, 255)},
        {"id": "p3", "image": "c.png", "mask": mask("3.png", 0, 1), "split": "test"},
        {"id": "p4", "image": "d.png", "label": "gland"},
        {"slide": "s.svs", "box": [4, 5, 60, 70], "label": "fat", "split": "val"},
        {"id": "p6", "image": "e.png"},
    ]
    classes = [{"value": 1, "name": "gland"}, {"value": 2, "name": "fat"}, {"value": 9, "name": "mucus"}]
    return PatchDataset.model_validate({"mpp": 1.0, "classes": classes, "patches": patches, "folder": tmp_path})


def test_patches_count_for_every_class_that_they_show(dataset: PatchDataset) -> None:
    assert counts_of(dataset) == {"background": 1, "gland": 3, "fat": 2, "mucus": 0}
    assert counts_of(dataset, {"p2", "s.svs 4,5,60,70"}) == {"background": 0, "gland": 1, "fat": 2, "mucus": 0}


def test_a_background_with_a_name_is_counted_under_it(dataset: PatchDataset) -> None:
    named = PatchDataset.model_validate(
        {**dataset.model_dump(), "folder": dataset.folder, "classes": [{"value": 0, "name": "rest"}, *dataset.model_dump()["classes"]]}
    )
    assert counts_of(named) == {"rest": 1, "gland": 3, "fat": 2, "mucus": 0}


def test_a_mask_that_cannot_be_read_is_named(dataset: PatchDataset) -> None:
    dataset.path("2.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"2\.png cannot be read"):
        counts_of(dataset)


def weights(path: Path, trained: list[str], held: list[str], method: str = "joint", **scores: float) -> Path:
    """Weights with a card of that training."""
    data = [{"train_patches": trained, "held_out_patches": held}]
    card = ModelCard(method=method, name=path.stem, architecture="improved", width=8, mpp=1.0, data=data, scores={"validation": scores})
    save_weights(path, build("improved", 8, 2), card)
    return path


def test_history_is_what_cards_tell(dataset: PatchDataset, tmp_path: Path) -> None:
    first = weights(tmp_path / "1.safetensors", ["p1"], ["p4"], f1_gland=0.4, macro_f1=0.5)
    later = weights(tmp_path / "2.safetensors", ["p1", "p2", "gone"], ["p4", "s.svs 4,5,60,70"], f1_gland=0.6, f1_fat=0.3, f1_lost=0.2)
    expected = [Point("fat", 2, 0.3), Point("gland", 2, 0.4), Point("gland", 3, 0.6)]
    assert history_of([later, first, later], dataset) == expected


def test_files_that_tell_nothing_are_passed_over(dataset: PatchDataset, tmp_path: Path) -> None:
    (tmp_path / "foreign.safetensors").write_bytes(b"not weights")
    files = [
        tmp_path / "missing.safetensors",
        tmp_path / "foreign.safetensors",
        weights(tmp_path / "other.safetensors", ["p1"], ["p4"], method="stain", f1_gland=0.4),
        weights(tmp_path / "nothing-held-out.safetensors", ["p1"], [], f1_gland=0.4),
        weights(tmp_path / "without-classes.safetensors", ["p1"], ["p4"], macro_f1=0.5),
    ]
    assert history_of(files, dataset) == []


def test_weights_are_advised_on_with_the_history_of_a_dataset(dataset: PatchDataset, tmp_path: Path) -> None:
    earlier = [
        weights(tmp_path / "1.safetensors", ["p1"], ["nothing today"], f1_gland=0.2),
        weights(tmp_path / "2.safetensors", ["p1"], ["p2"], f1_gland=0.5),
    ]
    last = weights(tmp_path / "3.safetensors", ["p1", "p2"], ["p4"], f1_gland=0.65, f1_fat=0.9)
    found = {a.name: a for a in advise_on(dataset, last, [*earlier, last])}
    assert set(found) == {"background", "gland", "fat", "mucus"}
    assert found["gland"].fitted and found["gland"].f1 == 0.65 and found["gland"].patches == 3
    assert not found["fat"].fitted and found["mucus"].f1 is None
    assert found == {a.name: a for a in advise(counts_of(dataset), {"gland": 0.65, "fat": 0.9}, history_of([*earlier, last], dataset))}


def test_scores_of_training_patches_are_called_that(dataset: PatchDataset, tmp_path: Path) -> None:
    found = advise_on(dataset, weights(tmp_path / "w.safetensors", ["p1"], [], f1_gland=0.4))
    assert any("F1 0.40 on the training patches" in a.sentence for a in found)


def test_without_f1_of_single_classes_there_is_no_advice(dataset: PatchDataset, tmp_path: Path) -> None:
    assert advise_on(dataset, weights(tmp_path / "w.safetensors", ["p1"], ["p2"], macro_f1=0.4)) == []
    with pytest.raises(WeightsError):
        advise_on(dataset, tmp_path / "missing.safetensors")
