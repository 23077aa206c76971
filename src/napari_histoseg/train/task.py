"""What a method gives to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from napari_histoseg.methods.settings import TrainSettings
    from napari_histoseg.nn.weights import ModelCard

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
class MixedTask(Training, Protocol):
    """A method whose samples are of several kinds, each with its own way through the network and its own loss."""

    def sample_at(self, rng: np.random.Generator, place: int) -> Sample:
        """The augmented crop for a place of the batch, counted from 0: the place says its kind, so a batch's mix is exact."""

    def losses(self, network: nn.Module, image: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalar losses by name, their sum is minimized; the same names in every batch. ``image`` is (n, 3, h, w) in 0–1."""


@runtime_checkable
class OwnOptimizer(Protocol):
    """A task that brings its own optimizer and schedule. Tasks without these train by AdamW under a cosine schedule."""

    def optimizer(self, network: nn.Module) -> Optimizer:
        """The optimizer of the network's parameters; all its state must be in its ``state_dict``."""

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; a function of the step alone, so that resuming repeats it."""
