"""Joint training on a patch dataset: what is read, what is held out, what is refused, and what comes of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.io
import torch
from PIL import Image

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_image
from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.errors import DatasetError, SettingsError, WeightsError
from napari_histoseg.methods.joint.advice import advise_on
from napari_histoseg.methods.joint.config import JointTraining
from napari_histoseg.methods.joint.data import Picture
from napari_histoseg.methods.joint.task import evaluate
from napari_histoseg.methods.joint.train import compare, task_from_dataset
from napari_histoseg.nn.weights import read_card
from napari_histoseg.train.loop import StepDone, Validated

SMALL = {"width": 8, "steps": 4, "validate_every": 2, "batch": 4, "crop_px": 64, "threads": 1, "precision": "float32", "mpp": 1.0}
CLASSES = [{"value": 1, "name": "stripe", "color": "#ff0000"}, {"value": 2, "name": "dot", "color": "#00ff00"}]


@pytest.fixture(scope="module", autouse=True)
def listed() -> Iterator[None]:
    """The method under its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "joint"))))
        yield


def masked(kind: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a dark stripe (class 1) or dot (class 2)."""
    image = he_image(96, 80, seed=kind, mpp=1.0)
    mask = np.zeros((80, 96), np.uint8)
    where = (slice(20, 60), slice(10, 80)) if kind == 1 else (slice(30, 55), slice(40, 65))
    mask[where] = kind
    image[where] //= 3
    return image, mask


def save(path: Path, array: np.ndarray) -> str:
    skimage.io.imsave(path, array, check_contrast=False)
    return path.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures with masks and four with a class, of five patients."""
    patches: list[dict[str, Any]] = []
    for i in range(6):
        image, mask = masked(1 + i % 2)
        names = {"image": save(tmp_path / f"{i}.png", image), "mask": save(tmp_path / f"{i}_mask.png", mask)}
        patches.append({**names, "group": f"patient {i // 2}"})
    for i in range(4):
        image, _ = masked(1 + i % 2)
        patches.append({"image": save(tmp_path / f"c{i}.png", image), "label": CLASSES[i % 2]["name"], "group": f"patient {2 + i}"})
    write(tmp_path, patches)
    return tmp_path


def write(folder: Path, patches: list[dict[str, Any]], classes: list[dict[str, Any]] = CLASSES, mpp: float | None = 1.0) -> None:
    content = {"version": 1, "classes": classes, "patches": patches, **({} if mpp is None else {"mpp": mpp})}
    (folder / "dataset.json").write_text(json.dumps(content))


def read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return content


def settings(**changes: Any) -> JointTraining:
    return JointTraining.parse({**SMALL, **changes})


@pytest.mark.parametrize("variant", ["improved", "paper"])
def test_trained_weights_have_a_card_and_run(folder: Path, variant: str) -> None:
    out = folder / "w.safetensors"
    events = list(hs.iter_train("joint", folder, out=out, variant=variant, **SMALL))
    parts = [set(e.parts) for e in events if isinstance(e, StepDone)]
    assert parts == [{"segmentation", "classification"}] * 4
    assert [e.weights for e in events if isinstance(e, Validated)] == [out, out]
    assert {"loss_segmentation", "loss_classification", "macro_f1"} <= set(next(csv.reader((folder / "w.curve.csv").open())))
    card = read_card(out, "joint")
    assert card.architecture == variant and card.width == 8 and card.mpp == 1.0
    assert card.classes == [{"value": 0, "name": "background"}, *CLASSES]
    about = card.data[0]
    assert about["encoder"] == "scratch" and about["segmentation_patches"] == 6 and about["classification_patches"] == 4
    assert set(card.scores["validation"]) >= {"macro_f1", "accuracy", "foreground_dice"} and len(card.data_sha256) == 64
    result = hs.run("joint", hs.open_slide(folder / "0.png", mpp=1.0), weights=out)
    assert set(np.unique(np.asarray(result.labels))) <= {0, 1, 2}
    assert [c.name for c in result.record.classes] == ["stripe", "dot"]


@pytest.mark.parametrize(("variant", "rate"), [("improved", 0.01), ("paper", 0.003)])
def test_it_learns_both_kinds(folder: Path, variant: str, rate: float) -> None:
    out = folder / "w.safetensors"
    longer = {"learning_rate": rate, "average_decay": 0.8, "augmentation": 0, "steps": 60, "validate_every": 30, "width": 16, "batch": 8, "crop_px": 96}
    hs.train("joint", folder, out=out, variant=variant, **{**SMALL, **longer})
    scores = read_card(out, "joint").scores["validation"]
    assert scores["macro_f1"] > 0.6 and scores["foreground_dice"] > 0.6


def test_the_same_seed_gives_the_same_weights(folder: Path) -> None:
    for name in "ab":
        hs.train("joint", folder, out=folder / f"{name}.safetensors", seed=3, **SMALL)
    a, b = ({k: v for k, v in read_card(folder / f"{n}.safetensors").model_dump().items() if k != "seconds"} for n in "ab")
    assert a == b


@pytest.mark.parametrize(("batch", "mix", "outlined"), [(10, 0.5, 5), (10, 0.25, 2), (10, 0.01, 1), (10, 1.0, 8), (4, 0.5, 2)])
def test_the_mix_of_a_batch_is_exact(folder: Path, batch: int, mix: float, outlined: int) -> None:
    task = task_from_dataset(folder, settings(batch=batch, mix=mix))
    labels = [int(task.sample_at(np.random.default_rng(i), i)["label"][0]) for i in range(batch)]
    assert [label < 0 for label in labels] == [True] * outlined + [False] * (batch - outlined)


def test_without_classification_patches_all_are_segmentation_patches(folder: Path) -> None:
    write(folder, [p for p in read(folder)["patches"] if "mask" in p])
    task = task_from_dataset(folder, settings())
    assert all(task.sample_at(np.random.default_rng(i), i)["label"].tolist() == [-1] for i in range(4))
    network = task.network()
    batch = {"label": torch.full((4,), -1), "mask": torch.zeros((4, 64, 64), dtype=torch.uint8)}
    assert set(task.losses(network, torch.rand(4, 3, 64, 64), batch)) == {"segmentation"}


def several(folder: Path) -> None:
    """The first patch with a class has both."""
    patches = read(folder)["patches"]
    next(p for p in patches if "label" in p)["label"] = ["stripe", "dot"]
    write(folder, patches)


def test_a_patch_with_several_classes_is_learned_as_all_of_them(folder: Path) -> None:
    several(folder)
    task = task_from_dataset(folder, settings(batch=8, val_fraction=0))
    rng = np.random.default_rng(0)
    labels = [task.sample_at(rng, i)["label"].tolist() for i in range(8) for _ in range(8)]
    assert labels[:8] == [[-1, -1]] * 8 and {tuple(v) for v in labels} == {(-1, -1), (1, 2), (1, -1), (2, -1)}
    # Of the patches with a class, 2 show the stripe and 3 the dot.
    assert task.patch_weights[1] > task.patch_weights[2]
    hs.train("joint", folder, out=folder / "w.safetensors", **SMALL)
    found = {a.name: a.patches for a in advise_on(read_dataset(folder), folder / "w.safetensors")}
    assert found["stripe"] == 5 and found["dot"] == 6


@pytest.mark.parametrize(("answer", "right"), [(0, 0.0), (1, 1.0), (2, 0.5)])
def test_one_of_the_classes_of_a_patch_is_a_right_answer(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: int, right: float) -> None:
    image, mask = masked(1)
    monkeypatch.setattr("napari_histoseg.methods.joint.task.patch_class", lambda *_: answer)
    task = task_from_dataset(folder, settings())
    classified = [Picture(image, None, 1, "several", (2,)), Picture(image, None, 1, "one")]
    assert evaluate(task.network().eval(), [Picture(image, mask)], classified, 0)["classification"] == right


def test_the_papers_network_learns_no_patch_of_several_classes(folder: Path) -> None:
    several(folder)
    task = task_from_dataset(folder, settings(variant="paper", batch=8))
    assert all(task.sample_at(np.random.default_rng(i), 7)["label"].tolist() in ([1], [2]) for i in range(8))
    (about,) = task.provenance["data"]
    assert about["classification_patches"] == 3
    assert about["notices"] == ["Left out, because the paper's network learns patches of one class: 1 with several."]
    patches = [p for p in read(folder)["patches"] if "mask" in p or isinstance(p["label"], list)]
    write(folder, patches, [*CLASSES, {"value": 3, "name": "ring"}])
    patches[-1]["label"] = ["dot", "ring"]
    write(folder, patches, [*CLASSES, {"value": 3, "name": "ring"}])
    assert task_from_dataset(folder, settings()).classes[-1]["name"] == "ring"
    with pytest.raises(DatasetError, match=r"The class 'ring' \(value 3\) has no patch"):
        task_from_dataset(folder, settings(variant="paper"))


def test_the_classifier_s_batch_norm_sees_classification_patches_only(folder: Path) -> None:
    task = task_from_dataset(folder, settings(variant="paper", batch=6))
    network = task.network()
    image = torch.rand(6, 3, 64, 64)
    batch = {"label": torch.tensor([-1, -1, -1, 0, 1, 2]), "mask": torch.zeros((6, 64, 64), dtype=torch.uint8)}
    norm = network.classifier[2]
    seen: list[int] = []
    norm.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    task.losses(network, image, batch)
    assert seen == [3]


def test_groups_stay_together_and_every_class_stays_in_training(folder: Path) -> None:
    held: set[str] = set()
    for seed in range(8):
        task = task_from_dataset(folder, settings(seed=seed, val_fraction=0.4))
        about = task.provenance["data"][0]
        groups = {p.get("group"): set() for p in read(folder)["patches"]}
        for kind in ("train_patches", "held_out_patches"):
            for name in about[kind]:
                groups[next(p["group"] for p in read(folder)["patches"] if p["image"] == name)].add(kind)
        assert all(len(kinds) == 1 for kinds in groups.values())
        assert task.val_outlined and not about["notices"]
        held |= set(about["held_out_patches"])
    assert {"c0.png"} < held, "classification patches of a held-out patient are held out too"


def test_one_patch_trains_and_the_card_says_what_its_scores_are(folder: Path) -> None:
    content = read(folder)["patches"]
    write(folder, [content[0], content[7]])
    task = task_from_dataset(folder, settings())
    assert len(task.val_outlined) == 1
    assert task.provenance["data"][0]["notices"] == [
        "Nothing was held out: scores are of the training patches. Annotate patches of a second slide or patient."
    ]


def test_nothing_is_held_out_that_alone_shows_a_class(folder: Path) -> None:
    content = read(folder)["patches"]
    write(folder, [content[0], content[3]])
    task = task_from_dataset(folder, settings(val_fraction=0.5))
    assert len(task.provenance["data"][0]["train_patches"]) == 2


def test_masks_at_another_scale_are_resampled(folder: Path) -> None:
    content = read(folder)["patches"]
    large = np.asarray(skimage.io.imread(folder / "0_mask.png"))
    save(folder / "0_mask.png", large[::2, ::2])
    write(folder, content)
    same = task_from_dataset(folder, settings())._outlined.pictures
    coarse = task_from_dataset(folder, settings(mpp=2.0))._outlined.pictures
    first = next(p for p in same if p.name == "0.png")
    assert first.mask is not None and first.mask.shape == first.image.shape[:2] == (80, 96)
    assert np.mean(first.mask == large) > 0.97
    assert next(p for p in coarse if p.name == "0.png").image.shape == (40, 48, 3)


def test_slide_patches_are_read_in_their_place(folder: Path) -> None:
    image = he_image(600, 500, seed=3, mpp=0.5)
    save(folder / "slide.tif", image)
    box = [101, 57, 200, 180]
    mask = np.full((90, 100), 255, np.uint8)
    mask[:45] = 1
    mask[45:80] = 2
    save(folder / "slide_mask.png", mask)
    patch = {"slide": "slide.tif", "box": box, "mask": "slide_mask.png", "slide_mpp": 0.5, "group": "patient 9", "split": "train"}
    write(folder, [*read(folder)["patches"], patch, {**patch, "box": [150, 80, 200, 180]}])
    task = task_from_dataset(folder, settings())
    found = [p for p in task._outlined.pictures if p.name.startswith("slide")]
    with hs.open_slide(folder / "slide.tif", mpp=0.5) as slide:
        np.testing.assert_array_equal(found[0].image, slide.read_at(1.0, hs.Box(50, 28, 100, 90)))
    assert found[0].mask is not None
    np.testing.assert_array_equal(np.unique(found[0].mask), [1, 2, 255])
    assert np.mean(found[0].mask == mask) > 0.98
    assert task.provenance["data"][0]["notices"] == ["1 segmentation patches overlap others: what they share is learned from each of them."]


def broken(folder: Path, kind: str) -> str:
    """Break the dataset in one way; what is said about it."""
    content = read(folder)
    patches = content["patches"]
    if kind == "a class without a patch":
        write(folder, patches, [*CLASSES, {"value": 7, "name": "fat"}])
        return "The class 'fat' (value 7) has no patch: nothing can be learned of it. Annotate a patch of it, or remove the class."
    if kind == "only classification patches":
        write(folder, [p for p in patches if "label" in p])
        return f"{folder} has no patch with a mask. Joint training learns outlines from at least one: paint a segmentation patch."
    if kind == "unknown values":
        save(folder / "0_mask.png", np.full((80, 96), 9, np.uint8))
        save(folder / "1_mask.png", np.full((80, 96), 40, np.uint8))
        known = "The classes are: 1 stripe, 2 dot; 0 is background, 255 not annotated."
        return f"The mask 0_mask.png holds values that are no class: 9. {known} The mask 1_mask.png holds values that are no class: 40. {known}"
    if kind == "wrong size":
        save(folder / "0_mask.png", np.ones((80, 50), np.uint8))
        return "The mask 0_mask.png has 50 × 80 pixels and its patch of 0.png 96 × 80: their shapes differ. A mask covers exactly its patch."
    if kind == "nothing annotated":
        for i in range(6):
            save(folder / f"{i}_mask.png", np.full((80, 96), 255, np.uint8))
        return "No mask has anything annotated. Paint at least one segmentation patch."
    if kind == "one class without background":
        save(folder / "0_mask.png", np.ones((80, 96), np.uint8))
        write(folder, patches[:1], CLASSES[:1])
        return "There is only one class ('stripe') and no background: every pixel would be it. Paint background (value 0), or a second class."
    write(folder, patches[:1], mpp=None)
    return 'The pixel size of 0.png is unknown. Write "mpp" (µm/px) into dataset.json.'


BREAKS = (
    "a class without a patch", "only classification patches", "unknown values", "wrong size", "nothing annotated", "one class without background", "no pixel size",
)  # fmt: skip


@pytest.mark.parametrize("kind", BREAKS)
def test_bad_datasets_are_refused_in_one_sentence_a_problem(folder: Path, kind: str) -> None:
    said = broken(folder, kind)
    with pytest.raises(DatasetError) as caught:
        task_from_dataset(folder, settings())
    assert str(caught.value) == f"{folder} cannot be trained on: {said}"


def test_a_picture_far_too_coarse_is_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"0\.png has 1 µm/px, the model was made for 0\.25 µm/px"):
        task_from_dataset(folder, settings(mpp=0.25))


def test_a_patch_without_anything_annotated_is_left_out_and_named(folder: Path) -> None:
    save(folder / "0_mask.png", np.full((80, 96), 255, np.uint8))
    notices = task_from_dataset(folder, settings()).provenance["data"][0]["notices"]
    assert notices == ["The mask 0_mask.png has nothing annotated and was left out."]


def test_without_background_every_pixel_has_a_class(folder: Path) -> None:
    for i in range(6):
        mask = np.asarray(skimage.io.imread(folder / f"{i}_mask.png"))
        save(folder / f"{i}_mask.png", np.where(mask == 0, 255, mask).astype(np.uint8))
    task = task_from_dataset(folder, settings())
    assert [c["value"] for c in task.classes] == [1, 2] and task.background is None


def test_a_start_is_matched_by_the_names_of_classes(folder: Path) -> None:
    old = folder / "old.safetensors"
    hs.train("joint", folder, out=old, **SMALL)
    before = task_from_dataset(folder, settings(start=old)).network().state_dict()
    content = read(folder)
    classes = [{"value": 1, "name": "new"}, {"value": 2, "name": "dot"}, {"value": 3, "name": "stripe"}]
    for i in range(6):
        mask = np.asarray(skimage.io.imread(folder / f"{i}_mask.png"))
        lookup = np.array([0, 3, 2])
        mask = lookup[mask].astype(np.uint8)
        mask[:4, :4] = 1
        save(folder / f"{i}_mask.png", mask)
    write(folder, content["patches"], classes)
    task = task_from_dataset(folder, settings(start=old, width=0))
    after = task.network().state_dict()
    torch.testing.assert_close(after["encoder.layer3.1.conv2.weight"], before["encoder.layer3.1.conv2.weight"])
    torch.testing.assert_close(after["answer.weight"][[0, 2, 3]], before["answer.weight"][[0, 2, 1]])
    assert task.encoder_start.startswith("weights: joint")
    with pytest.raises(WeightsError, match="holds another network"):
        task_from_dataset(folder, settings(start=old, variant="paper")).network()
    with pytest.raises(WeightsError, match=r"has width 8, and the new network another\. Set width to 8, or to 0"):
        task_from_dataset(folder, settings(start=old, width=16)).network()
    write(folder, content["patches"], [{**c, "name": c["name"] + "s"} for c in classes])
    for patch in content["patches"]:
        patch.pop("label", None)
    write(folder, [p for p in content["patches"] if "mask" in p], [{**c, "name": c["name"] + "s"} for c in classes])
    network = task_from_dataset(folder, settings(start=old)).network()
    torch.testing.assert_close(network.state_dict()["answer.weight"][0], before["answer.weight"][0])


def test_imagenet_that_is_asked_for_and_not_there_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    with pytest.raises(WeightsError, match="ImageNet weights were not found"):
        task_from_dataset(folder, settings(encoder="imagenet")).network()


def test_the_paper_s_optimizer_is_adam_at_a_constant_rate(folder: Path) -> None:
    task = task_from_dataset(folder, settings(variant="paper"))
    optimizer = task.optimizer(task.network())
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["betas"] == (0.9, 0.999)
    assert {task.rate(step) for step in range(4)} == {1e-4}
    improved = task_from_dataset(folder, settings(steps=100))
    assert improved.rate(50) < improved.rate(5) and type(improved.optimizer(improved.network())) is torch.optim.AdamW


def test_weights_are_compared_on_patches_that_neither_has_seen(folder: Path) -> None:
    for name, steps in (("old", 1), ("new", 40)):
        hs.train("joint", folder, out=folder / f"{name}.safetensors", **{**SMALL, "steps": steps, "validate_every": steps, "learning_rate": 0.003, "average_decay": 0.5})
    found = compare(folder, folder / "old.safetensors", folder / "new.safetensors")
    assert found["patches"] == 2 and found["better"] is (found["new"] >= found["old"])
    assert found["new"] == pytest.approx(read_card(folder / "new.safetensors").scores["validation"]["macro_f1"], abs=1e-3)
    back = compare(folder, folder / "new.safetensors", folder / "old.safetensors")
    assert (back["old"], back["new"]) == (found["new"], found["old"])
    assert ("are worse" in back["message"]) is (back["better"] is False)
    write(folder, read(folder)["patches"][:4])
    dataset = read_dataset(folder)
    seen = [p for p in dataset.patches if p.source in read_card(folder / "new.safetensors").data[0]["train_patches"]]
    none = compare(dataset.model_copy(update={"patches": tuple(seen)}), folder / "old.safetensors", folder / "new.safetensors")
    assert none["better"] is None and none["message"].startswith("There is no patch that neither")


def test_a_class_that_old_weights_do_not_know_counts_against_them(folder: Path) -> None:
    for i in range(6):
        Image.fromarray(np.minimum(np.asarray(Image.open(folder / f"{i}_mask.png")), 1)).save(folder / f"{i}_one.png")
    content = read(folder)["patches"]
    write(folder, [{**p, "mask": p["mask"].replace("mask", "one")} for p in content if "mask" in p], CLASSES[:1])
    hs.train("joint", folder, out=folder / "old.safetensors", **SMALL)
    write(folder, content)
    hs.train("joint", folder, out=folder / "new.safetensors", **SMALL)
    found = compare(folder, folder / "old.safetensors", folder / "new.safetensors")
    assert found["old_scores"]["macro_f1"] <= 0.67


def test_running_without_weights_says_what_to_do(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"The method 'joint' has no weights of its own: .* Annotate patches and train"):
        hs.run("joint", hs.open_slide(folder / "0.png", mpp=1.0))


def test_settings_that_cannot_be_are_named() -> None:
    with pytest.raises(SettingsError, match="'mix' is wrong"):
        settings(mix=0)
    with pytest.raises(SettingsError, match="'batch' is wrong"):
        settings(batch=2)
