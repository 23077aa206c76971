"""The run: an iterator of events. Closing it cancels; what is done stays and can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg import methods
from napari_histoseg.errors import HistosegError, RunError, SettingsError
from napari_histoseg.methods.base import Refining, Survey, TileOutput, Whole
from napari_histoseg.predict.device import choose_device, choose_precision
from napari_histoseg.predict.events import Finished, Fitting, Notice, RunEvent, Started, TileDone
from napari_histoseg.predict.lanes import Done, Work, frame_of, read_box, read_tile, run_tiles
from napari_histoseg.predict.plan import Plan, make_plan
from napari_histoseg.results.record import ClassRecord, RunRecord, SlideRecord, Status, WeightsRecord
from napari_histoseg.results.result import Result
from napari_histoseg.results.store import ResultStore
from napari_histoseg.slide import Box, Slide, TissueMask
from napari_histoseg.tiling import nearest_first

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from napari_histoseg.methods.base import Model
    from napari_histoseg.methods.settings import RunSettings

Focus = Callable[[], tuple[float, float] | None]
"""Returns the point being looked at, (x, y) in level-0 pixels, or None."""


def iter_run(
    method: str,
    slide: Slide,
    *,
    out: Path | None = None,
    region: Any = None,
    weights: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    focus: Focus | None = None,
    tissue: TissueMask | None = None,
    settings: RunSettings | None = None,
) -> Generator[RunEvent, None, None]:
    """Run a method on a slide.

    Parameters
    ----------
    method : str
        One of :func:`napari_histoseg.methods.names`.
    slide : Slide
    out : Path, optional
        Folder of the result; a temporary one that goes with the result when not given.
    region : Box, (x, y, width, height), or shapely (multi)polygon, optional
        Level-0 pixels; the whole slide when not given.
    weights : Path, optional
        A ``.safetensors`` file; the weights that ship with the package when not given.
    resume, overwrite : bool
        Go on with an unfinished result in ``out``, or replace a result there.
    focus : callable, optional
        Where somebody is looking; tiles near it come first.
    tissue : TissueMask, optional
        Use this tissue instead of detecting it.
    settings : RunSettings, optional
        The method's settings model.

    Yields
    ------
    Started, TileDone, Notice, Finished

    Raises
    ------
    HistosegError
        A subclass says what is wrong with the input (before anything is written) or why the run could not go on.
    """
    chosen = methods.get(method)
    settings = settings if settings is not None else chosen.spec.settings.parse({})
    if resume and overwrite:
        raise SettingsError("resume and overwrite exclude each other: the first keeps the result in the folder, the second deletes it.")
    if resume and out is None:
        raise SettingsError("resume needs out: the folder of the result to go on with.")
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    slide = chosen.prepare(slide, settings, weights)
    model = chosen.load(slide, settings, weights, device, precision)
    plan = make_plan(slide, model, settings, region, tissue)
    record = _record(method, slide, plan, model, model.settings, region, str(device.type), str(precision).removeprefix("torch."))
    if resume and out is not None and (out / "run.json").exists():
        store = ResultStore.resume(out, record)
    else:
        outputs = model.outputs if isinstance(model, Refining) else chosen.spec.outputs
        store = ResultStore.create(out, record, outputs, overwrite=overwrite)
    run = _Run(slide, plan, model, settings, store, record)
    # A run closed before its first event (a generator never started) must not leave the folder locked, so the store is
    # opened in here, on the first request, and from then on the context below owns it.
    with closing(run.events(device, focus)) as events:
        yield from events


@dataclass
class _Run:
    """A run under way: the plan, the store, and what it has counted so far."""

    slide: Slide
    plan: Plan
    model: Model
    settings: RunSettings
    store: ResultStore
    record: RunRecord
    n_objects: int = 0
    messages: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def events(self, device: torch.device, focus: Focus | None) -> Generator[RunEvent, None, None]:
        """Tiles in, events out; whatever ends it, the store is left readable."""
        status: Status = "cancelled"
        try:
            yield from self._tiles(device, focus)
            status = "finished"
        except HistosegError:
            status = "failed"
            raise
        except Exception as error:
            status = "failed"
            raise RunError(f"The run stopped: {type(error).__name__}: {error}. The tiles done so far are kept; run again with --resume.") from error
        finally:
            if status != "finished":
                self._close(status)
        yield Finished(self._close("finished"), time.perf_counter() - self.begun)

    def _tiles(self, device: torch.device, focus: Focus | None) -> Generator[RunEvent, None, None]:
        plan, done = self.plan, self.store.done
        self.n_objects = self.store.n_objects
        left = [i for i in plan.wanted if i not in done]
        total = len(plan.wanted)
        yield Started(
            self.store.path, total, total - len(left), plan.mpp, plan.grid.bounds, self.record.device, self.record.precision, self.store
        )
        if reason := _doubt(self.slide):
            yield self._say(reason)
        if not total:
            yield self._say("No tissue was found in the region, so nothing was computed. Set tissue_only to false to compute it all the same.")
        work = Work(self.slide, self.model, plan.mpp, plan.downsample, Box(0, 0, *self.slide.size_at(plan.mpp)))
        if left:
            for said in self.model.fit(self._survey(work)):
                yield self._say(said) if isinstance(said, str) else Fitting(*said)
            self.store.settle([ClassRecord(**c) for c in self.model.classes], self.model.merged)
        notes: list[str] = []
        order = nearest_first(plan.grid, left, _working(focus, plan.downsample))
        with closing(run_tiles(work, order, device, self.settings.batch_tiles, plan.grid.tile_px, notes.append)) as tiles:
            for count, tile in enumerate(tiles, total - len(left) + 1):
                while notes:
                    yield self._say(notes.pop(0))
                if tile.problem is not None or tile.output is None:
                    yield self._missing(tile)
                else:
                    self._keep(tile, tile.output)
                yield TileDone(tile.tile.index, tile.tile.keep, count, total, self.n_objects, time.perf_counter() - self.begun)
        if isinstance(self.model, Refining) and total:
            yield from self._refine(work, self.model)

    def _refine(self, work: Work, model: Refining) -> Generator[RunEvent, None, None]:
        """Labels from the whole map. It is done again when a run is resumed: the same map gives the same labels."""
        self.store.commit()
        plan = self.plan
        frames = [frame_of(work, plan.grid[i]) for i in sorted(plan.wanted)]
        whole = Whole(frames, plan.grid.bounds, work.bounds, self.store.arrays()["probability"][0], lambda box: read_box(work, box))
        done, total = 0, sum(frame.tile.keep.area for frame in frames)
        for said in model.refine(whole):
            if isinstance(said, str):
                yield self._say(said)
                continue
            self.store.amend(labels=said.labels, probability=said.probability, uncertainty=said.uncertainty)
            done += 0 if said.labels is None else said.labels[0].area
            yield Fitting(round(len(frames) * done / total), len(frames), "Refining the outline")
        self.store.commit()

    def _survey(self, work: Work) -> Survey:
        """All tiles that are wanted, in the order of the seed, whatever was done before: a resumed run fits the same."""
        order = np.random.default_rng(self.settings.seed).permutation(self.plan.wanted)
        frames = [frame_of(work, self.plan.grid[int(i)]) for i in order]
        return Survey(frames, lambda frame: read_tile(work, frame.tile), self.store.path)

    def _say(self, message: str) -> Notice:
        self.messages.append(message)
        return Notice(message)

    def _missing(self, done: Done) -> Notice:
        box = done.tile.keep.scaled(self.plan.downsample)
        self.failed.append({"tile": done.tile.index, "box": [box.x, box.y, box.width, box.height], "reason": str(done.problem)})
        return self._say(f"Tile {done.tile.index} could not be read and was left out: {done.problem}")

    def _keep(self, done: Done, output: TileOutput) -> None:
        """Make ids unique over the slide, whatever the order of tiles, drop what lies outside, and store the tile."""
        objects = output.objects
        labels: tuple[Box, NDArray[Any]] | None = output.labels
        if objects is not None:
            if len(objects) >= (stride := self._stride) and not output.own_ids:
                raise RunError(
                    f"Tile {done.tile.index} holds {len(objects)} objects, more than the {stride - 1} that fit: this is noise, "
                    "not tissue. Raise the threshold or the smallest area."
                )
            objects = objects[self._inside(objects)].reset_index(drop=True)
            ids = objects["id"].to_numpy(np.int64)
            first = 0 if output.own_ids else done.tile.index * stride
            if labels is not None:
                labels = (labels[0], _renumbered(labels[1], ids, first))
            objects = objects.assign(id=(ids + first).astype(np.uint32))
            self.n_objects += len(objects)
        patches = None if output.patches is None else self._patches(done, output.patches)
        kinds = {"labels": labels, "probability": output.probability, "image": output.image}
        self.store.add(done.tile.index, done.tile.keep, objects=objects, patches=patches, **kinds)

    def _patches(self, done: Done, patches: pd.DataFrame) -> pd.DataFrame:
        """Those inside, under ids that are unique over the slide; labels do not know them."""
        if len(patches) >= self._stride:
            raise RunError(f"Tile {done.tile.index} holds {len(patches)} patches, more than the {self._stride - 1} that fit. Place them farther apart.")
        kept = patches[self._inside(patches)].reset_index(drop=True)
        return kept.assign(id=(kept["id"].to_numpy(np.int64) + done.tile.index * self._stride).astype(np.uint32))

    @property
    def _stride(self) -> int:
        return id_stride(self.plan.grid.tile_px)

    def _inside(self, objects: pd.DataFrame) -> Any:
        mpp = self.slide.require_mpp()
        x = objects["centroid_x_um"].to_numpy(float) / mpp
        y = objects["centroid_y_um"].to_numpy(float) / mpp
        return self.plan.inside(x, y)

    def _close(self, status: Status) -> Result:
        before = self.store.record
        self.store.update(
            seconds=before.seconds + time.perf_counter() - self.begun,
            notices=[*before.notices, *self.messages],
            failed_tiles=self.failed,
        )
        return self.store.finish(status, self.model.finish)


def _renumbered(labels: NDArray[Any], ids: NDArray[np.int64], first: int) -> NDArray[np.uint32]:
    """The labels of the given objects (rising ids), moved up by ``first``; all others are background."""
    place = np.minimum(np.searchsorted(ids, labels), max(len(ids) - 1, 0))
    known = ids[place] == labels if len(ids) else np.zeros(labels.shape, bool)
    return np.where(known, labels.astype(np.int64) + first, 0).astype(np.uint32)


def _doubt(slide: Slide) -> str:
    """Why the slide's stain normalization is doubtful, or was refused; empty when there is none, or it is good."""
    quality: dict[str, str] = {} if slide.stain is None else slide.stain.describe().get("quality", {})
    return quality.get("reason", "")


def id_stride(tile_px: int) -> int:
    """Ids reserved a tile: local id + tile index × this. Ids then do not hang on the order in which tiles are done."""
    return max(64, tile_px * tile_px // 64)


def _working(focus: Focus | None, downsample: float) -> Focus | None:
    if focus is None:
        return None

    def scaled() -> tuple[float, float] | None:
        point = focus()
        return None if point is None else (point[0] / downsample, point[1] / downsample)

    return scaled


def _record(
    method: str, slide: Slide, plan: Plan, model: Model, settings: RunSettings, region: Any, device: str, precision: str
) -> RunRecord:
    return RunRecord(
        method=method,
        settings=settings.model_dump(mode="json"),
        weights=WeightsRecord(**model.weights) if model.weights else None,
        slide=SlideRecord(
            name=slide.name,
            path=slide.path,
            fingerprint=slide.fingerprint(),
            width=slide.width,
            height=slide.height,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            format=slide.format,
            stain=None if slide.stain is None else {**slide.stain.describe(), "key": slide.stain.key()},
        ),
        region=None if region is None else plan.box,
        outline=None if plan.outline is None else plan.outline.wkt,
        mpp=plan.mpp,
        frame=plan.grid.bounds,
        tile_px=plan.grid.tile_px,
        halo_px=plan.grid.halo_px,
        n_tiles=len(plan.wanted),
        device=device,
        precision=precision,
        seed=settings.seed,
        versions=_versions(),
        classes=[ClassRecord(**c) for c in model.classes],
        merged=model.merged,
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "numpy", "zarr", "openslide-python", "opencv-python-headless")}
