"""Learning classes of cells from a result of nuclei, or from pictures with nuclei; the weights then name cells on other slides."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.dataset import PatchDataset, data_sha256, load_patch, read_dataset
from napari_histoseg.errors import DatasetError, SettingsError
from napari_histoseg.methods.cells.config import CellsSettings, CellsTraining
from napari_histoseg.methods.cells.encoder import NetworkNumbers
from napari_histoseg.methods.cells.fitted import Fitted, Seen, card_of_fit, check_count, fit_groups, shifted
from napari_histoseg.methods.cells.gantrain import gan_events, with_gan
from napari_histoseg.methods.cells.grouping import Groups
from napari_histoseg.methods.cells.looks import Look, Viewer, looks_until
from napari_histoseg.methods.cells.predictor import alike, mean_color
from napari_histoseg.methods.cells.sources import source_of
from napari_histoseg.metrics.cells import agreement
from napari_histoseg.predict.device import choose_device
from napari_histoseg.slide import Box, Slide, open_slide
from napari_histoseg.tiling import TileGrid
from napari_histoseg.train.loop import StepDone, Trained, TrainEvent, Validated

TILE_PX = 2048
SEEDS_COMPARED = 3
"""k-means is run again from this many seeds; how much they agree is the score."""


@dataclass(frozen=True)
class Picture:
    """A slide or picture with its nuclei."""

    slide: Slide
    labels: Any
    name: str


class CellsTask:
    """Learning classes from pictures; a training of its own, for most ways have no network.

    Parameters
    ----------
    settings : CellsTraining
    pictures : sequence of Picture
        Of each the mean color is taken out, where colors are relative.
    provenance : dict
        What the model card says of the data.
    """

    def __init__(self, settings: CellsTraining, pictures: list[Picture], provenance: dict[str, Any]) -> None:
        self.settings, self.pictures, self.provenance = settings, pictures, provenance
        shared = {name: getattr(settings, name) for name in CellsSettings.model_fields.keys() & CellsTraining.model_fields.keys()}
        self._run = CellsSettings.parse(shared)

    def events(self, out: Path, resume: bool, stop: Callable[[], bool]) -> Generator[TrainEvent, None, None]:
        """Look at the nuclei of all pictures, learn, and write the weights."""
        begun = perf_counter()
        seen, count = [], len(self.pictures)
        for number, one in enumerate(self._seen(), 1):
            seen.append(one)
            yield StepDone(min(number, count), count, 0.0, 0.0, perf_counter() - begun)
            if stop():
                break
        check_count(sum(int(s.look.own.sum()) for s in seen), self.settings.n_classes)
        goal = mean_color([s.look for s in seen])
        seen = [replace(s, crops=shifted(s.crops, s.crops_shift(goal, self._run.colors))) for s in seen]
        if self.settings.method == "infogan":
            fitted, scores = yield from self._learn_gan(seen, goal, out, resume, stop)
        else:
            fitted, scores = self._learn(seen, goal)
        scores["nuclei"] = float(sum(int(s.look.own.sum()) for s in seen))
        card = card_of_fit(
            fitted, name=self.provenance["name"], training=self.settings, data=self.provenance["data"],
            data_sha256=self.provenance["data_sha256"], scores={"validation": scores, "images": count}, seconds=round(perf_counter() - begun, 1),
        )  # fmt: skip
        fitted.save(out, card)
        yield Validated(count, scores, True, out)
        yield Trained(out, scores, perf_counter() - begun)

    def _learn(self, seen: list[SeenOf], goal: NDArray[np.float64]) -> tuple[Fitted, dict[str, float]]:
        encoder = NetworkNumbers(choose_device(self.settings.device), self.settings.encoder) if self.settings.method == "features" else None
        looks: list[Seen] = list(seen)
        fitted, used = fit_groups(looks, self._run, self.settings.n_classes, goal, encoder)
        if used < self.settings.n_classes:
            raise SettingsError(alike(used, self.settings.n_classes))
        return fitted, {"score": repeated(fitted, looks, self.settings)}

    def _learn_gan(
        self, seen: list[SeenOf], goal: NDArray[np.float64], out: Path, resume: bool, stop: Callable[[], bool]
    ) -> Generator[TrainEvent, None, tuple[Fitted, dict[str, float]]]:
        crops = np.concatenate([s.crops[s.look.own] for s in seen])
        network, scores = yield from gan_events(self.settings, crops, out, resume, stop)
        return with_gan(network, self._run, crops, goal), scores

    def _seen(self) -> Iterator[SeenOf]:
        """Looks at all pictures, tile by tile; of a large set about ``sample`` nuclei."""
        share = max(1, -(-self.settings.sample // max(len(self.pictures), 1)))
        for picture in self.pictures:
            mpp = picture.slide.working_mpp(self.settings.mpp, force=True)
            source = source_of(picture.labels, picture.slide)
            index = source.index()
            if not len(index):
                continue
            viewer = Viewer(source, index, self._run.style, mpp, mpp / picture.slide.require_mpp(), self._run.reach_um)
            yield from self._looks(picture, viewer, share)

    def _looks(self, picture: Picture, viewer: Viewer, share: int) -> Iterator[SeenOf]:
        bounds = Box(0, 0, *picture.slide.size_at(viewer.mpp))
        grid = TileGrid(bounds, TILE_PX, viewer.margin_px, viewer.mpp)

        def look(keep: Box) -> Callable[[], Look]:
            box = keep.padded(viewer.margin_px).intersect(bounds)
            return lambda: viewer.look(picture.slide.read_at(viewer.mpp, box), box, keep)

        keeps = [grid[int(i)].keep for i in np.random.default_rng(self.settings.seed).permutation(len(grid))]
        made = list(looks_until(share, viewer, ((keep, look(keep)) for keep in keeps)))
        if not made:
            return
        mean = mean_color(made)
        yield from (SeenOf(viewer, look, look.crops, mean) for look in made)


@dataclass(frozen=True)
class SeenOf(Seen):
    """A look, and the mean color of its picture."""

    mean: NDArray[np.float64]

    def crops_shift(self, goal: NDArray[np.float64], colors: str) -> NDArray[np.float64] | None:
        """What brings its pictures to a mean color; None where colors stay."""
        return None if colors == "absolute" else goal - self.mean


def repeated(fitted: Fitted, seen: list[Seen], settings: CellsTraining) -> float:
    """Mean adjusted Rand index between the classes from several seeds, over the nuclei that were learned from."""
    places = np.concatenate([fitted.place(s) for s in seen])
    kind = "mixture" if settings.method == "mixture" else "kmeans"
    chosen = [
        Groups.fit(places, settings.n_classes, kind, settings.seed + 1000 * k).probability(places).argmax(1)  # type: ignore[arg-type]
        for k in range(SEEDS_COMPARED)
    ]
    return agreement(chosen)


def task_from_dataset(dataset: Path | PatchDataset, settings: CellsTraining) -> CellsTask:
    """Learning from a result of nuclei (its folder), or from a patch dataset whose masks are instance maps.

    Raises
    ------
    DatasetError
        There are no nuclei in it, the pixel size is unknown, or the result's slide is gone.
    """
    if isinstance(dataset, Path) and (dataset / "run.json").is_file():
        return _from_result(dataset, settings)
    read = read_dataset(dataset)
    annotated = [p for p in read.patches if p.mask is not None]
    if not annotated:
        raise DatasetError(f"{read.folder} has no patch with a mask. Classes of cells are learned from nuclei: instance masks, a number for each, 0 elsewhere.")
    pictures = []
    for patch in annotated:
        image, mask, mpp = load_patch(read, patch)
        if mpp is None:
            raise DatasetError(f"The pixel size of {patch.source} is unknown. Write \"mpp\" (µm/px) into dataset.json.")
        assert mask is not None
        pictures.append(Picture(open_slide(image, mpp=mpp), mask, patch.source))
    title = read.folder.name
    stain = {} if read.look is None else {"stain": str(read.look)}
    data = [{"title": title, "train_images": len(pictures), **stain}]
    return CellsTask(settings, pictures, {"name": f"cells {settings.method} ({title})", "data": data, "data_sha256": data_sha256(read)})


def _from_result(folder: Path, settings: CellsTraining) -> CellsTask:
    from napari_histoseg.results.result import open_result

    result = open_result(folder)
    about = result.record.slide
    if about.path is None or not Path(about.path).exists():
        raise DatasetError(f"The slide of {folder} is not at {about.path or 'any path'}. Put it back, or learn from a patch dataset.")
    slide = open_slide(about.path, about.mpp)
    data = [{"title": about.name, "train_images": 1, "result": folder.name, "slide_fingerprint": about.fingerprint}]
    return CellsTask(settings, [Picture(slide, result, about.name)], {"name": f"cells {settings.method} ({about.name})", "data": data, "data_sha256": ""})
