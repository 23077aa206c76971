"""Kinds of tissue among patches, for cluster guiding (§2.3 of the paper)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_histoseg.errors import TileError
from napari_histoseg.methods.tumour.clusters import ClusterGuide, fit_clusters
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.network import Classifier
from napari_histoseg.methods.tumour.patchtask import Pool, embedded
from napari_histoseg.methods.tumour.sampler import Tree
from napari_histoseg.nn.imagenet import find_imagenet, load_imagenet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.vgg import Vgg16
from napari_histoseg.predict.device import choose_device
from napari_histoseg.train.loop import Preparing

PATCHES = 3200
"""100 batches of 32."""
CHUNK = 32
GLASS = 243
WORDS = "Looking for kinds of patches"
Guide = tuple[nn.Module, ClusterGuide]


def fit_guide(settings: TumourTraining, pool: Pool) -> Generator[Preparing, None, Guide]:
    """The network whose features are clustered, frozen, and the clusters of patches that were drawn down the tree.

    VGG-16 where ImageNet weights of it are found, else the classifier's own backbone, with ImageNet weights or random numbers.
    """
    device = choose_device(settings.device)
    extractor = extractor_of(settings).to(device).eval().requires_grad_(False)
    tree = Tree(pool.rows, [stage for stage in (*settings.stages, "name", "label") if stage in pool.rows])
    rng = np.random.default_rng(settings.seed)
    numbers = [tree.draw(rng) for _ in range(min(PATCHES, 4 * len(pool.rows)))]
    features = yield from _features(extractor, pool, numbers, device)
    return extractor, fit_clusters(features, settings.n_clusters, seed=settings.seed).to(device)


def with_clusters(pool: Pool, guide: Guide, settings: TumourTraining) -> Generator[Preparing, None, Pool]:
    """The pool with the column ``cluster``, for drawing them evenly, too."""
    extractor, clusters = guide
    device = choose_device(settings.device)
    features = yield from _features(extractor, pool, range(len(pool.rows)), device)
    found = clusters(torch.from_numpy(features).to(device)).cpu().numpy()
    return replace(pool, rows=pool.rows.assign(cluster=found))


def _features(extractor: nn.Module, pool: Pool, numbers: Sequence[int], device: torch.device) -> Generator[Preparing, None, NDArray[np.float32]]:
    """Features (n, c) of patches by their numbers."""
    features = []
    for start in range(0, len(numbers), CHUNK):
        yield Preparing(WORDS, start, len(numbers))
        patches = np.stack([_read(pool, int(number)) for number in numbers[start : start + CHUNK]])
        with torch.inference_mode():
            features.append(embedded(extractor, to_input(patches, device, torch.float32)).cpu().numpy())
    return np.concatenate(features)


def _read(pool: Pool, number: int) -> NDArray[np.uint8]:
    """A patch; glass where the file is damaged."""
    try:
        return pool.read(number)
    except TileError:
        return np.full((pool.side_px, pool.side_px, 3), GLASS, np.uint8)


def extractor_of(settings: TumourTraining) -> nn.Module:
    """The network that features come from."""
    if (path := find_imagenet("vgg16")) is not None:
        vgg = Vgg16()
        load_imagenet(vgg, path, "vgg16")
        return vgg
    torch.manual_seed(settings.seed)
    assert settings.backbone != "none"
    backbone: nn.Module = Classifier(settings.backbone).backbone
    if (path := find_imagenet(settings.backbone, settings.encoder_file)) is not None:
        load_imagenet(backbone, path, settings.backbone)
    return backbone
