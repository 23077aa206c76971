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


def tumour_model(path: Path, rounds: int = 0, **settings: Any) -> Path:
    """A model file whose probabilities lie on both sides of 0.5.

    Parameters
    ----------
    rounds : int
        Steps that the networks learn for, to tell dense tissue from sparse, and to follow the heatmap. Without, only their last layers
        are fitted, which takes a moment; what they say then hangs on the last bits of a picture.
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
    torch.manual_seed(0)
    classifier, refiner = None, None
    if chosen.backbone != "none":
        classifier = _taught(Classifier(chosen.backbone), "head.4", *_patches(chosen.crop_px), rounds)
    if chosen.refiner != "none":
        network = new_refiner(chosen)
        place = next(name for name in ("head", "heads.0", "second.head") if name in dict(network.named_modules()))
        refiner = _taught(network, place, *_pictures(chosen.picture_px, heat=classifier is not None), rounds)
    own = {"name": "small", "architecture": f"{chosen.backbone}+{chosen.refiner}", "width": 0, "mpp": chosen.mpp, "classes": [CLASS]}
    first, second = (None if network is None else network.state_dict() for network in (classifier, refiner))
    save_fitted(path, first, second, card_of("tumour", chosen, {}, {}, 0, 0.0, **own))
    return path


def _patches(side: int) -> tuple[Tensor, Tensor]:
    """Sparse and dense ones (n, 3, side, side), and what they are (n, 1), -1 or 1."""
    import torch

    sparse, dense = (_tensors([he_image(side, side, seed=i, mpp=mpp) for i in range(12)]) for mpp in (0.5, 2.0))
    return torch.cat([sparse, dense * 0.75]), torch.tensor([-1.0, 1.0]).repeat_interleave(12)[:, None]


def _pictures(side: int, heat: bool) -> tuple[Tensor, Tensor]:
    """Pictures with heatmaps (n, 4, side, side) and where these are high, or pictures and where their tumour is: (n, 1, side, side), -1 or 1."""
    import torch

    pictures, truths = zip(*(tumour_picture(side, seed=i) for i in range(4)), strict=True)
    image, wanted = _tensors(pictures), torch.from_numpy(np.stack(truths)).float()[:, None]
    if heat:
        plane = torch.nn.functional.interpolate(torch.rand(4, 1, side // 16, side // 16), size=(side, side))
        image, wanted = torch.cat([image, plane], 1), (plane > 0.5).float()
    return image, wanted * 2 - 1


def _tensors(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def _taught(network: nn.Module, last: str, images: Tensor, wanted: Tensor, rounds: int) -> nn.Module:
    """The network, whose logits (the last one, where there are two) have the sign that is wanted."""
    import torch

    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(rounds):
        loss = torch.nn.functional.softplus(-_logit(network, images) * wanted).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all that follows
    with torch.no_grad():
        for _ in range(2):
            network(images)
        network.eval()
        layer: Any = network.get_submodule(last)
        logit = _logit(network, images)
        middle = (logit[wanted < 0].mean() + logit[wanted > 0].mean()) / 2
        factor = 4 / (logit[wanted > 0].mean() - logit[wanted < 0].mean())
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)
        layer.bias[-1] -= factor * middle
    return network


def _logit(network: nn.Module, images: Tensor) -> Tensor:
    """The last class's logits less the others': of patches (n, 1), of pixels (n, 1, h, w)."""
    found: Tensor | list[Tensor] = network(images)
    return found[0] if isinstance(found, list) else found[:, 1:] - found[:, :1]
