"""The paper's data rules (appendix B): what counts as tissue, and where crops of larger annotations are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histoseg.methods.glass import LEAST_SATURATION, saturation

UNLABELED = 255
"""Value of mask pixels that nobody annotated."""
OPENING_PX = 5
MOST_POINTS = 4000
"""Pixels of a component that k-means looks at."""


@dataclass(frozen=True)
class Place:
    """Where a crop is centered (px of the picture), and the class index that it was chosen for; -1 for none."""

    x: float
    y: float
    value: int = -1


@dataclass(frozen=True)
class Picture:
    """A patch at the working pixel size.

    Attributes
    ----------
    image : (h, w, 3) uint8
    mask : (h, w), optional
        Class values as read, class indices (uint8) in training; 255 not annotated.
    label : int
        Class index of a patch that has only a class; -1 else.
    name : str
    also : tuple of int
        The further class indices of a patch that shows several.
    """

    image: NDArray[np.uint8]
    mask: NDArray[Any] | None = None
    label: int = -1
    name: str = ""
    also: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All classes of a patch that has no mask."""
        return (self.label, *self.also) if self.label >= 0 else ()


def foreground(image: NDArray[np.uint8], opening_px: int = OPENING_PX) -> NDArray[np.bool_]:
    """Tissue of a picture (appendix B.1): saturation over 10 % of the largest possible, holes filled, then opened.

    Parameters
    ----------
    image : (h, w, 3) uint8
        RGB.
    opening_px : int
        Side of the opening's disk; salt smaller than it goes.
    """
    from scipy.ndimage import binary_fill_holes

    saturated = saturation(image) > LEAST_SATURATION * 255
    filled = np.asarray(binary_fill_holes(saturated), np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (opening_px, opening_px))
    # What lies outside the picture neither opens nor closes its border.
    padded = np.pad(filled, opening_px, "edge")
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, disk)
    return np.asarray(opened[opening_px:-opening_px, opening_px:-opening_px] > 0)


def places(mask: NDArray[Any], side_px: int, background: int | None = None, seed: int = 0) -> list[Place]:
    """Centers of crops over the labeled regions of a mask (appendix B.2).

    Every connected component of a class has a crop at its center (of its bounding box). One that is larger than a crop is
    split by k-means on its pixel coordinates into ⌈1 + area / side²⌉ parts, each with a crop at its center.

    Parameters
    ----------
    mask : (h, w) uint8
        Class indices; 255 not annotated.
    side_px : int
        Side of a crop.
    background : int, optional
        Index of a class that gets no crops of its own.
    seed : int
        Of k-means.
    """
    found: list[Place] = []
    for value in np.unique(mask):
        if value in (UNLABELED, background):
            continue
        count, parts, boxes, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        for i in range(1, count):
            x, y, width, height, area = (int(v) for v in boxes[i])
            if max(width, height) <= side_px:
                found.append(Place(x + width / 2, y + height / 2, int(value)))
            else:
                centers = _split(parts[y : y + height, x : x + width] == i, split_count(area, side_px), seed)
                found += [Place(x + cx, y + cy, int(value)) for cx, cy in centers]
    return found


def split_count(area_px: int, side_px: int) -> int:
    """Parts that a component larger than a crop is split into: ⌈1 + area / side²⌉."""
    return int(np.ceil(1 + area_px / side_px**2))


def _split(component: NDArray[np.bool_], count: int, seed: int) -> list[tuple[float, float]]:
    """Centers (x, y) of k-means clusters of a component's pixels, in px from its box's corner; ordered, so that they repeat."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]

    points = np.argwhere(component)[:, ::-1] + 0.5
    points = points[:: max(1, len(points) // MOST_POINTS)]
    count = min(count, len(points))
    centers = KMeans(count, n_init=1, random_state=seed).fit(points).cluster_centers_
    return sorted((float(x), float(y)) for x, y in centers)


def on_tissue(image: NDArray[np.uint8], candidates: list[Place], side_px: int, least: float) -> list[Place]:
    """The places whose crop (its part inside the picture) is at least so much foreground; all, if that would leave none."""
    tissue = foreground(image)
    kept = [p for p in candidates if _share(tissue, p, side_px) >= least]
    return kept or candidates


def _share(tissue: NDArray[np.bool_], place: Place, side_px: int) -> float:
    left, top = (max(0, round(v - side_px / 2)) for v in (place.x, place.y))
    part = tissue[top : top + side_px, left : left + side_px]
    return float(part.mean()) if part.size else 0.0


def grid(shape: tuple[int, int], side_px: int) -> list[Place]:
    """Centers of crops that cover a picture (height, width) evenly, for patches that have only a class."""
    rows, columns = (_centers(size, side_px) for size in shape)
    return [Place(x, y) for y in rows for x in columns]


def _centers(size: int, side_px: int) -> list[float]:
    count = max(1, -(-size // side_px))
    if count == 1:
        return [size / 2]
    return [float(v) for v in np.linspace(side_px / 2, size - side_px / 2, count)]


def crop(
    rng: np.random.Generator, picture: Picture, place: Place, side_px: int, augmentation: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A turned, zoomed and flipped square crop of a picture and its mask.

    It is centered on the place, moved by up to an eighth of its side, where the picture has room for it. Outside the picture
    the image is mirrored and the mask 255. With ``augmentation`` 0 it is only flipped, turned by right angles, and not moved.

    Returns
    -------
    image : (side, side, 3) uint8
    mask : (side, side) uint8
        255 everywhere for a picture without mask.
    """
    height, width = picture.image.shape[:2]
    strength = min(augmentation, 1.0)
    zoom = float(np.exp(rng.uniform(-0.25, 0.25) * strength))
    angle = float(rng.uniform(0, 2 * np.pi)) if augmentation else 0.5 * np.pi * int(rng.integers(4))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-0.125, 0.125, 2) * side_px * strength
    center = [_inside(v + s, size, side_px / zoom) for v, s, size in zip((place.x, place.y), shift, (width, height), strict=True)]
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.array([[flip * cos, -flip * sin], [sin, cos]])
    # Pixel centers, not corners, are whole numbers to OpenCV.
    matrix = np.column_stack([linear, (side_px - 1) / 2 - linear @ (np.array(center) - 0.5)])
    size = (side_px, side_px)
    flags = cv2.INTER_LINEAR if augmentation else cv2.INTER_NEAREST
    image = cv2.warpAffine(picture.image, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
    if picture.mask is None:
        return np.asarray(image, np.uint8), np.full(size, UNLABELED, np.uint8)
    mask = cv2.warpAffine(
        picture.mask, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=UNLABELED
    )
    return np.asarray(image, np.uint8), np.asarray(mask, np.uint8)


def _inside(center: float, size: int, side_px: float) -> float:
    """The nearest center of a crop that does not leave the picture; its middle where it is smaller than a crop."""
    half = side_px / 2
    return size / 2 if size <= side_px else float(np.clip(center, half, size - half))
