"""Semi-synthetic slides of tumour with exact truth, for `tumour_quality.py` and to train on: a patch dataset of slides at 10x (1 µm/px).

    python benchmarks/tumour_slides.py --data DATA --out FOLDER [--train 24 --val 8 --test 12] [--seed 0] [--side 4096] [--sheet SHEET.png]

Form
    A hand-drawn outline of tumour (`shapes/tcga_brca_tumour`), scaled, turned and placed in a free form of tissue on glass.
Texture
    Photographs of LC25000: normal lung, and adenocarcinoma or squamous carcinoma. Their red cells measure about 11 px, so their pixels are
    taken for 0.6 µm. Turned and mirrored parts of some photographs cover each other with soft, irregular edges, neighbors of one
    photograph. Colors of photographs are brought together, because the normal ones were taken with another white.
Grade
    1: pure. 2: islands of normal texture in the tumour, and nests of its texture outside. 3: more of both. The truth is always the
    outline, as a pathologist draws it.
Slide
    Amount and color of both stains, thickness, lamp, sharpness and noise differ from slide to slide. The truth is a mask at 8 µm/px.

Photographs and patients belong to train, val or test, whatever the seed. Prints what two simple designs reach: Otsu's threshold on the saturation
at 8 µm/px, and patches of 256 px of which at least half the tissue has the texture of tumour (what a faultless network at ≥ 0.5 finds).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import skimage.io
from skimage.filters import threshold_otsu

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.dataset import PatchDataset, write_dataset

Values = np.ndarray
SPLITS = ("train", "val", "test")
SHARES = (0.5, 0.2, 0.3)
"""Of photographs and of patients."""
DIVISION = 0
"""Seed of the division of photographs and patients; that of the slides does not touch it."""
KINDS = {"normal": ("lung_n",), "tumour": ("lung_aca", "lung_scc")}
MPP, TRUTH_PX, PATCH_PX = 1.0, 8, 256
PHOTO_MPP = 0.6
PIECE_PX, STEP_PX, FEATHER_PX = 224, 88, 3
"""Parts of photographs: their square, how far apart they lie, and σ of their edges."""
PHOTOGRAPHS, PHOTOGRAPH_PX = 14, 260
"""Most photographs of a texture in a slide, and σ of the field that says which of them is where."""
TISSUE_OD, EVEN = (0.42, 0.62, 0.20), 0.5
"""Mean optical density that the tissue of photographs is brought to (red, green, blue), and how much of the way."""
STRIP_PX = 256
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density (rows: hematoxylin, eosin, rest) after Ruifrok & Johnston."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the other texture within the outline and in the tissue outside, and σ of both, in px of the slide."""

    inside: float
    outside: float
    island_px: float = 75
    nest_px: float = 60


GRADES = {1: Mixture(0, 0), 2: Mixture(0.16, 0.08), 3: Mixture(0.26, 0.14)}
TUMOUR_SHARE = (0.32, 0.62)
"""Of the tissue, before what lies beyond its edge is cut off."""


# -- data --------------------------------------------------------------------------------------------------------------


def division(names: Sequence[str], split: str) -> list[str]:
    """The names that belong to a split."""
    order = np.random.default_rng(DIVISION).permutation(len(names))
    cuts = np.round(np.cumsum((0, *SHARES)) * len(names)).astype(int)
    at = SPLITS.index(split)
    return sorted(names[i] for i in order[cuts[at] : cuts[at + 1]])


class Sources:
    """Photographs and outlines of a split."""

    def __init__(self, data: Path, split: str) -> None:
        self.data, self.split = data, split
        self._read: dict[str, list[Values]] = {}

    @cached_property
    def index(self) -> pd.DataFrame:
        return pd.read_csv(self.data / "tiles" / "lc25000" / "index.csv")

    def photographs(self, kind: str) -> list[str]:
        """Those of a texture."""
        return [p for name in KINDS[kind] for p in division(sorted(self.index[self.index["class"] == name]["photo"].unique()), self.split)]

    def variants(self, photograph: str) -> list[Values]:
        """The tiles of a photograph at the slides' pixel size, continued by mirroring, with its colors brought to those of the others."""
        if photograph not in self._read:
            files = self.index[self.index["photo"] == photograph]["file"]
            self._read[photograph] = evened([skimage.io.imread(self.data / "tiles" / "lc25000" / file)[..., :3] for file in files])
        return self._read[photograph]

    @cached_property
    def outlines(self) -> list[Path]:
        """Drawn masks of this split's patients."""
        paths = sorted((self.data / "shapes" / "tcga_brca_tumour").glob("*.png"))
        mine = set(division(sorted({patient(path.stem) for path in paths}), self.split))
        return [path for path in paths if patient(path.stem) in mine]

    def outline(self, path: Path) -> Values | None:
        """What was drawn, cut to its bounding box; None where it is too small or too scattered to be one."""
        return main_parts(skimage.io.imread(path) > 0)


class Generated(Sources):
    """The same from nothing, for a test of the script."""

    def __init__(self, split: str) -> None:
        super().__init__(Path(), split)

    def photographs(self, kind: str) -> list[str]:
        return [f"{self.split} {kind} {i}" for i in range(2)]

    def variants(self, photograph: str) -> list[Values]:
        if photograph not in self._read:
            dense = "tumour" in photograph
            seeds = range(10 * SPLITS.index(self.split) + 5 * dense, 10 * SPLITS.index(self.split) + 5 * dense + 2)
            self._read[photograph] = [he_image(400, 400, seed=seed, mpp=0.9 if dense else 0.3) for seed in seeds]
        return self._read[photograph]

    @cached_property
    def outlines(self) -> list[Path]:
        return [Path(f"{self.split}-{i:07d}.png") for i in range(4)]

    def outline(self, path: Path) -> Values | None:
        rng = np.random.default_rng([SPLITS.index(self.split), int(path.stem[-7:])])
        return main_parts(smooth((120, 120), 20, rng) > 0.2)


def patient(name: str) -> str:
    """Of a slide of TCGA."""
    return name[:12]


def evened(tiles: Sequence[Values]) -> list[Values]:
    """Tiles of a photograph, shrunk, with white at 255 and their mean optical density near `TISSUE_OD`; each mirrored at its edges."""
    pixels = np.concatenate([tile.reshape(-1, 3)[::7] for tile in tiles]).astype(np.float32)
    gray = pixels.mean(1)
    # Lumen where there is any, else the brightest.
    white = np.median(pixels[gray >= np.percentile(gray, 97) - 20], axis=0)
    density = np.clip(-np.log((pixels + 1) / (white + 1)), 0, None)
    tissue = density.sum(1) > 0.45
    mean = density[tissue].mean(0) if tissue.any() else np.array(TISSUE_OD)
    gain = (np.array(TISSUE_OD) / np.maximum(mean, 0.02)) ** EVEN
    side = round(tiles[0].shape[0] * PHOTO_MPP / MPP)
    made = []
    for tile in tiles:
        od = np.clip(-np.log((tile + 1.0) / (white + 1.0)), 0, None) * gain
        image = np.clip(256 * np.exp(-od) - 0.5, 0, 255).astype(np.uint8)
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        made.append(np.pad(small, ((side, side), (side, side), (0, 0)), mode="symmetric"))
    return made


def main_parts(mask: Values) -> Values | None:
    """The parts of a mask that are at least a quarter of its largest, if they lie close together, else the largest; cut to them."""
    count, numbers, rows, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = rows[1:, cv2.CC_STAT_AREA]
    if count < 2 or areas.max() < 2000:
        return None
    kept = cut(np.isin(numbers, 1 + np.flatnonzero(areas >= areas.max() / 4)))
    return kept if kept.mean() > 0.3 else cut(numbers == 1 + areas.argmax())


def cut(mask: Values) -> Values:
    """A mask within its bounding box."""
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1]


# -- form, at 8 µm/px ---------------------------------------------------------------------------------------------------


def smooth(shape: Sequence[int], sigma: float, rng: np.random.Generator) -> Values:
    """A random field (h, w) with mean 0 and standard deviation 1."""
    coarse = max(1, int(sigma / 4))
    small = [max(2, -(-n // coarse) + 2) for n in shape]
    field = cv2.GaussianBlur(rng.standard_normal(small).astype(np.float32), (0, 0), sigma / coarse)
    field = cv2.resize((field - field.mean()) / max(field.std(), 1e-6), (small[1] * coarse, small[0] * coarse), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(field[: shape[0], : shape[1]])


def placed(outline: Values, shape: tuple[int, int], rng: np.random.Generator) -> Values:
    """An outline, turned and scaled, somewhere in a field."""
    outline = np.rot90(outline, rng.integers(4))
    outline = outline[:, :: rng.choice([-1, 1])].astype(np.float32)
    factor = rng.uniform(0.55, 0.85) * min(n / m for n, m in zip(shape, outline.shape, strict=True))
    # No tumour is smaller than a tenth of the field, if it fits.
    factor = min(max(factor, np.sqrt(0.1 * shape[0] * shape[1] / outline.sum())), 0.85 * min(n / m for n, m in zip(shape, outline.shape, strict=True)))
    size = [max(8, int(n * factor)) for n in outline.shape]
    small = cv2.resize(outline, (size[1], size[0]), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR) > 0.5
    y, x = (int(rng.integers(0.05 * n, max(0.95 * n - m, 0.05 * n + 1))) for n, m in zip(shape, size, strict=True))
    made = np.zeros(shape, bool)
    made[y : y + size[0], x : x + size[1]] = small
    return made


def tissue_form(tumour: Values, rng: np.random.Generator) -> Values:
    """Free-form tissue around most of a tumour, of which it is about a quarter to a half."""
    shape, reach = tumour.shape, min(tumour.shape)
    outside = cv2.distanceTransform((~tumour).astype(np.uint8), cv2.DIST_L2, 5)
    border = np.minimum.outer(*(np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape))
    form = smooth(shape, reach / 8, rng) * 0.13 + smooth(shape, reach / 40, rng) * 0.012
    # Deep in the tumour nothing is cut away; towards the edge of the slide tissue ends.
    field = form * reach - np.clip(outside, -0.08 * reach, None) + 0.08 * reach * (outside == 0)
    field -= 4 * np.clip(0.07 * reach - border, 0, None)
    wanted = min(tumour.sum() / rng.uniform(*TUMOUR_SHARE), 0.65 * tumour.size)
    return field > np.partition(field.ravel(), int(tumour.size - wanted))[int(tumour.size - wanted)]


def gaps(shape: Sequence[int], rng: np.random.Generator) -> Values:
    """Holes of 50 to 150 px."""
    return (smooth(shape, 5, rng) > 2.3) & (smooth(shape, min(shape) / 10, rng) > 0)


def mixed(tumour: Values, tissue: Values, mixture: Mixture, rng: np.random.Generator) -> Values:
    """Where the texture is that of tumour."""
    made = tumour.copy()
    for where, share, sigma in ((tumour, mixture.inside, mixture.island_px), (tissue & ~tumour, mixture.outside, mixture.nest_px)):
        if share and where.any():
            field = smooth(tumour.shape, sigma / TRUTH_PX, rng)
            made ^= where & (field > np.quantile(field[where], 1 - share))
    return made


# -- texture -----------------------------------------------------------------------------------------------------------


def blobs(rng: np.random.Generator, count: int = 12) -> list[Values]:
    """Weights (224, 224) of parts: round, uneven, with soft edges. Any point is within reach of one."""
    y, x = np.mgrid[:PIECE_PX, :PIECE_PX] - PIECE_PX / 2
    radius = 0.86 * PIECE_PX / 2 + 8 * np.stack([smooth((PIECE_PX, PIECE_PX), 14, rng) for _ in range(count)])
    cut_off = (np.hypot(y, x) < np.minimum(radius, PIECE_PX / 2 - 8)).astype(np.float32)
    return [cv2.GaussianBlur(one, (0, 0), FEATHER_PX) for one in cut_off]


def oriented(tile: Values, rng: np.random.Generator) -> Values:
    """A part about the middle of a mirrored tile, turned; what is mirrored is at its edge, which others mostly cover."""
    y, x = ((n - PIECE_PX) // 2 + int(rng.integers(-24, 25)) for n in tile.shape[:2])
    part = np.rot90(tile[y : y + PIECE_PX, x : x + PIECE_PX], rng.integers(4))
    return np.ascontiguousarray(part[:, :: rng.choice([-1, 1])])


def painted(photographs: Sequence[Sequence[Values]], where: Values, rng: np.random.Generator) -> Values:
    """Texture (8 h, 8 w, 3) wherever a mask (h, w) needs it: parts of photographs over each other."""
    height, width = (n * TRUTH_PX for n in where.shape)
    fields = np.stack([smooth(where.shape, PHOTOGRAPH_PX / TRUTH_PX, rng) for _ in photographs]).argmax(0)
    near = cv2.dilate(where.astype(np.uint8), np.ones((2 * PIECE_PX // TRUTH_PX + 1,) * 2, np.uint8)) > 0
    made = np.zeros((height + 2 * PIECE_PX, width + 2 * PIECE_PX, 3), np.uint8)
    weights = [(one, 1 - one) for one in blobs(rng)]
    centers = [(y, x) for y in range(0, height + STEP_PX, STEP_PX) for x in range(0, width + STEP_PX, STEP_PX)]
    for i in rng.permutation(len(centers)):
        y, x = (int(c + rng.integers(-16, 17)) for c in centers[i])
        row, column = min(max(y // TRUTH_PX, 0), where.shape[0] - 1), min(max(x // TRUTH_PX, 0), where.shape[1] - 1)
        if near[row, column]:
            tiles = photographs[fields[row, column]]
            over, under = weights[rng.integers(len(weights))]
            box = made[y + PIECE_PX // 2 : y + PIECE_PX // 2 + PIECE_PX, x + PIECE_PX // 2 : x + PIECE_PX // 2 + PIECE_PX]
            piece = oriented(tiles[rng.integers(len(tiles))], rng)
            box[...] = cv2.blendLinear(piece, np.ascontiguousarray(box), over, under)
    return made[PIECE_PX : PIECE_PX + height, PIECE_PX : PIECE_PX + width]


def soft(mask: Values, rng: np.random.Generator, rough: float = 0.25) -> Values:
    """A mask (h, w) as weights (8 h, 8 w) with an uneven, narrow edge."""
    half = [n * TRUTH_PX // 2 for n in mask.shape]
    field = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
    field = cv2.resize(field, (half[1], half[0]), interpolation=cv2.INTER_LINEAR) - 0.5
    noise = cv2.resize(smooth([n * 2 for n in mask.shape], 3, rng), (half[1], half[0]), interpolation=cv2.INTER_LINEAR)
    weights = np.clip((field + rough * np.clip(noise, -1.5, 1.5) * (1 - 2 * np.abs(field))) * 4 + 0.5, 0, 1)
    return cv2.resize(weights, (half[1] * 2, half[0] * 2), interpolation=cv2.INTER_LINEAR)


def strips(height: int) -> Iterator[slice]:
    """Rows that are worked on together: what they need stays small."""
    for y in range(0, height, STRIP_PX):
        yield slice(y, y + STRIP_PX)


def blended(over: Values, under: Values, weights: Values) -> Values:
    """Two pictures by weights of the first."""
    made = np.empty_like(under)
    for rows in strips(len(under)):
        made[rows] = cv2.blendLinear(np.ascontiguousarray(over[rows]), under[rows], weights[rows], 1 - weights[rows])
    return made


def scanned(image: Values, rng: np.random.Generator) -> Values:
    """White texture as one lab and one scanner would show it."""
    amounts = np.diag([rng.uniform(0.75, 1.25), rng.uniform(0.7, 1.3), 1])
    turned = STAINS + np.array([[1.0], [1.0], [0.0]]) * rng.normal(0, 0.05, (3, 3))
    matrix = np.linalg.inv(STAINS / np.linalg.norm(STAINS, axis=1)[:, None]) @ amounts @ (turned / np.linalg.norm(turned, axis=1)[:, None])
    thickness = cv2.resize(1 + 0.08 * np.clip(smooth([n // TRUTH_PX for n in image.shape[:2]], 60, rng), -2, 2), image.shape[1::-1])
    if (blur := rng.uniform(0, 0.9)) > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    lamp = (rng.uniform(228, 250) + rng.uniform(-5, 5, 3)).astype(np.float32)
    noise = rng.normal(0, rng.uniform(1, 3), (STRIP_PX, image.shape[1], 3)).astype(np.float32)
    made, table = np.empty_like(image), -np.log((np.arange(256, dtype=np.float32) + 1) / 256)[:, None]
    for rows in strips(len(image)):
        density = cv2.transform(cv2.LUT(image[rows], table), matrix.T.astype(np.float32)) * thickness[rows][..., None]
        light = cv2.exp(-np.maximum(density, 0)) * lamp + np.roll(noise, rng.integers(1000), 1)[: len(density)]
        made[rows] = np.clip(light, 0, 255)
    return made


# -- slides ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A slide (8 h, 8 w, 3), its truth, tissue and texture (h, w), and what it is from."""

    image: Values
    truth: Values
    tissue: Values
    texture: Values
    outline: str
    photographs: tuple[str, ...]


def slide_of(sources: Sources, path: Path, outline: Values, grade: int, side: int, rng: np.random.Generator) -> Made:
    """Draw a slide."""
    shape = tuple(int(side * rng.uniform(1, 1.25)) // TRUTH_PX for _ in range(2))
    tumour = placed(outline, shape, rng)
    tissue = tissue_form(tumour, rng)
    # A person draws around holes.
    tumour &= tissue
    tissue &= ~gaps(shape, rng)
    texture = mixed(tumour, tissue, GRADES[grade], rng)
    image = np.full((*(n * TRUTH_PX for n in shape), 3), 255, np.uint8)
    used: list[str] = []
    for kind, where in (("normal", tissue), ("tumour", texture)):
        names = sources.photographs(kind)
        chosen = [names[i] for i in rng.permutation(len(names))[:PHOTOGRAPHS]]
        image = blended(painted([sources.variants(name) for name in chosen], where, rng), image, soft(where, rng))
        used += chosen
    image = blended(image, np.full_like(image, 255), soft(tissue, rng))
    return Made(scanned(image, rng), tumour, tissue, texture, path.stem, tuple(used))


def slides(sources: Sources, count: int, side: int, seed: int) -> Iterator[tuple[int, Made]]:
    """Grades, in turn, and slides of one split; no outline is used twice."""
    rng = np.random.default_rng([seed, SPLITS.index(sources.split)])
    paths = iter([sources.outlines[i] for i in rng.permutation(len(sources.outlines))])
    for number in range(count):
        outline = None
        while outline is None:
            path = next(paths)
            outline = sources.outline(path)
        yield number % len(GRADES) + 1, slide_of(sources, path, outline, number % len(GRADES) + 1, side, rng)


def dice(predicted: Values, truth: Values) -> float:
    total = int(predicted.sum() + truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def by_otsu(made: Made) -> Values:
    """Otsu's threshold on the saturation at 8 µm/px."""
    low = cv2.resize(made.image, made.truth.shape[::-1], interpolation=cv2.INTER_AREA)
    saturation = cv2.cvtColor(low, cv2.COLOR_RGB2HSV)[..., 1]
    return saturation > threshold_otsu(saturation)


def by_patches(made: Made) -> Values:
    """Patches with tissue, half of which has the texture of tumour."""
    n = PATCH_PX // TRUTH_PX
    found = np.zeros_like(made.truth)
    for y in range(0, found.shape[0], n):
        for x in range(0, found.shape[1], n):
            here = np.s_[y : y + n, x : x + n]
            tissue = made.tissue[here].sum()
            found[here] = tissue >= n * n / 4 and made.texture[here].sum() >= tissue / 2
    return found


# -- dataset -----------------------------------------------------------------------------------------------------------


def write(out: Path, name: str, made: Made, grade: int, split: str) -> dict[str, Any]:
    """A slide and its mask; the patch for the dataset."""
    for folder in ("slides", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_svs(out / "slides" / f"{name}.tif", made.image, MPP, (1, 2, 4, 8), 256, "YCBCR", "420", aperio=False, quality=85)
    skimage.io.imsave(out / "masks" / f"{name}.png", made.truth.astype(np.uint8), check_contrast=False)
    height, width = made.image.shape[:2]
    return {
        "slide": f"slides/{name}.tif",
        "box": (0, 0, width, height),
        "mask": f"masks/{name}.png",
        "grade": grade,
        "group": patient(made.outline),
        "split": split,
    }


def thumbnail(made: Made, side: int = 320) -> Values:
    """A slide with its outline."""
    height, width = made.truth.shape
    factor = side / max(height, width)
    small = cv2.resize(made.image, (int(width * factor), int(height * factor)), interpolation=cv2.INTER_AREA)
    truth = cv2.resize(made.truth.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    found, _ = cv2.findContours(truth, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    framed = np.full((side, side, 3), 255, np.uint8)
    framed[: small.shape[0], : small.shape[1]] = cv2.drawContours(small, found, -1, (0, 90, 0), 1)
    return framed


def write_sheet(path: Path, pictures: Sequence[Values], columns: int = 6) -> None:
    blank = [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    rows = [np.hstack([*pictures, *blank][i : i + columns]) for i in range(0, len(pictures) + len(blank), columns)]
    skimage.io.imsave(path, np.vstack(rows), check_contrast=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="three small synthetic slides")
    parser.add_argument("--out", type=Path, help="folder of the dataset; without it only the table is printed")
    for split, count in zip(SPLITS, (24, 8, 12), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help=f"slides to {split} on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=4096, help="px of the shortest side; the longest is a quarter more at most")
    parser.add_argument("--sheet", type=Path, help="picture of all slides with their outlines")
    args = parser.parse_args()
    if args.quick:
        args.train, args.val, args.test, args.side = 3, 0, 0, 1024
        with tempfile.TemporaryDirectory() as folder:
            args.out = args.out or Path(folder)
            make(args)
    else:
        make(args)


def make(args: argparse.Namespace) -> None:
    """Make all slides, and print a table by split and grade."""
    patches, origins, rows, pictures = [], {}, [], []
    for split in SPLITS:
        sources = Generated(split) if args.quick else Sources(args.data, split)
        for number, (grade, made) in enumerate(slides(sources, getattr(args, split), args.side, args.seed)):
            name = f"{split}_{number:02d}"
            share = made.truth.sum() / made.tissue.sum()
            rows.append({"split": split, "grade": grade, "share": share, "otsu": dice(by_otsu(made), made.truth), "patches": dice(by_patches(made), made.truth)})
            if args.out:
                patches.append(write(args.out, name, made, grade, split))
                origins[name] = {"outline": made.outline, "photographs": made.photographs}
            if args.sheet:
                pictures.append(thumbnail(made))
    if args.out:
        write_dataset(args.out, PatchDataset.model_validate({"mpp": MPP * TRUTH_PX, "classes": [{"value": 1, "name": "tumour"}], "patches": patches}))
        (args.out / "origins.json").write_text(json.dumps(origins, indent=1))
    if args.sheet:
        write_sheet(args.sheet, pictures)
    report(pd.DataFrame(rows))


def report(rows: pd.DataFrame) -> None:
    """Means over slides."""
    print("| split | grade | slides | tumour of tissue | Dice of Otsu | Dice of patches ≥ 0.5 |\n|" + "---|" * 6)
    for (split, grade), mine in rows.groupby(["split", "grade"], sort=False):
        print(f"| {split} | {grade} | {len(mine)} | {mine['share'].mean():.2f} | {mine['otsu'].mean():.3f} | {mine['patches'].mean():.3f} |")
    print(f"| all | all | {len(rows)} | {rows['share'].mean():.2f} | {rows['otsu'].mean():.3f} | {rows['patches'].mean():.3f} |")


if __name__ == "__main__":
    main()
