"""Tissue keeps what every method keeps; and what a run says and does with odd input."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_image
from napari_histoseg.errors import PixelSizeError, WeightsError
from napari_histoseg.results.classbook import ClassBook

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

FAST: dict[str, Any] = {"n_classes": 3, "n_words": 12, "sample": 16, "sample_px": 128, "tissue_only": False}
TWO: dict[str, Any] = {"n_classes": 2, "colors": "absolute", "window_um": 15.0}


@pytest.fixture(scope="module", autouse=True)
def ready() -> Iterator[None]:
    """The method under its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "tissue"))))
        yield


class _Tissue(_module.Conformance):
    method = "tissue"
    least = 0.999

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        labels = [np.asarray(r.labels) for r in (a, b)]
        assert len(np.unique(labels[0])) >= 3
        assert (labels[0] == labels[1]).mean() >= self.least
        places = [r.patches[["centroid_x_um", "centroid_y_um"]].sort_values(["centroid_x_um", "centroid_y_um"]).to_numpy() for r in (a, b)]
        assert len(places[0]) > 5
        if self.least > 0.99:
            np.testing.assert_array_equal(*places)


class TestTextures(_Tissue):
    fast = {**FAST, "patch_um": 16.0}


class TestColors(_Tissue):
    fast = {**FAST, "patch_um": 16.0, "variant": "kmeans"}


class TestRefined(_Tissue):
    fast = {**FAST, "patch_um": 16.0, "crf": True, "crf_color_um": 4.0}
    least = 0.99


def halves(side: int = 512) -> np.ndarray:
    """Sparse, pale tissue beside dense, dark one."""
    left, right = he_image(side // 2, side, seed=1, mpp=1.2, glass=0), he_image(side // 2, side, seed=2, mpp=0.3, glass=0)
    return np.hstack([left, (right * 0.45).astype(np.uint8)])


def run(image: np.ndarray, **settings: Any) -> Any:
    return hs.run("tissue", hs.open_slide(image, mpp=0.5), **{**FAST, **settings})


@pytest.fixture(scope="module")
def two() -> Any:
    return run(halves(), **TWO)


class TestARun:
    def test_tells_two_kinds_apart(self, two: Any) -> None:
        labels = np.asarray(two.labels)
        left, right = (np.bincount(part.ravel(), minlength=3)[1:] for part in (labels[:, :240], labels[:, 272:]))
        assert left.max() / left.sum() > 0.9 and right.max() / right.sum() > 0.9
        assert left.argmax() != right.argmax()

    def test_shows_classes_and_keeps_finer_ones(self, two: Any) -> None:
        assert set(np.unique(np.asarray(two.labels))) <= {0, 1, 2}
        assert {c.value for c in two.classes} == {1, 2}
        assert set(two.record.merged.values()) <= {1, 2} and two.record.merged

    def test_patches_say_what_the_map_shows_at_their_place(self, two: Any) -> None:
        labels, patches = np.asarray(two.labels), two.patches
        values = {c.name: c.value for c in two.classes}
        at = [(int(r.centroid_y_um / 0.5), int(r.centroid_x_um / 0.5)) for r in patches.itertuples()]
        assert [labels[place] for place in at] == [values[name] for name in patches["class"]]

    def test_a_split_follows_the_finer_classes_and_is_carried(self, two: Any, tmp_path: Path) -> None:
        result = run(halves(), **TWO, out=tmp_path / "r")
        book = ClassBook(result)
        book.rename(1, "loose stroma")
        fine = book.stored_values(2)
        assert len(fine) == 3
        made = book.split_values(2, [[2], fine[1:]])
        shown = np.asarray(result.labels)
        assert set(np.unique(shown)) - {0} == {1, *made}
        weights = hs.carry(result, tmp_path / "kinds.safetensors")
        again = hs.run("tissue", hs.open_slide(halves(), mpp=0.5), weights=weights, tissue_only=False)
        np.testing.assert_array_equal(np.asarray(again.labels), shown)
        assert [c.name for c in again.classes] == [c.name for c in result.classes]


    def test_a_region_is_mapped_as_it_is_in_the_whole(self, two: Any, tmp_path: Path) -> None:
        weights = hs.carry(two, tmp_path / "kinds.safetensors")
        slide = hs.open_slide(halves(), mpp=0.5)
        whole = np.asarray(hs.run("tissue", slide, weights=weights, tissue_only=False).labels)
        part = np.asarray(hs.run("tissue", slide, weights=weights, tissue_only=False, region=(150, 100, 200, 180)).labels)
        assert (part == whole[100:280, 150:350]).mean() > 0.999


class TestOddInput:
    def test_one_flat_image_has_one_class_and_says_so(self) -> None:
        result = run(np.full((300, 300, 3), (200, 120, 170), np.uint8), n_classes=4)
        assert np.unique(np.asarray(result.labels)).tolist() == [1]
        assert "The tissue is so alike that 1 kind could be told apart, not 4. Choose a larger region to find more." in result.record.notices

    @pytest.mark.parametrize("variant", ["improved", "kmeans", "mean_shift", "normalized_cut", "fuzzy_cmeans"])
    def test_only_glass_is_background(self, variant: str) -> None:
        glass = np.full((256, 256, 3), 243, np.uint8)
        assert not np.asarray(run(glass, variant=variant).labels).any()

    def test_one_tile_is_enough(self) -> None:
        assert set(np.unique(np.asarray(run(halves(128), n_classes=2).labels))) == {1, 2}

    def test_more_classes_than_exist_are_not_made_up(self) -> None:
        image = np.full((256, 256, 3), (200, 120, 170), np.uint8)
        image[:, 128:] = (90, 60, 150)
        result = run(image, n_classes=12, variant="kmeans", smooth_um=0.0)
        assert len(np.unique(np.asarray(result.labels))) == 2
        assert any("2 kinds could be told apart, not 12" in notice for notice in result.record.notices)

    @pytest.mark.parametrize("variant", ["normalized_cut", "fuzzy_cmeans"])
    def test_a_single_superpixel_is_one_class(self, variant: str) -> None:
        image = np.full((16, 16, 3), (200, 120, 170), np.uint8)
        assert np.unique(np.asarray(run(image, variant=variant, superpixel_um=16.0).labels)).tolist() == [1]

    def test_a_model_at_another_pixel_size_is_refused(self, two: Any, tmp_path: Path) -> None:
        weights = hs.carry(two, tmp_path / "kinds.safetensors")
        words = r"The classes of kinds.safetensors were learned at 0.5 µm/px and mean nothing at 2. Leave mpp out, or learn classes at this pixel size."
        with pytest.raises(PixelSizeError, match=words):
            hs.run("tissue", hs.open_slide(halves(), mpp=0.5), weights=weights, mpp=2.0)

    def test_a_slide_coarser_than_the_model_is_refused(self, two: Any, tmp_path: Path) -> None:
        weights = hs.carry(two, tmp_path / "kinds.safetensors")
        with pytest.raises(PixelSizeError, match=r"has 4 µm/px, the model was made for 0\.5 µm/px"):
            hs.run("tissue", hs.open_slide(halves(), mpp=4.0), weights=weights)

    def test_a_coarse_slide_is_seen_at_its_own_pixel_size(self) -> None:
        result = hs.run("tissue", hs.open_slide(halves(), mpp=2.0), **FAST)
        assert result.mpp == 2.0 and np.asarray(result.labels).shape == (512, 512)

    def test_a_slide_unlike_the_training_is_flagged(self, two: Any, tmp_path: Path) -> None:
        weights = hs.carry(two, tmp_path / "kinds.safetensors")
        strange = np.random.default_rng(0).integers(0, 255, (300, 300, 3)).astype(np.uint8)
        notices = [hs.run("tissue", hs.open_slide(i, mpp=0.5), weights=weights, tissue_only=False).record.notices for i in (strange, halves())]
        assert any(n.startswith("This slide looks unlike those that the classes were learned from: ") for n in notices[0])
        assert not notices[1]

    def test_other_weights_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "w.safetensors").write_bytes(b"no")
        with pytest.raises(WeightsError, match="is not a weights file"):
            run(halves(128), weights=tmp_path / "w.safetensors")
