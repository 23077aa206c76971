"""From a map of classes to patches that can be trained on: squares where a class is certain, painted with the classes of the map."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.annotations import classes as class_list
from napari_histoseg.annotations import masks, placing
from napari_histoseg.annotations.dataset import FILE_NAME, UNLABELED, PatchClass, PatchDataset
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError, ResultError
from napari_histoseg.results.files import Step, no_step
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.annotations.entries import Annotation
    from napari_histoseg.results import Result
    from napari_histoseg.slide import Slide

PER_CLASS, SIDE_UM, UNSURE = 5, 128.0, 0.25
BEST = 0.5
"""Patches are spread over this share of a class's places, the best ones."""


@dataclass(frozen=True)
class Wanted:
    """What to take from a map.

    Attributes
    ----------
    classes : tuple of int
        Values of the classes; all others are left unlabelled.
    per_class : int
        Patches around places of each class; fewer where there is no room.
    side_um : float
        Side of a patch.
    unsure : float
        Share of each class's places, the least certain ones. Pixels that are no more certain than those are left unlabelled; how probable a class
        is at all depends on the method and on how many classes there are.
    """

    classes: tuple[int, ...]
    per_class: int = PER_CLASS
    side_um: float = SIDE_UM
    unsure: float = UNSURE


@dataclass(frozen=True, eq=False)
class Cut:
    """A square of a map: its box (level-0 pixels) and classes ``(h, w)``; 0 is not annotated."""

    box: Box
    values: NDArray[np.int64]


def labels_from_map(
    result: Result, slide: Slide, dataset: str | Path, *, classes: Collection[str] = (), per_class: int = PER_CLASS, side_um: float = SIDE_UM,
    unsure: float = UNSURE, mpp: float | None = None, step: Step = no_step,
) -> list[Annotation]:  # fmt: skip
    """Use classes of a map as training labels: add painted patches to a patch dataset.

    Parameters
    ----------
    result : Result
        A class map with patches, as tissue writes it.
    slide : Slide
        That the map is of, read from a file.
    dataset : path
        The dataset's folder; made when there is none. What is in it stays as it is.
    classes : names, optional
        Of the map's classes; all when not given.
    per_class, side_um, unsure
        See `Wanted`.
    mpp : float, optional
        µm per pixel of masks in a new dataset; the map's when not given.
    step : callable
        Called with (files written, files in all) before each; when it raises, nothing is added.

    Returns
    -------
    list of Annotation
        Of the patches.

    Raises
    ------
    DatasetError
        Nothing could be taken, or the dataset cannot be opened.
    ResultError
        The map has no patches.
    """
    return hand_over(result, slide, Path(dataset), Wanted(values_of(result, classes), per_class, side_um, unsure), mpp, step)


def hand_over(result: Result, slide: Slide, folder: Path, wanted: Wanted, mpp: float | None = None, step: Step = no_step) -> list[Annotation]:
    """The same for classes by their values; where nothing can be taken, no dataset is made."""
    if (folder / FILE_NAME).is_file():
        with AnnotationSession.open(folder) as session:
            return add(session, result, slide, cut(result, slide, session.dataset, wanted), step)
    mpp = mpp or slide.require_mpp() * result.downsample
    cuts = cut(result, slide, PatchDataset.model_validate({"mpp": mpp, "folder": folder}), wanted)
    with AnnotationSession.create(folder, mpp=mpp) as session:
        return add(session, result, slide, cuts, step)


def values_of(result: Result, names: Collection[str]) -> tuple[int, ...]:
    """Values of classes by their names, of all classes when none is named.

    Raises
    ------
    DatasetError
        The map has no such class.
    """
    known = {c.name: c.value for c in result.classes if c.value}
    if wrong := sorted(set(names) - set(known)):
        raise DatasetError(f"The map has no class {', '.join(map(repr, wrong))}. Its classes are: {', '.join(known)}.")
    return tuple(value for name, value in known.items() if not names or name in names)


def cut(result: Result, slide: Slide, dataset: PatchDataset, wanted: Wanted) -> list[Cut]:
    """Squares of a map for a dataset, apart from each other and from its painted patches on that slide.

    Raises
    ------
    DatasetError
        The slide is another one, or there is no place where a wanted class is certain.
    ResultError
        The map has no patches.
    """
    if slide.fingerprint() != result.record.slide.fingerprint:
        raise DatasetError(f"The map is of {result.record.slide.name}, not of {slide.name}. Open the slide of the map.")
    assert dataset.mpp is not None
    taken = [
        Box(*p.box) for p in dataset.patches if p.mask is not None and p.box is not None and p.slide_fingerprint == result.record.slide.fingerprint
    ]
    boxes = squares(result, slide.bounds, wanted, taken)
    least = least_certain(result, wanted)
    cuts = [Cut(box, _values(result, box, placing.shape_on(slide, box, dataset.mpp), least)) for box in boxes]
    cuts = [each for each in cuts if each.values.any()]
    if not cuts:
        raise DatasetError(
            f"There is no room for a patch of {wanted.side_um:g} µm where the classes are certain and nothing is painted yet. "
            "Choose more classes, or smaller patches."
        )
    placing.paintable(max(each.values.shape for each in cuts), dataset.mpp)
    return cuts


def squares(result: Result, bounds: Box, wanted: Wanted, taken: Sequence[Box] = ()) -> list[Box]:
    """Boxes (level-0 pixels) around places of each class, the rarest class first: certain ones, far from each other, not overlapping."""
    if not result.has_patches:
        raise ResultError(f"{result.path} is no map of classes with patches. Give a result of tissue.")
    if not wanted.classes:
        raise DatasetError("No class was chosen. Choose at least one.")
    inside = bounds if result.region is None else bounds.intersect(result.region)
    base = result.record.slide.mpp or 1.0
    side = max(1, round(wanted.side_um / base))
    size = np.minimum(side, (inside.width, inside.height))
    table = result.patches
    points = table[["centroid_x_um", "centroid_y_um"]].to_numpy() / base
    corners = np.clip(np.rint(points - size / 2), (inside.x, inside.y), np.array((inside.right, inside.bottom)) - size).astype(np.int64)
    value = table["class"].map({c.name: c.value for c in result.classes}).fillna(0).to_numpy(np.int64)
    score = _scores(table, points, value, side)
    waiting = {v: _best(np.flatnonzero(value == v), score, wanted.per_class) for v in wanted.classes}
    free = _free(corners, size, [np.array((b.x, b.y, b.right, b.bottom)) for b in taken])
    chosen: dict[int, list[int]] = {v: [] for v in wanted.classes}
    for _ in range(wanted.per_class):
        for v in sorted(wanted.classes, key=lambda v: int((value == v).sum())):
            rows = waiting[v][free[waiting[v]]]
            if not len(rows):
                continue
            apart = [np.abs(points[rows] - points[other]).max(1) for other in chosen[v]]
            row = int(rows[int(np.min(apart, axis=0).argmax())] if apart else rows[0])
            chosen[v].append(row)
            free &= _free(corners, size, [np.concatenate([corners[row], corners[row] + size])])
    width, height = (int(s) for s in size)
    return [Box(int(corners[row, 0]), int(corners[row, 1]), width, height) for rows in chosen.values() for row in rows]


def _scores(table: pd.DataFrame, points: NDArray[np.float64], value: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """How certain places are, times the share of places of the same class around them."""
    from scipy.spatial import cKDTree

    same = np.zeros(len(points))
    around = np.ones(len(points))
    if len(points):
        around = cKDTree(points).query_ball_point(points, side / 2, p=np.inf, return_length=True)
    for v in np.unique(value):
        mine = np.flatnonzero(value == v)
        same[mine] = cKDTree(points[mine]).query_ball_point(points[mine], side / 2, p=np.inf, return_length=True)
    return np.asarray(table["probability"].to_numpy(np.float64) * same / around)


def _best(rows: NDArray[np.intp], score: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The better share of places, the best first, several times as many as are needed."""
    order = rows[np.argsort(-score[rows], kind="stable")]
    return order[: max(round(BEST * len(order)), 4 * count)]


def _free(corners: NDArray[np.int64], size: NDArray[np.int64], taken: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Whether the boxes at corners share no pixel with those taken (left, top, right, bottom)."""
    free = np.ones(len(corners), bool)
    for box in taken:
        free &= ((corners >= box[2:]) | (corners + size <= box[:2])).any(1)
    return free


def least_certain(result: Result, wanted: Wanted) -> dict[int, float]:
    """The probability from which pixels of each wanted class are certain."""
    table = result.patches
    names = {c.value: c.name for c in result.classes}
    found = {value: table.loc[table["class"] == names[value], "probability"] for value in wanted.classes}
    return {value: float(each.quantile(wanted.unsure)) if len(each) else 0.0 for value, each in found.items()}


def _values(result: Result, box: Box, shape: tuple[int, int], least: dict[int, float]) -> NDArray[np.int64]:
    """The map under a box, at the resolution of a mask; 0 where no wanted class is certain."""
    labels, frame, scale = result.labels, result.frame, result.downsample
    rows = np.floor((box.y + (np.arange(shape[0]) + 0.5) * box.height / shape[0]) / scale).astype(np.int64) - frame.y
    columns = np.floor((box.x + (np.arange(shape[1]) + 0.5) * box.width / shape[1]) / scale).astype(np.int64) - frame.x
    computed = np.outer((rows >= 0) & (rows < labels.shape[0]), (columns >= 0) & (columns < labels.shape[1]))
    rows, columns = np.clip(rows, 0, labels.shape[0] - 1), np.clip(columns, 0, labels.shape[1] - 1)
    part = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    picked = np.ix_(rows - rows[0], columns - columns[0])
    values = np.asarray(labels[part])[picked].astype(np.int64)
    table = np.full(max(int(values.max()), *least) + 1, np.inf)
    table[list(least)] = list(least.values())
    # Without probabilities every pixel is certain.
    probability = np.inf if result.probability is None else np.asarray(result.probability[part])[picked]
    return np.where(computed & (probability >= table[values]) & np.isfinite(table[values]), values, 0)


def add(session: AnnotationSession, result: Result, slide: Slide, cuts: Sequence[Cut], step: Step = no_step) -> list[Annotation]:
    """Add squares of a map to an open dataset, in one step to undo. Classes are matched by name; new ones get the map's color."""
    used = np.unique(np.concatenate([each.values.ravel() for each in cuts])).tolist()
    dataset, new = session.dataset, list[PatchClass]()
    table = np.full(max(used) + 1, UNLABELED, np.uint8)
    for record in (c for c in result.classes if c.value in used):
        mine = next((c for c in dataset.classes if c.name == record.name), None)
        if mine is None:
            free = 1 <= record.value <= class_list.LARGEST and all(c.value != record.value for c in dataset.classes)
            mine = class_list.made(dataset, record.name, record.color, record.value if free else None)
            dataset = dataset.model_copy(update={"classes": (*dataset.classes, mine)})
            new.append(mine)
        table[record.value] = mine.value
    table[0] = UNLABELED
    items = []
    for each in cuts:
        patch, shape = session.patch_for(slide, each.box)
        mask = table[each.values]
        items.append((patch, mask if mask.shape == shape else masks.blank(shape)))
    count = "1 patch" if len(items) == 1 else f"{len(items)} patches"
    return session.bring_in(f"{count} from a map of {result.record.slide.name}", items, classes=new, step=step)
