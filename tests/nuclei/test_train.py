"""Training nuclei on a patch dataset, from folder to weights that run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.io

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.errors import DatasetError, SettingsError, WeightsError
from napari_histoseg.nn.weights import read_card


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four synthetic pictures with instance masks."""
    patches = []
    for i in range(4):
        image, labels = he_tissue(200, 200, seed=i, mpp=0.25)
        skimage.io.imsave(tmp_path / f"{i}.png", image)
        skimage.io.imsave(tmp_path / f"{i}_mask.png", labels.astype(np.uint16), check_contrast=False)
        patches.append({"image": f"{i}.png", "mask": f"{i}_mask.png", "group": f"patient {i}"})
    (tmp_path / "dataset.json").write_text(json.dumps({"version": 1, "mpp": 0.25, "patches": patches}))
    return tmp_path


SMALL = {"width": 8, "steps": 4, "validate_every": 2, "batch": 2, "crop_px": 64, "threads": 1, "val_fraction": 0.25}


@pytest.mark.parametrize("architecture", ["compact", "unet"])
def test_trained_weights_have_a_card_and_run(dataset: Path, architecture: str) -> None:
    out = dataset / "w.safetensors"
    assert hs.train("nuclei", dataset, out=out, architecture=architecture, **SMALL) == out
    card = read_card(out, "nuclei")
    assert card.architecture == architecture and card.width == 8 and card.mpp == 0.25
    assert len(card.data[0]["held_out_images"]) == 1 and card.data[0]["train_images"] == 3
    assert set(card.scores["validation"]) >= {"aji", "pq", "dice"} and len(card.data_sha256) == 64
    result = hs.run("nuclei", hs.open_slide(dataset / "0.png", mpp=0.25), weights=out)
    assert result.record.weights is not None and result.record.weights.name == card.name


def test_the_same_seed_gives_the_same_weights(dataset: Path) -> None:
    for name in "ab":
        hs.train("nuclei", dataset, out=dataset / f"{name}.safetensors", seed=5, **SMALL)
    a, b = ({k: v for k, v in read_card(dataset / f"{n}.safetensors").model_dump().items() if k != "seconds"} for n in "ab")
    assert a == b


def test_a_dataset_without_masks_is_refused(dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    content["patches"] = [{"image": "0.png"}]
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"has no patch with a mask\. Training nuclei needs instance masks"):
        hs.train("nuclei", dataset, out=dataset / "w.safetensors")


def test_a_dataset_without_pixel_size_is_refused(dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    del content["mpp"]
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"The pixel size of .*png is unknown"):
        hs.train("nuclei", dataset, out=dataset / "w.safetensors")


@pytest.mark.parametrize(("name", "kind"), [("w.pth", SettingsError), ("no/w.safetensors", DatasetError)])
def test_a_wrong_target_is_refused_before_training(dataset: Path, name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        hs.train("nuclei", dataset, out=dataset / name)


def test_weights_that_are_none_are_refused(dataset: Path) -> None:
    slide = hs.open_slide(dataset / "0.png", mpp=0.25)
    with pytest.raises(WeightsError, match="is not a weights file"):
        hs.run("nuclei", slide, weights=dataset / "0.png")


def test_shipped_weights_are_small_and_traced_to_their_data() -> None:
    shipped = [w for w in hs.list_weights() if w["method"] == "nuclei"]
    assert {w["name"] for w in shipped} == {"compact", "unet"}
    for weights in shipped:
        assert Path(weights["path"]).stat().st_size < 20e6
        card = weights["card"]
        assert len(card["data"]) == 3 and all(d["license"] and d["source"] for d in card["data"])
        assert card["scores"]["validation"]["aji"] > 0.3 and len(card["data_sha256"]) == 64


def test_shaking_the_stain_changes_the_samples_and_nothing_else(dataset: Path) -> None:
    from napari_histoseg.methods.nuclei.config import NucleiTraining
    from napari_histoseg.methods.nuclei.train import task_from_dataset

    plain, shaken = (
        task_from_dataset(dataset, NucleiTraining(crop_px=64, augmentation=0, stain_sigma1=sigma)).sample(np.random.default_rng(3))
        for sigma in (0.0, 0.4)
    )
    np.testing.assert_array_equal(plain["nucleus"], shaken["nucleus"])
    assert plain["image"].shape == shaken["image"].shape
    assert (plain["image"] != shaken["image"]).mean() > 0.3
