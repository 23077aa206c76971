"""Label super-resolution keeps what every method keeps."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_histoseg as hs
from napari_histoseg._testing import he_image
from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.lsr.network import UNet
from napari_histoseg.nn.weights import ModelCard, save_weights

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

CLASSES = [{"value": 0, "name": "background"}, {"value": 3, "name": "dark", "color": "#ff0000"}, {"value": 7, "name": "light", "color": "#0000ff"}]


def write_weights(path: Path, **card: Any) -> Path:
    """A small network of random numbers whose classes lie in patches over the slide."""
    torch.manual_seed(0)
    network = UNet(len(CLASSES), 8)
    batch = torch.from_numpy(np.stack([he_image(128, 128, seed=i, mpp=0.5, glass=0.1) for i in range(4)])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for _ in range(20):  # batch norm learns what pictures look like
            logits = network(batch)
        # All classes are the most probable one somewhere.
        network.answer.weight /= logits.std((0, 2, 3))[:, None, None, None]
        network.answer.bias -= network.eval()(batch).mean((0, 2, 3))
    save_weights(path, network, ModelCard(**{"method": "lsr", "name": "random", "architecture": "unet", "width": 8, "mpp": 0.5, "classes": CLASSES, **card}))
    return path


@pytest.fixture(scope="module", autouse=True)
def ready(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Weights for all tests."""
    TestLsr.fast = {"weights": write_weights(tmp_path_factory.mktemp("weights") / "lsr.safetensors")}


class TestLsr(_module.Conformance):
    method = "lsr"

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        labels = [np.asarray(r.labels) for r in (a, b)]
        assert set(np.unique(labels[0])) == {0, 3, 7}
        assert (labels[0] == labels[1]).mean() >= (0.9999 if least is None else least)
        if least is None:
            difference = np.abs(np.asarray(a.probability) - np.asarray(b.probability))
            assert difference.max() <= 1.01 / 255


def test_there_are_no_weights_to_begin_with() -> None:
    slide = hs.open_slide(he_image(100, 100, seed=1, mpp=0.5), mpp=0.5)
    with pytest.raises(WeightsError, match=r"The method 'lsr' has no weights of its own: its classes are yours\. Label blocks and train"):
        hs.run("lsr", slide)


def test_a_network_of_another_version_is_refused(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "other.safetensors", architecture="transformer")
    slide = hs.open_slide(he_image(100, 100, seed=1, mpp=0.5), mpp=0.5)
    with pytest.raises(WeightsError, match=r"names a network 'transformer' that this version does not have\. Update napari-histoseg\."):
        hs.run("lsr", slide, weights=path)
