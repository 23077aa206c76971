"""Kinds of tissue among patches, for cluster guiding (§2.3 of the paper)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from napari_histoseg.methods.tumour.clusters import ClusterGuide, fit_clusters
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.network import Classifier
from napari_histoseg.methods.tumour.patchtask import Pool, embedded
from napari_histoseg.methods.tumour.sampler import Tree
from napari_histoseg.nn.imagenet import find_imagenet, load_imagenet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.vgg import Vgg16
from napari_histoseg.predict.device import choose_device

PATCHES = 3200
"""100 batches of 32."""
CHUNK = 32


def fit_guide(settings: TumourTraining, pool: Pool) -> tuple[nn.Module, ClusterGuide]:
    """The network whose features are clustered, frozen, and the clusters of patches that were drawn down the tree.

    VGG-16 where ImageNet weights of it are found, else the classifier's own backbone, with ImageNet weights or random numbers.
    """
    device = choose_device(settings.device)
    extractor = extractor_of(settings).to(device).eval().requires_grad_(False)
    tree = Tree(pool.rows, [stage for stage in (*settings.stages, "name", "label") if stage in pool.rows])
    rng = np.random.default_rng(settings.seed)
    numbers = [tree.draw(rng) for _ in range(min(PATCHES, 4 * len(pool.rows)))]
    features = []
    with torch.inference_mode():
        for start in range(0, len(numbers), CHUNK):
            patches = np.stack([pool.read(number) for number in numbers[start : start + CHUNK]])
            features.append(embedded(extractor, to_input(patches, device, torch.float32)).cpu().numpy())
    clusters = fit_clusters(np.concatenate(features), settings.n_clusters, seed=settings.seed)
    return extractor, clusters.to(device)


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
