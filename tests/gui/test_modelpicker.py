"""The list of models and their cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from napari_histoseg.gui.modelpicker import ModelChoice, ModelPicker, card_text
from napari_histoseg.nn.weights import CARD_KEY, ModelCard

CARD = ModelCard(
    method="nuclei",
    name="colon nuclei",
    architecture="compact",
    width=8,
    mpp=0.25,
    data=[{"title": "CoNSeP", "license": "Apache 2.0"}],
    scores={"validation": {"aji": 0.5, "pq": 0.4}},
)


@pytest.fixture
def picker(qtbot: Any) -> ModelPicker:
    made = ModelPicker("nuclei", [ModelChoice("Blobs", "log", note="No network.")])
    qtbot.addWidget(made)
    return made


def write(path: Path, card: ModelCard) -> Path:
    save_file({"x": np.zeros(1, np.float32)}, path, metadata={CARD_KEY: card.model_dump_json()})
    return path


def test_a_card_says_pixel_size_scores_data_and_license() -> None:
    text = card_text(CARD)
    for words in ("colon nuclei", "0.25 µm/px", "AJI 0.50, PQ 0.40", "CoNSeP (Apache 2.0)"):
        assert words in text


def test_weights_from_a_file_are_added_and_chosen(picker: ModelPicker, tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", CARD)
    picker.add_file(path)
    assert picker.choice.weights == path
    assert picker.choice.model == "compact"
    assert "colon nuclei" in picker.card.text()


@pytest.mark.parametrize("content", [b"", b"no safetensors"])
def test_a_file_that_is_no_weights_is_refused_in_a_sentence(picker: ModelPicker, tmp_path: Path, content: bytes) -> None:
    said: list[str] = []
    picker.message.connect(said.append)
    (tmp_path / "w.safetensors").write_bytes(content)
    picker.add_file(tmp_path / "w.safetensors")
    assert "is not a weights file" in said[0]
    assert picker.choice.model == "log"


def test_weights_of_another_method_are_refused(picker: ModelPicker, tmp_path: Path) -> None:
    said: list[str] = []
    picker.message.connect(said.append)
    picker.add_file(write(tmp_path / "w.safetensors", CARD.model_copy(update={"method": "tissue"})))
    assert "not for 'nuclei'" in said[0]
