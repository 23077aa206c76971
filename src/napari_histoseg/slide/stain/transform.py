"""The normalizer: one fixed map of colors from a slide's stain to a reference's."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError
from napari_histoseg.slide.stain.density import (
    TO_XYZ,
    Float64,
    density_table,
    stain_matrix,
    to_linear,
)
from napari_histoseg.slide.stain.effect import GLASS, GLASS_SHIFTED, fan_of
from napari_histoseg.slide.stain.histogram import check_pixels
from napari_histoseg.slide.stain.profile import METHODS, StainMethod, StainProfile
from napari_histoseg.slide.stain.safety import GAIN, SPREAD, choose
from napari_histoseg.slide.stain.table import table_for

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

#: Changes when the same profiles give other pixels, so that stored results are not mixed up.
REVISION = 1
GAMMA_STEPS = 8192


class StainNormalizer:
    """Brings the colors of one slide to those of a reference.

    A pure function of the pixel: a slide normalized tile by tile equals the slide normalized whole. Glass, gray
    and the colors of pens stay as they are; see :mod:`.effect`. Where a profile cannot be trusted another method
    is used or none, and :attr:`quality` says why. Can be pickled; safe to use from many threads.

    Parameters
    ----------
    source : StainProfile
        The slide's own stain, measured over the whole slide.
    target : StainProfile
        The reference's.
    method : {"macenko", "vahadane", "reinhard"}

    Attributes
    ----------
    asked : str
        The method that was asked for.
    method : str or None
        The method that is used; None when the pixels are left as they are.
    quality : Quality
        Light and reason.

    Raises
    ------
    SettingsError
        For an unknown method.
    """

    #: Neighbors that a pixel's value depends on: none.
    halo_px = 0
    stride_px = 1

    def __init__(self, source: StainProfile, target: StainProfile, method: StainMethod = "macenko") -> None:
        if method not in METHODS:
            raise SettingsError(f"There is no stain method {method!r}. Choose one of: {', '.join(METHODS)}.")
        self.source, self.target, self.asked = source, target, method
        self.method, self.quality = choose(source, target, method)

    def apply(self, pixels: npt.ArrayLike) -> UInt8:
        """The pixels ``(..., 3)`` uint8 with their colors changed; a new array of the same shape.

        Raises
        ------
        SettingsError
            For anything but 8-bit RGB.
        """
        given = check_pixels(pixels)
        if self.method is None:
            return given.copy()
        from napari_histoseg.slide.stain import kernels

        flat = np.ascontiguousarray(given).reshape(-1, 3)
        out = np.empty_like(flat)
        density, fan = self._effect
        table = table_for(self._key)
        if self.method == "reinhard":
            kernels.recolor_lab(flat, density, fan, *self._lab_map, table, out)
        else:
            kernels.recolor_density(flat, density, fan, self._factors, table, out)
        return out.reshape(given.shape)

    @functools.cached_property
    def _effect(self) -> tuple[Float32, Float32]:
        stains = self.source.vahadane if self.method == "vahadane" else self.source.macenko
        # Reinhard knows no stain vectors, and stands in where they were not to be trusted.
        vectors = None if self.method == "reinhard" and self.quality.light != "good" else stains.vectors
        glass = GLASS_SHIFTED if self.method == "reinhard" else GLASS
        return density_table(self.source.white).astype(np.float32), fan_of(vectors, glass)

    @functools.cached_property
    def _factors(self) -> Float32:
        """Unmix, scale each stain, mix again: a linear map of density. The residual is carried over as it is."""
        own, other = (getattr(profile, str(self.method)) for profile in (self.source, self.target))
        gain = np.clip(np.divide(other.concentrations, own.concentrations), *GAIN)
        mix = np.linalg.inv(stain_matrix(own.vectors)) @ np.diag([*gain, 1.0]) @ stain_matrix(other.vectors)
        return factors_of(density_table(self.source.white), mix, np.zeros(3), np.asarray(self.target.white))

    @functools.cached_property
    def _lab_map(self) -> tuple[Float32, Float32, Float32]:
        own, other = self.source, self.target
        gain = np.clip(np.divide(other.lab_sd, np.maximum(own.lab_sd, 1e-6)), *SPREAD)
        scale = np.stack([gain, np.asarray(other.lab_mean) - gain * np.asarray(own.lab_mean)])
        return scale.astype(np.float32), np.stack([TO_XYZ, np.linalg.inv(TO_XYZ)]).astype(np.float32), _gamma()

    def key(self) -> str:
        """``sha256:`` of what it does: the same key, the same output."""
        return self._key

    @functools.cached_property
    def _key(self) -> str:
        facts: dict[str, Any] = {"revision": REVISION, "method": self.method}
        if self.method is not None:
            used = {"white", "macenko", str(self.method)} | ({"lab_mean", "lab_sd"} if self.method == "reinhard" else set())
            facts["trusted"] = self.quality.light == "good"
            facts["profiles"] = [p.model_dump(mode="json", include=used) for p in (self.source, self.target)]
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run's record keeps; only JSON types."""
        return {
            "method": self.method,
            "asked": self.asked,
            "quality": {"light": self.quality.light, "reason": self.quality.reason},
            "source": self.source.model_dump(mode="json"),
            "target": self.target.model_dump(mode="json"),
            "key": self._key,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return StainNormalizer, (self.source, self.target, self.asked)

    def __repr__(self) -> str:
        return f"<StainNormalizer {self.method} to {self.target.name or 'a reference'}: {self.quality.light}>"


def factors_of(density: Float64, mix: Float64, shift: Float64, white: Float64) -> Float32:
    """A map of density as factors of intensity, ``(3, 3, 256)``.

    The new density of channel ``j`` is ``density @ mix[:, j] + shift[j]``; ``white * 10**-density`` of a sum is a
    product, so each channel's value looks up its factor and no pixel needs an exponential.
    """
    factors = 10.0 ** -(mix.T[:, :, None] * density[None])
    factors[:, 0] *= (white * 10.0**-shift)[:, None]
    return np.ascontiguousarray(factors, dtype=np.float32)


@functools.lru_cache(maxsize=1)
def _gamma() -> Float32:
    linear = np.arange(GAMMA_STEPS + 1) / GAMMA_STEPS
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    return np.concatenate([to_linear(np.arange(256)), encoded]).astype(np.float32)
