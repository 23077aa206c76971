"""Patches as a session shows them, and what they add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from napari_histoseg.annotations.dataset import Patch, PatchClass, PatchDataset
from napari_histoseg.annotations.masks import BACKGROUND, Tally
from napari_histoseg.slide.geometry import Box

Kind = Literal["mask", "label", "coarse", "blocks", "unlabeled"]
UNNAMED_BACKGROUND = PatchClass(value=BACKGROUND, name="background", color="#a0a0a0")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One patch.

    Attributes
    ----------
    id : str
        ``p0001`` …
    kind : {"mask", "label", "coarse", "blocks", "unlabeled"}
        What a person said about it.
    patch : Patch
        As the dataset lists it.
    box : Box or None
        In level-0 pixels of its slide; None for an image of its own.
    slide_fingerprint : str or None
        Its slide's.
    values : tuple of int
        Class values of its label: none, one, or several that are all in it.
    shape : (h, w) or None
        Of its mask.
    mpp : float
        µm per pixel of its mask; the dataset's for patches without one.
    notice : str or None
        What a person should know about the patch just added.
    """

    id: str
    kind: Kind
    patch: Patch
    box: Box | None
    slide_fingerprint: str | None
    values: tuple[int, ...] = ()
    shape: tuple[int, int] | None = None
    mpp: float = 1.0
    notice: str | None = field(default=None, compare=False)

    @property
    def value(self) -> int | None:
        """Class value of its label, the first of several; None without one."""
        return self.values[0] if self.values else None


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How much of a class was annotated; ``painted_um2`` is in µm²."""

    value: int
    name: str
    color: str
    mask_patches: int
    label_patches: int
    painted_px: int
    painted_um2: float


def annotation(dataset: PatchDataset, patch: Patch, tallies: Mapping[str, Tally]) -> Annotation:
    """A listed patch with what follows from its dataset and mask."""
    kind: Kind = "mask" if patch.mask else "blocks" if patch.blocks else "label" if patch.label else "unlabeled" if patch.coarse is None else "coarse"
    assert patch.id is not None
    return Annotation(
        patch.id,
        kind,
        patch,
        None if patch.box is None else Box(*patch.box),
        patch.slide_fingerprint,
        values=tuple(c.value for name in patch.labels for c in dataset.classes if c.name == name),
        shape=None if patch.mask is None else tallies[patch.mask].shape,
        mpp=mask_mpp(dataset, patch, tallies),
    )


def mask_mpp(dataset: PatchDataset, patch: Patch, tallies: Mapping[str, Tally]) -> float:
    """µm per pixel of a patch's mask."""
    assert dataset.mpp is not None
    if patch.box is None or patch.mask is None or patch.slide_mpp is None:
        return dataset.mpp
    return patch.slide_mpp * patch.box[2] / tallies[patch.mask].shape[1]


def class_counts(dataset: PatchDataset, tallies: Mapping[str, Tally]) -> list[ClassCount]:
    """One row a class, in order; unnamed background comes first when masks hold it."""
    classes: Sequence[PatchClass] = dataset.classes
    masks = [(tallies[p.mask].pixels, mask_mpp(dataset, p, tallies) ** 2) for p in dataset.patches if p.mask is not None]
    if not any(c.value == BACKGROUND for c in classes) and any(BACKGROUND in pixels for pixels, _ in masks):
        classes = (UNNAMED_BACKGROUND, *classes)
    return [_count(c, masks, sum(c.name in p.labels for p in dataset.patches)) for c in classes]


def _count(c: PatchClass, masks: list[tuple[dict[int, int], float]], labels: int) -> ClassCount:
    painted = [(pixels[c.value], um2) for pixels, um2 in masks if c.value in pixels]
    area = sum(n * um2 for n, um2 in painted)
    return ClassCount(c.value, c.name, c.color, len(painted), labels, sum(n for n, _ in painted), area)
