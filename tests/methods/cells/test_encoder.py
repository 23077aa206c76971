"""Features of nuclei: of the shipped network, or of ImageNet's where it is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.cells.encoder import NetworkNumbers
from napari_histoseg.nn.resnet import Encoder

CPU = torch.device("cpu")
CROPS = np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3)).astype(np.uint8)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's own folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def imagenet(nowhere: Path) -> Path:
    """A ResNet-18 of random numbers under torchvision's name; a name without a hash is not checked."""
    torch.manual_seed(0)
    path = nowhere / "resnet18-.pth"
    torch.save(Encoder().state_dict(), path)
    return path


def test_features_are_the_nuclei_network_s_where_there_is_no_other(nowhere: Path) -> None:
    numbers = NetworkNumbers(CPU)
    assert (numbers.kind, numbers(CROPS).shape) == ("nuclei", (5, 192))
    np.testing.assert_allclose(numbers(CROPS[2:3]), numbers(CROPS)[2:3], rtol=1e-4, atol=1e-5)


def test_imagenet_s_are_taken_where_they_are_found(imagenet: Path) -> None:
    assert NetworkNumbers(CPU, "nuclei").kind == "nuclei"
    numbers = NetworkNumbers(CPU)
    assert (numbers.kind, numbers(CROPS).shape) == ("imagenet", (5, 256))


def test_a_model_names_its_network_and_needs_it_again(imagenet: Path, tmp_path: Path) -> None:
    image, labels = he_tissue(300, 300, seed=1, mpp=0.25)
    given = {"labels": labels.astype(np.int32), "n_classes": 2}
    first = hs.run("cells", hs.open_slide(image, mpp=0.25), method="features", out=tmp_path / "a", **given)
    weights = hs.carry(first, tmp_path / "kinds.safetensors")
    again = hs.run("cells", hs.open_slide(image, mpp=0.25), weights=weights, **given)
    assert again.record.settings["encoder"] == "imagenet"
    assert again.objects["cluster"].tolist() == first.objects["cluster"].tolist()
    imagenet.unlink()
    with pytest.raises(WeightsError, match=r"^ImageNet weights were not found\. Put torchvision's resnet18-….pth into torch's folder for checkpoints, or set encoder to nuclei\.$"):
        hs.run("cells", hs.open_slide(image, mpp=0.25), weights=weights, **given)
