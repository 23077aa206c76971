"""Training from annotated slides: the classifier, heatmaps by classifiers that have not seen their slides, and the refiner."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from napari_histoseg.annotations.dataset import PatchDataset
from napari_histoseg.errors import DatasetError, HistosegError, RunError
from napari_histoseg.methods.tumour.config import TumourSettings, TumourTraining
from napari_histoseg.methods.tumour.fitted import TUMOUR, save_fitted, start_of
from napari_histoseg.methods.tumour.guide import fit_guide, with_clusters
from napari_histoseg.methods.tumour.patchtask import PROBABILITY, ClassifierTask, Pool
from napari_histoseg.methods.tumour.places import patches_of
from napari_histoseg.methods.tumour.refinetask import Example, RefinerTask
from napari_histoseg.methods.tumour.sheets import Outlined, Sheet, sheet_of
from napari_histoseg.methods.tumour.slides import Lessons, read_lessons
from napari_histoseg.methods.tumour.split import folds_of, held_out
from napari_histoseg.nn.weights import ModelCard, load_tensors, read_card
from napari_histoseg.slide import Slide
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import MAY_CHANGE, Preparing, StepDone, Trained, TrainEvent, Validated, fit, never

PARTS = ".parts"
"""Ending of the folder beside the weights that a training keeps its intermediate files in."""
DATA = "data.sha256"
WORST = 64
READING = "Reading the slides"
MAPPING = "Mapping the slides"
SEEN = "There is one slide or patient to learn from: its heatmap is the classifier's own, and the refiner will trust heatmaps too much."
CLASSES = ((1, "with tumour"), (0, "without tumour"))
State = dict[str, Tensor]
Heat = NDArray[np.uint8]


@dataclass
class Ready:
    """Slides that were read."""

    outlined: list[Outlined] = field(default_factory=list)
    slides: list[Slide] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)

    def pool(self, settings: TumourTraining) -> Pool:
        """All their patches; a column for each label that is balanced on and known of any slide."""
        wanted = [name for name in settings.stages if any(name in each.labels for each in self.outlined)]
        tables = []
        for number, (each, table) in enumerate(zip(self.outlined, self.tables, strict=True)):
            labels = {name: each.labels.get(name) for name in wanted}
            tables.append(table.assign(slide=number, name=each.name, **labels))
        rows = pd.concat(tables, ignore_index=True)
        return Pool(rows, self.slides, [sheet.mpp / settings.scale for sheet in self.sheets], settings.crop_px, settings.scale)


class TumourTask:
    """Training both networks, one after the other.

    First the classifier that is kept. Then, in parts of the training slides (``folds``), classifiers that have not seen a part
    make its heatmaps: those of the first classifier would be too good on the slides that it learned from, and a refiner would
    learn to trust them. Last the refiner.
    """

    def __init__(self, settings: TumourTraining, lessons: Lessons) -> None:
        self.settings, self.lessons = settings, lessons
        self.notices = list(lessons.notices)
        self.start = start_of(settings)
        self._begun = perf_counter()

    # -- the course of it ---------------------------------------------------------------------------------------------

    def events(self, out: Path, resume: bool, stop: Callable[[], bool]) -> Generator[TrainEvent, None, None]:
        """Train, and write the weights file ``out``, from the first validation on; it holds what has been learned so far."""
        self._begun = perf_counter()
        work = self._workplace(out, resume)
        settings = self.settings
        with ExitStack() as stack:
            ready = yield from self.read(stack, work)
            held = self.split(ready)
            course = Course(self, ready, held, out, work, stop)
            if settings.backbone != "none":
                yield from course.classify()
            if settings.refiner != "none" and not course.stopped:
                yield from course.refine()
            course.save()
        shutil.rmtree(work)
        yield Trained(out, course.scores, perf_counter() - self._begun, course.stopped)

    def _workplace(self, out: Path, resume: bool) -> Path:
        """The folder of intermediate files, emptied unless a training goes on that had the same settings."""
        work = out.with_name(out.stem + PARTS)
        about = work / "settings.json"
        if resume and about.is_file():
            before = TumourTraining.model_validate_json(about.read_text())
            free = set(MAY_CHANGE) - {"steps", "validate_every"}
            changed = sorted(k for k, v in self.settings if k not in free and getattr(before, k) != v)
            if changed:
                raise RunError(f"{work} was made with other settings ({', '.join(changed)}). Resume with the same settings, or train anew.")
            if (work / DATA).read_text() != self.lessons.provenance["data_sha256"]:
                raise RunError(f"{work} was made from other slides or outlines. Resume with the same ones, or train anew.")
        else:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            (work / DATA).write_text(self.lessons.provenance["data_sha256"])
            about.write_text(self.settings.model_dump_json())
        return work

    def read(self, stack: ExitStack, work: Path | None = None) -> Generator[TrainEvent, None, Ready]:
        """Open all slides, find their patches; every problem is named at once. What is read goes to the folder ``work``, where there is one."""
        settings, ready, problems = self.settings, Ready(), list[str]()
        finer = settings.backbone != "none"
        mpp, scale = (settings.mpp, settings.scale) if finer else (settings.mpp * settings.scale, 1)
        total = len(self.lessons.slides)
        yield Preparing(READING, 0, total)
        for number, outlined in enumerate(self.lessons.slides, 1):
            try:
                slide = stack.enter_context(closing(outlined.open()))
                sheet = sheet_of(outlined, slide, mpp, scale)
            except HistosegError as error:
                text = str(error) if outlined.name in str(error) else f"{outlined.name}: {error}"
                (self.notices if settings.skip_unreadable else problems).append(f"Left out: {text}" if settings.skip_unreadable else text)
                continue
            table = patches_of(sheet, settings.crop_px // settings.scale, settings.least_tissue, settings.least_tumour)
            if (sheet.truth == 1).any() and not (table["label"] == 1).any():
                problems.append(outside_tissue(outlined.name, settings))
                continue
            if table.empty:
                self.notices.append(f"Left out: {outlined.name} has no patch with {settings.least_tissue:.0%} of tissue that is annotated all over.")
                continue
            # From the disk, a hundred slides take no more memory than one.
            sheet = sheet if work is None else sheet.save(work / f"sheet-{number}.npy")
            ready.outlined.append(outlined)
            ready.slides.append(slide)
            ready.sheets.append(sheet)
            ready.tables.append(table)
            yield Preparing(READING, number, total)
        self._check(ready, problems)
        return ready

    def _check(self, ready: Ready, problems: list[str]) -> None:
        if problems:
            raise DatasetError("These slides cannot be trained on: " + " ".join(problems))
        if not ready.sheets:
            raise DatasetError("None of the slides can be learned from. " + " ".join(self.notices))
        labels = pd.concat(ready.tables)["label"]
        for value, words in self._needed:
            if not (labels == value).any():
                raise DatasetError(
                    f"None of the {len(labels)} patches of {len(ready.sheets)} slides is {words}. The classifier learns from both: annotate slides that show both, and check the pixel size."
                )
        for stage in self.settings.stages:
            missing = [each.name for each in ready.outlined if stage not in each.labels]
            if missing and len(missing) < len(ready.outlined):
                self.notices.append(f"'{stage}' is not stated of {len(missing)} slides, which are drawn as a kind of their own: {', '.join(missing[:5])}.")

    @property
    def _needed(self) -> Sequence[tuple[int, str]]:
        """Classes that there have to be patches of; an outline from low resolution alone needs only tumour."""
        return CLASSES if self.settings.backbone != "none" else [each for each in CLASSES if each[0] == 1]

    def split(self, ready: Ready) -> set[int]:
        """Numbers of the slides that are held out; empty where none can be, and the training slides are scored."""
        both = [set(table["label"]) for table in ready.tables]
        held = held_out(ready.outlined, both, self.settings)
        if not held:
            self.notices.append("Nothing was held out: scores are of the training slides. Annotate slides of another patient.")
        taught = {label for i, labels in enumerate(both) if i not in held for label in labels}
        for value, words in self._needed:
            if value not in taught:
                raise DatasetError(
                    f"None of the patches that are trained on is {words}: the split of the dataset keeps them all for validation. Move a slide to its training part."
                )
        return held

    # -- what is said of it -------------------------------------------------------------------------------------------

    def card_data(self, ready: Ready, held: set[int], heatmaps: str) -> list[dict[str, Any]]:
        """What the model card says of the slides, and of the heatmaps that the refiner learned from."""
        names = [each.name for each in ready.outlined]
        entry = {
            "title": self.lessons.provenance.get("name", ""),
            "train_slides": [name for i, name in enumerate(names) if i not in held],
            "held_out_slides": [name for i, name in enumerate(names) if i in held],
            "heatmaps": heatmaps,
            "notices": self.notices,
        }
        if "stain" in self.lessons.provenance:
            entry["stain"] = self.lessons.provenance["stain"]
        return [entry]


class Course:
    """A training under way: what it has learned, and its stages as one row of steps."""

    def __init__(self, task: TumourTask, ready: Ready, held: set[int], out: Path, work: Path, stop: Callable[[], bool] = never) -> None:
        self.task, self.ready, self.held, self.out, self.work, self.stop = task, ready, held, out, work, stop
        self.settings = task.settings
        self.taught = set(range(len(ready.sheets))) - held
        self.classifier: State | None = None
        self.refiner: State | None = None
        self.scores: dict[str, float] = {}
        self.stopped = False
        self._before = 0
        self.heatmaps_are = "none"
    @property
    def steps(self) -> int:
        """Of all stages."""
        count = 0 if self.settings.backbone == "none" else self.settings.steps
        if self.settings.refiner == "none":
            return count
        return count * (1 + (self.settings.folds if self.settings.folds > 1 else 0)) + self.settings.refine_steps

    def classify(self) -> Generator[TrainEvent, None, None]:
        """Train the classifier that is kept."""
        task = yield from self._patches(self.taught, self.held)
        yield from self._stage("classifier", task, keep="classifier")
        task.drawn(self.settings.steps).to_csv(self.out.with_suffix(".draws.csv"), index=False)

    def _patches(self, taught: set[int], scored: set[int]) -> Generator[TrainEvent, None, ClassifierTask]:
        """Learning from some slides, scored on others; on the same ones where there are no others."""
        everything = self.ready.pool(self.settings)
        pool = everything.of(taught)
        held, settings, guide = everything.of(scored or taught), self.settings, None
        if settings.guided or settings.cluster_stage:
            guide = yield from fit_guide(settings, pool)
            if settings.cluster_stage:
                pool = yield from with_clusters(pool, guide, settings)
        return ClassifierTask(settings, pool, held, guide if settings.guided else None, self.task.start[0] or None, self.task.lessons.provenance)

    def refine(self) -> Generator[TrainEvent, None, None]:
        """Heatmaps of all slides, then the refiner."""
        heats = yield from self.heatmaps()
        if not self.stopped:
            yield from self.refine_with(heats)

    def refine_with(self, heats: Sequence[Heat]) -> Generator[TrainEvent, None, None]:
        """Train the refiner with the heatmaps of all slides."""
        examples = [Example(sheet, heat) for sheet, heat in zip(self.ready.sheets, heats, strict=True)]
        taught, scored = ([examples[i] for i in sorted(part)] for part in (self.taught, self.held or self.taught))
        task = RefinerTask(self.settings, taught, scored, self.task.start[1] or None, self.task.lessons.provenance)
        yield from self._stage("refiner", task, keep="refiner")

    def heatmaps(self) -> Generator[TrainEvent, None, list[Heat]]:
        """Of all slides: by the classifier that is kept for slides that it has not seen, by others for those that it has."""
        heats = [np.zeros(sheet.box.shape, np.uint8) for sheet in self.ready.sheets]
        if self.classifier is None:
            return heats
        taught = sorted(self.taught)
        folds = folds_of([self.ready.outlined[i] for i in taught], self.settings)
        self.heatmaps_are = "by classifiers that have not seen the slide"
        if len(folds) < 2:
            self.heatmaps_are = "by the classifier itself, of slides that it was trained on"
            if self.settings.folds > 1:
                self.task.notices.append(SEEN)
            yield from self.mapped(taught, "classifier", heats)
        for number, members in enumerate(folds if len(folds) > 1 else [], 1):
            part = {taught[i] for i in members}
            task = yield from self._patches(self.taught - part, self.held)
            yield from self._stage(f"fold {number}", task)
            yield from self.mapped(sorted(part), f"fold {number}", heats)
            if self.stopped:
                return heats
        yield from self.mapped(sorted(self.held), "classifier", heats)
        return heats

    def mapped(self, which: Sequence[int], network: str, heats: list[Heat]) -> Generator[TrainEvent, None, None]:
        """The heatmaps of some slides by one of the classifiers, by runs as a person would make them."""
        from napari_histoseg.predict.events import Finished
        from napari_histoseg.predict.run import iter_run

        weights = self.work / "mapping.safetensors"
        save_fitted(weights, load_tensors(self.work / f"{network}.safetensors"), None, self._card())
        shared = {name: getattr(self.settings, name) for name in ("device", "precision", "least_tissue")}
        how = TumourSettings.parse({**shared, "outline": "threshold", "tissue_only": False})
        for count, i in enumerate(which):
            yield Preparing(MAPPING, count, len(which))
            self.stopped = self.stopped or self.stop()
            if self.stopped:
                return
            stored = self.work / f"heat-{i}-{network}.npy"
            if not stored.is_file():
                slide, part = self.ready.slides[i], self.ready.outlined[i].part
                for event in iter_run("tumour", slide, region=part, weights=weights, settings=how):
                    if isinstance(event, Finished):
                        partial = stored.with_suffix(".partial.npy")
                        np.save(partial, np.asarray(event.result.arrays()["probability"][0][:]))
                        partial.replace(stored)
                    else:
                        yield Preparing(MAPPING, count, len(which))
            heats[i] = np.load(stored)

    def _stage(self, name: str, task: ClassifierTask | RefinerTask, keep: str = "") -> Generator[TrainEvent, None, None]:
        """One run of the loop; one that an earlier session brought to its end is not run again."""
        weights = self.work / f"{name}.safetensors"
        done = self.work / f"{name}.done"
        steps = task.settings.steps
        if not done.exists():
            for event in fit(task, weights, resume=True, stop=self.stop):
                if isinstance(event, StepDone):
                    parts = {name: event.loss}
                    yield replace(event, step=self._before + event.step, steps=self.steps, seconds=self._seconds, parts=parts)
                elif isinstance(event, Validated) and keep:
                    if event.best:
                        self._keep(keep, load_tensors(weights), event.scores)
                        self._show_worst(task)
                    yield Validated(self._before + event.step, event.scores, event.best, self.out)
                elif isinstance(event, Trained):
                    self.stopped = self.stopped or self.stop()
            done.touch()
            self._bring_curve(weights, keep)
        if keep and getattr(self, keep) is None:
            self._keep(keep, load_tensors(weights), {k: float(v) for k, v in read_card(weights).scores["validation"].items()})
        self._before += steps

    @property
    def _seconds(self) -> float:
        return perf_counter() - self.task._begun

    def _keep(self, which: str, state: State, scores: dict[str, float]) -> None:
        setattr(self, which, state)
        self.scores = {**{k: v for k, v in self.scores.items() if k != "score"}, **scores, which: scores["score"]}
        self.save()

    def _show_worst(self, task: ClassifierTask | RefinerTask) -> None:
        """The patches that the classifier gets most wrong, in level-0 pixels, as a table beside the weights."""
        if not isinstance(task, ClassifierTask):
            return
        rows = task.worst.head(WORST)
        factor = [task.held.mpps[i] * task.held.scale / task.held.slides[i].require_mpp() for i in rows["slide"]]
        corners = rows[["x", "y"]].to_numpy() * np.array(factor)[:, None]
        side = np.array(factor) * (task.held.side_px // task.held.scale)
        table = rows[["name", "label", PROBABILITY]].assign(x=corners[:, 0], y=corners[:, 1], width=side, height=side)
        table.round({PROBABILITY: 4, "x": 1, "y": 1, "width": 1, "height": 1}).to_csv(self.out.with_suffix(".worst.csv"), index=False)

    def _bring_curve(self, weights: Path, keep: str) -> None:
        curve = weights.with_suffix(".curve.csv")
        if keep and curve.exists():
            curve.replace(self.out.with_suffix(".curve.csv" if keep == "classifier" or self.settings.backbone == "none" else ".refiner.curve.csv"))

    def save(self) -> None:
        """Write what has been learned so far."""
        save_fitted(self.out, self.classifier, self.refiner, self._card())

    def _card(self) -> ModelCard:
        settings = self.settings
        provenance = {**self.task.lessons.provenance, "data": self.task.card_data(self.ready, self.held, self.heatmaps_are)}
        count = len(self.held or self.taught)
        name = f"{settings.backbone}+{settings.refiner}"
        own = {"architecture": name, "width": 0, "mpp": settings.mpp, "classes": [TUMOUR]}
        return card_of("tumour", settings, provenance, self.scores, count, self._seconds, **own)


def outside_tissue(name: str, settings: TumourTraining) -> str:
    """What is said of a slide whose outline holds no patch."""
    return (
        f"The outline of {name} holds no patch with {settings.least_tissue:.0%} of tissue: it lies outside the tissue, or is too small. Check that outline and slide belong together."
    )


def task_from_dataset(dataset: Path | PatchDataset, settings: TumourTraining) -> TumourTask:
    """Learning from a patch dataset whose masks cover slides or parts of them, or from a folder of slides with outlines beside them.

    Raises
    ------
    DatasetError
        Names every problem at once.
    """
    if settings.backbone == "none" and settings.refiner == "none":
        raise DatasetError("There is nothing to train: both networks are 'none'. Choose a classifier, a refiner, or both.")
    return TumourTask(settings, read_lessons(dataset, settings.tumour_class, settings.skip_unreadable))
