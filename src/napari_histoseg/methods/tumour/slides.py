"""Annotated slides to learn from: a patch dataset whose masks cover whole slides, or a folder of slides with outlines beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import burned
from napari_histoseg.annotations.dataset import (
    FILE_NAME,
    UNLABELED,
    Patch,
    PatchDataset,
    data_sha256,
    read_dataset,
    read_mask,
)
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.methods.tumour import outlines
from napari_histoseg.methods.tumour.sheets import Outlined
from napari_histoseg.results.record import FILE_NAME as RESULT
from napari_histoseg.slide import Box, open_slide

NO_SLIDES = (".csv", ".txt", ".md", ".safetensors", ".pt", ".partial", ".parts")
"""Endings of what may lie beside slides, such as what a training leaves there."""
MOST_PX = 8192
"""Most columns and rows that outlines are drawn on."""

Fractions = NDArray[np.float64]


@dataclass
class Lessons:
    """What there is to learn from.

    Attributes
    ----------
    slides : list of Outlined
    notices : list of str
        What a person should know.
    provenance : dict
        Name, data and hash for the model card.
    """

    slides: list[Outlined]
    notices: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def read_lessons(source: Path | PatchDataset, tumour_class: str = "", skip_unreadable: bool = False) -> Lessons:
    """The annotated slides of a patch dataset, or of a folder.

    In a dataset a patch is a slide or a part of one: with a mask (0 no tumour, 255 not annotated), or with a class for all of it. In
    a folder every slide has a file of the same name beside it: QuPath's GeoJSON, or a mask (``name-mask.png``).

    Raises
    ------
    DatasetError
        Names every problem at once: slides without an outline, files that cannot be read, no class that is the tumour.
    """
    if isinstance(source, Path) and not (source / FILE_NAME).is_file():
        return _of_folder(source, tumour_class, skip_unreadable)
    dataset = read_dataset(source)
    value = outlines.tumour_value(dataset, tumour_class)
    lessons, problems = Lessons([]), list[str]()
    for patch in dataset.patches:
        if patch.split == "test":
            continue
        if patch.mask is None and not patch.labels:
            problems.append(f"The slide {patch.source} has no outline: nothing can be learned from it. Outline its tumour, or leave it out.")
            continue
        try:
            lessons.slides.append(_of_patch(dataset, patch, value))
        except HistosegError as error:
            if not skip_unreadable:
                problems.append(str(error))
            else:
                lessons.notices.append(f"Left out: {error}")
    lessons.provenance = {"name": f"tumour ({dataset.folder.name})", "data_sha256": data_sha256(dataset)}
    if dataset.look is not None:
        lessons.provenance["stain"] = str(dataset.look)
    return _checked(lessons, problems, str(dataset.folder))


def _checked(lessons: Lessons, problems: list[str], where: str) -> Lessons:
    if problems:
        raise DatasetError(f"{where} cannot be trained on: " + " ".join(problems))
    if not lessons.slides:
        raise DatasetError(f"{where} has no annotated slide to learn from. Outline the tumour of at least one slide.")
    return lessons


def _of_patch(dataset: PatchDataset, patch: Patch, value: int) -> Outlined:
    """A patch as a slide, after a look at its files."""
    with closing(dataset.open(patch)) as slide:
        if slide.mpp is None:
            raise DatasetError(f'The pixel size of {patch.source} is unknown. Write "mpp" (µm/px) into {FILE_NAME}, or "slide_mpp" into its patch.')
        part = None if patch.box is None else Box(*patch.box)
        covered = part or slide.bounds
    named = {c.name: c.value for c in dataset.classes}
    if patch.mask is None:
        constant = int(any(named[label] == value for label in patch.labels))
        truth: Truth = _Constant(constant)
    else:
        mask = read_mask(dataset.path(patch.mask))
        outlines.refuse_other_shape(mask, covered, patch.mask, "patch", f" of {patch.source}")
        truth = _Raster(np.where(mask == UNLABELED, UNLABELED, mask == value).astype(np.uint8))
    labels = {k: str(v) for k, v in (patch.model_extra or {}).items() if isinstance(v, (str, int, float))}
    return Outlined(_title(patch), lambda: dataset.open(patch), part, truth, labels, patch.group or patch.source, patch.split)


def _title(patch: Patch) -> str:
    box = "" if patch.box is None or patch.box[:2] == (0, 0) else f" at {patch.box[0]}, {patch.box[1]}"
    return f"{patch.source}{box}"


Truth = Callable[[Fractions, Fractions], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Constant:
    """One class everywhere."""

    value: int

    def __call__(self, rows: Fractions, columns: Fractions) -> NDArray[np.uint8]:
        return np.full((len(rows), len(columns)), self.value, np.uint8)


@dataclass(frozen=True, eq=False)
class _Raster:
    """A mask over the whole part."""

    mask: NDArray[np.uint8]

    def __call__(self, rows: Fractions, columns: Fractions) -> NDArray[np.uint8]:
        height, width = self.mask.shape
        return np.asarray(self.mask[(rows * height).astype(int)[:, None], (columns * width).astype(int)[None, :]])


# -- a folder of slides -----------------------------------------------------------------------------------------------


def _of_folder(folder: Path, tumour_class: str, skip_unreadable: bool) -> Lessons:
    """Slides with an outline of the same name beside them; each is a group of its own."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist. Give a patch dataset, or a folder of slides with their outlines (.geojson, or -mask.png) beside them.")
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    beside = {p: outlines.outline_beside(p, files) for p in files if _may_be_slide(p)}
    lessons, problems = Lessons([]), list[str]()
    for file, outline in beside.items():
        try:
            lessons.slides.append(_outlined(file, outline, tumour_class, lessons.notices))
        except HistosegError as error:
            if not skip_unreadable:
                problems.append(str(error))
            else:
                lessons.notices.append(f"Left out: {error}")
    lessons.provenance = {"name": f"tumour ({folder.name})", "data_sha256": _sha256(files, beside)}
    return _checked(lessons, problems, str(folder))


def _sha256(files: Sequence[Path], beside: Mapping[Path, Path | None]) -> str:
    """Hash of the outlines, and of the slides' names and sizes."""
    digest, outlined = hashlib.sha256(), set(beside.values())
    for file in files:
        if file in outlined:
            digest.update(file.name.encode() + file.read_bytes())
        elif file in beside:
            digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def _may_be_slide(path: Path) -> bool:
    return path.suffix.lower() not in NO_SLIDES and not outlines.is_outline(path) and not (path / RESULT).is_file()


def _outlined(file: Path, outline: Path | None, tumour_class: str, notices: list[str]) -> Outlined:
    stem = outlines.stem_of(file)
    if outline is None:
        raise DatasetError(f"The slide {file.name} has no outline: nothing can be learned from it. Put {stem}.geojson or {stem}-mask.png beside it, or leave it out.")
    with closing(open_slide(file)) as slide:
        if slide.mpp is None:
            raise DatasetError(f'The pixel size of {file.name} is unknown. List the slides in a patch dataset, and write "mpp" (µm/px) into its {FILE_NAME}.')
        bounds = slide.bounds
    if outlines.is_drawn(outline):
        shape = bounds.scaled(min(1.0, MOST_PX / max(bounds.shape))).shape
        mask = burned(outlines.tumour_area(outline, bounds, tumour_class, notices), bounds, shape).astype(np.uint8)
    else:
        mask = outlines.mask_of(outline, bounds)
    return Outlined(file.name, lambda: open_slide(file), None, _Raster(mask), {}, stem)
