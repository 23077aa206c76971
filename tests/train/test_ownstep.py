"""A task that takes its own steps, with several optimizers: the loop does all the rest as for other tasks."""

from __future__ import annotations

import csv
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
from napari_histoseg.train.loop import StepDone, Trained, Validated, fit
from napari_histoseg.train.task import Optimizers, OwnStep


class Chase(nn.Module):
    """Two numbers: one follows the data, the other follows the first."""

    def __init__(self) -> None:
        super().__init__()
        self.leader, self.follower = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))


class ChaseTask:
    def __init__(self, **settings: Any) -> None:
        self.settings = TrainSettings.parse({"steps": 40, "validate_every": 10, "batch": 4, "threads": 1, "average_decay": 0.5, **settings})
        self.seen: list[int] = []

    def network(self) -> nn.Module:
        return Chase()

    def optimizers(self, network: nn.Module) -> Optimizers:
        assert isinstance(network, Chase)
        return Optimizers(leader=torch.optim.Adam([network.leader], lr=0.05), follower=torch.optim.Adam([network.follower], lr=0.02))

    def batch_at(self, rng: np.random.Generator, step: int) -> dict[str, np.ndarray]:
        return {"value": rng.normal(0.5, 0.1, self.settings.batch).astype(np.float32), "step": np.asarray(step)}

    def take_step(self, network: nn.Module, optimizers: Optimizers, batch: Mapping[str, Tensor], step: int) -> tuple[float, dict[str, float]]:
        assert isinstance(network, Chase)
        assert network.training
        assert int(batch["step"]) == step
        self.seen.append(step)
        losses = {
            "leader": (network.leader - batch["value"].mean()).square().sum(),
            "follower": (network.follower - network.leader.detach()).square().sum(),
        }
        for name, loss in losses.items():
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
        parts = {name: float(loss.detach()) for name, loss in losses.items()}
        return sum(parts.values()), parts

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Chase)
        return {"score": -abs(float(network.follower.detach()) - 0.5)}

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        return ModelCard(method="chase", name="c", architecture="two", width=1, mpp=1, scores=dict(scores))


def test_every_optimizer_learns_and_the_curve_has_the_parts(tmp_path: Path) -> None:
    task = ChaseTask(steps=200, validate_every=50)
    assert isinstance(task, OwnStep)
    events = list(fit(task, tmp_path / "w.safetensors"))
    assert task.seen == list(range(200))
    ended = events[-1]
    assert isinstance(ended, Trained)
    assert ended.scores["score"] > -0.1
    assert read_card(tmp_path / "w.safetensors").scores == ended.scores
    steps = [e for e in events if isinstance(e, StepDone)]
    assert {e.learning_rate for e in steps} == {0.05}
    rows = list(csv.DictReader((tmp_path / "w.curve.csv").open()))
    assert [int(r["step"]) for r in rows] == [50, 100, 150, 200]
    for name in ("leader", "follower"):
        assert float(rows[0][f"loss_{name}"]) == pytest.approx(np.mean([e.parts[name] for e in steps[:50]]), rel=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.curve.csv", "w.safetensors"]


def test_resumed_equals_uninterrupted_with_the_state_of_every_optimizer(tmp_path: Path) -> None:
    list(fit(ChaseTask(), tmp_path / "a.safetensors"))
    events = fit(ChaseTask(), tmp_path / "b.safetensors")
    for event in events:
        if isinstance(event, StepDone) and event.step == 25:
            events.close()
            break
    again = ChaseTask()
    list(fit(again, tmp_path / "b.safetensors", resume=True))
    assert again.seen[0] == 20
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_it_stops_when_told(tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7

    events = list(fit(ChaseTask(), tmp_path / "w.safetensors", stop=stop))
    assert [e.step for e in events if isinstance(e, Validated)] == [7]


def test_a_loss_that_is_no_number_stops_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = ChaseTask()
    monkeypatch.setattr(task, "take_step", lambda *arguments: (float("nan"), {}))
    with pytest.raises(RunError, match=r"The loss is no longer a number at step 1\. Lower learning_rate \(now 0\.05\)"):
        list(fit(task, tmp_path / "w.safetensors"))


def test_optimizers_are_saved_as_one() -> None:
    network = Chase()
    both = ChaseTask().optimizers(network)
    network.leader.grad = torch.ones(1)
    both["leader"].step()
    fresh = ChaseTask().optimizers(Chase())
    fresh.load_state_dict(both.state_dict())
    assert fresh["leader"].state_dict()["state"][0]["step"] == 1
    assert [group["lr"] for group in fresh.param_groups] == [0.05, 0.02]
