"""Joint from the command line and from Python: train, go on, stop, run, export, score."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.dataset import PatchClass
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.cli import main
from napari_histoseg.nn.weights import read_card
from napari_histoseg.predict.events import TileDone
from napari_histoseg.slide import Box
from napari_histoseg.train.loop import StepDone, Validated

CLASSES = (PatchClass(value=1, name="dark", color="#ff0000"), PatchClass(value=2, name="pale", color="#0000ff"))
MPP, PATCH = 0.5, 128
SMALL: dict[str, Any] = {
    "mpp": 1.0, "width": 8, "batch": 8, "crop_px": 64, "steps": 40, "validate_every": 20, "learning_rate": 0.01, "average_decay": 0.5,
    "augmentation": 0, "threads": 1, "precision": "float32", "val_fraction": 0.25,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def listed() -> Iterator[None]:
    """The method under its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "joint"))))
        yield


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tissue whose left half is much darker than the right, at 0.5 µm/px."""
    image = he_image(768, 512, seed=1, mpp=MPP)
    image[:, :384] = image[:, :384] // 2
    return write_svs(tmp_path_factory.mktemp("slide") / "slide.svs", image, mpp=MPP, quality=90)


def truth(box: Box) -> np.ndarray:
    """What the slide shows, at 1 µm/px: 1 on the left, 2 on the right."""
    columns = np.arange(box.x, box.right, 2)
    return np.broadcast_to(np.where(columns < 384, 1, 2).astype(np.uint8), (box.height // 2, len(columns)))


@pytest.fixture(scope="module")
def dataset(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four painted patches and six with a class, in columns that are groups."""
    folder = tmp_path_factory.mktemp("dataset") / "patches"
    with hs.open_slide(slide) as opened, AnnotationSession.create(folder, mpp=1.0, classes=CLASSES) as session:
        for i, (x, y) in enumerate([(320, 0), (320, 300), (100, 200), (600, 200)]):
            box = Box(x, y, PATCH, PATCH)
            patch = session.add_mask_patch(opened, box, group=f"place {i}")
            session.set_mask(patch.id, truth(box))
        for i in range(6):
            box = Box(10 + 500 * (i % 2), 130 * (i // 2), PATCH, PATCH)
            session.add_label_patch(opened, box, 1 + i % 2, group=f"label {i}")
    return folder


def sets(**settings: Any) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def weights(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that the command line trained."""
    out = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    assert main(["train", "joint", str(dataset), "--out", str(out), *sets(**SMALL)]) == 0
    return out


@pytest.fixture(scope="module")
def result(slide: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class map of the slide that the command line made."""
    out = tmp_path_factory.mktemp("run") / "map"
    assert main(["run", "joint", str(slide), "--out", str(out), "--weights", str(weights), "--device", "cpu"]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, its reason for a failure."""
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("histoseg: ") and "Traceback" not in line
    return line


# -- training -----------------------------------------------------------------------------------------------------------


def test_training_leaves_weights_and_a_curve_of_both_losses(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = read_card(weights, "joint")
    assert [c["name"] for c in card.classes] == ["dark", "pale"]
    assert (card.data[0]["segmentation_patches"], card.data[0]["classification_patches"]) == (4, 6)
    rows = list(csv.DictReader(weights.with_suffix(".curve.csv").open()))
    assert [int(row["step"]) for row in rows] == [20, 40]
    assert all(float(row[name]) > 0 for row in rows for name in ("loss", "loss_segmentation", "loss_classification", "macro_f1"))
    assert not weights.with_suffix(".checkpoint.pt").exists()
    assert main(["weights", "show", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "joint"


def test_training_prints_its_scores_as_json(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "w.safetensors"
    assert main(["train", "joint", str(dataset), "--out", str(out), "--json", "--seed", "3", *sets(**{**SMALL, "steps": 2})]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] == str(out) and {"score", "macro_f1", "micro_f1", "accuracy", "foreground_accuracy"} <= set(told["scores"])
    assert read_card(out).settings["seed"] == 3


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(dataset: Path, tmp_path: Path) -> None:
    few = {**SMALL, "steps": 6, "validate_every": 2}
    whole = hs.train("joint", dataset, out=tmp_path / "whole.safetensors", **few)
    out = tmp_path / "parts.safetensors"
    events = hs.iter_train("joint", dataset, out=out, **few)
    for event in events:
        if isinstance(event, Validated):
            break
    events.close()
    assert out.exists() and out.with_suffix(".checkpoint.pt").exists(), "the best so far is there to be used"
    assert main(["train", "joint", str(dataset), "--out", str(out), "--resume", *sets(**few)]) == 0
    parts, alone = (read_card(path).model_dump(exclude={"seconds"}) for path in (out, whole))
    assert parts == alone
    assert [int(row["step"]) for row in csv.DictReader(out.with_suffix(".curve.csv").open())] == [2, 4, 6]


def test_an_interrupted_training_says_how_to_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_histoseg import cli

    def interrupted(events: Any, progress: Any) -> None:
        for event in events:
            if isinstance(event, StepDone) and event.step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(cli, "watch_training", interrupted)
    out = tmp_path / "w.safetensors"
    words = ["train", "joint", str(dataset), "--out", str(out), *sets(**{**SMALL, "validate_every": 2})]
    assert main(words) == 130
    line = said(capsys)
    assert "what is done is kept" in line and line.endswith("--resume")


def test_training_in_another_stain_says_so_in_the_card(dataset: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(he_image(300, 300, seed=9, mpp=MPP)).save(photo)
    out = tmp_path / "w.safetensors"
    words = ["train", "joint", str(dataset), "--out", str(out), "--stain", str(photo), "--stain-method", "reinhard"]
    assert main([*words, *sets(**{**SMALL, "steps": 2})]) == 0
    assert "stain" in read_card(out).data[0]


def test_earlier_weights_are_gone_on_from(dataset: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    settings = {**SMALL, "steps": 2, "learning_rate": 1e-6, "width": 0, "average_decay": 0, "start": weights}
    assert main(["train", "joint", str(dataset), "--out", str(out), *sets(**settings)]) == 0
    assert read_card(out).data[0]["encoder"] == "weights: joint (patches)"
    scores = [read_card(path).scores["validation"]["macro_f1"] for path in (weights, out)]
    assert abs(scores[0] - scores[1]) < 0.1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--set", "mix=0"], "The setting 'mix' is wrong"),
        (["--set", "encoder=resnet"], "The setting 'encoder' is wrong"),
        (["--set", "start=nowhere.safetensors"], "The weights file nowhere.safetensors does not exist"),
        (["--set", "encoder=imagenet", "--set", "encoder_file=nowhere.pth"], "The encoder file nowhere.pth does not exist"),
        (["--stain", "no-such-stain"], "no-such-stain"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_code_2(
    words: list[str], reason: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.safetensors"
    assert main(["train", "joint", str(dataset), "--out", str(out), *words]) == 2
    assert reason in said(capsys)
    assert not out.exists()


def test_a_dataset_that_misses_things_names_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(he_image(64, 64)).save(tmp_path / "a.png")
    content = {"mpp": 1.0, "classes": [c.model_dump() for c in CLASSES], "patches": [{"image": "a.png", "label": "dark"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert main(["train", "joint", str(tmp_path), "--out", str(tmp_path / "w.safetensors")]) == 2
    assert "has no patch with a mask" in said(capsys)


# -- running ------------------------------------------------------------------------------------------------------------


def test_the_class_map_shows_what_was_annotated(result: Path) -> None:
    opened = hs.open_result(result)
    assert [(c.value, c.name, c.color) for c in opened.record.classes] == [(c.value, c.name, c.color) for c in CLASSES]
    labels = np.asarray(opened.labels)
    assert labels.shape == (256, 384)
    assert (labels == truth(Box(0, 0, 768, 512))).mean() > 0.9
    assert np.asarray(opened.probability).shape == labels.shape


def test_a_run_sums_up_the_area_of_each_class(slide: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "joint", str(slide), "--out", str(tmp_path / "map"), "--weights", str(weights), "--region", "0", "0", "200", "200"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["objects"] is None and set(told["classes"]) == {"dark", "pale"}
    result = hs.open_result(told["result"])
    values = {c.name: c.value for c in result.record.classes}
    for name, row in told["classes"].items():
        assert row["area_mm2"] == pytest.approx((np.asarray(result.labels) == values[name]).sum() * ((result.mpp or 0) / 1000) ** 2)
    assert told["classes"]["dark"]["share"] > 0.7


def test_python_and_the_command_line_agree(slide: Path, weights: Path, result: Path) -> None:
    again = hs.run("joint", slide, weights=weights, device="cpu")
    np.testing.assert_array_equal(np.asarray(again.labels), np.asarray(hs.open_result(result).labels))


def test_a_run_that_was_cancelled_goes_on(slide: Path, weights: Path, result: Path, tmp_path: Path) -> None:
    out = tmp_path / "map"
    events = hs.iter_run("joint", slide, out=out, weights=weights, tile_px=64, batch_tiles=1, device="cpu")
    for event in events:
        if isinstance(event, TileDone):
            break
    events.close()
    words = ["run", "joint", str(slide), "--out", str(out), "--weights", str(weights), "--device", "cpu", "--resume"]
    assert main([*words, *sets(tile_px=64, batch_tiles=1)]) == 0
    labels = [np.asarray(hs.open_result(path).labels) for path in (out, result)]
    assert (labels[0] == labels[1]).mean() > 0.999


def test_running_without_weights_is_one_line_and_code_2(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "joint", str(slide), "--out", str(tmp_path / "map")]) == 2
    assert "The method 'joint' has no weights of its own" in said(capsys)


# -- afterwards ---------------------------------------------------------------------------------------------------------


def test_regions_are_exported_with_class_and_color(result: Path, tmp_path: Path) -> None:
    assert main(["export", str(result), str(tmp_path / "map.geojson")]) == 0
    features = json.loads((tmp_path / "map.geojson").read_text())["features"]
    found = {f["properties"]["classification"]["name"]: f["properties"]["classification"]["color"] for f in features}
    assert found == {"dark": [255, 0, 0], "pale": [0, 0, 255]}
    assert all(f["properties"]["measurements"]["area µm²"] > 0 for f in features)


def test_areas_are_exported_as_a_table(result: Path, tmp_path: Path) -> None:
    assert main(["export", str(result), str(tmp_path / "map.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "map.csv").open()))
    assert [row["class"] for row in rows] == ["dark", "pale"]
    whole = 768 * 512 * MPP**2 / 1e6
    assert sum(float(row["area_mm2"]) for row in rows) == pytest.approx(whole, rel=0.05)


def test_the_map_is_exported_as_a_picture_of_class_values(result: Path, tmp_path: Path) -> None:
    assert main(["export", str(result), str(tmp_path / "map.ome.tif")]) == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.ome.tif"), np.asarray(hs.open_result(result).labels))


def test_the_map_is_scored_by_class(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true = np.array(truth(Box(0, 0, 768, 512)))
    true[:, 100:120] = 255
    Image.fromarray(true).save(tmp_path / "truth.png")
    assert main(["score", "joint", str(result), str(tmp_path / "truth.png"), "--classes", "background,dark,pale"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["f1_dark"] > 0.9 and told["f1_pale"] > 0.9 and told["accuracy"] > 0.9
    assert {"macro_f1", "micro_f1", "foreground_accuracy", "iou", "challenge"} <= set(told)
    scores = hs.score("joint", result, tmp_path / "truth.png", classes=["background", "dark", "pale"])
    assert scores == pytest.approx(told, nan_ok=True)
