"""Learning tissue by the paper's network: what is taught, what is kept, that it repeats, resumes and stops."""

from __future__ import annotations

import csv
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tissue import deep, deeptask
from napari_histoseg.methods.tissue.deep import DeepClusterer, living, measure
from napari_histoseg.methods.tissue.deeptask import DeepTask, clusterer_in, deep_events, fit_deep, taught
from napari_histoseg.methods.tissue.netsettings import NetTraining
from napari_histoseg.methods.tissue.network import DeepNet
from napari_histoseg.nn.weights import read_card
from napari_histoseg.objects.superpixels import superpixels
from napari_histoseg.train.loop import StepDone, Trained, Validated, fit
from napari_histoseg.train.task import OwnStep

TINY: dict[str, Any] = {
    "width": 4, "start_classes": 6, "batch": 1, "crop_px": 64, "steps": 12, "validate_every": 6, "threads": 1, "device": "cpu", "least_classes": 0,
}  # fmt: skip


def tissue(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    """Three kinds of texture side by side: pale, blue and grainy, pink and striped."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 235.0)
    image[:, width // 3 :] = (90, 60, 140)
    image[:, width // 3 :] += rng.normal(0, 25, (height, width - width // 3, 1))
    image[:, 2 * width // 3 :] = (220, 130, 170)
    image[:, 2 * width // 3 :] += 20 * np.sin(np.arange(height) * 0.8)[:, None, None]
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


PICTURES = [tissue(seed) for seed in range(6)]


def ready(classes: int = 5, width: int = 4, seed: int = 0) -> DeepClusterer:
    """An untrained network, measured."""
    torch.manual_seed(seed)
    network = DeepNet(classes, width)
    with torch.no_grad():
        network.train()(torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 255)
    measure(network.eval(), PICTURES)
    return DeepClusterer(network, 0.5)


def drained(events: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as ended:
            return seen, ended.value


@pytest.fixture(autouse=True)
def few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure and score on few crops."""
    monkeypatch.setattr(deeptask, "MEASURED", 6)
    monkeypatch.setattr(deeptask, "SCORED", 3)


# -- a trained network --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(96, 96), (61, 130), (5, 9), (1, 1)])
def test_every_pixel_has_probabilities_and_every_square_a_description(shape: tuple[int, int]) -> None:
    clusterer = ready()
    seen = clusterer.see(tissue(0, *shape) if min(shape) > 4 else np.zeros((*shape, 3), np.uint8))
    squares = (-(-shape[0] // 8), -(-shape[1] // 8))
    assert seen.probability.shape == (clusterer.n_fine, *shape)
    assert seen.features.shape == (12, *squares)
    assert seen.surprise is not None
    assert seen.surprise.shape == squares
    assert np.allclose(seen.probability.sum(0), 1, atol=1e-5)
    assert clusterer.centers.shape == (clusterer.n_fine, 12)


def test_a_tile_with_its_margin_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clusterer = ready()
    image = tissue(3, 200, 232)
    whole = clusterer.see(image)
    m = clusterer.margin_px
    assert m % clusterer.stride_px == 0
    tile = clusterer.see(image[64 - m : 136 + m, 72 - m : 144 + m])
    assert np.allclose(tile.probability[:, m:-m, m:-m], whole.probability[:, 64:136, 72:144], atol=1e-5)
    s = m // 8
    assert np.allclose(tile.features[:, s:-s, s:-s], whole.features[:, 8:17, 9:18], atol=1e-4)
    less = clusterer.see(image[64 - m // 3 : 136, 72 - m // 3 : 144])
    assert not np.allclose(less.probability[:, m // 3 :, m // 3 :], whole.probability[:, 64:136, 72:144], atol=1e-3)
    monkeypatch.setattr(deep, "PIECE_PX", 64)
    pieces = clusterer.see(image)
    for name in ("probability", "features", "surprise"):
        assert np.allclose(getattr(pieces, name), getattr(whole, name), atol=1e-4), name


def test_what_was_learned_goes_through_a_file() -> None:
    clusterer = ready()
    again = DeepClusterer.from_arrays(clusterer.arrays())
    image = tissue(9)
    assert again.mpp == 0.5
    assert again.n_fine == clusterer.n_fine
    assert np.array_equal(again.centers, clusterer.centers)
    assert np.array_equal(again.see(image).probability, clusterer.see(image).probability)
    assert not [name for name in clusterer.arrays() if name.startswith("decoder")]


@pytest.mark.parametrize(
    ("share", "alive"), [([0.2, 0.5, 0.3], [1, 2, 0]), ([0.0, 0.9995, 0.0005], [1]), ([0.5, 0.0, 0.5], [0, 2]), ([0.0, 0.0, 0.0], [0])]
)
def test_dead_classes_are_left_out_and_the_largest_comes_first(share: list[float], alive: list[int]) -> None:
    assert living(torch.tensor(share)) == alive


def test_classes_come_by_size_and_have_the_statistics_of_the_pictures_as_a_whole() -> None:
    torch.manual_seed(1)
    network = DeepNet(5, 4)
    with torch.no_grad():
        network.train()(torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 255)
        network.encoder.head.weight.mul_(100)  # as large as after a training
        measure(network.eval(), PICTURES)
        seen = network(torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 255)[:, :, 2::4, 2::4]
    assert torch.allclose(seen.mean((0, 2, 3)), torch.zeros(5), atol=1e-3)
    assert torch.allclose(seen.var((0, 2, 3), correction=0), torch.ones(5), atol=0.05)
    assert float(network.share.sum()) == pytest.approx(1)
    clusterer = DeepClusterer(network, 1.0)
    found = np.bincount(np.stack([clusterer.see(p).probability.argmax(0)[2::4, 2::4] for p in PICTURES]).ravel(), minlength=clusterer.n_fine)
    assert list(found) == sorted(found, reverse=True)


def test_what_was_never_seen_surprises() -> None:
    clusterer = ready()
    known, other = clusterer.see(PICTURES[0]).surprise, clusterer.see(np.full((96, 96, 3), (0, 255, 0), np.uint8)).surprise
    assert known is not None
    assert other is not None
    assert np.median(known) < 1 < np.median(other)


# -- what is taught -----------------------------------------------------------------------------------------------------


def test_pixels_of_a_superpixel_are_taught_one_class_the_most_frequent() -> None:
    image = PICTURES[0]
    cut = superpixels(image, 8.0)
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 5, 96, 96))).float()
    labels = taught(logits, torch.from_numpy(cut[None]))[0].numpy()
    strongest = logits[0].argmax(0).numpy()
    for number in np.unique(cut):
        inside = cut == number
        assert len(np.unique(labels[inside])) == 1
        assert labels[inside][0] == np.bincount(strongest[inside], minlength=5).argmax()


def test_crops_and_their_superpixels_are_turned_alike_and_pictures_are_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(image: np.ndarray, *rest: Any) -> np.ndarray:
        calls.append(1)
        return image[..., 0].astype(np.int32)

    monkeypatch.setattr(deeptask, "superpixels", counted)
    task = DeepTask(NetTraining.parse({**TINY, "batch": 3, "val_fraction": 0}), PICTURES)
    for step in range(8):
        batch = task.batch_at(np.random.default_rng(step), step)
        assert batch["image"].shape == (3, 64, 64, 3)
        assert np.array_equal(batch["image"][..., 0], batch["superpixels"])
    assert len(calls) == len(PICTURES)


def test_an_epoch_sees_every_picture_once() -> None:
    flat = [np.full((64, 64, 3), 10 * i, np.uint8) for i in range(12)]
    task = DeepTask(NetTraining.parse({**TINY, "val_fraction": 0}), flat)
    assert task.epoch_steps == 12
    for epoch in range(2):
        seen = [int(task.batch_at(np.random.default_rng(s), s)["image"][0, 0, 0, 0]) for s in range(12 * epoch, 12 * epoch + 12)]
        assert sorted(seen) == [10 * i for i in range(12)]


def test_pictures_that_are_held_out_are_not_learned_from() -> None:
    task = DeepTask(NetTraining.parse({**TINY, "val_fraction": 0.34}), PICTURES)
    assert len(task.val) == 2
    assert not set(task.val) & set(task.train)


# -- a training ---------------------------------------------------------------------------------------------------------


def test_the_shared_loop_trains_it_and_the_curve_has_both_losses_and_the_classes(tmp_path: Path) -> None:
    task = DeepTask(NetTraining.parse(TINY), PICTURES, {"mpp": 0.5})
    assert isinstance(task, OwnStep)
    events = list(fit(task, tmp_path / "w.safetensors"))
    parts = [e.parts for e in events if isinstance(e, StepDone)]
    assert all(set(p) == {"pseudo", "reconstruction", "classes"} for p in parts)
    rows = list(csv.DictReader((tmp_path / "w.curve.csv").open()))
    assert [row["step"] for row in rows] == ["6", "12"]
    assert {"loss_pseudo", "loss_reconstruction", "loss_classes", "score", "classes"} <= set(rows[0])
    card = read_card(tmp_path / "w.safetensors", "tissue")
    assert (card.architecture, card.mpp) == ("paper", 0.5)
    clusterer = clusterer_in(tmp_path / "w.safetensors", task.settings, task.provenance)
    assert clusterer.see(PICTURES[0]).probability.shape[1:] == (96, 96)


def test_it_finds_textures_apart_that_it_was_never_told_of() -> None:
    settings = NetTraining.parse({**TINY, "steps": 60, "validate_every": 60, "width": 8})
    _, clusterer = drained(fit_deep(PICTURES, settings, 0.5))
    labels = clusterer.see(tissue(50)).probability.argmax(0)
    kinds = [labels[4:-4, 4:28], labels[4:-4, 36:60], labels[4:-4, 68:92]]
    counts = np.array([np.bincount(k.ravel(), minlength=clusterer.n_fine) / k.size for k in kinds])
    assert np.minimum(counts[[0, 0, 1]], counts[[1, 2, 2]]).sum(1).max() < 0.3


@pytest.mark.parametrize(
    ("change", "said"),
    [({"decoder": False}, {"pseudo", "classes"}), ({"instance_norm": False}, {"pseudo", "reconstruction", "classes"})],
)
def test_parts_that_are_switched_off_do_nothing(tmp_path: Path, change: dict[str, Any], said: set[str]) -> None:
    task = DeepTask(NetTraining.parse({**TINY, **change}), PICTURES)
    network = task.network()
    assert (network.decoder is None) == ("decoder" in change)
    events = [e for e in fit(task, tmp_path / "w.safetensors") if isinstance(e, StepDone)]
    assert set(events[-1].parts) == said
    if "instance_norm" in change:
        measure(network.eval(), PICTURES)
        assert torch.equal(network.response_std, torch.ones(6))
        assert torch.equal(network.response_mean, torch.zeros(6))


@pytest.mark.parametrize("reseed", [True, False])
def test_a_class_that_was_empty_for_an_epoch_is_split_from_the_largest(reseed: bool) -> None:
    settings = NetTraining.parse({**TINY, "reseed": reseed})
    task = DeepTask(settings, PICTURES)
    network = task.network().train()
    optimizers = task.optimizers(network)
    batch = {name: torch.from_numpy(values) for name, values in task.batch_at(np.random.default_rng(0), 0).items()}
    task.take_step(network, optimizers, batch, 0)
    network.tally.copy_(torch.tensor([10, 500, 0, 30, 40, 100_000]))
    before, step = network.encoder.head.weight.detach().clone(), task.epoch_steps - 1
    task._end_epoch(network, optimizers, step)
    after = network.encoder.head.weight.detach()
    near = [float((after[k] - before[5]).norm() / before[5].norm()) for k in (0, 2)]
    assert (max(near) < 0.6) == reseed
    assert torch.equal(after[5], before[5])
    assert int(network.tally.sum()) == 0
    if reseed:
        held = optimizers["classes"].state[network.encoder.head.weight]["momentum_buffer"]
        assert float(held[2].abs().sum()) == 0
        again = task.network()
        again.load_state_dict({**network.state_dict(), "encoder.head.weight": before, "tally": torch.tensor([10, 500, 0, 30, 40, 100_000])})
        task._end_epoch(again, task.optimizers(again), step)
        assert torch.equal(again.encoder.head.weight, after)


def test_equal_seeds_give_equal_networks_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        list(fit(DeepTask(NetTraining.parse({**TINY, "seed": seed}), PICTURES), tmp_path / f"{name}.safetensors"))
    files = {name: deep_tensors(tmp_path / f"{name}.safetensors") for name in "abc"}
    assert all(torch.equal(files["a"][k], files["b"][k]) for k in files["a"])
    assert not torch.equal(files["a"]["encoder.head.weight"], files["c"]["encoder.head.weight"])


def deep_tensors(path: Path) -> dict[str, torch.Tensor]:
    from napari_histoseg.nn.weights import load_tensors

    return load_tensors(path)


def test_resumed_in_the_middle_of_an_epoch_equals_uninterrupted(tmp_path: Path) -> None:
    settings = NetTraining.parse({**TINY, "steps": 24, "validate_every": 7})
    list(fit(DeepTask(settings, PICTURES), tmp_path / "a.safetensors"))
    events = fit(DeepTask(settings, PICTURES), tmp_path / "b.safetensors")
    for event in events:
        if isinstance(event, StepDone) and event.step == 17:
            events.close()
            break
    resumed = list(fit(DeepTask(settings, PICTURES), tmp_path / "b.safetensors", resume=True))
    assert next(e.step for e in resumed if isinstance(e, StepDone)) == 15
    first, second = deep_tensors(tmp_path / "a.safetensors"), deep_tensors(tmp_path / "b.safetensors")
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("change", "why"), [({"least_classes": 7}, "fewer than least_classes (7)"), ({"loss_goal": 50.0}, "is below loss_goal (50)")]
)
def test_it_stops_at_the_end_of_an_epoch_and_keeps_the_best(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    settings = NetTraining.parse({**TINY, "steps": 200, "validate_every": 100, **change})
    events, (clusterer, over) = drained(deep_events(settings, PICTURES, tmp_path / "w.safetensors"))
    task = DeepTask(settings, PICTURES)
    assert [e.step for e in events if isinstance(e, Validated)] == [task.epoch_steps]
    assert isinstance(events[-1], Trained)
    assert events[-1].stopped_early
    assert why in over
    assert clusterer.n_fine >= 1


def test_a_person_s_stop_is_heard(tmp_path: Path) -> None:
    events, (_, over) = drained(deep_events(NetTraining.parse(TINY), PICTURES, tmp_path / "w.safetensors", stop=lambda: True))
    assert [e.step for e in events if isinstance(e, StepDone)] == [1]
    assert over == ""


def test_the_score_of_a_collapsed_network_is_not_above_that_of_one_with_classes() -> None:
    task = DeepTask(NetTraining.parse(TINY), PICTURES)
    torch.manual_seed(0)
    network = task.network()
    with torch.no_grad():
        network.train()(torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 255)
        for parameter in network.encoder.head.parameters():
            parameter.zero_()
    scores = task.validate(network)
    assert scores["classes"] == 1
    assert scores["score"] == pytest.approx(0, abs=1e-6)
    assert scores["pseudo"] == pytest.approx(0, abs=1e-6)


# -- pictures that are hard to learn from -------------------------------------------------------------------------------


@pytest.mark.parametrize("color", [0, 128, 255])
def test_one_flat_picture_is_one_class_and_it_says_so(color: int) -> None:
    flat = np.full((80, 80, 3), color, np.uint8)
    seen, clusterer = drained(fit_deep([flat], NetTraining.parse(TINY), 0.5))
    assert [e for e in seen if isinstance(e, str)] == ["All pictures are of one even color, so there is one class of tissue."]
    assert clusterer.n_fine == 1
    assert np.array_equal(clusterer.see(flat).probability, np.ones((1, 80, 80), np.float32))


@pytest.mark.parametrize("shape", [(20, 30), (64, 64), (200, 40)])
def test_one_picture_of_any_size_will_do(shape: tuple[int, int]) -> None:
    seen, clusterer = drained(fit_deep([tissue(0, *shape)], NetTraining.parse(TINY), 0.5))
    assert [e for e in seen if not isinstance(e, str)] == [(i, 12) for i in range(1, 13)]
    assert clusterer.n_fine >= 1


def test_a_single_superpixel_and_a_collapse_are_told(tmp_path: Path) -> None:
    settings = NetTraining.parse({**TINY, "superpixels": 1, "least_classes": 3, "steps": 40})
    seen, clusterer = drained(fit_deep([PICTURES[0]], settings, 0.5))
    assert next(e for e in seen if isinstance(e, str)).startswith("The training stopped early: ")
    assert clusterer.n_fine >= 1


def test_no_picture_is_refused() -> None:
    with pytest.raises(SettingsError, match="There is no picture to learn from"):
        DeepTask(NetTraining.parse(TINY), [])
