"""Classes of a map as training labels: where patches lie, what is painted in them, and what a dataset keeps."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg._testing_clusters import cluster_result, tissue_result
from napari_histoseg.annotations.dataset import UNLABELED, PatchClass, load_patch, read_dataset
from napari_histoseg.annotations.frommap import Wanted, labels_from_map, squares
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError, HistosegError, ResultError
from napari_histoseg.results import Result
from napari_histoseg.results.classbook import ClassBook
from napari_histoseg.slide import Box, Slide, open_slide

WIDTH, HEIGHT, MPP = 960, 640, 0.5


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    return open_slide(write_svs(tmp_path / "a.svs", he_image(WIDTH, HEIGHT, seed=1, mpp=MPP), mpp=MPP))


@pytest.fixture
def map(slide: Slide, tmp_path: Path) -> Result:
    """Columns of 320 px: above the classes 1, 2 and 3, below finer values of 1, 1 and 2."""
    return tissue_result(tmp_path / "map.histoseg", slide)


def truth_of(box: Box) -> np.ndarray:
    """The class of every pixel of a box."""
    above = 1 + 3 * np.arange(WIDTH) // WIDTH
    below = np.array([0, 1, 1, 2])[above]
    whole = np.where(np.arange(HEIGHT)[:, None] < HEIGHT // 2, above, below)
    return np.asarray(whole[box.slices])


def test_patches_of_every_class_are_painted_with_the_map(map: Result, slide: Slide, tmp_path: Path) -> None:
    added = labels_from_map(map, slide, tmp_path / "set", per_class=3, side_um=40)
    assert len(added) == 9
    dataset = read_dataset(tmp_path / "set")
    assert [(c.value, c.name, c.color) for c in dataset.classes] == [(c.value, c.name, c.color) for c in map.classes]
    assert dataset.mpp == MPP
    for patch in dataset.patches:
        image, mask, mpp = load_patch(dataset, patch)
        assert patch.box is not None and mask is not None
        np.testing.assert_array_equal(mask, truth_of(Box(*patch.box)))
        assert image.shape == (80, 80, 3)
        assert mpp == MPP
    for one, other in combinations(dataset.patches, 2):
        assert Box(*(one.box or ())).intersect(Box(*(other.box or ()))).empty


def test_patches_of_a_class_lie_far_from_each_other(map: Result, slide: Slide) -> None:
    boxes = squares(map, slide.bounds, Wanted((1,), per_class=2, side_um=20))
    apart = max(abs(boxes[0].x - boxes[1].x), abs(boxes[0].y - boxes[1].y))
    assert apart > 300


def test_a_coarser_dataset_gets_coarser_masks(map: Result, slide: Slide, tmp_path: Path) -> None:
    labels_from_map(map, slide, tmp_path / "set", per_class=1, side_um=160, mpp=2.0)
    dataset = read_dataset(tmp_path / "set")
    for patch in dataset.patches:
        _, mask, mpp = load_patch(dataset, patch)
        assert patch.box is not None and mask is not None
        assert mask.shape == (80, 80)
        np.testing.assert_array_equal(mask, truth_of(Box(*patch.box))[2::4, 2::4])
        assert mpp == 2.0


def test_only_the_chosen_classes_are_painted(map: Result, slide: Slide, tmp_path: Path) -> None:
    ClassBook(map).rename(2, "stroma")
    labels_from_map(map, slide, tmp_path / "set", classes=["stroma"], per_class=4, side_um=100)
    dataset = read_dataset(tmp_path / "set")
    assert [(c.value, c.name) for c in dataset.classes] == [(2, "stroma")]
    for patch in dataset.patches:
        _, mask, _ = load_patch(dataset, patch)
        assert patch.box is not None and mask is not None
        np.testing.assert_array_equal(mask, np.where(truth_of(Box(*patch.box)) == 2, 2, UNLABELED))


def test_a_dataset_that_is_there_is_extended(map: Result, slide: Slide, tmp_path: Path) -> None:
    with AnnotationSession.create(tmp_path / "set", mpp=1.0, classes=[PatchClass(value=1, name="cluster 2", color="#111111"), PatchClass(value=9, name="fat", color="#222222")]) as session:
        old = session.add_mask_patch(slide, Box(0, 0, 960, 300))
        session.set_mask(old.id, np.full((150, 480), 9, np.uint8))
    added = labels_from_map(map, slide, tmp_path / "set", per_class=2, side_um=40)
    dataset = read_dataset(tmp_path / "set")
    assert len(dataset.patches) == 1 + len(added)
    # The class of that name has another value here; 1 is taken, so that another class gets a free one.
    assert [(c.value, c.name) for c in dataset.classes] == [(1, "cluster 2"), (9, "fat"), (2, "cluster 1"), (3, "cluster 3")][: len(dataset.classes)]
    for patch in dataset.patches[1:]:
        _, mask, _ = load_patch(dataset, patch)
        assert patch.box is not None and mask is not None
        assert Box(*patch.box).intersect(Box(0, 0, 960, 300)).empty
        np.testing.assert_array_equal(mask, np.array([0, 2, 1, 3])[truth_of(Box(*patch.box))[1::2, 1::2]])
    np.testing.assert_array_equal(load_patch(dataset, dataset.patches[0])[1], np.full((150, 480), 9))


def test_all_patches_are_one_step_to_undo(map: Result, slide: Slide, tmp_path: Path) -> None:
    labels_from_map(map, slide, tmp_path / "set", per_class=1, side_um=40)

    def stop(written: int, total: int) -> None:
        raise RuntimeError

    before = read_dataset(tmp_path / "set")
    with pytest.raises(RuntimeError):
        labels_from_map(map, slide, tmp_path / "set", per_class=1, side_um=20, step=stop)
    assert read_dataset(tmp_path / "set").patches == before.patches


def refused_other(map: Result, slide: Slide, folder: Path) -> None:
    with open_slide(write_svs(folder / "b.svs", he_image(WIDTH, HEIGHT, seed=2, mpp=MPP), mpp=MPP)) as other:
        labels_from_map(map, other, folder / "set")


def refused_name(map: Result, slide: Slide, folder: Path) -> None:
    labels_from_map(map, slide, folder / "set", classes=["bone"])


def refused_room(map: Result, slide: Slide, folder: Path) -> None:
    with AnnotationSession.create(folder / "set", mpp=1.0) as session:
        session.add_mask_patch(slide, slide.bounds)
    labels_from_map(map, slide, folder / "set")


def refused_objects(map: Result, slide: Slide, folder: Path) -> None:
    labels = np.kron(np.arange(1, 97).reshape(8, 12), np.ones((80, 80), int))
    labels_from_map(cluster_result(folder / "cells.histoseg", slide, labels), slide, folder / "set")


@pytest.mark.parametrize(
    ("refused", "said"),
    [(refused_other, "is of a.svs, not of b.svs"), (refused_name, "no class 'bone'"), (refused_room, "no room"), (refused_objects, "no map of classes")],
)
def test_what_cannot_be_is_a_sentence(map: Result, slide: Slide, tmp_path: Path, refused: object, said: str) -> None:
    with pytest.raises((DatasetError, ResultError), match=said) as caught:
        refused(map, slide, tmp_path)  # type: ignore[operator]
    assert isinstance(caught.value, HistosegError)
