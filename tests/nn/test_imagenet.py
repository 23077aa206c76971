"""ImageNet checkpoints: found by torchvision's names, checked, and loaded into the networks here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.nn.imagenet import PUBLISHED, find_imagenet, load_imagenet
from napari_histoseg.nn.inception import InceptionV3
from napari_histoseg.nn.mobilenet import MobileNetV2
from napari_histoseg.nn.resnet import Encoder
from napari_histoseg.nn.vgg import Vgg16
from napari_histoseg.nn.weights import sha256_of

NETWORKS = {"resnet18": Encoder, "mobilenet_v2": MobileNetV2, "inception_v3": InceptionV3, "vgg16": Vgg16}
ALSO_PUBLISHED = {
    "resnet18": ("layer4.1.bn2.weight", "fc.bias"),
    "mobilenet_v2": ("classifier.1.weight", "classifier.1.bias"),
    "inception_v3": ("AuxLogits.conv0.conv.weight", "AuxLogits.fc.bias", "fc.weight"),
    "vgg16": ("classifier.0.weight", "classifier.6.bias"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's own folder of checkpoints, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def publish(network: nn.Module, name: str, folder: Path) -> Path:
    """A file as torchvision publishes it: the classifier's tensors too, the beginning of the hash in the name."""
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    state |= {key: torch.rand(4) for key in ALSO_PUBLISHED[name]}
    path = folder / "new.pth"
    torch.save(state, path)
    return path.rename(folder / f"{PUBLISHED[name].stem}-{sha256_of(path)[:8]}.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_is_found_and_loaded(name: str, folder: Path) -> None:
    assert find_imagenet(name) is None
    torch.manual_seed(0)
    source, target = NETWORKS[name](), NETWORKS[name]()
    path = publish(source, name, folder)
    assert find_imagenet(name) == path
    assert [find_imagenet(other) for other in PUBLISHED if other != name] == [None] * 3
    load_imagenet(target, path, name)
    for one, other in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_file_may_have_any_name_and_then_has_no_hash(folder: Path) -> None:
    source, target = MobileNetV2(), MobileNetV2()
    path = publish(source, "mobilenet_v2", folder).rename(folder / "mine.pth")
    assert find_imagenet("mobilenet_v2", path) == path
    load_imagenet(target, path, "mobilenet_v2")
    assert torch.equal(target.features[0][0].weight, source.features[0][0].weight)


def test_a_file_that_is_not_there_is_named_with_what_is_wanted(folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"no\.pth does not exist. Give torchvision's InceptionV3 checkpoint \(inception_v3_google-….pth\)\."):
        find_imagenet("inception_v3", folder / "no.pth")


def test_a_checkpoint_of_another_network_is_refused(folder: Path) -> None:
    path = publish(MobileNetV2(), "mobilenet_v2", folder)
    with pytest.raises(WeightsError, match=r"is no VGG-16 checkpoint with torchvision's names \(first difference: features\.0\.weight\)\."):
        load_imagenet(Vgg16(), path, "vgg16")


def test_a_damaged_file_is_refused(folder: Path) -> None:
    path = publish(MobileNetV2(), "mobilenet_v2", folder)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="is damaged: its hash does not begin with"):
        load_imagenet(MobileNetV2(), path, "mobilenet_v2")
    path.rename(folder / "other.pth").write_bytes(b"this is no checkpoint")
    with pytest.raises(WeightsError, match=r"cannot be read as a checkpoint of tensors \(.*\)\. Give torchvision's MobileNetV2\."):
        load_imagenet(MobileNetV2(), folder / "other.pth", "mobilenet_v2")
