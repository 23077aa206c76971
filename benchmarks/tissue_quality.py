"""Kinds of tissue without labels: the table of Chang, Ji & Li, with its ablation, baselines, and what this package does by default.

    python benchmarks/tissue_quality.py --data DATA --out RUNS.jsonl [--seeds 5] [--rows ROW ...] [--sets lung colon bsds] [--figure SHEET.png]

Classes are learned from 40 mosaics (`tissue_mosaics.py`) of one half of the photographs or patients and looked up in 20 of the other half;
rows "each by itself" learn on every scored picture alone. Each picture counts as a slide. A seed draws the mosaics that are
learned from and what is random in learning; the 20 that are scored are always the same. Scores are of each picture, then their mean:
intersection over union with each cluster given the class that it overlaps most (the paper's), or one cluster a class at most; "look-up" gives
each cluster one class for all 20 pictures. Natural pictures (BSDS500) are scored against each person's segments.

Every run is a line in RUNS, and those that are there already are not run again; with --tables nothing is run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io
import torch

from napari_histoseg.methods.tissue.config import TissueSettings, TissueTraining
from napari_histoseg.methods.tissue.predictor import TissueModel
from napari_histoseg.methods.tissue.train import Lesson, TissueTask
from napari_histoseg.metrics.tissue import by_overlap, iou_of, overlap, score_tissue
from napari_histoseg.predict.run import iter_run
from napari_histoseg.slide import open_slide
from napari_histoseg.train.loop import never

sys.path.insert(0, str(Path(__file__).parent))
import tissue_mosaics as tiles

Values = np.ndarray
Pairs = list[tuple[Values, Any]]
MPP = 0.5
LEARNED, SCORED = 40, 20
SETS = ("lung", "colon", "bsds")


@dataclass(frozen=True)
class Row:
    """Settings of learning and of looking up; ``alone``: learned on each scored picture by itself."""

    learn: dict[str, Any]
    look: dict[str, Any]
    alone: bool = False


def row(alone: bool = False, crf: bool = False, **learn: Any) -> Row:
    return Row({"n_classes": 6, **learn}, {"crf": crf}, alone)


PAPER = {"variant": "paper"}
ROWS: dict[str, Row] = {
    "default": row(),
    "default, CRF": row(crf=True),
    "default, colors as they are": row(colors="absolute"),
    "default, 8 classes": row(n_classes=8),
    "paper": row(**PAPER),
    "paper, CRF": row(crf=True, **PAPER),
    "paper without reconstruction": row(decoder=False, **PAPER),
    "paper without normalized responses": row(instance_norm=False, **PAPER),
    "paper without revived classes": row(reseed=False, **PAPER),
    "k-means, 5": row(variant="kmeans", n_classes=5),
    "k-means, 10": row(variant="kmeans", n_classes=10),
    "mean shift": row(variant="mean_shift", n_classes=10),
    "normalized cut": row(variant="normalized_cut"),
    "superpixel fuzzy c-means": row(variant="fuzzy_cmeans"),
    "default, each by itself": row(alone=True),
    "k-means, 5, each by itself": row(alone=True, variant="kmeans", n_classes=5),
    "k-means, 10, each by itself": row(alone=True, variant="kmeans", n_classes=10),
    "mean shift, each by itself": row(alone=True, variant="mean_shift", n_classes=10),
    "normalized cut, each by itself": row(alone=True, variant="normalized_cut"),
    "superpixel fuzzy c-means, each by itself": row(alone=True, variant="fuzzy_cmeans"),
}
QUICK = ("default", "k-means, 5", "paper")


# -- pictures ----------------------------------------------------------------------------------------------------------


def natural(data: Path, part: str, seed: int) -> Pairs:
    """Natural pictures, and each person's segments."""
    from scipy.io import loadmat

    folder = data / "bsds500"
    names = sorted(path.stem for path in (folder / "groundTruth").glob("*.mat"))
    order = np.random.default_rng(tiles.DIVISION).permutation(len(names))
    half = order[: len(names) // 2] if part == "learn" else order[len(names) // 2 :]
    count = LEARNED if part == "learn" else SCORED
    chosen = np.random.default_rng([seed, tiles.PARTS.index(part)]).permutation(half)[:count]
    made: Pairs = []
    for i in chosen:
        image = skimage.io.imread(next((folder / "images").glob(f"{names[i]}.*")))[..., :3]
        people = loadmat(folder / "groundTruth" / f"{names[i]}.mat")["groundTruth"][0]
        made.append((np.ascontiguousarray(image), [person[0, 0]["Segmentation"].astype(np.int64) for person in people]))
    return made


def pictures(args: argparse.Namespace, name: str, part: str, seed: int) -> Pairs:
    """Pictures and truths; those that are scored are the same for all seeds."""
    seed = seed if part == "learn" else 0
    if args.quick:
        return list(tiles.generated(2, 10 * seed + tiles.PARTS.index(part)))
    if name == "bsds":
        return natural(args.data, part, seed)
    return list(tiles.mosaics(args.data, name, part, LEARNED if part == "learn" else SCORED, seed))


# -- runs --------------------------------------------------------------------------------------------------------------


def common(name: str, seed: int) -> dict[str, Any]:
    """What holds for all rows of a set; natural pictures have no glass."""
    return {"mpp": MPP, "seed": seed, **({"glass_um": 0.0} if name == "bsds" else {})}


def learned(images: Sequence[Values], chosen: Row, name: str, seed: int, args: argparse.Namespace, out: Path) -> None:
    """Learn classes, into a file."""
    more = {"steps": args.steps, "validate_every": max(1, args.steps // 4)} if chosen.learn.get("variant") == "paper" and args.steps else {}
    settings = TissueTraining.parse({**common(name, seed), "sample": len(images), **chosen.learn, **more})
    lessons = [Lesson(str(i), lambda image=image: open_slide(image, mpp=MPP)) for i, image in enumerate(images)]
    for _ in TissueTask(settings, lessons, {"name": "mosaics", "data": [{}], "data_sha256": ""}).events(out, False, never):
        pass


def looked_up(image: Values, chosen: Row, name: str, seed: int, weights: Path | None) -> Values:
    """The map of a picture: its classes at every pixel."""
    own = {**common(name, seed), **chosen.look}
    if weights is None:
        own |= chosen.learn
    else:
        own = {key: value for key, value in own.items() if key not in ("mpp", "glass_um")}
    settings = TissueSettings.parse({**own, "tissue_only": False, "tile_px": 512})
    for event in iter_run("tissue", open_slide(image, mpp=MPP), weights=weights, settings=settings):
        last = event
    return np.asarray(last.result.labels)  # type: ignore[union-attr]


def one(name: str, row_name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Learn, look up, score."""
    chosen, scored = ROWS[row_name], pictures(args, name, "test", seed)
    weights, learning = (None, 0.0) if chosen.alone else known(name, chosen, seed, args)
    begun = time.perf_counter()
    maps = [looked_up(image, chosen, name, seed, weights) for image, _ in scored]
    seconds = (time.perf_counter() - begun) / len(scored)
    # What looking up takes without opening files: the tile alone.
    inference = None if weights is None else tile_seconds(scored[0][0], chosen, weights)
    return {"set": name, "row": row_name, "seed": seed, "learning": round(learning, 1), "seconds": round(seconds, 3), "tile": inference} | scores_of(maps, scored)


def known(name: str, chosen: Row, seed: int, args: argparse.Namespace) -> tuple[Path, float]:
    """Classes learned as a row says, and the seconds that it took; rows that differ in looking up only share them."""
    key = json.dumps([name, chosen.learn, seed], sort_keys=True)
    if key not in args.learned:
        out = args.folder / f"{len(args.learned)}.safetensors"
        images = [image for image, _ in pictures(args, name, "learn", seed)]
        begun = time.perf_counter()
        learned(images, chosen, name, seed, args, out)
        args.learned[key] = out, time.perf_counter() - begun
    found: tuple[Path, float] = args.learned[key]
    return found


def tile_seconds(image: Values, chosen: Row, weights: Path) -> float:
    """Seconds that a picture of 512 × 512 takes, the least of five."""
    from napari_histoseg.methods.base import TileFrame
    from napari_histoseg.slide import Box
    from napari_histoseg.tiling import Tile

    slide = open_slide(image, mpp=MPP)
    model = TissueModel(slide, TissueSettings.parse(chosen.look), weights)
    model._density = np.ones(3)
    box = Box(0, 0, image.shape[1], image.shape[0])
    frame = TileFrame(Tile(0, box, box), MPP, 1.0, box)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        model.decode(model.forward(image[None])[0], image, frame)
        taken.append(time.perf_counter() - begun)
    return round(min(taken), 3)


def scores_of(maps: Sequence[Values], scored: Pairs) -> dict[str, Any]:
    """Means over pictures, by class, and with one class for each cluster in all pictures."""
    each: list[dict[str, Any]] = []
    for predicted, (_, truth) in zip(maps, scored, strict=True):
        people = truth if isinstance(truth, list) else [truth]
        found = [score_tissue(predicted, person) for person in people]
        each.append({key: float(np.mean([f[key] for f in found])) for key in ("mean_iou", "mean_iou_one_to_one", "n_clusters")})
        if not isinstance(truth, list):
            each[-1] |= {key: value for key, value in found[0].items() if key.startswith("iou_")}
    made: dict[str, Any] = {key: float(np.mean([e[key] for e in each if key in e])) for key in dict.fromkeys(k for e in each for k in e)}
    made["collapsed"] = sum(e["n_clusters"] < min(3, len(np.unique(t if not isinstance(t, list) else t[0]))) for e, (_, t) in zip(each, scored, strict=True))
    if not isinstance(scored[0][1], list):
        made["look_up"] = same_for_all(maps, [truth for _, truth in scored])
    return made


def same_for_all(maps: Sequence[Values], truths: Sequence[Values]) -> float:
    """Mean IoU when a cluster has one class in all pictures, the one that it overlaps most in all of them together."""
    table, clusters, classes = overlap(np.stack(maps), np.stack(truths))
    named = dict(zip(clusters.tolist(), classes[by_overlap(table)].tolist(), strict=True))
    found = []
    for predicted, truth in zip(maps, truths, strict=True):
        own, here, there = overlap(predicted, truth)
        extra = [named[int(c)] for c in here]
        known = [*there.tolist(), *sorted(set(extra) - set(there.tolist()))]
        wide = np.pad(own, ((0, 0), (0, len(known) - own.shape[1])))
        found.append(iou_of(wide, [known.index(c) for c in extra])[: len(there)].mean())
    return float(np.mean(found))


# -- tables ------------------------------------------------------------------------------------------------------------


def read_runs(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "") if len(values) else "–"


def tables(runs: Sequence[dict[str, Any]]) -> Iterator[Sequence[str]]:
    """A table a set, with empty rows between."""
    for name in dict.fromkeys(run["set"] for run in runs):
        here = [run for run in runs if run["set"] == name]
        values = sorted({int(key[4:]) for run in here for key in run if key.startswith("iou_")})
        yield (name, "mean IoU", "one to one", "look-up", *(tiles.CLASSES[v] for v in values), "clusters a picture", "collapsed", "runs", "s to learn", "s for 512²")
        yield ["---"] * (9 + len(values))
        for row_name in ROWS:
            mine = [run for run in here if run["row"] == row_name]
            if mine:
                yield _line(row_name, mine, values)
        yield ()


def _line(row_name: str, mine: Sequence[dict[str, Any]], values: Sequence[int]) -> Sequence[str]:
    columns = [spread([run[key] for run in mine]) for key in ("mean_iou", "mean_iou_one_to_one")]
    together = [run["look_up"] for run in mine if "look_up" in run]
    each = [f"{np.mean([run[f'iou_{v}'] for run in mine]):.2f}" for v in values]
    learning = "–" if ROWS[row_name].alone else f"{np.mean([run['learning'] for run in mine]):.0f}"
    taken = [run["tile"] for run in mine if run.get("tile")] or [run["seconds"] for run in mine]
    clusters = f"{np.mean([run['n_clusters'] for run in mine]):.1f}"
    return row_name, *columns, "–" if ROWS[row_name].alone else spread(together), *each, clusters, str(sum(run["collapsed"] for run in mine)), str(len(mine)), learning, f"{np.median(taken):.2f}"


def figure(path: Path, args: argparse.Namespace) -> None:
    """Mosaics, truth, and maps of some rows, in a sheet."""
    names = ("default", "paper", "k-means, 5")
    palette = np.array([[235, 235, 235], [230, 25, 75], [60, 180, 75], [67, 99, 216], [245, 130, 49], [145, 30, 180], [66, 212, 244], [240, 50, 230], [191, 239, 69], [70, 153, 144], [154, 99, 36]], np.uint8)
    sheet = []
    for name in args.sets:
        scored = pictures(args, name, "test", 0)[:5]
        lines = [[image for image, _ in scored], [palette[truth] for _, truth in scored]]
        for row_name in names:
            weights, _ = known(name, ROWS[row_name], 0, args)
            lines.append([palette[looked_up(image, ROWS[row_name], name, 0, weights) % len(palette)] for image, _ in scored])
        sheet.append(np.vstack([np.hstack(line)[::2, ::2] for line in lines]))
    skimage.io.imsave(path, np.hstack(sheet), check_contrast=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--quick", action="store_true", help="synthetic mosaics, and few steps")
    given.add_argument("--tables", action="store_true", help="run nothing: only print what --out holds")
    parser.add_argument("--out", type=Path, help="file of finished runs, a JSON line each; it is continued")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS[:2]))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="of the network; 0 is its own")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps, args.rows, args.sets = 1, 4, list(QUICK), ["lung"]
    torch.set_num_threads(1)
    args.learned = {}
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        run_all(args)


def run_all(args: argparse.Namespace) -> None:
    """Run what is missing, print the tables, draw the figure."""
    runs = read_runs(args.out)
    done = {(run["set"], run["row"], run["seed"]) for run in runs}
    for name, row_name, seed in [] if args.tables else [(n, r, s) for s in range(args.seeds) for n in args.sets for r in args.rows]:
        if (name, row_name, seed) in done:
            continue
        runs.append(one(name, row_name, seed, args))
        print(runs[-1], flush=True)
        if args.out:
            with args.out.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    print()
    for line in tables(runs):
        print("| " + " | ".join(line) + " |" if line else "")
    if args.figure:
        figure(args.figure, args)


if __name__ == "__main__":
    main()
