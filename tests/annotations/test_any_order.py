"""Whatever a person does in whatever order, a session holds what a plain list would, on the disk too."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide import Box, open_slide

Patches = dict[str, tuple[Box, Any]]
"""Boxes, and the mask of painted patches, the class name of others."""

PLACES = [Box(x, y, 16, 12) for x in (0, 20, 40) for y in (0, 20)]
SHAPE = (6, 8)

places = st.sampled_from(PLACES)
pick = st.integers(0, 1000)
values = st.sampled_from([0, 1, 2, 255])


class AnyOrder(RuleBasedStateMachine):
    """A session beside a model: states before and after each step."""

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        home = Path(self._home.name)
        self.slide = open_slide(write_svs(home / "s.svs", he_image(64, 64), mpp=0.5, levels=(1,)))
        self.session = AnnotationSession.create(home / "d", mpp=1.0)
        self.states: list[tuple[dict[int, str], Patches]] = [({}, {})]
        self.at = 0

    def teardown(self) -> None:
        self.session.close()
        self.slide.close()
        self._home.cleanup()

    @property
    def classes(self) -> dict[int, str]:
        return self.states[self.at][0]

    @property
    def patches(self) -> Patches:
        return self.states[self.at][1]

    def step(self, classes: dict[int, str] | None = None, patches: Patches | None = None) -> None:
        """The model after a step; the steps that were undone are forgotten."""
        new = (self.classes if classes is None else classes, self.patches if patches is None else patches)
        self.states = [*self.states[: self.at + 1], new]
        self.at += 1

    def chosen(self, number: int, painted: bool | None = None) -> str | None:
        """Some patch of a kind."""
        ids = [i for i, (_, what) in self.patches.items() if painted is None or isinstance(what, np.ndarray) == painted]
        return ids[number % len(ids)] if ids else None

    @initialize()
    def two_classes(self) -> None:
        for value, name in ((1, "a"), (2, "b")):
            self.session.add_class(name)
            self.step(classes={**self.classes, value: name})

    @rule(box=places)
    def add_painted(self, box: Box) -> None:
        if any(b == box and isinstance(what, np.ndarray) for b, what in self.patches.values()):
            with pytest.raises(DatasetError, match="exactly there already"):
                self.session.add_mask_patch(self.slide, box)
        else:
            id = self.session.add_mask_patch(self.slide, box).id
            assert id not in {i for _, patches in self.states for i in patches}
            self.step(patches={**self.patches, id: (box, np.full(SHAPE, 255))})

    @rule(box=places, value=st.sampled_from([None, 1, 2]))
    def add_labeled(self, box: Box, value: int | None) -> None:
        taken = any(b == box and not isinstance(what, np.ndarray) for b, what in self.patches.values())
        if taken or (value is not None and value not in self.classes):
            with pytest.raises(DatasetError):
                self.session.add_label_patch(self.slide, box, value)
        else:
            id = self.session.add_label_patch(self.slide, box, value).id
            self.step(patches={**self.patches, id: (box, self.classes.get(value or -1))})

    @rule(number=pick, pixels=st.lists(values, min_size=SHAPE[0], max_size=SHAPE[0]))
    def paint(self, number: int, pixels: list[int]) -> None:
        if (id := self.chosen(number, painted=True)) is None:
            return
        mask = np.repeat(np.array(pixels, np.uint8)[:, None], SHAPE[1], axis=1)
        box, old = self.patches[id]
        if set(pixels) - {0, 255} - set(self.classes):
            with pytest.raises(DatasetError, match="which no class has"):
                self.session.set_mask(id, mask)
        else:
            self.session.set_mask(id, mask)
            if not np.array_equal(mask, old):
                self.step(patches={**self.patches, id: (box, mask)})

    @rule(number=pick, value=st.sampled_from([None, 1, 2]))
    def label(self, number: int, value: int | None) -> None:
        id = self.chosen(number, painted=False)
        if id is None or (value is not None and value not in self.classes):
            return
        name = self.classes.get(value or -1)
        self.session.set_label(id, value)
        if name != self.patches[id][1]:
            self.step(patches={**self.patches, id: (self.patches[id][0], name)})

    @rule(number=pick, value=st.sampled_from([1, 2]))
    def toggle(self, number: int, value: int) -> None:
        id = self.chosen(number, painted=False)
        if id is None or value not in self.classes:
            return
        box, what = self.patches[id]
        name = self.classes[value]
        names = tuple(n for n in names_of(what) if n != name) if name in names_of(what) else (*names_of(what), name)
        self.session.toggle_label(id, value)
        self.step(patches={**self.patches, id: (box, names[0] if len(names) == 1 else names or None)})

    @rule(number=pick)
    def remove(self, number: int) -> None:
        if (id := self.chosen(number)) is not None:
            self.session.remove(id)
            self.step(patches={i: patch for i, patch in self.patches.items() if i != id})

    @rule(value=st.sampled_from([1, 2]), name=st.sampled_from("abcd"))
    def rename(self, value: int, name: str) -> None:
        old = self.classes.get(value)
        if old is None or (name != old and name in self.classes.values()):
            with pytest.raises(DatasetError):
                self.session.rename_class(value, name)
        elif self.session.rename_class(value, name) is None and name != old:
            patches = {i: (box, renamed(what, old, name)) for i, (box, what) in self.patches.items()}
            self.step({**self.classes, value: name}, patches)

    @rule(value=st.sampled_from([1, 2]))
    def remove_class(self, value: int) -> None:
        name = self.classes.get(value)
        used = any(value in what if isinstance(what, np.ndarray) else name in names_of(what) for _, what in self.patches.values())
        if name is None or used:
            with pytest.raises(DatasetError):
                self.session.remove_class(value)
        else:
            self.session.remove_class(value)
            self.step(classes={v: n for v, n in self.classes.items() if v != value})

    @rule()
    def undo(self) -> None:
        assert (self.session.undo() is None) == (self.at == 0)
        self.at = max(self.at - 1, 0)

    @rule()
    def redo(self) -> None:
        last = len(self.states) - 1
        assert (self.session.redo() is None) == (self.at == last)
        self.at = min(self.at + 1, last)

    @rule()
    def reopen(self) -> None:
        self.session.close()
        self.session = AnnotationSession.open(self.session.folder)
        self.states, self.at = [self.states[self.at]], 0

    @invariant()
    def the_session_holds_what_the_model_holds(self) -> None:
        self.compare(self.session)

    @invariant()
    def the_counts_are_those_of_the_model(self) -> None:
        masks = [what for _, what in self.patches.values() if isinstance(what, np.ndarray)]
        counted = {c.value: (c.mask_patches, c.label_patches, c.painted_px) for c in self.session.counts() if c.value}
        for value, name in self.classes.items():
            labels = sum(name in names_of(what) for _, what in self.patches.values())
            assert counted[value] == (sum(value in m for m in masks), labels, sum(int((m == value).sum()) for m in masks))

    @invariant()
    def the_folder_holds_what_the_session_holds(self) -> None:
        files = {p.name for p in (self.session.folder / "masks").glob("*")}
        assert files == {f"{i}.png" for i, (_, what) in self.patches.items() if isinstance(what, np.ndarray)}

    def compare(self, session: AnnotationSession) -> None:
        assert {c.value: c.name for c in session.classes} == self.classes
        assert [p.id for p in session.patches] == list(self.patches)
        for patch in session.patches:
            box, what = self.patches[patch.id]
            assert patch.box == box
            if isinstance(what, np.ndarray):
                np.testing.assert_array_equal(session.mask(patch.id), what)
            else:
                assert patch.patch.label == what


def names_of(what: Any) -> tuple[str, ...]:
    """The classes of a patch that is not painted."""
    return () if what is None or isinstance(what, np.ndarray) else (what,) if isinstance(what, str) else what


def renamed(what: Any, old: str, new: str) -> Any:
    """The same with another name for a class."""
    names = tuple(new if name == old else name for name in names_of(what))
    return what if not names else names[0] if len(names) == 1 else names


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
test_any_order_of_work = AnyOrder.TestCase
