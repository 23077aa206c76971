"""Adding, renaming and removing the classes of a dataset, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from napari_histoseg.annotations.dataset import Patch, PatchClass, PatchDataset
from napari_histoseg.annotations.masks import BACKGROUND, Tally
from napari_histoseg.errors import DatasetError
from napari_histoseg.objects.colors import PALETTE

BACKGROUND_COLOR = "#a0a0a0"
LARGEST = 254


def find(dataset: PatchDataset, value: int) -> PatchClass:
    """The class of a value.

    Raises
    ------
    DatasetError
        No class has it.
    """
    for c in dataset.classes:
        if c.value == value:
            return c
    known = ", ".join(f"{c.value} ({c.name})" for c in dataset.classes) or "none yet"
    raise DatasetError(f"No class has the value {value}. The classes are: {known}.")


def made(dataset: PatchDataset, name: str, color: str | None, value: int | None) -> PatchClass:
    """A new class: the smallest free value from 1 and the next color, where none are given."""
    taken = {c.value for c in dataset.classes}
    if value is None:
        value = next((v for v in range(1, LARGEST + 1) if v not in taken), None)
        if value is None:
            raise DatasetError(f"The dataset has {LARGEST} classes already, and a mask holds no more. Remove one first.")
    elif value in taken:
        raise DatasetError(f"The value {value} belongs to the class '{find(dataset, value).name}'. Choose another one.")
    return _class(dataset, value, name, color or _free_color(dataset, value), None)


def renamed(dataset: PatchDataset, value: int, name: str) -> PatchDataset:
    """The class under another name, in labels too."""
    old = find(dataset, value)
    new = _class(dataset, value, name, old.color, old)
    patches = tuple(_relabeled(p, old.name, new.name) if old.name in p.labels else p for p in dataset.patches)
    return _replaced(dataset, old, new).model_copy(update={"patches": patches})


def _relabeled(patch: Patch, old: str, new: str) -> Patch:
    names = tuple(new if name == old else name for name in patch.labels)
    return patch.model_copy(update={"label": names[0] if len(names) == 1 else names})


def recolored(dataset: PatchDataset, value: int, color: str) -> PatchDataset:
    """The class in another color."""
    old = find(dataset, value)
    return _replaced(dataset, old, _class(dataset, value, old.name, color, old))


def removed(dataset: PatchDataset, value: int, tallies: Mapping[str, Tally]) -> PatchDataset:
    """The dataset without a class that nothing uses.

    Raises
    ------
    DatasetError
        Masks or labels use it; says how many.
    """
    old = find(dataset, value)
    # Unlisted, value 0 stays the background of masks; only labels need its name.
    masks = 0 if value == BACKGROUND else sum(value in tallies[p.mask].pixels for p in dataset.patches if p.mask is not None)
    labels = sum(old.name in p.labels for p in dataset.patches)
    if masks or labels:
        used = " and ".join(text for n, text in ((masks, _count(masks, "painted patch", "painted patches")), (labels, _count(labels, "labeled patch", "labeled patches"))) if n)
        raise DatasetError(f"The class '{old.name}' is used by {used}. Give those another class, or remove them first.")
    return dataset.model_copy(update={"classes": tuple(c for c in dataset.classes if c is not old)})


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _replaced(dataset: PatchDataset, old: PatchClass, new: PatchClass) -> PatchDataset:
    return dataset.model_copy(update={"classes": tuple(new if c is old else c for c in dataset.classes)})


def _class(dataset: PatchDataset, value: int, name: str, color: str, instead_of: PatchClass | None) -> PatchClass:
    name = name.strip()
    if not name:
        raise DatasetError("A class needs a name. Type one.")
    if any(c.name == name for c in dataset.classes if c is not instead_of):
        raise DatasetError(f"There is a class '{name}' already. Choose another name.")
    try:
        return PatchClass(value=value, name=name, color=color)
    except ValidationError:
        raise DatasetError(f"A class with the value {value} and the color {color!r} is impossible: values are 0 to {LARGEST}, colors '#rrggbb'.") from None


def _free_color(dataset: PatchDataset, value: int) -> str:
    if value == BACKGROUND:
        return BACKGROUND_COLOR
    taken = {c.color.lower() for c in dataset.classes}
    return next((color for color in PALETTE if color not in taken), PALETTE[value % len(PALETTE)])
