"""Stain normalization between laboratories and scanners: the paper's first two tables (sections 4.1 and 4.1.1).

    python benchmarks/stain_quality.py --data DATA [--targets consep tnbc] [--steps N] [--seeds N] [--out TABLE.md]

Pictures of every set but the target's are brought to the style of the target. The classical methods measure the same
reference pictures that the networks are trained on; what is scored is compared with other pictures of the target's set
(all their pixels together for the histograms, each of them for the distance), and no network has seen a scored picture.
Rows of networks are means over seeds; ± is the SD over pictures, and in brackets over seeds. The second table finds nuclei, with
the weights that ship, in held-out pictures of the nuclei sets after each normalization.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.metrics import (
    euclidean,
    find_glass,
    glass_change,
    hellinger,
    hematoxylin_similarity,
    histogram_correlation,
    seam,
)
from napari_histoseg.slide import Box, Slide
from napari_histoseg.slide.stain import METHODS, StainNormalizer, StainProfile, measure, measure_slide

MPP = 0.25
FIELD_PX, TILE_PX = 512, 256
CLASSICAL = ("reinhard", "macenko", "vahadane")
NEURAL = {"neural, MSE": 0.0, "neural, MSE + class": 0.01}
ONWARD = ", to the reference"
"""The style, and from its colors on to those of the reference pictures; L* is then not the slide's."""
ROWS = ("as scanned", *CLASSICAL, *NEURAL, *(name + ONWARD for name in NEURAL))
PER_TILE = "macenko, fitted per tile"
COLUMNS = ("correlation", "Hellinger", "Euclidean", "SSIM of H", "glass", "seam")
NUCLEI = ("dice", "aji", "sensitivity")
INK = {"train_12.png", "train_2.png"}
"""Ink and black pigment: no picture to learn a stain from, or to compare one with."""

Image = np.ndarray
Scores = dict[str, float]
Look = Callable[[Slide], Any]
"""Makes the normalizer for a slide, None for none."""
Reader = Callable[[Slide, Box], Image]


@dataclass
class Picture:
    """A field of a slide; ``labels`` where its nuclei are known; ``category`` is an image-level class, -1 for none."""

    slide: Slide
    box: Box
    labels: Image | None = None
    category: int = -1

    @property
    def pixels(self) -> Image:
        """As scanned."""
        return self.slide.read(0, self.box)


@dataclass
class Set:
    """Pictures of one laboratory: to learn the style from, and others. A set of few pictures is scored only."""

    reference: list[Picture] = field(default_factory=list)
    held: list[Picture] = field(default_factory=list)


def picture(image: Image, labels: Image | None = None, mpp: float = MPP) -> Picture:
    slide = hs.open_slide(np.ascontiguousarray(image[..., :3]), mpp=mpp)
    return Picture(slide, slide.bounds, labels)


def nuclei_set(folder: Path, held_names: Sequence[str], names: Sequence[str]) -> Set:
    """Pictures with labels; the references in quarters, each with a class."""
    made = Set()
    for name in (n for n in names if n not in INK):
        labels = skimage.io.imread(folder / "labels" / name).astype(np.int32)
        whole = picture(skimage.io.imread(folder / "images" / name), labels)
        if name in held_names:
            made.held.append(whole)
        else:
            types = folder / "types" / name
            made.reference += quarters(whole, skimage.io.imread(types) if types.exists() else None)
    if not (folder / "types").exists():
        by_density(made.reference)
    return made


def quarters(whole: Picture, types: Image | None) -> Iterator[Picture]:
    """Four parts; their class is the type of nucleus that covers most (inflammatory, epithelial, spindle-shaped)."""
    height, width = whole.box.height // 2, whole.box.width // 2
    for x, y in ((0, 0), (width, 0), (0, height), (width, height)):
        part = Picture(whole.slide, Box(x, y, width, height), whole.labels)
        if types is not None:
            part.category = int(np.argmax([(types[part.box.slices] == value).sum() for value in (2, 3, 4)]))
        yield part


def by_density(pictures: Sequence[Picture]) -> None:
    """The class where no types are known: few nuclei, some, or many, by thirds."""
    area = [(p.labels[p.box.slices] > 0).mean() for p in pictures if p.labels is not None]
    for p, rank in zip(pictures, np.argsort(np.argsort(area))):
        p.category = int(rank * 3 // len(area))


def tiles(slide: Slide, limit: int) -> list[Picture]:
    """Fields spread over a slide, glass and all; the stain is measured on the whole slide."""
    places = [
        Box(x, y, FIELD_PX, FIELD_PX)
        for y in range(0, slide.height - FIELD_PX + 1, FIELD_PX)
        for x in range(0, slide.width - FIELD_PX + 1, FIELD_PX)
    ]
    return [Picture(slide, places[i]) for i in np.unique(np.linspace(0, len(places) - 1, limit).astype(int))]


def load(data: Path, limit: int) -> dict[str, Set]:
    """All sets by name."""
    card = next(w["card"] for w in hs.list_weights() if w["name"] == "compact")
    held = {name: entry["held_out_images"] for name, entry in zip(("consep", "dsb2018", "tnbc"), card["data"], strict=True)}
    sets = {}
    for name in ("consep", "tnbc"):
        folder = data / "nuclei" / name
        sets[name] = nuclei_set(folder, held[name], sorted(p.name for p in (folder / "images").iterdir()))
    table = np.genfromtxt(data / "nuclei" / "dsb2018" / "index.csv", delimiter=",", dtype=str, skip_header=1)
    purple = {f"{row[0]}.png" for row in table if row[2] == "purple_on_white"}
    sets["dsb purple"] = nuclei_set(data / "nuclei" / "dsb2018", held["dsb2018"], [n for n in held["dsb2018"] if n in purple])
    sets["oscc"] = Set(held=[picture(skimage.io.imread(p)) for p in sorted((data / "stain" / "oscc").glob("*.jpg"))])
    sets["torchstain"] = Set(held=[picture(skimage.io.imread(p)) for p in sorted((data / "stain").glob("*.png"))])
    sets["CMU slide"] = Set(held=tiles(hs.open_slide(data / "slides" / "CMU-1-Small-Region.svs"), limit))
    tcga = next((data / "slides").glob("tcga*.svs"))
    sets["TCGA slide"] = Set(held=tiles(hs.open_slide(tcga, mpp=MPP), limit))
    for one in sets.values():
        one.held = one.held[:limit]
    return sets


def generated() -> dict[str, Set]:
    """Two small sets whose colors differ."""
    sets: dict[str, Set] = {}
    for name, tint in (("left", (1.0, 1.0, 1.0)), ("right", (0.98, 0.93, 0.97))):
        drawn = [he_tissue(288, 288, seed, MPP, glass=0.1) for seed in range(3)]
        pictures = [picture(np.rint(image * np.array(tint)).astype(np.uint8), labels) for image, labels in drawn]
        sets[name] = Set([part for p in pictures[:2] for part in quarters(p, None)], pictures[2:])
        by_density(sets[name].reference)
    return sets


@functools.lru_cache(maxsize=64)
def source_profile(slide: Slide) -> StainProfile:
    return measure_slide(slide)


def classical(target: StainProfile, method: Any) -> Look:
    return lambda slide: StainNormalizer(source_profile(slide), target, method)


def train_style(reference: Sequence[Picture], seed: int, weight: float, out: Path, args: argparse.Namespace) -> Path:
    """Train a style by the package's loop on all references but the last, which choose the weights to keep; files are reused."""
    from napari_histoseg.methods.stain.config import StainTraining
    from napari_histoseg.methods.stain.train import Reference, StainTask
    from napari_histoseg.train.loop import fit

    if out.exists():
        return out
    settings = StainTraining(
        width=args.width, steps=args.steps, batch=args.batch, crop_px=args.crop, seed=seed, class_weight=weight, optimizer="adamw",
        validate_every=max(args.steps // 2, 1), threads=1, device="cpu",
    )  # fmt: skip
    parts = [Reference(p.slide, p.box, str(i), p.category) for i, p in enumerate(reference)]
    val = parts[-4:]
    train = [part for part in parts if part.slide is not val[0].slide]
    for _ in fit(StainTask(settings, train, val, ("a", "b", "c") if weight else ()), out):
        pass
    return out


def neural(path: Path, target: StainProfile | None) -> Look:
    from napari_histoseg.methods.stain.style import style_for

    return functools.lru_cache(maxsize=64)(lambda slide: style_for(slide, path, target=target, device="cpu"))


def seen(slide: Slide, look: Look) -> Slide:
    normalizer = look(slide)
    return slide.with_stain(normalizer) if normalizer else slide


def looks(name: str, target: Set, target_name: str, folder: Path, args: argparse.Namespace) -> list[Look]:
    """The normalizers of a row: one, or one for each seed."""
    if name == "as scanned":
        return [lambda slide: None]
    if name in METHODS:
        return [classical(measure([p.pixels for p in target.reference]), name)]
    aim = measure([p.pixels for p in target.reference]) if name.endswith(ONWARD) else None
    weight = NEURAL[name.removesuffix(ONWARD)]
    files = [folder / f"{target_name}-{'class' if weight else 'mse'}-{seed}.safetensors" for seed in range(args.seeds)]
    return [neural(train_style(target.reference, seed, weight, path, args), aim) for seed, path in enumerate(files)]


def central(box: Box, side: int = FIELD_PX) -> Box:
    width, height = min(box.width, side), min(box.height, side)
    return Box(box.x + (box.width - width) // 2, box.y + (box.height - height) // 2, width, height)


def by_tiles(box: Box, read: Callable[[Box], Image]) -> Image:
    """A field put together from its tiles."""
    out = np.empty((*box.shape, 3), np.uint8)
    for y in range(box.y, box.bottom, TILE_PX):
        for x in range(box.x, box.right, TILE_PX):
            tile = Box(x, y, TILE_PX, TILE_PX).intersect(box)
            out[tile.relative_to(box).slices] = read(tile)
    return out


def normalized(look: Look) -> Reader:
    """Reads tile by tile, as the package does."""
    return lambda slide, box: by_tiles(box, lambda tile: seen(slide, look).read(0, tile))


def fitted_per_tile(target: StainProfile) -> Reader:
    """What the package never does, to show what the seam measure makes of it."""

    def fitted(pixels: Image) -> Image:
        return StainNormalizer(measure(pixels), target, "macenko").apply(pixels)

    return lambda slide, box: by_tiles(box, lambda tile: fitted(slide.read(0, tile)))


def compare(made: Image, source: Image, white: Sequence[float], style: Image, others: Sequence[Image]) -> Scores:
    """All measures of one field. ``style`` holds all pixels of the target's held-out pictures, ``others`` their fields."""
    cuts = [list(range(TILE_PX, size, TILE_PX)) for size in made.shape[:2]]
    distances = []
    for other in others:
        height, width = np.minimum(made.shape[:2], other.shape[:2])
        distances.append(euclidean(made[:height, :width], other[:height, :width]))
    return {
        "correlation": histogram_correlation(made, style),
        "Hellinger": hellinger(made, style),
        "Euclidean": float(np.mean(distances)),
        "SSIM of H": hematoxylin_similarity(made, source),
        "glass": glass_change(made, source, find_glass(source, white)),
        "seam": seam(made, *cuts, source),
    }


def score_row(readers: Sequence[Reader], sources: Sequence[Picture], target: Set) -> list[list[Scores]]:
    """Scores by seed and picture."""
    others = [p.slide.read(0, central(p.box)) for p in target.held]
    style = np.concatenate([other.reshape(1, -1, 3) for other in others], axis=1)
    fields = [(p.slide, central(p.box)) for p in sources]
    return [[compare(read(slide, box), slide.read(0, box), source_profile(slide).white, style, others) for slide, box in fields] for read in readers]


def score_nuclei_row(several: Sequence[Look], sources: Sequence[Picture], model: str) -> list[list[Scores]]:
    """Scores of nuclei by seed and picture."""
    return [[hs.score("nuclei", hs.run("nuclei", seen(p.slide, look), model=model), p.labels) for p in sources] for look in several]


def cells(rows: list[list[Scores]], columns: Sequence[str]) -> list[str]:
    """``mean ± SD over pictures``, and in brackets the SD over seeds where there are several."""
    made = []
    for column in columns:
        values = np.ma.masked_invalid([[scores[column] for scores in row] for row in rows])
        if not values.count():
            made.append("–")
            continue
        seeds = f" ({np.ma.std(values.mean(1), ddof=1):.3f})" if len(rows) > 1 else ""
        made.append(f"{values.mean():.3f} ± {values.mean(0).std():.3f}{seeds}")
    return made


def fallbacks(name: str, look: Look, sources: Sequence[Picture]) -> str:
    """How many pictures another method, or none, was used for."""
    if name not in CLASSICAL:
        return "–"
    return str(sum(look(p.slide).method != name for p in sources))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="generated pictures and two steps of training")
    parser.add_argument("--targets", nargs="+", default=["consep", "tnbc"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--models", nargs="*", default=["compact", "log"], help="models that find nuclei")
    parser.add_argument("--limit", type=int, default=4, help="pictures a set")
    for name, value in (("seeds", 3), ("steps", 400), ("width", 32), ("batch", 8), ("crop", 160)):
        parser.add_argument(f"--{name}", type=int, default=value, help="of the networks")
    parser.add_argument("--weights", type=Path, help="folder that keeps the trained weights, for another run")
    parser.add_argument("--out", type=Path, help="markdown file")
    args = parser.parse_args()
    sets = generated() if args.quick else load(args.data, args.limit)
    if args.quick:
        args.targets, args.models, args.seeds, args.steps, args.width, args.batch, args.crop = ["left"], ["log"], 2, 2, 8, 2, 64
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.weights or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lines: list[str] = []
        for row in tables(sets, folder, args):
            lines.append(f"| {' | '.join(row)} |" if row else "")
            print(lines[-1], flush=True)
            if args.out:
                args.out.write_text("\n".join(lines) + "\n")


def tables(sets: dict[str, Set], folder: Path, args: argparse.Namespace) -> Iterator[Sequence[str]]:
    """Rows of both tables, with an empty one between them."""
    made = {(t, row): looks(row, sets[t], t, folder, args) for t in args.targets for row in args.rows}
    yield from header("target", "method", *COLUMNS, "pictures", "fell back")
    for target in args.targets:
        sources = [p for name, one in sets.items() if name != target for p in one.held]
        for row in args.rows:
            scores = score_row([normalized(look) for look in made[target, row]], sources, sets[target])
            yield target, row, *cells(scores, COLUMNS), str(len(sources)), fallbacks(row, made[target, row][0], sources)
        reader = fitted_per_tile(measure([p.pixels for p in sets[target].reference]))
        yield target, PER_TILE, *cells(score_row([reader], sources, sets[target]), COLUMNS), str(len(sources)), "–"
    yield ()
    yield from header("model", "target", "method", *NUCLEI, "pictures")
    for model in args.models:
        for target, row in made:
            sources = [p for name, one in sets.items() if name != target for p in one.held if p.labels is not None]
            yield model, target, row, *cells(score_nuclei_row(made[target, row], sources, model), NUCLEI), str(len(sources))


def header(*names: str) -> list[Sequence[str]]:
    return [names, ["---"] * len(names)]


if __name__ == "__main__":
    main()
