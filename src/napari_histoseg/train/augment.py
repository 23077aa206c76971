"""Augmentation: geometry on image and instances together, then stain, blur, noise and compression on the image alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
"""Optical density of hematoxylin, eosin and a residual (Ruifrok & Johnston 2001), one stain a row."""

OD_TABLE = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


def warp(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    mask: NDArray[np.int32],
    side_px: int,
    zoom: float,
    outside: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A randomly placed, rotated and flipped square crop of an image and its mask.

    Parameters
    ----------
    image, mask : (h, w, 3) uint8, (h, w) int32
    side_px : int
        Side of the crop.
    zoom : float
        Output pixels per input pixel.
    outside : int
        Mask value where the crop leaves the image (the image itself is mirrored there).
    """
    height, width = mask.shape
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    half = side_px / 2
    # The center stays far enough inside for the crop to hold tissue of this image, where the image is large enough.
    reach = 0.5 * side_px / zoom
    center = [_between(rng, reach, size) for size in (width, height)]
    linear = np.array([[flip * cos, -flip * sin], [sin, cos]], np.float64)
    matrix = np.column_stack([linear, half - linear @ np.array(center)])
    # warpAffine does not average: blur before shrinking.
    source = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)) if zoom < 0.7 else image
    out = cv2.warpAffine(source, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    ids = cv2.warpAffine(
        mask.astype(np.float32), matrix, (side_px, side_px), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    return np.asarray(out, np.uint8), ids.astype(np.int32)


def _between(rng: np.random.Generator, margin: float, size: int) -> float:
    return rng.uniform(margin, size - margin) if size > 2 * margin else rng.uniform(0.4, 0.6) * size


def jitter_stain(rng: np.random.Generator, image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Change amount and hue of each stain, and the lamp: in optical density, so glass stays bright.

    Concentrations are scaled by up to ±50 %, stain vectors turned a little, brightness and contrast moved; at times the
    picture is made almost gray, so that a network does not live on color alone.
    """
    density = OD_TABLE[image].reshape(-1, 3)
    vectors = HED / np.linalg.norm(HED, axis=1, keepdims=True)
    turned = vectors + rng.normal(0, 0.08 * strength, vectors.shape).astype(np.float32)
    turned = np.clip(turned, 0.0, None)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True) + 1e-6
    amount = np.exp(rng.uniform(-0.5, 0.5, 3) * strength).astype(np.float32)
    mix = np.linalg.inv(vectors) @ (amount[:, None] * turned)
    if rng.random() < 0.08 * strength:
        gray = rng.uniform(0.5, 1.0)
        mix = (1 - gray) * mix + gray * mix.mean(1, keepdims=True)
    density = density @ mix.astype(np.float32)
    lamp = rng.normal(0, 0.04 * strength, 3).astype(np.float32) + abs(rng.normal(0, 0.05 * strength))
    value = 256 * np.exp(-np.maximum(density + lamp, 0)) - 1
    gamma = np.exp(rng.normal(0, 0.12 * strength))
    value = 255 * (np.clip(value, 0, 255) / 255) ** gamma
    return np.asarray(value.reshape(image.shape), np.uint8)


def degrade(rng: np.random.Generator, image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """At times: a coarser scanner (down and up again), defocus, sharpening, noise, JPEG."""
    side = image.shape[0]
    out: NDArray[Any] = image
    if rng.random() < 0.3 * strength:
        small = max(8, round(side / rng.uniform(1.3, 2.3)))
        out = cv2.resize(out, (small, small), interpolation=cv2.INTER_AREA)
        out = cv2.resize(out, (side, side), interpolation=cv2.INTER_CUBIC)
    kind = rng.random()
    if kind < 0.25 * strength:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.6))
    elif kind < 0.4 * strength:
        soft = cv2.GaussianBlur(out, (0, 0), 1.0)
        out = cv2.addWeighted(out, 2.0, soft, -1.0, 0)
    if rng.random() < 0.2 * strength:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape)
        out = np.clip(out + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25 * strength:
        quality = int(rng.integers(25, 85))
        encoded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        out = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(out, np.uint8)
