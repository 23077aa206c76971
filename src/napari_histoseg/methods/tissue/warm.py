"""Compile the kernels before the first run needs them."""

from __future__ import annotations

import numpy as np


def warm_up() -> None:
    """Learn textures, superpixels and outlines of a small square.

    Takes seconds on the first use of an installation and less later, when the compiled code comes from the disk.
    """
    from napari_histoseg.methods.glass import glass
    from napari_histoseg.objects.superpixels import majority, superpixels

    from .crf import CrfSettings, dense_crf
    from .textures import describe, looks

    side, classes = 128, 2
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    describe(image, np.ascontiguousarray(looks(image, 1.0)[0, :8]), 6.0, 1.0)
    glass(image, 2)
    majority(np.zeros((side, side), np.int32), superpixels(image), classes)
    chance = np.full((classes, side, side), 1 / classes, np.float32)
    for origin in ((0, 0), (3, 5)):
        dense_crf(chance, image, CrfSettings.parse({}), origin)
