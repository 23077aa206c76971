"""Patch datasets: read whole, written whole, wrong ones explained, patients kept together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.io
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_histoseg._testing import he_tissue, write_svs
from napari_histoseg.annotations.dataset import (
    Patch,
    data_sha256,
    load_patch,
    read_dataset,
    read_mask,
    split_groups,
    write_dataset,
)
from napari_histoseg.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with instance masks, one with a label, and a box of a slide."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i in range(2):
        image, labels = he_tissue(96, 80, seed=i)
        skimage.io.imsave(tmp_path / f"images/{i}.png", image)
        skimage.io.imsave(tmp_path / f"masks/{i}.png", labels.astype(np.uint16), check_contrast=False)
    image, labels = he_tissue(512, 512, seed=9, mpp=0.25)
    write_svs(tmp_path / "s.svs", image, mpp=0.25)
    skimage.io.imsave(tmp_path / "masks/s.png", labels[:200:2, :300:2].astype(np.uint16), check_contrast=False)
    content = {
        "version": 1,
        "mpp": 0.5,
        "classes": [{"value": 1, "name": "gland", "color": "#2ca02c"}],
        "patches": [
            {"image": "images/0.png", "mask": "masks/0.png", "group": "p1"},
            {"image": "images/1.png", "mask": "masks/1.png", "group": "p2"},
            {"image": "images/1.png", "label": "gland", "group": "p2", "grade": 2},
            {"slide": "s.svs", "box": [0, 0, 300, 200], "mask": "masks/s.png", "split": "train"},
        ],
        "statistics": [{"coarse": 3, "class": 1, "eta": 0.35, "rho": 0.03}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_patches_come_with_their_pixels(folder: Path) -> None:
    dataset = read_dataset(folder)
    image, mask, mpp = load_patch(dataset, dataset.patches[0])
    assert image.shape == (80, 96, 3) and mask is not None and mask.shape == (80, 96) and mpp == 0.5
    assert mask.max() > 5 and dataset.patches[2].model_extra == {"grade": 2}


def test_a_masks_size_sets_the_resolution_of_a_slide_patch(folder: Path) -> None:
    dataset = read_dataset(folder)
    image, mask, mpp = load_patch(dataset, dataset.patches[3])
    assert image.shape == (100, 150, 3) and mpp == pytest.approx(0.5)
    assert mask is not None and image[mask > 0].mean() < image[mask == 0].mean() - 20


def test_writing_and_reading_changes_nothing(folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(folder)
    write_dataset(folder, dataset)
    assert read_dataset(folder) == dataset
    assert json.loads((folder / "dataset.json").read_text())["statistics"][0]["class"] == 1


@pytest.mark.parametrize(
    ("written", "read", "names"),
    [(None, None, ()), ("gland", "gland", ("gland",)), (["gland"], "gland", ("gland",)), (["a", "b", "a"], ("a", "b"), ("a", "b")), ([1, 2], ("1", "2"), ("1", "2"))],
)
def test_a_patch_has_one_class_or_several(written: Any, read: Any, names: tuple[str, ...]) -> None:
    patch = Patch(image="a.png", label=written)
    assert patch.label == read and patch.labels == names
    assert Patch.model_validate(json.loads(patch.model_dump_json())) == patch


def test_the_hash_follows_the_pixels(folder: Path) -> None:
    before = data_sha256(read_dataset(folder))
    assert before == data_sha256(read_dataset(folder))
    (folder / "masks/0.png").write_bytes((folder / "masks/1.png").read_bytes())
    assert data_sha256(read_dataset(folder)) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches": []}, "It lists no patches."),
        ({"mpp": -1}, "mpp: Input should be greater than 0"),
        ({"version": 9}, "has format version 9; this version reads 1"),
        ({"patches": [{"image": "a.png", "mask": "m.png"}]}, "has 2 problems: Patch 0: the image a.png does not exist. Patch 0: the mask m.png does not exist."),
        ({"patches": [{"image": "../a.png"}]}, "lies outside the dataset's folder"),
        ({"patches": [{"image": "images/0.png", "mask": "masks/0.png", "label": "gland"}]}, "at most one of 'mask', 'label', 'coarse' and 'blocks'"),
        ({"patches": [{"image": "images/0.png", "label": "bone"}]}, "the class 'bone' is not among the classes"),
        ({"patches": [{"image": "images/0.png", "label": ["gland", "bone", "glass"]}]}, "has 2 problems: Patch 0: the class 'bone' is not"),
        ({"patches": [{"image": "images/0.png", "label": []}]}, "'label' is the name of a class, or a list of names"),
        ({"patches": [{"image": "images/0.png", "label": ["gland", None]}]}, "'label' is the name of a class, or a list of names"),
        ({"patches": [{}]}, "either 'image', or 'slide' and 'box'"),
        ({"patches": [{"slide": "s.svs"}]}, "'slide' and 'box' come together"),
        ({"patches": [{"slide": "s.svs", "box": [0, 0, 0, 5]}]}, "width and height from 1"),
        ({"classes": [{"value": 1, "name": "a"}, {"value": 1, "name": "b"}]}, "Class value 1 is listed twice."),
    ],
)
def test_what_is_wrong_is_said(folder: Path, change: dict[str, Any], message: str) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert message in str(caught.value)


def test_broken_json_and_no_dataset_are_said(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="it is no valid JSON"):
        read_dataset(folder)
    with pytest.raises(DatasetError, match=r"is no patch dataset: it has no dataset\.json"):
        read_dataset(folder / "images")


def test_a_mask_of_another_size_is_refused(folder: Path) -> None:
    skimage.io.imsave(folder / "masks/0.png", np.zeros((3, 4), np.uint16), check_contrast=False)
    dataset = read_dataset(folder)
    with pytest.raises(DatasetError, match=r"has 4 × 3 pixels and its image images/0\.png 96 × 80"):
        load_patch(dataset, dataset.patches[0])


@pytest.mark.parametrize(("name", "mode"), [("p.png", "P"), ("l.png", "L"), ("i.png", "I;16"), ("b.bmp", "L"), ("t.tif", "L"), ("t.tiff", "I;16")])
def test_masks_of_many_kinds_hold_their_values(tmp_path: Path, name: str, mode: str) -> None:
    values = np.array([[0, 1, 2], [2, 255, 0]], np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.frombytes("P", (3, 2), values.tobytes())
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name), values)


def test_a_damaged_mask_is_said(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        (tmp_path / name).write_bytes(b"no picture at all")
        with pytest.raises(DatasetError, match=r"cannot be read.*Masks are 8, 16 or 32 bit PNG or TIFF"):
            read_mask(tmp_path / name)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.floats(0, 0.9), st.integers(0, 99))
def test_groups_stay_together_whatever_the_order(groups: list[str], fraction: float, seed: int) -> None:
    patches = [Patch(image=f"{i}.png", group=g) for i, g in enumerate(groups)]
    train, val = split_groups(patches, fraction, seed)
    assert len(train) + len(val) == len(patches) and train
    assert not {p.group for p in train} & {p.group for p in val}
    again = split_groups(patches[::-1], fraction, seed)
    assert {p.image for p in again[1]} == {p.image for p in val}


def test_a_fixed_split_is_kept() -> None:
    patches = [Patch(image=f"{s}.png", split=s) for s in ("train", "val", "test")] + [Patch(image="free.png")]
    train, val = split_groups(patches, 0.5)
    assert [p.image for p in train] == ["train.png", "free.png"] and [p.image for p in val] == ["val.png"]
