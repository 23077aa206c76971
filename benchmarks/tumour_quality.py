"""Tumour outlines: the designs of the paper's Table 1 on semi-synthetic slides of `tumour_slides.py`.

    python benchmarks/tumour_slides.py --data DATA --out SET
    python benchmarks/tumour_quality.py --set SET --out rows.jsonl [--seeds 3] [--designs IV VI ...] [--steps 400] [--refine-steps 300]
    python benchmarks/tumour_quality.py --out rows.jsonl --tables
    python benchmarks/tumour_quality.py --quick

Designs are trained on the slides of "train", their best weights are chosen on "val", and scored on "test": other photographs, other
patients. Designs that are in the file for a seed are skipped. All refiners of a seed are taught with the same heatmaps, which
classifiers made that had not seen the slide. Scores are of each slide at 8 um, against the outline by hand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import tukey_hsd

from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.methods.tumour.baselines import otsu, smoothed
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.fitted import read_fitted
from napari_histoseg.methods.tumour.predictor import refiner_of
from napari_histoseg.methods.tumour.refinetask import Example, outline_of
from napari_histoseg.methods.tumour.slides import Lessons, read_lessons
from napari_histoseg.methods.tumour.train import Course, Ready, TumourTask
from napari_histoseg.metrics.tumour import score_tumour

TITLES = {
    "I": "Otsu: all tissue",
    "II": "U-Net at low resolution",
    "III": "InceptionV3, patches >= 0.5",
    "IV": "MobileNetV2, patches >= 0.5",
    "IV smoothed": "the same, closed and opened (160 um)",
    "IV overlap": "patches overlapping by half, closed and opened",
    "V": "IV with cluster guiding",
    "VI": "IV, refined by the U-Net (the default)",
    "VI own heatmaps": "the same, taught with heatmaps of the slides that the classifier learned from",
    "VII": "IV, refined by AGU-Net",
    "VIII": "IV, refined by DAGU-Net",
    "IX": "IV, refined by DoubleU-Net",
}
REFINERS = {"VI": "unet", "VII": "agunet", "VIII": "dagunet", "IX": "doubleunet"}
SMOOTH_UM = 160.0
FEWEST = 3
"""Slides from which a range test says anything."""
Scores = list[dict[str, Any]]


class Bench:
    """A set of slides, read, and the slides to be scored on."""

    def __init__(self, folder: Path, work: Path, settings: TumourTraining, stack: ExitStack) -> None:
        self.folder, self.work, self.settings = folder, work, settings
        self.task, self.ready, self.held = prepared(read_lessons(folder), settings, stack)
        dataset = read_dataset(folder)
        test = [p.model_copy(update={"split": None}) for p in dataset.patches if p.split == "test"]
        _, self.test, _ = prepared(read_lessons(dataset.model_copy(update={"patches": tuple(test)})), settings, stack)

    def course(self, name: str, **changes: Any) -> Course:
        """A training with other settings on the same slides; its intermediate files stay."""
        task = TumourTask(self.settings.replace(**changes), self.task.lessons)
        work = self.work / name
        work.mkdir(parents=True, exist_ok=True)
        return Course(task, self.ready, self.held, self.work / f"{name}.safetensors", work)

    def scores(self, outlines: list[np.ndarray]) -> Scores:
        """Of the outlines of the test slides."""
        rows = []
        for outlined, sheet, outline in zip(self.test.outlined, self.test.sheets, outlines, strict=True):
            rows.append({"slide": outlined.name, "grade": outlined.labels.get("grade", ""), **score_tumour(outline.astype(np.uint8), np.asarray(sheet.truth))})
        return rows

    def heats(self, weights: Path, overlap: str = "0") -> list[np.ndarray]:
        """Heatmaps of the test slides, by runs."""
        import napari_histoseg as hs

        how = {"outline": "threshold", "overlap": overlap, "tissue_only": False}
        # A result in a temporary folder is there as long as the object is.
        results = [hs.run("tumour", slide, weights=weights, **how) for slide in self.test.slides]
        return [np.asarray(result.arrays()["probability"][0][:]) for result in results]

    def refined(self, weights: Path, heats: list[np.ndarray]) -> list[np.ndarray]:
        """Outlines by the refiner of a weights file."""
        refiner = refiner_of(read_fitted(weights), torch.device("cpu"), torch.float32)
        assert refiner is not None
        return [outline_of(refiner, Example(sheet, heat)) >= 0.5 for sheet, heat in zip(self.test.sheets, heats, strict=True)]


def prepared(lessons: Lessons, settings: TumourTraining, stack: ExitStack) -> tuple[TumourTask, Ready, set[int]]:
    """Slides of a set, read."""
    task = TumourTask(settings, lessons)
    reading = task.read(stack)
    while True:
        try:
            next(reading)
        except StopIteration as ended:
            return task, ended.value, task.split(ended.value)


def run_out(events: Any) -> Any:
    """Everything, and what the generator returns."""
    while True:
        try:
            next(events)
        except StopIteration as ended:
            return ended.value


def designs(bench: Bench, seed: int, wanted: set[str]) -> Iterator[tuple[str, float, Scores]]:
    """Name, seconds of training, and scores of each design."""
    if "I" in wanted:
        yield "I", 0.0, bench.scores([otsu(np.asarray(sheet.picture)) for sheet in bench.test.sheets])
    if "II" in wanted:
        yield "II", *low_resolution(bench, seed)
    for name, changes in (("III", {"backbone": "inception_v3"}), ("V", {"guided": True})):
        if name in wanted:
            course, begun = bench.course(f"{name}-{seed}", seed=seed, **changes), time.perf_counter()
            run_out(course.classify())
            seconds = time.perf_counter() - begun
            yield name, seconds, bench.scores([heat >= 127.5 for heat in bench.heats(course.out)])
    if wanted & {"IV", "IV smoothed", "IV overlap", "VI own heatmaps", *REFINERS}:
        yield from on_heatmaps(bench, seed, wanted)


def low_resolution(bench: Bench, seed: int) -> tuple[float, Scores]:
    """The U-Net without a heatmap."""
    course, begun = bench.course(f"II-{seed}", seed=seed, backbone="none"), time.perf_counter()
    run_out(course.refine())
    nothing = [np.full(sheet.box.shape, 255, np.uint8) for sheet in bench.test.sheets]
    return time.perf_counter() - begun, bench.scores(bench.refined(course.out, nothing))


def on_heatmaps(bench: Bench, seed: int, wanted: set[str]) -> Iterator[tuple[str, float, Scores]]:
    """The classifier's own outlines, and those of refiners."""
    course, begun = bench.course(f"IV-{seed}", seed=seed), time.perf_counter()
    run_out(course.classify())
    seconds = time.perf_counter() - begun
    heats = bench.heats(course.out)
    if "IV" in wanted:
        yield "IV", seconds, bench.scores([heat >= 127.5 for heat in heats])
    width = [round(SMOOTH_UM / sheet.mpp) for sheet in bench.test.sheets]
    if "IV smoothed" in wanted:
        yield "IV smoothed", seconds, bench.scores([smoothed(heat >= 127.5, w) for heat, w in zip(heats, width, strict=True)])
    if "IV overlap" in wanted:
        yield "IV overlap", seconds, bench.scores([smoothed(h >= 127.5, w) for h, w in zip(bench.heats(course.out, "0.5"), width, strict=True)])
    taught = run_out(course.heatmaps())
    for name, refiner in {**REFINERS, "VI own heatmaps": "unet"}.items():
        if name not in wanted:
            continue
        own = name == "VI own heatmaps"
        other, begun = bench.course(f"{name}-{seed}", seed=seed, refiner=refiner), time.perf_counter()
        other.classifier = course.classifier
        run_out(other.refine_with(own_heatmaps(bench, course) if own else taught))
        yield name, time.perf_counter() - begun, bench.scores(bench.refined(other.out, heats))


def own_heatmaps(bench: Bench, course: Course) -> list[np.ndarray]:
    """Of all slides by the classifier that learned from them."""
    heats = [np.zeros(sheet.box.shape, np.uint8) for sheet in bench.ready.sheets]
    run_out(course.mapped(range(len(heats)), "classifier", heats))
    return heats


# -- tables -----------------------------------------------------------------------------------------------------------


def spread(values: pd.Series) -> str:
    """Mean and SD, as far as there is one."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def tables(rows: pd.DataFrame) -> str:
    """Markdown: scores as mean +- SD over slides and seeds, by grade, and the range test."""
    order = [name for name in TITLES if name in set(rows["design"])]
    text = ["| design | | seeds | recall | precision | Dice |", "|---|---|---|---|---|---|"]
    for name in order:
        mine = rows[rows["design"] == name]
        cells = [spread(mine[k]) for k in ("recall", "precision", "dice")]
        text.append(f"| {name} | {TITLES[name]} | {mine['seed'].nunique()} | " + " | ".join(cells) + " |")
    grades = sorted(rows["grade"].unique())
    text += ["", "| design | " + " | ".join(f"grade {g}" for g in grades) + " |", "|---|" + "---|" * len(grades)]
    for name in order:
        mine = rows[rows["design"] == name]
        cells = [spread(mine[mine["grade"] == g]["dice"]) for g in grades]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    by_slide = {name: rows[rows["design"] == name].groupby("slide")["dice"].mean() for name in order if name != "I"}
    if len(by_slide) > 1 and all(len(v) >= FEWEST for v in by_slide.values()):
        found = tukey_hsd(*[v.to_numpy() for v in by_slide.values()])
        names = list(by_slide)
        text += ["", "| p (Tukey) | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for i, name in enumerate(names):
            text.append(f"| {name} | " + " | ".join("" if j <= i else f"{found.pvalue[i, j]:.3f}" for j in range(len(names))) + " |")
    return "\n".join(text)


def quick() -> pd.DataFrame:
    """Two designs on tiny pictures, for a test of the script."""
    from napari_histoseg._testing_tumour import SMALL, write_dataset, write_slides

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        splits = ("train", "train", "val", "test", "test")
        write_dataset(folder, [{**entry, "split": split} for entry, split in zip(write_slides(folder, 5), splits, strict=True)])
        bench = Bench(folder, folder / "work", TumourTraining.parse(SMALL), stack)
        return frame({"design": name, "seed": 0, "seconds": s, **row} for name, s, rows in designs(bench, 0, {"I", "IV", "VI"}) for row in rows)


def frame(rows: Any) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, dest="folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="where weights and intermediate files are kept")
    parser.add_argument("--designs", nargs="+", choices=list(TITLES), default=[n for n in TITLES if n != "III"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--refine-steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tables", action="store_true", help="only print the tables of --out")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        print(tables(quick()))
        return
    there = pd.read_json(args.out, lines=True) if args.out.exists() else pd.DataFrame({"design": [], "seed": []})
    if args.tables:
        there["grade"] = there["grade"].astype(str)
        print(tables(there))
        return
    for seed in args.seeds:
        wanted = set(args.designs) - set(there[there["seed"] == seed]["design"])
        settings = TumourTraining.parse({"steps": args.steps, "refine_steps": args.refine_steps, "threads": args.threads, "seed": seed})
        with ExitStack() as stack:
            bench = Bench(args.folder, args.work or args.out.parent / "work", settings, stack)
            for name, seconds, rows in designs(bench, seed, wanted):
                with args.out.open("a") as file:
                    for row in rows:
                        file.write(json.dumps({"design": name, "seed": seed, "seconds": round(seconds, 1), "steps": args.steps, "refine_steps": args.refine_steps, **row}) + "\n")
                print(name, seed, f"{seconds:.0f} s", {k: round(float(np.mean([r[k] for r in rows])), 3) for k in ("recall", "precision", "dice")}, flush=True)


if __name__ == "__main__":
    main()
