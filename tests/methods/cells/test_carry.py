"""What a person made of the classes goes to the next slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.cli import main
from napari_histoseg.errors import ResultError, SettingsError
from napari_histoseg.nn.weights import read_card
from napari_histoseg.results import open_result
from napari_histoseg.results.classbook import ClassBook


def grouped(seed: int, **more: Any) -> Any:
    """Classes of the nuclei of a picture."""
    image, labels = he_tissue(420, 380, seed=seed, mpp=0.25)
    return hs.run("cells", hs.open_slide(image, mpp=0.25), labels=labels.astype(np.int32), **more)


@pytest.fixture
def result(tmp_path: Path) -> Any:
    return grouped(1, n_classes=4, out=tmp_path / "kinds")


def test_names_colors_and_merges_go_along(result: Any, tmp_path: Path) -> None:
    book = ClassBook(result)
    book.rename(1, "lymphocyte")
    book.recolor(1, "#0000ff")
    book.merge([2, 3], into=3)
    weights = hs.carry(result, tmp_path / "mine.safetensors")
    assert read_card(weights).summary == "Classes of cells: lymphocyte, cluster 3, cluster 4."
    again = grouped(1, weights=weights)
    assert again.objects["class"].tolist() == result.objects["class"].tolist()
    other = grouped(2, weights=weights)
    assert [(c.value, c.name, c.color) for c in other.classes] == [(c.value, c.name, c.color) for c in result.classes]
    assert set(other.objects["class"]) <= {"lymphocyte", "cluster 3", "cluster 4"}
    assert other.record.settings["n_classes"] == 4 and other.record.weights.name == "mine"


def test_what_was_split_and_corrected_is_learned(result: Any, tmp_path: Path) -> None:
    objects = result.objects
    large = objects["id"][objects["area_um2"] > objects["area_um2"].quantile(0.7)]
    ClassBook(result).assign(large.tolist(), "large")
    weights = hs.carry(result, tmp_path / "mine.safetensors")
    again = grouped(1, weights=weights)
    assert {c.name for c in again.classes} == {c.name for c in result.classes} and "large" in set(again.objects["class"])
    assert (again.objects["class"].to_numpy() == result.objects["class"].to_numpy()).mean() > 0.8


def test_a_result_can_be_carried_from_the_command_line(result: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "carry", str(result.path), str(tmp_path / "m.safetensors")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "m.safetensors")


def test_what_cannot_be_carried_is_said(result: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^Weights are written as \.safetensors\. Got 'm\.pt' instead; name the file for instance cells\.safetensors\.$"):
        hs.carry(result, tmp_path / "m.pt")
    (result.path / "model.safetensors").unlink()
    with pytest.raises(ResultError) as caught:
        hs.carry(open_result(result.path), tmp_path / "m.safetensors")
    assert str(caught.value) == f"{result.path} has no model of cell classes to carry on. Give a finished result of cells."
