"""From a patch dataset with coarse labels of blocks to a training: the table, the blocks, the split, the loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.blocks import Block, blocks_of, coarse_name
from napari_histoseg.annotations.dataset import Patch, PatchDataset, data_sha256, read_dataset, split_groups
from napari_histoseg.errors import DatasetError
from napari_histoseg.methods.lsr.config import LsrTraining
from napari_histoseg.methods.lsr.measure import painted_shares
from napari_histoseg.methods.lsr.pictures import MOST_BYTES, Gathered, layout, pixel_size, read_blocks, read_painted
from napari_histoseg.methods.lsr.table import BACKGROUND, FEWEST, Table, contradictions, measured, paper_table, stated
from napari_histoseg.methods.lsr.task import Lessons, LsrTask
from napari_histoseg.train.loop import Preparing, TrainEvent, fit, never

READING = "Reading the blocks"
SPLITS = 20
"""Ways to split that are tried until every coarse label is in the training part."""


class LsrCourse:
    """A training of label super-resolution: reads its blocks, then runs the shared loop.

    Parameters
    ----------
    settings : LsrTraining
    dataset : PatchDataset
    table : Table
    blocks : sequence of Block
        Those whose label is in the table.
    notices : list of str
        What a person should know.
    """

    def __init__(self, settings: LsrTraining, dataset: PatchDataset, table: Table, blocks: Sequence[Block], notices: list[str]) -> None:
        self.settings, self.dataset, self.table, self.blocks, self.notices = settings, dataset, table, list(blocks), notices

    def events(self, out: Path, resume: bool = False, stop: Callable[[], bool] = never) -> Generator[TrainEvent, None, None]:
        """Read the blocks, learn, and write the weights file ``out``.

        Raises
        ------
        DatasetError
            Blocks or painted patches cannot be read.
        RunError
            As the loop.
        """
        reading = self.task()
        while True:
            try:
                done, total = next(reading)
            except StopIteration as end:
                task = end.value
                break
            yield Preparing(READING, done, total)
        yield from fit(task, out, resume, stop)

    def task(self) -> Generator[tuple[int, int], None, LsrTask]:
        """What the loop trains, once the blocks are read; yields how many of how many are."""
        settings = self.settings
        index = {label: i for i, label in enumerate(self.table.coarse)}
        gathered = yield from read_blocks(self.dataset, self.blocks, index, settings.mpp, settings.surroundings, settings.least_glass_um)
        notices = [*self.notices, *gathered.notices]
        held = held_out([block.patch for block in gathered.kept], gathered.blocks.coarse, settings)
        if not held.any():
            notices.append("Nothing was held out: scores are of the training blocks. Label blocks of a second slide or patient.")
        keep = with_enough(gathered, held, self.table, self.dataset, settings, notices)
        lessons = Lessons(gathered.blocks.of(keep), gathered.blocks.of(held if held.any() else keep))
        self._add_painted(lessons, held, gathered)
        return LsrTask(settings, self.table, self._classes(), lessons, self._provenance(lessons, notices))

    def _add_painted(self, lessons: Lessons, held: NDArray[np.bool_], gathered: Gathered) -> None:
        away = {_group(block.patch) for block, h in zip(gathered.kept, held, strict=True) if h}
        painted = [p for p in self.dataset.patches if p.mask is not None and p.split != "test"]
        side = lessons.blocks.view_px
        for mine, patches in ((lessons.painted, [p for p in painted if _group(p) not in away]), (lessons.val_painted, [p for p in painted if _group(p) in away])):
            mine += read_painted(self.dataset, patches, self.table.values, self.settings.mpp, side)

    def _classes(self) -> list[dict[str, Any]]:
        listed = {c.value: c.model_dump() for c in self.dataset.classes}
        return [listed.get(value, {"value": value, "name": "background"}) for value in self.table.values]

    def _provenance(self, lessons: Lessons, notices: Sequence[str]) -> dict[str, Any]:
        data = {
            "title": self.dataset.folder.name,
            "blocks": len(lessons.blocks),
            "held_out_blocks": len(lessons.val_blocks),
            "painted_patches": len(lessons.painted) + len(lessons.val_painted),
            "coarse_labels": {coarse_name(self.dataset, label): int((lessons.blocks.coarse == i).sum()) for i, label in enumerate(self.table.coarse)},
            "notices": list(notices),
            **({} if self.dataset.look is None else {"stain": str(self.dataset.look)}),
        }
        return {"name": f"lsr ({self.dataset.folder.name})", "data": [data], "data_sha256": data_sha256(self.dataset)}


def _group(patch: Patch) -> str:
    return patch.group or patch.source


def held_out(patches: Sequence[Patch], coarse: NDArray[np.int64], settings: LsrTraining) -> NDArray[np.bool_]:
    """Which blocks are held out: whole groups, so that every coarse label stays in training; none where that cannot be."""
    unique = list({id(p): p for p in patches}.values())
    for attempt in range(SPLITS):
        _, val = split_groups(unique, settings.val_fraction, settings.seed + 1000 * attempt)
        away = {id(p) for p in val}
        held = np.array([id(p) in away for p in patches])
        if set(coarse[~held]) == set(coarse):
            return held
    return np.zeros(len(patches), bool)


def with_enough(
    gathered: Gathered, held: NDArray[np.bool_], table: Table, dataset: PatchDataset, settings: LsrTraining, notices: list[str]
) -> NDArray[np.bool_]:
    """Which blocks are learned from: those of labels with enough blocks, and evenly drawn ones where there are more than memory holds."""
    keep = ~held
    coarse = gathered.blocks.coarse
    for i, label in enumerate(table.coarse):
        count = int((keep & (coarse == i)).sum())
        if 0 < count < FEWEST and settings.level != "intra":
            notices.append(
                f"The coarse label '{coarse_name(dataset, label)}' has one block, and a spread between blocks takes two: it was left out. Label more blocks of it, or set level to intra."
            )
            keep &= coarse != i
    if not keep.any():
        raise DatasetError(f"{dataset.folder} cannot be trained on: no coarse label has {FEWEST} blocks. Label more blocks.")
    return keep


def drawn(blocks: Sequence[Block], most: int, seed: int) -> list[Block]:
    """At most so many blocks, of each coarse label as many as of any other as far as there are, drawn by the seed."""
    if len(blocks) <= most:
        return list(blocks)
    rng = np.random.default_rng(seed)
    coarse = np.array([block.coarse for block in blocks])
    rank = np.empty(len(blocks))
    for label in np.unique(coarse):
        members = np.flatnonzero(coarse == label)
        rank[rng.permutation(members)] = np.arange(len(members))
    return [blocks[i] for i in np.sort(np.argsort(rank, kind="stable")[:most])]


def task_from_dataset(folder: Path | PatchDataset, settings: LsrTraining) -> LsrCourse:
    """The training over a patch dataset with coarse labels of blocks, a table of their shares, and maybe painted patches.

    Raises
    ------
    DatasetError
        There are no coarse labels, or the table cannot be used: it lacks a label, does not sum to 100 %, or painted blocks
        contradict it.
    """
    dataset = read_dataset(folder)
    everything = [block for block in blocks_of(dataset) if block.patch.split != "test"]
    if not everything:
        raise DatasetError(f"{dataset.folder} has no coarse labels. Label blocks, or take labels from a heatmap (histoseg import --coarse).")
    notices: list[str] = []
    table = table_for(dataset, everything, settings, notices)
    known = [block for block in everything if block.coarse in table.coarse]
    settings = settings.replace(mpp=settings.mpp or round(pixel_size(dataset, known), 3))
    side = _side_px(dataset, known, settings)
    most = max(settings.batch, MOST_BYTES // (4 * side**2))
    chosen = drawn(known, most, settings.seed)
    if len(chosen) < len(known):
        notices.append(f"{len(known):,} blocks are more than fit into memory: {len(chosen):,} were drawn, evenly over the coarse labels.")
    return LsrCourse(settings, dataset, table, chosen, notices)


def _side_px(dataset: PatchDataset, blocks: Sequence[Block], settings: LsrTraining) -> int:
    """Side of a block with its margin, working pixels."""
    from napari_histoseg.annotations.reading import PatchReader

    with PatchReader(dataset, settings.mpp) as reader:
        _, box, _ = reader.place(blocks[0].patch, blocks[0].box)
    return layout(max(box.width, box.height), settings.surroundings)[1]


def table_for(dataset: PatchDataset, blocks: Sequence[Block], settings: LsrTraining, notices: list[str]) -> Table:
    """The shares of the coarse labels that blocks have, from where the settings say."""
    labels = sorted({block.coarse for block in blocks})
    names = {label: coarse_name(dataset, label) for label in labels}
    class_names: Mapping[int, str] = {BACKGROUND: "background", **{c.value: c.name for c in dataset.classes}}
    if settings.table == "paper":
        values = sorted({BACKGROUND, *(c.value for c in dataset.classes)})
        return _only(paper_table(values), labels, names)
    source = settings.table if settings.table != "auto" else "dataset" if dataset.statistics else "painted"
    if source == "painted":
        values = sorted({BACKGROUND, *(c.value for c in dataset.classes)})
        shares = painted_shares(dataset, blocks, values)
        if not any(len(rows) for rows in shares.values()):
            raise DatasetError(f"{dataset.folder} has no table of shares, and no painted blocks to measure it in. State the shares, or paint {FEWEST} blocks or more of each coarse label.")
        table = measured(shares, values, names)
        notices.append("The table was measured in painted blocks: " + ", ".join(f"{len(shares[label])} of '{names[label]}'" for label in labels) + ".")
        return table
    table = stated(dataset, labels)
    if wrong := contradictions(table, painted_shares(dataset, blocks, table.values), class_names, names):
        raise DatasetError(f"The table of {dataset.folder} contradicts its blocks: " + " ".join(wrong))
    return table


def _only(table: Table, labels: Sequence[int], names: Mapping[int, str]) -> Table:
    missing = [names[label] for label in labels if label not in table.coarse]
    if missing:
        raise DatasetError(f"The paper's table has the coarse labels 0 to 9, and there are blocks of {', '.join(missing)}. State the shares yourself.")
    which = [table.coarse.index(label) for label in labels]
    return Table(tuple(labels), table.values, table.eta[which], table.rho[which])


