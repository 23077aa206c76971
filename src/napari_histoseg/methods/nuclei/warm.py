"""Compile the kernels before the first tile needs them."""

from __future__ import annotations

import numpy as np


def warm_up() -> None:
    """Run every kernel once on a tiny tile.

    Takes seconds on the first use of an installation and a fraction of one later, when the compiled code
    comes from the disk; a worker may do it while weights load.
    """
    from napari_histoseg.objects.measure import object_table

    from .decode import (
        decode_boundary,
        decode_votes,
        keep_largest_component,
        mean_probability,
        relabel,
        remove_small,
    )

    nucleus = np.zeros((16, 32), np.float32)
    nucleus[4:12, 4:28] = 1
    offset = np.zeros((2, 16, 32), np.float32)
    offset[1, :, 4:28] = np.where(np.arange(4, 28) < 16, 10, 22) - np.arange(4, 28)
    labels, probability = decode_votes(nucleus, offset, min_area_px=1, min_votes=1.0)
    object_table(labels, np.zeros((16, 32, 3), np.uint8), mpp=1.0, probability=probability)
    boundary = np.zeros((16, 32), np.float32)
    boundary[4:12, 15:17] = 1
    # Two seeds in one component, so that the flood runs too.
    decode_boundary(np.stack([1 - nucleus, nucleus - boundary, boundary]), min_area_px=1)
    mean_probability(keep_largest_component(remove_small(relabel(labels)[0], 1)), nucleus)
