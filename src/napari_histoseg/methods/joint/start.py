"""Where a training starts: ImageNet weights where they are found, earlier joint weights, or random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.joint.network import CLASS_AXIS, RESNET_WIDTH, Encoder
from napari_histoseg.nn.weights import ModelCard, sha256_of

UNUSED = ("layer4.", "fc.")
"""Tensors of the published checkpoint that the encoder leaves out."""


def find_imagenet(file: Path | None = None) -> Path | None:
    """torchvision's ResNet-18 checkpoint: the given file, else the one in torch's own folder; None where there is none.

    Raises
    ------
    WeightsError
        If a file is given and is not there.
    """
    if file is not None:
        if not file.is_file():
            raise WeightsError(f"The encoder file {file} does not exist. Give torchvision's ResNet-18 checkpoint (resnet18-….pth).")
        return file
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next(iter(sorted(folder.glob("resnet18-*.pth"))), None)


def load_imagenet(encoder: Encoder, path: Path) -> None:
    """Load torchvision's ResNet-18 checkpoint into an encoder of width 64.

    The hash in the file's name is checked, and the file is read as tensors only: it can run no code.

    Raises
    ------
    WeightsError
        If the file is damaged, is none of these, or the encoder has another width.
    """
    if encoder.conv1.out_channels != RESNET_WIDTH:
        raise WeightsError(
            f"ImageNet weights have width {RESNET_WIDTH}, and this network {encoder.conv1.out_channels}. Set width to {RESNET_WIDTH}, or encoder to scratch."
        )
    stem, _, wanted = path.stem.rpartition("-")
    if stem and not sha256_of(path).startswith(wanted):
        raise WeightsError(f"{path} is damaged: its hash does not begin with {wanted}, as its name says. Download it again.")
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises in there is not listed anywhere
        raise WeightsError(f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__}). Give torchvision's ResNet-18.") from None
    kept = {k: v for k, v in state.items() if not k.startswith(UNUSED)}
    expected = encoder.state_dict()
    # Checkpoints from before batch norm counted its batches lack the counters, which nothing here needs.
    wrong = [k for k in expected if not k.endswith("num_batches_tracked") and (k not in kept or kept[k].shape != expected[k].shape)]
    if wrong or set(kept) - set(expected):
        raise WeightsError(f"{path} is no ResNet-18 checkpoint with torchvision's names (first difference: {(wrong or sorted(set(kept) - set(expected)))[0]}).")
    encoder.load_state_dict(kept, strict=False)


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
