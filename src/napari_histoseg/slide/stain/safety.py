"""Whether a measurement can be trusted, and what is done where it cannot: one plain sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from napari_histoseg.slide.stain.density import MEASURED, USUAL, angle_deg
from napari_histoseg.slide.stain.profile import StainMethod, StainProfile, StainVectors

#: Fewer pixels of tissue are not measured.
TISSUE_LEAST = 2000
#: Stain vectors closer than this cannot be told apart.
ANGLE_LEAST_DEG = 6.0
#: A vector further than this from what is usually found for hematoxylin or eosin is another stain.
ANGLE_MOST_DEG = 25.0
#: 99th percentiles of concentration outside of this are no H&E; below WEAK it is hardly stained.
WEAK, STRONG = 0.12, 4.0
#: The least and the largest factor on a concentration, and on the spread of a color, so that weak stain does not explode.
GAIN, SPREAD = (0.125, 4.0), (1 / 3, 3.0)
#: How much more one stain may have to be strengthened than the other. Pairs of H&E slides of five laboratories need up to 3.1;
#: pictures stained with hematoxylin alone need 4 to 13, because their "eosin" is thin hematoxylin.
BALANCE = 3.2
#: A spread of L* below this is a single flat color.
FLAT = 0.5


@dataclass(frozen=True)
class Quality:
    """A traffic light and its reason.

    Parameters
    ----------
    light : {"good", "doubtful", "refused"}
    reason : str
        A plain sentence; empty when good.
    """

    light: Literal["good", "doubtful", "refused"]
    reason: str = ""


def problems_of(profile: StainProfile) -> tuple[str, ...]:
    """Every reason not to trust a profile, as sentences."""
    nothing = _no_tissue(profile, "the picture")
    if nothing:
        return (nothing,)
    vectors = (_vectors(getattr(profile, method), method, "the picture") for method in ("macenko", "vahadane"))
    return tuple(dict.fromkeys(problem for problem in vectors if problem))


def choose(source: StainProfile, target: StainProfile, asked: StainMethod) -> tuple[StainMethod | None, Quality]:
    """The method that is really used (None: the pixels are left as they are), and how good it will be.

    Parameters
    ----------
    source, target : StainProfile
        What the slide looks like, and what it shall look like.
    asked : {"macenko", "vahadane", "reinhard"}
    """
    both = ((source, "the slide"), (target, "the reference"))
    nothing = [problem for profile, what in both if (problem := _no_tissue(profile, what))]
    if nothing:
        return None, Quality("refused", f"{nothing[0]} The colors are left as they are.")
    if asked == "reinhard":
        return asked, _spread(source, target)
    own, other = getattr(source, asked), getattr(target, asked)
    wrong = [p for p in (_vectors(own, asked, "the slide"), _vectors(other, asked, "the reference"), _ratio(own, other)) if p]
    if wrong:
        return "reinhard", Quality("doubtful", f"{wrong[0]} Reinhard's method is used instead.")
    return asked, Quality("good")


def _no_tissue(profile: StainProfile, what: str) -> str:
    if profile.tissue_pixels < TISSUE_LEAST:
        return f"There is nearly no stained tissue in {what}: {profile.tissue_pixels} pixels, at least {TISSUE_LEAST} are needed."
    if profile.lab_sd[0] < FLAT:
        return f"All tissue in {what} has the same color, so no stain can be measured."
    return ""


def _vectors(stains: StainVectors, method: str, what: str) -> str:
    title, angle = method.capitalize(), angle_deg(stains.vectors)
    if angle < ANGLE_LEAST_DEG:
        return (
            f"{title} cannot tell hematoxylin and eosin apart in {what}: their colors are {angle:.1f}° apart, "
            f"at least {ANGLE_LEAST_DEG:g}° are needed."
        )
    for stain, vector, first, second in zip(("hematoxylin", "eosin"), stains.vectors, USUAL, MEASURED):
        if (far := min(angle_deg((vector, first)), angle_deg((vector, second)))) > ANGLE_MOST_DEG:
            return f"What {title} takes for {stain} in {what} is {far:.0f}° from the usual color: this may be another stain."
    for stain, amount in zip(("hematoxylin", "eosin"), stains.concentrations):
        if amount < WEAK:
            return f"There is hardly any {stain} in {what}: its 99th percentile is {amount:.2f}, at least {WEAK:g} is needed."
        if amount > STRONG:
            return f"The amount of {stain} in {what} is implausible: its 99th percentile is {amount:.2f}, at most {STRONG:g} is."
    return ""


def _ratio(own: StainVectors, other: StainVectors) -> str:
    for stain, has, wants in zip(("Hematoxylin", "Eosin"), own.concentrations, other.concentrations):
        gain = wants / has
        if not GAIN[0] <= gain <= GAIN[1]:
            return f"{stain} would have to become {gain:.2g} times as strong; {GAIN[0]:g} to {GAIN[1]:g} times is plausible."
    gains = np.divide(other.concentrations, own.concentrations)
    balance = float(gains.max() / gains.min())
    if balance > BALANCE:
        more, less = ("Hematoxylin", "eosin") if gains[0] > gains[1] else ("Eosin", "hematoxylin")
        return (
            f"{more} would have to gain {balance:.2g} times on {less}; up to {BALANCE:g} times is plausible between H&E slides, "
            "so one of the two may be missing here."
        )
    return ""


def _spread(source: StainProfile, target: StainProfile) -> Quality:
    gains = [wants / max(has, 1e-6) for has, wants in zip(source.lab_sd, target.lab_sd)]
    worst = max(gains, key=lambda gain: max(gain, 1 / max(gain, 1e-6)))
    if SPREAD[0] <= worst <= SPREAD[1]:
        return Quality("good")
    return Quality("doubtful", f"The colors would have to spread {worst:.2g} times as wide; this is held to {SPREAD[0]:.2g} to {SPREAD[1]:g} times.")
