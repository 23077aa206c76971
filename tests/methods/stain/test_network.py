"""The stain transfer network: the paper's shapes, how far it looks, and its loss."""

from __future__ import annotations

import math

import pytest
import torch

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.stain.loss import NO_CLASS, transfer_loss
from napari_histoseg.methods.stain.network import HALO_PX, PAPER_WIDTH, STRIDE_PX, StainNetwork, build


def test_the_papers_encoder_gives_256_features_at_an_eighth_of_224() -> None:
    network = build("paper", PAPER_WIDTH, classes=4).eval()
    with torch.inference_mode():
        _, _, eighth = network.encode(torch.rand(1, 1, 224, 224))
        assert eighth.shape == (1, 256, 28, 28)
        assert network.summarize(eighth).shape == (1, 256)
        assert network(torch.rand(2, 1, 224, 224)).shape == (2, 2 + 4, 224, 224)


@pytest.mark.parametrize(("part", "convolutions"), [(("to_half", "to_quarter", "to_eighth"), 8), (("overall",), 4)])
def test_parts_have_the_papers_number_of_convolutions(part: tuple[str, ...], convolutions: int) -> None:
    network = build("paper", PAPER_WIDTH)
    found = [m for name in part for m in getattr(network, name).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(found) == convolutions


@pytest.mark.parametrize(
    ("architecture", "width", "classes", "parameters"),
    [("paper", 256, 4, 15_062_470), ("compact", 64, 3, 957_749), ("compact", 64, 0, 957_554)],
)
def test_parameter_count(architecture: str, width: int, classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in build(architecture, width, classes).parameters()) == parameters


@pytest.mark.parametrize("architecture", ["compact", "paper"])
def test_colors_depend_on_nothing_beyond_the_halo(architecture: str) -> None:
    network = build(architecture, 8).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()  # so that no ReLU hides a path
    x, side = torch.zeros(1, 1, 256, 256, requires_grad=True), 256
    for place in range(120, 120 + STRIDE_PX):
        out = network.colorize(x, torch.ones(1, 8))[0, :, place, place].sum()
        (gradient,) = torch.autograd.grad(out, x)
        touched = torch.nonzero(gradient[0, 0])
        assert place - HALO_PX <= int(touched.min()) and int(touched.max()) <= place + HALO_PX < side


def test_every_second_picture_of_a_batch_is_colored_under_the_mean_vector() -> None:
    torch.manual_seed(0)
    network = build("compact", 8).eval()
    x = torch.rand(4, 1, 64, 64)
    with torch.inference_mode():
        vectors = network.vector_of(x)
        used = torch.stack([vectors[0], vectors.mean(0), vectors[2], vectors.mean(0)])
        assert torch.equal(network(x), network.colorize(x, used))


@pytest.mark.parametrize(
    ("architecture", "width", "message"),
    [
        ("unet", 64, "There is no stain transfer network 'unet'. Choose 'compact' or 'paper'."),
        ("compact", 12, "The setting 'width' is wrong: it is a multiple of 8 from 8. Got 12 instead."),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: str, width: int, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(architecture, width)
    assert str(caught.value) == message


class TestLoss:
    """Squared error of the colors; the class loss only where there are labels."""

    ab = torch.full((2, 2, 8, 8), 0.5)

    def output(self, *scores: tuple[float, ...]) -> torch.Tensor:
        planes = torch.tensor(scores)[:, :, None, None].expand(-1, -1, 8, 8)
        return torch.cat([torch.zeros(2, 2, 8, 8), planes], 1)

    def test_is_the_squared_error_where_nothing_is_labeled(self) -> None:
        batch = {"ab": self.ab, "category": torch.tensor([NO_CLASS, NO_CLASS])}
        assert float(transfer_loss(self.output((9.0, 0.0), (9.0, 0.0)), batch, 0.1)) == pytest.approx(0.25)

    def test_unlabeled_pictures_take_no_part_in_the_class_loss(self) -> None:
        batch = {"ab": self.ab, "category": torch.tensor([1, NO_CLASS])}
        output = self.output((0.0, 0.0), (9.0, -9.0)).requires_grad_(True)
        loss = transfer_loss(output, batch, 0.1)
        assert float(loss.detach()) == pytest.approx(0.25 + 0.1 * math.log(2), abs=1e-6)
        (gradient,) = torch.autograd.grad(loss, output)
        assert gradient[0, 2:].abs().sum() > 0 and gradient[1, 2:].abs().sum() == 0

    def test_a_weight_of_zero_leaves_the_classes_out(self) -> None:
        batch = {"ab": self.ab, "category": torch.tensor([0, 1])}
        assert float(transfer_loss(self.output((0.0, 9.0), (9.0, 0.0)), batch, 0.0)) == pytest.approx(0.25)

    def test_a_network_without_classes_has_the_squared_error_alone(self) -> None:
        batch = {"ab": self.ab, "category": torch.tensor([0, 1])}
        assert float(transfer_loss(torch.zeros(2, 2, 8, 8), batch, 0.1)) == pytest.approx(0.25)


def test_without_skips_the_encoders_details_do_not_reach_the_decoder() -> None:
    assert StainNetwork(16).decode_half[0].in_channels == 16 // 4 + 16 // 2
    assert StainNetwork(16, skips=False).decode_half[0].in_channels == 16 // 4
