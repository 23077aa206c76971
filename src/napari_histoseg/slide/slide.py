"""One slide: its levels, its pixel size and where that came from, and its pixels at any resolution."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from napari_histoseg.errors import PixelSizeError, RegionError
from napari_histoseg.slide._source import Level, Source
from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.normalized import Normalizer, read_stained
from napari_histoseg.slide.resample import resample

if TYPE_CHECKING:
    import dask.array
    from numpy.typing import NDArray

    from napari_histoseg.slide.view import View

__all__ = ["Level", "MppSource", "Progress", "Slide", "check_mpp"]

MppSource = Literal["file", "user", "layer"]
Progress = Callable[[int, int], None]

#: A slide this many times coarser than a model's pixel size lacks the detail that the model was trained on.
REACH = 2.2
SAME = 1e-6


class Slide:
    """An opened slide. Made by :func:`~napari_histoseg.slide.open.open_slide`; safe to read from many
    threads.

    Pixels are uint8 RGB everywhere. Three frames are used: level-0 pixels, pixels of a level, and working
    pixels at some µm/px; a method says which frame its box is in. What lies outside the slide is white.

    Parameters
    ----------
    source : Source
        The backend that reads the pixels.
    mpp : float, optional
        µm per level-0 pixel; the file's when not given.
    mpp_source : {"file", "user", "layer"}, optional
        Where ``mpp`` came from.
    icc : bool
        Convert reads to sRGB by the slide's ICC profile.
    stain : Normalizer, optional
        Brings the colors of every read to a reference.
    """

    def __init__(
        self,
        source: Source,
        mpp: float | None = None,
        mpp_source: MppSource | None = None,
        icc: bool = False,
        stain: Normalizer | None = None,
    ) -> None:
        self._source = source
        if mpp is None:
            self.mpp, self.mpp_source = source.mpp, "file" if source.mpp is not None else None
        else:
            self.mpp, self.mpp_source = check_mpp(mpp), mpp_source or "user"
        self._to_srgb = icc
        self.stain = stain

    mpp: float | None
    mpp_source: MppSource | None

    # -- facts -------------------------------------------------------------------------------------

    @property
    def path(self) -> str | None:
        """The file or folder; None for arrays."""
        return self._source.path

    @property
    def name(self) -> str:
        """Short name for titles and messages."""
        return self._source.name or (self.path or "").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]

    @property
    def format(self) -> str:
        """``svs``, ``tiff``, ``ome-tiff``, ``ome-zarr``, ``dicom``, ``image``, ``array`` or the vendor's name."""
        return self._source.format

    @property
    def vendor(self) -> str | None:
        """Maker of the scanner or the format, as OpenSlide names it."""
        return self._source.vendor

    @property
    def objective(self) -> float | None:
        """Magnification of the objective, e.g. 40."""
        return self._source.objective

    @property
    def levels(self) -> tuple[Level, ...]:
        """The resolutions in the file, finest first."""
        return self._source.levels

    @property
    def tiles(self) -> tuple[tuple[int, int], ...]:
        """``(width, height)`` of the stored tiles of each level: reads aligned to them are the cheapest."""
        return self._source.tiles

    @property
    def converts(self) -> bool:
        """Whether reads are converted to sRGB by the slide's ICC profile."""
        return self._to_srgb and self.icc_profile is not None

    @property
    def width(self) -> int:
        """Width in level-0 pixels."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """Height in level-0 pixels."""
        return self.levels[0].height

    @property
    def bounds(self) -> Box:
        """The whole slide in level-0 pixels."""
        return self.levels[0].bounds

    @property
    def properties(self) -> dict[str, str]:
        """What else the file says, plus notes under ``histoseg.``."""
        return dict(self._source.properties)

    @property
    def icc_profile(self) -> bytes | None:
        """The embedded color profile."""
        return self._source.icc_profile

    @functools.cached_property
    def associated(self) -> Mapping[str, NDArray[np.uint8]]:
        """Label, macro and thumbnail images ``(h, w, 3)`` by name."""
        return self._source.associated()

    # -- pixel size --------------------------------------------------------------------------------

    def require_mpp(self) -> float:
        """The pixel size in µm/px.

        Raises
        ------
        PixelSizeError
            When neither the file nor the user has said it; it is never guessed.
        """
        if self.mpp is None:
            raise PixelSizeError(
                f"{self.path or self.name} has no pixel size (µm/px). "
                "Pass --mpp on the command line, mpp= in Python, or enter it in the window."
            )
        return self.mpp

    def with_mpp(self, mpp: float, source: MppSource = "user") -> Slide:
        """The same slide (sharing the open file) with another pixel size."""
        return Slide(self._source, check_mpp(mpp), source, self._to_srgb, self.stain)

    def level_mpp(self, level: int) -> float:
        """µm per pixel of a level."""
        return self.require_mpp() * self.levels[level].downsample

    def native_level(self, mpp: float) -> int | None:
        """The level whose pixels are those at ``mpp``; None where reading at ``mpp`` resamples."""
        for level in range(len(self.levels)):
            if math.isclose(self.level_mpp(level), mpp, rel_tol=SAME):
                return level
        return None

    def size_at(self, mpp: float) -> tuple[int, int]:
        """``(width, height)`` of the whole slide in working pixels at ``mpp``."""
        level = self.native_level(check_mpp(mpp))
        if level is not None:
            return self.levels[level].width, self.levels[level].height
        factor = self.require_mpp() / mpp
        return max(1, round(self.width * factor)), max(1, round(self.height * factor))

    def working_mpp(self, model_mpp: float, tolerance: float = 0.15, force: bool = False) -> float:
        """The µm/px to work at for a model made for ``model_mpp``.

        A level within the tolerance is taken as it is, so that nothing is resampled; else level 0 enlarged by
        a power of two, if that is within the tolerance; else ``model_mpp`` itself.

        Parameters
        ----------
        model_mpp : float
            µm/px of the images that the model was trained on.
        tolerance : float
            Accepted relative difference.
        force : bool
            Go on although the slide is too coarse.

        Raises
        ------
        PixelSizeError
            When the slide has no pixel size, or is more than 2.2 times coarser than the model.
        """
        mpp = self.require_mpp()
        check_mpp(model_mpp)
        if mpp > REACH * model_mpp and not force:
            raise PixelSizeError(
                f"{self.path or self.name} has {mpp:g} µm/px, the model was made for {model_mpp:g} µm/px. "
                "A slide more than "
                f"{REACH:g} times coarser lacks the detail that the model looks for. Use a finer slide or "
                "a model for this "
                "pixel size, correct the pixel size if it is wrong, or ask for the run to be forced."
            )
        near = [self.level_mpp(level) for level in range(len(self.levels))]
        near = [m for m in near if abs(m / model_mpp - 1) <= tolerance]
        if near:
            return min(near, key=lambda m: abs(math.log(m / model_mpp)))
        halved = mpp / 2 ** max(1, round(math.log2(mpp / model_mpp)))
        return halved if abs(halved / model_mpp - 1) <= tolerance else model_mpp

    # -- pixels ------------------------------------------------------------------------------------

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels of a box.

        Parameters
        ----------
        level : int
            Index into :attr:`levels`.
        box : Box
            In pixels of that level; what lies outside the slide is white.

        Returns
        -------
        ndarray (height, width, 3), uint8
            RGB.

        Raises
        ------
        TileError
            When a part cannot be decoded; names file, level and place.
        RegionError
            For an empty box or a level that does not exist.
        """
        if not 0 <= level < len(self.levels):
            raise RegionError(
                f"{self.name} has levels 0 to {len(self.levels) - 1}; level {level} was asked for."
            )
        if box.empty:
            raise RegionError(
                f"A region of {box.width} x {box.height} px holds no pixel. Width and height start at 1."
            )
        bounds = self.levels[level].bounds
        if self.stain is not None:
            return read_stained(functools.partial(self._read, level), bounds, self.stain, box)
        inside = box.intersect(bounds)
        if inside == box:
            return self._read(level, box)
        out = np.full((*box.shape, 3), 255, np.uint8)
        if not inside.empty:
            out[inside.relative_to(box).slices] = self._read(level, inside)
        return out

    def _read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels as scanned, of a box inside the level."""
        pixels = self._source.read(level, box)
        if not self.converts or self.icc_profile is None:
            return pixels
        from napari_histoseg.slide.color import to_srgb

        return to_srgb(pixels, self.icc_profile)

    def read_at(self, mpp: float, box: Box) -> NDArray[np.uint8]:
        """Pixels of a box at any resolution.

        The value of a pixel does not depend on the box that it is read in. At the µm/px of a level these are
        the level's own pixels; otherwise the coarsest level that is fine enough is resampled (antialiased).

        Parameters
        ----------
        mpp : float
            µm per working pixel.
        box : Box
            In working pixels: column ``x`` covers level-0 columns ``x * mpp / slide.mpp`` to ``(x + 1) * mpp
            / slide.mpp``.

        Returns
        -------
        ndarray (height, width, 3), uint8
            RGB.

        Raises
        ------
        TileError, RegionError
            As :meth:`read`.
        PixelSizeError
            When the slide has no pixel size.
        """
        level = self.native_level(check_mpp(mpp))
        if level is not None:
            return self.read(level, box)
        if box.empty:
            return self.read(0, box)
        downsample = mpp / self.require_mpp()
        level = self.level_for(downsample)
        return resample(functools.partial(self.read, level), downsample / self.levels[level].downsample, box)

    def level_for(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as ``downsample`` (level-0 pixels per pixel); else level 0."""
        fine = [i for i, level in enumerate(self.levels) if level.downsample <= downsample * (1 + SAME)]
        return fine[-1] if fine else 0

    def with_icc(self) -> Slide:
        """The same slide with reads converted to sRGB; without a profile the pixels stay as they are."""
        return Slide(self._source, self.mpp, self.mpp_source, True, self.stain)

    def with_stain(self, normalizer: Normalizer | None) -> Slide:
        """The same slide (sharing the open file) whose reads, pyramid and thumbnail are brought to a reference's colors.

        Nothing is written; ``None`` gives the slide as scanned. What was normalized before is not normalized twice.
        """
        return Slide(self._source, self.mpp, self.mpp_source, self._to_srgb, normalizer)

    @functools.cached_property
    def unstained(self) -> Slide:
        """The slide as scanned: where tissue is looked for, and where stains are measured."""
        return self if self.stain is None else self.with_stain(None)

    # -- overviews ---------------------------------------------------------------------------------

    @functools.cached_property
    def _view(self) -> View:
        from napari_histoseg.slide.view import View

        return View(self)

    @property
    def needs_cache(self) -> bool:
        """Whether :meth:`pyramid` and :meth:`thumbnail` first have to build reduced levels on disk (a flat giant image)."""
        return self._view.needs_cache

    def build_cache(self, progress: Progress | None = None) -> None:
        """Build the reduced levels that a flat giant image lacks; does nothing when they exist or are not
        needed.

        Parameters
        ----------
        progress : callable, optional
            Called with ``(done, total)``; an exception that it raises stops the building and leaves nothing
            behind.

        Raises
        ------
        StorageError
            When the cache folder cannot be written.
        """
        self._view.build_cache(progress)

    def pyramid(self, progress: Progress | None = None) -> list[dask.array.Array]:
        """Lazy arrays ``(h, w, 3)`` uint8 for a viewer, finest first; one task a chunk, reading that chunk
        only.

        The file's levels come first. Where the coarsest is larger than a screen, coarser ones are added: in
        memory, or for flat giant images from a cache on disk, see :meth:`build_cache`.
        """
        return self._view.arrays(progress)

    def thumbnail(self, max_px: int = 1024, progress: Progress | None = None) -> NDArray[np.uint8]:
        """The whole slide ``(h, w, 3)``, its longer side ``max_px`` (never enlarged)."""
        return self._view.thumbnail(max_px, progress)

    # -- record ------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """``sha256:`` of format, size, levels, file size and the first and last MiB (arrays: shape and a coarse sample)."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        facts = repr((self.format, [(level.width, level.height) for level in self.levels])).encode()
        return "sha256:" + hashlib.sha256(facts + b"\0" + self._source.identity()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What ``histoseg info`` prints; only JSON types."""
        return {
            "name": self.name,
            "path": self.path,
            "format": self.format,
            "vendor": self.vendor,
            "width": self.width,
            "height": self.height,
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
            "objective": self.objective,
            "levels": [
                {"width": level.width, "height": level.height, "downsample": level.downsample}
                for level in self.levels
            ],
            "associated": sorted(self.associated),
            "icc_profile": self.icc_profile is not None,
            **({} if self.stain is None else {"stain": self.stain.describe()}),
            "notes": [v for k, v in self.properties.items() if k.startswith("histoseg.")],
            "fingerprint": self.fingerprint(),
        }

    def close(self) -> None:
        """Release the file; slides made by :meth:`with_mpp`, :meth:`with_icc` and :meth:`with_stain` share it."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size = "no pixel size" if self.mpp is None else f"{self.mpp:g} µm/px ({self.mpp_source})"
        return f"<Slide {self.name}: {self.format}, {self.width} x {self.height} px, {len(self.levels)} levels, {size}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # File handles do not travel to other processes: the slide is opened there again.
        handle = self._source if self.path is None else self.path
        return _rebuild, (handle, self.mpp, self.mpp_source, self._to_srgb, self.stain)


def _rebuild(
    handle: str | Source, mpp: float | None, mpp_source: MppSource | None, icc: bool, stain: Normalizer | None
) -> Slide:
    from napari_histoseg.slide.open import open_source

    source = open_source(handle) if isinstance(handle, str) else handle
    return Slide(source, mpp, mpp_source, icc, stain)


def check_mpp(mpp: float) -> float:
    """``mpp`` as a float.

    Raises
    ------
    PixelSizeError
        Unless it is a positive, finite number.
    """
    try:
        value = float(mpp)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise PixelSizeError(f"The pixel size must be a positive number of µm/px. Got {mpp!r} instead.")
    return value
