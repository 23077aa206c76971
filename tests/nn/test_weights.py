"""Weights files: a card inside, no pickle, and plain words for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.nn.inference import prepared, to_input
from napari_histoseg.nn.weights import CARD_KEY, ModelCard, load_into, read_card, save_weights, sha256_of

CARD = ModelCard(method="nuclei", name="test", architecture="compact", width=8, mpp=0.25)


@pytest.fixture
def network() -> nn.Module:
    from napari_histoseg.methods.nuclei.network import build

    torch.manual_seed(0)
    return build("compact", 8)


@pytest.mark.parametrize("half", [False, True])
def test_weights_and_card_come_back(tmp_path: Path, network: nn.Module, half: bool) -> None:
    from napari_histoseg.methods.nuclei.network import build

    path = tmp_path / "w.safetensors"
    save_weights(path, network, CARD, half)
    assert read_card(path, "nuclei") == CARD
    other = build("compact", 8)
    load_into(other, path)
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 if half else 0, rtol=1e-3 if half else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert len(sha256_of(path)) == 64


def _file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.safetensors"
    if kind == "missing":
        return path
    if kind == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no card":
        save_file({"a": torch.zeros(1)}, path)
    elif kind == "bad card":
        save_file({"a": torch.zeros(1)}, path, metadata={CARD_KEY: "{"})
    elif kind == "newer":
        card = CARD.model_copy(update={"format_version": 99})
        save_file({"a": torch.zeros(1)}, path, metadata={CARD_KEY: card.model_dump_json()})
    elif kind == "other method":
        card = CARD.model_copy(update={"method": "tumour"})
        save_file({"a": torch.zeros(1)}, path, metadata={CARD_KEY: card.model_dump_json()})
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"The weights file .* does not exist\."),
        ("pickle", r"is not a weights file: it cannot be read as safetensors .* other formats are not loaded"),
        ("empty", r"is not a weights file"),
        ("no card", r"has no model card, so its method and pixel size are unknown"),
        ("bad card", r"The model card in .* cannot be read"),
        ("newer", r"was made by a newer version \(card format 99, this version reads 1\)"),
        ("other method", r"holds weights for the method 'tumour', not for 'nuclei'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_card(_file(tmp_path, kind), "nuclei")


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, network: nn.Module) -> None:
    path = tmp_path / "w.safetensors"
    state = dict(network.state_dict())
    state["stem.1.0.weight"] = torch.zeros(2, 2)
    save_file(state, path, metadata={CARD_KEY: CARD.model_dump_json()})
    with pytest.raises(WeightsError, match=r"does not fit the network that its card names: 1 tensors differ \(first: stem\.1\.0\.weight\)"):
        load_into(network, path)


def test_a_prepared_network_computes_the_same(network: nn.Module) -> None:
    images = torch.randint(0, 255, (2, 64, 96, 3), dtype=torch.uint8).numpy()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.eval()
    cpu = torch.device("cpu")
    with torch.inference_mode():
        before = network(to_input(images, cpu, torch.float32))
        after = prepared(network, cpu, torch.float32)(to_input(images, cpu, torch.float32))
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
