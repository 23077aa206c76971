"""Reading a dataset that a session is about to change: everything about it is checked, masks included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from napari_histoseg.annotations import masks
from napari_histoseg.annotations.blocks import block_problem
from napari_histoseg.annotations.dataset import FILE_NAME, Patch, PatchDataset, parse_dataset, refuse
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

ID = "p{:04d}"
THREADS = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A dataset whose patches all have ids, and what its masks hold, by file name."""

    dataset: PatchDataset
    tallies: dict[str, masks.Tally]


def read(folder: Path) -> Opened:
    """Read a dataset; one without patches is fine.

    Raises
    ------
    DatasetError
        Names every problem at once.
    """
    dataset, problems = parse_dataset(folder)
    if dataset.mpp is None and not any(p.startswith("mpp") for p in problems):
        problems.append("mpp is missing: the µm per pixel at which patches are painted.")
    names = list(dict.fromkeys(p.mask for p in dataset.patches if p.mask is not None and dataset.path(p.mask).is_file()))
    tallies: dict[str, masks.Tally] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(names, pool.map(lambda n: _tally(dataset.path(n)), names), strict=True):
            if isinstance(found, str):
                problems.append(found)
            else:
                tallies[name] = found
    classes_known = not any(p.startswith("classes") for p in problems)
    for i, patch in enumerate(dataset.patches):
        if patch.mask in tallies:
            problems += _mask_problems(dataset, i, patch, tallies[patch.mask], classes_known)
        if patch.blocks is not None and dataset.path(patch.blocks).is_file() and (wrong := block_problem(dataset, patch)):
            problems.append(f"Patch {i}: {wrong}")
    refuse(folder / FILE_NAME, problems)
    return Opened(with_ids(dataset), tallies)


def with_ids(dataset: PatchDataset) -> PatchDataset:
    """Every patch with an id of its own; ids that are there and not repeated stay."""
    given = {p.id for p in dataset.patches}
    free = (name for name in _names() if name not in given)
    used: set[str] = set()
    patches = []
    for patch in dataset.patches:
        own = patch.id if patch.id is not None and patch.id not in used else next(free)
        used.add(own)
        patches.append(patch if own == patch.id else patch.model_copy(update={"id": own}))
    return dataset.model_copy(update={"patches": tuple(patches)})


def _names() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield ID.format(number)


def next_number(dataset: PatchDataset, folder: Path) -> int:
    """The first number that neither a patch nor a file of the session's making has."""
    names = [p.id or "" for p in dataset.patches] + [path.stem for kind in ("masks", "images", "blocks") for path in (folder / kind).glob("p*")]
    return 1 + max((int(n[1:]) for n in names if n.startswith("p") and n[1:].isdecimal()), default=0)


def _tally(path: Path) -> masks.Tally | str:
    try:
        return masks.Tally.of(masks.load(path))
    except DatasetError as error:
        return str(error)


def _mask_problems(dataset: PatchDataset, number: int, patch: Patch, tally: masks.Tally, classes_known: bool) -> Sequence[str]:
    problems = []
    if classes_known and (wrong := masks.unknown_values(tally.pixels, dataset.classes)):
        problems.append(f"Patch {number}: the mask {patch.mask} holds {masks.some(wrong)}, which no class has.")
    height, width = tally.shape
    if patch.box is not None and not masks.fits(tally.shape, Box(*patch.box)):
        problems.append(f"Patch {number}: the mask {patch.mask} has {width} x {height} px, and its box {patch.box[2]} x {patch.box[3]} other proportions.")
    if patch.image is not None and (size := image_size(dataset.path(patch.image))) not in (None, (width, height)):
        assert size is not None
        problems.append(f"Patch {number}: the mask {patch.mask} has {width} x {height} px, its image {patch.image} {size[0]} x {size[1]}.")
    return problems


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height from an image's head; None where Pillow does not know the format, or the file is missing."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
