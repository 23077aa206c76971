"""Compiled passes over pixels: count colors, recolor them, look them up.

Numba checks only the file of a cached kernel for changes, so a kernel calls no kernel of another module.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.compiled import kernel

UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Real = np.float32


@kernel
def count_colors(pixels: UInt8, step: int, bits: int, sums: Int64) -> None:
    """Add every ``step``-th of the pixels ``(n, 3)`` to a histogram with ``bits`` bits a channel.

    ``sums`` is ``(8**bits, 4)``: the sum of each channel's values, so that each bin knows its mean, and the number of pixels,
    each counted for ``step``.
    """
    shift = 8 - bits
    for i in range(0, pixels.shape[0], step):
        r, g, b = np.int64(pixels[i, 0]), np.int64(pixels[i, 1]), np.int64(pixels[i, 2])
        j = ((r >> shift) << (2 * bits)) | ((g >> shift) << bits) | (b >> shift)
        sums[j, 0] += step * r
        sums[j, 1] += step * g
        sums[j, 2] += step * b
        sums[j, 3] += step


@kernel
def sparse_sums(density: Float64, weights: Float64, vectors: Float64, sparsity: float, gram: Float64, cross: Float64) -> None:
    """The sums over all colors that one turn of Vahadane's method needs; see :func:`.vahadane.find_vectors`.

    Parameters
    ----------
    density : float64 (n, 3)
    weights : float64 (n,)
    vectors : float64 (2, 3)
    sparsity : float
    gram : float64 (2, 2)
        Receives the weighted products of the amounts with each other.
    cross : float64 (2, 3)
        Receives those of the amounts with the densities.
    """
    cosine = vectors[0, 0] * vectors[1, 0] + vectors[0, 1] * vectors[1, 1] + vectors[0, 2] * vectors[1, 2]
    inverse = 1 / max(1 - cosine * cosine, 1e-9)
    gram[:] = 0
    cross[:] = 0
    for i in range(density.shape[0]):
        red, green, blue = density[i, 0], density[i, 1], density[i, 2]
        first = red * vectors[0, 0] + green * vectors[0, 1] + blue * vectors[0, 2] - sparsity
        second = red * vectors[1, 0] + green * vectors[1, 1] + blue * vectors[1, 2] - sparsity
        # With two stains the optimum has both, one or none of them, so it is found without iterating.
        a, b = (first - cosine * second) * inverse, (second - cosine * first) * inverse
        if a <= 0 or b <= 0:
            a, b = (max(first, 0.0), 0.0) if first > second else (0.0, max(second, 0.0))
        u, v = a * weights[i], b * weights[i]
        gram[0, 0] += u * a
        gram[0, 1] += u * b
        gram[1, 1] += v * b
        for j in range(3):
            cross[0, j] += u * density[i, j]
            cross[1, j] += v * density[i, j]
    gram[1, 0] = gram[0, 1]


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
def _pack(r: np.uint8, g: np.uint8, b: np.uint8) -> np.uint32:
    """One integer for a color; never 0, which in a table says that nothing is known yet."""
    return np.uint32(0xFF000000) | np.uint32(r) | (np.uint32(g) << 8) | (np.uint32(b) << 16)


@kernel
def _by_density(r: np.uint8, g: np.uint8, b: np.uint8, density: Float32, fan: Float32, factors: Float32) -> np.uint32:
    effect = _effect(density[0, r], density[1, g], density[2, b], fan)
    if effect <= 0:
        return _pack(r, g, b)
    red = factors[0, 0, r] * factors[0, 1, g] * factors[0, 2, b]
    green = factors[1, 0, r] * factors[1, 1, g] * factors[1, 2, b]
    blue = factors[2, 0, r] * factors[2, 1, g] * factors[2, 2, b]
    return _pack(_blend(r, red, effect), _blend(g, green, effect), _blend(b, blue, effect))


@kernel
def recolor_density(pixels: UInt8, density: Float32, fan: Float32, factors: Float32, table: UInt32, out: UInt8) -> None:
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
    table : uint32 (256**3,) or (0,)
        The new color of each color met before; others are computed and noted. Threads may share it: they note the
        same. Nothing is noted in an empty table.
    """
    for i in range(pixels.shape[0]):
        r, g, b = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        if table.size == 0:
            color = _by_density(r, g, b, density, fan, factors)
        else:
            place = (np.uint32(r) << 16) | (np.uint32(g) << 8) | np.uint32(b)
            color = table[place]
            if color == 0:
                color = _by_density(r, g, b, density, fan, factors)
                table[place] = color
        out[i, 0] = color & 255
        out[i, 1] = (color >> 8) & 255
        out[i, 2] = (color >> 16) & 255


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
def _encode(x: Real, y: Real, z: Real, back: Float32, gamma: Float32) -> Real:
    """One channel of sRGB, 0 to 255, from XYZ; ``back`` is its row of the matrix."""
    steps = gamma.shape[0] - 257
    linear = min(max(back[0] * x + back[1] * y + back[2] * z, np.float32(0)), np.float32(1)) * np.float32(steps)
    k = min(int(linear), steps - 1)
    return np.float32(gamma[256 + k] + (gamma[257 + k] - gamma[256 + k]) * (linear - np.float32(k)))


@kernel
def _by_lab(
    r: np.uint8, g: np.uint8, b: np.uint8, density: Float32, fan: Float32, scale: Float32, matrices: Float32, gamma: Float32
) -> np.uint32:
    effect = _effect(density[0, r], density[1, g], density[2, b], fan)
    if effect <= 0:
        return _pack(r, g, b)
    to, back = matrices[0], matrices[1]
    u, v, w = gamma[r], gamma[g], gamma[b]
    x = _root(to[0, 0] * u + to[0, 1] * v + to[0, 2] * w)
    y = _root(to[1, 0] * u + to[1, 1] * v + to[1, 2] * w)
    z = _root(to[2, 0] * u + to[2, 1] * v + to[2, 2] * w)
    lightness = (np.float32(116) * y - np.float32(16)) * scale[0, 0] + scale[1, 0]
    redness = np.float32(500) * (x - y) * scale[0, 1] + scale[1, 1]
    yellowness = np.float32(200) * (y - z) * scale[0, 2] + scale[1, 2]
    f = (lightness + np.float32(16)) / np.float32(116)
    x, y, z = _unroot(f + redness / np.float32(500)), _unroot(f), _unroot(f - yellowness / np.float32(200))
    red, green, blue = _encode(x, y, z, back[0], gamma), _encode(x, y, z, back[1], gamma), _encode(x, y, z, back[2], gamma)
    return _pack(_blend(r, red, effect), _blend(g, green, effect), _blend(b, blue, effect))


@kernel
def recolor_lab(
    pixels: UInt8, density: Float32, fan: Float32, scale: Float32, matrices: Float32, gamma: Float32, table: UInt32, out: UInt8
) -> None:
    """A scaling and shift of CIE L*a*b*.

    Parameters
    ----------
    pixels, density, fan, table, out
        As for :func:`recolor_density`; the table is not empty.
    scale : float32 (2, 3)
        Factor and offset of L*, a* and b*.
    matrices : float32 (2, 3, 3)
        Linear RGB to XYZ relative to white, and back.
    gamma : float32 (k,)
        ``gamma[:256]``: linear value of each 8-bit value; the rest: 8-bit value of evenly spaced linear values.
    """
    for i in range(pixels.shape[0]):
        r, g, b = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        place = (np.uint32(r) << 16) | (np.uint32(g) << 8) | np.uint32(b)
        color = table[place]
        if color == 0:
            color = _by_lab(r, g, b, density, fan, scale, matrices, gamma)
            table[place] = color
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
