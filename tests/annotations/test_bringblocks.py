"""Coarse labels from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.blocks import blocks_of
from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.cli import main
from napari_histoseg.errors import DatasetError, PixelSizeError

HEAT = np.array([[0, 60, 130], [130, 255, 200]], np.uint8)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_svs(tmp_path / "a.svs", he_image(1200, 800, seed=1, mpp=0.5), mpp=0.5)


@pytest.fixture
def heat(tmp_path: Path) -> Path:
    Image.fromarray(HEAT).save(tmp_path / "heat.png")
    return tmp_path / "heat.png"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("benign", "malignant"):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(he_image(96, 96, seed=i)).save(tmp_path / "tiles" / name / f"{i}.png")
    return tmp_path / "tiles"


def test_a_heatmap_becomes_blocks_of_a_new_dataset(slide: Path, heat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    assert main(["import", str(heat), str(folder), "--coarse", "--slide", str(slide), "--block-um", "200", "--edges", "0,0.2,0.5,1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["     1  0–20 %", "     1  20–50 %", "     4  50–100 %", f"6 of 2 × 3 blocks: {folder}"]
    dataset = read_dataset(folder)
    assert dataset.mpp == 5.0
    assert [(b.coarse, b.box) for b in blocks_of(dataset)][3] == (2, hs.Box(0, 400, 400, 400))
    assert [c.name for c in dataset.coarse_classes] == ["0–20 %", "20–50 %", "50–100 %"]


def test_a_second_import_takes_the_place_of_the_first(slide: Path, heat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    hs.import_blocks(heat, folder, slide=slide, block_um=200)
    assert main(["import", str(heat), str(folder), "--coarse", "--slide", str(slide), "--bins", "2", "--block-um", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "dataset": str(folder), "id": "p0002", "rows": 4, "columns": 6, "blocks": {"0–50 %": 8, "50–100 %": 16}, "unlabeled": 0,
        "notices": ["The grid p0001 of a.svs, which lay there, was replaced."],
    }  # fmt: skip
    assert [p.id for p in read_dataset(folder).patches] == ["p0002"]


def test_other_sources_and_parts_from_python(slide: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [10, 500, -9], "y": [10, 500, 0], "probability": [0.5, 0.9, 0.1]})
    report = hs.import_blocks(table, tmp_path / "set", slide=slide, block_um=200, bins=2, mpp=1.5)
    assert (report.id, report.rows, report.columns, report.unlabeled) == ("p0001", 2, 3, 4)
    assert report.blocks == {"0–50 %": 0, "50–100 %": 2} and report.notices == ("1 row lies outside a.svs and was left out.",)
    assert read_dataset(tmp_path / "set").mpp == 1.5
    with hs.open_slide(slide) as opened:
        part = hs.import_blocks(np.array([[0.25, 0.75]]), tmp_path / "other", slide=opened, block_um=200, bins=2, area=(400, 400, 800, 400))
    assert part.blocks == {"0–50 %": 1, "50–100 %": 1}
    (patch,) = read_dataset(tmp_path / "other").patches
    assert patch.box == (400, 400, 800, 400)


def test_one_step_takes_an_import_back(slide: Path, heat: Path, tmp_path: Path) -> None:
    hs.import_blocks(heat, tmp_path / "set", slide=slide, block_um=200, bins=2)
    with AnnotationSession.open(tmp_path / "set") as session, hs.open_slide(slide) as opened:
        from napari_histoseg.annotations import coarse
        from napari_histoseg.annotations.blocks import BlockGrid

        grid = BlockGrid.over(opened, 50)
        session.blocks.lay(session.patch_for(opened, grid.box)[0], grid, grid.blank, coarse.bins((0, 0.1, 1)), "blocks imported")
        session.undo()
        np.testing.assert_array_equal(session.blocks.labels("p0001"), [[0, 0, 1], [1, 1, 1]])
        assert [c.name for c in session.dataset.coarse_classes] == ["0–50 %", "50–100 %"]


def test_classification_patches_become_blocks(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    assert main(["import", str(pictures), str(folder), "--coarse", "--mpp", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines() == ["     2  benign", "     2  malignant", f"4 blocks: {folder}"]
    assert [b.coarse for b in blocks_of(read_dataset(folder))] == [1, 1, 2, 2]


def test_those_of_a_dataset_become_blocks_in_place(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    assert main(["import", str(pictures), str(folder), "--mpp", "0.5"]) == 0
    assert hs.import_blocks(folder, folder).blocks == {"benign": 2, "malignant": 2}
    assert len(blocks_of(read_dataset(folder))) == 4


def test_a_slide_without_a_pixel_size_is_given_one(heat: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    Image.fromarray(he_image(120, 80)).save(path)
    with pytest.raises(PixelSizeError) as caught:
        hs.import_blocks(heat, tmp_path / "set", slide=path, block_um=20)
    assert str(caught.value) == "plain.png has no pixel size (µm/px). Give it with --slide-mpp on the command line, or slide_mpp= in Python."
    assert main(["import", str(heat), str(tmp_path / "set"), "--coarse", "--slide", str(path), "--slide-mpp", "0.5", "--block-um", "20"]) == 0
    (patch,) = read_dataset(tmp_path / "set").patches
    assert patch.slide_mpp == 0.5 and patch.box == (0, 0, 120, 80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heat.png", "set", "--coarse"], "heat.png needs the slide that its blocks lie on. Name it with --slide, or slide= in Python."),
        (["tiles", "set", "--coarse"], "set is no dataset yet. Say at how many µm per pixel the pictures are, with --mpp, or mpp= in Python."),
        (["heat.png", "set", "--coarse", "--slide", "a.svs", "--block-um", "0"], "Blocks of 0 µm are impossible. Give a side above 0 µm."),
        (["heat.png", "set", "--coarse", "--slide", "a.svs", "--block-um", "500"], "Blocks of 500 µm are larger than a.svs (600 × 400 µm). Choose smaller blocks."),
        (["heat.png", "set", "--coarse", "--slide", "a.svs", "--bins", "1"], "1 bins were asked for. Give 2 to 100; 10 are usual."),
        (["heat.png", "set", "--coarse", "--slide", "a.svs", "--edges", "0,a"], "--edges 0,a: give numbers from 0 to 1 with commas between them, such as 0,0.2,0.5,1."),
        (["heat.png", "set", "--coarse", "--slide", "a.svs", "--edges", "0,1", "--bins", "3"], "--bins and --edges both say what the bins are. Give one of them."),
        (["heat.png", "set", "--coarse", "--slide", "a.svs", "--kind", "masks"], "--kind has no meaning with --coarse. Leave one of them out."),
        (["tiles", "set", "--mpp", "2", "--block-um", "50"], "--block-um has a meaning only with --coarse. Give --coarse, or leave it out."),
        (["none.png", "set", "--coarse", "--slide", "a.svs"], "none.png does not exist."),
        (["tiles", "tiles", "--coarse"], "tiles is no patch dataset: it has no dataset.json. Choose the folder that was created for one."),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_and_nothing_is_made(
    slide: Path, heat: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["import", *arguments]) == 2
    assert capsys.readouterr().err.strip() == f"histoseg: {message}"
    assert not (tmp_path / "set").exists()


def test_an_import_that_fails_leaves_the_dataset_as_it_was(slide: Path, heat: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    hs.import_blocks(heat, folder, slide=slide, block_um=200)
    before = (folder / "dataset.json").read_bytes()
    with pytest.raises(DatasetError, match="no row on"):
        hs.import_blocks(pd.DataFrame({"x": [-1], "y": [0], "score": [1]}), folder, slide=slide)
    with pytest.raises(DatasetError, match="have other meanings: 2 is '20–30 %' and not 'malignant'"):
        hs.import_blocks(pictures, folder)
    assert json.loads((folder / "dataset.json").read_bytes())["patches"] == json.loads(before)["patches"]
