"""The refiner in a run and in its training: pieces, regions, uncertainty, and what it is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg._testing_tumour import SMALL, tumour_model, tumour_picture
from napari_histoseg.methods.tumour import refine
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.fitted import read_fitted
from napari_histoseg.methods.tumour.predictor import refiner_of
from napari_histoseg.methods.tumour.refine import Refiner, blocks, refined
from napari_histoseg.methods.tumour.refinetask import Example, RefinerTask, dice_of, outline_of
from napari_histoseg.methods.tumour.sheets import Sheet
from napari_histoseg.slide import Box

CPU = torch.device("cpu")
BOUNDS = Box(0, 0, 203, 150)


@pytest.fixture(scope="module")
def refiner(picture: NDArray[np.uint8], heat: NDArray[np.uint8]) -> Refiner:
    """A network whose far-reaching levels are left out, so that pieces need only a small margin."""
    from napari_histoseg.methods.tumour.refiners import build

    torch.manual_seed(1)
    network = build("unet", 4, levels=2)
    with torch.no_grad():
        image = torch.from_numpy(np.concatenate([picture, heat[..., None]], 2)).permute(2, 0, 1)[None, :, :144, :200] / 255
        for _ in range(20):
            network(image)
        (logits,) = network.eval()(image)
        network.head.weight.mul_(2 / logits.std())
        network.head.bias.sub_(logits.median()).mul_(2 / logits.std())
    return Refiner(network, CPU, torch.float32, levels=2)


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """What :data:`BOUNDS` shows."""
    return np.ascontiguousarray(tumour_picture(203, seed=1)[0][:150])


@pytest.fixture(scope="module")
def heat() -> NDArray[np.uint8]:
    """A heatmap in squares of 16 px."""
    return np.random.default_rng(2).integers(0, 256, (10, 13), np.uint8).repeat(16, 0).repeat(16, 1)[:150, :203]


def outline(refiner: Refiner, frame: Box, picture: NDArray[np.uint8], heat: NDArray[np.uint8], seeds: Any = ()) -> tuple[NDArray[np.float32], ...]:
    """Probability and spread over a frame; every pixel comes once."""
    found, spread, times = np.zeros(frame.shape, np.float32), np.zeros(frame.shape, np.float32), np.zeros(frame.shape, int)
    for keep, mean, deviation in refined(refiner, frame, BOUNDS, lambda box: picture[box.slices], heat[frame.slices], seeds):
        where = keep.relative_to(frame).slices
        found[where], spread[where] = mean, deviation
        times[where] += 1
    assert (times == 1).all()
    return found, spread


# -- pieces -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [32, 64])
def test_pieces_give_what_the_whole_gives(refiner: Refiner, picture: Any, heat: Any, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    whole, _ = outline(refiner, BOUNDS, picture, heat)
    assert whole.std() > 0.05
    monkeypatch.setattr(refine, "BLOCK_PX", side)
    monkeypatch.setattr(refine, "HALO_PX", 32)
    pieces, _ = outline(refiner, BOUNDS, picture, heat)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize("frame", [Box(64, 0, 100, 100), Box(13, 7, 150, 120), Box(103, 51, 100, 99)])
def test_a_region_gives_what_the_whole_gives_away_from_its_border(
    refiner: Refiner, picture: Any, heat: Any, monkeypatch: pytest.MonkeyPatch, frame: Box
) -> None:
    # Outside of a region there is no heatmap, and the network looks about 24 px far.
    whole, _ = outline(refiner, BOUNDS, picture, heat)
    monkeypatch.setattr(refine, "HALO_PX", 32)
    part, _ = outline(refiner, frame, picture, heat)
    inner = frame.padded(-28)
    np.testing.assert_allclose(part[inner.relative_to(frame).slices], whole[inner.slices], atol=1e-5)


def test_blocks_are_those_of_the_slide_whatever_the_frame() -> None:
    found = list(blocks(Box(1000, 30, 100, 2100)))
    assert [keep for keep, _ in found] == [
        Box(1000, 30, 24, 994), Box(1024, 30, 76, 994), Box(1000, 1024, 24, 1024), Box(1024, 1024, 76, 1024), Box(1000, 2048, 24, 82), Box(1024, 2048, 76, 82),
    ]  # fmt: skip
    assert all(around == keep.padded(refine.HALO_PX) for keep, around in found)


def test_without_heat_there_is_no_tumour_and_nothing_is_computed(picture: Any) -> None:
    def never(image: Tensor) -> list[Tensor]:
        raise AssertionError("There is nothing to refine.")

    refiner = Refiner(never, CPU, torch.float32, levels=2)  # type: ignore[arg-type]
    found, spread = outline(refiner, BOUNDS, picture, np.zeros(BOUNDS.shape, np.uint8), seeds=(1, 2))
    assert not found.any() and not spread.any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (150, 203)])
def test_pictures_of_any_shape_are_refined(refiner: Refiner, shape: tuple[int, int]) -> None:
    mean, spread = refiner.probability(np.full((*shape, 3), 200, np.uint8), np.full(shape, 100, np.uint8))
    assert mean.shape == spread.shape == shape and np.isfinite(mean).all()


# -- what it sees -------------------------------------------------------------------------------------------------------


def test_another_heatmap_gives_another_outline(refiner: Refiner, picture: Any, heat: Any) -> None:
    first, second = (outline(refiner, BOUNDS, picture, each)[0] for each in (heat, 255 - heat))
    assert np.abs(first - second).max() > 0.1


def test_the_heatmap_is_a_probability_and_no_mask(refiner: Refiner, picture: Any) -> None:
    first, second = (outline(refiner, BOUNDS, picture, np.full(BOUNDS.shape, value, np.uint8))[0] for value in (140, 220))
    assert np.abs(first - second).max() > 0.01


def test_a_refiner_without_heatmap_ignores_it(picture: Any, heat: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def network(image: Tensor) -> list[Tensor]:
        seen.append(tuple(image.shape))
        return [image[:, :1] * 4 - 2]

    refiner = Refiner(network, CPU, torch.float32, levels=2, heat=False)  # type: ignore[arg-type]
    first, second = (outline(refiner, BOUNDS, picture, each)[0] for each in (heat, np.zeros_like(heat)))
    np.testing.assert_array_equal(first, second)
    assert first.std() > 0 and set(seen) == {(1, 3, 152, 204)}


def test_the_paper_s_way_shows_the_whole_slide_in_one_square(picture: Any, heat: Any) -> None:
    seen: list[Tensor] = []

    def network(image: Tensor) -> list[Tensor]:
        seen.append(image)
        return [torch.logit(image[:, 3:].clamp(0.01, 0.99))]

    refiner = Refiner(network, CPU, torch.float32, levels=2, whole_px=256)  # type: ignore[arg-type]
    frame = Box(20, 10, 100, 120)
    (only,) = refined(refiner, frame, BOUNDS, lambda box: picture[box.slices], heat[frame.slices])
    assert only[0] == frame and only[1].shape == frame.shape
    assert seen[0].shape == (1, 4, 256, 256)
    # It comes back to where it was.
    assert np.abs(only[1] - heat[frame.slices] / 255).mean() < 0.06


# -- uncertainty --------------------------------------------------------------------------------------------------------


def test_dropout_gives_a_spread_that_its_seeds_decide(refiner: Refiner, picture: Any, heat: Any) -> None:
    plain, none = outline(refiner, BOUNDS, picture, heat)
    mean, spread = outline(refiner, BOUNDS, picture, heat, (5, 6, 7))
    again = outline(refiner, BOUNDS, picture, heat, (5, 6, 7))
    other = outline(refiner, BOUNDS, picture, heat, (8, 9, 10))
    assert not none.any()
    assert spread.max() > 0.02 and spread.max() <= 0.5 and np.abs(mean - plain).max() > 1e-3
    np.testing.assert_array_equal(spread, again[1])
    np.testing.assert_array_equal(mean, again[0])
    assert np.abs(spread - other[1]).max() > 1e-3


def test_mean_and_spread_are_over_the_passes(refiner: Refiner, picture: Any, heat: Any) -> None:
    singles = [outline(refiner, BOUNDS, picture, heat, (seed,)) for seed in (5, 6, 7)]
    mean, spread = outline(refiner, BOUNDS, picture, heat, (5, 6, 7))
    np.testing.assert_allclose(mean, np.mean([m for m, _ in singles], 0), atol=1e-6)
    np.testing.assert_allclose(spread, np.std([m for m, _ in singles], 0), atol=1e-6)
    assert not any(s.any() for _, s in singles)


def test_dropout_is_off_again_and_other_random_numbers_are_left_alone(refiner: Refiner, picture: Any, heat: Any) -> None:
    plain, _ = outline(refiner, BOUNDS, picture, heat)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    outline(refiner, BOUNDS, picture, heat, (1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert not any(module.training for module in refiner.network.modules())
    np.testing.assert_array_equal(outline(refiner, BOUNDS, picture, heat)[0], plain)


@pytest.mark.parametrize("name", ["agunet", "dagunet", "doubleunet"])
def test_every_refiner_has_dropout_to_sample(tmp_path: Any, picture: Any, heat: Any, name: str) -> None:
    fitted = read_fitted(tumour_model(tmp_path / "w.safetensors", refiner=name))
    refiner = refiner_of(fitted, CPU, torch.float32)
    assert refiner is not None
    assert refiner.probability(picture, heat, (1, 2, 3))[1].max() > 0.01


# -- its training -------------------------------------------------------------------------------------------------------


def settings(**changes: Any) -> TumourTraining:
    return TumourTraining.parse({**SMALL, **changes})


@pytest.fixture(scope="module")
def example() -> Example:
    """A dark disk on pale ground: picture, truth and heatmap show the same."""
    rows, columns = np.mgrid[:90, :120] + 0.5
    disk = (rows - 40) ** 2 + (columns - 70) ** 2 < 25**2
    picture = np.where(disk[..., None], (90, 40, 120), (220, 180, 210)).astype(np.uint8)
    return Example(Sheet(Box(0, 0, 120, 90), 8.0, picture, disk.astype(np.uint8)), (disk * 255).astype(np.uint8))


def test_picture_heatmap_and_truth_stay_on_each_other(example: Example) -> None:
    task = RefinerTask(settings(refine_batch=16), [example], [example])
    batch = task.batch_at(np.random.default_rng(0), 0)
    assert batch["image"].shape == (16, 4, 64, 64) and batch["truth"].shape == (16, 1, 64, 64)
    shares = []
    for image, (truth,) in zip(batch["image"], batch["truth"], strict=True):
        known = truth < 255
        wrong = [((plane != (truth == 1)) & known).mean() for plane in (image[1] < 110, image[3] >= 128)]
        assert max(wrong) < 0.05
        shares.append(round(float((truth == 1).mean()), 3))
    assert len(set(shares)) > 8, "pictures are moved and zoomed"
    assert np.mean(np.array(shares) > 0) > 0.7, "most show some of the outline"


def test_what_lies_beyond_the_slide_is_not_learned() -> None:
    sheet = Sheet(Box(0, 0, 40, 40), 8.0, np.full((40, 40, 3), 200, np.uint8), np.ones((40, 40), np.uint8))
    task = RefinerTask(settings(), [Example(sheet, np.zeros((40, 40), np.uint8))], [])
    truths = task.batch_at(np.random.default_rng(0), 0)["truth"]
    assert set(np.unique(truths)) == {1, 255}


def test_the_paper_sees_the_whole_slide(example: Example) -> None:
    task = RefinerTask(settings(variant="paper", augmentation=0, refine_batch=8), [example], [example])
    truths = task.batch_at(np.random.default_rng(0), 0)["truth"]
    # Zoom between 0.8 and 1.2 of a disk that has an area of 18 % of its slide.
    shares = (truths == 1).mean((1, 2, 3))
    assert len(truths) == 8 * 6 and shares.min() > 0.8 * 0.64 * 0.18 and shares.max() < 1.1 * 1.44 * 0.19


def test_the_same_step_shows_the_same_pictures(example: Example) -> None:
    task = RefinerTask(settings(), [example], [example])
    a, b, c = (task.batch_at(np.random.default_rng(seed), 0)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_without_a_classifier_there_is_no_heatmap_to_learn_from(example: Example) -> None:
    task = RefinerTask(settings(backbone="none"), [example], [example])
    assert task.batch_at(np.random.default_rng(0), 0)["image"].shape[1] == 3
    assert task.network()(torch.rand(1, 3, 64, 64))[0].shape == (1, 1, 64, 64)


class Scale(nn.Module):
    """A number times the heatmap; remembers how many pictures it saw at once."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.seen = nn.Parameter(torch.ones(1)), list[int]()

    def forward(self, image: Tensor) -> list[Tensor]:
        self.seen.append(len(image))
        return [self.factor * (image[:, 3:] - 0.5)]


def test_gradients_of_several_batches_make_one_step(example: Example) -> None:
    steps = []
    for accumulate, batch in ((3, 2), (1, 6)):
        task = RefinerTask(settings(accumulate=accumulate, refine_batch=batch, variant="paper", augmentation=0), [example], [example])
        network = Scale()
        optimizers = task.optimizers(network)
        drawn = {name: torch.from_numpy(values) for name, values in task.batch_at(np.random.default_rng(0), 0).items()}
        before = network.factor.item()
        loss, parts = task.take_step(network, optimizers, drawn, 0)
        assert network.seen == [batch] * accumulate and parts == {"refiner": loss}
        steps.append((loss, network.factor.grad.item(), network.factor.item() - before))
    # Dice of six pictures together is nearly the mean of three times two.
    assert steps[0] == pytest.approx(steps[1], rel=0.1) and steps[0][2] > 0


@pytest.mark.parametrize(
    ("outline", "truth", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], 2 / 3),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
        ([0, 0, 0, 0], [1, 0, 0, 0], 0.0),
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([1, 1, 1, 1], [1, 255, 255, 255], 1.0),
        ([0, 1, 1, 1], [0, 255, 255, 255], 1.0),
    ],
)
def test_dice_counts_only_what_somebody_annotated(outline: list[int], truth: list[int], expected: float) -> None:
    assert dice_of(np.array([outline], bool), np.array([truth], np.uint8)) == pytest.approx(expected)


def test_validation_scores_the_outline_of_each_slide_by_itself(example: Example) -> None:
    empty = Example(Sheet(example.sheet.box, 8.0, example.sheet.picture, np.zeros_like(example.sheet.truth)), example.heat)
    task = RefinerTask(settings(refine_mpp=8), [example], [example, empty])
    network = Scale()
    assert task.validate(network) == {"score": pytest.approx(0.5)}
    assert not network.training
    refiner = Refiner(network, CPU, torch.float32, 5)
    np.testing.assert_array_equal(outline_of(refiner, example) >= 0.5, example.heat > 0)
