"""Pixels of blocks, with what lies around them, and of painted patches; read once, in working pixels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.blocks import Block
from napari_histoseg.annotations.dataset import UNLABELED, Patch, PatchDataset
from napari_histoseg.annotations.reading import PatchReader
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.methods.glass import glass
from napari_histoseg.methods.lsr.network import STRIDE_PX
from napari_histoseg.slide import Box, Slide

BLOCK_PX = 48
"""Side of a block at the pixel size that is chosen when none is given."""
COARSEST_MPP = 8.0
MOST_BYTES = 1_500_000_000
"""Of pixels of blocks in memory; of more blocks some are drawn, evenly."""
MOST_SIDE_PX = 1024
"""Of a block with its margin."""
LEAST_COUNTED = 0.1
"""A block with a smaller share of pixels that count is glass, and left out."""

Image = NDArray[np.uint8]


@dataclass
class Blocks:
    """Blocks that were read.

    Attributes
    ----------
    images : (n, side, side, 3) uint8
        Each block in the middle of what lies around it; mirrored outside its slide.
    counted : (n, side, side) bool
        Pixels of the block that are no glass.
    coarse : (n,) int
        Index of the coarse label in the table.
    margin : int
        A view of a block is so many pixels smaller than its picture.
    """

    images: Image
    counted: NDArray[np.bool_]
    coarse: NDArray[np.int64]
    margin: int = 0

    def __len__(self) -> int:
        return len(self.coarse)

    def of(self, which: NDArray[np.bool_]) -> Blocks:
        """Some of them."""
        return Blocks(self.images[which], self.counted[which], self.coarse[which], self.margin)

    @property
    def view_px(self) -> int:
        """Side of a view."""
        return int(self.images.shape[1]) - self.margin

    def view(self, i: int, y: int, x: int) -> tuple[Image, NDArray[np.bool_]]:
        """A block in what lies around it; ``y`` and ``x`` from 0 to `margin` say where in the view it lies."""
        part = (slice(y, y + self.view_px), slice(x, x + self.view_px))
        return self.images[i][part], self.counted[i][part]

    def middle(self, which: slice) -> tuple[Image, NDArray[np.bool_]]:
        """Views (n, …) of blocks that lie in their middle."""
        at = self.margin // 2
        part = (which, slice(at, at + self.view_px), slice(at, at + self.view_px))
        return self.images[part], self.counted[part]


@dataclass(frozen=True)
class Painted:
    """A painted patch: pixels (h, w, 3), and class indices (h, w), 255 where nothing is annotated."""

    image: Image
    mask: NDArray[np.uint8]


@dataclass
class Gathered:
    """What reading blocks gives: pixels, and what a person should know."""

    blocks: Blocks
    kept: list[Block] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def pixel_size(dataset: PatchDataset, blocks: Sequence[Block]) -> float:
    """The µm/px at which the most common block is `BLOCK_PX` wide, but not finer than it was scanned.

    Raises
    ------
    DatasetError
        The first block's file has no pixel size.
    """
    first = blocks[0]
    with PatchReader(dataset, 1.0) as reader:
        slide = reader.file(first.patch)
        side = max(first.box.width, first.box.height) if first.box else max(slide.width, slide.height)
        mpp = slide.require_mpp()
    return float(np.clip(side * mpp / BLOCK_PX, mpp, max(mpp, COARSEST_MPP)))


def read_blocks(
    dataset: PatchDataset, blocks: Sequence[Block], index: dict[int, int], mpp: float, context: float, glass_um: float
) -> Generator[tuple[int, int], None, Gathered]:
    """Read blocks; yields how many of how many are read.

    Parameters
    ----------
    dataset : PatchDataset
    blocks : sequence of Block
    index : dict of int to int
        Row of each coarse label in the table.
    mpp : float
    context : float
        What is seen around a block, in sides of it. Where it lies in its view is drawn anew in every step: in one place, a network learns
        the place, and a map is full of islands.
    glass_um : float
        Pixels with no tissue within this distance do not count; 0 counts all.

    Raises
    ------
    DatasetError
        Names every block that cannot be read, and blocks that are too large.
    """
    with PatchReader(dataset, mpp) as reader:
        places, problems = [], list[str]()
        for block in blocks:
            try:
                places.append(reader.place(block.patch, block.box)[:2])
            except HistosegError as error:
                problems.append(str(error))
        _refuse(dataset, problems)
        largest = max(max(box.width, box.height) for _, box in places)
        margin, side = layout(largest, context)
        if side > MOST_SIDE_PX:
            raise DatasetError(
                f"A block has {largest} px a side at {mpp:g} µm/px, {side} with what lies around it, and {MOST_SIDE_PX} are the most. Use smaller blocks, or a larger mpp."
            )
        images = np.empty((len(blocks), side, side, 3), np.uint8)
        counted = np.zeros((len(blocks), side, side), bool)
        reach = round(glass_um / mpp)
        for i, (slide, box) in enumerate(places):
            try:
                images[i], counted[i] = _block(slide, box, side, mpp, reach)
            except HistosegError as error:
                problems.append(str(error))
            yield i + 1, len(blocks)
        _refuse(dataset, problems)
    area = np.array([box.width * box.height for _, box in places])
    kept = counted.sum((1, 2)) >= LEAST_COUNTED * area
    coarse = np.array([index[block.coarse] for block in blocks], np.int64)
    found = Gathered(Blocks(images, counted, coarse, margin), [block for block, k in zip(blocks, kept, strict=True) if k])
    if n := int((~kept).sum()):
        found.notices.append(f"Left out, because there is only glass: {n} {'block' if n == 1 else 'blocks'}.")
        found.blocks = found.blocks.of(kept)
    return found


def layout(block_px: int, context: float) -> tuple[int, int]:
    """How far views of a block move, and the side of its picture, px; a view's side is a multiple of the network's stride."""
    margin = round(context * block_px)
    view = block_px + margin
    return margin, view + -view % STRIDE_PX + margin


def _block(slide: Slide, box: Box, side: int, mpp: float, reach: int) -> tuple[Image, NDArray[np.bool_]]:
    """A block in the middle of a square of ``side``, and its pixels that count."""
    left, top = (side - box.width) // 2, (side - box.height) // 2
    image = mirrored(slide, Box(box.x - left, box.y - top, side, side), mpp)
    counted = np.zeros((side, side), bool)
    counted[top : top + box.height, left : left + box.width] = True
    if reach:
        counted &= ~glass(image, min(reach, side // 2 - 1))
    return image, counted


def mirrored(slide: Slide, box: Box, mpp: float) -> Image:
    """Pixels of a box of working pixels, mirrored outside the slide as often as it takes."""
    width, height = slide.size_at(mpp)
    inside = box.intersect(Box(0, 0, width, height))
    image = slide.read_at(mpp, inside)
    pads = ((inside.y - box.y, box.bottom - inside.bottom), (inside.x - box.x, box.right - inside.right), (0, 0))
    return np.ascontiguousarray(np.pad(image, pads, "symmetric"))


def _refuse(dataset: PatchDataset, problems: list[str]) -> None:
    if problems:
        shown = list(dict.fromkeys(problems))
        more = f" And {len(shown) - 5} more." if len(shown) > 5 else ""
        raise DatasetError(f"{dataset.folder} cannot be trained on: " + " ".join(shown[:5]) + more)


def read_painted(dataset: PatchDataset, patches: Sequence[Patch], values: Sequence[int], mpp: float, least_px: int) -> list[Painted]:
    """Painted patches, mirrored to at least ``least_px`` a side, where nothing is annotated then.

    Raises
    ------
    DatasetError
        Names every patch that cannot be read, and masks with values that are no class.
    """
    lookup = np.full(256, UNLABELED, np.uint8)
    lookup[list(values)] = np.arange(len(values))
    found, problems = [], list[str]()
    with PatchReader(dataset, mpp) as reader:
        for patch in patches:
            try:
                image, mask = reader.read(patch)
            except HistosegError as error:
                problems.append(str(error))
                continue
            assert mask is not None
            if wrong := sorted({int(v) for v in np.unique(mask)} - {*values, UNLABELED}):
                problems.append(f"The mask {patch.mask} holds values that the table does not have: {', '.join(map(str, wrong))}. State their shares, or paint with other classes.")
                continue
            lack = [(max(0, least_px - size) + 1) // 2 for size in mask.shape]
            pads = [(n, n) for n in lack]
            found.append(Painted(np.pad(image, [*pads, (0, 0)], "symmetric"), np.pad(lookup[mask], pads, constant_values=UNLABELED)))
    _refuse(dataset, problems)
    return found


def turned(rng: np.random.Generator) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    """One of the eight flips and quarter turns, for pictures and masks (h, w, …) alike."""
    quarter, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
    return lambda image: np.ascontiguousarray(np.rot90(image[:, ::-1] if flip else image, quarter))


def crop(rng: np.random.Generator, painted: Painted, side: int) -> tuple[Image, NDArray[np.uint8]]:
    """A square of a painted patch in which something is annotated, where there is one."""
    height, width = painted.mask.shape
    for _ in range(10):
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        mask = painted.mask[y : y + side, x : x + side]
        if (mask != UNLABELED).any():
            break
    return painted.image[y : y + side, x : x + side], mask

