"""MobileNetV2, InceptionV3 and VGG-16: torchvision's names and shapes, one kind of input, and what folding leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from napari_histoseg.nn.inception import InceptionV3
from napari_histoseg.nn.inference import prepared
from napari_histoseg.nn.mobilenet import MobileNetV2
from napari_histoseg.nn.vgg import Vgg16

CPU = torch.device("cpu")

# As torchvision's published checkpoints have them.
PUBLISHED = {
    MobileNetV2: {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_var": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.bias": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.weight": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.weight": (1280,),
    },
    InceptionV3: {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_1a_3x3.bn.running_mean": (32,),
        "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6b.branch7x7dbl_2.conv.weight": (128, 128, 7, 1),
        "Mixed_6d.branch7x7_3.conv.weight": (192, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch3x3dbl_2.conv.weight": (384, 448, 3, 3),
        "Mixed_7c.branch1x1.conv.weight": (320, 2048, 1, 1),
        "Mixed_7c.branch_pool.bn.weight": (192,),
    },
    Vgg16: {
        "features.0.weight": (64, 3, 3, 3),
        "features.2.bias": (64,),
        "features.5.weight": (128, 64, 3, 3),
        "features.14.weight": (256, 256, 3, 3),
        "features.17.weight": (512, 256, 3, 3),
        "features.28.weight": (512, 512, 3, 3),
    },
}
# Parameters, tensors in the state without batch norm's counters, features, and side of the features of 128 px.
SIZES = [
    (MobileNetV2, 2_223_872, 260, 1280, 4),
    (InceptionV3, 21_785_568, 470, 2048, 2),
    (Vgg16, 14_714_688, 26, 512, 4),
]
each = pytest.mark.parametrize("kind", list(PUBLISHED))


@each
def test_tensors_are_named_and_shaped_as_torchvision_s(kind: type[nn.Module]) -> None:
    state = kind().state_dict()
    assert {name: tuple(state[name].shape) for name in PUBLISHED[kind]} == PUBLISHED[kind]


@pytest.mark.parametrize(("kind", "parameters", "tensors", "channels", "side"), SIZES)
def test_sizes_are_those_of_the_papers(kind: type[nn.Module], parameters: int, tensors: int, channels: int, side: int) -> None:
    network = kind().eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(not name.endswith("num_batches_tracked") for name in network.state_dict()) == tensors
    with torch.inference_mode():
        features = network.features(torch.rand(2, 3, 128, 128))
    assert features.shape == (2, channels, side, side)
    assert network.channels == channels


def first_input(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What the first convolution is given."""
    given: list[torch.Tensor] = []
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.inference_mode():
        network.eval().features(image)
    return given[0]


@pytest.mark.parametrize("kind", [MobileNetV2, Vgg16])
def test_imagenet_s_mean_and_spread_are_applied_inside(kind: type[nn.Module]) -> None:
    image = torch.rand(1, 3, 32, 32)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(first_input(kind(), image), (image - mean[:, None, None]) / spread[:, None, None])


def test_inception_sees_what_torchvision_s_transform_input_makes() -> None:
    image = torch.rand(1, 3, 75, 75)
    mean, spread = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    normalized = (image - mean) / spread
    transformed = normalized * (spread / 0.5) + (mean - 0.5) / 0.5
    torch.testing.assert_close(first_input(InceptionV3(), image), transformed)


@pytest.mark.parametrize("kind", [MobileNetV2, InceptionV3])
def test_every_batch_norm_is_folded_and_changes_nothing(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    image = torch.rand(1, 3, 80, 80)
    folded = prepared(copy.deepcopy(network), CPU, torch.float32)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        before, after = network(image), folded(image)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
