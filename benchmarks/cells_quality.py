"""Kinds of nuclei without labels: the paper's table (Yuan & Suh 2018, section 4.2.1), with baselines and what this package does by default.

    python benchmarks/cells_quality.py --data DATA --out RUNS.jsonl [--seeds 5] [--rows ROW ...] [--figure SHEET.png] [--table TABLE.md]

Nuclei of colon pictures (CoNSeP) that are inflammatory, epithelial or spindle-shaped; the pictures are divided, classes are learned
from 13 of them and scored on the other 13. The first five runs of a row (``seed``) are of one division, the next four
(``split``) of others. Clusters are matched to kinds by the best assignment, on the scored nuclei. "Agreement" is the mean adjusted
Rand index between the classes of the scored nuclei from different seeds. Nothing is chosen by a score. That neighbors help was
seen on all pictures; weights and radius of the default were chosen on the 13 pictures of division 0, with their kinds known.

Every run is a line in RUNS, and those that are there already are not run again; with --tables nothing is run.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io
import torch

from napari_histoseg._testing import he_tissue
from napari_histoseg.methods.cells.config import CellsSettings, CellsTraining
from napari_histoseg.methods.cells.encoder import NetworkNumbers
from napari_histoseg.methods.cells.fitted import Fitted, Seen, fit_groups, shifted
from napari_histoseg.methods.cells.gantask import sheet
from napari_histoseg.methods.cells.gantrain import gan_events, with_gan
from napari_histoseg.methods.cells.looks import Viewer, picture_numbers, shape_numbers
from napari_histoseg.methods.cells.predictor import mean_color
from napari_histoseg.methods.cells.sources import source_of
from napari_histoseg.metrics.cells import agreement, score_cells
from napari_histoseg.slide import open_slide

KINDS = {2: "inflammatory", 3: "epithelial", 4: "spindle"}
MPP = 0.25
LEARNED = 13
SPLITS = 5

Values = np.ndarray


@dataclass(frozen=True)
class Picture:
    """A picture looked at: its nuclei of the three kinds, and the kind (0, 1, 2) of each."""

    seen: Seen
    mean: Values
    kinds: Values
    name: str


def looked_at(image: Values, labels: Values, types: Values, name: str) -> Picture:
    """All nuclei of a picture whose kind is one of the three."""
    sums = np.zeros((int(labels.max()) + 1, 5))
    np.add.at(sums, (labels.ravel(), np.minimum(types.ravel(), 4)), 1)
    kind = sums.argmax(1)
    kept = np.where(np.isin(kind[labels], list(KINDS)), labels, 0)
    slide = open_slide(image, mpp=MPP)
    source = source_of(kept, slide)
    settings = CellsSettings()
    viewer = Viewer(source, source.index(), settings.style, MPP, 1.0, settings.around_um)
    look = viewer.look(image, slide.bounds, slide.bounds)
    wanted = list(KINDS)
    return Picture(Seen(viewer, look, look.crops), mean_color([look]), np.array([wanted.index(k) for k in kind[source.index().ids]]), name)


def load(data: Path) -> list[Picture]:
    folder = data / "nuclei" / "consep"
    made = []
    for path in sorted((folder / "images").iterdir()):
        image = skimage.io.imread(path)[..., :3]
        labels, types = (skimage.io.imread(next((folder / part).glob(f"{path.stem}.*"))) for part in ("labels", "types"))
        if np.isin(types, list(KINDS)).any():
            made.append(looked_at(np.ascontiguousarray(image), labels.astype(np.int64), types, path.stem))
    return made


def generated() -> list[Picture]:
    """Pictures of nuclei whose kind is their size, at several stains."""
    made = []
    for i in range(8):
        image, labels = he_tissue(320, 320, seed=i, mpp=MPP)
        areas = np.bincount(labels.ravel())
        kind = np.digitize(areas, np.quantile(areas[1:][areas[1:] > 0], [1 / 3, 2 / 3])) + 2
        types = np.where(labels > 0, kind[labels], 0)
        tint = (255 * (image / 255.0) ** (1 + 0.1 * (i % 3))).astype(np.uint8)
        made.append(looked_at(tint, labels.astype(np.int64), types, str(i)))
    return made


def divided(pictures: Sequence[Picture], split: int) -> tuple[list[Picture], list[Picture]]:
    """The pictures that are learned from, and those that are scored."""
    order = np.random.default_rng(split).permutation(len(pictures))
    count = min(LEARNED, len(pictures) // 2)
    return [pictures[i] for i in order[:count]], [pictures[i] for i in order[count:]]


# -- rows: from the pictures that are learned from and those that are scored to the classes of the latter ----------------------


@dataclass(frozen=True)
class Task:
    """What a row gets."""

    learned: list[Picture]
    scored: list[Picture]
    seed: int
    args: argparse.Namespace

    def crops(self, pictures: list[Picture], even: bool) -> Values:
        """Pictures of all nuclei; ``even``: each picture's mean color is that of all."""
        goal = mean_color([p.seen.look for p in self.learned])
        return np.concatenate([shifted(p.seen.crops, goal - p.mean if even else None) for p in pictures])


Row = Callable[[Task], tuple[Values, dict[str, Any]]]


def kmeans_pixels(even: bool) -> Row:
    """k-means on all pixels of the pictures, as in the paper."""

    def run(task: Task) -> tuple[Values, dict[str, Any]]:
        from sklearn.cluster import KMeans

        train, test = (task.crops(part, even).reshape(-1, 40 * 40 * 3).astype(np.float32) for part in (task.learned, task.scored))
        return KMeans(3, n_init=10, random_state=task.seed).fit(train).predict(test), {}

    return run


def method(name: str, colors: str = "relative", **more: Any) -> Row:
    """A method of this package: the same functions that its runs and trainings call."""

    def run(task: Task) -> tuple[Values, dict[str, Any]]:
        settings = CellsSettings.parse({"method": name, "colors": colors, "seed": task.seed, **more})
        goal = mean_color([p.seen.look for p in task.learned])
        seen = [replace(p.seen, crops=shifted(p.seen.crops, goal - p.mean if colors == "relative" else None)) for p in task.learned]
        fitted, _ = fit_groups(seen, settings, 3, goal, encoder() if name == "features" else None)
        return applied(fitted, task), {}

    return run


class Remembering(NetworkNumbers):
    """Features are the same for every seed, and take most of the time."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self._known: dict[bytes, Values] = {}

    def __call__(self, crops: Values) -> Values:
        key = hashlib.sha256(crops.tobytes()).digest()
        if key not in self._known:
            self._known[key] = super().__call__(crops)
        return self._known[key]


@cache
def encoder() -> NetworkNumbers:
    return Remembering()


def applied(fitted: Fitted, task: Task) -> Values:
    return np.concatenate([fitted.apply(p.seen.viewer, p.seen.look, p.mean)[0].argmax(1) for p in task.scored])


def infogan(variant: str) -> Row:
    """The generative network; pictures of all slides at one mean color, as after stain normalization."""

    def run(task: Task) -> tuple[Values, dict[str, Any]]:
        args = task.args
        training = CellsTraining.parse({
            "method": "infogan", "variant": variant, "seed": task.seed, "steps": args.steps, "validate_every": max(args.steps // 6, 1), "threads": 1,
            **({"batch": 16, "width": 4, "critic_steps": 2} if args.quick else {}),
        })  # fmt: skip
        crops, goal = task.crops(task.learned, True), mean_color([p.seen.look for p in task.learned])
        with tempfile.TemporaryDirectory() as folder:
            events = gan_events(training, crops, Path(folder) / "w.safetensors", False, lambda: False)
            while True:
                try:
                    next(events)
                except StopIteration as ended:
                    network, scores = ended.value
                    break
        if args.figure is not None:
            skimage.io.imsave(args.figure.with_stem(f"{args.figure.stem}-{variant}-{task.seed}"), sheet(network), check_contrast=False)
        settings = CellsSettings.parse({"method": "infogan", "seed": task.seed})
        return applied(with_gan(network, settings, crops, goal), task), {"criterion": round(scores["score"], 4)}

    return run


def forest(task: Task) -> tuple[Values, dict[str, Any]]:
    """With labels, for orientation: a random forest on the pictures and the measurements."""
    from sklearn.ensemble import RandomForestClassifier

    def numbers(pictures: list[Picture]) -> Values:
        shape = np.concatenate([shape_numbers(p.seen.look.table) for p in pictures])
        return np.hstack([picture_numbers(task.crops(pictures, True)), np.nan_to_num(shape)])

    truth = np.concatenate([p.kinds for p in task.learned])
    found = RandomForestClassifier(100, min_samples_leaf=3, random_state=task.seed, n_jobs=1).fit(numbers(task.learned), truth)
    return found.predict(numbers(task.scored)), {}


ROWS: dict[str, Row] = {
    "k-means, pixels": kmeans_pixels(False),
    "k-means, pixels, mean color removed": kmeans_pixels(True),
    "morphology": method("morphology"),
    "mixture": method("mixture"),
    "features": method("features"),
    "pixels": method("pixels"),
    "neighborhood (default)": method("neighborhood"),
    "neighborhood, colors as scanned": method("neighborhood", "absolute"),
    "infogan, paper": infogan("paper"),
    "infogan, improved": infogan("improved"),
    "forest (supervised)": forest,
}
SLOW = {"features", "infogan, paper", "infogan, improved", "forest (supervised)"}


# -- runs and tables ---------------------------------------------------------------------------------------------------


def planned(args: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Row, split, seed."""
    for row in args.rows:
        for seed in range(args.seeds):
            yield row, 0, seed
        for split in range(1, args.splits if row not in SLOW else 1):
            yield row, split, 0


def read_runs(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def one(row: str, split: int, seed: int, pictures: Sequence[Picture], args: argparse.Namespace) -> dict[str, Any]:
    """Run and score."""
    task = Task(*divided(pictures, split), seed, args)
    begun = time.perf_counter()
    chosen, more = ROWS[row](task)
    seconds = time.perf_counter() - begun
    kinds = np.array(list(KINDS.values()))
    truth = kinds[np.concatenate([p.kinds for p in task.scored])]
    # What was learned with labels is not matched: it knows its kinds.
    scores = score_cells(kinds[chosen] if row.startswith("forest") else chosen, truth)
    return {"row": row, "split": split, "seed": seed, "seconds": round(seconds, 1), **more, "scores": scores, "chosen": "".join(map(str, chosen))}


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "") if len(values) else "–"


def share(value: float) -> str:
    """A score, or a dash where nothing was predicted to be of a kind."""
    return "–" if np.isnan(value) else f"{value:.3f}"


def tables(runs: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """The two tables, and confusion matrices, with empty rows between."""
    yield ("row", "accuracy", "balanced accuracy", "ARI", *(f"F1 {k}" for k in KINDS.values()), "agreement", "runs", "s")
    yield ["---"] * 10
    for row in ROWS:
        mine = [r for r in runs if r["row"] == row and r["split"] == 0]
        if mine:
            columns = [[r["scores"][key] for r in mine] for key in ("accuracy", "balanced_accuracy", "ari")]
            f1 = [[r["scores"][f"f1_{k}"] for r in mine] for k in KINDS.values()]
            alike = agreement([list(r["chosen"]) for r in mine]) if len(mine) > 1 else None
            yield row, *map(spread, columns), *map(spread, f1), "–" if alike is None else f"{alike:.2f}", str(len(mine)), f"{np.mean([r['seconds'] for r in mine]):.0f}"
    yield ()
    yield ("row", "accuracy over divisions", "balanced accuracy", "ARI", "least accuracy", "divisions")
    yield ["---"] * 6
    for row in ROWS:
        mine = [r for r in runs if r["row"] == row and r["seed"] == 0]
        if len(mine) > 1:
            columns = [[r["scores"][key] for r in mine] for key in ("accuracy", "balanced_accuracy", "ari")]
            yield row, *map(spread, columns), f"{min(columns[0]):.3f}", str(len(mine))
    yield ()
    yield ("kind", "precision and sensitivity of each row's first run", *KINDS.values())
    yield ["---"] * 5
    for row, kind in itertools.product(ROWS, KINDS.values()):
        for r in [r for r in runs if (r["row"], r["split"], r["seed"]) == (row, 0, 0)]:
            s = r["scores"]
            if kind in s["classes"]:
                rates = f"{row}: " + ", ".join(share(s[f"{rate}_{kind}"]) for rate in ("precision", "sensitivity"))
                predicted = dict(zip(s["classes"], s["confusion"][s["classes"].index(kind)], strict=True))
                yield kind, rates, *(str(predicted.get(name, 0)) for name in KINDS.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="generated pictures, and two steps of training")
    given.add_argument("--tables", action="store_true", help="run nothing: only print what --out holds")
    parser.add_argument("--out", type=Path, help="file of finished runs, a JSON line each; it is continued")
    parser.add_argument("--table", type=Path, help="markdown file")
    parser.add_argument("--figure", type=Path, help="generated nuclei of each InfoGAN go beside it, by variant and seed")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    for name, value in {"seeds": 5, "splits": SPLITS, "steps": 600}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.splits, args.steps = 2, 2, 2
    torch.set_num_threads(1)
    runs = read_runs(args.out)
    if not args.tables:
        pictures = generated() if args.quick else load(args.data)
        done = {(r["row"], r["split"], r["seed"]) for r in runs}
        for row, split, seed in planned(args):
            if (row, split, seed) in done:
                continue
            runs.append(one(row, split, seed, pictures, args))
            print({k: v for k, v in runs[-1].items() if k != "chosen"}, flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    text = "\n".join(f"| {' | '.join(cells)} |" if cells else "" for cells in tables(runs))
    print(text)
    if args.table:
        args.table.write_text(text + "\n")


if __name__ == "__main__":
    main()
