"""The model card of a training: what all methods say alike."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from napari_histoseg.methods.settings import TrainSettings
from napari_histoseg.nn.weights import ModelCard


def card_of(
    method: str, settings: TrainSettings, provenance: Mapping[str, Any], scores: Mapping[str, float], images: int, seconds: float, **own: Any
) -> ModelCard:
    """The card to save with weights.

    Parameters
    ----------
    method : str
    settings : TrainSettings
    provenance : mapping
        Where the data come from: ``name``, ``summary``, ``data``, ``data_sha256``, ``license``, as far as they are known.
    scores : mapping of str to float
        On held-out data.
    images : int
        Pictures that were scored.
    seconds : float
        What the training took.
    **own
        Further fields of the card: ``architecture``, ``width``, ``mpp``, ``classes``; and ``name`` or ``summary`` for data that
        have none.
    """
    known = {key: provenance[key] for key in ("name", "summary", "data", "data_sha256", "license") if provenance.get(key)}
    return ModelCard(
        method=method,
        settings=settings.model_dump(mode="json"),
        scores={"validation": {k: round(v, 4) for k, v in scores.items()}, "images": images},
        versions={"torch": torch.__version__, "python": platform.python_version()},
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads",
        seconds=round(seconds, 1),
        **{**own, **known},
    )
