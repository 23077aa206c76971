"""What to annotate next: places of a slide where a network contradicts itself when the picture is turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_histoseg.errors import RegionError, TileError
from napari_histoseg.methods.joint.network import STRIDE_PX, fold
from napari_histoseg.methods.joint.predictor import network_of
from napari_histoseg.nn.inference import prepared, to_input
from napari_histoseg.nn.weights import read_card
from napari_histoseg.slide import Box, Slide, TissueMask, is_field, tissue_mask

LEAST_TISSUE = 0.75
"""Share of a place that is tissue, as of a training patch (appendix B.1)."""
TURNS = 4
SEEN_SHARE = 0.05
"""Share of a place that a class covers to be named."""


@dataclass(frozen=True)
class Place:
    """A place that is worth a patch.

    Attributes
    ----------
    box : Box
        In level-0 pixels.
    disagreement : float
        Mean over its pixels, in nats: 0 where the network answers alike in every turn, at most log 4.
    classes : tuple of str
        What the network sees there, the largest first; classes on less than 5 % are left out.
    """

    box: Box
    disagreement: float
    classes: tuple[str, ...]


def rank_places(
    slide: Slide,
    weights: Path,
    *,
    patch_px: int,
    mpp: float,
    taken: Sequence[Box] = (),
    count: int = 48,
    keep: int = 12,
    seed: int = 0,
    tissue: TissueMask | None = None,
    region: Box | None = None,
    step: Callable[[int, int], None] | None = None,
) -> list[Place]:
    """The places of a slide where an annotated patch would teach a network most, by its own disagreement.

    Of a grid of patches over the tissue, ``count`` are drawn and looked at in four quarter turns each; see :func:`disagreement`.
    They are read and looked at one after another, in float32 on the processor.

    Parameters
    ----------
    slide : Slide
        In the colors that the network was trained on.
    weights : Path
        Of joint.
    patch_px : int
        Side of a patch in pixels of ``mpp``.
    mpp : float
        µm per pixel at which patches are painted.
    taken : sequence of Box
        Patches that exist, in level-0 pixels: no place overlaps one.
    count : int
        Places that are looked at.
    keep : int
        Places that are returned at most; they do not overlap.
    seed : int
        Of the draw. The same seed gives the same list.
    tissue : TissueMask, optional
        Found when not given; a picture of less than 1 mm² is tissue everywhere.
    region : Box, optional
        Only here, in level-0 pixels.
    step : callable, optional
        Called with (places done, places in all) before each place. What it raises stops the search.

    Returns
    -------
    list of Place
        The largest disagreement first; empty where no patch is free, or the slide is smaller than one.

    Raises
    ------
    WeightsError
        If the weights are for another method, or damaged.
    PixelSizeError
        If the slide has no pixel size, or is too coarse for the network.
    RegionError
        If the region does not meet the slide.
    TileError
        If none of the places could be read.
    """
    card = read_card(weights, "joint")
    source_mpp, working = slide.require_mpp(), slide.working_mpp(card.mpp)
    if tissue is None and not is_field(slide):
        tissue = tissue_mask(slide)
    side_px = max(1, round(patch_px * mpp / source_mpp))
    chosen = list(islice(candidates(slide.bounds, _area(slide, region), side_px, taken, tissue, seed), count))
    if not chosen:
        return []
    network = load_network(weights)
    names, factor = [str(c["name"]) for c in card.classes], source_mpp / working
    places = [Place(box, *_judged(network, image, box.width * factor, names)) for box, image in _read(slide, chosen, working, step)]
    return sorted(places, key=lambda p: (-p.disagreement, p.box.y, p.box.x))[:keep]


def _area(slide: Slide, region: Box | None) -> Box:
    """The region's part inside the slide; all of it without one."""
    area = slide.bounds if region is None else region.intersect(slide.bounds)
    if area.empty:
        raise RegionError(f"The region {region} does not meet the slide ({slide.width} × {slide.height} level-0 pixels). Give one inside it.")
    return area


def candidates(slide: Box, area: Box, side_px: int, taken: Sequence[Box], tissue: TissueMask | None, seed: int) -> Iterator[Box]:
    """Squares of a grid over an area, free and at least 75 % tissue, in random order.

    An area that is smaller than a square has one, in its middle.

    Parameters
    ----------
    slide, area : Box
        Level-0 pixels; the squares lie inside ``slide``.
    side_px : int
        In level-0 pixels.
    taken : sequence of Box
        Where no square may lie.
    tissue : TissueMask, optional
        Without one every place is tissue.
    seed : int
    """
    if side_px > min(slide.width, slide.height):
        return
    xs, ys = _starts(area.x, area.width, side_px, slide.width), _starts(area.y, area.height, side_px, slide.height)
    # One by one: a slide may have a million small squares, of which a few are wanted.
    for i in np.random.default_rng(seed).permutation(len(xs) * len(ys)):
        box = Box(xs[i % len(xs)], ys[i // len(xs)], side_px, side_px)
        if (tissue is None or tissue.fraction(box) >= LEAST_TISSUE) and all(box.intersect(other).empty for other in taken):
            yield box


def _starts(start: int, length: int, side: int, whole: int) -> list[int]:
    """First pixels of as many squares as fit, in the middle of a stretch; of one, moved into the slide, where none does."""
    fit = max(1, length // side)
    first = start + (length - fit * side) // 2
    return [min(max(first + i * side, 0), whole - side) for i in range(fit)]


def _read(slide: Slide, boxes: Sequence[Box], mpp: float, step: Callable[[int, int], None] | None) -> Iterator[tuple[Box, NDArray[np.uint8]]]:
    """Each place with its picture at ``mpp``, a square whose side the network takes; those that cannot be read are passed over."""
    downsample = mpp / slide.require_mpp()
    failed: list[TileError] = []
    for i, box in enumerate(boxes):
        if step is not None:
            step(i, len(boxes))
        # Padding at one edge would turn with the picture, so a little more of the slide is read on every side.
        side = math.ceil(box.width / downsample / STRIDE_PX) * STRIDE_PX
        x, y = (round(v / downsample) - side // 2 for v in (box.x + box.width / 2, box.y + box.height / 2))
        try:
            image = slide.read_at(mpp, Box(x, y, side, side))
        except TileError as error:
            failed.append(error)
            continue
        yield box, image
    if len(failed) == len(boxes):
        raise failed[0]


def _judged(network: nn.Module, image: NDArray[np.uint8], place_px: float, names: Sequence[str]) -> tuple[float, tuple[str, ...]]:
    """Disagreement over the middle of a picture, which is the place itself, and the classes seen there."""
    chances = turned_chances(network, image)
    side = image.shape[0]
    inner = min(side, max(1, round(place_px)))
    margin = (side - inner) // 2
    chances = chances[:, :, margin : margin + inner, margin : margin + inner]
    share = np.bincount(chances.mean(0).argmax(0).ravel(), minlength=len(names)) / inner**2
    seen = sorted((i for i in range(len(names)) if share[i] >= SEEN_SHARE), key=lambda i: (-share[i], i))
    return float(disagreement(chances).mean()), tuple(names[i] for i in seen)


def load_network(weights: Path) -> nn.Module:
    """The network of a weights file, prepared for inference in float32 on the processor."""
    network = network_of(weights, read_card(weights, "joint"))
    fold(network)
    return prepared(network, torch.device("cpu"), torch.float32)


def turned_chances(network: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Class probabilities (4, classes, h, h) of a square picture in its four quarter turns, turned back.

    Parameters
    ----------
    network : Module
        (n, 3, h, h) in 0–1 → class logits (n, classes, h, h).
    image : (h, h, 3) uint8
        h divisible by 16.
    """
    turned = np.stack([np.rot90(image, k) for k in range(TURNS)])
    with torch.inference_mode():
        output = network(to_input(turned, torch.device("cpu"), torch.float32)).double()
        back = [torch.rot90(torch.softmax(output[k], 0), -k, (1, 2)) for k in range(TURNS)]
        return np.asarray(torch.stack(back).numpy())


def disagreement(chances: NDArray[Any]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence of several answers, pixel by pixel: the entropy of their mean - the mean of their entropies.

    Uncertainty that all answers share is not counted: where tissue is between two classes, no annotation will change that.

    Parameters
    ----------
    chances : (answers, classes, h, w)
        Class probabilities.

    Returns
    -------
    ndarray (h, w)
        In nats, from 0 to log(answers).
    """
    mean_entropy = _entropy(chances).mean(0)
    return np.asarray(np.maximum(_entropy(chances.mean(0)[None])[0] - mean_entropy, 0.0))


def _entropy(chances: NDArray[Any]) -> NDArray[np.float64]:
    """Entropy over the classes (the second axis), in nats."""
    safe = np.clip(chances, 1e-12, None)
    return np.asarray(-(chances * np.log(safe)).sum(1))
