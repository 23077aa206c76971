"""What can be undone: datasets before and after each change, and the files that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from napari_histoseg.annotations.dataset import PatchDataset
from napari_histoseg.annotations.masks import Painted

Files = Mapping[str, Painted | None]
"""Masks by name inside the dataset's folder; None for one that is not there."""

MAX_CHANGES = 500
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """One step. Datasets share everything that did not change, so that a step costs little more than its masks."""

    sentence: str
    before: PatchDataset
    after: PatchDataset
    old: Files = field(default_factory=dict)
    new: Files = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(len(painted.png) for files in (self.old, self.new) for painted in files.values() if painted is not None)


class History:
    """Steps to undo and to redo, bounded in number and in bytes: the oldest are forgotten."""

    def __init__(self, max_changes: int = MAX_CHANGES, max_bytes: int = MAX_BYTES) -> None:
        self.done: list[Change] = []
        self.undone: list[Change] = []
        self._max_changes, self._max_bytes = max_changes, max_bytes

    def add(self, change: Change) -> None:
        """A new step; what was undone before it cannot be redone any more."""
        self.undone.clear()
        self.done.append(change)
        size = sum(c.size for c in self.done)
        while len(self.done) > self._max_changes or (size > self._max_bytes and len(self.done) > 1):
            size -= self.done.pop(0).size

    def step_back(self) -> None:
        """The last step was undone."""
        self.undone.append(self.done.pop())

    def step_forward(self) -> None:
        """The last undone step was redone."""
        self.done.append(self.undone.pop())
