"""Which slides are held out, and which are left out together: whole patients, never parts of one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.sheets import Outlined

SPLITS = 20
"""Ways to divide that are tried until both parts have both classes."""


def held_out(slides: Sequence[Outlined], classes: Sequence[set[int]], settings: TumourTraining) -> set[int]:
    """Numbers of the slides to score on; a split that the dataset fixes is kept. Empty where the rest would lack a class.

    Parameters
    ----------
    classes : sequence of set of int
        Classes (0, 1) of each slide's patches.
    """
    fixed = {i for i, each in enumerate(slides) if each.split == "val"}
    free = sorted({each.group for each in slides if each.split is None})
    everything = set().union(*classes)
    # A split that the dataset fixes is enough; nothing is taken from its training part.
    count = 0 if fixed or not settings.val_fraction else max(1, round(settings.val_fraction * len(free)))
    for attempt in range(SPLITS):
        groups = set(_shuffled(free, settings.seed + 1000 * attempt)[:count])
        held = fixed | {i for i, each in enumerate(slides) if each.split is None and each.group in groups}
        kept = set(range(len(slides))) - held
        if not held:
            return held
        if kept and all(set().union(*(classes[i] for i in part)) == everything for part in (kept, held)):
            return held
        if not count:
            break
    return fixed if fixed and len(fixed) < len(slides) else set()


def folds_of(slides: Sequence[Outlined], settings: TumourTraining) -> list[list[int]]:
    """Numbers of slides in each of ``folds`` parts, whole patients; fewer where there are fewer patients."""
    groups = _shuffled(sorted({each.group for each in slides}), settings.seed)
    count = min(settings.folds, len(groups))
    part = {group: i % count for i, group in enumerate(groups)} if count else {}
    return [[i for i, each in enumerate(slides) if part[each.group] == number] for number in range(count)]


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    """By a hash of name and seed, so that the order of a dataset changes nothing."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
