"""From a patch dataset to a training task: patches are read at the working pixel size, checked, and split by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_histoseg.annotations.dataset import (
    UNLABELED,
    Patch,
    PatchDataset,
    data_sha256,
    read_dataset,
    split_groups,
)
from napari_histoseg.annotations.reading import PatchReader
from napari_histoseg.errors import DatasetError, HistosegError
from napari_histoseg.methods.joint.advice import patch_key
from napari_histoseg.methods.joint.config import JointTraining
from napari_histoseg.methods.joint.data import Picture
from napari_histoseg.methods.joint.predictor import network_of
from napari_histoseg.methods.joint.task import JointTask, evaluate
from napari_histoseg.nn.weights import ModelCard, read_card
from napari_histoseg.slide import Box

BACKGROUND: dict[str, Any] = {"value": 0, "name": "background"}
SPLITS = 20
"""Ways to split that are tried until every class is in the training part."""


@dataclass
class _Read:
    """What was read, and what was wrong with it."""

    pictures: dict[int, Picture] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def task_from_dataset(folder: Path | PatchDataset, settings: JointTraining) -> JointTask:
    """The training task over a patch dataset with masks of class values, and patches with only a class.

    Whole groups (patients, slides) are held out, so that every class stays in the training part; where that is not possible
    nothing is, and the scores are of the training patches. The model card says which patches were held out.

    Raises
    ------
    DatasetError
        Names every problem at once: no masks, a class without a patch, values that are no class, masks that do not cover
        their patch, an unknown pixel size.
    """
    dataset = read_dataset(folder)
    annotated = [p for p in dataset.patches if (p.mask is not None or p.label is not None) and p.split != "test"]
    chosen = [p for p in annotated if settings.variant != "paper" or len(p.labels) < 2]
    read = _read_all(dataset, chosen, settings.mpp)
    if n := len(annotated) - len(chosen):
        read.notices.append(f"Left out, because the paper's network learns patches of one class: {n} with several.")
    classes = _classes(dataset, chosen, read)
    if read.problems:
        raise DatasetError(f"{dataset.folder} cannot be trained on: " + " ".join(read.problems))
    usable = [chosen[i] for i in read.pictures]
    read.notices += _overlaps(usable)
    parts = _split(usable, [read.pictures[i] for i in read.pictures], settings)
    groups: dict[str, list[Picture]] = {"outlined": [], "classified": [], "val_outlined": [], "val_classified": []}
    for patch, picture, held in zip(usable, read.pictures.values(), parts, strict=True):
        groups[f"{'val_' * held}{'outlined' if patch.mask is not None else 'classified'}"].append(_indexed(picture, classes))
    if not groups["val_outlined"]:
        read.notices.append("Nothing was held out: scores are of the training patches. Annotate patches of a second slide or patient.")
    provenance = {
        "name": f"joint ({dataset.folder.name})",
        "data": [_about(dataset, usable, parts, read.notices)],
        "data_sha256": data_sha256(dataset),
    }
    # Without held-out masks the training patches are scored, all of them alike.
    scored = groups if groups["val_outlined"] else {f"val_{k}": groups[k] for k in ("outlined", "classified")}
    return JointTask(
        settings, classes, groups["outlined"], groups["classified"], scored["val_outlined"], scored["val_classified"], provenance
    )


def _about(dataset: PatchDataset, patches: Sequence[Patch], held: Sequence[bool], notices: Sequence[str]) -> dict[str, Any]:
    outlined = [p.mask is not None for p in patches]
    return {
        "title": dataset.folder.name,
        "segmentation_patches": sum(outlined),
        "classification_patches": len(patches) - sum(outlined),
        "train_patches": [patch_key(p) for p, h in zip(patches, held, strict=True) if not h],
        "held_out_patches": [patch_key(p) for p, h in zip(patches, held, strict=True) if h],
        "notices": list(notices),
        **({} if dataset.look is None else {"stain": str(dataset.look)}),
    }


def _read_all(dataset: PatchDataset, patches: Sequence[Patch], mpp: float) -> _Read:
    """Every patch at the working pixel size; masks hold class values."""
    read = _Read()
    values = {c.value for c in dataset.classes} | {0}
    by_name = {c.name: c.value for c in dataset.classes}
    with PatchReader(dataset, mpp) as reader:
        for i, patch in enumerate(patches):
            try:
                picture = Picture(*reader.read(patch), name=patch_key(patch))
            except HistosegError as error:
                read.problems.append(str(error))
                continue
            if picture.mask is None:
                first, *also = (by_name[name] for name in patch.labels)
                read.pictures[i] = Picture(picture.image, None, first, picture.name, tuple(also))
                continue
            found = {int(v) for v in np.unique(picture.mask)} - {UNLABELED}
            if found - values:
                known = ", ".join(f"{c.value} {c.name}" for c in dataset.classes)
                wrong = ", ".join(map(str, sorted(found - values)))
                read.problems.append(f"The mask {patch.mask} holds values that are no class: {wrong}. The classes are: {known}; 0 is background, 255 not annotated.")
            elif not found:
                read.notices.append(f"The mask {patch.mask} has nothing annotated and was left out.")
            else:
                read.pictures[i] = picture
    return read


def _classes(dataset: PatchDataset, patches: Sequence[Patch], read: _Read) -> list[dict[str, Any]]:
    """Value, name and color of each output channel; background only where something is it."""
    outlined = {int(v) for p in read.pictures.values() if p.mask is not None for v in np.unique(p.mask)} - {UNLABELED}
    classified = {label for p in read.pictures.values() for label in p.labels}
    title = dataset.folder
    if not any(p.mask is not None for p in patches):
        read.problems.append(f"{title} has no patch with a mask. Joint training learns outlines from at least one: paint a segmentation patch.")
    elif not outlined and not read.problems:
        read.problems.append("No mask has anything annotated. Paint at least one segmentation patch.")
    listed = [c.model_dump() for c in sorted(dataset.classes, key=lambda c: c.value)]
    if not read.problems:
        missing = [c for c in listed if c["value"] not in outlined | classified and c["value"] != 0]
        read.problems += [
            f"The class '{c['name']}' (value {c['value']}) has no patch: nothing can be learned of it. Annotate a patch of it, or remove the class."
            for c in missing
        ]
    if 0 in outlined and 0 not in {c["value"] for c in listed}:
        listed = [BACKGROUND, *listed]
    channels = [c for c in listed if c["value"] != 0 or 0 in outlined | classified]
    if len(channels) < 2 and not read.problems:
        read.problems.append(
            f"There is only one class ('{channels[0]['name']}') and no background: every pixel would be it. Paint background (value 0), or a second class."
        )
    return channels


def _indexed(picture: Picture, classes: Sequence[dict[str, Any]]) -> Picture:
    """Class values → channel indices."""
    lookup = np.full(256, UNLABELED, np.uint8)
    for i, entry in enumerate(classes):
        lookup[entry["value"]] = i
    if picture.mask is None:
        first, *also = (int(lookup[label]) for label in picture.labels)
        return Picture(picture.image, None, first, picture.name, tuple(also))
    return Picture(picture.image, lookup[picture.mask], -1, picture.name)


def _overlaps(patches: Iterable[Patch]) -> list[str]:
    """A sentence for segmentation patches of a slide that overlap: common pixels are learned from both."""
    boxes: dict[str, list[Box]] = {}
    count = 0
    for patch in patches:
        if patch.box is not None and patch.mask is not None:
            box = Box(*patch.box)
            count += any(not box.intersect(other).empty for other in boxes.setdefault(patch.source, []))
            boxes[patch.source].append(box)
    return [f"{count} segmentation patches overlap others: what they share is learned from each of them."] if count else []


def _split(patches: Sequence[Patch], pictures: Sequence[Picture], settings: JointTraining) -> list[bool]:
    """Which patches are held out: by group, so that every class stays in training; none where that cannot be."""
    outlined = [p for p in patches if p.mask is not None]
    for attempt in range(SPLITS):
        _, val = split_groups(outlined, settings.val_fraction, settings.seed + 1000 * attempt)
        groups = {p.group or p.source for p in val}
        held = [p.split == "val" or (p.split is None and (p.group or p.source) in groups) for p in patches]
        if not any(held):
            return held
        kept = [i for i, h in enumerate(held) if not h]
        if any(patches[i].mask is not None for i in kept) and _values(pictures, kept) == _values(pictures, range(len(pictures))):
            return held
    return [False] * len(patches)


def _values(pictures: Sequence[Picture], which: Iterable[int]) -> set[int]:
    """Class values that pictures show."""
    chosen = [pictures[i] for i in which]
    found = {int(v) for p in chosen if p.mask is not None for v in np.unique(p.mask)}
    return (found | {label for p in chosen for label in p.labels}) - {UNLABELED}


def compare(folder: Path | PatchDataset, old: Path, new: Path) -> dict[str, Any]:
    """Whether weights are at least as good as earlier ones, on segmentation patches that neither was trained on.

    Parameters
    ----------
    folder : Path or PatchDataset
        The dataset that the new weights were trained on.
    old, new : Path
        Weights files.

    Returns
    -------
    dict
        ``better`` (the new ones are not worse; None where no patch is left to compare on), ``old`` and ``new`` (macro F1),
        ``old_scores`` and ``new_scores`` (all scores), ``patches`` (number compared on), and ``message`` (a sentence).

    Raises
    ------
    WeightsError, DatasetError
        If a file cannot be used.
    """
    cards = [read_card(path, "joint") for path in (old, new)]
    dataset = read_dataset(folder)
    trained = {key for card in cards for entry in card.data for key in entry.get("train_patches", [])}
    held = [p for p in dataset.patches if p.mask is not None and p.split != "test" and patch_key(p) not in trained]
    scores = [_scores_of(dataset, held, path, card) for path, card in zip((old, new), cards, strict=True)] if held else []
    if not scores or any(s is None for s in scores):
        message = "There is no patch that neither of the weights was trained on, so they cannot be compared. Annotate patches of another slide or patient."
        return {"better": None, "old": None, "new": None, "old_scores": {}, "new_scores": {}, "patches": 0, "message": message}
    before, after = (s or {} for s in scores)
    better = after["score"] >= before["score"]
    word = "are not worse" if better else "are worse"
    message = f"The new weights {word} on {len(held)} held-out patches: macro F1 {after['score']:.3f}, before {before['score']:.3f}."
    return {
        "better": better, "old": before["score"], "new": after["score"], "old_scores": before, "new_scores": after, "patches": len(held), "message": message,
    }  # fmt: skip


def _scores_of(dataset: PatchDataset, patches: Sequence[Patch], path: Path, card: ModelCard) -> dict[str, float] | None:
    """Scores of a weights file on patches; a class that it does not know is never right."""
    read = _read_all(dataset, patches, card.mpp)
    if read.problems:
        raise DatasetError(" ".join(read.problems))
    if not read.pictures:
        return None
    listed = {c.value: c.name for c in dataset.classes}
    known = [*card.classes]
    for value, name in listed.items():
        if value and name not in {c["name"] for c in known}:
            known.append({"value": value, "name": name})
    by_name = {c["name"]: i for i, c in enumerate(known)}
    lookup = np.full(256, UNLABELED, np.uint8)
    for value in {int(v) for p in read.pictures.values() if p.mask is not None for v in np.unique(p.mask)} - {UNLABELED}:
        zero = next((i for i, c in enumerate(known) if c["value"] == 0), None)
        at = zero if value == 0 else by_name[listed[value]]
        if at is None:
            known.append(BACKGROUND)
            at = len(known) - 1
        lookup[value] = at
    pictures = [Picture(p.image, lookup[p.mask], -1, p.name) for p in read.pictures.values() if p.mask is not None]
    background = next((i for i, c in enumerate(known) if c["value"] == 0), None)
    return evaluate(network_of(path, card), pictures, [], background, len(known))
