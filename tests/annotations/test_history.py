"""What can be undone is bounded, in steps and in bytes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histoseg.annotations.dataset import PatchDataset
from napari_histoseg.annotations.history import Change, History
from napari_histoseg.annotations.masks import Painted

EMPTY = PatchDataset.model_validate({"mpp": 1.0})


def stroke(name: str) -> Change:
    painted = Painted.of(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    return Change(name, EMPTY, EMPTY, {"masks/a.png": None}, {"masks/a.png": painted})


@pytest.mark.parametrize(
    ("max_changes", "max_bytes", "kept"),
    [(3, 1 << 30, "cde"), (99, 2 * stroke("a").size, "de"), (99, 1, "e")],
)
def test_the_oldest_steps_are_forgotten(max_changes: int, max_bytes: int, kept: str) -> None:
    history = History(max_changes, max_bytes)
    for name in "abcde":
        history.add(stroke(name))
    assert "".join(change.sentence for change in history.done) == kept


def test_a_new_step_forgets_what_was_undone() -> None:
    history = History()
    for name in "ab":
        history.add(stroke(name))
    history.step_back()
    history.step_back()
    history.step_forward()
    assert [c.sentence for c in history.done] == ["a"] and [c.sentence for c in history.undone] == ["b"]
    history.add(stroke("c"))
    assert [c.sentence for c in history.done] == ["a", "c"] and history.undone == []
