"""Compile the kernels before the first run needs them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np


def warm_up() -> None:
    """Look at a few squares, from labels and from outlines.

    Takes seconds on the first use of an installation and less later, when the compiled code comes from the disk.
    """
    from napari_histoseg.objects.trace import outlines
    from napari_histoseg.slide import Box, open_slide

    from .crops import CropStyle
    from .looks import Viewer, local_labels
    from .sources import source_of

    side, step, size = 128, 32, 10
    rows, columns = np.mgrid[:side, :side]
    inside = (rows % step < size) & (columns % step < size)
    labels = ((rows // step * (side // step) + columns // step + 1) * inside).astype(np.uint32)
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    slide = open_slide(noise, mpp=0.25)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "squares.geojson"
        ring = [[2, 2], [12, 2], [12, 12], [2, 12], [2, 2]]
        feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
        whole = Box(0, 0, side, side)
        for given in (path, labels):
            source = source_of(given, slide)
            index = source.index()
            look = Viewer(source, index, CropStyle(), 0.25, 1.0, 20.0).look(noise, whole, whole)
            outlines(local_labels(source.read(whole, 0.25), index.ids), np.arange(1, int(look.own.sum()) + 1))
