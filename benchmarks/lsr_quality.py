"""Outlines learned from coarse labels of blocks: the comparison of Zhao et al. 2020 (table 2) on glands, with both matchings and an upper bound.

    python benchmarks/lsr_quality.py --data DATA --out RUNS.jsonl [--seeds 3] [--table TABLE.md]

Pictures of colon glands (GlaS) are cut into blocks of 96 µm, each with one of ten coarse labels: the bin of its share of gland
(exact), or of what a classifier of blocks would say (noisy: the share's log-odds with a normal error of 1). The table of shares is
measured in twelve blocks of each label, drawn at random from the training patients, as a person would paint them. Patients of test
pictures are in no training; which they are, and everything else that is random, hangs on the seed.

Rows: each block's label enlarged (the low-resolution model; the labels of test pictures are given to it, so that it is the best that
such a model can be); plain pixel training on labels enlarged so; intra and intra+inter with both matchings; the paper's recipe; and training on
all true pixels, the upper bound. All networks are the same and train for as many steps on as many pixels, and what is scored
are the weights of the last step: nothing is chosen by a score. Scores are of whole test pictures at the scanned pixel size, mean over
the pictures; "near" is within 12 µm of the true outline; islands are pieces of map, gland or not, below 1000 µm².

Every run is a line in RUNS, and those that are there already are not run again. With --stability N, the best row is trained with N
seeds instead, and what is looked at is whether any collapses.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io
import torch
from PIL import Image
from torch.nn import functional

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.annotations.blocks import BlockGrid
from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.methods.lsr.config import LsrTraining
from napari_histoseg.methods.lsr.pictures import Painted, crop, turned
from napari_histoseg.methods.lsr.table import measured
from napari_histoseg.methods.lsr.task import LsrTask
from napari_histoseg.methods.lsr.train import task_from_dataset
from napari_histoseg.metrics.lsr import score_lsr
from napari_histoseg.slide import Box, Slide
from napari_histoseg.train.loop import Trained, fit

GLAS_MPP, BLOCK_UM, MPP, NEAR_UM = 0.62, 96.0, 2.0, 12.0
BINS, CALIBRATED, NOISE = 10, 12, 1.0
TEST_SHARE = 0.4
CONDITIONS = ("exact", "noisy")
ENLARGED, PIXELS, BOUND = "block label enlarged", "pixels of enlarged labels", "all true pixels (upper bound)"
LOSSES: dict[str, dict[str, Any]] = {
    f"{level}, {matching}": {"level": level, "matching": matching} for level in ("intra", "intra+inter") for matching in ("marginal", "joint")
}
PAPER = "intra+inter, joint, paper's recipe"
DESIGNS = (ENLARGED, PIXELS, *LOSSES, PAPER, BOUND)
BEST = "intra+inter, marginal"
MEASURES = {
    "iou": "IoU", "dice": "Dice", "masked_iou": "IoU near", "masked_dice": "Dice near", "islands_per_mm2": "islands/mm²",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A picture, the file it lies in, its true glands at the scanned pixel size, grade and patient."""

    path: Path
    truth: np.ndarray
    grade: str
    patient: str

    def slide(self) -> Slide:
        return hs.open_slide(self.path, mpp=GLAS_MPP)


def load(data: Path) -> list[Field]:
    folder = data / "glands" / "glas"
    return [
        Field(folder / "images" / f"{row['name']}.jpg", skimage.io.imread(folder / "labels" / f"{row['name']}.png") > 0, row["grade"], row["patient"])
        for row in csv.DictReader((folder / "grades.csv").open())
    ]


def generated(folder: Path) -> list[Field]:
    """Pictures of six patients with dark disks."""
    made = []
    for i in range(12):
        image, _ = he_tissue(480, 360, seed=i, mpp=GLAS_MPP)
        y, x = np.mgrid[:360, :480]
        truth = np.logical_or.reduce([np.hypot(y - cy, x - cx) < 80 for cy, cx in ((100, 100 + 20 * (i % 3)), (230, 330))])
        Image.fromarray(np.where(truth[..., None], image // 3, image)).save(folder / f"{i}.png")
        made.append(Field(folder / f"{i}.png", truth, ("benign", "malignant")[i % 2], str(i // 2)))
    return made


def test_patients(fields: Sequence[Field], seed: int) -> set[str]:
    """Patients drawn in a random order as long as they have at most two fifths of the pictures of each grade."""
    rng = np.random.default_rng((seed, 7))
    chosen: set[str] = set()
    for patient in rng.permutation(sorted({f.patient for f in fields})):
        more = chosen | {str(patient)}
        shares = [np.mean([f.patient in more for f in fields if f.grade == grade]) for grade in {f.grade for f in fields}]
        if max(shares) <= TEST_SHARE:
            chosen = more
    return chosen


def probabilities(shares: np.ndarray, condition: str, rng: np.random.Generator) -> np.ndarray:
    """What a block is binned by: its share of gland, or a classifier's answer about it."""
    if condition == "exact":
        return shares
    odds = np.log((shares + 0.02) / (1.02 - shares)) + rng.normal(0, NOISE, shares.shape)
    return 1 / (1 + np.exp(-odds))


@dataclass(frozen=True)
class Labeled:
    """A picture with its grid, and the share and the probability of each block."""

    field: Field
    grid: BlockGrid
    shares: np.ndarray
    chance: np.ndarray

    @property
    def bins(self) -> np.ndarray:
        return np.minimum((self.chance * BINS).astype(np.uint8), BINS - 1)

    @property
    def enlarged(self) -> np.ndarray:
        """Each block wholly gland or not, continued to the picture's border."""
        side = self.grid.side_px
        rows, columns = (np.clip((np.arange(n) - o) // side, 0, m - 1) for n, o, m in zip(self.field.truth.shape, (self.grid.y, self.grid.x), self.chance.shape))
        return (self.chance >= 0.5)[rows][:, columns]


def labeled(field: Field, condition: str, rng: np.random.Generator) -> Labeled:
    with field.slide() as slide:
        grid = BlockGrid.over(slide, BLOCK_UM)
    box = grid.box
    part = field.truth[box.slices].reshape(grid.rows, grid.side_px, grid.columns, grid.side_px)
    shares = part.mean((1, 3))
    return Labeled(field, grid, shares, probabilities(shares, condition, rng))


def write_dataset(folder: Path, pictures: Sequence[Labeled], rng: np.random.Generator) -> None:
    """The training pictures as a patch dataset, with the table measured in a few blocks."""
    patches = []
    for i, each in enumerate(pictures):
        Image.fromarray(each.bins).save(folder / f"blocks{i}.png")
        box = each.grid.box
        patches.append({
            "slide": str(each.field.path.resolve()), "slide_mpp": GLAS_MPP, "box": [box.x, box.y, box.width, box.height], "blocks": f"blocks{i}.png", "group": each.field.patient,
        })  # fmt: skip
    bins, shares = (np.concatenate([getattr(each, name).ravel() for each in pictures]) for name in ("bins", "shares"))
    painted = {}
    for label in np.unique(bins):
        own = rng.permutation(shares[bins == label])[:CALIBRATED]
        own = np.resize(own, max(2, len(own)))
        painted[int(label)] = np.stack([1 - own, own], 1)
    table = measured(painted, (0, 1), {label: str(label) for label in painted})
    content = {"version": 1, "mpp": GLAS_MPP, "classes": [{"value": 1, "name": "gland"}], "patches": patches, "statistics": [row.model_dump(by_alias=True) for row in table.statistics()]}
    (folder / "dataset.json").write_text(json.dumps(content))


class PixelTask(LsrTask):
    """Plain pixel training on masks of the same pictures, with as many pixels a step."""

    masks: Sequence[Painted] = ()

    def batch_at(self, rng: np.random.Generator, step: int) -> dict[str, Any]:
        blocks = self.lessons.blocks
        images, masks = [], []
        for _ in range(self.settings.groups * self.settings.own_group):
            image, mask = crop(rng, self.masks[int(rng.integers(len(self.masks)))], blocks.view_px)
            turn = turned(rng)
            images.append(self._varied(rng, turn(image)))
            masks.append(turn(mask))
        return {"image": np.stack(images), "mask": np.stack(masks)}

    def losses(self, network: torch.nn.Module, image: torch.Tensor, batch: Any) -> dict[str, torch.Tensor]:
        return {"pixels": functional.cross_entropy(network(image).float(), batch["mask"].long(), ignore_index=255)}


def painted(each: Labeled, mask: np.ndarray, mpp: float, least: int) -> Painted:
    """A training picture with a mask for every pixel, as large as a view at least."""
    with each.field.slide() as slide:
        width, height = slide.size_at(mpp)
        image = slide.read_at(mpp, Box(0, 0, width, height))
    rows, columns = (((np.arange(n) + 0.5) * mpp / GLAS_MPP).astype(int).clip(0, m - 1) for n, m in zip((height, width), mask.shape))
    small = mask[rows][:, columns].astype(np.uint8)
    pads = [(0, max(0, least - n)) for n in small.shape]
    return Painted(np.pad(image, [*pads, (0, 0)], "symmetric"), np.pad(small, pads, "symmetric"))


@dataclass(frozen=True)
class Run:
    """One row of one seed."""

    condition: str
    design: str
    seed: int


def settings_of(run: Run, args: argparse.Namespace) -> LsrTraining:
    """The settings of a training; the paper's recipe has its own rate, group and optimizer."""
    own = LOSSES.get(run.design, {})
    if run.design == PAPER:
        own = {"variant": "paper", "level": "intra+inter", "matching": "joint", "average_decay": 0.0}
    return LsrTraining.parse({
        "seed": run.seed, "mpp": MPP, "width": args.width, "steps": args.steps, "validate_every": args.steps, "val_fraction": 0.0, "least_glass_um": 0.0,
        "threads": args.threads, "device": args.device, "precision": args.precision, **own,
    })  # fmt: skip


def task_of(run: Run, pictures: Sequence[Labeled], folder: Path, args: argparse.Namespace) -> LsrTask:
    course = task_from_dataset(read_dataset(folder), settings_of(run, args))
    reading = course.task()
    while True:
        try:
            next(reading)
        except StopIteration as end:
            task: LsrTask = end.value
            break
    if run.design in (PIXELS, BOUND):
        task = PixelTask(task.settings, task.table, task.classes, task.lessons)
        task.masks = [painted(p, p.enlarged if run.design == PIXELS else p.field.truth, MPP, task.lessons.blocks.view_px) for p in pictures]
    return task


def train(run: Run, pictures: Sequence[Labeled], test: Sequence[Labeled], args: argparse.Namespace) -> dict[str, Any]:
    """Train once and score on the test pictures; the row to keep."""
    begun = time.perf_counter()
    about: dict[str, Any] = {}
    if run.design == ENLARGED:
        maps = [each.enlarged for each in test]
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_dataset(folder, pictures, np.random.default_rng((run.seed, 11)))
            task, out = task_of(run, pictures, folder, args), folder / "w.safetensors"
            for event in fit(task, out):
                if isinstance(event, Trained):
                    about = {"blocks": len(task.lessons.blocks), "seconds": round(time.perf_counter() - begun, 1), "agreement": round(event.scores["agreement"], 4)}
            maps = [mapped(each.field, out) for each in test]
    rows = [score_lsr(found.astype(np.uint8), each.field.truth.astype(np.uint8), mpp=GLAS_MPP, within_um=NEAR_UM) for found, each in zip(maps, test)]
    scores = {name: round(float(np.nanmean([row[name] for row in rows])), 4) for name in MEASURES}
    shown = round(float(np.mean([found.mean() for found in maps])), 4)
    return {"condition": run.condition, "design": run.design, "seed": run.seed, "test": len(test), "map_share": shown, **about, **scores}


def mapped(field: Field, weights: Path) -> np.ndarray:
    """The map of a test picture at the scanned pixel size."""
    with field.slide() as slide:
        labels = np.asarray(hs.run("lsr", slide, weights=weights, glass_um=0.0, tissue_only=False, precision="float32").labels)
    rows, columns = (((np.arange(n) + 0.5) * GLAS_MPP / MPP).astype(int).clip(0, m - 1) for n, m in zip(field.truth.shape, labels.shape))
    return labels[rows][:, columns] == 1


def read_runs(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def planned(args: argparse.Namespace) -> Iterator[Run]:
    """All runs, a seed after the other; with --stability the best row alone."""
    if args.stability:
        for seed in range(args.first_seed, args.stability):
            yield Run("noisy", BEST, seed)
        return
    for seed in range(args.first_seed, args.seeds):
        for condition in args.conditions:
            for design in args.designs:
                # True pixels do not hang on how blocks are labeled.
                if (condition, design) != ("noisy", BOUND):
                    yield Run(condition, design, seed)


def experiment(done: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not done; each run is written as soon as it ends."""
    known = {(r["condition"], r["design"], r["seed"]) for r in done}
    new = []
    with tempfile.TemporaryDirectory() as folder:
        fields = generated(Path(folder)) if args.quick else load(args.data)
        for run in planned(args):
            if (run.condition, run.design, run.seed) in known:
                continue
            held = test_patients(fields, run.seed)
            rng = np.random.default_rng((run.seed, 3))
            pictures = [labeled(f, run.condition, rng) for f in fields]
            taught, test = ([p for p in pictures if (p.field.patient in held) == away] for away in (False, True))
            new.append(train(run, taught, test, args))
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(new[-1]) + "\n")
                print(json.dumps(new[-1]), flush=True)
    return new


def spread(values: Sequence[float], form: str) -> str:
    """``mean ± SD``."""
    if not values:
        return "–"
    return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else "")


def tables(runs: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """A table for each way to label blocks, with an empty row between them."""
    for condition in CONDITIONS:
        yield [f"{condition} labels", *MEASURES.values(), "seeds", "s"]
        yield ["---"] * (len(MEASURES) + 3)
        for design in DESIGNS:
            own = [r for r in runs if r["design"] == design and (r["condition"] == condition or design == BOUND)]
            if own:
                cells = [spread([r[name] for r in own], ".1f" if name == "islands_per_mm2" else ".3f") for name in MEASURES]
                seconds = [r["seconds"] for r in own if "seconds" in r]
                yield design, *cells, str(len(own)), f"{np.mean(seconds):.0f}" if seconds else "–"
        yield ()


def stability(runs: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """The least and the most of all seeds: a collapsed network maps everything or nothing."""
    yield ["seeds", "IoU, least", "median", "most", "share of gland in the maps, least", "most", "not a number"]
    yield ["---"] * 7
    iou, share = np.array([r["iou"] for r in runs]), np.array([r["map_share"] for r in runs])
    yield (str(len(runs)), *(f"{v:.3f}" for v in (iou.min(), np.median(iou), iou.max(), share.min(), share.max())), str(int(np.isnan(iou).sum())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="generated pictures and two steps of training")
    given.add_argument("--tables", action="store_true", help="run nothing: only print what --out holds")
    parser.add_argument("--out", type=Path, help="file of finished runs, a JSON line each; it is continued")
    parser.add_argument("--table", type=Path, help="markdown file")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--stability", type=int, default=0, metavar="N", help="train the best row alone, with N seeds")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of training; bfloat16 is faster on some processors")
    for name, value in {"first-seed": 0, "seeds": 3, "steps": 1200, "width": 16, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps, args.width, args.device = 1, 2, 4, "cpu"
    runs = read_runs(args.out)
    if not args.tables:
        runs += experiment(runs, args)
    rows = stability(runs) if args.stability else tables(runs)
    lines = [f"| {' | '.join(row)} |" if row else "" for row in rows]
    print("\n".join(lines))
    if args.table:
        args.table.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
