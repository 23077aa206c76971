"""Training the InfoGAN of nuclei: it repeats itself, resumes, sees a collapse, and its class is not the rotation."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from napari_histoseg.methods.cells import gantask
from napari_histoseg.methods.cells.gan import InfoGan
from napari_histoseg.methods.cells.gansettings import GanTraining
from napari_histoseg.methods.cells.ganstart import Start
from napari_histoseg.methods.cells.gantask import GanTask
from napari_histoseg.nn.weights import load_into, read_card
from napari_histoseg.train.loop import StepDone, Trained, fit
from napari_histoseg.train.task import OwnStep

TINY = {"width": 4, "batch": 4, "critic_steps": 2, "view_batch": 8, "steps": 4, "validate_every": 2, "threads": 1, "device": "cpu"}


def nuclei(count: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    """Disks and ellipses on pink, at every angle: dark small, light large, long."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : 40j, -1 : 1 : 40j]
    out = np.empty((count, 40, 40, 3), np.uint8)
    for i in range(count):
        angle, (long, short, shade) = rng.uniform(0, np.pi), [(0.5, 0.5, 60), (0.9, 0.8, 140), (0.9, 0.3, 100)][i % 3]
        a, b = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        inside = (a / long) ** 2 + (b / short) ** 2 < 1
        picture = np.where(inside[..., None], np.array([shade, shade * 0.6, shade + 40]), np.array([220, 170, 200]))
        out[i] = np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255)
    return out


def task(crops: NDArray[np.uint8] | None = None, **settings: Any) -> GanTask:
    crops = nuclei() if crops is None else crops
    return GanTask(GanTraining.parse({**TINY, **settings}), crops, crops[:12])


@pytest.mark.parametrize("variant", ["improved", "paper"])
def test_it_trains_in_the_loop_and_writes_weights_card_and_curve(tmp_path: Path, variant: str) -> None:
    learned = task(variant=variant)
    assert isinstance(learned, OwnStep)
    events = list(fit(learned, tmp_path / "w.safetensors"))
    assert isinstance(events[-1], Trained)
    names = {"critic distance", "mutual information", "class balance"} | ({"shared information"} if variant == "improved" else set())
    assert all(set(e.parts) == names and np.isfinite(list(e.parts.values())).all() for e in events if isinstance(e, StepDone))
    card = read_card(tmp_path / "w.safetensors", "cells")
    assert (card.architecture, card.width, [c["value"] for c in card.classes]) == (variant, 4, [1, 2, 3])
    load_into(learned.network(), tmp_path / "w.safetensors")
    rows = list(csv.DictReader((tmp_path / "w.curve.csv").open()))
    assert {f"loss_{name}" for name in names} | {"score", "agreement", "balance"} <= set(rows[0])


@pytest.mark.parametrize("variant", ["improved", "paper"])
def test_resumed_equals_uninterrupted(tmp_path: Path, variant: str) -> None:
    list(fit(task(variant=variant), tmp_path / "a.safetensors"))
    for event in (events := fit(task(variant=variant), tmp_path / "b.safetensors")):
        if isinstance(event, StepDone) and event.step == 3:
            events.close()
            break
    list(fit(task(variant=variant), tmp_path / "b.safetensors", resume=True))

    def bits(name: str) -> list[bytes]:
        network = task(variant=variant).network()
        load_into(network, tmp_path / name)
        return [v.numpy().tobytes() for v in network.state_dict().values()]

    assert bits("a.safetensors") == bits("b.safetensors")


def _moved(before: dict[str, Tensor], network: InfoGan) -> set[str]:
    return {name.split(".")[0] for name, value in network.named_parameters() if not torch.equal(before[name], value)}


def _state(network: InfoGan) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


@pytest.mark.parametrize("variant", ["improved", "paper"])
def test_who_learns_from_what(variant: str) -> None:
    learned = task(variant=variant)
    torch.manual_seed(0)
    network = learned.network().train()
    optimizers = learned.optimizers(network)
    batch = {k: torch.from_numpy(v) for k, v in learned.batch_at(np.random.default_rng(0), 0).items()}
    before = _state(network)
    learned._train_critic(network, optimizers["critic"], gantask._scaled(batch["image"]), batch)
    assert _moved(before, network) == {"trunk", "critic"}
    before = _state(network)
    learned._train_generator(network, optimizers, batch)
    seen = "class_trunk" if variant == "improved" else "trunk"
    assert _moved(before, network) == {"generator", "classifier", seen}
    assert len(batch["pair"]) == (8 if variant == "improved" else 0)


def test_the_paper_s_recipe_uses_neither_views_nor_real_classes() -> None:
    """Weights of what the paper lacks change nothing in its variant."""
    states = []
    for weight in (0.0, 5.0):
        learned = task(variant="paper", rotation_weight=weight, real_weight=weight)
        torch.manual_seed(0)
        network = learned.network().train()
        batch = {k: torch.from_numpy(v) for k, v in learned.batch_at(np.random.default_rng(0), 0).items()}
        learned.take_step(network, learned.optimizers(network), batch, 0)
        states.append(_state(network))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_batch_is_its_random_generator_s_alone_and_turns_nuclei_by_quarters() -> None:
    learned = task(nuclei(1), view_batch=2)
    first, second = (learned.batch_at(np.random.default_rng(5), step) for step in (0, 7))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    sides = [np.rot90(nuclei(1)[0], k) for k in range(4)]
    sides += [side[:, ::-1] for side in sides]
    for crop in first["image"].transpose(0, 2, 3, 1):
        assert any(np.array_equal(crop, side) for side in sides)
    straight = task(nuclei(1), rotations=False).batch_at(np.random.default_rng(5), 0)
    assert all(np.array_equal(crop, nuclei(1)[0]) for crop in straight["image"].transpose(0, 2, 3, 1))


class Ascending:
    """Crops that are read like a file: by ascending positions, each once."""

    def __init__(self, crops: NDArray[np.uint8]) -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: NDArray[np.int64]) -> NDArray[np.uint8]:
        assert (np.diff(key) > 0).all()
        return self.crops[key]


def test_crops_may_come_from_a_file() -> None:
    crops = nuclei(5)
    filed = GanTask(GanTraining.parse(TINY), Ascending(crops), Ascending(crops))
    assert np.array_equal(filed.batch_at(np.random.default_rng(1), 0)["image"], task(crops).batch_at(np.random.default_rng(1), 0)["image"])


class Fixed(InfoGan):
    """A network whose class is a rule."""

    def __init__(self, rule: Any) -> None:
        super().__init__(3, width=4)
        self.rule = rule

    def classify(self, crops: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(self.rule(crops), 3).float()


def _collapsed(crops: Tensor) -> Tensor:
    return torch.zeros(len(crops), dtype=torch.long)


def _leaning(crops: Tensor) -> Tensor:
    """Darker on the left, darker on the right, neither."""
    lean = crops[..., :20].mean((1, 2, 3)) - crops[..., 20:].mean((1, 2, 3))
    return torch.bucketize(lean, torch.tensor([-0.01, 0.01]))


def _middle(crops: Tensor) -> Tensor:
    return torch.bucketize(crops[:, 0, 17:23, 17:23].mean((1, 2)), torch.tensor([-0.42, 0.0]))


def test_the_criterion_sees_collapse_and_a_class_that_is_the_rotation() -> None:
    learned = task(stain_jitter=0.05)
    scores = {rule.__name__: learned.validate(Fixed(rule)) for rule in (_collapsed, _leaning, _middle)}
    assert scores["_collapsed"] == {"score": 0.0, "agreement": 1.0, "balance": 0.0}
    assert scores["_leaning"]["score"] < 0.2
    assert scores["_middle"]["score"] > 0.9
    assert scores["_middle"]["balance"] > 0.95


@given(counts=st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_information_and_evenness_lie_between_nothing_and_all(counts: list[int]) -> None:
    k = len(counts)
    sure = np.diag(np.array(counts, float))
    assert gantask.information(sure) == pytest.approx(gantask.evenness(np.array(counts)), abs=1e-9)
    apart = np.outer(counts, counts).astype(float)
    assert gantask.information(apart) == pytest.approx(0, abs=1e-9)
    assert gantask.information(np.eye(k)) == pytest.approx(1)


def test_classes_do_not_depend_on_the_side_up_nor_on_the_batch() -> None:
    torch.manual_seed(1)
    network = InfoGan(3, width=4, own_trunk=True)
    crops = nuclei(10)
    probability, features = gantask.classify(network, crops)
    assert probability.shape == (10, 3)
    assert features.shape == (10, 32)
    assert np.allclose(probability.sum(1), 1, atol=1e-5)
    for other in (crops.transpose(0, 2, 1, 3), crops[:, ::-1], np.rot90(crops, 1, (1, 2))):
        turned, same = gantask.classify(network, np.ascontiguousarray(other), batch=3)
        assert np.allclose(turned, probability, atol=1e-5)
        assert np.allclose(same, features, atol=1e-4)
    assert gantask.classify(network, crops[:0])[0].shape == (0, 3)


def test_the_sheet_has_a_column_a_class_and_repeats() -> None:
    network = InfoGan(3, width=4)
    shown = gantask.sheet(network, rows=5)
    assert shown.shape == (5 * 42 + 2, 3 * 42 + 2, 3)
    assert shown.dtype == np.uint8
    assert (shown[:2] == 255).all()
    assert np.array_equal(shown, gantask.sheet(network, rows=5))
    assert not np.array_equal(shown[2:42, 2:42], shown[2:42, 44:84])


def test_even_colors_give_every_picture_the_same_mean() -> None:
    crops, groups = nuclei(30), np.arange(30) % 2
    crops[groups == 1] = crops[groups == 1] // 2 + 20
    even, target = gantask.even_colors(crops, groups)
    means = [even[groups == group].mean((0, 1, 2)) for group in (0, 1)]
    assert np.allclose(means[0], means[1], atol=3)
    other, kept = gantask.even_colors(crops[:6], np.zeros(6, int), target)
    assert np.array_equal(kept, target)
    assert np.allclose(other.mean((0, 1, 2)), target, atol=3)


def _agree(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Information of two classings, in units of log 3."""
    table = np.zeros((3, 3))
    np.add.at(table, (first, second), 1)
    return gantask.information(table)


def test_the_start_tells_dark_from_light_whatever_side_is_up_and_whatever_the_seed() -> None:
    crops, kind = nuclei(90), np.arange(90) % 3
    start = Start(crops, 3)
    found = start.classes_of(crops)
    assert _agree(found, kind) > 0.6
    assert np.array_equal(found, start.classes_of(np.ascontiguousarray(np.rot90(crops, 1, (1, 2))[:, :, ::-1])))
    assert np.array_equal(found, Start(crops, 3, seed=7).classes_of(crops))
    shade = [crops[found == k].mean() for k in range(3)]
    assert shade == sorted(shade, reverse=True)


def test_the_class_head_starts_at_k_means(tmp_path: Path) -> None:
    crops = nuclei(150)
    settings = GanTraining.parse({**TINY, "view_batch": 64, "steps": 60, "start_steps": 60, "validate_every": 60, "class_rate": 5e-3, "average_decay": 0.5})
    learned = GanTask(settings, crops, crops[:60])
    list(fit(learned, tmp_path / "w.safetensors"))
    network = learned.network()
    load_into(network, tmp_path / "w.safetensors")
    assert _agree(gantask.classify(network, crops)[0].argmax(1), Start(crops, 3).classes_of(crops)) > 0.5


@pytest.mark.parametrize(
    ("given", "rates", "critics"),
    [
        ({"variant": "paper"}, [1e-4, 1e-4, 2e-4], 5),
        ({"variant": "improved"}, [5e-4, 5e-4, 1e-3], 2),
        ({"variant": "paper", "learning_rate": 3e-4, "critic_steps": 1}, [3e-4, 1e-4, 2e-4], 1),
    ],
)
def test_each_variant_has_its_own_rates_unless_they_are_given(given: dict[str, Any], rates: list[float], critics: int) -> None:
    learned = GanTask(GanTraining.parse({"width": 4, "batch": 4, **given}), nuclei(9), nuclei(9))
    groups = learned.optimizers(learned.network()).param_groups
    assert [group["lr"] for group in groups] == rates
    assert {group["betas"] for group in groups} == {(0.5, 0.9)}
    assert len(learned.batch_at(np.random.default_rng(0), 0)["image"]) == 4 * critics
