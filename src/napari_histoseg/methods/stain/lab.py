"""CIE L*a*b* of sRGB pixels and back, with the lightness kept where a color does not exist in sRGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
LEAST, MOST = -0.0001, 1.004
"""Linear light up to here rounds to a channel of sRGB: less than half a gray level outside."""
GAMMA_STEPS = 1 << 15
"""Steps of linear light: a fifteenth of a gray level where they are widest."""
_MATRIX = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_MATRIX /= _MATRIX.sum(1, keepdims=True)  # relative to the white of sRGB, D65
_FROM_RGB = _MATRIX.T.astype(np.float32)
_TO_RGB = np.linalg.inv(_MATRIX).astype(np.float32)
_BYTES = np.arange(256) / 255
_LINEAR = np.where(_BYTES > 0.04045, ((_BYTES + 0.055) / 1.055) ** 2.4, _BYTES / 12.92).astype(np.float32)
_LIGHT = np.arange(GAMMA_STEPS + 1) / GAMMA_STEPS
_BYTE = np.rint(255 * np.where(_LIGHT > 0.0031308, 1.055 * _LIGHT ** (1 / 2.4) - 0.055, 12.92 * _LIGHT)).astype(np.uint8)
CHROMA_STEPS = 6
"""Halvings of the interval in which the largest chroma inside sRGB is sought: 1/64 of the chroma asked for."""


def to_lab(pixels: NDArray[np.uint8]) -> tuple[Float, Float]:
    """(h, w, 3) uint8 RGB → L* (h, w) from 0 to 100, and a*, b* (h, w, 2)."""
    root = np.cbrt(_LINEAR[pixels] @ _FROM_RGB)
    # The straight piece near black; Y below 0.0089 is L* below 8.
    root = np.where(root > 6 / 29, root, root**3 * np.float32(841 / 108) + np.float32(4 / 29))
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return 116 * y - 16, np.stack([500 * (x - y), 200 * (y - z)], -1)


def to_rgb(lightness: Float, ab: Float) -> NDArray[np.uint8]:
    """L* (h, w), a* and b* (h, w, 2) → (h, w, 3) uint8 RGB.

    Where that color lies outside sRGB its chroma is lowered until it does not: clipping the channels would change L*.
    """
    light = _linear(lightness, ab)
    outside = _outside(light)
    if outside.any():
        light[:, outside] = _pulled_in(lightness[outside], ab[outside])
    out = np.empty((*lightness.shape, 3), np.uint8)
    for channel, plane in enumerate(light):
        steps = np.clip(plane, 0, 1) * np.float32(GAMMA_STEPS) + np.float32(0.5)
        out[..., channel] = _BYTE[steps.astype(np.int32)]
    return out


def _linear(lightness: Float, ab: Float) -> Float:
    """Linear light (3, ...), outside of 0 to 1 where the color does not exist in sRGB."""
    y = (lightness + np.float32(16)) / np.float32(116)
    x, y, z = (_unroot(f) for f in (y + ab[..., 0] / np.float32(500), y, y - ab[..., 1] / np.float32(200)))
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in _TO_RGB])


def _unroot(f: Float) -> Float:
    return np.where(f > 6 / 29, f * f * f, (f - np.float32(4 / 29)) * np.float32(108 / 841))


def _outside(light: Float) -> NDArray[np.bool_]:
    return np.asarray((light.min(0) < LEAST) | (light.max(0) > MOST))


def _pulled_in(lightness: Float, ab: Float) -> Float:
    """Linear light (3, n) of the strongest chroma of the same hue and lightness that sRGB has."""
    inside: Float = np.zeros_like(lightness)
    outside: Float = np.ones_like(lightness)
    for _ in range(CHROMA_STEPS):
        part = (inside + outside) * np.float32(0.5)
        fits = ~_outside(_linear(lightness, ab * part[:, None]))
        inside, outside = np.where(fits, part, inside), np.where(fits, outside, part)
    return _linear(lightness, ab * inside[:, None])
