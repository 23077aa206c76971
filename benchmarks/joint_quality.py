"""Learning to segment with classification labels: the paper's experiment (Ciga & Martel 2021, section 3.3 and figure 3) on glands.

    python benchmarks/joint_quality.py --data DATA --out RUNS.jsonl [--seeds 5] [--figure FIGURE.png] [--table TABLE.md]

Pictures of colon glands, benign and malignant (GlaS), are cut into halves, the patches. In training, s % of the patches have a
mask (background, benign gland, malignant gland), drawn so that both grades are alike in number; S uses only these, S+C the
others too, each with its class alone, and S+C* all patches with their class. A patch's class is the grade of its picture
when glands cover a tenth of it, background when there are none, and it is left out in between. Patients of the test pictures
are in no training; the patients are divided once, so that the test part holds about two fifths of each grade.

Every run is a line in RUNS, and those that are there already are not run again, so the experiment can be stopped and
continued, or shared between processes by --first-seed; with --tables nothing is run. What is scored are whole test pictures, all their pixels together, with the weights of
the last step: nothing is chosen by a score. "Relative" is a score over that of S at 100 %, mean over the same seeds.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.methods.joint.config import JointTraining
from napari_histoseg.methods.joint.data import Picture
from napari_histoseg.methods.joint.task import JointTask
from napari_histoseg.slide import Box
from napari_histoseg.train.loop import Trained, fit

CLASSES = [
    {"value": 0, "name": "background"},
    {"value": 1, "name": "benign gland", "color": "#3cb44b"},
    {"value": 2, "name": "malignant gland", "color": "#e6194b"},
]
GRADES = {"benign": 1, "malignant": 2}
GLAS_MPP = 0.62
SHARES = (5.0, 10.0, 100.0, 2.5, 1.0, 7.5, 25.0, 50.0)
"""In the order in which they are run: those that say most come first."""
SETTINGS = ("S", "S+C", "S+C*")
TEST_SHARE = 0.4
LEAST_GLAND = 0.1
MEASURES = {"macro_f1": "macro F1", "foreground_dice": "gland Dice"}
PAPER: dict[str, Any] = {
    "variant": "paper", "batch": 20, "mix": 0.5, "class_weight": 1.0, "average_decay": 0.0, "weight_decay": 0.0, "augmentation": 0.0,
}  # fmt: skip
"""As published, but for the start: ImageNet weights are used only where they are found."""

Image = np.ndarray


@dataclass(frozen=True)
class Field:
    """A picture at the working pixel size, its class mask, grade and patient."""

    image: Image
    mask: Image
    grade: int
    patient: str
    name: str

    def halves(self) -> Iterator[Field]:
        """The patches: left and right half."""
        middle = self.mask.shape[1] // 2
        for i, columns in enumerate((slice(None, middle), slice(middle, None))):
            image, mask = (np.ascontiguousarray(a[:, columns]) for a in (self.image, self.mask))
            yield Field(image, mask, self.grade, self.patient, f"{self.name} {i}")

    @property
    def outlined(self) -> Picture:
        return Picture(self.image, self.mask, -1, self.name)

    @property
    def classified(self) -> Picture | None:
        """With its class alone; None where it has none."""
        gland = float((self.mask > 0).mean())
        return Picture(self.image, None, self.grade if gland else 0, self.name) if gland >= LEAST_GLAND or not gland else None


def field(source: Any, instances: Image, grade: int, patient: str, name: str, mpp: float) -> Field:
    """A picture and its gland instances at the working pixel size."""
    slide = hs.open_slide(source, mpp=GLAS_MPP)
    width, height = slide.size_at(mpp)
    rows, columns = (((np.arange(n) + 0.5) * mpp / GLAS_MPP).astype(int).clip(0, m - 1) for n, m in zip((height, width), instances.shape))
    mask = (instances[rows][:, columns] > 0) * np.uint8(grade)
    return Field(slide.read_at(mpp, Box(0, 0, width, height)), mask, grade, patient, name)


def load(data: Path, mpp: float) -> list[Field]:
    folder = data / "glands" / "glas"
    made = []
    for row in csv.DictReader((folder / "grades.csv").open()):
        labels = skimage.io.imread(folder / "labels" / f"{row['name']}.png")
        made.append(field(folder / "images" / f"{row['name']}.jpg", labels, GRADES[row["grade"]], row["patient"], row["name"], mpp))
    return made


def generated(mpp: float) -> list[Field]:
    """Pictures of four patients with rings: pale ones are benign."""
    made = []
    for i in range(8):
        image, _ = he_tissue(400, 300, seed=i, mpp=GLAS_MPP)
        y, x = np.mgrid[:300, :400]
        ring = sum((np.hypot(y - cy, x - cx) < 60) * 1 for cy, cx in ((100, 100), (180, 290)))
        grade = 1 + i % 2
        image = np.where(ring[..., None] > 0, (255 * (image / 255) ** (0.5, 2.0)[grade - 1]).astype(np.uint8), image)
        made.append(field(image, ring, grade, str(i // 2), str(i), mpp))
    return made


def test_patients(fields: Sequence[Field]) -> set[str]:
    """The patients whose pictures are nearest to two fifths of those of each grade; the most patients where several are."""
    patients = sorted({f.patient for f in fields})

    def off(chosen: tuple[str, ...]) -> float:
        return max(
            abs(np.mean([f.patient in chosen for f in fields if f.grade == grade]) - TEST_SHARE) for grade in GRADES.values()
        )

    sets = [s for n in range(1, len(patients)) for s in itertools.combinations(patients, n)]
    return set(min(sets, key=lambda s: (round(off(s), 3), -len(s), s)))


def ordered(patches: Sequence[Field], seed: int) -> list[Field]:
    """All patches in a random order in which the grades keep in step: its first part has a mask."""
    rng = np.random.default_rng(seed)
    ranks: list[tuple[float, int]] = []
    for grade in GRADES.values():
        members = rng.permutation([i for i, p in enumerate(patches) if p.grade == grade])
        ranks += [((k + 1) / len(members), int(i)) for k, i in enumerate(members)]
    return [patches[i] for _, i in sorted(ranks)]


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: str
    setting: str
    share: float
    seed: int

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.variant, self.setting, self.share, self.seed


def planned(args: argparse.Namespace) -> Iterator[Run]:
    """All runs, a repetition after the other; S+C at 100 % has no patch left for C, so it is S."""
    for seed in range(args.first_seed, args.seeds):
        for variant in args.variants:
            if variant == "paper" and seed >= args.paper_seeds:
                continue
            for share, setting in itertools.product(args.shares if variant != "paper" else args.paper_shares, args.settings):
                if (share, setting) != (100.0, "S+C"):
                    yield Run(variant, setting, share, seed)


def train(run: Run, patches: Sequence[Field], test: Sequence[Field], args: argparse.Namespace) -> dict[str, Any]:
    """Train once and score; the row to keep."""
    order = ordered(patches, run.seed)
    count = max(len(GRADES), round(run.share / 100 * len(order)))
    others = {"S": [], "S+C": order[count:], "S+C*": order}[run.setting]
    classified = [p for f in others if (p := f.classified) is not None]
    own: dict[str, Any] = PAPER if run.variant == "paper" else {"variant": run.variant}
    settings = JointTraining.parse({
        "seed": run.seed, "mpp": args.mpp, "crop_px": args.crop, "steps": args.steps, "validate_every": args.steps, "width": args.width,
        "threads": args.threads, "device": args.device, "precision": args.precision, **own,
    })  # fmt: skip
    if run.variant == "paper" and not args.quick:
        settings = settings.replace(width=0, steps=args.paper_steps, validate_every=args.paper_steps)
    if not classified and run.variant != "paper":
        # As many segmentation crops a step as beside classification crops.
        settings = settings.replace(batch=max(4, round(settings.mix * settings.batch)))
    task = JointTask(settings, CLASSES, [f.outlined for f in order[:count]], classified, [f.outlined for f in test])
    begun = time.perf_counter()
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for event in fit(task, Path(folder) / "w.safetensors"):
            if isinstance(event, Trained):
                scores = event.scores
    about = {"outlined": count, "classified": len(classified), "seconds": round(time.perf_counter() - begun, 1), "steps": settings.steps}
    return {"variant": run.variant, "setting": run.setting, "share": run.share, "seed": run.seed, **about, **{k: round(v, 4) for k, v in scores.items()}}


def read_runs(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


Key = tuple[str, str, float]


def by_cell(runs: Sequence[dict[str, Any]], measure: str) -> dict[Key, dict[int, float]]:
    """Score of each seed by variant, setting and share; S+C at 100 % is S."""
    cells: dict[Key, dict[int, float]] = {}
    for run in runs:
        cells.setdefault((run["variant"], run["setting"], run["share"]), {})[run["seed"]] = run[measure]
    for (variant, setting, share), seeds in list(cells.items()):
        if (setting, share) == ("S", 100.0):
            cells[variant, "S+C", share] = seeds
    return cells


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """``mean ± SD``."""
    if not values:
        return "–"
    return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else "")


def relative(cells: dict[Key, dict[int, float]], key: Key) -> list[float]:
    """Scores over the mean of S at 100 %, in percent."""
    whole = list(cells.get((key[0], "S", 100.0), {}).values())
    return [100 * v / float(np.mean(whole)) for v in cells.get(key, {}).values()] if whole else []


def paired(cells: dict[Key, dict[int, float]], key: Key) -> str:
    """A setting less S, over the seeds that both have: mean ± SD, and in how many it is more."""
    own, plain = cells.get(key, {}), cells.get((key[0], "S", key[2]), {})
    differences = [own[s] - plain[s] for s in sorted(own.keys() & plain.keys())]
    return f"{spread(differences, '+.3f').replace('± +', '± ')} ({sum(d > 0 for d in differences)}/{len(differences)})" if differences else "–"


def tables(runs: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """Rows of a table for each measure, with an empty one between them."""
    for measure, title in MEASURES.items():
        cells = by_cell(runs, measure)
        outlined = {(r["variant"], r["share"]): r["outlined"] for r in runs}
        header = ["network", "s (%)", "masks", *(f"{title}, {s}" for s in SETTINGS), *(f"relative (%), {s}" for s in SETTINGS), "S+C - S", "S+C* - S"]
        yield header
        yield ["---"] * len(header)
        for variant, share in sorted(outlined, key=lambda k: (k[0], k[1])):
            keys = [(variant, setting, share) for setting in SETTINGS]
            scores = [spread(list(cells.get(key, {}).values())) for key in keys]
            parts = [spread(relative(cells, key), ".0f") for key in keys]
            yield variant, f"{share:g}", str(outlined[variant, share]), *scores, *parts, paired(cells, keys[1]), paired(cells, keys[2])
        yield ()


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Figure 3 of the paper: relative performance over s, shaded by one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Without S at 100 % there is nothing to be relative to.
    variants = sorted({r["variant"] for r in runs if (r["setting"], r["share"]) == ("S", 100.0)})
    if not variants:
        return
    figure, axes = pyplot.subplots(len(variants), len(MEASURES), figsize=(5.2 * len(MEASURES), 3.8 * len(variants)), squeeze=False)
    for (row, variant), (column, (measure, title)) in itertools.product(enumerate(variants), enumerate(MEASURES.items())):
        cells, axis = by_cell(runs, measure), axes[row][column]
        for setting, color in zip(SETTINGS, ("#808080", "#e6194b", "#4363d8")):
            shares = sorted({key[2] for key in cells if key[:2] == (variant, setting)})
            values = [relative(cells, (variant, setting, share)) for share in shares]
            kept = [(s, np.mean(v), np.std(v, ddof=1) if len(v) > 1 else 0.0) for s, v in zip(shares, values) if v]
            if kept:
                x, mean, deviation = (np.array(part) for part in zip(*kept))
                axis.plot(x, mean, "o-", color=color, label=setting, markersize=4)
                axis.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
        axis.set(xscale="log", xlabel="patches with masks, s (%)", ylabel="% of S at s = 100 %", title=f"{title} ({variant})")
        axis.set_xticks(sorted(SHARES), [f"{s:g}" for s in sorted(SHARES)])
        axis.minorticks_off()
        axis.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="generated pictures and two steps of training")
    given.add_argument("--tables", action="store_true", help="run nothing: only print and draw what --out holds")
    parser.add_argument("--out", type=Path, help="file of finished runs, a JSON line each; it is continued")
    parser.add_argument("--table", type=Path, help="markdown file")
    parser.add_argument("--figure", type=Path, help="picture file; needs matplotlib")
    parser.add_argument("--variants", nargs="+", choices=("improved", "paper"), default=["improved", "paper"])
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=list(SHARES), help="of patches with masks, in percent")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--paper-shares", nargs="+", type=float, choices=SHARES, default=[5.0, 10.0, 100.0])
    parser.add_argument("--mpp", type=float, default=1.86)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="bfloat16 is faster on some processors")
    numbers = {"first-seed": 0, "seeds": 5, "paper-seeds": 2, "steps": 700, "paper-steps": 700, "width": 32, "crop": 128, "threads": 1}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.paper_seeds, args.steps, args.width, args.crop = 2, 1, 2, 8, 64
        args.shares, args.paper_shares, args.device = [50.0, 100.0], [100.0], "cpu"
    runs = read_runs(args.out)
    if not args.tables:
        runs += experiment(runs, args)
    lines = [f"| {' | '.join(row)} |" if row else "" for row in tables(runs)]
    print("\n".join(lines))
    if args.table:
        args.table.write_text("\n".join(lines))
    if args.figure:
        draw(runs, args.figure)


def experiment(done: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not done; each run is written as soon as it ends."""
    fields = generated(args.mpp) if args.quick else load(args.data, args.mpp)
    held = test_patients(fields)
    test = [f for f in fields if f.patient in held]
    patches = [half for f in fields if f.patient not in held for half in f.halves()]
    known = {(r["variant"], r["setting"], r["share"], r["seed"]) for r in done}
    new = []
    for run in planned(args):
        if run.key in known:
            continue
        new.append(train(run, patches, test, args))
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(new[-1]) + "\n")
            print(json.dumps(new[-1]), flush=True)
    return new


if __name__ == "__main__":
    main()
