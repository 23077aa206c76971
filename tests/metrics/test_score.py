"""`score` takes what people have: arrays, files, results, folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.score import fitted, score
from napari_histoseg.results import ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide.geometry import Box


@pytest.fixture
def truth() -> Any:
    """Nine squares."""
    labels = np.zeros((90, 120), np.uint16)
    for number in range(9):
        y, x = 30 * (number // 3) + 5, 40 * (number % 3) + 8
        labels[y : y + 18, x : x + 20] = number + 1
    return labels


@pytest.fixture
def prediction(truth: Any) -> Any:
    """The squares a pixel to the right, one missing."""
    moved = np.roll(truth, 1, axis=1)
    moved[moved == 4] = 0
    return moved


def write(path: Path, labels: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".png":
        Image.fromarray(labels).save(path)
    elif path.name.endswith(".ome.zarr"):
        zarr.open_group(path, mode="w", zarr_format=3).create_array("0", data=labels)
    else:
        tifffile.imwrite(path, labels)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.tif", "a.ome.tif", "a.ome.zarr"])
def test_files_score_as_arrays_do(truth: Any, prediction: Any, tmp_path: Path, name: str) -> None:
    expected = score("nuclei", prediction, truth)
    assert expected["f1_50"] == pytest.approx(16 / 17)
    assert score("nuclei", write(tmp_path / name, prediction), str(write(tmp_path / f"t{name}", truth))) == expected


def test_a_result_scores_as_its_labels_do(truth: Any, prediction: Any, tmp_path: Path) -> None:
    box = Box(0, 0, 120, 90)
    slide = SlideRecord(name="a", fingerprint="f", width=120, height=90, mpp=0.5)
    record = RunRecord(method="nuclei", slide=slide, mpp=0.5, frame=box, tile_px=512, halo_px=0, n_tiles=1)
    store = ResultStore.create(tmp_path / "r", record, ("labels",))
    store.add(0, box, labels=(box, prediction))
    result = store.finish()
    expected = score("nuclei", prediction, truth)
    assert score("nuclei", result, truth) == expected
    assert score("nuclei", tmp_path / "r", truth) == expected


def test_folders_pair_by_name(truth: Any, prediction: Any, tmp_path: Path) -> None:
    for folder in ("p", "t"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "p" / "one.tif", prediction)
    write(tmp_path / "p" / "two.npy", truth)
    write(tmp_path / "t" / "one.png", truth)
    write(tmp_path / "t" / "two.png", truth)
    scores = score("nuclei", tmp_path / "p", tmp_path / "t")
    one = score("nuclei", prediction, truth)
    assert scores["n_images"] == 2
    assert scores["images"]["one"] == one
    assert scores["aji"] == pytest.approx((one["aji"] + 1) / 2)
    assert scores["sd"]["aji"] == pytest.approx((1 - one["aji"]) / np.sqrt(2))
    assert scores["n_true"] == 18
    assert scores == score("nuclei", [tmp_path / "p/one.tif", truth], [truth, truth]) | {"images": scores["images"]}
    (tmp_path / "p" / "two.npy").unlink()
    with pytest.raises(SettingsError, match="two has no prediction"):
        score("nuclei", tmp_path / "p", tmp_path / "t")


def test_another_pixel_size_is_resampled(truth: Any) -> None:
    np.testing.assert_array_equal(fitted(np.kron(truth, np.ones((2, 2), int)), truth.shape), truth)
    assert score("nuclei", truth[::2, ::2], truth)["f1_80"] == 1
    assert score("nuclei", np.pad(truth, ((0, 0), (0, 1)), mode="edge")[:, :], truth)["dice"] > 0.95


@pytest.mark.parametrize("shape", [(90, 90), (45, 90), (1, 1), (0, 0)])
def test_another_field_is_refused(truth: Any, shape: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="do not show the same field"):
        score("nuclei", np.zeros(shape, int), truth)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ("nowhere.tif", r"nowhere\.tif does not exist"),
        (np.zeros((9, 9, 3), np.uint8), r"shape \(9, 9, 3\).*one plane of whole numbers"),
        (np.zeros((90, 120)), "type float64"),
        ([np.zeros((90, 120), int)], "both a list or folder"),
    ],
)
def test_what_is_no_label_picture_is_named(truth: Any, prediction: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        score("nuclei", prediction, truth)


def test_a_damaged_file_is_named(truth: Any, tmp_path: Path) -> None:
    for name in ("a.tif", "a.png", "a.npy"):
        (tmp_path / name).write_bytes(b"not a picture")
        with pytest.raises(SettingsError, match=r"cannot be read as labels"):
            score("nuclei", tmp_path / name, truth)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SettingsError, match="is no label picture"):
        score("nuclei", tmp_path / "a.txt", truth)


def test_methods_that_cannot_be_scored_are_refused(truth: Any) -> None:
    with pytest.raises(SettingsError, match=r"'stars' cannot be scored. Methods that can: nuclei, stain"):
        score("stars", truth, truth)
    with pytest.raises(SettingsError, match="without classes"):
        score("nuclei", truth, truth, classes=["a"])
