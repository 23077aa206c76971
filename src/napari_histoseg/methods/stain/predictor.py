"""Writing a normalized slide down: the engine reads it, this keeps what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.methods.base import Survey, TileFrame, TileOutput
from napari_histoseg.methods.stain.config import StainSettings


class StainModel:
    """No network of its own: a neural style runs where the slide is read, so that every method can read through it."""

    mpp: float | None = None
    halo_px = 0
    stride_px = 1
    weights: dict[str, Any] | None = None
    classes: list[dict[str, Any]] = []
    merged: dict[int, int] = {}

    def __init__(self, settings: StainSettings) -> None:
        self.settings = settings

    def fit(self, survey: Survey) -> Iterator[tuple[int, int]]:
        """Nothing: the slide was measured before."""
        return iter(())

    def forward(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Nothing to compute: (n, 0, h, w)."""
        return np.empty((len(images), 0, *images.shape[1:3]), np.float32)

    def decode(self, raw: NDArray[np.float32], image: NDArray[np.uint8], frame: TileFrame) -> TileOutput:
        """The tile's pixels."""
        keep = frame.tile.keep
        return TileOutput(image=(keep, image[keep.relative_to(frame.tile.read).slices]))

    def finish(self, objects: pd.DataFrame) -> pd.DataFrame:
        """No objects, no columns."""
        return pd.DataFrame(index=objects.index)
