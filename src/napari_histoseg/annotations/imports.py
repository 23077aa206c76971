"""Bringing annotations from elsewhere into a session: QuPath's GeoJSON over a slide, folders of pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations import classes as class_list
from napari_histoseg.annotations import masks
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchClass, PatchDataset
from napari_histoseg.annotations.entries import Annotation
from napari_histoseg.annotations.geojson import Region, rasterize, read_geojson
from napari_histoseg.annotations.opening import image_size
from napari_histoseg.annotations.placing import MAX_SIDE_PX
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.results.files import Step, no_step
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.open import open_slide

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

Item = tuple[Patch, NDArray[np.uint8] | None]
Kind = Literal["masks", "classes"]
Outside = Literal["unlabeled", "background"]

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASKS = (".png", ".tif", ".tiff", ".bmp")
SIDE_PX = 256
MAX_NEW_CLASSES = 20
"""More values than this without a name are no classes: most likely each value is one object."""
SHOWN = 20
"""Problems that a message lists one by one."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import added, and sentences about what it left out or changed."""

    added: tuple[Annotation, ...]
    notices: tuple[str, ...]


# -- GeoJSON ------------------------------------------------------------------------------------------------------------


def import_geojson(
    session: AnnotationSession,
    slide: Slide,
    path: str | Path,
    *,
    patch_um: float | None = None,
    outside: Outside = "unlabeled",
    group: str | None = None,
    step: Step = no_step,
) -> ImportReport:
    """Turn areas drawn in QuPath or elsewhere into painted patches, in place over their slide.

    An area that fits into a patch is in the middle of one; a larger one is covered by several side by side. What other
    areas of the file lie in a patch are painted in it too, later ones over earlier ones, as QuPath draws them.

    Parameters
    ----------
    session : AnnotationSession
    slide : Slide
        The slide that the areas were drawn on.
    path : path
        GeoJSON, or GeoJSON with gzip; coordinates are level-0 pixels.
    patch_um : float, optional
        Side of the patches; 256 px at the dataset's resolution when not given.
    outside : {"unlabeled", "background"}
        What pixels of a patch are that no area covers. Where everything in sight was outlined, they are background.
    group : str, optional
        What stays together in splits; the slide's file name when not given.
    step : callable
        Called with (pieces done, pieces in all) before each piece; when it raises, nothing is added.

    Returns
    -------
    ImportReport
        Areas without a class are left out, as are those of classes whose name ends in ``*`` (QuPath ignores them).

    Raises
    ------
    DatasetError
        The file cannot be read, or holds no area with a class on this slide.
    """
    notices: list[str] = []
    regions = _usable(read_geojson(path, notices), slide, Path(path), notices)
    new = _classes_of(session, [(r.class_name or "", r.color) for r in regions])
    side = _side_px(session, slide, patch_um)
    side_px = side * session.mpp / slide.require_mpp()
    boxes = _free(session, slide, _boxes(regions, slide, side_px, _stage(step, 0, 3)), notices)
    values = {c.name: c.value for c in (*session.classes, *new)}
    painter = _Painter(regions, values, masks.BACKGROUND if outside == "background" else UNLABELED)
    items: list[Item] = []
    painting, writing = _stage(step, 1, 3), _stage(step, 2, 3)
    for number, box in enumerate(boxes):
        painting(number, len(boxes))
        patch, shape = session.patch_for(slide, box, group)
        items.append((patch, painter.paint(box, shape)))
    sentence = f"{_count(len(items), 'patch', 'patches')} imported from {Path(path).name}"
    added = session.bring_in(sentence, items, classes=new, step=writing) if items else []
    return ImportReport(tuple(added), tuple(notices))


def _usable(regions: Sequence[Region], slide: Slide, path: Path, notices: list[str]) -> list[Region]:
    window = shapely.box(0, 0, slide.width, slide.height)
    trimmed = [replace(r, class_name=(r.class_name or "").strip()) for r in regions]
    named = [r for r in trimmed if r.class_name and not r.class_name.endswith("*")]
    inside = [r for r in named if r.geometry.intersects(window)]
    if n := len(regions) - len(named):
        notices.append(f"{_count(n, 'area has no class and was', 'areas have no class and were')} left out.")
    if n := len(named) - len(inside):
        notices.append(f"{_count(n, 'area lies', 'areas lie')} outside {slide.name} and {'was' if n == 1 else 'were'} left out.")
    if not inside:
        raise DatasetError(" ".join([f"{path} has no area with a class on {slide.name}.", *notices, "Give the areas classes in QuPath, and choose their own slide here."]))
    return inside


def _side_px(session: AnnotationSession, slide: Slide, patch_um: float | None) -> int:
    """Side of patches in mask pixels."""
    if patch_um is None:
        return SIDE_PX
    side = round(patch_um / session.mpp) if math.isfinite(patch_um) else 0
    if not 8 <= side <= MAX_SIDE_PX:
        raise DatasetError(
            f"Patches of {patch_um:g} µm have {side} px at {session.mpp:g} µm/px; they may have 8 to {MAX_SIDE_PX}. "
            f"Choose {8 * session.mpp:g} to {MAX_SIDE_PX * session.mpp:g} µm."
        )
    return side


def _boxes(regions: Sequence[Region], slide: Slide, side: float, step: Step) -> list[Box]:
    """Level-0 boxes of about ``side`` that together hold all areas on the slide."""
    window = shapely.box(0, 0, slide.width, slide.height)
    boxes: list[Box] = []
    nearby: dict[tuple[int, int], list[Box]] = {}
    for number, region in enumerate(regions):
        step(number, len(regions))
        area = region.geometry.intersection(window)
        for box in _covering(area, slide, side):
            part = area.intersection(_shape(box))
            cells = _cells(box, side)
            near = {b for cell in cells for b in nearby.get(cell, ())}
            # What earlier patches hold already needs no patch of its own.
            if part.area > 0 and not (near and shapely.union_all([_shape(b) for b in near]).covers(part)):
                boxes.append(box)
                for cell in cells:
                    nearby.setdefault(cell, []).append(box)
    return boxes


def _cells(box: Box, side: float) -> list[tuple[int, int]]:
    """The cells that a box touches, of a grid in which boxes are looked up."""
    columns, rows = (range(int(a // side), int(b // side) + 1) for a, b in ((box.x, box.right), (box.y, box.bottom)))
    return [(row, column) for row in rows for column in columns]


def _covering(area: shapely.Geometry, slide: Slide, side: float) -> Iterable[Box]:
    left, top, right, bottom = area.bounds
    columns, rows = (max(1, math.ceil(length / side - 1e-6)) for length in (right - left, bottom - top))
    size = max(1, round(side))
    for row in range(rows):
        for column in range(columns):
            x = (left + right - columns * side) / 2 + column * side
            y = (top + bottom - rows * side) / 2 + row * side
            yield _on_slide(round(x), round(y), size, slide)


def _on_slide(x: int, y: int, size: int, slide: Slide) -> Box:
    """A square moved onto the slide; smaller where the slide is."""
    x, y = (max(0, min(place, length - size)) for place, length in ((x, slide.width), (y, slide.height)))
    return Box(x, y, size, size).intersect(slide.bounds)


def _free(session: AnnotationSession, slide: Slide, boxes: list[Box], notices: list[str]) -> list[Box]:
    """Boxes that are no painted patch yet."""
    there = {p.box for p in session.patches_of(slide) if p.kind == "mask"}
    free = [box for box in dict.fromkeys(boxes) if box not in there]
    if n := len(set(boxes)) - len(free):
        notices.append(f"{_count(n, 'place is', 'places are')} painted already and stayed as {'it was' if n == 1 else 'they were'}.")
    return free


class _Painter:
    """Paints all areas that meet a box into its mask."""

    def __init__(self, regions: Sequence[Region], values: Mapping[str, int], outside: int) -> None:
        self._regions, self._values, self._outside = regions, values, outside
        self._tree = shapely.STRtree([r.geometry for r in regions])

    def paint(self, box: Box, shape: tuple[int, int]) -> NDArray[np.uint8]:
        scale = np.array([shape[1] / box.width, shape[0] / box.height])
        found = sorted(self._tree.query(_shape(box)))
        local = [replace(r, geometry=shapely.transform(r.geometry, lambda p: (p - (box.x, box.y)) * scale)) for r in (self._regions[i] for i in found)]
        frame = Box(0, 0, shape[1], shape[0])
        mask: NDArray[np.uint8] = rasterize(local, frame, values=self._values).astype(np.uint8)
        mask[~rasterize(local, frame)] = self._outside
        return mask


def _shape(box: Box) -> shapely.Polygon:
    return shapely.box(box.x, box.y, box.right, box.bottom)


# -- folders ------------------------------------------------------------------------------------------------------------


def import_folder(
    session: AnnotationSession,
    source: str | Path,
    *,
    kind: Kind | None = None,
    mpp: float | None = None,
    values: Mapping[int, int] | None = None,
    group_of: Callable[[Path], str] | None = None,
    step: Step = no_step,
) -> ImportReport:
    """Copy pictures and what is known about them into a session's dataset.

    Parameters
    ----------
    session : AnnotationSession
    source : path
        A folder with ``images`` and ``masks`` (files of equal names belong together), or with one folder of pictures for
        each class.
    kind : {"masks", "classes"}, optional
        Which of the two; found out when not given.
    mpp : float, optional
        µm per pixel of the pictures, to be checked against the dataset's.
    values : mapping of int to int, optional
        Class value for values in the masks, such as ``{255: 1}``; others stay.
    group_of : callable, optional
        What a picture stays together with in splits, such as its patient; its name when not given.
    step : callable
        Called with (pieces done, pieces in all) before each piece; when it raises, nothing is added.

    Returns
    -------
    ImportReport
        Values that no class had are made classes, and named in ``notices``.

    Raises
    ------
    DatasetError
        Names every problem at once: masks of another size or without a picture, values that cannot be classes, files that
        cannot be read. Nothing was added then.
    StorageError
        The dataset's folder cannot be written.
    """
    source = Path(source)
    if not source.is_dir():
        raise DatasetError(f"{source} is no folder. Choose one that holds pictures.")
    if mpp is not None and not math.isclose(mpp, session.mpp, rel_tol=0.01):
        raise DatasetError(f"The pictures have {mpp:g} µm/px and the dataset {session.mpp:g}. Bring them into a dataset of their own, created with {mpp:g} µm/px.")
    if wrong := [v for pair in (values or {}).items() for v in pair if not 0 <= v <= UNLABELED]:
        raise DatasetError(f"Masks hold 0 to {UNLABELED}; values= has {', '.join(map(str, wrong))}. Give class values for values in the masks.")
    read = _read_masked if (kind or _kind_of(source)) == "masks" else _read_classes
    found = read(session, source, values or {}, group_of or (lambda path: path.stem), _stage(step, 0, 2))
    _refuse(source, found.problems)
    if not found.items:
        raise DatasetError(f"{source} holds no pictures ({', '.join(IMAGES)}). Choose another folder.")
    sentence = f"{_count(len(found.items), 'picture', 'pictures')} imported from {source.name}"
    added = session.bring_in(sentence, found.items, dict(enumerate(found.images)), found.classes, _stage(step, 1, 2))
    return ImportReport(tuple(added), tuple(found.notices))


@dataclass(slots=True)
class _Found:
    items: list[Item]
    images: list[Path]
    classes: list[PatchClass]
    problems: list[str]
    notices: list[str]


def _kind_of(source: Path) -> Kind:
    if (source / "images").is_dir() and (source / "masks").is_dir():
        return "masks"
    if any(_files(folder, IMAGES) for folder in _folders(source)):
        return "classes"
    raise DatasetError(
        f"{source} has neither the folders 'images' and 'masks' nor one folder of pictures for each class. Arrange the pictures so, and choose the folder above them."
    )


def _folders(source: Path) -> list[Path]:
    return sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path, kinds: Sequence[str]) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in kinds and not p.name.startswith("."))


def _read_classes(
    session: AnnotationSession, source: Path, values: Mapping[int, int], group_of: Callable[[Path], str], step: Step
) -> _Found:
    folders = {folder: pictures for folder in _folders(source) if (pictures := _files(folder, IMAGES))}
    found = _Found([], [], _classes_of(session, [(folder.name.strip(), None) for folder in folders]), [], [])
    total = sum(map(len, folders.values()))
    for folder, pictures in folders.items():
        for picture in pictures:
            step(len(found.images), total)
            if isinstance(size := _size(picture), str):
                found.problems.append(size)
            found.items.append((_picture_patch(picture, group_of, label=folder.name.strip()), None))
            found.images.append(picture)
    return found


def _read_masked(
    session: AnnotationSession, source: Path, values: Mapping[int, int], group_of: Callable[[Path], str], step: Step
) -> _Found:
    for name in ("images", "masks"):
        if not (source / name).is_dir():
            raise DatasetError(f"{source} has no folder '{name}'. Put pictures into 'images', and their masks under the same names into 'masks'.")
    found = _Found([], [], [], [], [])
    pictures = _by_stem(_files(source / "images", IMAGES), found.problems)
    drawn = _by_stem(_files(source / "masks", MASKS), found.problems)
    found.problems += [f"The mask {path.name} belongs to no picture." for stem, path in drawn.items() if stem not in pictures]
    held: set[int] = set()
    for stem, picture in pictures.items():
        step(len(found.images), len(pictures))
        mask = _mask_for(picture, drawn[stem], values, held, found.problems) if stem in drawn else None
        found.items.append((_picture_patch(picture, group_of), mask))
        found.images.append(picture)
    if n := len(pictures.keys() - drawn.keys()):
        found.notices.append(f"{_count(n, 'picture has no mask and was', 'pictures have no mask and were')} added without annotation.")
    if held and held <= {masks.BACKGROUND, UNLABELED} and UNLABELED in held and not values:
        found.problems.append(f"The masks hold only 0 and {UNLABELED}, and {UNLABELED} means not annotated. Where it is a class, say which: values={{{UNLABELED}: 1}}.")
    _name_values(session, held, found)
    return found


def _by_stem(files: list[Path], problems: list[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in files:
        if path.stem in named:
            problems.append(f"{path.parent.name} has both {named[path.stem].name} and {path.name}: which of them is meant?")
        named.setdefault(path.stem, path)
    return named


def _mask_for(picture: Path, path: Path, values: Mapping[int, int], held: set[int], problems: list[str]) -> NDArray[np.uint8] | None:
    size = _size(picture)
    if isinstance(size, str):
        problems.append(size)
        return None
    try:
        mask = masks.load(path)
    except DatasetError as error:
        problems.append(str(error))
        return None
    if mask.shape != size[::-1]:
        problems.append(f"The mask {path.name} has {mask.shape[1]} x {mask.shape[0]} px and its picture {size[0]} x {size[1]}.")
        return None
    table = np.arange(256, dtype=np.uint8)
    for old, new in values.items():
        table[old] = new
    mask = table[mask]
    held.update(masks.Tally.of(mask).pixels)
    return mask


def _name_values(session: AnnotationSession, held: set[int], found: _Found) -> None:
    """Classes for the values that have none."""
    unknown = masks.unknown_values(held, session.classes)
    if len(unknown) > MAX_NEW_CLASSES:
        found.problems.append(f"The masks hold {len(unknown)} values that no class has. Masks of classes are needed; these seem to number single objects.")
        return
    dataset = session.dataset
    for value in unknown:
        taken = {c.name for c in dataset.classes}
        name = next(n for i in range(len(taken) + 1) if (n := f"class {value}" + " (new)" * i) not in taken)
        new = class_list.made(dataset, name, None, value)
        dataset = dataset.model_copy(update={"classes": (*dataset.classes, new)})
        found.classes.append(new)
        found.notices.append(f"Value {value} of the masks had no class and is now '{name}'. Rename it in the list of classes.")


def _picture_patch(picture: Path, group_of: Callable[[Path], str], label: str | None = None) -> Patch:
    return Patch(image=picture.name, label=label, group=group_of(picture))


def _size(path: Path) -> tuple[int, int] | str:
    """Width and height of a picture, or why there are none."""
    if (size := image_size(path)) is not None:
        return size
    try:
        with open_slide(path) as picture:
            return picture.width, picture.height
    except HistosegError as error:
        return f"The picture {path.name} cannot be read: {error}"


# -- both ---------------------------------------------------------------------------------------------------------------


def _classes_of(session: AnnotationSession, named: Iterable[tuple[str, str | None]]) -> list[PatchClass]:
    """New classes for the names that are none yet, each in its first color."""
    dataset: PatchDataset = session.dataset
    new: list[PatchClass] = []
    for name, color in named:
        if all(c.name != name for c in dataset.classes):
            new.append(class_list.made(dataset, name, color, None))
            dataset = dataset.model_copy(update={"classes": (*dataset.classes, new[-1])})
    return new


def _stage(step: Step, number: int, of: int) -> Step:
    """One of several stages, each an equal part of the way."""
    return lambda done, total: step(number * total + done, of * total)


def _refuse(source: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f" And {len(problems) - SHOWN} more." if len(problems) > SHOWN else ""
        raise DatasetError(f"{source} has {_count(len(problems), 'problem', 'problems')}, and nothing was added: {' '.join(problems[:SHOWN])}{more}")


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
