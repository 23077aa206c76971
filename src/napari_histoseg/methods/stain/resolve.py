"""From what a person names (a profile, a picture, a slide, a style) to a normalizer for one slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_histoseg.errors import SettingsError
from napari_histoseg.slide import Slide, open_slide
from napari_histoseg.slide.normalized import Normalizer
from napari_histoseg.slide.stain import StainNormalizer, StainProfile, builtin_profiles, load_profile, measure_slide

METHODS = ("macenko", "vahadane", "reinhard", "neural")
STYLE = ".safetensors"


def normalizer_for(
    slide: Slide, target: Any = None, method: str = "macenko", *, weights: Path | None = None, seed: int = 0, device: str = "auto"
) -> Normalizer:
    """The normalizer that brings a slide to a target.

    Parameters
    ----------
    slide : Slide
        Measured as scanned, on tissue from all over it.
    target : StainProfile, Slide, array, path, name or None
        What to look like: a profile (also its JSON file, or the name of a built-in one), or a picture or slide to measure.
        None is the first built-in profile; for ``neural`` the style's own colors.
    method : {"macenko", "vahadane", "reinhard", "neural"}
    weights : path, optional
        A trained style, for ``neural``; the one that ships when not given.
    seed : int
        Chooses the tissue that is measured.
    device : str
        Where a neural style runs.

    Raises
    ------
    SettingsError
        For an unknown method, or a target that is neither.
    SlideError
        When the target's file cannot be read.
    """
    if method not in METHODS:
        raise SettingsError(f"There is no stain method '{method}'. The methods are: {', '.join(METHODS)}.")
    if method == "neural":
        return _style(slide, None if target is None else profile_of(target), weights, seed, device)
    if weights is not None:
        raise SettingsError(f"Only the method 'neural' has weights; '{method}' measures the slide. Leave the weights out, or choose neural.")
    wanted = next(iter(builtin_profiles().values())) if target is None else profile_of(target)
    return StainNormalizer(measure_slide(slide.unstained, seed=seed), wanted, method)  # type: ignore[arg-type]


def _style(slide: Slide, target: StainProfile | None, weights: Path | None, seed: int, device: str) -> Normalizer:
    from napari_histoseg.methods.stain.style import style_for

    return style_for(slide, weights, target=target, seed=seed, device=device)


def stained(slide: Slide, stain: Any, method: str | None = None) -> Slide:
    """The slide, read in the colors of ``stain``.

    Parameters
    ----------
    slide : Slide
    stain : Normalizer, or a target as for :func:`normalizer_for`, or a style's ``.safetensors`` file
    method : str, optional
        ``macenko`` when not given, ``neural`` for a style.
    """
    if hasattr(stain, "apply") and hasattr(stain, "key"):
        return slide.with_stain(stain)
    if isinstance(stain, str | Path) and Path(stain).suffix == STYLE:
        if method not in (None, "neural"):
            raise SettingsError(f"{stain} is a trained style, which only the method 'neural' can use. Got '{method}' instead.")
        return slide.with_stain(normalizer_for(slide, None, "neural", weights=Path(stain)))
    return slide.with_stain(normalizer_for(slide, stain, method or "macenko"))


def profile_of(target: Any) -> StainProfile:
    """The profile that a target is, names, or shows."""
    if isinstance(target, StainProfile):
        return target
    if isinstance(target, Slide):
        return measure_slide(target.unstained)
    if isinstance(target, str | Path):
        if str(target) in builtin_profiles() or Path(target).suffix == ".json" or not Path(target).exists():
            return load_profile(target)
        with open_slide(target) as opened:
            return measure_slide(opened)
    if hasattr(target, "shape"):
        return measure_slide(open_slide(target))
    raise SettingsError(
        f"A stain target is a profile, its name or file, a picture, or a slide. Got {type(target).__name__} instead."
    )
