"""Blocks with coarse labels for tests of label super-resolution: small, seeded, made in a moment."""

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

MPP, SIDE_PX = 2.0, 32
"""Of the blocks here: µm per pixel, and pixels a side."""
DARK = {"value": 1, "name": "dark", "color": "#ff0000"}
AMOUNTS = (0.0, 0.5, 1.0)
"""Share of the dark class in blocks of the coarse labels 0, 1 and 2."""
SMALL: dict[str, Any] = {
    "mpp": MPP, "width": 4, "steps": 4, "validate_every": 2, "batch": 6, "group": 2, "context": 0.5, "threads": 1, "precision": "float32",
}  # fmt: skip
"""Settings of a training that takes a moment."""


def half_dark(side: int = SIDE_PX, seed: int = 0, share: float = 0.5) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tissue (side, side, 3) that is dark from the left as far as ``share`` says, and its truth (side, side) 0 or 1."""
    picture = he_image(side, side, seed=seed, mpp=MPP)
    truth = np.zeros((side, side), np.uint8)
    truth[:, : round(share * side)] = 1
    return np.where(truth[..., None] > 0, picture // 3, picture), truth


def write_blocks(folder: Path, count: int = 18, shares: Sequence[float] = AMOUNTS) -> list[dict[str, Any]]:
    """Write pictures of blocks and return what a dataset says of them: labels in turn, six patients."""
    entries: list[dict[str, Any]] = []
    for i in range(count):
        label = i % len(shares)
        picture, _ = half_dark(seed=i, share=shares[label])
        Image.fromarray(np.rot90(picture, i // 3)).save(folder / f"block{i}.png")
        entries.append({"image": f"block{i}.png", "coarse": label, "group": f"patient {i // 3}"})
    return entries


def table(shares: Sequence[float] = AMOUNTS, rho: float = 0.02) -> list[dict[str, Any]]:
    """The shares of the dark class, as a dataset states them."""
    return [{"coarse": label, "class": 1, "eta": eta, "rho": rho} for label, eta in enumerate(shares)]


def write_dataset(folder: Path, patches: Sequence[dict[str, Any]], statistics: Sequence[dict[str, Any]] = (), **more: Any) -> Path:
    """Write a patch dataset's file."""
    content = {"version": 1, "mpp": MPP, "classes": [DARK], "patches": list(patches), "statistics": list(statistics), **more}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
