"""Corrections change labels, table and exports alike, can be taken back, and outlive a crash."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely

from napari_histoseg.errors import RegionError, ResultError, SettingsError
from napari_histoseg.results import Result, journal, open_result
from napari_histoseg.results.edit import Editor
from napari_histoseg.results.pyramid import halve
from napari_histoseg.slide.geometry import Box


def pixels(result: Result) -> Any:
    return result.labels.compute()


def assert_whole(result: Result) -> None:
    """Labels and table hold the same ids, and every coarser level follows from the finer one."""
    levels = [level.compute() for level in result.pyramid]
    for fine, coarse in pairwise(levels):
        np.testing.assert_array_equal(coarse, halve(fine, "labels"))
    assert set(np.unique(levels[0])) - {0} == set(result.objects["id"])
    reopened = open_result(result.path)
    pd.testing.assert_frame_equal(reopened.table(), result.objects, check_dtype=False)
    assert len(reopened.table(outlines=True)) == len(result.objects)


@pytest.fixture
def lone(own: Result) -> int:
    """The id of an object that has its whole disc inside the frame."""
    areas = own.objects["area_um2"]
    x, y = own.objects["centroid_x_um"], own.objects["centroid_y_um"]
    inside = (x > 170) & (x < 870) & (y > 90) & (y < 590)
    return int(own.objects.loc[areas[inside].idxmax(), "id"])


def center(result: Result, identity: int) -> tuple[float, float]:
    """Centroid of an object in working pixels of the slide."""
    row = result.objects.set_index("id").loc[identity]
    return row["centroid_x_um"] / result.mpp, row["centroid_y_um"] / result.mpp


def test_delete(own: Result, lone: int) -> None:
    before = pixels(own)
    editor = Editor(own)
    editor.delete([lone])
    np.testing.assert_array_equal(pixels(own), np.where(before == lone, 0, before))
    assert lone not in set(own.objects["id"])
    assert editor.last_description == "Deleted 1 object"
    assert_whole(own)


def test_add_leaves_other_objects_theirs(own: Result, lone: int) -> None:
    x, y = (int(v) for v in center(own, lone))
    box = Box(x - 30, y - 5, 60, 10)
    before = pixels(own)
    identity = Editor(own).add(box, np.ones(box.shape, bool), probability=0.75)
    after = pixels(own)
    assert (after[before != 0] == before[before != 0]).all()
    assert identity == before.max() + 1
    row = own.objects.set_index("id").loc[identity]
    assert row["class"] == "nucleus"
    assert row["probability"] == pytest.approx(0.75)
    assert row["area_um2"] == pytest.approx((after == identity).sum() * 0.25)
    outline = shapely.from_wkb(own.table(outlines=True).set_index("id").loc[identity, "outline"])
    assert outline.area * 0.25**2 == pytest.approx(row["area_um2"])
    assert outline.is_valid
    assert_whole(own)


def test_add_beyond_the_frame_is_cut(own: Result) -> None:
    frame = own.frame
    box = Box(frame.right - 6, frame.bottom - 6, 20, 20)
    identity = Editor(own).add(box, np.ones(box.shape, bool))
    assert (pixels(own) == identity).sum() <= 36
    assert_whole(own)


def test_add_of_nothing_is_refused(own: Result, lone: int) -> None:
    x, y = (int(v) for v in center(own, lone))
    with pytest.raises(RegionError, match="no background pixel"):
        Editor(own).add(Box(x, y, 2, 2), np.ones((2, 2), bool))


def test_split_along_a_line(own: Result, lone: int) -> None:
    before = pixels(own)
    x, y = center(own, lone)
    ids = Editor(own).split(lone, [(x - 40, y - 10), (x + 40, y + 10)])
    assert ids[0] == lone
    assert len(ids) == 2
    after = pixels(own)
    np.testing.assert_array_equal(np.isin(after, ids), before == lone)
    sizes = [(after == i).sum() for i in ids]
    assert sizes[0] >= sizes[1] > 0.3 * sum(sizes)
    rows = own.objects.set_index("id").loc[ids]
    assert rows["area_um2"].tolist() == pytest.approx([s * 0.25 for s in sizes])
    assert_whole(own)


@pytest.mark.parametrize("shift", [(0, 60), (200, 0)])
def test_a_line_that_does_not_cross_splits_nothing(own: Result, lone: int, shift: tuple[int, int]) -> None:
    x, y = center(own, lone)
    x, y = x + shift[0], y + shift[1]
    before = pixels(own)
    with pytest.raises(RegionError, match=f"does not cut object {lone} in two"):
        Editor(own).split(lone, [(x - 10, y), (x + 10, y)])
    np.testing.assert_array_equal(pixels(own), before)


def test_merge_closes_a_narrow_gap(own: Result, lone: int) -> None:
    x, y = center(own, lone)
    editor = Editor(own)
    before = pixels(own) == lone
    ids = editor.split(lone, [(x - 40, y), (x + 40, y)])
    assert editor.merge(ids) == lone
    np.testing.assert_array_equal(pixels(own) == lone, before)
    assert own.objects.set_index("id").loc[lone, "class"] == "nucleus"
    assert_whole(own)


def test_undo_and_redo_walk_through_the_edits(own: Result, lone: int) -> None:
    x, y = center(own, lone)
    editor = Editor(own)
    states = [(pixels(own), own.objects)]
    editor.split(lone, [(x, y - 40), (x, y + 40)])
    states.append((pixels(own), own.objects))
    editor.delete(lone)
    states.append((pixels(own), own.objects))
    editor.add(Box(310, 150, 9, 7), np.ones((7, 9), bool))
    states.append((pixels(own), own.objects))
    for expected in reversed(states[:-1]):
        assert editor.can_undo
        editor.undo()
        np.testing.assert_array_equal(pixels(own), expected[0])
        pd.testing.assert_frame_equal(own.objects, expected[1])
    assert not editor.can_undo
    assert editor.undo() is None
    for expected in states[1:]:
        assert editor.can_redo
        editor.redo()
        np.testing.assert_array_equal(pixels(own), expected[0])
        pd.testing.assert_frame_equal(own.objects, expected[1])
    assert editor.redo() is None
    assert_whole(own)


def test_a_new_edit_forgets_what_was_undone(own: Result, lone: int) -> None:
    editor = Editor(own)
    editor.delete(lone)
    editor.undo()
    editor.add(Box(310, 150, 9, 7), np.ones((7, 9), bool))
    assert not editor.can_redo


def test_ids_are_not_used_twice(own: Result) -> None:
    editor = Editor(own)
    first = editor.add(Box(310, 150, 9, 7), np.ones((7, 9), bool))
    editor.undo()
    second = editor.add(Box(330, 150, 9, 7), np.ones((7, 9), bool))
    assert second == first + 1


def test_undo_works_after_reopening(own: Result, lone: int) -> None:
    before = pixels(own)
    Editor(own).delete(lone)
    again = open_result(own.path)
    assert lone not in set(again.objects["id"])
    editor = Editor(again)
    assert editor.undo() == "Deleted 1 object"
    np.testing.assert_array_equal(pixels(again), before)
    assert lone in set(again.objects["id"])


def test_the_journal_says_who_and_when(own: Result, lone: int) -> None:
    Editor(own).delete(lone)
    (entry,) = journal.Journal(own.path).entries
    assert entry.who
    assert entry.when.startswith("20")
    assert entry.removed == {lone}


def test_the_runs_own_files_stay_as_they_were(own: Result, lone: int) -> None:
    files = [own.path / "objects.parquet", own.path / "run.json"]
    before = [path.read_bytes() for path in files]
    Editor(own).delete(lone)
    assert [path.read_bytes() for path in files] == before


def test_an_edit_that_a_crash_interrupted_is_completed(own: Result, lone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "write_window", crash)
    with pytest.raises(KeyboardInterrupt):
        Editor(own).delete(lone)
    monkeypatch.undo()
    assert lone in pixels(own)
    again = open_result(own.path)
    assert lone not in pixels(again)
    assert_whole(again)


def test_the_methods_own_measurements_are_used(own: Result, lone: int) -> None:
    seen: list[Box] = []

    def measure(labels: Any, box: Box) -> pd.DataFrame:
        seen.append(box)
        assert labels.dtype == np.int32
        assert labels.shape == box.shape
        ids = np.unique(labels[labels > 0])
        return pd.DataFrame({"id": ids, "centroid_x_um": 1.0, "centroid_y_um": 2.0, "area_um2": 3.0, "eccentricity": 0.25})

    identity = Editor(own, measure).add(Box(700, 500, 9, 7), np.ones((7, 9), bool))
    assert own.objects.set_index("id").loc[identity, "eccentricity"] == 0.25
    assert seen[0].contains_point(650, 450)


def test_unknown_objects_are_named(own: Result) -> None:
    with pytest.raises(SettingsError, match="no object 77777777"):
        Editor(own).delete([77777777])
    with pytest.raises(SettingsError, match="at least two"):
        Editor(own).merge([int(own.objects["id"].iloc[0])])


def test_a_result_without_objects_cannot_be_edited(scene: Any, write: Any, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="holds no objects"):
        Editor(write(tmp_path / "r", scene, outputs=("labels",)))


def test_an_unfinished_result_can_be_corrected_and_resumed(scene: Any, new_record: Any, tmp_path: Path, finished: Result) -> None:
    from napari_histoseg.results import ResultStore

    store = ResultStore.create(tmp_path / "r", new_record(), ("labels", "objects"))
    store.add(**scene.tile(6))
    result = store.finish("cancelled")
    victim = int(result.objects["id"].iloc[0])
    added = Editor(result).add(Box(310, 150, 3, 3), np.ones((3, 3), bool))
    Editor(result).delete(victim)
    store = ResultStore.resume(tmp_path / "r", new_record())
    for index in set(range(len(scene.tiles))) - store.done:
        store.add(**scene.tile(index))
    whole = store.finish()
    assert set(whole.objects["id"]) == set(finished.objects["id"]) - {victim} | {added}
    assert added >= 2**31
