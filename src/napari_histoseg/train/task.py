"""What a method gives to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from napari_histoseg.methods.settings import TrainSettings
    from napari_histoseg.nn.weights import ModelCard
    from napari_histoseg.train.loop import TrainEvent

Sample = Mapping[str, NDArray[np.generic]]
"""One crop and its targets by name; ``image`` is (3, h, w) uint8."""


class Training(Protocol):
    """What every method's side of training has: its settings, its network, its score."""

    @property
    def settings(self) -> TrainSettings:
        """How long, how fast, on what."""

    def network(self) -> nn.Module:
        """A fresh network; the loop has seeded torch."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Scores on held-out data; the key ``score`` (higher is better) chooses the best weights."""

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card to save with the weights."""


class TrainTask(Training, Protocol):
    """A method whose samples are of one kind: one output, one loss."""

    def sample(self, rng: np.random.Generator) -> Sample:
        """One augmented crop; everything random comes from ``rng``."""

    def loss(self, output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of a batch; ``output`` is float32."""


@runtime_checkable
class OwnLosses(Protocol):
    """A task that takes its batches through the network itself, with a loss for each kind of sample."""

    def losses(self, network: nn.Module, image: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalar losses by name, their sum is minimized; the same names in every batch. ``image`` is (n, 3, h, w) in 0–1."""


@runtime_checkable
class OwnBatches(Protocol):
    """A task that draws whole batches, where samples hang together."""

    def batch_at(self, rng: np.random.Generator, step: int) -> Sample:
        """All that a step takes, stacked; everything random of the step, noise included, comes from ``rng``, so that resuming repeats it."""


@runtime_checkable
class GroupTask(Training, OwnBatches, OwnLosses, Protocol):
    """A method whose samples hang together, such as blocks that are compared with each other."""


@runtime_checkable
class MixedTask(Training, OwnLosses, Protocol):
    """A method whose samples are of several kinds, each with its own way through the network and its own loss."""

    def sample_at(self, rng: np.random.Generator, place: int) -> Sample:
        """The augmented crop for a place of the batch, counted from 0: the place says its kind, so a batch's mix is exact."""


@runtime_checkable
class OwnTraining(Protocol):
    """A method that learns without the loop, where there is no network to train."""

    def events(self, out: Path, resume: bool, stop: Callable[[], bool]) -> Generator[TrainEvent, None, None]:
        """Learn, and write the weights file ``out``; events as the loop's."""


@runtime_checkable
class OwnOptimizer(Protocol):
    """A task that brings its own optimizer and schedule. Tasks without these train by AdamW under a cosine schedule."""

    def optimizer(self, network: nn.Module) -> Optimizer:
        """The optimizer of the network's parameters; all its state must be in its ``state_dict``."""

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; a function of the step alone, so that resuming repeats it."""


@runtime_checkable
class OwnStep(Training, OwnBatches, Protocol):
    """A task that takes a whole step itself: several losses for several optimizers, such as a generator against its critic.

    The loop does the rest: batches ahead of time, the average of the weights, validation, checkpoints, the curve.
    """

    def optimizers(self, network: nn.Module) -> Optimizers:
        """The optimizers by name; the first one's learning rate is the one in the curve."""

    def take_step(
        self, network: nn.Module, optimizers: Optimizers, batch: Mapping[str, Tensor], step: int
    ) -> tuple[float, dict[str, float]]:
        """Train the network, which is in training mode, by a batch on its device; the loss, and what the curve shows by name."""


class Optimizers:
    """Several optimizers by name, which are saved and restored as one."""

    def __init__(self, **optimizers: Optimizer) -> None:
        self._optimizers = optimizers

    def __getitem__(self, name: str) -> Optimizer:
        return self._optimizers[name]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all, in the order of the optimizers."""
        return [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The states by name."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[name])
