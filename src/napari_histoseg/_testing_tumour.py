"""Outlined slides and model files of tumour for tests: small, seeded, made in a moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_histoseg._testing import he_image

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

MPP, PATCH_PX, SCALE = 4.0, 64, 2
"""Of the small models here: µm per pixel and side of their patches, and pixels of a patch for each pixel of 8 µm."""
TUMOUR = {"value": 1, "name": "tumour", "color": "#ff0000"}
SMALL: dict[str, Any] = {
    "mpp": MPP, "crop_px": PATCH_PX, "steps": 2, "validate_every": 2, "batch": 4, "val_patches": 8, "average_decay": 0.0,
    "refine_steps": 2, "refine_batch": 2, "refine_px": 64, "encoder": "scratch", "precision": "float32", "threads": 1, "readers": 1,
}  # fmt: skip
"""Settings of a training that takes a few seconds."""


def tumour_picture(side: int = 256, seed: int = 0, radius: float = 0.3, glass: float = 0.1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Sparse tissue with a dense disk (tumour) in the middle and glass above: the picture (side, side, 3), and its truth (side, side) 0 or 1.

    Parameters
    ----------
    radius, glass : float
        Of the disk, and height of the glass, as parts of the side.
    """
    sparse, dense = (he_image(side, side, seed=2 * seed + i, mpp=mpp) for i, mpp in enumerate((0.5, 2.0)))
    rows, columns = np.mgrid[:side, :side] + 0.5
    truth = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (radius * side) ** 2
    picture = np.where(truth[..., None], dense // 4 * 3, sparse).astype(np.uint8)
    picture[: round(glass * side)] = 245
    return picture, truth.astype(np.uint8)


def write_slides(folder: Path, count: int = 5, side: int = 256, first: int = 0) -> list[dict[str, Any]]:
    """Write pictures and their masks, and return what a dataset says of them: two grades, each slide of a patient of its own."""
    entries: list[dict[str, Any]] = []
    for i in range(first, first + count):
        picture, truth = tumour_picture(side, seed=i)
        Image.fromarray(picture).save(folder / f"slide{i}.png")
        Image.fromarray(truth).save(folder / f"truth{i}.png")
        entries.append({"image": f"slide{i}.png", "mask": f"truth{i}.png", "grade": i % 2, "group": f"patient {i}"})
    return entries


def write_dataset(folder: Path, patches: Sequence[dict[str, Any]], classes: Sequence[dict[str, Any]] = (TUMOUR,), mpp: float | None = MPP) -> Path:
    """Write a patch dataset's file."""
    content = {"version": 1, "classes": list(classes), "patches": list(patches), **({} if mpp is None else {"mpp": mpp})}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def tumour_dataset(folder: Path, count: int = 5, side: int = 256) -> Path:
    """A patch dataset of outlined slides; see :func:`write_slides`."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_dataset(folder, write_slides(folder, count, side))


def tumour_model(path: Path, seed: int = 0, **settings: Any) -> Path:
    """A model file of random numbers whose probabilities lie on both sides of 0.5, patch by patch and pixel by pixel.

    Parameters
    ----------
    **settings
        Of a training, in place of those of :data:`SMALL`.
    """
    import torch

    from napari_histoseg.methods.tumour.config import TumourTraining
    from napari_histoseg.methods.tumour.fitted import TUMOUR as CLASS
    from napari_histoseg.methods.tumour.fitted import new_refiner, save_fitted
    from napari_histoseg.methods.tumour.network import Classifier
    from napari_histoseg.train.card import card_of

    chosen = TumourTraining.parse({**SMALL, **settings})
    torch.manual_seed(seed)
    classifier = None if chosen.backbone == "none" else _classifier(Classifier(chosen.backbone), chosen.crop_px)
    refiner = None if chosen.refiner == "none" else _refiner(new_refiner(chosen), chosen.picture_px, heat=classifier is not None)
    own = {"name": "small", "architecture": f"{chosen.backbone}+{chosen.refiner}", "width": 0, "mpp": chosen.mpp, "classes": [CLASS]}
    first, second = (None if network is None else network.state_dict() for network in (classifier, refiner))
    save_fitted(path, first, second, card_of("tumour", chosen, {}, {}, 0, 0.0, **own))
    return path


def _classifier(network: nn.Module, side: int) -> nn.Module:
    import torch

    patches = _tensors([he_image(side, side, seed=i, mpp=0.5 * 2 ** (i % 3)) for i in range(16)])
    _warmed(network, patches)
    last = network.get_submodule("head.4")
    with torch.no_grad():
        logits = network(patches)
        _spread(last, (logits[:, 1] - logits[:, 0]), 1)
    return network


def _refiner(network: nn.Module, side: int, heat: bool) -> nn.Module:
    import torch

    pictures = _tensors([tumour_picture(side, seed=i)[0] for i in range(4)])
    if heat:
        coarse = torch.rand(4, 1, side // 16, side // 16)
        pictures = torch.cat([pictures, torch.nn.functional.interpolate(coarse, size=(side, side))], 1)
    _warmed(network, pictures)
    place = next(name for name in ("head", "heads.0", "second.head") if name in dict(network.named_modules()))
    with torch.no_grad():
        _spread(network.get_submodule(place), network(pictures)[0], 0)
    return network


def _tensors(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def _warmed(network: nn.Module, images: Tensor) -> None:
    """Batch norm learns what pictures look like."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all that was seen
    with torch.no_grad():
        for _ in range(2):
            network(images)
    network.eval()


def _spread(last: Any, difference: torch.Tensor, channel: int) -> None:
    """Scale and shift the last layer so that the logits of a channel, less those of the other, have the median 0 and the spread 2."""
    factor = 2 / float(difference.std())
    last.weight.mul_(factor)
    last.bias.mul_(factor)
    last.bias[channel] -= factor * float(difference.median())
