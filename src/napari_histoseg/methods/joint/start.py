"""Going on from earlier joint weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.joint.network import CLASS_AXIS
from napari_histoseg.nn.weights import ModelCard


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file."""
    from safetensors.torch import load_file

    return {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}


def channels_by_name(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[int, int]:
    """Output channel of the new network → that of the old one, for classes of one name; background is matched as such."""
    names = {_key(c): i for i, c in enumerate(old)}
    return {i: names[_key(c)] for i, c in enumerate(new) if _key(c) in names}


def _key(entry: dict[str, Any]) -> tuple[bool, str]:
    background = entry["value"] == 0
    return background, "" if background else str(entry["name"])


def warm_start(network: nn.Module, state: dict[str, Tensor], card: ModelCard, classes: list[dict[str, Any]], path: Path) -> None:
    """Go on from earlier weights: all tensors, and of those with a row or column a class, the classes of one name.

    Raises
    ------
    WeightsError
        If the earlier network is another one, or has no class in common.
    """
    matched = channels_by_name(card.classes, classes)
    if not matched:
        raise WeightsError(f"{path} has none of the dataset's classes ({', '.join(c['name'] for c in classes)}). Start without it.")
    fresh = network.state_dict()
    if set(fresh) != set(state):
        raise WeightsError(f"{path} holds another network (variant {card.architecture!r}). Choose the variant and head that it was trained with.")
    for name, tensor in fresh.items():
        source, axis = state[name], CLASS_AXIS.get(name)
        shapes = [tuple(n for i, n in enumerate(t.shape) if i != axis) for t in (tensor, source)]
        if shapes[0] != shapes[1]:
            raise WeightsError(f"{path} has width {card.width}, and the new network another. Set width to {card.width}, or to 0.")
        if axis is None:
            tensor.copy_(source)
        else:
            rows, columns = (torch.tensor([*indices]) for indices in (matched.keys(), matched.values()))
            tensor.index_copy_(axis, rows, source.index_select(axis, columns))
