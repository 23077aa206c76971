"""Training a stain style: samples streamed from pictures and slides, two optimizers, resuming, bad data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.io
import torch

from napari_histoseg._testing import he_image
from napari_histoseg.errors import DatasetError, SettingsError
from napari_histoseg.methods.stain.config import StainTraining
from napari_histoseg.methods.stain.lab import to_lab
from napari_histoseg.methods.stain.loss import NO_CLASS
from napari_histoseg.methods.stain.network import AB_UNIT
from napari_histoseg.methods.stain.style import NeuralNormalizer, style_profile
from napari_histoseg.methods.stain.train import Reference, StainTask, change_amount, degrade, task_from_dataset
from napari_histoseg.nn.weights import read_card
from napari_histoseg.slide import Slide, open_slide
from napari_histoseg.train.loop import StepDone, Trained, fit

SMALL: dict[str, Any] = {"width": 8, "steps": 4, "validate_every": 2, "batch": 2, "crop_px": 64, "threads": 1, "val_fraction": 0.25, "device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean vector of the style is taken on four crops, for speed."""
    monkeypatch.setattr("napari_histoseg.methods.stain.train.VECTOR_CROPS", 4)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four synthetic pictures, two of them with a class."""
    patches: list[dict[str, Any]] = []
    for i in range(4):
        skimage.io.imsave(tmp_path / f"{i}.png", he_image(300, 200, seed=i))
        patches.append({"image": f"{i}.png", "group": f"patient {i}", "split": "val" if i == 3 else "train"})
    patches[0]["label"], patches[1]["label"] = "tumor", "normal"
    classes = [{"value": 1, "name": "normal"}, {"value": 2, "name": "tumor"}, {"value": 3, "name": "unused"}]
    write(tmp_path, version=1, mpp=0.25, classes=classes, patches=patches)
    return tmp_path


def write(folder: Path, **content: Any) -> None:
    """``dataset.json`` with some keys replaced; None removes one."""
    path = folder / "dataset.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in {**old, **content}.items() if v is not None}))


def small(**changes: Any) -> StainTraining:
    return StainTraining.parse({**SMALL, **changes})


def test_a_picture_of_several_classes_counts_as_one_without(dataset: Path) -> None:
    patches = json.loads((dataset / "dataset.json").read_text())["patches"]
    patches[2]["label"] = ["tumor", "unused"]
    write(dataset, patches=patches)
    task = task_from_dataset(dataset, small())
    assert task.classes == ["normal", "tumor"]
    assert [r.category for r in task.train] == [1, 0, NO_CLASS]


def test_a_sample_is_lightness_color_and_class(dataset: Path) -> None:
    task = task_from_dataset(dataset, small())
    rows = [task.sample(np.random.default_rng(i)) for i in range(12)]
    assert {r["image"].shape for r in rows} == {(1, 64, 64)} and {r["image"].dtype for r in rows} == {np.dtype(np.uint8)}
    assert {r["ab"].shape for r in rows} == {(2, 64, 64)}
    assert {int(r["category"]) for r in rows} == {NO_CLASS, 0, 1}
    assert task.classes == ["normal", "tumor"]


def test_a_sample_hangs_on_its_seed_alone(dataset: Path) -> None:
    a, b = (task_from_dataset(dataset, small()).sample(np.random.default_rng(7)) for _ in range(2))
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_without_augmentation_a_sample_is_a_piece_of_the_picture(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_from_dataset(dataset, small(augmentation=0))
    read: list[np.ndarray] = []
    read_at = Slide.read_at
    monkeypatch.setattr(Slide, "read_at", lambda self, mpp, box: read.append(read_at(self, mpp, box)) or read[-1])
    row = task.sample(np.random.default_rng(0))
    lightness, ab = to_lab(read[-1])
    assert np.array_equal(np.sort(row["image"], axis=None), np.sort(np.rint(lightness * 2.55).astype(np.uint8), axis=None))
    assert np.allclose(np.sort(row["ab"][0], axis=None) * AB_UNIT, np.sort(ab[..., 0], axis=None), atol=1e-4)


def test_crops_are_drawn_at_many_magnifications(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_from_dataset(dataset, small(zoom_out=4))
    seen: list[float] = []
    read_at = Slide.read_at
    monkeypatch.setattr(Slide, "read_at", lambda self, mpp, box: seen.append(mpp) or read_at(self, mpp, box))
    for i in range(40):
        task.sample(np.random.default_rng(i))
    assert 0.2 < min(seen) < 0.3 and 0.8 < max(seen) <= 1.0


def test_boxes_of_slides_are_streamed(dataset: Path) -> None:
    from napari_histoseg._testing import write_svs

    write_svs(dataset / "s.svs", he_image(600, 500, seed=9), mpp=0.25)
    write(dataset, patches=[{"slide": "s.svs", "box": [100, 100, 200, 200], "split": "train"}, {"slide": "s.svs", "box": [300, 100, 200, 200], "split": "val"}])
    task = task_from_dataset(dataset, small())
    assert task.train[0].slide is task.val[0].slide
    assert task.sample(np.random.default_rng(0))["ab"].shape == (2, 64, 64)
    assert set(task.validate(task.network())) == {"score", "rms", "rms_coarse", "chroma"}


@pytest.mark.parametrize("optimizer", ["adadelta", "adamw"])
def test_the_loss_falls_and_the_colors_are_learned(dataset: Path, optimizer: str) -> None:
    task = task_from_dataset(dataset, small(steps=40, validate_every=40, batch=4, optimizer=optimizer, average_decay=0.8))
    untrained = task.validate(task.network().eval())
    events = list(fit(task, dataset / "w.safetensors"))
    losses = [e.loss for e in events if isinstance(e, StepDone)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert isinstance(events[-1], Trained) and events[-1].scores["rms"] < untrained["rms"]


def test_adadelta_is_the_papers_and_constant(dataset: Path) -> None:
    task = task_from_dataset(dataset, small())
    optimizer = task.optimizer(task.network())
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.Adadelta)
    assert (group["lr"], group["rho"], group["eps"], group["weight_decay"]) == (1.0, 0.9, 1e-6, 0)
    assert [task.rate(step) for step in (0, 3)] == [1.0, 1.0]
    assert task_from_dataset(dataset, small(learning_rate=0.3)).rate(2) == 0.3


def test_adamw_follows_a_cosine(dataset: Path) -> None:
    task = task_from_dataset(dataset, small(optimizer="adamw", steps=100))
    rates = [task.rate(step) for step in range(100)]
    assert max(rates) == pytest.approx(2e-3) and rates[-1] < 1e-4 and rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("optimizer", ["adadelta", "adamw"])
def test_resumed_equals_uninterrupted(dataset: Path, optimizer: str) -> None:
    settings = small(steps=5, optimizer=optimizer)
    list(fit(task_from_dataset(dataset, settings), dataset / "a.safetensors"))
    events = fit(task_from_dataset(dataset, settings), dataset / "b.safetensors")
    for event in events:
        if isinstance(event, StepDone) and event.step == 3:
            events.close()
            break
    resumed = list(fit(task_from_dataset(dataset, settings), dataset / "b.safetensors", resume=True))
    assert resumed[0].step == 3
    a, b = (NeuralNormalizer(dataset / f"{name}.safetensors", device="cpu") for name in "ab")
    states = [n._network().state_dict() for n in (a, b)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_trained_weights_are_a_style(dataset: Path) -> None:
    out = dataset / "w.safetensors"
    list(fit(task_from_dataset(dataset, small()), out))
    card = read_card(out, "stain")
    assert card.architecture == "compact" and card.width == 8 and [c["name"] for c in card.classes] == ["normal", "tumor"]
    assert card.data[0]["train_images"] == 3 and card.data[0]["held_out_images"] == ["3.png"]
    profile = style_profile(card)
    assert profile is not None and profile.tissue_pixels > 0
    style = NeuralNormalizer(out, device="cpu")
    assert style._network().mean_vector.abs().sum() > 0
    assert style.apply(he_image(100, 90, seed=1)).shape == (90, 100, 3)


def test_groups_stay_on_one_side(dataset: Path) -> None:
    patches = [{"image": f"{i}.png", "group": f"patient {i % 2}"} for i in range(4)]
    write(dataset, patches=patches)
    task = task_from_dataset(dataset, small(val_fraction=0.5))
    sides = [{int(r.name[0]) % 2 for r in part} for part in (task.train, task.val)]
    assert sorted(map(sorted, sides)) == [[0], [1]]


def test_one_label_alone_makes_no_class_loss(dataset: Path) -> None:
    write(dataset, patches=[{"image": "0.png", "label": "tumor", "split": "train"}, {"image": "1.png", "split": "val"}])
    task = task_from_dataset(dataset, small())
    assert task.classes == [] and task.network().category is None
    assert int(task.sample(np.random.default_rng(0))["category"]) == NO_CLASS


def test_a_dataset_without_pixel_size_is_refused(dataset: Path) -> None:
    write(dataset, mpp=None)
    with pytest.raises(DatasetError) as caught:
        task_from_dataset(dataset, small())
    assert str(caught.value) == 'The pixel size of 0.png is unknown. Write "mpp" (µm/px) into dataset.json.'


def test_a_dataset_with_nothing_to_train_on_is_refused(dataset: Path) -> None:
    write(dataset, patches=[{"image": "0.png", "split": "val"}])
    with pytest.raises(DatasetError) as caught:
        task_from_dataset(dataset, small())
    assert str(caught.value) == f"{dataset} has no patch to train on: all are held out. Set the split of at least one patch to 'train'."


def test_a_picture_that_cannot_be_read_is_named(dataset: Path) -> None:
    (dataset / "1.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"^The patch 1\.png cannot be read: "):
        task_from_dataset(dataset, small())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 1}, "The setting 'batch' is wrong: input should be greater than or equal to 2. Got 1 instead."),
        ({"width": 20}, "The setting 'width' is wrong: input should be a multiple of 8. Got 20 instead."),
        ({"optimizer": "sgd"}, "The setting 'optimizer' is wrong: input should be 'adadelta' or 'adamw'. Got 'sgd' instead."),
        ({"class_weight": -1}, "The setting 'class_weight' is wrong: input should be greater than or equal to 0. Got -1 instead."),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        small(**changes)
    assert str(caught.value) == message


class TestAugmentation:
    """What another laboratory or scanner would have changed."""

    image = he_image(128, 128, seed=2)

    def test_amount_keeps_hue_and_glass(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(5):
            changed = change_amount(rng, self.image, 1.0)
            hue = [np.arctan2(ab[..., 1].mean(), ab[..., 0].mean()) for ab in (to_lab(self.image)[1], to_lab(changed)[1])]
            assert abs(hue[1] - hue[0]) < 0.25
        assert (change_amount(rng, np.full((4, 4, 3), 255, np.uint8), 1.0) == 255).all()

    def test_lightness_stays_within_its_range(self) -> None:
        lightness = to_lab(self.image)[0]
        for seed in range(20):
            out = degrade(np.random.default_rng(seed), lightness, 2.0)
            assert out.shape == lightness.shape and out.dtype == np.float32 and out.min() >= 0 and out.max() <= 100

    def test_strength_zero_is_off(self) -> None:
        lightness = to_lab(self.image)[0]
        assert degrade(np.random.default_rng(0), lightness, 0.0) is lightness


def test_glass_alone_is_seldom_drawn(tmp_path: Path) -> None:
    picture = np.full((600, 600, 3), 245, np.uint8)
    picture[:300] = he_image(600, 300, seed=1)
    slide = open_slide(picture, mpp=0.25)
    task = StainTask(small(zoom_out=1, augmentation=0), [Reference(slide, slide.bounds, "half")], [])
    dark = [np.mean(task.sample(np.random.default_rng(i))["image"] < 0.9 * 255) for i in range(30)]
    assert np.mean(np.array(dark) > 0.02) > 0.9
