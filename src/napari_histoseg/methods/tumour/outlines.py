"""Outlines of tumour in files: what lies beside a slide, GeoJSON and masks, and which class is the tumour."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import Area, clipped
from napari_histoseg.annotations.dataset import UNLABELED, PatchDataset, read_mask
from napari_histoseg.annotations.geojson import read_geojson
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide import Box

TUMOUR_NAMES = ("tumour", "tumor", "carcinoma", "cancer", "invasive")
DRAWN_FILES = (".geojson", ".geojson.gz", ".json")
MASK_FILES = (".png", ".tif", ".tiff")
MASK_ENDINGS = ("-mask", "_mask", "-labels", "_labels")


def is_tumour(name: str) -> bool:
    """Whether a class is the tumour by its name."""
    return any(word in name.lower() for word in TUMOUR_NAMES)


def tumour_value(dataset: PatchDataset, name: str = "", where: str = "in tumour_class") -> int:
    """The value of the class that is the tumour: the named one, the only one, or the one that its name tells.

    Raises
    ------
    DatasetError
        That is not clear; ``where`` says where the class can be named.
    """
    listed = [c for c in dataset.classes if c.value]
    known = ", ".join(c.name for c in listed) or "none"
    found = [c for c in listed if (c.name == name if name else len(listed) == 1 or is_tumour(c.name))]
    if name and not found:
        raise DatasetError(f"{dataset.folder} has no class '{name}' to learn as the tumour. Its classes are: {known}.")
    if listed and len(found) != 1:
        raise DatasetError(f"{dataset.folder} has {len(listed)} classes ({known}), and which of them is the tumour is not clear. Name it {where}.")
    return found[0].value if found else 1


def is_drawn(path: Path) -> bool:
    """Whether a file is GeoJSON by its name, and no mask."""
    return path.name.lower().endswith(DRAWN_FILES)


def tumour_area(path: Path, bounds: Box, tumour_class: str = "", notices: list[str] | None = None, where: str = "in tumour_class") -> Area:
    """The tumour in a GeoJSON file, in level-0 pixels; all areas where only one class, or none, is named.

    What a person should know is added to the notices.

    Raises
    ------
    DatasetError
        The file cannot be read, all of it lies outside of the slide, or which areas are tumour is not clear.
    """
    problems = list[str]()
    regions = read_geojson(path, problems)
    named = sorted({r.class_name for r in regions if r.class_name})
    listed = ", ".join(named) or "none"
    wanted = {n for n in named if (n == tumour_class if tumour_class else is_tumour(n))}
    if tumour_class and not wanted:
        raise DatasetError(f"{path.name} has no area of the class '{tumour_class}'. Its classes are: {listed}.")
    if len(named) > 1 and not wanted:
        raise DatasetError(f"{path.name} has areas of {len(named)} classes ({listed}), and which of them is the tumour is not clear. Name it {where}.")
    area = clipped(shapely.union_all([r.geometry for r in regions if not wanted or r.class_name in wanted]), bounds)
    if regions and area.is_empty:
        raise DatasetError(f"The areas of {path.name} lie outside of the slide. Check that they belong together: coordinates are pixels of the finest level.")
    if notices is not None:
        notices += [f"{path.name}: {problem}" for problem in problems]
        notices += [] if regions else [f"{path.name} has no area: nothing of its slide is learned as tumour."]
    return area


def mask_of(path: Path, bounds: Box) -> NDArray[np.uint8]:
    """A mask of any resolution over a whole slide: 0 no tumour, 1 tumour, 255 not annotated. Raises DatasetError where it does not fit."""
    mask = read_mask(path)
    refuse_other_shape(mask, bounds, path.name)
    blank, unknown = mask <= 0, mask == UNLABELED
    if blank.any() and (blank | unknown).all():
        # Drawing programs write black and white.
        return np.asarray(unknown, np.uint8)
    return np.where(unknown, UNLABELED, ~blank).astype(np.uint8)


def refuse_other_shape(mask: NDArray[Any], covered: Box, name: str, kind: str = "slide", of: str = "") -> None:
    """Raise a DatasetError where a mask, of whatever resolution, has another shape than what it covers."""
    rows, columns = mask.shape
    if abs(rows - columns * covered.height / covered.width) > 1.5 * max(1.0, columns / covered.width):
        raise DatasetError(
            f"The mask {name} has {columns} × {rows} pixels and its {kind}{of} {covered.width} × {covered.height}: their shapes differ. A mask covers exactly its {kind}."
        )


def is_outline(path: Path) -> bool:
    """Whether a file is an outline by its name, and no slide."""
    return is_drawn(path) or (path.suffix.lower() in MASK_FILES and path.stem.lower().endswith(MASK_ENDINGS))


def stem_of(slide: Path) -> str:
    """The name of a slide without its endings."""
    ending = next((e for e in (".ome.tiff", ".ome.tif") if slide.name.lower().endswith(e)), slide.suffix)
    return slide.name[: len(slide.name) - len(ending)]


def outline_beside(slide: Path, files: Iterable[Path] | None = None) -> Path | None:
    """The outline that lies beside a slide under its name: GeoJSON, else a mask such as ``name-mask.png``.

    What lies in the slide's folder is looked up unless it is given.
    """
    stem = stem_of(slide)
    drawn = [base + ending for ending in DRAWN_FILES for base in (stem, slide.name)]
    masks = [stem + mark + ending for mark in MASK_ENDINGS for ending in MASK_FILES]
    # Programs write other things as .json, too: these come last.
    names = sorted(drawn + masks, key=lambda name: name.endswith(".json"))
    ranks = {name.lower(): rank for rank, name in enumerate(names)}
    found = [p for p in (slide.parent.iterdir() if files is None else files) if p.name.lower() in ranks and p.is_file()]
    return min(found, key=lambda p: (ranks[p.name.lower()], p.name not in names), default=None)
