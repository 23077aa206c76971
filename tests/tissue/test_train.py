"""Learning kinds of tissue from datasets, slides and folders of slides; what is learned names the next slide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.io

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_image
from napari_histoseg.errors import DatasetError
from napari_histoseg.nn.weights import read_card
from napari_histoseg.train.loop import StepDone, Trained, Validated

FAST: dict[str, Any] = {"n_classes": 2, "n_words": 12, "sample": 4, "sample_px": 128, "window_um": 12.0}


@pytest.fixture(scope="module", autouse=True)
def ready() -> Iterator[None]:
    """The method under its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "tissue"))))
        yield


def halves(seed: int) -> np.ndarray:
    """Sparse tissue beside dense one."""
    left, right = he_image(128, 256, seed=seed, mpp=1.2, glass=0), he_image(128, 256, seed=seed + 1, mpp=0.3, glass=0)
    return np.hstack([left, (right * 0.7).astype(np.uint8)])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        skimage.io.imsave(folder / f"{i}.png", halves(10 * i), check_contrast=False)
    patches = [{"image": f"{i}.png"} for i in range(3)]
    (folder / "dataset.json").write_text(json.dumps({"version": 1, "mpp": 0.5, "classes": [], "patches": patches}))
    return folder


def test_patches_need_no_annotation_and_classes_keep_their_identity(dataset: Path, tmp_path: Path) -> None:
    weights = hs.train("tissue", dataset, out=tmp_path / "w.safetensors", **FAST)
    maps = [np.asarray(hs.run("tissue", hs.open_slide(halves(s), mpp=0.5), weights=weights, tissue_only=False).labels) for s in (0, 70)]
    sides = [[int(np.bincount(part.ravel(), minlength=3)[1:].argmax()) for part in (m[:, :110], m[:, 146:])] for m in maps]
    assert sides[0] == sides[1] and sides[0][0] != sides[0][1]


def test_the_card_says_what_was_learned_from(dataset: Path, tmp_path: Path) -> None:
    card = read_card(hs.train("tissue", dataset, out=tmp_path / "w.safetensors", **FAST), "tissue")
    assert card.mpp == 0.5 and card.data[0]["train_images"] == 3 and card.data_sha256
    assert 0.5 <= card.scores["validation"]["score"] <= 1 and card.scores["validation"]["classes"] == 2


def test_the_same_training_gives_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    first, second = (load_file(hs.train("tissue", dataset, out=tmp_path / f"{n}.safetensors", **FAST)) for n in "ab")
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_slide_and_a_folder_of_slides_are_learned_from(dataset: Path, tmp_path: Path) -> None:
    import tifffile

    folder = tmp_path / "slides"
    folder.mkdir()
    for i in range(2):
        tifffile.imwrite(folder / f"{i}.tif", halves(i), resolution=(20000, 20000), resolutionunit="CENTIMETER", photometric="rgb")
    (folder / "notes.txt").write_text("not a slide")
    one = hs.train("tissue", folder / "0.tif", out=tmp_path / "one.safetensors", **FAST)
    both = hs.train("tissue", folder, out=tmp_path / "both.safetensors", **FAST)
    assert [len(read_card(w).data) for w in (one, both)] == [1, 2]


def test_a_test_patch_is_not_learned_from(dataset: Path, tmp_path: Path) -> None:
    known = json.loads((dataset / "dataset.json").read_text())
    known["patches"][0]["split"] = "test"
    (dataset / "dataset.json").write_text(json.dumps(known))
    assert read_card(hs.train("tissue", dataset, out=tmp_path / "w.safetensors", **FAST)).data[0]["train_images"] == 2


class TestTheNetwork:
    SMALL: dict[str, Any] = {**FAST, "variant": "paper", "steps": 6, "validate_every": 2, "crop_px": 64, "width": 4, "start_classes": 4, "least_classes": 0}

    def test_shows_its_losses_and_is_a_model_at_each_best(self, dataset: Path, tmp_path: Path) -> None:
        out = tmp_path / "w.safetensors"
        seen: list[Any] = []
        for event in hs.iter_train("tissue", dataset, out=out, **self.SMALL):
            seen.append(event)
            if isinstance(event, Validated) and event.best:
                assert read_card(out, "tissue").architecture == "paper"
        assert any(isinstance(e, StepDone) and e.parts for e in seen) and isinstance(seen[-1], Trained)
        assert {p.name for p in tmp_path.glob("w.*")} == {"w.safetensors", "w.curve.csv"}
        assert np.asarray(hs.run("tissue", hs.open_slide(halves(0), mpp=0.5), weights=out, tissue_only=False).labels).any()

    def test_cancelled_and_resumed_equals_uninterrupted(self, dataset: Path, tmp_path: Path) -> None:
        from safetensors.numpy import load_file

        whole = hs.train("tissue", dataset, out=tmp_path / "whole.safetensors", **self.SMALL)
        events = hs.iter_train("tissue", dataset, out=tmp_path / "part.safetensors", **self.SMALL)
        for event in events:
            if isinstance(event, Validated):
                events.close()
                break
        resumed = hs.train("tissue", dataset, out=tmp_path / "part.safetensors", resume=True, **self.SMALL)
        first, second = load_file(whole), load_file(resumed)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


class TestWhatCannotBeLearnedFrom:
    def test_a_dataset_without_patches(self, tmp_path: Path) -> None:
        patches = [{"image": "a.png", "split": "test"}]
        skimage.io.imsave(tmp_path / "a.png", halves(0), check_contrast=False)
        (tmp_path / "dataset.json").write_text(json.dumps({"version": 1, "classes": [], "patches": patches}))
        with pytest.raises(DatasetError, match=r"has no patch to learn from\. Add slides or pictures; they need no annotation\."):
            hs.train("tissue", tmp_path, out=tmp_path / "w.safetensors")

    def test_an_unknown_pixel_size(self, dataset: Path, tmp_path: Path) -> None:
        known = json.loads((dataset / "dataset.json").read_text())
        del known["mpp"]
        (dataset / "dataset.json").write_text(json.dumps(known))
        with pytest.raises(DatasetError, match=r'The pixel size of 0.png is unknown. Give it: "mpp" in dataset.json, or "slide_mpp" of its patch.'):
            hs.train("tissue", dataset, out=tmp_path / "w.safetensors")

    def test_too_coarse_pictures(self, dataset: Path, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"0.png has 0.5 µm/px, too coarse to learn tissue at 0.1. Set mpp to 0.5 or more."):
            hs.train("tissue", dataset, out=tmp_path / "w.safetensors", mpp=0.1)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"does not exist\. Give a patch dataset, a slide, or a folder of slides."):
            hs.train("tissue", tmp_path / "gone", out=tmp_path / "w.safetensors")

    def test_a_folder_without_slides(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "notes.txt").write_text("x")
        (tmp_path / "a" / "more.txt").write_text("y")
        with pytest.raises(DatasetError, match=r"holds no slide that can be read\. Give a patch dataset, a slide, or a folder of slides."):
            hs.train("tissue", tmp_path / "a", out=tmp_path / "w.safetensors")
