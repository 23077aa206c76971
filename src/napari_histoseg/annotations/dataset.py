"""Patch datasets: a folder with ``dataset.json`` that says which patches a person annotated, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoseg.slide import Slide

FILE_NAME = "dataset.json"
VERSION = 1
UNLABELED = 255
"""Value of pixels in class masks that nobody annotated."""


class PatchClass(BaseModel):
    """A class that pixels or patches can have. Value 0 may be listed, to give the background a name and a color."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: int = Field(ge=0, le=254)
    name: str = Field(min_length=1)
    color: str = Field("#3cb44b", pattern="^#[0-9a-fA-F]{6}$")


class Statistic(BaseModel):
    """Share of a fine class in blocks of a coarse label: mean ``eta``, standard deviation ``rho``."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    coarse: int
    class_value: int = Field(alias="class")
    eta: float = Field(ge=0, le=1)
    rho: float = Field(le=1)

    @field_validator("rho")
    @classmethod
    def _above_zero(cls, value: float) -> float:
        if value <= 0:
            raise ValueError(f"a standard deviation is above 0, and {value:g} was given. Write 0.001 (0.1 %) where all blocks hold the same")
        return value


class Patch(BaseModel):
    """One patch: where its pixels come from, and at most one annotation.

    ``box`` is in level-0 pixels of ``slide``; ``slide_fingerprint`` finds the slide again when it was moved, and
    ``slide_mpp`` is its µm per level-0 pixel, where a person has said it. ``label`` is the name of a class, or the names of
    several that are all in the patch. ``coarse`` is a coarse label of the whole patch; ``blocks`` a small picture with a pixel
    for each of the square blocks that the patch consists of, whose value is the block's coarse label, or 255 for none. Further keys (``grade`` …) are labels that a sampler can balance on.
    """

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    image: str | None = None
    slide: str | None = None
    box: tuple[int, int, int, int] | None = None
    mask: str | None = None
    label: str | tuple[str, ...] | None = None
    coarse: int | None = None
    blocks: str | None = None
    group: str | None = None
    split: Literal["train", "val", "test"] | None = None
    id: str | None = None
    slide_fingerprint: str | None = None
    slide_mpp: float | None = Field(default=None, gt=0)

    @field_validator("label", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """One name is a string, however it was written; several are in the order in which they were given."""
        if value is None:
            return None
        given = value if isinstance(value, (list, tuple)) else (value,)
        if not given or not all(isinstance(name, (str, int, float)) for name in given):
            raise ValueError("'label' is the name of a class, or a list of names")
        names = tuple(dict.fromkeys(map(str, given)))
        return names[0] if len(names) == 1 else names

    @model_validator(mode="after")
    def _check(self) -> Patch:
        if (self.image is None) == (self.slide is None):
            raise ValueError("a patch has either 'image', or 'slide' and 'box'")
        if (self.slide is None) != (self.box is None):
            raise ValueError("'slide' and 'box' come together")
        if self.box is not None and (self.box[2] < 1 or self.box[3] < 1):
            raise ValueError("'box' is [x, y, width, height] with width and height from 1")
        if sum(v is not None for v in (self.mask, self.label, self.coarse, self.blocks)) > 1:
            raise ValueError("a patch has at most one of 'mask', 'label', 'coarse' and 'blocks'")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that the patch as a whole was given; none where it is painted, or was given none."""
        return () if self.label is None else (self.label,) if isinstance(self.label, str) else self.label

    @property
    def source(self) -> str:
        """The image or slide, for messages."""
        return self.image or self.slide or ""


class PatchDataset(BaseModel):
    """A read dataset. ``folder`` is where its relative paths start. Further keys of the file are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: int = VERSION
    mpp: float | None = Field(None, gt=0)
    classes: tuple[PatchClass, ...] = ()
    patches: tuple[Patch, ...] = ()
    coarse_classes: tuple[PatchClass, ...] = ()
    """What coarse labels are called; those that are not listed go by their numbers."""
    statistics: tuple[Statistic, ...] = ()
    folder: Path = Field(Path(), exclude=True)
    look: Callable[..., Any] | None = Field(None, exclude=True)
    """(dataset, patch, slide) → slide: how the pictures are read, for instance through a stain normalizer."""

    def path(self, name: str) -> Path:
        """Where a file of the dataset lies."""
        return self.folder / name

    def open(self, patch: Patch) -> Slide:
        """The picture or slide of a patch, as the dataset is looked at; the caller closes it."""
        from napari_histoseg.slide import open_slide

        name = patch.image or patch.slide
        assert name is not None
        slide = open_slide(self.path(name), mpp=self.mpp if patch.image is not None else patch.slide_mpp)
        if self.look is not None:
            slide = self.look(self, patch, slide)
        return slide


def read_dataset(folder: str | Path | PatchDataset) -> PatchDataset:
    """Read and check a patch dataset; one that was read already is returned as it is.

    Raises
    ------
    DatasetError
        Names every problem at once: values, classes that are not listed, files that are missing or outside the folder.
    """
    if isinstance(folder, PatchDataset):
        return folder
    dataset, problems = parse_dataset(Path(folder))
    if not dataset.patches and not problems:
        problems = ["It lists no patches."]
    refuse(dataset.path(FILE_NAME), problems)
    return dataset


def parse_dataset(folder: Path) -> tuple[PatchDataset, list[str]]:
    """The parts of a dataset that can be used, and a sentence about everything else.

    Raises
    ------
    DatasetError
        There is no dataset at all, its file is no JSON object, or another version wrote it.
    """
    file = folder / FILE_NAME if folder.is_dir() else folder
    if not file.is_file():
        raise DatasetError(f"{folder} is no patch dataset: it has no {FILE_NAME}. Give the folder that the annotation panel wrote.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be used: it is no valid JSON ({error}).") from None
    if not isinstance(data, dict):
        raise DatasetError(f"{file} cannot be used: it holds no JSON object.")
    version = data.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise DatasetError(f"{file} has format version {version}; this version reads {VERSION}. Update napari-histoseg.")
    return _usable({**data, "folder": file.parent})


def refuse(file: Path, problems: list[str]) -> None:
    """Raise a `DatasetError` that lists all problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DatasetError(f"{file} has {count}: " + " ".join(problems))


_LISTS: dict[str, type[BaseModel]] = {"classes": PatchClass, "patches": Patch, "coarse_classes": PatchClass, "statistics": Statistic}


def _usable(data: dict[str, Any]) -> tuple[PatchDataset, list[str]]:
    """Each item of each list is checked on its own, so that one that is wrong hides no other."""
    problems: list[str] = []
    good: dict[str, dict[int, Any]] = {}
    for key, model in _LISTS.items():
        items = data.get(key, [])
        if not isinstance(items, list):
            problems.append(f"{key}: Input should be a list.")
            items = []
        good[key] = {}
        for i, item in enumerate(items):
            try:
                good[key][i] = model.model_validate(item)
            except ValidationError as error:
                problems += _rows(error, (key, i))
    rest = {k: v for k, v in data.items() if k not in _LISTS}
    try:
        dataset = PatchDataset.model_validate(rest)
    except ValidationError as error:
        problems += _rows(error)
        dataset = PatchDataset.model_validate({"folder": data["folder"]})
    dataset = dataset.model_copy(update={key: tuple(items.values()) for key, items in good.items()})
    whole = len(good["classes"]) == len(data.get("classes", []))
    return dataset, problems + _problems(dataset, list(good["patches"]), whole)


def _rows(error: ValidationError, where: tuple[str | int, ...] = ()) -> list[str]:
    rows = error.errors(include_url=False)
    return [f"{'.'.join(map(str, (*where, *e['loc'])))}: {e['msg'].removeprefix('Value error, ')}." for e in rows]


def _problems(dataset: PatchDataset, numbers: list[int], classes_known: bool) -> list[str]:
    """What single items cannot know: repeated classes, labels without a class, files that are not there."""
    names = [c.name for c in dataset.classes]
    values = [c.value for c in dataset.classes]
    problems = [f"Class value {v} is listed twice." for v in sorted({v for v in values if values.count(v) > 1})]
    problems += [f"The class name '{n}' is listed twice." for n in sorted({n for n in names if names.count(n) > 1})]
    for i, patch in zip(numbers, dataset.patches, strict=True):
        if classes_known:
            problems += [f"Patch {i}: the class '{name}' is not among the classes." for name in patch.labels if name not in names]
        for kind in ("image", "mask", "blocks"):
            name = getattr(patch, kind)
            if name is not None and (wrong := _wrong_file(dataset, name)):
                problems.append(f"Patch {i}: the {kind} {name} {wrong}.")
    return problems


def _wrong_file(dataset: PatchDataset, name: str) -> str | None:
    path, home = dataset.path(name).resolve(), dataset.folder.resolve()
    if not path.is_relative_to(home):
        return "lies outside the dataset's folder"
    return None if path.is_file() else "does not exist"


def write_dataset(folder: Path, dataset: PatchDataset) -> None:
    """Write ``dataset.json``, whole or not at all."""
    from napari_histoseg.results.files import atomic

    folder.mkdir(parents=True, exist_ok=True)
    text = dataset.model_dump_json(indent=1, exclude_none=True, by_alias=True)
    with atomic(folder / FILE_NAME) as file:
        file.write(text.encode())


def load_patch(dataset: PatchDataset, patch: Patch) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None, float | None]:
    """Pixels, mask and pixel size of a patch.

    Returns
    -------
    image : (h, w, 3) uint8
        RGB; of a slide patch, the box at the mask's resolution, or at level 0 when there is no mask.
    mask : (h, w) int32 or None
        Class values (255 not annotated), or instance ids.
    mpp : float or None
        µm per pixel of ``image``.

    Raises
    ------
    DatasetError
        If a file cannot be read, or mask and image differ in shape.
    """
    mask = None if patch.mask is None else read_mask(dataset.path(patch.mask))
    try:
        if patch.image is not None:
            with dataset.open(patch) as picture:
                image = picture.read(0, picture.bounds)
            mpp = dataset.mpp
        else:
            image, mpp = _read_box(dataset, patch, mask)
    except HistosegError as error:
        raise DatasetError(f"The patch {patch.source} cannot be read: {error}") from error
    if mask is not None and mask.shape != image.shape[:2]:
        raise DatasetError(
            f"The mask {patch.mask} has {mask.shape[1]} × {mask.shape[0]} pixels and its image {patch.source} "
            f"{image.shape[1]} × {image.shape[0]}. A mask covers exactly its image."
        )
    return image, mask, mpp


def _read_box(
    dataset: PatchDataset, patch: Patch, mask: NDArray[np.int32] | None
) -> tuple[NDArray[np.uint8], float | None]:
    assert patch.box is not None
    box = Box(*patch.box)
    with dataset.open(patch) as slide:
        return read_box(slide, box, box.shape if mask is None else mask.shape)


def read_box(slide: Slide, box: Box, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], float | None]:
    """A box of a slide as an image of a given shape: what a mask of that shape was painted on.

    Parameters
    ----------
    slide : Slide
    box : Box
        In level-0 pixels.
    shape : (h, w)
        Pixels of the image.

    Returns
    -------
    image : (h, w, 3) uint8
        RGB.
    mpp : float or None
        Its µm per pixel.
    """
    if tuple(shape) == box.shape:
        return slide.read(0, box), slide.mpp
    factor = shape[1] / box.width
    mpp = slide.require_mpp() / factor
    corner = Box(round(box.x * factor), round(box.y * factor), shape[1], shape[0])
    return slide.read_at(mpp, corner), mpp


def read_mask(path: Path) -> NDArray[np.int32]:
    """A mask's values (h, w), whatever its depth; of an image with a palette, the numbers and not the colors."""
    try:
        mask = _pixels(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"The mask {path} cannot be read ({error}). Masks are 8, 16 or 32 bit PNG or TIFF.") from error
    if mask.ndim != 2 or mask.dtype.kind not in "uib":
        raise DatasetError(f"The mask {path} has shape {mask.shape} and type {mask.dtype}. A mask is one plane of whole numbers.")
    return mask.astype(np.int32)


def _pixels(path: Path) -> NDArray[Any]:
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        return np.asarray(tifffile.imread(path))
    with Image.open(path) as image:
        return np.array(image)


def split_groups(
    patches: Iterable[Patch], val_fraction: float, seed: int = 0
) -> tuple[list[Patch], list[Patch]]:
    """Training and validation patches, whole groups (patients, photographs, slides) on one side.

    A fixed ``split`` is kept (``test`` is left out of both). A patch without ``group`` is a group by its image or slide.
    The split depends on names and seed alone, not on the order of patches.
    """
    train: list[Patch] = []
    val: list[Patch] = []
    free: dict[str, list[Patch]] = {}
    for patch in patches:
        if patch.split is None:
            free.setdefault(patch.group or patch.source, []).append(patch)
        elif patch.split != "test":
            (train if patch.split == "train" else val).append(patch)
    ranked = sorted(free, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    held = 0 if val or not val_fraction else max(1, round(val_fraction * len(ranked)))
    held = min(held, max(len(ranked) - 1, 0))
    for i, name in enumerate(ranked):
        (val if i < held else train).extend(free[name])
    return train, val


def data_sha256(dataset: PatchDataset) -> str:
    """Hash of the list of patches and of every file in it, for the model card."""
    digest = hashlib.sha256(dataset.model_dump_json(by_alias=True).encode())
    names: set[str] = {str(v) for p in dataset.patches for v in (p.image, p.mask, p.blocks) if v is not None}
    for name in sorted(names):
        digest.update(dataset.path(name).read_bytes())
    return digest.hexdigest()
