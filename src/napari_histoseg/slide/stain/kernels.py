"""Compiled passes over pixels: count colors, recolor them, look them up.

Numba checks only the file of a cached kernel for changes, so a kernel calls no kernel of another module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

_F = TypeVar("_F", bound=Callable[..., Any])
UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Real = np.float32


def kernel(function: _F) -> _F:
    """Compile on first call, keep on disk, and let other threads run meanwhile."""
    return cast(_F, numba.njit(cache=True, nogil=True)(function))


@kernel
def count_colors(pixels: UInt8, bits: int, counts: Int64, sums: Int64) -> None:
    """Add pixels ``(n, 3)`` to a histogram with ``bits`` bits a channel.

    ``counts`` is ``(8**bits,)``; ``sums`` ``(8**bits, 3)`` collects the values, so that each bin knows its mean.
    """
    shift = 8 - bits
    for i in range(pixels.shape[0]):
        r, g, b = np.int64(pixels[i, 0]), np.int64(pixels[i, 1]), np.int64(pixels[i, 2])
        j = ((r >> shift) << (2 * bits)) | ((g >> shift) << bits) | (b >> shift)
        counts[j] += 1
        sums[j, 0] += r
        sums[j, 1] += g
        sums[j, 2] += b


@kernel
def _smooth(x: Real, low: Real, high: Real) -> Real:
    """0 up to ``low``, 1 from ``high``, and a smooth ramp between."""
    t = np.float32(min(max((x - low) / (high - low), np.float32(0)), np.float32(1)))
    return t * t * (np.float32(3) - np.float32(2) * t)


@kernel
def _no_ink(r: Real, g: Real, b: Real) -> Real:
    """0 for the colors of pens, 1 for H&E, which absorbs green the most and blue less."""
    one, green = np.float32(1), max(g, np.float32(1e-6))
    green_or_blue = one - _smooth(g / max(r, np.float32(1e-6)), np.float32(0.58), np.float32(0.72))
    red = _smooth(b / green, np.float32(0.8), np.float32(0.95)) * (one - _smooth(r / green, np.float32(0.1), np.float32(0.25)))
    return (one - green_or_blue) * (one - red)


@kernel
def _effect(r: Real, g: Real, b: Real, fan: Float32) -> Real:
    """How much of the change a color gets, 0 to 1; see :mod:`.effect`.

    ``r``, ``g``, ``b`` are optical densities; the rows of ``fan`` are made by :func:`.effect.fan_of`.
    """
    zero = np.float32(0)
    r, g, b = max(r, zero), max(g, zero), max(b, zero)
    size = np.float32(np.sqrt(r * r + g * g + b * b))
    # Most of the color cube is no stain: leaving early halves the time to build a table.
    if size <= fan[5, 0] or g <= np.float32(0.58) * r:
        return zero
    top = max(r, g, b)
    gray = (top - min(r, g, b)) / top
    if gray <= fan[4, 2]:
        return zero
    along = r * fan[0, 0] + g * fan[0, 1] + b * fan[0, 2]
    across = abs(r * fan[1, 0] + g * fan[1, 1] + b * fan[1, 2])
    above = abs(r * fan[2, 0] + g * fan[2, 1] + b * fan[2, 2])
    beside = max(across * fan[3, 0] - along * fan[3, 1] - fan[3, 2], zero)
    above = max(above - fan[3, 2], zero)
    reach = max(across * fan[3, 1] + along * fan[3, 0], np.float32(1e-6))
    off = np.float32(np.sqrt((beside * fan[4, 0]) ** 2 + (above * fan[4, 1]) ** 2)) / reach
    if off >= np.float32(2):
        return zero
    one = np.float32(1)
    stained = _smooth(size, fan[5, 0], fan[5, 1]) * (one - _smooth(off, one, np.float32(2)))
    return stained * _smooth(gray, fan[4, 2], fan[5, 2]) * _no_ink(r, g, b)


@kernel
def _blend(old: np.uint8, new: Real, effect: Real) -> np.uint8:
    value = np.float32(old) + (new - np.float32(old)) * effect
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)) + np.float32(0.5))


@kernel
def recolor_density(pixels: UInt8, density: Float32, fan: Float32, factors: Float32, out: UInt8) -> None:
    """A linear map of optical density, which is a product of factors of intensity.

    Parameters
    ----------
    pixels, out : uint8 (n, 3)
    density : float32 (3, 256)
        Optical density of each value of each channel.
    fan : float32 (6, 3)
        What counts as stained tissue.
    factors : float32 (3, 3, 256)
        ``factors[j, i, v]``: what value ``v`` in channel ``i`` contributes to channel ``j``.
    """
    for i in range(pixels.shape[0]):
        r, g, b = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        effect = _effect(density[0, r], density[1, g], density[2, b], fan)
        if effect <= 0:
            out[i, 0], out[i, 1], out[i, 2] = r, g, b
            continue
        for j in range(3):
            new = factors[j, 0, r] * factors[j, 1, g] * factors[j, 2, b]
            out[i, j] = _blend(pixels[i, j], new, effect)


@kernel
def _root(t: Real) -> Real:
    """The function f of CIE L*a*b*."""
    if t > np.float32(0.008856452):
        return np.float32(np.cbrt(t))
    return np.float32(7.787037) * t + np.float32(0.13793103)


@kernel
def _unroot(f: Real) -> Real:
    """The inverse of :func:`_root`."""
    if f > np.float32(0.20689656):
        return f * f * f
    return (f - np.float32(0.13793103)) * np.float32(0.12841855)


@kernel
def recolor_lab(
    pixels: UInt8, density: Float32, fan: Float32, scale: Float32, matrices: Float32, gamma: Float32, out: UInt8
) -> None:
    """A scaling and shift of CIE L*a*b*.

    Parameters
    ----------
    pixels, out : uint8 (n, 3)
    density, fan : float32
        As for :func:`recolor_density`.
    scale : float32 (2, 3)
        Factor and offset of L*, a* and b*.
    matrices : float32 (2, 3, 3)
        Linear RGB to XYZ relative to white, and back.
    gamma : float32 (k,)
        ``gamma[:256]``: linear value of each 8-bit value; the rest: 8-bit value of evenly spaced linear values.
    """
    to, back = matrices[0], matrices[1]
    steps = gamma.shape[0] - 257
    for i in range(pixels.shape[0]):
        r, g, b = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        effect = _effect(density[0, r], density[1, g], density[2, b], fan)
        if effect <= 0:
            out[i, 0], out[i, 1], out[i, 2] = r, g, b
            continue
        u, v, w = gamma[r], gamma[g], gamma[b]
        x = _root(to[0, 0] * u + to[0, 1] * v + to[0, 2] * w)
        y = _root(to[1, 0] * u + to[1, 1] * v + to[1, 2] * w)
        z = _root(to[2, 0] * u + to[2, 1] * v + to[2, 2] * w)
        lightness = (np.float32(116) * y - np.float32(16)) * scale[0, 0] + scale[1, 0]
        red = np.float32(500) * (x - y) * scale[0, 1] + scale[1, 1]
        yellow = np.float32(200) * (y - z) * scale[0, 2] + scale[1, 2]
        y = (lightness + np.float32(16)) / np.float32(116)
        x, z = _unroot(y + red / np.float32(500)), _unroot(y - yellow / np.float32(200))
        y = _unroot(y)
        for j in range(3):
            linear = min(max(back[j, 0] * x + back[j, 1] * y + back[j, 2] * z, np.float32(0)), np.float32(1)) * steps
            k = min(int(linear), steps - 1)
            new = gamma[256 + k] + (gamma[257 + k] - gamma[256 + k]) * (linear - np.float32(k))
            out[i, j] = _blend(pixels[i, j], new, effect)


@kernel
def pack(colors: UInt8, out: UInt32) -> None:
    """Colors ``(n, 3)`` to one integer each."""
    for i in range(colors.shape[0]):
        out[i] = np.uint32(colors[i, 0]) | (np.uint32(colors[i, 1]) << 8) | (np.uint32(colors[i, 2]) << 16)


@kernel
def look_up(pixels: UInt8, table: UInt32, out: UInt8) -> None:
    """Each color ``(n, 3)`` replaced by that of a table of all 256³ colors."""
    for i in range(pixels.shape[0]):
        color = table[(np.uint32(pixels[i, 0]) << 16) | (np.uint32(pixels[i, 1]) << 8) | np.uint32(pixels[i, 2])]
        out[i, 0] = color & 255
        out[i, 1] = (color >> 8) & 255
        out[i, 2] = (color >> 16) & 255


@kernel
def unmix(pixels: UInt8, parts: Float32, out: Float32) -> None:
    """Three sums of table entries: ``out[k, i]`` is the sum over channels ``c`` of ``parts[k, c, pixels[i, c]]``."""
    for i in range(pixels.shape[0]):
        r, g, b = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        for k in range(3):
            out[k, i] = parts[k, 0, r] + parts[k, 1, g] + parts[k, 2, b]
