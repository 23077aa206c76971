"""Which colors a stain normalization changes: mixes of hematoxylin and eosin, and neither glass nor ink.

The answer is a number between 0 and 1 for each color. Between "not at all" and "fully" it changes smoothly, so that no
edge appears in the picture. It is 0 for glass (next to no density), for gray (dust, shadows, black ink), for the colors of
green, blue and red ink, and for colors whose density points away from the fan between the two stains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.stain.density import stain_matrix

Float32 = npt.NDArray[np.float32]

#: Length of the density (base 10) up to which a color is glass, and from which it is tissue.
GLASS = 0.03, 0.09
#: The same for a map that shifts colors, and so moves pale ones as far as strong ones.
GLASS_SHIFTED = 0.045, 0.13
#: Angle beside the fan (in the plane of the stains) and above it up to which a color is fully stained; twice as
#: far (in tangents) it is something else.
BESIDE_DEG, ABOVE_DEG = 8.0, 13.0
#: (Largest - smallest) / largest density up to which a color is gray, and from which it has a hue.
GRAY, HUED = 0.10, 0.25
#: Density that is noise: one to three gray levels.
NOISE = 0.012


def fan_of(vectors: npt.ArrayLike | None, glass: tuple[float, float] = GLASS) -> Float32:
    """What the kernels need to know of the accepted colors, as rows.

    Parameters
    ----------
    vectors : two triples, optional
        Hematoxylin and eosin; without them every hue is accepted but those of pens.
    glass : (float, float)
        Where glass ends and tissue begins.

    Returns
    -------
    float32 (6, 3)
        0: middle of the fan. 1: direction in which it spreads. 2: its normal. 3: cosine and sine of half its
        width; noise. 4: 1 / tangent of the accepted angle beside and above; end of gray. 5: end of glass, begin
        of tissue; begin of hues.
    """
    fan = np.zeros((6, 3), np.float32)
    fan[4, 2], fan[5] = GRAY, (*glass, HUED)
    if vectors is None:
        return fan
    hematoxylin, eosin, normal = stain_matrix(vectors)
    middle, spread = hematoxylin + eosin, hematoxylin - eosin
    half = np.arctan2(np.linalg.norm(spread), np.linalg.norm(middle))
    fan[0], fan[1], fan[2] = middle / np.linalg.norm(middle), spread / np.linalg.norm(spread), normal
    fan[3] = np.cos(half), np.sin(half), NOISE
    fan[4, :2] = 1 / np.tan(np.radians((BESIDE_DEG, ABOVE_DEG)))
    return fan
