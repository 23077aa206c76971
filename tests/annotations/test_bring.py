"""Importing annotations from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.bring import import_annotations
from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.cli import main
from napari_histoseg.errors import DatasetError

SQUARE = [[[200, 200], [500, 200], [500, 500], [200, 500], [200, 200]]]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_svs(tmp_path / "a.svs", he_image(1024, 1024, seed=1, mpp=0.5), mpp=0.5)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": SQUARE},
        "properties": {"objectType": "annotation", "classification": {"name": "tumor", "color": [200, 0, 0]}},
    }
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("benign", "malignant"):
        (tmp_path / "tiles" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(he_image(96, 96, seed=i)).save(tmp_path / "tiles" / name / f"{i}.png")
    return tmp_path / "tiles"


def test_areas_of_qupath_become_painted_patches(slide: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    assert main(["import", str(drawn), str(folder), "--mpp", "2", "--slide", str(slide), "--outside", "background"]) == 0
    assert capsys.readouterr().out == f"1 patches: {folder}\n"
    dataset = read_dataset(folder)
    (patch,) = dataset.patches
    assert [c.name for c in dataset.classes] == ["tumor"]
    assert patch.mask is not None
    mask = np.asarray(Image.open(folder / patch.mask))
    assert (mask == 1).sum() == pytest.approx(75**2, rel=0.05)
    assert set(np.unique(mask)) == {0, 1}


def test_a_folder_of_classes_is_added_to_a_dataset_that_is_there(
    slide: Path, drawn: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    import_annotations(drawn, folder, mpp=2, slide=slide)
    assert main(["import", str(pictures), str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 4
    dataset = read_dataset(folder)
    assert sorted(p.label for p in dataset.patches if p.label) == ["benign", "benign", "malignant", "malignant"]
    assert len(dataset.patches) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.geojson", "set", "--mpp", "2"], "histoseg: a.geojson holds areas on a slide, but no slide was given. Name it with --slide, or slide= in Python."),
        (["a.geojson", "set", "--slide", "a.svs"], "histoseg: set is no dataset yet. Say at how many µm per pixel it shall be, with --mpp, or mpp= in Python."),
        (["tiles", "set", "--mpp", "2", "--slide", "a.svs"], "histoseg: tiles is no GeoJSON, so it needs no slide. Leave --slide out, or give a .geojson file."),
        (["nothing", "set", "--mpp", "2"], "histoseg: nothing is no folder. Choose one that holds pictures."),
    ],
)
def test_what_is_missing_is_said(
    slide: Path, drawn: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["import", *arguments]) == 2
    assert capsys.readouterr().err.strip() == message


def test_the_same_from_python_raises(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no dataset yet"):
        import_annotations(pictures, tmp_path / "set")
