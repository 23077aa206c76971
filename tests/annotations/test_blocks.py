"""Grids of blocks, their coarse labels in a session, and what datasets may say of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations import coarse
from napari_histoseg.annotations.blocks import BlockGrid, block_problem, blocks_of, coarse_name
from napari_histoseg.annotations.dataset import Patch, PatchClass, PatchDataset, Statistic, read_dataset
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide import Box, Slide, open_slide

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is neither kill -9 nor fork on Windows")
AMOUNTS = coarse.amount_classes()


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svs(tmp_path_factory.mktemp("slide") / "case 7.svs", he_image(1024, 768, seed=1), mpp=0.5)


@pytest.fixture
def slide(slide_file: Path) -> Iterator[Slide]:
    with open_slide(slide_file) as slide:
        yield slide


@pytest.fixture
def session(tmp_path: Path) -> Iterator[AnnotationSession]:
    with AnnotationSession.create(tmp_path / "d", mpp=2.0, classes=[PatchClass(value=1, name="gland")]) as session:
        yield session


@pytest.fixture
def grid(slide: Slide) -> BlockGrid:
    """3 × 5 blocks of 200 px."""
    return BlockGrid.over(slide, 100)


def numbered(grid: BlockGrid) -> np.ndarray:
    """Labels 1 to 5 in turn, and one block without."""
    labels = (np.arange(grid.rows * grid.columns) % 5 + 1).astype(np.uint8).reshape(grid.rows, grid.columns)
    labels[0, 0] = 255
    return labels


def added(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> str:
    return session.blocks.add(session.patch_for(slide, grid.box)[0], grid, numbered(grid))


# -- grids --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(1, 900), st.floats(0.1, 4))
def test_blocks_tile_their_box_and_leave_nothing_that_holds_another(width: int, height: int, block_um: float, mpp: float) -> None:
    with open_slide(np.zeros((height, width, 3), np.uint8), mpp=mpp) as slide:
        side = max(1, round(block_um / mpp))
        assume(side <= min(width, height) and (width // side) * (height // side) < 500)
        grid = BlockGrid.over(slide, block_um)
        times = np.zeros((height, width), np.uint8)
        for row in range(grid.rows):
            for column in range(grid.columns):
                block = grid.block(row, column)
                assert block.intersect(slide.bounds) == block and block.shape == (side, side)
                times[block.slices] += 1
        assert (times[grid.box.slices] == 1).all() and times.sum() == grid.box.area
        assert width - grid.box.width < side and height - grid.box.height < side
        left, right = grid.x, width - grid.box.right
        top, bottom = grid.y, height - grid.box.bottom
        assert abs(left - right) <= 1 and abs(top - bottom) <= 1


@given(st.integers(-500, 900), st.integers(-500, 900), st.integers(1, 1500), st.integers(1, 1500))
def test_blocks_of_an_area_stay_in_it_and_on_the_slide(x: int, y: int, width: int, height: int) -> None:
    with open_slide(np.zeros((600, 800, 3), np.uint8), mpp=0.5) as slide:
        area = Box(x, y, width, height)
        inside = area.intersect(slide.bounds)
        if min(inside.shape) < 64:
            with pytest.raises(DatasetError, match="are larger than the area on"):
                BlockGrid.over(slide, 32, area)
        else:
            box = BlockGrid.over(slide, 32, area).box
            assert box.intersect(inside) == box


def test_blocks_that_are_too_large_or_too_many_are_refused(slide: Slide) -> None:
    with pytest.raises(DatasetError) as caught:
        BlockGrid.over(slide, 400)
    assert str(caught.value) == "Blocks of 400 µm are larger than case 7.svs (512 × 384 µm). Choose smaller blocks."
    with open_slide(np.zeros((4, 4, 3), np.uint8), mpp=1.0) as small, pytest.MonkeyPatch.context() as patched:
        patched.setattr("napari_histoseg.annotations.blocks.MOST_BLOCKS", 9)
        with pytest.raises(DatasetError, match=r"Blocks of 1 µm on .* are 16, more than 9\. Choose larger blocks\."):
            BlockGrid.over(small, 1)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 50), st.integers(1, 9), st.integers(1, 9))
def test_a_grid_is_found_again_in_its_patch(x: int, y: int, side: int, rows: int, columns: int) -> None:
    grid = BlockGrid(x, y, side, rows, columns)
    box = grid.box
    assert BlockGrid.of(Patch(slide="s.svs", box=(box.x, box.y, box.width, box.height), blocks="b.png"), grid.blank) == grid


# -- in a session -------------------------------------------------------------------------------------------------------


def test_a_grid_is_on_the_disk_when_the_call_returns(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> None:
    id = added(session, slide, grid)
    item = session.patch(id)
    assert (item.kind, item.box, item.patch.group) == ("blocks", grid.box, "case 7")
    dataset = read_dataset(session.folder)
    blocks = blocks_of(dataset)
    assert len(blocks) == 14
    assert (blocks[0].box, blocks[0].coarse) == (grid.block(0, 1), 2)
    assert {b.patch.slide_fingerprint for b in blocks} == {slide.fingerprint()}
    session.close()
    with AnnotationSession.open(session.folder) as again:
        np.testing.assert_array_equal(again.blocks.labels(id), numbered(grid))


def test_labels_change_in_steps_that_can_be_undone(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> None:
    id = added(session, slide, grid)
    first, second = numbered(grid), grid.blank
    session.blocks.set_labels(id, second, "blocks wiped")
    assert session.can_undo == "blocks wiped"
    assert session.undo() == "Undid: blocks wiped."
    np.testing.assert_array_equal(session.blocks.labels(id), first)
    session.redo()
    np.testing.assert_array_equal(session.blocks.labels(id), second)
    session.blocks.set_labels(id, second)
    assert session.can_undo == "blocks wiped"
    session.undo()
    session.undo()
    assert session.patches == () and not (session.folder / f"blocks/{id}.png").exists()
    session.redo()
    np.testing.assert_array_equal(session.blocks.labels(id), first)


def test_a_grid_is_removed_with_its_file_and_comes_back(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> None:
    id = added(session, slide, grid)
    session.remove(id)
    assert list((session.folder / "blocks").iterdir()) == []
    session.undo()
    np.testing.assert_array_equal(session.blocks.labels(id), numbered(grid))


def test_a_patch_beside_a_grid_has_an_id_of_its_own(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> None:
    ids = [session.add_mask_patch(slide, Box(0, 0, 64, 64)).id, added(session, slide, grid), session.add_mask_patch(slide, Box(64, 0, 64, 64)).id, added(session, slide, grid)]
    assert ids == ["p0001", "p0002", "p0003", "p0004"]


def test_names_and_shares_are_kept(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> None:
    added(session, slide, grid)
    session.blocks.name(AMOUNTS)
    session.blocks.state(coarse.amount_statistics(1))
    dataset = read_dataset(session.folder)
    assert coarse_name(dataset, 3) == "about half" and coarse_name(dataset, 77) == "77"
    assert [(s.coarse, s.class_value, s.eta) for s in dataset.statistics] == [(1, 1, 0), (2, 1, 0.15), (3, 1, 0.5), (4, 1, 0.85), (5, 1, 1)]
    session.undo()
    assert session.dataset.statistics == () and session.dataset.coarse_classes == AMOUNTS


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 5), np.uint8), "The coarse labels have shape (2, 5), and the grid (3, 5). Give one label a block."),
        (np.zeros((3, 5)), "Coarse labels are whole numbers from 0 to 254, and 255 for none."),
        (np.full((3, 5), 256), "Coarse labels are whole numbers from 0 to 254, and 255 for none."),
        (np.full((3, 5), -1), "Coarse labels are whole numbers from 0 to 254, and 255 for none."),
    ],
)
def test_what_are_no_labels_is_refused_and_changes_nothing(session: AnnotationSession, slide: Slide, grid: BlockGrid, labels: np.ndarray, message: str) -> None:
    id = added(session, slide, grid)
    for call in (lambda: session.blocks.set_labels(id, labels), lambda: session.blocks.add(session.patch_for(slide, grid.box)[0], grid, labels)):
        with pytest.raises(DatasetError) as caught:
            call()
        assert str(caught.value) == message
    np.testing.assert_array_equal(session.blocks.labels(id), numbered(grid))
    assert len(session.patches) == 1


def test_only_grids_have_labels_and_names_are_given_once(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_mask_patch(slide, Box(0, 0, 64, 64)).id
    with pytest.raises(DatasetError, match=r"^Patch p0001 has no blocks\. Choose a grid of blocks\.$"):
        session.blocks.labels(id)
    with pytest.raises(DatasetError, match=r"^A coarse label is named twice: \[1\]\. Give each one name\.$"):
        session.blocks.name([PatchClass(value=1, name="a"), PatchClass(value=1, name="b")])


def test_a_grid_takes_the_place_of_those_it_overlaps_in_one_step(session: AnnotationSession, slide: Slide, grid: BlockGrid) -> None:
    first = added(session, slide, grid)
    session.set_split(first, "val")
    session.set_group(first, "patient 1")
    session.blocks.name(AMOUNTS)
    small = BlockGrid.over(slide, 40)
    labels = small.blank
    labels[2, 3] = 1
    bins = coarse.bins((0, 0.5, 1))
    laid = session.blocks.lay(session.patch_for(slide, small.box)[0], small, labels, bins, "blocks imported")
    second = laid[0]
    assert laid == ("p0002", [first]) and session.can_undo == "blocks imported"
    (item,) = session.patches
    assert (item.box, item.patch.split, item.patch.group) == (small.box, "val", "patient 1")
    assert session.dataset.coarse_classes == bins
    np.testing.assert_array_equal(session.blocks.labels(second), labels)
    assert [p.name for p in (session.folder / "blocks").iterdir()] == [f"{second}.png"]
    session.undo()
    assert session.dataset.coarse_classes == AMOUNTS
    np.testing.assert_array_equal(session.blocks.labels(first), numbered(grid))


def test_grids_beside_it_stay_and_their_labels_keep_their_names(session: AnnotationSession, slide: Slide) -> None:
    left, right = (BlockGrid.over(slide, 100, Box(x, 0, 512, 768)) for x in (0, 512))
    added(session, slide, left)
    session.blocks.name(AMOUNTS)
    patch = session.patch_for(slide, right.box)[0]
    with pytest.raises(DatasetError, match=r"have other meanings: 1 is 'none' and not '50–100 %'\. Take the same bins or amounts as before, or another dataset\.$"):
        session.blocks.lay(patch, right, right.blank, coarse.bins((0, 0.5, 1)), "blocks imported")
    assert session.blocks.lay(patch, right, numbered(right), AMOUNTS, "blocks imported") == ("p0002", [])
    assert len(session.patches) == 2


def test_classes_of_patches_become_coarse_labels_in_one_step(session: AnnotationSession, slide: Slide) -> None:
    session.add_class("stroma")
    session.add_label_patch(slide, Box(0, 0, 64, 64), 1)
    session.add_label_patch(slide, Box(64, 0, 64, 64), 2)
    session.add_label_patch(slide, Box(128, 0, 64, 64), None)
    assert session.blocks.adopt_labels() == 2
    assert session.can_undo == "classes of 2 patches made coarse labels"
    assert [(b.box, b.coarse) for b in blocks_of(read_dataset(session.folder))] == [(Box(0, 0, 64, 64), 1), (Box(64, 0, 64, 64), 2)]
    assert [c.name for c in session.dataset.coarse_classes] == ["gland", "stroma"]
    session.undo()
    assert [p.kind for p in session.patches] == ["label", "label", "unlabeled"] and session.dataset.coarse_classes == ()


#: A process for each write of three steps, killed right before it.
KILLED = """
import os, pathlib, signal, sys
import numpy as np
from napari_histoseg.annotations import coarse
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.slide import open_slide

def deadly(n):
    left = [n]
    def wrap(function):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped
    os.fsync = wrap(os.fsync)
    for name in ("replace", "unlink", "open"):
        setattr(pathlib.Path, name, wrap(getattr(pathlib.Path, name)))

slide = open_slide(sys.argv[2])
grid, small = BlockGrid.over(slide, 100), BlockGrid.over(slide, 50)
patches = None
n = 0
while True:
    pid = os.fork()
    if not pid:
        session = AnnotationSession.create(f"{sys.argv[1]}/{n}", mpp=2.0)
        slide.fingerprint()
        deadly(n)
        id = session.blocks.add(session.patch_for(slide, grid.box)[0], grid, grid.blank)
        session.blocks.set_labels(id, grid.blank * 0 + 1)
        session.blocks.lay(session.patch_for(slide, small.box)[0], small, small.blank * 0 + 2, coarse.amount_classes(), "laid")
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
    n += 1
"""


@posix
def test_a_session_killed_before_any_write_has_whole_grids(slide_file: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(slide_file)], check=True, timeout=200)
    folders = sorted((p for p in tmp_path.iterdir()), key=lambda p: int(p.name))
    assert len(folders) > 10
    states = []
    for folder in folders:
        with AnnotationSession.open(folder) as session:
            grids = [session.blocks.labels(p.id) for p in session.patches]
            states.append([(g.shape, set(np.unique(g))) for g in grids])
            listed = {f"{p.id}.png" for p in session.patches}
        assert {p.name for p in (folder / "blocks").glob("*")} == listed, folder.name
    steps: list[list[Any]] = [[], [((3, 5), {255})], [((3, 5), {1})], [((7, 10), {2})]]
    assert [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]] == steps


# -- what is wrong with a dataset ---------------------------------------------------------------------------------------


def listing(folder: Path, patch: dict[str, Any], labels: np.ndarray | None = None, **more: Any) -> Path:
    """A dataset with one grid of blocks."""
    folder.mkdir(exist_ok=True)
    if labels is not None:
        Image.fromarray(labels).save(folder / "b.png")
    data = {"version": 1, "mpp": 2.0, "patches": [{"blocks": "b.png", **patch}], **more}
    (folder / "dataset.json").write_text(json.dumps(data))
    return folder


ON_SLIDE = {"slide": "s.svs", "box": [0, 0, 60, 40]}


@pytest.mark.parametrize(
    ("labels", "patch", "message"),
    [
        (np.zeros((2, 3), np.uint8), ON_SLIDE, None),
        (np.zeros((2, 2), np.uint8), ON_SLIDE, "the blocks b.png are 2 × 2 and their box 60 × 40 px, which makes no squares of whole pixels."),
        (np.zeros((40, 61), np.uint8), ON_SLIDE, "the blocks b.png are 61 × 40 and their box 60 × 40 px, which makes no squares of whole pixels."),
        (np.full((2, 3), 300, np.uint16), ON_SLIDE, "the blocks b.png hold values up to 300. Coarse labels are 0 to 254, and 255 is none."),
        (np.zeros((2, 3), np.uint8), {"image": "b.png"}, "the blocks b.png lie on a picture of its own. Blocks lie on a slide: give 'slide' and 'box'."),
    ],
)
def test_what_is_wrong_with_blocks_is_said(tmp_path: Path, labels: np.ndarray, patch: dict[str, Any], message: str | None) -> None:
    folder = listing(tmp_path / "d", patch, labels)
    dataset = read_dataset(folder)
    assert block_problem(dataset, dataset.patches[0]) == message
    if message is None:
        assert len(blocks_of(dataset)) == 6
    else:
        with pytest.raises(DatasetError) as caught:
            blocks_of(dataset)
        assert str(caught.value) == f"{folder} cannot be used: {message}"
        with pytest.raises(DatasetError, match=r"Patch 0: the blocks b\.png"):
            AnnotationSession.open(folder)


def test_a_picture_of_labels_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = listing(tmp_path / "d", ON_SLIDE)
    (folder / "b.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"The mask .*b\.png cannot be read"):
        blocks_of(read_dataset(folder))


@pytest.mark.parametrize(
    ("name", "message"), [("../b.png", "Patch 0: the blocks ../b.png lies outside the dataset's folder."), ("no.png", "Patch 0: the blocks no.png does not exist.")]
)
def test_blocks_lie_in_the_datasets_folder(tmp_path: Path, name: str, message: str) -> None:
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "b.png")
    folder = listing(tmp_path / "d", {**ON_SLIDE, "blocks": name})
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert str(caught.value) == f"{folder / 'dataset.json'} has 1 problem: {message}"


def test_a_patch_has_one_kind_of_annotation(tmp_path: Path) -> None:
    folder = listing(tmp_path / "d", {**ON_SLIDE, "coarse": 1}, np.zeros((2, 3), np.uint8))
    with pytest.raises(DatasetError, match="a patch has at most one of 'mask', 'label', 'coarse' and 'blocks'"):
        read_dataset(folder)


@pytest.mark.parametrize("rho", [0, -0.1])
def test_shares_that_do_not_vary_are_refused(tmp_path: Path, rho: float) -> None:
    row = {"coarse": 0, "class": 1, "eta": 1.0, "rho": rho}
    folder = listing(tmp_path / "d", ON_SLIDE, np.zeros((2, 3), np.uint8), statistics=[row])
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    assert str(caught.value) == (
        f"{folder / 'dataset.json'} has 1 problem: statistics.0.rho: a standard deviation is above 0, and {rho:g} was given. "
        "Write 0.001 (0.1 %) where all blocks hold the same."
    )


def test_a_dataset_lists_all_that_it_says_of_blocks(tmp_path: Path) -> None:
    folder = listing(
        tmp_path / "d", ON_SLIDE, np.zeros((2, 3), np.uint8),
        statistics=[{"coarse": 0, "class": 1, "eta": 0.25, "rho": 0.001}], coarse_classes=[{"value": 0, "name": "little"}],
    )  # fmt: skip
    dataset: PatchDataset = read_dataset(folder)
    assert dataset.statistics == (Statistic.model_validate({"coarse": 0, "class": 1, "eta": 0.25, "rho": 0.001}),)
    assert coarse_name(dataset, 0) == "little"
    assert (BlockGrid.of(dataset.patches[0], np.zeros((2, 3))).block(1, 2)) == Box(40, 20, 20, 20)
