"""Label super-resolution from the command line: import coarse labels, train, run, export, score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg._testing_lsr import MPP, SMALL
from napari_histoseg.cli import main
from napari_histoseg.nn.weights import read_card

SIDE = 384


def truth() -> np.ndarray:
    """A disk in the middle of the slide."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    return np.hypot(y - SIDE / 2, x - SIDE / 2) < SIDE / 3


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tissue with a dark disk."""
    image = he_image(SIDE, SIDE, seed=1, mpp=MPP, glass=0)
    return write_svs(tmp_path_factory.mktemp("slide") / "slide.svs", np.where(truth()[..., None], image // 3, image), mpp=MPP, quality=95)


def test_from_a_heatmap_to_a_score(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heat = truth().reshape(24, 16, 24, 16).mean((1, 3))
    Image.fromarray((heat * 255).astype(np.uint8)).save(tmp_path / "heat.png")
    dataset, weights, out = tmp_path / "blocks", tmp_path / "w.safetensors", tmp_path / "map"
    assert main(["import", str(tmp_path / "heat.png"), str(dataset), "--coarse", "--slide", str(slide), "--block-um", "64", "--bins", "4", "--mpp", "2"]) == 0
    content = json.loads((dataset / "dataset.json").read_text())
    content["classes"] = [{"value": 1, "name": "disk", "color": "#ff0000"}]
    content["statistics"] = [{"coarse": c["value"], "class": 1, "eta": eta, "rho": 0.05} for c, eta in zip(content["coarse_classes"], (0.02, 0.37, 0.63, 0.98), strict=True)]
    (dataset / "dataset.json").write_text(json.dumps(content))
    more = {**SMALL, "steps": 60, "validate_every": 60, "width": 8, "batch": 12, "augmentation": 0, "learning_rate": 0.005, "average_decay": 0.8}
    assert main(["train", "lsr", str(dataset), "--out", str(weights), *(part for key, value in more.items() for part in ("--set", f"{key}={value}"))]) == 0
    assert "note: Nothing was held out: scores are of the training blocks." in capsys.readouterr().err
    assert read_card(weights, "lsr").data[0]["blocks"] == 144
    assert main(["run", "lsr", str(slide), "--weights", str(weights), "--out", str(out)]) == 0
    assert main(["export", str(out), str(tmp_path / "map.geojson")]) == 0
    tifffile.imwrite(tmp_path / "truth.tif", truth().astype(np.uint8))
    capsys.readouterr()
    assert main(["score", "lsr", str(out), str(tmp_path / "truth.tif"), "--mpp", "2", "--within-um", "30"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["iou"] > 0.8 and 0 < scores["masked_iou"] < scores["iou"] and scores["islands_per_mm2"] >= 0
