"""Which class's patch would help most: an estimate from learning curves, class by class."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoseg.errors import DatasetError, WeightsError
from napari_histoseg.methods.joint.data import UNLABELED
from napari_histoseg.nn.weights import ModelCard, read_card

if TYPE_CHECKING:
    from napari_histoseg.annotations.dataset import Patch, PatchDataset

Shown = list[tuple[str, set[str]]]
"""Keys of patches, each with the names of the classes that it shows."""
USUAL_EXPONENT = 0.5
"""Of the power law where a class has no history: twice the patches, 0.7 times the error."""
MOST_EXPONENT = 2.0
"""A steeper fall between few trainings is chance."""
LEAST_POINTS = 3
"""Different numbers of patches that a class's own exponent is fitted to."""
LEAST_ERROR = 1e-3
UNKNOWN_F1 = 0.5
"""Of a class that was not measured, where none was."""
SMALLEST_SHOWN = 0.005
"""A gain below it would be shown as 0."""
BACKGROUND = "background"
SCORE = "f1_"
"""Held-out F1 of a class in a model card's scores: this and its name."""


@dataclass(frozen=True, order=True)
class Point:
    """What an earlier training had and reached: patches of a class, and its F1 on held-out patches."""

    name: str
    patches: int
    f1: float


@dataclass(frozen=True)
class Advice:
    """What one more patch of a class is expected to bring.

    Attributes
    ----------
    name : str
        The class.
    patches : int
        That it has.
    f1 : float or None
        On held-out patches; None where it was not measured.
    gain : float
        Expected rise of the macro F1, 0 or more.
    exponent : float
        Of the power law.
    fitted : bool
        Whether the exponent is the class's own; else the usual one was taken.
    sentence : str
        For a person.
    """

    name: str
    patches: int
    f1: float | None
    gain: float
    exponent: float
    fitted: bool
    sentence: str = ""


def advise_on(dataset: PatchDataset, weights: Path, earlier: Iterable[Path] = ()) -> list[Advice]:
    """Rank the classes of a dataset for weights that were trained on it; see :func:`advise`.

    Parameters
    ----------
    dataset : PatchDataset
        As it is today.
    weights : Path
        Their model card has the F1 of each class.
    earlier : iterable of Path
        Weights for the history; see :func:`history_of`.

    Returns
    -------
    list of Advice
        Best first; empty where the card has no F1 of single classes.

    Raises
    ------
    WeightsError, DatasetError
        If the weights are none of joint, or a mask cannot be read.
    """
    card = read_card(weights, "joint")
    scores = _f1_of(card)
    return advise(counts_of(dataset), scores, history_of(earlier, dataset), held_out=_held_out(card)) if scores else []


def advise(counts: Mapping[str, int], f1: Mapping[str, float], history: Iterable[Point] = (), held_out: bool = True) -> list[Advice]:
    """Rank the classes by what one more patch is expected to add to the macro F1.

    The error of a class, 1 - F1, is taken to fall with its patches as a power law, error ∝ n^-b. From its n patches and its F1
    of today follows

        gain = (1 - F1) · (1 - (n / (n + 1))^b) / K

    with K the number of classes that the macro F1 is a mean of. A class without a patch is reckoned as if it had half of one.
    The exponent b is the slope of log error over log n (least squares) through a class's earlier trainings and today's, held
    between 0 and 2, where there are at least three different n; else it is 0.5. A class whose F1 was not measured is reckoned
    with the mean of the others.

    This is an estimate, and a rough one: a patch is taken to be like those before it, to change no other class, and a held-out
    F1 from a few patches is uncertain by itself, often by more than the gain. The order says more than the numbers.

    Parameters
    ----------
    counts : mapping of str to int
        Patches of each class, as :func:`counts_of` counts them.
    f1 : mapping of str to float
        F1 of the classes on held-out patches, 0–1; NaN or missing where it was not measured. Names that have no count (as a
        background that nobody named) only take part in K.
    history : iterable of Point
        Of earlier trainings, as :func:`history_of` reads them.
    held_out : bool
        Whether the F1 is of held-out patches; the sentences say where it is of the training patches, which makes it too good.

    Returns
    -------
    list of Advice
        Best first; of equal ones that with fewer patches first, then by name.
    """
    known = {name: float(np.clip(value, 0, 1)) for name, value in f1.items() if math.isfinite(value)}
    stand_in = float(np.mean([*known.values()])) if known else UNKNOWN_F1
    classes = len(counts.keys() | known.keys())
    earlier = list(history)
    found = []
    for name, patches in counts.items():
        today = [Point(name, patches, known[name])] if name in known else []
        exponent = fitted_exponent([*(p for p in earlier if p.name == name), *today])
        b = USUAL_EXPONENT if exponent is None else exponent
        n = max(float(patches), 0.5)
        gain = (1 - known.get(name, stand_in)) * (1 - (n / (n + 1)) ** b) / classes
        found.append(Advice(name, patches, known.get(name), gain, b, exponent is not None))
    found.sort(key=lambda a: (-a.gain, a.patches, a.name))
    return [replace(a, sentence=_sentence(a, i == 0, held_out)) for i, a in enumerate(found)]


def fitted_exponent(points: Sequence[Point]) -> float | None:
    """Exponent b ≥ 0 of error ∝ n^-b through the trainings of one class; None where they have fewer than three different n."""
    usable = [p for p in points if p.patches > 0 and math.isfinite(p.f1)]
    if len({p.patches for p in usable}) < LEAST_POINTS:
        return None
    n = np.log([float(p.patches) for p in usable])
    error = np.log([min(max(1 - p.f1, LEAST_ERROR), 1.0) for p in usable])
    centered = n - n.mean()
    slope = float((centered * error).sum() / (centered**2).sum())
    return min(max(-slope, 0.0), MOST_EXPONENT)


def _sentence(advice: Advice, first: bool, held_out: bool) -> str:
    has = {0: "no patch", 1: "1 patch"}.get(advice.patches, f"{advice.patches} patches")
    where = "" if held_out else " on the training patches"
    measured = f"it has {has}, and its F1 was not measured" if advice.f1 is None else f"it has {has} and F1 {advice.f1:.2f}{where}"
    gain = f"+{advice.gain:.2f}" if advice.gain >= SMALLEST_SHOWN else "less than +0.01"
    return f"A patch of '{advice.name}' would help {'most' if first else 'less'}: {measured}; expected {gain} macro F1 (estimate)."


def counts_of(dataset: PatchDataset, keys: Collection[str] | None = None) -> dict[str, int]:
    """Patches of every class: masks that hold it, and labels. Patches kept for testing do not count.

    Parameters
    ----------
    dataset : PatchDataset
        Background that masks hold and no class names is counted as ``background``.
    keys : collection of str, optional
        Count only these patches, named as in a model card.

    Raises
    ------
    DatasetError
        If a mask cannot be read.
    """
    return _summed(dataset, _shown(dataset), keys)


def _summed(dataset: PatchDataset, shown: Shown, keys: Collection[str] | None = None) -> dict[str, int]:
    names = [c.name for c in dataset.classes]
    chosen = [values for key, values in shown if keys is None or key in keys]
    if all(c.value for c in dataset.classes) and any(BACKGROUND in values for _, values in shown):
        names = [BACKGROUND, *(name for name in names if name != BACKGROUND)]
    return {name: sum(name in values for values in chosen) for name in names}


def _shown(dataset: PatchDataset) -> Shown:
    """Key of each patch, and the names of the classes that it shows."""
    names = {0: BACKGROUND, **{c.value: c.name for c in dataset.classes}}
    shown: Shown = []
    for patch in dataset.patches:
        if patch.split != "test" and (patch.mask is not None or patch.label is not None):
            found = set(patch.labels) if patch.mask is None else {names[v] for v in _values(dataset.path(patch.mask)) if v in names}
            shown.append((patch_key(patch), found))
    return shown


def _values(mask: Path) -> set[int]:
    """Class values in a mask's file."""
    import skimage.io

    try:
        return {int(v) for v in np.unique(skimage.io.imread(mask))} - {UNLABELED}
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"The mask {mask} cannot be read ({error}). Masks are 8, 16 or 32 bit PNG or TIFF.") from error


def patch_key(patch: Patch) -> str:
    """What names a patch in a joint model card: its id, else its source and box."""
    box = "" if patch.box is None else " " + ",".join(map(str, patch.box))
    return patch.id or f"{patch.source}{box}"


def history_of(paths: Iterable[Path], dataset: PatchDataset) -> list[Point]:
    """What earlier trainings on a dataset had and reached, from the model cards of their weights.

    A card names its patches, and the dataset says what each shows; a patch that is gone by now does not count, and one that was
    painted over counts as it is today. The held-out patches count too, as they do in :func:`counts_of`.

    Parameters
    ----------
    paths : iterable of Path
        Files that are no joint weights, or of a training that held nothing out or knows no F1 of single classes, are passed over.
    dataset : PatchDataset

    Returns
    -------
    list of Point
        Sorted by class, then by patches; without repetitions.

    Raises
    ------
    DatasetError
        If a mask of the dataset cannot be read.
    """
    cards = [card for card in map(_card, paths) if card is not None]
    shown = _shown(dataset) if cards else []
    points: set[Point] = set()
    for card in cards:
        keys = {str(key) for entry in card.data for part in ("train_patches", "held_out_patches") for key in entry.get(part, [])}
        scores = _f1_of(card)
        points |= {Point(name, n, scores[name]) for name, n in _summed(dataset, shown, keys).items() if n and name in scores}
    return sorted(points)


def _card(path: Path) -> ModelCard | None:
    """The card of joint weights that held patches out; None for every other file."""
    try:
        card = read_card(path, "joint")
    except WeightsError:
        return None
    return card if _held_out(card) else None


def _held_out(card: ModelCard) -> bool:
    """Whether the scores are of patches that were not trained on."""
    return any(entry.get("held_out_patches") for entry in card.data)


def _f1_of(card: ModelCard) -> dict[str, float]:
    """Held-out F1 by class, as far as the card has it."""
    scores = card.scores.get("validation", {})
    found = {key.removeprefix(SCORE): value for key, value in scores.items() if key.startswith(SCORE)}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float)) and math.isfinite(value)}
