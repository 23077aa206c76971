"""Mosaics of real tissue with exact truth, for `tissue_quality.py`.

    python benchmarks/tissue_mosaics.py --data DATA --out FOLDER [--set lung|colon] [--part learn|test] [--count 10] [--seed 0]

lung
    Free-form regions (the largest of several smooth random fields) of 512 × 512 px, filled with tiles of LC25000, each region from one
    photograph, continued by mirroring: glass, normal lung, adenocarcinoma, squamous carcinoma. Half of the photographs are learned from.
colon
    Parts of GlaS pictures with gland, stroma, and lumen or glass. Half of the patients are learned from. Lumen and glass, which GlaS does not
    outline, is what is bright and without color after a small blur.

Writes pictures and truths as PNG, and a table of what is in them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import skimage.io

from napari_histoseg._testing import he_image

Values = np.ndarray
CLASSES = ("glass or lumen", "gland", "stroma", "normal lung", "adenocarcinoma", "squamous carcinoma")
LUNG = {"lung_n": 3, "lung_aca": 4, "lung_scc": 5}
SIDE_PX = 512
REGION_PX, COARSE = 48, 8
"""σ of the random fields that regions are made from, which are drawn at an eighth of the size."""
DIVISION = 0
"""Seed of the division of photographs and patients into two halves."""
PARTS = ("learn", "test")


class Sources:
    """Photographs or patients of one half of the data."""

    def __init__(self, data: Path, part: str) -> None:
        self.data, self.part = data, part

    @cached_property
    def photographs(self) -> dict[str, list[list[Path]]]:
        """The tiles of each photograph of a class."""
        folder = self.data / "tiles" / "lc25000"
        index = pd.read_csv(folder / "index.csv")
        made = {}
        for name in LUNG:
            mine = index[index["class"] == name]
            kept = self._half(sorted(mine["photo"].unique()))
            made[name] = [[folder / file for file in mine[mine["photo"] == photo]["file"]] for photo in kept]
        return made

    @cached_property
    def colon(self) -> list[Path]:
        """The pictures of this half's patients."""
        grades = pd.read_csv(self.data / "glands" / "glas" / "grades.csv")
        kept = set(self._half(sorted(grades["patient"].unique())))
        names = grades[grades["patient"].isin(kept)]["name"]
        return [self.data / "glands" / "glas" / "images" / f"{name}.jpg" for name in names]

    def _half(self, names: Sequence[object]) -> list[object]:
        order = np.random.default_rng(DIVISION).permutation(len(names))
        count = len(names) // 2
        chosen = order[:count] if self.part == "learn" else order[count:]
        return [names[i] for i in chosen]

    def lung_field(self, name: str, rng: np.random.Generator) -> Values:
        """A tile of a photograph, continued by mirroring."""
        tiles = self.photographs[name][rng.integers(len(self.photographs[name]))]
        tile = skimage.io.imread(tiles[rng.integers(len(tiles))])[..., :3]
        wide = np.pad(tile, ((0, SIDE_PX), (0, SIDE_PX), (0, 0)), mode="symmetric")
        y, x = rng.integers(0, tile.shape[0], 2)
        return wide[y : y + SIDE_PX, x : x + SIDE_PX]

    def colon_field(self, rng: np.random.Generator) -> tuple[Values, Values]:
        """A part of a picture, and its truth."""
        path = self.colon[rng.integers(len(self.colon))]
        image = skimage.io.imread(path)[..., :3]
        glands = skimage.io.imread(next((path.parent.parent / "labels").glob(f"{path.stem}.*")))
        missing = [(0, max(SIDE_PX - n, 0)) for n in glands.shape]
        image, glands = np.pad(image, [*missing, (0, 0)], mode="symmetric"), np.pad(glands, missing, mode="symmetric")
        y, x = (rng.integers(0, n - SIDE_PX + 1) for n in glands.shape)
        image, glands = (v[y : y + SIDE_PX, x : x + SIDE_PX] for v in (image, glands))
        return image, np.where(bare(image), 0, np.where(glands > 0, 1, 2)).astype(np.uint8)


def bare(image: Values) -> Values:
    """Lumen and glass of a picture: bright and without color."""
    hsv = cv2.cvtColor(cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), 1.5), cv2.COLOR_RGB2HSV)
    mask = ((hsv[..., 1] < 30) & (hsv[..., 2] > 190)).astype(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0


def glass_field(rng: np.random.Generator) -> Values:
    """Bright, with a little noise."""
    return np.clip(np.array([240, 238, 243]) + rng.normal(0, 3, (SIDE_PX, SIDE_PX, 3)), 0, 255).astype(np.uint8)


def regions(count: int, rng: np.random.Generator) -> Values:
    """A number from 0 for each pixel, in free forms."""
    noise = rng.standard_normal((count, SIDE_PX // COARSE, SIDE_PX // COARSE)).astype(np.float32)
    fields = [cv2.GaussianBlur(one, (0, 0), REGION_PX / COARSE) for one in noise]
    return np.stack([cv2.resize(field / field.std(), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC) for field in fields]).argmax(0)


def lung_mosaic(sources: Sources, rng: np.random.Generator) -> tuple[Values, Values]:
    """Three or four of glass and the kinds of lung."""
    kinds = [*LUNG, "glass"]
    chosen = [kinds[i] for i in rng.permutation(4)[: rng.integers(3, 5)]]
    where = regions(len(chosen), rng)
    image, truth = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for number, kind in enumerate(chosen):
        field = glass_field(rng) if kind == "glass" else sources.lung_field(kind, rng)
        image[where == number], truth[where == number] = field[where == number], LUNG.get(kind, 0)
    return image, truth


def mosaics(data: Path, name: str, part: str, count: int, seed: int) -> Iterator[tuple[Values, Values]]:
    """Pictures (512, 512, 3) and truths (512, 512) of a set, from one half of the data."""
    sources, rng = Sources(data, part), np.random.default_rng([seed, PARTS.index(part)])
    for _ in range(count):
        image, truth = lung_mosaic(sources, rng) if name == "lung" else sources.colon_field(rng)
        yield np.ascontiguousarray(image), truth


def generated(count: int, seed: int) -> Iterator[tuple[Values, Values]]:
    """The same from synthetic pictures: sparse and dense nuclei, for a test of the script."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        where = regions(2, rng)
        dense, sparse = (he_image(SIDE_PX, SIDE_PX, seed=2 * i + k, mpp=(0.8, 0.3)[k], glass=0) for k in range(2))
        yield np.where(where[..., None] == 0, dense, sparse), where.astype(np.uint8) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="two synthetic mosaics")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", choices=("lung", "colon"), default="lung", dest="name")
    parser.add_argument("--part", choices=PARTS, default="test")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    made = generated(2, 0) if args.quick else mosaics(args.data, args.name, args.part, args.count, args.seed)
    print("| picture | " + " | ".join(CLASSES) + " |\n|" + "---|" * (len(CLASSES) + 1))
    for number, (image, truth) in enumerate(made):
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            for kind, pixels in (("image", image), ("truth", truth)):
                skimage.io.imsave(args.out / f"{number:03d}_{kind}.png", pixels, check_contrast=False)
        shares = np.bincount(truth.ravel(), minlength=len(CLASSES)) / truth.size
        print(f"| {number} | " + " | ".join(f"{v:.0%}" for v in shares) + " |")


if __name__ == "__main__":
    main()
