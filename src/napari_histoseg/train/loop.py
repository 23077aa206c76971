"""The training loop, an iterator of events."""

from __future__ import annotations

import copy
import csv
import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_histoseg.errors import RunError
from napari_histoseg.methods.settings import TrainSettings
from napari_histoseg.nn.inference import channels_last, keep_freed_memory
from napari_histoseg.nn.weights import save_weights
from napari_histoseg.predict.device import choose_device, choose_precision
from napari_histoseg.train.task import (
    GroupTask,
    MixedTask,
    Optimizers,
    OwnBatches,
    OwnLosses,
    OwnOptimizer,
    OwnStep,
    Training,
    TrainTask,
)

MAY_CHANGE = ("device", "threads", "readers", "precision", "steps", "validate_every", "patience")
"""Settings that may differ when a training is resumed: where it runs, and how long it goes on."""


Task = TrainTask | MixedTask | GroupTask | OwnStep


@dataclass(frozen=True)
class StepDone:
    """An optimizer step was taken; ``parts`` are the losses that ``loss`` is the sum of, by name, where there are several."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validated:
    """Held-out data were scored; ``best`` when these are the weights to keep. ``weights`` is the file of the best so far."""

    step: int
    scores: dict[str, float]
    best: bool
    weights: Path


@dataclass(frozen=True)
class Trained:
    """Training ended; ``weights`` is the file of the best validation."""

    weights: Path
    scores: dict[str, float]
    seconds: float
    stopped_early: bool = False


@dataclass(frozen=True)
class Preparing:
    """Something besides steps goes on, such as reading slides."""

    words: str
    done: int
    total: int


TrainEvent = StepDone | Validated | Trained | Preparing


@dataclass
class _State:
    """Everything that a checkpoint holds."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer | Optimizers
    step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    seconds: float = 0.0


def never() -> bool:
    """Goes on to the end."""
    return False


def fit(task: Task, out: Path, resume: bool = False, stop: Callable[[], bool] = never) -> Generator[TrainEvent, None, None]:
    """Train a task's network and keep the weights with the best validation score in ``out``.

    Closing the iterator stops; what was learned until the last validation stays in the checkpoint beside ``out`` and
    ``resume=True`` goes on from there to the same weights as an uninterrupted training. The curve is written to
    ``<out>.curve.csv``. When ``stop``, asked after each step, says so, the network is scored once more and the training ends
    with the best weights.

    Raises
    ------
    RunError
        If the loss is no longer a number.
    """
    settings = task.settings
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(settings.seed)
    state = _start(task, device)
    checkpoint = out.with_suffix(".checkpoint.pt")
    if resume and checkpoint.exists():
        _restore(state, checkpoint, settings.model_dump(mode="json"))
    curve = _Curve(out.with_suffix(".curve.csv"), append=state.step > 0)
    begun = time.perf_counter() - state.seconds
    batches = _prefetch(task, state.step)
    for batch in batches:
        torch.manual_seed(_seed_of(settings.seed, state.step))
        loss, parts = _own_step(task, state, batch, device) if isinstance(task, OwnStep) else _step(task, state, batch, device, precision)
        state.step += 1
        state.seconds = time.perf_counter() - begun
        rate = state.optimizer.param_groups[0]["lr"]
        yield StepDone(state.step, settings.steps, loss, rate, state.seconds, parts)
        curve.loss(loss, parts)
        ending = stop() or state.step == settings.steps
        if state.step % settings.validate_every and not ending:
            continue
        validated = _validate(task, state, out)
        curve.row(state.step, rate, state.seconds, validated.scores)
        _save(state, checkpoint, settings.model_dump(mode="json"))
        yield validated
        if ending or (settings.patience and state.since_best >= settings.patience):
            batches.close()
            break
    stopped = state.step < settings.steps
    checkpoint.unlink(missing_ok=True)
    yield Trained(out, state.best, state.seconds, stopped)


def _seed_of(seed: int, step: int) -> int:
    """Seed of what a network itself draws in a step (dropout): it hangs on the step alone, so that resuming repeats it."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def _start(task: Training, device: torch.device) -> _State:
    network = channels_last(task.network().to(device))
    average = copy.deepcopy(network).eval()
    if isinstance(task, OwnStep):
        return _State(network, average, task.optimizers(network))
    own = task.optimizer(network) if isinstance(task, OwnOptimizer) else adamw(network, task.settings)
    return _State(network, average, own)


def adamw(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The loop's optimizer."""
    return torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def cosine(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 2 % of the steps, then a cosine to 1 % of the peak."""
    warm = max(1, steps // 50)
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done))))


def _prefetch(task: Task, first: int) -> Generator[dict[str, Tensor], None, None]:
    """Batches, a few ahead, in as many threads as the task has ``readers``, in their order.

    A sample's randomness hangs on (seed, step, place) alone, so resuming repeats nothing.
    """
    settings = task.settings
    readers = getattr(task, "readers", 1)

    def make(step: int) -> dict[str, Tensor]:
        if isinstance(task, OwnBatches):
            drawn = task.batch_at(np.random.default_rng((settings.seed, step)), step)
            return {name: torch.from_numpy(np.asarray(values)) for name, values in drawn.items()}
        rngs = [np.random.default_rng((settings.seed, step, i)) for i in range(settings.batch)]
        rows = [task.sample_at(rng, i) if isinstance(task, MixedTask) else task.sample(rng) for i, rng in enumerate(rngs)]
        return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}

    with ThreadPoolExecutor(readers, "histoseg-samples") as pool:
        pending = [pool.submit(make, step) for step in range(first, min(first + readers + 1, settings.steps))]
        for step in range(first, settings.steps):
            batch = pending.pop(0).result()
            if step + readers + 1 < settings.steps:
                pending.append(pool.submit(make, step + readers + 1))
            yield batch


def _own_step(task: OwnStep, state: _State, batch: dict[str, Tensor], device: torch.device) -> tuple[float, dict[str, float]]:
    """A step that the task takes itself."""
    assert isinstance(state.optimizer, Optimizers)
    state.network.train()
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    value, parts = task.take_step(state.network, state.optimizer, batch, state.step)
    _require_number(value, state)
    _follow_step(task, state)
    return value, parts


def _require_number(value: float, state: _State) -> None:
    if not np.isfinite(value):
        rate = state.optimizer.param_groups[0]["lr"]
        raise RunError(f"The loss is no longer a number at step {state.step + 1}. Lower learning_rate (now {rate:g}) and train again.")


def _follow_step(task: Training, state: _State) -> None:
    _follow(state.average, state.network, min(task.settings.average_decay, (state.step + 1) / (state.step + 10)))


def _step(
    task: TrainTask | MixedTask | GroupTask, state: _State, batch: dict[str, Tensor], device: torch.device, precision: torch.dtype
) -> tuple[float, dict[str, float]]:
    settings = task.settings
    assert isinstance(state.optimizer, torch.optim.Optimizer)
    state.network.train()
    rate = task.rate(state.step) if isinstance(task, OwnOptimizer) else cosine(state.step, settings.steps, settings.learning_rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
    image = batch["image"].float().div_(255).contiguous(memory_format=torch.channels_last)
    losses = _losses(task, state.network, image, batch, precision)
    loss = torch.stack(list(losses.values())).sum()
    value = float(loss.detach())
    _require_number(value, state)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), 5.0)
    state.optimizer.step()
    _follow_step(task, state)
    return value, {name: float(part.detach()) for name, part in losses.items() if name}


def _losses(task: TrainTask | MixedTask | GroupTask, network: nn.Module, image: Tensor, batch: dict[str, Tensor], precision: torch.dtype) -> dict[str, Tensor]:
    """The losses by name; the one of a task with a single loss has none."""
    with torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
        if isinstance(task, OwnLosses):
            return task.losses(network, image, batch)
        output = network(image)
    return {"": task.loss(output.float(), batch)}


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters and of batch-norm statistics."""
    for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _validate(task: Training, state: _State, out: Path) -> Validated:
    scores = task.validate(state.average)
    best = not state.best or scores["score"] > state.best["score"]
    if best:
        state.best, state.since_best = scores, 0
        save_weights(out, state.average, task.card(scores, state.seconds))
    else:
        state.since_best += 1
    return Validated(state.step, scores, best, out)


def _save(state: _State, path: Path, settings: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    content = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "numbers": {"step": state.step, "since_best": state.since_best, "seconds": state.seconds},
        "best": state.best,
        "settings": settings,
    }
    torch.save(content, partial)
    os.replace(partial, path)


def _restore(state: _State, path: Path, settings: dict[str, Any]) -> None:
    saved = torch.load(path, map_location="cpu", weights_only=True)
    changed = sorted(k for k in settings if k not in MAY_CHANGE and settings[k] != saved["settings"].get(k))
    if changed:
        raise RunError(f"{path} was made with other settings ({', '.join(changed)}). Resume with the same settings, or train anew.")
    state.network.load_state_dict(saved["network"])
    state.average.load_state_dict(saved["average"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.step, state.since_best = int(saved["numbers"]["step"]), int(saved["numbers"]["since_best"])
    state.seconds, state.best = float(saved["numbers"]["seconds"]), dict(saved["best"])


class _Curve:
    """The learning curve as a CSV file, a row a validation."""

    def __init__(self, path: Path, append: bool) -> None:
        self._path, self._losses = path, list[dict[str, float]]()
        if not append:
            path.unlink(missing_ok=True)

    def loss(self, value: float, parts: dict[str, float]) -> None:
        """Remember a step's loss and its parts; a row holds their means since the last one."""
        self._losses.append({"loss": value, **{f"loss_{name}": part for name, part in parts.items()}})

    def row(self, step: int, rate: float, seconds: float, scores: dict[str, float]) -> None:
        """Append a row and flush it."""
        losses = {name: float(np.mean([loss[name] for loss in self._losses])) for name in self._losses[0]}
        values = {"step": step, **losses, "learning_rate": rate, "seconds": round(seconds, 1), **scores}
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, values)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values.items()})
        self._losses.clear()
