"""The patch classifier and the refiners: sizes, shapes, learning, dropout."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tumour import refiners
from napari_histoseg.methods.tumour.loss import dice_loss
from napari_histoseg.methods.tumour.network import BACKBONES, Classifier
from napari_histoseg.methods.tumour.refiners.attention import ChannelAttention, DualAttention, PositionAttention
from napari_histoseg.nn.inference import prepared

CPU = torch.device("cpu")
each = pytest.mark.parametrize("name", refiners.NAMES)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# -- the classifier -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "count", "channels"),
    [("mobilenet_v2", 2_223_872 + 128_100 + 200 + 202, 1280), ("inception_v3", 21_785_568 + 204_900 + 200 + 202, 2048)],
)
def test_the_classifier_is_a_backbone_and_the_paper_s_head(backbone: str, count: int, channels: int) -> None:
    network = Classifier(backbone).eval()
    assert parameters(network) == count
    assert [type(layer) for layer in network.head] == [nn.Linear, nn.ReLU, nn.Dropout, nn.BatchNorm1d, nn.Linear]
    assert network.head[2].p == 0.5
    patches = torch.rand(3, 3, 96, 96)
    with torch.inference_mode():
        assert network(patches).shape == (3, 2)
        assert network.embed(patches).shape == (3, channels) == (3, network.channels)
        torch.testing.assert_close(network.head(network.embed(patches)), network(patches))


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(SettingsError, match=r"There is no backbone 'vgg16'\. The backbones are: mobilenet_v2, inception_v3\."):
        Classifier("vgg16")
    assert BACKBONES == ("mobilenet_v2", "inception_v3")


def test_the_classifier_learns_to_tell_two_colors_apart() -> None:
    torch.manual_seed(0)
    network = Classifier()
    label = torch.tensor([0, 1] * 4)
    patches = torch.rand(8, 3, 32, 32) * 0.3 + 0.5 * label[:, None, None, None]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(network(patches), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.35 < losses[0]


# -- the refiners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "millions", "paper"), [("unet", 11.56, 11.58), ("agunet", 7.59, 7.68), ("dagunet", 10.11, 9.99), ("doubleunet", 16.18, 16.04)])
def test_refiners_are_about_as_large_as_the_paper_s(name: str, millions: float, paper: float) -> None:
    count = parameters(refiners.build(name)) / 1e6
    assert count == pytest.approx(millions, abs=0.006)
    assert count == pytest.approx(paper, rel=0.015)


def test_the_u_net_has_the_paper_s_filters() -> None:
    network = refiners.build("unet")
    filters = [8, 16, 32, 64, 128, 128, 256, 256, 512]
    assert [layers[0].out_channels for layers in network.encoder.blocks] == filters
    assert [layers[0].out_channels for layers in network.decoder.blocks] == filters[:-1]
    assert {m.p for m in network.decoder.modules() if isinstance(m, nn.Dropout2d)} == {0.1}
    assert not [m for m in network.encoder.modules() if isinstance(m, nn.Dropout2d)]


@each
@pytest.mark.parametrize(("channels", "levels"), [(4, 3), (3, 2), (4, 1)])
def test_logits_have_the_picture_s_resolution(name: str, channels: int, levels: int) -> None:
    network = refiners.build(name, channels, levels)
    expected = {"unet": 1, "doubleunet": 2}.get(name, levels)
    pictures = torch.rand(2, channels, 32, 48)
    for training, count in ((True, expected), (False, 1)):
        logits = network.train(training)(pictures)
        assert [tuple(x.shape) for x in logits] == [(2, 1, 32, 48)] * count


@each
def test_all_levels_take_pictures_down_to_256_px(name: str) -> None:
    # At 256 px the bottleneck is one pixel.
    network = refiners.build(name).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 4, 256, 256))[0].shape == (1, 1, 256, 256)


@each
def test_a_refiner_learns_a_picture_by_heart(name: str) -> None:
    torch.manual_seed(0)
    network = refiners.build(name, levels=3)
    truth = torch.zeros(2, 1, 16, 16)
    truth[0, :, 4:10, 2:9] = 1
    truth[1, :, 8:15, 5:14] = 1
    pictures = torch.cat([torch.rand(2, 3, 16, 16) - 0.3 * truth, truth * 0.5 + torch.rand(2, 1, 16, 16) * 0.5], 1)
    known = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    losses = []
    for _ in range(20):
        logits = network(pictures)
        loss = dice_loss(logits, truth, known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(dice_loss(logits[0].detach(), truth, known)))
    assert losses[-1] < 0.1 < 0.5 < losses[0]


@each
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    network = refiners.build(name, levels=2)
    for module in network.modules():
        if isinstance(module, (PositionAttention, ChannelAttention)):
            nn.init.ones_(module.share)
    sum(x.square().mean() for x in network(torch.rand(2, 4, 16, 16))).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None]


@each
def test_passes_with_dropout_differ_and_those_without_do_not(name: str) -> None:
    torch.manual_seed(0)
    network = refiners.build(name, levels=2).eval()
    picture = torch.rand(1, 4, 16, 16)
    before = copy.deepcopy(network.state_dict())
    with torch.inference_mode():
        sure = [network(picture)[0] for _ in range(2)]
        unsure = [refiners.dropout_on(network)(picture) for _ in range(3)]
    assert torch.equal(sure[0], sure[1])
    assert [len(logits) for logits in unsure] == [1, 1, 1]
    assert not torch.equal(unsure[0][0], unsure[1][0])
    assert not torch.equal(unsure[1][0], unsure[2][0])
    # Batch norm did not learn from the picture meanwhile.
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in before.items())
    network.eval()
    with torch.inference_mode():
        assert torch.equal(network(picture)[0], sure[0])


@each
def test_folding_batch_norm_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = refiners.build(name, levels=2)
    with torch.no_grad():
        network(torch.rand(4, 4, 32, 32))
    network.eval()
    picture = torch.rand(1, 4, 32, 32)
    folded = prepared(copy.deepcopy(network), CPU, torch.float32)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        torch.testing.assert_close(folded(picture)[0], network(picture)[0], rtol=1e-4, atol=1e-4)


def test_dual_attention_stands_where_there_are_few_pixels() -> None:
    network = refiners.build("dagunet").eval()
    seen: list[int] = []
    for module in network.modules():
        if isinstance(module, DualAttention):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2] * inputs[0].shape[3]))
    with torch.inference_mode():
        network(torch.rand(1, 4, 512, 512))
    assert seen == [16, 4]


def test_position_attention_is_its_definition() -> None:
    torch.manual_seed(0)
    layer = PositionAttention(16)
    x = torch.randn(1, 16, 3, 2)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.share, 0.5)
    query, key, value = (f(x)[0].flatten(1).T for f in (layer.query, layer.key, layer.value))
    for j in range(6):
        weight = torch.softmax(torch.stack([query[j] @ key[i] for i in range(6)]), 0)
        expected = x[0].flatten(1)[:, j] + 0.5 * sum(weight[i] * value[i] for i in range(6))
        torch.testing.assert_close(layer(x)[0].flatten(1)[:, j], expected, rtol=1e-4, atol=1e-5)


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(SettingsError, match=r"There is no refiner 'vnet'\. The refiners are: unet, agunet, dagunet, doubleunet\."):
        refiners.build("vnet")
    with pytest.raises(SettingsError, match="A refiner has 1 to 8 levels, and 9 were asked for"):
        refiners.build("unet", levels=9)
