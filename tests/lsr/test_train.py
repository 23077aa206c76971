"""Training on coarse labels: what is read, held out, left out and refused, and what comes of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing_lsr import (
    AMOUNTS,
    DARK,
    MPP,
    SIDE_PX,
    SMALL,
    half_dark,
    table,
    write_blocks,
    write_dataset,
)
from napari_histoseg.annotations.blocks import BlockGrid, blocks_of
from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.errors import DatasetError, RunError, SettingsError, WeightsError
from napari_histoseg.methods.lsr.config import LsrTraining
from napari_histoseg.methods.lsr.pictures import layout
from napari_histoseg.methods.lsr.task import LsrTask
from napari_histoseg.methods.lsr.train import LsrCourse, drawn, task_from_dataset
from napari_histoseg.nn.weights import load_tensors, read_card
from napari_histoseg.train.loop import Preparing, StepDone, Validated

LEVELS = ("intra", "inter", "intra+inter")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eighteen blocks of six patients, of three coarse labels."""
    return write_dataset(tmp_path, write_blocks(tmp_path), table())


def course(folder: Path, **settings: Any) -> LsrCourse:
    return task_from_dataset(folder, LsrTraining.parse({**SMALL, **settings}))


def task_of(course: LsrCourse) -> LsrTask:
    """The task, once its blocks are read."""
    reading = course.task()
    while True:
        try:
            next(reading)
        except StopIteration as end:
            assert isinstance(end.value, LsrTask)
            return end.value


def notices(task: LsrTask) -> list[str]:
    found: list[str] = task.provenance["data"][0]["notices"]
    return found


def test_a_training_says_how_far_it_is_and_leaves_weights_with_a_card(folder: Path) -> None:
    out = folder / "w.safetensors"
    events = list(hs.iter_train("lsr", folder, out=out, **SMALL))
    read = [e for e in events if isinstance(e, Preparing)]
    assert [e.done for e in read] == list(range(1, 19)) and {e.total for e in read} == {18}
    assert all(set(e.parts) == {"shares"} for e in events if isinstance(e, StepDone))
    (_, last) = (e for e in events if isinstance(e, Validated))
    assert {"score", "agreement", "sure", "share_0_1", "share_1_1", "share_2_1"} <= set(last.scores)
    card = read_card(out, "lsr")
    assert [c["value"] for c in card.classes] == [0, 1] and card.classes[1]["name"] == "dark"
    (data,) = card.data
    assert (data["blocks"], data["held_out_blocks"]) == (15, 3) and data["coarse_labels"] == {"0": 5, "1": 5, "2": 5}
    assert {(s["coarse"], s["class"]): s["eta"] for s in data["statistics"]}[1, 1] == 0.5
    assert card.data_sha256 and card.mpp == MPP


def test_it_learns_where_the_dark_is(folder: Path) -> None:
    out = folder / "w.safetensors"
    hs.train("lsr", folder, out=out, **{**SMALL, "steps": 60, "validate_every": 30, "width": 8, "batch": 12, "learning_rate": 0.005, "augmentation": 0, "average_decay": 0.8})
    picture, truth = half_dark(96, seed=77)
    result = hs.run("lsr", hs.open_slide(picture, mpp=MPP), weights=out)
    labels = np.asarray(result.labels)
    assert labels.shape == truth.shape and (labels == truth).mean() > 0.9


@pytest.mark.parametrize("settings", [{"level": level} for level in LEVELS] + [{"matching": "joint"}, {"variant": "paper", "batch": 30}])
def test_every_loss_trains(folder: Path, settings: dict[str, Any]) -> None:
    trained = list(hs.iter_train("lsr", folder, out=folder / "w.safetensors", **{**SMALL, "group": 0 if "variant" in settings else 2, **settings}))[-1]
    assert np.isfinite(list(trained.scores.values())).all()  # type: ignore[union-attr]


def test_whole_patients_are_held_out(folder: Path) -> None:
    task = task_of(course(folder))
    groups = [b.patch.group for b in blocks_of(read_dataset(folder))]
    assert len(task.lessons.blocks) == 15 and len(task.lessons.val_blocks) == 3 and len(set(groups)) == 6
    assert sorted(task.lessons.val_blocks.coarse) == [0, 1, 2]


def test_a_single_patient_is_scored_on_its_own_blocks(tmp_path: Path) -> None:
    write_dataset(tmp_path, [{**p, "group": "one"} for p in write_blocks(tmp_path)], table())
    task = task_of(course(tmp_path))
    assert len(task.lessons.blocks) == len(task.lessons.val_blocks) == 18
    assert "Nothing was held out: scores are of the training blocks. Label blocks of a second slide or patient." in notices(task)


def test_a_coarse_label_with_one_block_is_left_out_where_it_has_no_spread(tmp_path: Path) -> None:
    blocks = write_blocks(tmp_path)
    few = [p for i, p in enumerate(blocks) if p["coarse"] != 2 or i == 2]
    write_dataset(tmp_path, [{**p, "group": "one"} for p in few], table(), coarse_classes=[{"value": 2, "name": "all"}])
    task = task_of(course(tmp_path))
    sentence = "The coarse label 'all' has one block, and a spread between blocks takes two: it was left out. Label more blocks of it, or set level to intra."
    assert sentence in notices(task) and set(task.lessons.blocks.coarse) == {0, 1}
    alone = task_of(course(tmp_path, level="intra"))
    assert sentence not in notices(alone) and set(alone.lessons.blocks.coarse) == {0, 1, 2}


def test_labels_with_one_block_each_are_nothing_to_learn_from(tmp_path: Path) -> None:
    write_dataset(tmp_path, write_blocks(tmp_path, 3), table())
    with pytest.raises(DatasetError, match=r"cannot be trained on: no coarse label has 2 blocks\. Label more blocks\."):
        task_of(course(tmp_path))


def test_a_block_of_glass_is_left_out_and_glass_in_a_block_does_not_count(folder: Path) -> None:
    Image.fromarray(np.full((SIDE_PX, SIDE_PX, 3), 245, np.uint8)).save(folder / "block4.png")
    half = np.asarray(Image.open(folder / "block3.png")).copy()
    half[:20] = 245
    Image.fromarray(half).save(folder / "block3.png")
    task = task_of(course(folder, val_fraction=0, least_glass_um=4.0))
    assert notices(task)[0] == "Left out, because there is only glass: 1 block."
    blocks = task.lessons.blocks
    assert len(blocks) == 17
    counts = blocks.counted.sum((1, 2))
    assert SIDE_PX * 8 < counts[3] < SIDE_PX * 16 and (counts[:3] == SIDE_PX**2).all()
    everything = task_of(course(folder, val_fraction=0, least_glass_um=0))
    assert (everything.lessons.blocks.counted.sum((1, 2)) == SIDE_PX**2).all()


def test_blocks_of_a_slide_are_seen_with_what_lies_around_them(tmp_path: Path) -> None:
    picture, _ = half_dark(256, seed=3)
    Image.fromarray(picture).save(tmp_path / "slide.png")
    labels = np.full((8, 8), 255, np.uint8)
    labels[2:6, 2:6] = np.arange(16).reshape(4, 4) % 2
    Image.fromarray(labels).save(tmp_path / "blocks.png")
    write_dataset(tmp_path, [{"slide": "slide.png", "box": [0, 0, 256, 256], "blocks": "blocks.png", "slide_mpp": MPP}], table())
    task = task_of(course(tmp_path))
    blocks = task.lessons.blocks
    assert len(blocks) == 16
    margin, side = layout(SIDE_PX, 0.5)
    assert blocks.images.shape[1:3] == (side, side) and blocks.margin == margin == 16
    pad = (side - SIDE_PX) // 2
    np.testing.assert_array_equal(blocks.images[0], picture[64 - pad : 64 - pad + side, 64 - pad : 64 - pad + side])
    for y, x in ((0, 0), (margin, margin), (3, 11)):
        image, counted = blocks.view(0, y, x)
        assert image.shape[:2] == (blocks.view_px,) * 2 and counted.sum() == SIDE_PX**2
        np.testing.assert_array_equal(image[counted].reshape(SIDE_PX, SIDE_PX, 3), picture[64:96, 64:96])


def test_where_a_block_lies_in_its_view_changes_from_step_to_step(folder: Path) -> None:
    task = task_of(course(folder))
    corners = {tuple(np.argwhere(c)[0]) for step in range(8) for c in task.batch_at(np.random.default_rng(step), step)["counted"]}
    assert len(corners) > 20


def test_painted_blocks_add_a_pixel_loss_and_a_score(folder: Path) -> None:
    patches = json.loads((folder / "dataset.json").read_text())["patches"]
    for i in (1, 4, 7, 10, 13, 16):
        Image.fromarray(np.ascontiguousarray(np.rot90(half_dark()[1], i // 3))).save(folder / f"mask{i}.png")
        patches.append({"image": f"block{i}.png", "mask": f"mask{i}.png", "group": f"patient {i // 3}"})
    write_dataset(folder, patches, table())
    events = list(hs.iter_train("lsr", folder, out=folder / "w.safetensors", **SMALL))
    assert all(set(e.parts) == {"shares", "painted"} for e in events if isinstance(e, StepDone))
    last = [e for e in events if isinstance(e, Validated)][-1]
    assert last.scores["score"] == last.scores["dice"]
    without = list(hs.iter_train("lsr", folder, out=folder / "v.safetensors", **SMALL, painted_weight=0))
    assert all(set(e.parts) == {"shares"} for e in without if isinstance(e, StepDone))


def test_a_mask_with_a_value_outside_the_table_is_named(folder: Path) -> None:
    patches = json.loads((folder / "dataset.json").read_text())["patches"]
    Image.fromarray(np.full((SIDE_PX, SIDE_PX), 5, np.uint8)).save(folder / "mask.png")
    write_dataset(folder, [*patches, {"image": "block1.png", "mask": "mask.png"}], table())
    with pytest.raises(DatasetError, match=r"The mask mask\.png holds values that the table does not have: 5\. State their shares, or paint with other classes\."):
        task_of(course(folder))


def test_it_goes_on_from_earlier_weights(folder: Path) -> None:
    first = hs.train("lsr", folder, out=folder / "first.safetensors", **SMALL)
    task = task_of(course(folder, start=str(first), width=16))
    own, given = task.network().state_dict(), load_tensors(first)
    assert all(torch.equal(own[name], given[name]) for name in given)
    again = hs.train("lsr", folder, out=folder / "again.safetensors", **{**SMALL, "width": 16, "start": str(first)})
    assert read_card(again, "lsr").width == SMALL["width"]
    other = read_dataset(folder)
    rows = [*table(), *({"coarse": label, "class": 2, "eta": 0.0, "rho": 0.1} for label in range(3))]
    write_dataset(folder, [p.model_dump(exclude_none=True) for p in other.patches], rows, classes=[DARK, {"value": 2, "name": "pale"}])
    with pytest.raises(WeightsError, match=r"first\.safetensors has the classes \[0, 1\], and the table \[0, 1, 2\]\. Start from weights with the same classes, or from none\."):
        hs.train("lsr", folder, out=folder / "more.safetensors", **SMALL, start=str(first))


def test_resumed_is_uninterrupted(folder: Path) -> None:
    whole, parts = folder / "whole.safetensors", folder / "parts.safetensors"
    hs.train("lsr", folder, out=whole, **SMALL)
    going: Iterator[Any] = hs.iter_train("lsr", folder, out=parts, **SMALL)
    for event in going:
        if isinstance(event, StepDone) and event.step == 3:
            break
    going.close()  # type: ignore[attr-defined]
    hs.train("lsr", folder, out=parts, resume=True, **SMALL)
    a, b = load_tensors(whole), load_tensors(parts)
    assert all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()
    with (folder / "parts.curve.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]


def test_resuming_with_another_loss_is_refused(folder: Path) -> None:
    out = folder / "w.safetensors"
    going: Iterator[Any] = hs.iter_train("lsr", folder, out=out, **SMALL)
    while not isinstance(next(going), Validated):
        continue
    going.close()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"was made with other settings \(matching\)"):
        hs.train("lsr", folder, out=out, resume=True, **SMALL, matching="joint")


def test_the_pixel_size_follows_the_blocks(folder: Path) -> None:
    found = course(folder, mpp=0).settings.mpp
    assert found == MPP  # 64 µm in 48 px would be finer than the pictures are
    read = read_dataset(folder)
    wide = read.model_copy(update={"mpp": 8.0, "patches": read.patches})
    assert task_from_dataset(wide, LsrTraining.parse({**SMALL, "mpp": 0})).settings.mpp == 8.0


def test_more_blocks_than_memory_holds_are_drawn_evenly() -> None:
    from napari_histoseg.annotations.blocks import Block
    from napari_histoseg.annotations.dataset import Patch

    patch = Patch(image="a.png")
    blocks = [Block(patch, None, label) for label in [0] * 100 + [1] * 10 + [2] * 3]
    kept = drawn(blocks, 30, seed=0)
    assert np.bincount([b.coarse for b in kept]).tolist() == [17, 10, 3]
    assert drawn(blocks, 30, seed=0) == kept and drawn(blocks, 200, seed=0) == blocks


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        ([{"image": "block0.png"}], "has no coarse labels. Label blocks, or take labels from a heatmap (histoseg import --coarse)."),
        ([{"image": "block0.png", "blocks": "labels.png"}], "the blocks labels.png lie on a picture of its own. Blocks lie on a slide: give 'slide' and 'box'."),
        ([{"slide": "block0.png", "box": [0, 0, 30, 32], "blocks": "labels.png"}], "the blocks labels.png are 2 × 2 and their box 30 × 32 px, which makes no squares of whole pixels."),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on(tmp_path: Path, patches: list[dict[str, Any]], message: str) -> None:
    write_blocks(tmp_path, 1)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "labels.png")
    write_dataset(tmp_path, patches, table())
    with pytest.raises(DatasetError) as error:
        course(tmp_path)
    assert message in str(error.value)


def test_a_picture_without_a_pixel_size_is_named(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    del content["mpp"]
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'The pixel size of block0\.png is unknown\. Write "mpp" \(µm/px\) into dataset\.json\.'):
        course(folder)


def test_a_block_that_is_much_too_large_is_refused(folder: Path) -> None:
    Image.fromarray(half_dark(1200)[0]).save(folder / "block0.png")
    with pytest.raises(DatasetError, match=r"A block has 1200 px a side at 2 µm/px, 2408 with what lies around it, and 1024 are the most\. Use smaller blocks, or a larger mpp\."):
        task_of(course(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 4, "group": 6}, "A step of 4 blocks holds no group of 6. Raise batch, or lower group."),
        ({"group": 1}, "A spread over blocks needs groups of at least two. Raise group, or set level to intra."),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        LsrTraining.parse(settings)
    assert str(error.value) == message


def test_grids_hold_whole_blocks_only(tmp_path: Path) -> None:
    slide = hs.open_slide(half_dark(250)[0], mpp=MPP)
    grid = BlockGrid.over(slide, 64.0)
    assert (grid.rows, grid.columns, grid.side_px) == (7, 7, 32) and (grid.x, grid.y) == (13, 13)
    with pytest.raises(DatasetError, match=r"Blocks of 1000 µm are larger than .* \(500 × 500 µm\)\. Choose smaller blocks\."):
        BlockGrid.over(slide, 1000.0)


def test_shares_of_the_testing_blocks() -> None:
    for share in AMOUNTS:
        assert half_dark(share=share)[1].mean() == share
