"""A trained stain style as a normalizer: what a slide is read through."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_histoseg.errors import RegionError, SettingsError
from napari_histoseg.methods.stain.lab import Float, to_lab, to_rgb
from napari_histoseg.methods.stain.network import AB_UNIT, HALO_PX, STRIDE_PX, StainNetwork, build
from napari_histoseg.nn.inference import prepared
from napari_histoseg.nn.weights import ModelCard, load_into, read_card, sha256_of
from napari_histoseg.slide import Box, Slide, TissueMask, tissue_mask
from napari_histoseg.slide.stain import Quality, StainNormalizer, StainProfile, measure, measure_slide
from napari_histoseg.slide.stain.density import USUAL, density_table
from napari_histoseg.slide.stain.effect import fan_of
from napari_histoseg.slide.stain.histogram import count_colors
from napari_histoseg.slide.stain.measure import measure_colors
from napari_histoseg.slide.stain.safety import TISSUE_LEAST

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = WEIGHTS / "colon.safetensors"
"""The style that ships: CoNSeP's, see ``training/stain``."""
VERSION = 2
"""Goes into the key: raised when the same weights give other pixels."""
TILE_PX = 224
"""Side of the pictures that the global vector is taken of, as in training."""
BLOCK_PX = 1024
"""Larger arrays go through the network in blocks of this side."""
STRIP_PX = 64
GLASS_L = 90.0
"""Glass is brighter; the global vector is weighed by what is darker."""
SAMPLES = 24


class NeuralNormalizer:
    """Colors tissue by its lightness alone, in a learned style; lightness stays as it was.

    The global vector, the network's view of the whole slide, is taken once by :meth:`fit`. Before that the mean of the style's
    training pictures is used. Thread-safe once fitted; deterministic on a device; picklable.

    Parameters
    ----------
    weights : path, optional
        A style's ``.safetensors`` file; the one that ships when not given.
    then : StainNormalizer, optional
        Applied afterwards, pixel by pixel: from the style's colors to those of another reference.
    device : str
        ``auto`` takes a CUDA card where there is one.
    precision : {"float32", "bfloat16"}

    Raises
    ------
    WeightsError
        When the file is missing, damaged, or not a stain style.
    SettingsError
        When the device or the precision is not available.
    """

    asked = "neural"
    halo_px = HALO_PX
    stride_px = STRIDE_PX

    def __init__(
        self, weights: Path | None = None, then: StainNormalizer | None = None, device: str = "auto", precision: str = "float32"
    ) -> None:
        self.path = Path(weights or SHIPPED)
        self.card: ModelCard = read_card(self.path, "stain")
        self.sha256 = sha256_of(self.path)
        self.then = then
        self.device, self.precision = _device(device), _precision(precision)
        self.vector: Float | None = None
        self.source: StainProfile | None = None
        self.quality = Quality("good")
        self._lock = threading.Lock()
        self._loaded: StainNetwork | None = None

    @property
    def target(self) -> StainProfile | None:
        """What the slide looks like afterwards; None for a style that was saved without its profile."""
        return self.then.target if self.then is not None else style_profile(self.card)

    @property
    def method(self) -> str | None:
        """``neural``; None where there is nearly no tissue and the pixels are left as they are."""
        return None if self.quality.light == "refused" else self.asked

    def fit(self, samples: Sequence[NDArray[np.uint8]], source: StainProfile | None = None) -> Self:
        """Take the global vector of a slide: the mean over tissue samples from all over it, weighed by their tissue.

        Parameters
        ----------
        samples : sequence of (h, w, 3) uint8
            As scanned, at about the style's pixel size.
        source : StainProfile, optional
            The slide's own stain, which says what is glass and what is ink; measured on the samples when not given.
        """
        pictures = [checked(sample) for sample in samples]
        self.source = measure(pictures) if source is None else source
        self.quality, self.vector = judge(self.source), None
        if pictures and self.method is not None:
            self.vector = global_vector(self._network(), [to_lab(p)[0] for p in pictures]).cpu().numpy()
        return self

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB → the same in the style's colors.

        A pixel's color depends on the lightness within ``halo_px``; parts of a picture agree with the whole to one gray level
        where they were read with that halo, from places that are multiples of ``stride_px``. Glass, ink, and what else is no mix
        of hematoxylin and eosin keep their color.
        """
        pixels = checked(pixels)
        if self.method is None:
            return pixels.copy()
        out = np.empty_like(pixels)
        for keep, read in _blocks(pixels.shape[0], pixels.shape[1]):
            out[keep.slices] = self._block(pixels[read.slices])[keep.relative_to(read).slices]
        return out if self.then is None else self._onward(pixels, out)

    def _block(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        network = self._network()
        vector = network.mean_vector if self.vector is None else torch.from_numpy(self.vector)
        lightness, ab = to_lab(pixels)
        new = colorize(network, lightness, vector)
        out = np.empty_like(pixels)
        # In strips, so that the many passes over a strip stay in the processor's cache: four times as fast.
        for rows in (slice(y, y + STRIP_PX) for y in range(0, len(pixels), STRIP_PX)):
            part = stained_part(pixels[rows], self.source)[..., None]
            out[rows] = to_rgb(lightness[rows], ab[rows] + part * (new[rows] - ab[rows]))
        return out

    def _onward(self, scanned: NDArray[np.uint8], styled: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """On to the target's colors, as far as the scanned color is a stain: what is glass there stays glass."""
        assert self.then is not None
        out = np.empty_like(styled)
        for rows in (slice(y, y + STRIP_PX) for y in range(0, len(styled), STRIP_PX)):
            before = styled[rows].astype(np.float32)
            part = stained_part(scanned[rows], self.source)[..., None]
            out[rows] = np.rint(before + part * (self.then.apply(styled[rows]) - before))
        return out

    def _network(self) -> StainNetwork:
        with self._lock:
            if self._loaded is None:
                network = build(self.card.architecture, self.card.width, len(self.card.classes))
                load_into(network, self.path)
                done = prepared(network, torch.device(self.device), _DTYPES[self.precision])
                assert isinstance(done, StainNetwork)
                self._loaded = done
            return self._loaded

    def key(self) -> str:
        """The same for normalizers that do the same."""
        vector = b"" if self.vector is None else self.vector.tobytes()
        after = "" if self.then is None else self.then.key()
        own = "" if self.source is None else self.source.model_dump_json(include={"white", "macenko"})
        facts = f"{self.asked} {VERSION} {self.quality.light} {self.sha256} {self.device} {self.precision} {own} {after} ".encode()
        return "sha256:" + hashlib.sha256(facts + vector).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the run record keeps; only JSON types."""
        return {
            "method": self.method,
            "asked": self.asked,
            "style": self.card.name,
            "weights": {"name": self.card.name, "file": self.path.name, "sha256": self.sha256},
            "precision": self.precision,
            "quality": {"light": self.quality.light, "reason": self.quality.reason},
            "source": None if self.source is None else self.source.model_dump(mode="json"),
            "target": None if self.target is None else self.target.model_dump(mode="json"),
            "then": None if self.then is None else self.then.describe(),
            "key": self.key(),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_loaded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _loaded=None)


def style_for(
    slide: Slide, weights: Path | None = None, *, target: StainProfile | None = None, seed: int = 0, device: str = "auto"
) -> NeuralNormalizer:
    """The normalizer that reads a slide in a style, fitted on tissue from all over the slide.

    Parameters
    ----------
    slide : Slide
    weights : path, optional
        The style; the one that ships when not given.
    target : StainProfile, optional
        Colors to go on to from the style's own, by Reinhard's method; L* is then no longer the slide's.
    seed : int
        Chooses the tissue.
    device : str

    Raises
    ------
    WeightsError
        When the weights cannot be used.
    """
    normalizer = NeuralNormalizer(weights, device=device)
    scanned = slide.unstained
    samples = list(tissue_samples(scanned, normalizer.card.mpp, seed))
    normalizer.fit(samples, measure_slide(scanned, seed=seed))
    if target is not None and target != style_profile(normalizer.card) and normalizer.method is not None:
        # The slide in the style is measured itself: its lightness is its own, not that of the pictures the style was learned on.
        styled = count_colors([normalizer.apply(sample) for sample in samples])
        white = None if normalizer.source is None else normalizer.source.white
        normalizer.then = StainNormalizer(measure_colors(styled, white=white), target, "reinhard")
    return normalizer


def tissue_samples(slide: Slide, mpp: float, seed: int, tissue: TissueMask | None = None) -> Iterator[NDArray[np.uint8]]:
    """Up to 24 pictures (224, 224, 3) around tissue from all over a slide, at ``mpp`` or the slide's own if that is coarser."""
    mask = tissue or tissue_mask(slide)
    rows, columns = np.nonzero(mask.mask)
    if not len(rows):
        return
    own = slide.mpp
    scale = 1.0 if own is None else own / max(mpp, own)
    rng = np.random.default_rng(seed)
    for i in rng.choice(len(rows), min(SAMPLES, len(rows)), replace=False):
        x, y = (round((v + 0.5) * mask.downsample * scale - TILE_PX / 2) for v in (columns[i], rows[i]))
        box = Box(x, y, TILE_PX, TILE_PX)
        yield slide.read(0, box) if own is None else slide.read_at(own / scale, box)


def style_profile(card: ModelCard) -> StainProfile | None:
    """The stain profile of the pictures that a style was trained on, as its card has it."""
    for entry in card.data:
        if entry.get("stain_profile"):
            return StainProfile.model_validate(entry["stain_profile"])
    return None


def judge(source: StainProfile) -> Quality:
    """How far a slide can be trusted to a style that sees its lightness only."""
    # The ramp to glass and ink is Macenko's; what Vahadane could not measure does not matter here.
    problems = [p for p in source.problems if not p.lower().startswith(("vahadane", "what vahadane"))]
    if source.tissue_pixels < TISSUE_LEAST:
        nothing = problems[0] if problems else "There is nearly no stained tissue in the slide."
        return Quality("refused", f"{nothing} The colors are left as they are.")
    if problems:
        return Quality("doubtful", f"{problems[0]} The style goes by lightness alone: look at the result.")
    return Quality("good")


def stained_part(pixels: NDArray[np.uint8], source: StainProfile | None) -> Float:
    """How far a color is recolored (h, w), 0 for glass and ink to 1 for tissue, as the classical methods have it.

    The same numbers as the compiled pass of :mod:`napari_histoseg.slide.stain.kernels`, for whole strips (tested); ``source`` is the slide's own stain, None for the usual one.
    """
    vectors = USUAL if source is None else source.macenko.vectors
    white = (255.0, 255.0, 255.0) if source is None else source.white
    table, fan = density_table(white).clip(0).astype(np.float32), fan_of(vectors)
    red, green, blue = (table[c][pixels[..., c]] for c in range(3))
    along, across, above = (np.abs(red * row[0] + green * row[1] + blue * row[2]) for row in fan[:3])
    cos, sin, noise = fan[3]
    beside = np.maximum(across * cos - along * sin - noise, 0) * fan[4, 0]
    above = np.maximum(above - noise, 0) * fan[4, 1]
    off = np.sqrt(beside**2 + above**2) / np.maximum(across * sin + along * cos, np.float32(1e-6))
    size = np.sqrt(red**2 + green**2 + blue**2)
    top, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    hue = (top - least) / np.maximum(top, np.float32(1e-6))
    return _ramp(size, *fan[5, :2]) * (1 - _ramp(off, 1, 2)) * _ramp(hue, fan[4, 2], fan[5, 2]) * _no_ink(red, green, blue)


def _no_ink(red: Float, green: Float, blue: Float) -> Float:
    """0 for the densities of pens: green and blue ink absorb red the most, red ink blue as much as green."""
    least = np.float32(1e-6)
    some_green: Float = np.maximum(green, least)
    some_red: Float = np.maximum(red, least)
    red_ink = _ramp(blue / some_green, 0.8, 0.95) * (1 - _ramp(red / some_green, 0.1, 0.25))
    return _ramp(some_green / some_red, 0.58, 0.72) * (1 - red_ink)


def _ramp(values: Float, low: float, high: float) -> Float:
    """0 below ``low``, 1 above ``high``, a smooth step between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


@torch.inference_mode()
def colorize(network: StainNetwork, lightness: Float, vector: Tensor) -> Float:
    """a* and b* (h, w, 2) of a lightness (h, w), 0 to 100, under a global vector."""
    height, width = lightness.shape
    x = _input(network, lightness)
    ab = network.colorize(x, vector.to(x.device)[None])
    return np.asarray((ab[0, :, :height, :width].float() * AB_UNIT).permute(1, 2, 0).cpu().numpy(), np.float32)


@torch.inference_mode()
def global_vector(network: StainNetwork, lightness: Sequence[Float]) -> Tensor:
    """The mean global vector (width,) of pictures (h, w), taken on tiles of 224 px and weighed by the tissue in each."""
    vectors, weights = [], []
    for light in lightness:
        for y in _starts(light.shape[0]):
            for x in _starts(light.shape[1]):
                tile = light[y : y + TILE_PX, x : x + TILE_PX]
                vectors.append(network.vector_of(_input(network, tile))[0].float())
                weights.append(float(np.mean(tile < GLASS_L)) + 1e-3)
    share = torch.tensor(weights, device=vectors[0].device)
    return (torch.stack(vectors) * (share / share.sum())[:, None]).sum(0)


def _starts(size: int) -> range:
    """Where tiles begin: as many whole ones as there are, at least one."""
    return range(0, max(size - TILE_PX, 0) + 1, TILE_PX)


def _input(network: StainNetwork, lightness: Float) -> Tensor:
    """(1, 1, h, w) in 0–1 for the network, white up to whole strides."""
    height, width = lightness.shape
    first = network.color.weight
    x = torch.from_numpy(np.ascontiguousarray(lightness)).to(first.device).div(100)[None, None]
    x = functional.pad(x, (0, -width % STRIDE_PX, 0, -height % STRIDE_PX), value=1.0)
    return x.to(first.dtype).contiguous(memory_format=torch.channels_last)


def _blocks(height: int, width: int) -> Iterator[tuple[Box, Box]]:
    """(keep, read) of the blocks of an array: a small one is one block."""
    whole = Box(0, 0, width, height)
    for y in range(0, height, BLOCK_PX):
        for x in range(0, width, BLOCK_PX):
            keep = Box(x, y, BLOCK_PX, BLOCK_PX).intersect(whole)
            yield keep, keep.padded(HALO_PX).intersect(whole)


def checked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pixels, if they are (h, w, 3) uint8.

    Raises
    ------
    RegionError
        If they are not.
    """
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise RegionError(f"A picture to normalize is uint8 RGB of shape (h, w, 3). Got {pixels.dtype} of shape {pixels.shape}.")
    return pixels


def _device(name: str) -> str:
    """The device's kind; ``auto`` takes CUDA where it is there."""
    there = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    if name == "auto":
        return there[0]
    if name not in there:
        raise SettingsError(f"The device '{name}' is not available for a stain style on this machine. Use auto or one of: {', '.join(there)}.")
    return name


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _precision(name: str) -> str:
    if name not in _DTYPES:
        raise SettingsError(f"The precision '{name}' is not available for a stain style. Use one of: {', '.join(_DTYPES)}.")
    return name
