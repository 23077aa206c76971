"""Learning kinds of tissue from several slides or pictures, for other slides."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.dataset import FILE_NAME, PatchDataset, data_sha256, read_dataset
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.methods.tissue.config import TissueTraining
from napari_histoseg.methods.tissue.fields import fields_of
from napari_histoseg.methods.tissue.fitted import Fitted, around, fit
from napari_histoseg.methods.tissue.predictor import alike
from napari_histoseg.methods.tissue.shades import leveled, slide_density
from napari_histoseg.slide import Box, Slide, open_slide
from napari_histoseg.train.loop import StepDone, Trained, TrainEvent, Validated

Picture = NDArray[np.uint8]
NETWORK = ".network.safetensors"
"""What the file of the network is called while it learns, beside the weights."""
LOOKED_AT = 6
"""Pictures that a model under way is measured on, for its preview."""


@dataclass(frozen=True)
class Lesson:
    """A slide or picture to learn from, or parts of it (level-0 pixels).

    Attributes
    ----------
    name : str
    open : callable
        Opens it; it is closed when its fields were read.
    parts : tuple of Box
        Empty for all of it.
    """

    name: str
    open: Callable[[], Slide]
    parts: tuple[Box, ...] = ()


class TissueTask:
    """Learning kinds of tissue; a training of its own, for most variants have no network.

    Parameters
    ----------
    settings : TissueTraining
    lessons : sequence of Lesson
        Of each the strength of the stain is taken out, where colors are relative.
    provenance : dict
        What the model card says of the data.
    """

    def __init__(self, settings: TissueTraining, lessons: Sequence[Lesson], provenance: dict[str, Any]) -> None:
        self.settings, self.lessons, self.provenance = settings, tuple(lessons), provenance

    def events(self, out: Path, resume: bool, stop: Callable[[], bool]) -> Generator[TrainEvent, None, None]:
        """Read fields of all slides, learn, and write the weights."""
        begun = perf_counter()
        pictures: list[Picture] = []
        share = -(-self.settings.sample // len(self.lessons))
        for number, lesson in enumerate(self.lessons, 1):
            pictures += self._pictures(lesson, share)
            yield StepDone(number, len(self.lessons), 0.0, 0.0, perf_counter() - begun)
        if self.settings.variant == "paper":
            fitted, scores = yield from self._network(pictures, out, resume, stop)
        else:
            fitted, scores = yield from self._clusters(pictures, begun)
        if fitted.n_classes < self.settings.n_classes:
            self.provenance["data"][0]["notices"] = [alike(fitted.n_classes, self.settings.n_classes)]
        self._save(fitted, out, scores, len(pictures), perf_counter() - begun)
        yield Validated(len(self.lessons), scores, True, out)
        yield Trained(out, scores, perf_counter() - begun)

    def _pictures(self, lesson: Lesson, count: int) -> Iterator[Picture]:
        """Fields of a slide, in colors that can be compared."""
        settings = self.settings
        with closing(lesson.open()) as slide:
            if slide.mpp is None:
                raise DatasetError(f"The pixel size of {lesson.name} is unknown. Give it: \"mpp\" in dataset.json, or \"slide_mpp\" of its patch.")
            if slide.mpp > settings.mpp * 2.2:
                raise DatasetError(f"{lesson.name} has {slide.mpp:g} µm/px, too coarse to learn tissue at {settings.mpp:g}. Set mpp to {slide.mpp:g} or more.")
            mpp = slide.working_mpp(settings.mpp, force=True)
            found: list[Picture] = []
            for part in lesson.parts or (None,):
                each = -(-count // max(len(lesson.parts), 1))
                found += fields_of(slide, mpp, part, each, settings.sample_px, settings.seed)
            density = slide_density(slide)
        return (picture if settings.colors == "absolute" else leveled(picture, density) for picture in found)

    def _clusters(self, pictures: list[Picture], begun: float) -> Generator[TrainEvent, None, tuple[Fitted, dict[str, float]]]:
        fitted: Fitted | None = None
        for said in fit(pictures, self.settings, self.settings.mpp):
            if isinstance(said, Fitted):
                fitted = said
            elif isinstance(said, tuple):
                yield StepDone(said[0], said[1], 0.0, 0.0, perf_counter() - begun)
        assert fitted is not None
        return fitted, {"score": certainty(fitted, pictures), "classes": float(fitted.n_classes)}

    def _network(
        self, pictures: list[Picture], out: Path, resume: bool, stop: Callable[[], bool]
    ) -> Generator[TrainEvent, None, tuple[Fitted, dict[str, float]]]:
        """Train the network; whenever it is the best so far, ``out`` is a model that can be looked at."""
        from napari_histoseg.methods.tissue.deeptask import clusterer_in, deep_events

        own = out.with_name(f"{out.stem}{NETWORK}")
        provenance = {"mpp": self.settings.mpp}
        scores: dict[str, float] = {}
        events = deep_events(self.settings, pictures, own, resume=resume, stop=stop, provenance=provenance)
        with closing(events):
            while True:
                try:
                    event = next(events)
                except StopIteration as ended:
                    clusterer = ended.value[0]
                    break
                if isinstance(event, Trained):
                    scores = dict(event.scores)
                    continue
                if isinstance(event, Validated):
                    if event.best:
                        early = around(clusterer_in(own, self.settings, provenance), pictures[:LOOKED_AT], self.settings, self.settings.mpp)
                        self._save(early, out, event.scores, len(pictures), 0.0)
                    event = Validated(event.step, event.scores, event.best, out)
                yield event
        for done in (own, own.with_suffix(".checkpoint.pt")):
            done.unlink(missing_ok=True)
        curve = own.with_suffix(".curve.csv")
        if curve.exists():
            curve.replace(out.with_suffix(".curve.csv"))
        return around(clusterer, pictures, self.settings, self.settings.mpp), scores

    def _save(self, fitted: Fitted, out: Path, scores: dict[str, float], pictures: int, seconds: float) -> None:
        known = {key: self.provenance[key] for key in ("data", "data_sha256")}
        card = fitted.card(
            name=self.provenance["name"], scores={"validation": scores, "images": pictures}, seconds=round(seconds, 1), **known
        )
        fitted.save(out, card)


def certainty(fitted: Fitted, pictures: Sequence[Picture]) -> float:
    """Mean probability of the most probable class, over up to 12 of the pictures: how well the classes are told apart."""
    some = pictures[:: max(1, len(pictures) // 12)][:12]
    return float(np.mean([fitted.probability(fitted.clusterer.see(picture)).max(0).mean() for picture in some]))


def task_from_dataset(dataset: Path | PatchDataset, settings: TissueTraining) -> TissueTask:
    """Learning from a patch dataset (its patches need no annotation), from a slide, or from a folder of slides.

    Raises
    ------
    DatasetError
        There is nothing to learn from.
    """
    if isinstance(dataset, Path) and not (dataset / FILE_NAME).is_file():
        return _of_slides(dataset, settings)
    read = read_dataset(dataset)
    lessons: dict[str, Lesson] = {}
    for patch in read.patches:
        if patch.split == "test":
            continue
        known = lessons.get(patch.source)
        parts = () if patch.box is None else (Box(*patch.box),)
        first = patch
        lessons[patch.source] = Lesson(patch.source, lambda first=first: read.open(first), (() if known is None else known.parts) + parts)  # type: ignore[misc]
    if not lessons:
        raise DatasetError(f"{read.folder} has no patch to learn from. Add slides or pictures; they need no annotation.")
    stain = {} if read.look is None else {"stain": str(read.look)}
    data = [{"title": read.folder.name, "train_images": len(lessons), **stain}]
    return TissueTask(settings, list(lessons.values()), {"name": f"tissue ({read.folder.name})", "data": data, "data_sha256": data_sha256(read)})


def _of_slides(path: Path, settings: TissueTraining) -> TissueTask:
    """Learning from a slide file, or all slides of a folder."""
    if not path.exists():
        raise DatasetError(f"{path} does not exist. Give a patch dataset, a slide, or a folder of slides.")
    files = [path] if path.is_file() or path.suffix == ".zarr" else sorted(p for p in path.iterdir() if not p.name.startswith("."))
    found, sizes = [], []
    for file in files:
        try:
            with closing(open_slide(file)) as slide:
                sizes.append({"title": slide.name, "slide_fingerprint": slide.fingerprint()})
            found.append(file)
        except HistosegError as error:
            if len(files) == 1:
                raise DatasetError(f"{file} cannot be learned from: {error}") from None
    if not found:
        raise DatasetError(f"{path} holds no slide that can be read. Give a patch dataset, a slide, or a folder of slides.")
    lessons = [Lesson(file.name, lambda file=file: open_slide(file)) for file in found]  # type: ignore[misc]
    return TissueTask(settings, lessons, {"name": f"tissue ({path.stem})", "data": sizes, "data_sha256": ""})
