"""Coarse labels: bins of a probability, amounts that a person paints, and classes of patches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.annotations.dataset import UNLABELED, PatchClass, PatchDataset, Statistic, read_mask
from napari_histoseg.errors import DatasetError

Edges = tuple[float, ...]
MOST_BINS = 100
SEQUENCE = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""From little to much, told apart by people of any color vision: five of matplotlib's viridis."""


# -- bins ---------------------------------------------------------------------------------------------------------------


def even_edges(bins: int) -> Edges:
    """The edges of equally wide bins from 0 to 1.

    Raises
    ------
    DatasetError
        There are fewer than two bins, or more than a hundred.
    """
    if not 2 <= bins <= MOST_BINS:
        raise DatasetError(f"{bins} bins were asked for. Give 2 to {MOST_BINS}; 10 are usual.")
    return tuple(i / bins for i in range(bins + 1))


def checked_edges(edges: Sequence[float]) -> Edges:
    """The edges of bins, which rise from 0 to 1.

    Raises
    ------
    DatasetError
        They do not, or make fewer than two bins or more than a hundred.
    """
    given = tuple(float(e) for e in edges)
    rising = all(a < b for a, b in pairwise(given))
    if not given or not rising or given[0] != 0 or given[-1] != 1:
        shown = ", ".join(f"{e:g}" for e in given) or "none"
        raise DatasetError(f"The edges of the bins are {shown}. They rise from 0 to 1, for instance 0, 0.2, 0.5, 1.")
    even_edges(len(given) - 1)
    return given


def quantized(values: ArrayLike, edges: Sequence[float]) -> NDArray[np.uint8]:
    """The bin of each value.

    Parameters
    ----------
    values : (rows, columns) float
        0 to 1; NaN where nothing is known.
    edges : sequence of float
        From 0 to 1. A bin holds its lower edge and not its upper one; the last holds both.

    Returns
    -------
    (rows, columns) uint8
        Number of the bin, from 0; 255 where nothing is known.

    Raises
    ------
    DatasetError
        The edges do not rise from 0 to 1, or values lie outside.
    """
    given, inner = np.asarray(values, np.float64), np.array(checked_edges(edges)[1:-1])
    check_range(given, "The map")
    known = ~np.isnan(given)
    labels = np.full(given.shape, UNLABELED, np.uint8)
    # A mean that is an edge but for the last digits of floating point is that edge.
    labels[known] = np.searchsorted(inner, np.round(given[known], 9), side="right").astype(np.uint8)
    return labels


def check_range(values: NDArray[np.float64], name: str) -> None:
    """Raise a `DatasetError` when numbers are no probabilities; NaN may be among them, and not be all."""
    known = values[~np.isnan(values)]
    if not known.size:
        raise DatasetError(f"{name} holds no number: {'it is empty' if not values.size else 'all are NaN'}. Give probabilities between 0 and 1.")
    low, high = float(known.min()), float(known.max())
    if low < 0 or high > 1:
        percent = " Divide percentages by 100." if low >= 0 and 1 < high <= 100 else " Bring them to this range first."
        raise DatasetError(f"{name} holds values from {low:g} to {high:g}; probabilities lie between 0 and 1.{percent}")


def bins(edges: Sequence[float]) -> tuple[PatchClass, ...]:
    """The names and colors of bins, such as ``0–10 %``."""
    given = checked_edges(edges)
    colors = sequence(len(given) - 1)
    return tuple(
        PatchClass(value=i, name=f"{100 * a:.4g}–{100 * b:.4g} %", color=colors[i])
        for i, (a, b) in enumerate(pairwise(given))
    )


def sequence(count: int) -> list[str]:
    """So many colors ``#rrggbb`` from dark (little) to light (much)."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SEQUENCE], float)
    at = np.linspace(0, len(stops) - 1, count)
    mixed = np.stack([np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)], 1)
    return ["#{:02x}{:02x}{:02x}".format(*(round(v) for v in rgb)) for rgb in mixed]


# -- amounts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Amount:
    """How much of a class a person sees in a block.

    Attributes
    ----------
    value : int
        The coarse label.
    name, color : str
    eta, rho : float
        Mean and standard deviation of the share that blocks called so hold, to begin with.
    """

    value: int
    name: str
    color: str
    eta: float
    rho: float


AMOUNTS = tuple(
    Amount(value, name, color, eta, rho)
    for value, (name, eta, rho), color in zip(
        range(1, 6),
        (("none", 0.0, 0.02), ("a little", 0.15, 0.1), ("about half", 0.5, 0.15), ("mostly", 0.85, 0.1), ("all", 1.0, 0.02)),
        sequence(5),
        strict=True,
    )
)
"""What blocks are painted with by hand."""


def amount_classes() -> tuple[PatchClass, ...]:
    """The names and colors of the amounts."""
    return tuple(PatchClass(value=a.value, name=a.name, color=a.color) for a in AMOUNTS)


def amount_statistics(class_value: int) -> list[Statistic]:
    """The shares of one class that the amounts begin with; background has the rest."""
    return [Statistic.model_validate({"coarse": a.value, "class": class_value, "eta": a.eta, "rho": a.rho}) for a in AMOUNTS]


# -- names --------------------------------------------------------------------------------------------------------------


def used_labels(dataset: PatchDataset) -> set[int]:
    """The coarse labels that patches and blocks of a dataset have."""
    found = {p.coarse for p in dataset.patches if p.coarse is not None}
    for patch in dataset.patches:
        if patch.blocks is not None:
            found |= {int(v) for v in np.unique(read_mask(dataset.path(patch.blocks)))}
    return found - {UNLABELED}


def joined_names(dataset: PatchDataset, wanted: Iterable[PatchClass]) -> tuple[PatchClass, ...]:
    """The names of a dataset's coarse labels after others join them; those that are not in use make room.

    Raises
    ------
    DatasetError
        A label in use has another name.
    """
    new, used = {c.value: c for c in wanted}, used_labels(dataset)
    kept = [c for c in dataset.coarse_classes if c.value in used]
    other = [f"{c.value} is '{c.name}' and not '{new[c.value].name}'" for c in kept if c.value in new and new[c.value].name != c.name]
    if other:
        raise DatasetError(
            f"The coarse labels of {dataset.folder} have other meanings: {', '.join(other)}. Take the same bins or amounts as before, or another dataset."
        )
    return tuple(sorted({**{c.value: c for c in kept}, **new}.values(), key=lambda c: c.value))


def from_labels(dataset: PatchDataset) -> PatchDataset:
    """A dataset whose classification patches are blocks: the class of each is its coarse label.

    Patches with several classes stay as they are, since none of these is the label of all of the patch.

    Raises
    ------
    DatasetError
        No patch has one class, or coarse labels of other meaning are there.
    """
    classes = {c.name: c for c in dataset.classes}
    own = {i: classes[p.labels[0]] for i, p in enumerate(dataset.patches) if len(p.labels) == 1 and p.labels[0] in classes}
    if not own:
        raise DatasetError(f"No patch of {dataset.folder} has one class for all of it. Add classification patches, or choose another source of coarse labels.")
    patches = tuple(
        p.model_copy(update={"label": None, "coarse": own[i].value}) if i in own else p for i, p in enumerate(dataset.patches)
    )
    taken = {c.name: c for c in own.values()}
    return dataset.model_copy(update={"patches": patches, "coarse_classes": joined_names(dataset, taken.values())})


def counted(labels: NDArray[np.uint8]) -> dict[int, int]:
    """How many blocks have each coarse label; those without one do not count."""
    values, counts = np.unique(labels[labels != UNLABELED], return_counts=True)
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
