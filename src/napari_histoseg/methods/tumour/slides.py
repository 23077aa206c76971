"""Annotated slides to learn from: a patch dataset whose masks cover whole slides, or a folder of slides with outlines beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.dataset import (
    FILE_NAME,
    Patch,
    PatchDataset,
    data_sha256,
    read_dataset,
    read_mask,
)
from napari_histoseg.annotations.geojson import rasterize, read_geojson
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.methods.tumour.sheets import Outlined
from napari_histoseg.results.record import FILE_NAME as RESULT
from napari_histoseg.slide import Box, open_slide

TUMOUR_NAMES = ("tumour", "tumor", "carcinoma", "cancer", "invasive")
"""A class whose name holds one of these is the tumour."""
OUTLINES = (".geojson", ".geojson.gz", ".json", ".png", ".tif", ".tiff")
MASK_ENDINGS = ("-mask", "_mask", "-labels", "_labels")
NO_SLIDES = (".csv", ".txt", ".md", ".json", ".safetensors", ".pt", ".partial", ".parts")
"""Endings of what may lie beside slides, such as what a training leaves there."""
UNLABELED = 255
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
    value = _tumour_value(dataset, tumour_class)
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


def _tumour_value(dataset: PatchDataset, name: str) -> int:
    """The class value that is the tumour.

    Raises
    ------
    DatasetError
    """
    listed = [c for c in dataset.classes if c.value]
    known = ", ".join(c.name for c in listed)
    if name:
        found = [c for c in listed if c.name == name]
        if not found:
            raise DatasetError(f"{dataset.folder} has no class '{name}' to learn as the tumour. Its classes are: {known}.")
    else:
        found = listed if len(listed) == 1 else [c for c in listed if any(word in c.name.lower() for word in TUMOUR_NAMES)]
    if len(found) == 1:
        return found[0].value
    if not listed:
        return 1
    raise DatasetError(f"{dataset.folder} has {len(listed)} classes ({known}), and which of them is the tumour is not clear. Name it in tumour_class.")


def _of_patch(dataset: PatchDataset, patch: Patch, value: int) -> Outlined:
    """A patch as a slide, after a look at its files."""
    with closing(dataset.open(patch)) as slide:
        if slide.mpp is None:
            raise DatasetError(f'The pixel size of {patch.source} is unknown. Write "mpp" (µm/px) into {FILE_NAME}, or "slide_mpp" into its patch.')
        part = None if patch.box is None else Box(*patch.box)
        shape = (part or slide.bounds).shape
    named = {c.name: c.value for c in dataset.classes}
    if patch.mask is None:
        constant = int(any(named[label] == value for label in patch.labels))
        truth: Truth = _Constant(constant)
    else:
        mask = read_mask(dataset.path(patch.mask))
        rows, columns = mask.shape
        if abs(rows - columns * shape[0] / shape[1]) > 1.5 * max(1.0, columns / shape[1]):
            raise DatasetError(
                f"The mask {patch.mask} has {columns} × {rows} pixels and its patch of {patch.source} {shape[1]} × {shape[0]}: their shapes differ. A mask covers exactly its patch."
            )
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
    outlines = {p for p in files if _is_outline(p, files)}
    lessons, problems = Lessons([]), list[str]()
    for file in files:
        if file in outlines or not _may_be_slide(file):
            continue
        try:
            lessons.slides.append(_beside(file, outlines, tumour_class, lessons.notices))
        except HistosegError as error:
            if not skip_unreadable:
                problems.append(str(error))
            else:
                lessons.notices.append(f"Left out: {error}")
    lessons.provenance = {"name": f"tumour ({folder.name})", "data_sha256": _sha256(files, outlines)}
    return _checked(lessons, problems, str(folder))


def _sha256(files: Sequence[Path], outlines: set[Path]) -> str:
    """Hash of the outlines, and of the slides' names and sizes."""
    digest = hashlib.sha256()
    for file in files:
        if file in outlines:
            digest.update(file.name.encode() + file.read_bytes())
        elif _may_be_slide(file):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def _may_be_slide(path: Path) -> bool:
    return path.suffix.lower() not in NO_SLIDES and not (path / RESULT).is_file()


def _stem(path: Path) -> str:
    """The name without its endings, and without that of a mask."""
    name = path.name
    for ending in (".geojson.gz", ".ome.tiff", ".ome.tif"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def _is_outline(path: Path, files: Sequence[Path]) -> bool:
    """Whether a file belongs to another one: GeoJSON, or a mask by its name."""
    name = path.name.lower()
    if not name.endswith(OUTLINES):
        return False
    return ".geojson" in name or path.stem.lower().endswith(MASK_ENDINGS)


def _beside(file: Path, outlines: set[Path], tumour_class: str, notices: list[str]) -> Outlined:
    stem = _stem(file)
    names = {stem, file.name, *(stem + ending for ending in MASK_ENDINGS)}
    found = [p for p in sorted(outlines) if _stem(p) in names or _stem(p).lower() in {n.lower() for n in names}]
    if not found:
        raise DatasetError(f"The slide {file.name} has no outline: nothing can be learned from it. Put {stem}.geojson or {stem}-mask.png beside it, or leave it out.")
    with closing(open_slide(file)) as slide:
        if slide.mpp is None:
            raise DatasetError(f'The pixel size of {file.name} is unknown. List the slides in a patch dataset, and write "mpp" (µm/px) into its {FILE_NAME}.')
        bounds = slide.bounds
    outline = found[0]
    truth = _drawn(outline, bounds, tumour_class, notices) if "geojson" in outline.name.lower() else _Raster(_binary(outline, bounds))
    return Outlined(file.name, lambda: open_slide(file), None, truth, {}, stem)


def _binary(path: Path, bounds: Box) -> NDArray[np.uint8]:
    mask = read_mask(path)
    rows, columns = mask.shape
    if abs(rows - columns * bounds.height / bounds.width) > 1.5 * max(1.0, columns / bounds.width):
        raise DatasetError(f"The mask {path.name} has {columns} × {rows} pixels and its slide {bounds.width} × {bounds.height}: their shapes differ. A mask covers exactly its slide.")
    if mask.max(initial=0) == UNLABELED and set(np.unique(mask)) == {0, UNLABELED}:
        # Drawing programs write black and white.
        return (mask > 0).astype(np.uint8)
    return np.where(mask == UNLABELED, UNLABELED, mask > 0).astype(np.uint8)


def _drawn(path: Path, bounds: Box, tumour_class: str, notices: list[str]) -> _Raster:
    """Areas of a GeoJSON as a mask; areas of other classes than the tumour are no tumour."""
    problems = list[str]()
    regions = read_geojson(path, problems)
    notices += [f"{path.name}: {problem}" for problem in problems]
    if not regions:
        notices.append(f"{path.name} has no area: nothing of its slide is learned as tumour.")
    named = {r.class_name for r in regions if r.class_name}
    wanted = {n for n in named if (n == tumour_class if tumour_class else any(word in n.lower() for word in TUMOUR_NAMES))}
    if tumour_class and tumour_class not in named:
        raise DatasetError(f"{path.name} has no area of the class '{tumour_class}'. Its classes are: {', '.join(sorted(named)) or 'none'}.")
    if len(named) > 1 and not wanted:
        raise DatasetError(f"{path.name} has areas of {len(named)} classes ({', '.join(sorted(named))}), and which of them is the tumour is not clear. Name it in tumour_class.")
    chosen = [replace(r, class_name=None) for r in regions if not wanted or r.class_name in wanted]
    downsample = max(1.0, max(bounds.width, bounds.height) / MOST_PX)
    return _Raster((rasterize(chosen, bounds.scaled(1 / downsample), downsample) > 0).astype(np.uint8))
