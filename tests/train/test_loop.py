"""The training loop: it learns, it resumes to the same bits, it keeps the best."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_histoseg.errors import RunError
from napari_histoseg.methods.settings import TrainSettings
from napari_histoseg.nn.weights import ModelCard, read_card
from napari_histoseg.train.loop import MAY_CHANGE, StepDone, Trained, Validated, fit


class Brightness:
    """Learns the mean brightness of a patch."""

    def __init__(self, **settings: Any) -> None:
        self.settings = TrainSettings.parse(
            {"steps": 40, "validate_every": 10, "batch": 4, "learning_rate": 0.05, "threads": 1, "precision": "float32", "average_decay": 0.5, **settings}
        )

    def network(self) -> nn.Module:
        return nn.Conv2d(3, 1, 1)

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        image = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
        return {"image": image, "mean": np.float32(image.mean() / 255)}

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return ((output.mean((1, 2, 3)) - batch["mean"]) ** 2).mean()

    def validate(self, network: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            image = torch.full((1, 3, 8, 8), 0.5)
            return {"score": -abs(float(network(image).mean()) - 0.5)}

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        return ModelCard(method="brightness", name="b", architecture="conv", width=1, mpp=1, scores=dict(scores))


def test_it_learns_and_writes_weights_with_card_and_curve(tmp_path: Path) -> None:
    events = list(fit(Brightness(steps=200, validate_every=50), tmp_path / "w.safetensors"))
    losses = [e.loss for e in events if isinstance(e, StepDone)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 5
    assert isinstance(events[-1], Trained) and events[-1].scores["score"] > -0.1
    assert read_card(tmp_path / "w.safetensors").scores == events[-1].scores
    rows = list(csv.DictReader((tmp_path / "w.curve.csv").open()))
    assert [int(r["step"]) for r in rows] == [50, 100, 150, 200]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.curve.csv", "w.safetensors"]


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    list(fit(Brightness(), tmp_path / "a.safetensors"))
    events = fit(Brightness(), tmp_path / "b.safetensors")
    for event in events:
        if isinstance(event, StepDone) and event.step == 25:
            events.close()
            break
    resumed = list(fit(Brightness(), tmp_path / "b.safetensors", resume=True))
    assert resumed[0].step == 21
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


class Forgetful(Brightness):
    """Its network forgets a part of what it sees."""

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 1, 1))


def test_resumed_equals_uninterrupted_with_dropout_whatever_others_draw(tmp_path: Path) -> None:
    list(fit(Forgetful(), tmp_path / "a.safetensors"))
    for event in (events := fit(Forgetful(), tmp_path / "b.safetensors")):
        torch.rand(3)
        if isinstance(event, StepDone) and event.step == 25:
            events.close()
            break
    list(fit(Forgetful(), tmp_path / "b.safetensors", resume=True))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("readers", [2, 5])
def test_readers_change_neither_the_order_of_samples_nor_the_bits(tmp_path: Path, readers: int) -> None:
    class Read(Brightness):
        """Samples that take the longer the earlier they are."""

        def __init__(self, count: int) -> None:
            super().__init__(steps=12, validate_every=6)
            self.readers, self.at_once, self.most, self.lock = count, 0, 0, threading.Lock()

        def sample(self, rng: np.random.Generator) -> dict[str, Any]:
            with self.lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
            time.sleep(float(np.random.default_rng(rng.integers(9)).random()) / 200)
            with self.lock:
                self.at_once -= 1
            return super().sample(rng)

    one, several = Read(1), Read(readers)
    losses = [[e.loss for e in fit(task, tmp_path / f"{name}.safetensors") if isinstance(e, StepDone)] for name, task in (("a", one), ("b", several))]
    assert losses[0] == losses[1]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert one.most == 1 and 1 < several.most <= readers


def test_readers_are_only_a_few_batches_ahead(tmp_path: Path) -> None:
    task = Brightness(steps=50)
    task.readers = 3  # type: ignore[attr-defined]
    drawn: list[int] = []
    sample = task.sample
    task.sample = lambda rng: drawn.append(1) or sample(rng)  # type: ignore[method-assign, func-returns-value]
    events = fit(task, tmp_path / "w.safetensors")
    next(events)
    time.sleep(0.2)
    assert len(drawn) // task.settings.batch <= 1 + 3 + 1
    events.close()


def test_a_sample_that_fails_ends_the_training_with_its_reason(tmp_path: Path) -> None:
    task = Brightness()
    task.readers = 2  # type: ignore[attr-defined]
    sample, drawn = task.sample, list[int]()

    def failing(rng: np.random.Generator) -> dict[str, Any]:
        drawn.append(1)
        if len(drawn) > 30:
            raise RunError("The slide is gone.")
        return sample(rng)

    task.sample = failing  # type: ignore[method-assign]
    with pytest.raises(RunError, match="The slide is gone"):
        list(fit(task, tmp_path / "w.safetensors"))


def test_readers_may_change_when_a_training_is_resumed() -> None:
    assert "readers" in MAY_CHANGE


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    events = fit(Brightness(), tmp_path / "w.safetensors")
    for event in events:
        if isinstance(event, Validated):
            events.close()
            break
    with pytest.raises(RunError, match=r"was made with other settings \(learning_rate\)"):
        list(fit(Brightness(learning_rate=0.1), tmp_path / "w.safetensors", resume=True))


def test_it_stops_early_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Brightness(steps=100, patience=2)
    scores = iter([0.1, 0.9, 0.3, 0.2])
    monkeypatch.setattr(task, "validate", lambda network: {"score": next(scores)})
    events = list(fit(task, tmp_path / "w.safetensors"))
    assert [e.best for e in events if isinstance(e, Validated)] == [True, True, False, False]
    assert events[-1].stopped_early and events[-1].scores == {"score": 0.9}
    assert read_card(tmp_path / "w.safetensors").scores == {"score": 0.9}


def test_a_loss_that_is_no_number_stops_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Brightness()
    monkeypatch.setattr(task, "loss", lambda output, batch: output.mean() * float("nan"))
    with pytest.raises(RunError, match=r"The loss is no longer a number at step 1\. Lower learning_rate"):
        list(fit(task, tmp_path / "w.safetensors"))


class Halves(Brightness):
    """Two kinds of samples: dark ones first in the batch, bright ones after, each with its own loss."""

    def sample_at(self, rng: np.random.Generator, place: int) -> dict[str, Any]:
        bright = place >= self.settings.batch // 4
        image = np.full((3, 8, 8), 200 if bright else 50, np.uint8)
        return {"image": image, "bright": np.asarray(bright), "noise": rng.random(2)}

    def losses(self, network: nn.Module, image: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert batch["bright"].tolist() == [False, True, True, True]
        error = (network(image).mean((1, 2, 3)) - image.mean((1, 2, 3))) ** 2
        return {"dark": error[~batch["bright"]].mean(), "bright": 2 * error[batch["bright"]].mean()}


def test_a_mixed_batch_has_its_kinds_in_place_and_their_losses_apart(tmp_path: Path) -> None:
    events = list(fit(Halves(steps=60, validate_every=20), tmp_path / "w.safetensors"))
    steps = [e for e in events if isinstance(e, StepDone)]
    assert all(e.loss == pytest.approx(e.parts["dark"] + e.parts["bright"]) for e in steps)
    assert steps[-1].loss < steps[0].loss / 5
    rows = list(csv.DictReader((tmp_path / "w.curve.csv").open()))
    for row, part in zip(rows, (steps[:20], steps[20:40], steps[40:])):
        for name in ("dark", "bright"):
            assert float(row[f"loss_{name}"]) == pytest.approx(np.mean([e.parts[name] for e in part]), rel=1e-4)
    assert all(e.weights == tmp_path / "w.safetensors" for e in events if isinstance(e, Validated))


def test_one_loss_has_no_parts(tmp_path: Path) -> None:
    events = list(fit(Brightness(steps=2, validate_every=1), tmp_path / "w.safetensors"))
    assert [e.parts for e in events if isinstance(e, StepDone)] == [{}, {}]
    assert "loss_" not in (tmp_path / "w.curve.csv").read_text()


def test_a_training_that_is_told_to_stop_is_scored_and_keeps_its_best(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7

    events = list(fit(Brightness(steps=60, validate_every=50), out, stop=stop))
    assert [e.step for e in events if isinstance(e, Validated)] == [7]
    ended = events[-1]
    assert isinstance(ended, Trained)
    assert ended.stopped_early
    assert out.is_file()
    assert not (tmp_path / "w.checkpoint.pt").exists()
