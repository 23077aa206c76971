"""The paper's network: shapes, how far it sees, what its normalization and its splitting do."""

from __future__ import annotations

import pytest
import torch

from napari_histoseg.methods.tissue.network import DILATIONS, Decoder, DeepNet, DilatedBlock, Encoder


def settled(network: DeepNet) -> DeepNet:
    """Ready to be used, with statistics as after a training."""
    with torch.no_grad():
        network.train()(torch.rand(2, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize(("classes", "width", "shape"), [(2, 4, (16, 16)), (5, 8, (33, 20)), (16, 4, (1, 7))])
def test_classes_are_said_at_full_resolution(classes: int, width: int, shape: tuple[int, int]) -> None:
    encoder = Encoder(classes, width).eval()
    image = torch.rand(2, 3, *shape)
    assert encoder(image).shape == (2, classes, *shape)
    assert encoder.features(image).shape == (2, 3 * width, *shape)


def test_a_block_has_one_dilated_convolution_two_plain_ones_and_a_way_around_them() -> None:
    block = DilatedBlock(6, 6, 4).eval()
    convolutions = [m for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.kernel_size, c.dilation) for c in convolutions] == [((3, 3), (4, 4)), ((3, 3), (1, 1)), ((3, 3), (1, 1))]
    for convolution in convolutions:
        torch.nn.init.zeros_(convolution.weight)
    x = torch.rand(1, 6, 9, 9)
    assert torch.equal(block(x), x)


def test_dilations_grow() -> None:
    assert len(DILATIONS) == 3
    assert list(DILATIONS) == sorted(set(DILATIONS))


def test_a_pixel_counts_as_far_as_the_radius_and_no_farther() -> None:
    encoder = Encoder(3, 4).double().eval()
    image = torch.rand(1, 3, 71, 71, dtype=torch.float64, requires_grad=True)
    encoder(image)[0, :, 35, 35].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1))
    radius = encoder.radius_px
    assert radius == sum(d + 2 for d in DILATIONS)
    rows = torch.nonzero(seen.sum(1)).flatten()
    assert rows.min() >= 35 - radius
    assert rows.max() <= 35 + radius
    assert float(seen[35 - radius : 35 - radius + 4].sum()) > 0


def test_the_decoder_rebuilds_colors() -> None:
    with torch.no_grad():
        colors = Decoder(5)(torch.rand(2, 5, 32, 48).softmax(1))
    assert colors.shape == (2, 3, 32, 48)
    assert 0 <= float(colors.min()) <= float(colors.max()) <= 1


def test_responses_have_one_scale_in_each_picture_while_it_learns() -> None:
    network = DeepNet(4, 4).train()
    seen = network(torch.rand(3, 3, 32, 32))
    assert torch.allclose(seen.mean((2, 3)), torch.zeros(3, 4), atol=1e-4)
    assert torch.allclose(seen.var((2, 3), correction=0), torch.ones(3, 4), atol=0.05)


def test_a_trained_network_normalizes_all_pictures_alike() -> None:
    network = settled(DeepNet(4, 4))
    image = torch.rand(2, 3, 64, 64)
    network.response_mean.fill_(0.5)
    network.response_std.fill_(2)
    with torch.no_grad():
        assert torch.allclose(network(image), (network.encoder(image) - 0.5) / 2, atol=1e-6)
        assert torch.allclose(network(image)[:1], network(image[:1]), atol=1e-5)


def test_without_normalization_responses_are_as_they_are() -> None:
    network = DeepNet(4, 4, instance_norm=False).train()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image), network.encoder(image))


def test_without_a_decoder_there_is_none() -> None:
    assert DeepNet(4, 4, decoder=False).decoder is None
    assert not [name for name in DeepNet(4, 4, decoder=False).state_dict() if name.startswith("decoder")]


def test_an_empty_class_is_revived_next_to_the_largest_and_gets_part_of_its_pixels() -> None:
    torch.manual_seed(0)
    network = settled(DeepNet(4, 8))
    head = network.encoder.head
    assert head.bias is not None
    before = head.weight.detach().clone()
    network.revive(3, 1, 0.1 * torch.randn(24))
    after = head.weight.detach()
    assert torch.equal(after[:3], before[:3])
    assert float(head.bias[3]) == float(head.bias[1])
    assert not torch.equal(after[3], after[1])
    assert float((after[3] - after[1]).norm()) < 0.2 * float(after[1].norm())
    with torch.no_grad():
        labels = network.train()(torch.rand(1, 3, 64, 64))[:, [1, 3]].argmax(1)
    assert 0.1 < float(labels.float().mean()) < 0.9
