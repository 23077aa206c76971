"""The networks of joint training: shapes and sizes as in the paper's tables, names as torchvision's, and who teaches whom."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_histoseg.errors import SettingsError, WeightsError
from napari_histoseg.methods.joint.network import CLASS_AXIS, HALO_PX, MAPS_PX, PaperNetwork, build, fold
from napari_histoseg.nn.imagenet import find_imagenet
from napari_histoseg.nn.resnet import Encoder, load_encoder
from napari_histoseg.nn.weights import sha256_of

VARIANTS = ("paper", "improved")


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_encoder_is_resnet18_to_its_third_layer() -> None:
    encoder = Encoder()
    # torchvision's ResNet-18 has 11,689,512 parameters, of which layer4 has 8,393,728 and fc 513,000.
    assert size(encoder) == 11_689_512 - 8_393_728 - 513_000
    names = encoder.state_dict()
    assert names["conv1.weight"].shape == (64, 3, 7, 7)
    assert names["layer1.0.conv1.weight"].shape == (64, 64, 3, 3)
    assert names["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert names["layer3.1.bn2.running_var"].shape == (256,)
    assert not [n for n in names if n.split(".")[0] not in ("conv1", "bn1", "layer1", "layer2", "layer3")]
    assert "layer1.0.downsample.0.weight" not in names
    assert [tuple(t.shape) for t in encoder(torch.rand(2, 3, 128, 128))] == [(2, 64, 32, 32), (2, 128, 16, 16), (2, 256, 8, 8)]


@pytest.mark.parametrize("classes", [2, 4])
def test_the_paper_s_modules_have_the_sizes_of_its_tables(classes: int) -> None:
    network = build("paper", 64, classes)
    assert isinstance(network, PaperNetwork)
    image = torch.rand(3, 3, 128, 128)
    maps = network.maps(image)
    assert maps.shape == (3, classes, 16, 16)
    assert network(image).shape == (3, classes, 128, 128)
    assert network.classify(maps).shape == (3, classes)
    # Table A.1: 3 x 3 convolution without bias, batch norm, 1 x 1 convolution with bias.
    assert size(network.decoder) == 256 * 64 * 9 + 2 * 64 + 64 * classes + classes
    # Table A.2: two 1 x 1 convolutions without bias around a batch norm.
    assert size(network.classifier) == classes * 8 + 2 * 8 + 8 * classes


def test_the_paper_s_output_is_enlarged_by_nearest_neighbor() -> None:
    network = build("paper", 16, 3).eval()
    image = torch.rand(1, 3, 64, 64)
    maps = network.maps(image)
    torch.testing.assert_close(network(image), maps.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_the_head_of_the_authors_code_is_the_largest_logit() -> None:
    network = build("paper", 16, 3, "maxpool").eval()
    maps = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network.classify(maps), maps.amax((2, 3)))
    assert size(network.classifier) == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(64, 64), (128, 96), (512, 512)])
def test_patches_of_any_size_give_maps_of_their_size(variant: str, shape: tuple[int, int]) -> None:
    network = build(variant, 8, 3).eval()
    with torch.inference_mode():
        image = torch.rand(1, 3, *shape)
        assert network(image).shape == (1, 3, *shape)
        assert network.maps(image).shape == (1, 3, *(s // MAPS_PX[variant] for s in shape))


def test_a_class_teaches_the_encoder_through_the_segmentation_output() -> None:
    network = build("paper", 16, 3)
    assert isinstance(network, PaperNetwork)
    network.classify(network.maps(torch.rand(4, 3, 64, 64)))[:, 1].sum().backward()
    for module in (network.encoder, network.decoder, network.classifier):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters() if p.ndim > 1)


def test_a_mask_teaches_the_classifier_nothing() -> None:
    network = build("paper", 16, 3)
    assert isinstance(network, PaperNetwork)
    network(torch.rand(4, 3, 64, 64))[:, 1].sum().backward()
    assert all(p.grad is None for p in network.classifier.parameters())
    assert all(p.grad is not None for p in network.decoder.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_beyond_the_halo_is_seen(variant: str) -> None:
    torch.manual_seed(0)
    network = build(variant, 8, 2).eval()
    side = 640
    image = torch.rand(1, 3, side, side, requires_grad=True)
    # One pixel for each place within a stride.
    for at in (side // 2, side // 2 + 7, side // 2 + 15):
        (gradient,) = torch.autograd.grad(network(image)[0, 0, at, at], image)
        seen = gradient.abs().sum((0, 1)).nonzero()
        assert int((seen - at).abs().max()) <= HALO_PX[variant]
        assert int((seen - at).abs().max()) > HALO_PX[variant] // 2, "the halo is not far too large either"


@pytest.mark.parametrize("variant", VARIANTS)
def test_folding_changes_nothing(variant: str) -> None:
    torch.manual_seed(0)
    network = build(variant, 8, 3)
    for _ in range(3):
        network(torch.rand(2, 3, 64, 64))
    image = torch.rand(1, 3, 64, 64)
    before = network.eval()(image)
    fold(network)
    torch.testing.assert_close(network(image), before, atol=1e-4, rtol=1e-4)
    assert isinstance(network.encoder.bn1, torch.nn.Identity)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tensors_with_an_axis_of_classes_are_known(variant: str) -> None:
    two, three = (build(variant, 8, classes).state_dict() for classes in (5, 7))
    assert {n for n in two if two[n].shape != three[n].shape} == set(CLASS_AXIS) & set(two)
    for name in set(CLASS_AXIS) & set(two):
        assert two[name].shape[CLASS_AXIS[name]] == 5


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(SettingsError, match="There is no joint network 'other'"):
        build("other", 8, 2)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file as torchvision publishes it: layer4 and fc too, the beginning of the hash in the name."""
    torch.manual_seed(1)
    state = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in Encoder().state_dict().items()}
    state |= {"layer4.0.conv1.weight": torch.rand(8), "fc.weight": torch.rand(8), "fc.bias": torch.rand(8)}
    # Files from before batch norm counted its batches.
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "hub" / "checkpoints" / "resnet18-new.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path.rename(path.with_name(f"resnet18-{sha256_of(path)[:8]}.pth"))


def test_imagenet_weights_are_found_checked_and_loaded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(checkpoint.parents[1]))
    assert find_imagenet("resnet18") == checkpoint == find_imagenet("resnet18", checkpoint)
    encoder = Encoder()
    load_encoder(encoder, checkpoint)
    torch.testing.assert_close(encoder.layer3[1].conv2.weight, torch.load(checkpoint, weights_only=True)["layer3.1.conv2.weight"])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(checkpoint.parent))
    assert find_imagenet("resnet18") is None


def test_bad_encoder_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not exist"):
        find_imagenet("resnet18", tmp_path / "no.pth")
    with pytest.raises(WeightsError, match="ImageNet weights have width 64, and this network 32"):
        load_encoder(Encoder(32), checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="is damaged: its hash does not begin with"):
        load_encoder(Encoder(), checkpoint)
    other = tmp_path / "other.pth"
    other.write_bytes(b"this is no checkpoint")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint of tensors"):
        load_encoder(Encoder(), other)
    torch.save({"a": torch.rand(2)}, other)
    with pytest.raises(WeightsError, match="is no ResNet-18 checkpoint"):
        load_encoder(Encoder(), other)
