"""White point and tissue, told apart by color alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.stain.density import Float64, percentile, to_density
from napari_histoseg.slide.stain.histogram import Colors

White = tuple[float, float, float]

#: Glass is at least this bright, and its channels differ by at most this much.
BRIGHT, UNSATURATED = 190.0, 24.0
#: The same where there is pure white, which may itself be the glass; and how much of other glass there must be beside it.
PALEST, OTHER_PART = 12.0, 0.3
#: Part of the pixels that must be glass for it to be measured.
GLASS_PART = 0.002
#: Where no glass is seen, the brightest tissue stands in for it, but not below this.
WHITE_LEAST = 235.0
#: Density of tissue: mean over the channels, and between the largest and the smallest.
TISSUE_DENSITY, TISSUE_SPREAD = 0.05, 0.04


def find_white(colors: Colors) -> White:
    """RGB of the glass.

    The median of what is as bright as the brightest unsaturated colors. Pure white (a border that the scanner
    or a program filled) counts only where there is no other glass. Without glass it is the 99.5th percentile of each
    channel, at least 235.
    """
    spread = np.ptp(colors.values, axis=1)
    gray = (colors.values.min(1) > BRIGHT) & (spread < UNSATURATED)
    filled = colors.where(colors.values.min(1) > 254.5)
    other = colors.where(gray & (colors.values.min(1) <= 254.5) & (spread < (PALEST if filled.total else UNSATURATED)))
    # Beside pure white, a few pale pixels are tissue that is thin, not the glass.
    enough = max(GLASS_PART * colors.total, 50), OTHER_PART * filled.total
    for glass, least in ((other, max(enough)), (filled, enough[0])):
        if glass.total >= least:
            level = glass.values.mean(1)
            top = glass.where(level >= percentile(level, glass.counts, 90) - 8)
            return _triple([percentile(channel, top.counts, 50) for channel in top.values.T])
    if not colors.counts.size:
        return 255.0, 255.0, 255.0
    bright = [percentile(channel, colors.counts, 99.5) for channel in colors.values.T]
    return _triple([max(value, WHITE_LEAST) for value in bright])


def _triple(values: list[float]) -> White:
    red, green, blue = (round(value, 2) for value in values)
    return red, green, blue


def is_tissue(density: Float64) -> npt.NDArray[np.bool_]:
    """Which densities ``(n, 3)`` are stained tissue: dense enough, with a hue, and not of a pen's color."""
    red, green, blue = density.T
    spread, top = np.ptp(density, axis=1), density.max(1)
    tissue = (density.mean(1) > TISSUE_DENSITY) & (spread > TISSUE_SPREAD)
    # H&E absorbs green the most. Green and blue ink absorb red far more, red ink blue as much, black ink all alike.
    green_or_blue_ink = green < 0.76 * red
    red_or_yellow_ink = (blue > 0.78 * green) & (red < 0.25 * green)
    black_ink = (density.min(1) > 0.5) & (spread < 0.2 * top)
    return np.asarray(tissue & ~green_or_blue_ink & ~red_or_yellow_ink & ~black_ink & (green > 0))


def tissue_of(colors: Colors, white: White) -> tuple[Colors, Float64]:
    """The colors that are tissue, and their optical densities ``(n, 3)``."""
    density = to_density(colors.values, white)
    tissue = is_tissue(density)
    return colors.where(tissue), density[tissue]
