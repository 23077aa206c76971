"""Joint keeps what every method keeps, with either network."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_image
from napari_histoseg.methods.glass import glass
from napari_histoseg.methods.joint.network import build
from napari_histoseg.nn.weights import ModelCard, save_weights

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

CLASSES = [{"value": 0, "name": "background"}, {"value": 3, "name": "dark", "color": "#ff0000"}, {"value": 7, "name": "light", "color": "#0000ff"}]


def weights(folder: Path, variant: str) -> Path:
    """A small network of random numbers whose classes lie in patches over the slide."""
    torch.manual_seed(0)
    network = build(variant, 16, len(CLASSES))
    with torch.no_grad():
        for _ in range(20):  # batch norm learns what pictures look like
            batch = np.stack([he_image(128, 128, seed=i, mpp=0.5, glass=0.1) for i in range(4)])
            network(torch.from_numpy(batch).permute(0, 3, 1, 2) / 255)
    path = folder / f"{variant}.safetensors"
    card = ModelCard(method="joint", name=variant, architecture=variant, width=16, mpp=0.5, classes=CLASSES)
    save_weights(path, network, card)
    return path


@pytest.fixture(scope="module", autouse=True)
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The method under its name, and weights."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in (TestImproved, TestPaper):
        kind.fast = {"weights": weights(folder, kind.variant)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "joint"))))
        yield


class _Joint(_module.Conformance):
    method = "joint"
    variant = ""

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        labels = [np.asarray(r.labels) for r in (a, b)]
        assert len(np.unique(labels[0])) == 3 and set(np.unique(labels[0])) == {0, 3, 7}
        assert (labels[0] == labels[1]).mean() >= (0.9999 if least is None else least)
        if least is None:
            difference = np.abs(np.asarray(a.probability) - np.asarray(b.probability))
            assert difference.max() <= 1.01 / 255


class TestImproved(_Joint):
    variant = "improved"


class TestPaper(_Joint):
    variant = "paper"


def test_the_probability_is_the_certainty_of_the_class_shown() -> None:
    slide = hs.open_slide(he_image(300, 300, seed=5, mpp=0.5), mpp=0.5)
    result = hs.run("joint", slide, **TestPaper.fast)
    probability = np.asarray(result.probability)
    assert probability.min() >= 85 / 255 and len(np.unique(probability)) > 5
    assert [(c.value, c.name, c.color) for c in result.record.classes] == [(3, "dark", "#ff0000"), (7, "light", "#0000ff")]


def test_glass_beside_tissue_is_background_and_lumens_are_not() -> None:
    image = np.full((400, 600, 3), 243, np.uint8)
    image[:, :300] = he_image(300, 400, seed=2, mpp=0.5)
    image[100:120, 100:120] = 243
    image[390:, 590:] = 243
    slide = hs.open_slide(image, mpp=0.5)
    result = hs.run("joint", slide, **TestPaper.fast, glass_um=30.0)
    assert not np.asarray(result.labels)[:, 362:].any() and not np.asarray(result.probability)[:, 362:].any()
    assert np.asarray(result.probability)[:, :355].all()
    found = glass(image, 60)
    assert found[:, 362:].all() and not found[:, :350].any()
    everywhere = hs.run("joint", slide, **TestPaper.fast, glass_um=0.0)
    assert np.asarray(everywhere.probability).all()
