"""From pixels to a profile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.stain import macenko, vahadane
from napari_histoseg.slide.stain.density import USUAL, Float64, to_lab
from napari_histoseg.slide.stain.glass import White, find_white, tissue_of
from napari_histoseg.slide.stain.histogram import Colors, check_pixels, count_colors
from napari_histoseg.slide.stain.profile import StainProfile, StainVectors, Triple
from napari_histoseg.slide.stain.safety import problems_of
from napari_histoseg.slide.tissue import find_ink, optical_density

UInt8 = npt.NDArray[np.uint8]
#: Longer side of the picture in which ink is looked for.
INK_SEEN_PX = 256


def measure(image: UInt8 | Sequence[UInt8], *, name: str = "") -> StainProfile:
    """The stain of one or more pictures.

    White point, stain vectors, amounts and color statistics are taken from the pictures' colors; glass, gray and the
    colors of pens are left out. Nothing is raised for pictures without tissue: the profile's ``problems`` say so.

    Parameters
    ----------
    image : uint8 (h, w, 3) or sequence of such
        RGB. All pictures are taken together, as one slide.
    name : str
        Name of the profile.

    Raises
    ------
    SettingsError
        For anything but 8-bit RGB.
    """
    images = [image] if isinstance(image, np.ndarray) else list(image)
    return measure_colors(count_colors(without_ink(check_pixels(picture)) for picture in images), name=name)


def without_ink(image: UInt8) -> UInt8:
    """The pixels of a picture ``(h, w, 3)`` that are not under a pen's ink, ``(n, 3)``; the picture itself when there is none.

    Ink is found on a picture made small: it is known by strong strokes, and pale ink by being connected with them, which
    its color alone does not tell.
    """
    if image.ndim != 3 or min(image.shape[:2]) < 3:
        return image
    step = -(-max(image.shape[:2]) // INK_SEEN_PX)
    ink = find_ink(optical_density(image[::step, ::step]))
    if not ink.any():
        return image
    return image[~ink.repeat(step, 0).repeat(step, 1)[: image.shape[0], : image.shape[1]]]


def measure_colors(colors: Colors, *, name: str = "", white: White | None = None) -> StainProfile:
    """The same from a histogram; ``white`` is the glass, where it is known from elsewhere."""
    white = white or find_white(colors)
    tissue, density = tissue_of(colors, white)
    first, second = _stains(density, tissue.counts)
    mean, sd = lab_statistics(tissue)
    profile = StainProfile(
        name=name, white=white, macenko=first, vahadane=second, lab_mean=mean, lab_sd=sd, tissue_pixels=int(tissue.total)
    )
    return profile.model_copy(update={"problems": problems_of(profile)})


def _stains(density: Float64, counts: Float64) -> tuple[StainVectors, StainVectors]:
    """Both measurements; the usual vectors where there is no tissue."""
    usual = np.asarray(USUAL)
    usual /= np.linalg.norm(usual, axis=1, keepdims=True)
    if len(density) < 2:
        rows = [(float(r), float(g), float(b)) for r, g, b in usual]
        nothing = StainVectors(vectors=(rows[0], rows[1]), concentrations=(0.0, 0.0))
        return nothing, nothing
    edges = macenko.find_vectors(density, counts)
    sparse = vahadane.find_vectors(density, counts, usual)
    return macenko.describe(edges, density, counts), macenko.describe(sparse, density, counts)


def lab_statistics(tissue: Colors) -> tuple[Triple, Triple]:
    """Mean and standard deviation of L*, a* and b* over the tissue.

    After Reinhard et al., "Color transfer between images", IEEE Comput. Graph. Appl. 21, 2001, who use the
    similar space lαβ. Zeros without tissue.
    """
    if not tissue.counts.size:
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    lab = to_lab(tissue.values)
    mean = np.average(lab, axis=0, weights=tissue.counts)
    sd = np.sqrt(np.average((lab - mean) ** 2, axis=0, weights=tissue.counts))
    return _triple(mean), _triple(sd)


def _triple(values: Float64) -> Triple:
    a, b, c = (round(float(value), 4) for value in values)
    return a, b, c
