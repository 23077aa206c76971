"""Names, colors, merges, splits and corrections of classes: kept, undone, and shown wherever a result is read."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_histoseg.errors import ResultError, SettingsError, StorageError
from napari_histoseg.objects.colors import PALETTE, next_color
from napari_histoseg.results import ClassRecord, Result, ResultStore, classbook, classes, export, open_result
from napari_histoseg.results.classbook import BookChange, ClassBook
from napari_histoseg.results.classes import FILE, FOLDER
from napari_histoseg.results.clusters import Clusters
from napari_histoseg.results.edit import Editor
from napari_histoseg.results.lock import Lock


def names(result: Result) -> dict[int, str]:
    return {c.value: c.name for c in result.classes}


def ids_of(result: Result, value: int) -> list[int]:
    objects = result.objects
    return [int(i) for i in objects["id"][objects["cluster"] == value]]


def same_everywhere(result: Result) -> pd.DataFrame:
    """The object table, when every way of reading it agrees, in this and in a newly opened result."""
    objects = result.objects
    for again in (result.table(), open_result(result.path).objects, open_result(result.path).table()):
        pd.testing.assert_frame_equal(again, objects)
    assert result.schema().names[-1] == "outline"
    assert [n for n in result.schema().names if n != "outline"] == list(objects.columns)
    return objects


# -- without a book -----------------------------------------------------------------------------------------------------


def test_without_a_book_the_classes_are_those_of_the_record(cells: Result, new_cells: Any) -> None:
    assert cells.classes == cells.record.classes
    assert not (cells.path / FILE).exists()
    pd.testing.assert_frame_equal(same_everywhere(cells), new_cells().drop(columns="outline"), check_dtype=False)
    book = ClassBook(cells)
    assert (book.can_undo, book.can_redo, book.undo(), book.redo()) == (None, None, None, None)
    assert not (cells.path / FILE).exists()


def test_a_result_without_classes_has_no_book(new_cells: Any, store_cells: Any, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="has no classes to name"):
        ClassBook(store_cells(tmp_path / "r", new_cells(), classes=[]))


# -- names and colors ---------------------------------------------------------------------------------------------------


def test_a_name_is_in_the_table_and_in_the_result_opened_again(cells: Result) -> None:
    before = cells.objects
    ClassBook(cells).rename(2, "  lymphocyte ")
    assert names(cells) == names(open_result(cells.path)) == {1: "cluster 1", 2: "lymphocyte", 3: "cluster 3"}
    objects = same_everywhere(cells)
    assert (objects["class"][objects["cluster"] == 2] == "lymphocyte").all()
    pd.testing.assert_frame_equal(objects.drop(columns="class"), before.drop(columns="class"))
    assert {c.name for c in cells.record.classes} == {"cluster 1", "cluster 2", "cluster 3"}


def test_two_classes_can_swap_their_names(cells: Result) -> None:
    book = ClassBook(cells)
    first = ids_of(cells, 1)
    for value, name in ((1, "x"), (2, "cluster 1"), (1, "cluster 2")):
        book.rename(value, name)
    assert names(cells) == {1: "cluster 2", 2: "cluster 1", 3: "cluster 3"}
    objects = same_everywhere(cells).set_index("id")
    assert (objects.loc[first, "class"] == "cluster 2").all()


def test_what_changes_nothing_is_no_step(cells: Result) -> None:
    book = ClassBook(cells)
    book.rename(1, "cluster 1")
    book.recolor(1, "#E6194B")
    assert book.relabel(cells.objects["id"], cells.objects["cluster"], "nothing") == 0
    assert book.can_undo is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: b.rename(1, " "), "needs a name"),
        (lambda b: b.rename(1, "cluster 2"), "There is a class 'cluster 2' already"),
        (lambda b: b.rename(9, "x"), r"No class has the value 9. The classes are: 1 \(cluster 1\)"),
        (lambda b: b.recolor(1, "red"), "'#rrggbb'.*'red'"),
        (lambda b: b.merge([1]), "at least two classes"),
        (lambda b: b.merge([1, 1]), "at least two classes"),
        (lambda b: b.merge([1, 8]), "No class has the value 8"),
        (lambda b: b.assign([], 1), "No object was given"),
        (lambda b: b.assign([10**6], 1), "no object 1000000"),
        (lambda b: b.split(1, {}), "two or more parts"),
        (lambda b: b.split(1, {5: 0, 6: 2}), "none of them empty"),
        (lambda b: b.split(1, {5: 0, 6: -1}), "two or more parts"),
        (lambda b: b.relabel([1, 2], [1], "x"), "Got 2 objects and 1 values"),
    ],
)
def test_refused_with_a_sentence_and_nothing_changed(cells: Result, call: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        call(ClassBook(cells))
    assert not (cells.path / FILE).exists()


# -- merge and split ----------------------------------------------------------------------------------------------------


def test_merged_classes_are_one_and_undo_parts_them(cells: Result) -> None:
    book = ClassBook(cells)
    before = cells.objects
    assert book.merge([1, 3], into=3) == 3
    assert [c.value for c in cells.classes] == [2, 3]
    assert set(same_everywhere(cells)["cluster"]) == {2, 3}
    assert cells.class_of[1].name == "cluster 3"
    assert book.can_undo == "Merged cluster 1 into cluster 3"
    book.merge([2, 3])
    assert set(cells.objects["class"]) == {"cluster 2"}
    assert cells.class_of[1].value == 2
    book.undo()
    book.undo()
    pd.testing.assert_frame_equal(cells.objects, before)


def test_splitting_keeps_the_class_with_the_largest_part(cells: Result) -> None:
    book = ClassBook(cells)
    ids = ids_of(cells, 1)
    parts = dict(zip(ids, [0] * 5 + [2] * 7 + [1] * (len(ids) - 12), strict=True))
    values = book.split(1, parts)
    assert values == [4, 1, 5]
    assert [len(ids_of(cells, v)) for v in values] == [5, len(ids) - 12, 7]
    assert names(cells)[4] == "cluster 1 (2)" and names(cells)[5] == "cluster 1 (3)"
    assert len({c.color for c in cells.classes}) == 5
    same_everywhere(cells)
    assert book.undo() == "Split cluster 1 into 3"
    assert ids_of(cells, 1) == ids


def test_a_part_that_is_merged_elsewhere_goes_there(cells: Result) -> None:
    book = ClassBook(cells)
    ids = ids_of(cells, 1)
    _, new = book.split(1, pd.Series([0] * (len(ids) - 3) + [1] * 3, index=ids))
    third = ids_of(cells, 3)
    book.merge([3, new])
    assert ids_of(cells, 3) == sorted([*third, *ids[-3:]])
    # A value that is free again is not given to another class, so that nothing is mistaken for it.
    assert book.split(2, dict.fromkeys(ids_of(cells, 2)[1:], 0) | {ids_of(cells, 2)[0]: 1}) == [2, new + 1]


def test_objects_of_another_class_are_not_split_off(cells: Result) -> None:
    first, second = ids_of(cells, 1)[:3], ids_of(cells, 2)[:2]
    with pytest.raises(SettingsError, match=f"Objects {second[0]}, {second[1]} are not of the class cluster 1"):
        ClassBook(cells).split(1, dict.fromkeys(first, 0) | dict.fromkeys(second, 1))


def test_clusters_make_the_parts_of_a_split(cells: Result) -> None:
    parts = Clusters.of(cells).recluster(1, 2)
    values = ClassBook(cells).split(1, parts)
    assert [len(ids_of(cells, v)) for v in values] == np.bincount(parts).tolist()
    assert values[0] == 1


# -- corrections --------------------------------------------------------------------------------------------------------


def test_a_correction_makes_a_class_and_is_remembered(cells: Result) -> None:
    book = ClassBook(cells)
    chosen = ids_of(cells, 1)[:2] + ids_of(cells, 2)[:1]
    assert "corrected" not in cells.objects
    assert book.assign(chosen, "mitosis") == 4
    assert names(cells)[4] == "mitosis"
    objects = same_everywhere(cells).set_index("id")
    assert objects.index[objects["corrected"]].tolist() == sorted(chosen)
    assert (objects.loc[chosen, "class"] == "mitosis").all()
    assert book.assign(np.int64(chosen[0]), "mitosis") == book.assign(chosen[1], 4) == 4
    assert book.corrections().to_dict("list") == {"id": sorted(chosen), "value": [4, 4, 4]}
    while book.undo():
        pass
    assert "corrected" not in same_everywhere(cells)
    assert book.corrections().empty


def test_corrected_objects_keep_theirs_when_many_are_relabeled(cells: Result) -> None:
    book = ClassBook(cells)
    first = ids_of(cells, 1)
    book.assign(first[0], 2)
    book.assign(first[1], 1)
    everything = cells.objects["id"].to_numpy()
    moved = book.relabel(everything, np.full(len(everything), 3), "Learned from 2 corrections")
    assert moved == len(everything) - 2 - (len(ids_of(cells, 3)) - moved)
    objects = cells.objects.set_index("id")
    assert objects["cluster"].drop(first[:2]).eq(3).all()
    assert objects.loc[first[:2], "cluster"].tolist() == [2, 1]
    assert book.can_undo == "Learned from 2 corrections"


def test_corrections_follow_merges(cells: Result) -> None:
    book = ClassBook(cells)
    one = ids_of(cells, 1)[0]
    book.assign(one, 2)
    book.merge([3, 2])
    assert book.corrections().to_dict("list") == {"id": [one], "value": [3]}


def test_value_of_is_the_overlay_for_any_array(cells: Result) -> None:
    book = ClassBook(cells)
    ids = ids_of(cells, 1)
    book.assign(ids[0], 2)
    book.merge([3, 2])
    assert book.value_of([1, 1, 2, 3, 0, 77, -1], [ids[0], ids[1], 1, 1, 1, 1, 1]).tolist() == [3, 1, 3, 3, 0, 0, 0]


# -- steps --------------------------------------------------------------------------------------------------------------


def test_steps_can_be_undone_after_opening_again(cells: Result) -> None:
    book = ClassBook(cells)
    book.rename(1, "a")
    book.assign(ids_of(cells, 1)[:1], 2)
    again = ClassBook(open_result(cells.path))
    assert again.can_undo == "1 object to cluster 2"
    assert (again.undo(), again.undo()) == ("1 object to cluster 2", "Renamed cluster 1 to a")
    # The first book sees what the other one did.
    assert (book.can_undo, book.can_redo) == (None, "Renamed cluster 1 to a")
    assert names(cells)[1] == "cluster 1"
    assert book.redo() == "Renamed cluster 1 to a"
    book.rename(2, "b")
    assert again.can_redo is None
    assert names(again.result) == {1: "a", 2: "b", 3: "cluster 3"}


def test_files_of_steps_that_are_gone_for_good_go_too(cells: Result) -> None:
    book = ClassBook(cells)
    book.assign(ids_of(cells, 1)[:1], 2)
    book.undo()
    assert len(list((cells.path / FOLDER).iterdir())) == 1
    book.rename(1, "a")
    assert list((cells.path / FOLDER).iterdir()) == []


@pytest.mark.parametrize("limit", ["MAX_STEPS", "MAX_ROWS"])
def test_old_steps_stay_in_force_when_they_cannot_be_undone_any_more(cells: Result, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classbook, limit, 4)
    book = ClassBook(cells)
    ids = ids_of(cells, 1)
    for number in range(8):
        book.assign(ids[number], f"kind {number % 3}")
    shown = same_everywhere(cells)
    undone = 0
    while book.undo():
        undone += 1
    assert undone == 4
    for _ in range(4):
        book.redo()
    pd.testing.assert_frame_equal(same_everywhere(cells), shown)
    assert len(list((cells.path / FOLDER).iterdir())) == 5


def test_watchers_hear_what_a_change_touched(cells: Result) -> None:
    book = ClassBook(cells)
    heard: list[BookChange] = []
    end = book.subscribe(heard.append)
    book.rename(1, "a")
    book.assign(ids_of(cells, 1)[:1], 2)
    book.recolor(2, "#000000")
    book.merge([1, 2])
    book.undo()
    end()
    book.redo()
    assert [(c.classes, c.objects) for c in heard] == [(True, False), (False, True), (True, False), (True, True), (True, True)]
    assert heard[-1].sentence == "Merged cluster 2 into a"


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["rename", "merge", "split", "assign", "new", "relabel", "undo", "redo", "open"]), st.integers(0, 10**6), st.integers(0, 10**6)),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=OPERATIONS)
def test_any_order_of_changes_is_what_a_plain_table_would_be(steps: list[tuple[str, int, int]], tmp_path_factory: Any, new_cells: Any, store_cells: Any) -> None:
    objects = new_cells(40)
    result = store_cells(tmp_path_factory.mktemp("book") / "r", objects)
    book = ClassBook(result)
    plain = (dict(zip(objects["id"].tolist(), objects["cluster"].tolist(), strict=True)), {c.value: c.name for c in result.classes}, set())
    past: list[Any] = []
    future: list[Any] = []
    ids = objects["id"].tolist()
    for number, (what, a, b) in enumerate(steps):
        members, called, fixed = dict(plain[0]), dict(plain[1]), set(plain[2])
        value, other, one = sorted(called)[a % len(called)], sorted(called)[b % len(called)], ids[a % len(ids)]
        if what in ("undo", "redo"):
            source, target = (past, future) if what == "undo" else (future, past)
            assert (getattr(book, what)() is None) == (not source)
            if source:
                target.append(plain)
                plain = source.pop()
            continue
        if what == "open":
            result = open_result(result.path)
            book = ClassBook(result)
            continue
        if what == "rename":
            called[value] = f"name {number}"
            book.rename(value, called[value])
        elif what == "merge":
            if value == other:
                continue
            book.merge([value, other])
            members = {i: value if v == other else v for i, v in members.items()}
            del called[other]
        elif what == "split":
            mine = [i for i, v in members.items() if v == value]
            if len(mine) < 2:
                continue
            cut = 1 + b % (len(mine) - 1)
            parts = {i: int(at >= cut) for at, i in enumerate(mine)}
            values = book.split(value, parts)
            members |= {i: values[part] for i, part in parts.items()}
            called = {c.value: c.name for c in book.classes}
        elif what == "assign":
            book.assign(one, other)
            members[one] = other
            fixed.add(one)
        elif what == "new":
            new = book.assign(one, f"new {number}")
            members[one], called[new] = new, f"new {number}"
            fixed.add(one)
        elif book.relabel(ids, np.full(len(ids), other), "all"):
            members = {i: v if i in fixed else other for i, v in members.items()}
        else:
            continue
        past.append(plain)
        future.clear()
        plain = (members, called, fixed)
    shown = open_result(result.path).objects
    assert dict(zip(shown["id"].tolist(), shown["cluster"].tolist(), strict=True)) == plain[0]
    assert shown["class"].tolist() == [plain[1][v] for v in shown["cluster"]]
    assert names(result) == plain[1]
    assert set(book.corrections()["id"]) == plain[2]
    pd.testing.assert_frame_equal(result.objects, shown)


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_book_as_it_was(cells: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ClassBook(cells)
    book.rename(1, "a")
    ids = ids_of(cells, 1)
    replace = Path.replace

    def full(self: Path, target: Any) -> Any:
        if Path(target).name == FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(StorageError, match=r"the disk is full. Free space and do it again."):
            book.assign(ids[:2], "b")
    # The objects' file is there, but no step names it.
    assert len(list((cells.path / FOLDER).glob("*.parquet"))) == 1
    assert ids_of(open_result(cells.path), 1) == ids_of(cells, 1) == ids
    assert not list(cells.path.rglob("*.partial"))
    book.assign(ids[:1], "c")
    assert ids_of(open_result(cells.path), 4) == ids_of(cells, 4) == ids[:1]
    assert not (cells.path / ".lock").exists()


def test_a_folder_that_a_run_writes_is_not_changed(cells: Result) -> None:
    lock = Lock(cells.path)
    book = ClassBook(cells)
    with pytest.raises(ResultError, match="in use by another run"):
        book.rename(1, "a")
    with pytest.raises(ResultError, match="in use by another run"):
        book.undo()
    lock.release()
    book.rename(1, "a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ('{"format": 1}', "cannot be read"),
        ('{"format": 99}', "is in format 99; this version reads format 1"),
    ],
)
def test_a_damaged_book_is_named(cells: Result, text: str, words: str) -> None:
    (cells.path / FILE).write_text(text)
    result = open_result(cells.path)
    assert result.labels.shape == (64, 64)
    with pytest.raises(ResultError, match=f"{FILE} {words}.*ove .*away"):
        _ = result.classes


def test_a_lost_file_of_objects_is_named_and_the_book_can_be_moved_away(cells: Result) -> None:
    ClassBook(cells).assign(ids_of(cells, 1)[:1], 2)
    for path in (cells.path / FOLDER).iterdir():
        path.unlink()
    result = open_result(cells.path)
    with pytest.raises(ResultError, match="files that it names are gone"):
        _ = result.objects
    (cells.path / FILE).unlink()
    assert result.classes == result.record.classes


# -- corrections of pixels beside those of classes ----------------------------------------------------------------------


def test_objects_that_were_cut_or_drawn_by_hand_have_the_classes_too(own: Result) -> None:
    book = ClassBook(own)
    book.rename(1, "lymphocyte")
    ids = own.objects["id"].tolist()
    book.assign(ids[:3], "mitosis")
    editor = Editor(own)
    editor.delete(ids[0])
    editor.merge(ids[1:3])
    assert ids[0] not in own.objects["id"].tolist()
    shown = own.objects.set_index("id")["class"]
    assert shown[ids[1]] == "mitosis"
    assert shown[ids[3]] == "lymphocyte"
    book.rename(2, "dividing")
    book.rename(1, "T cell")
    assert set(own.objects["class"]) == set(own.table()["class"]) == {"dividing", "T cell"}
    editor.undo()
    editor.undo()
    assert (own.objects.set_index("id").loc[ids[:3], "class"] == "dividing").all()
    assert "cluster" not in own.objects


@pytest.mark.parametrize("renamed", [False, True])
def test_pieces_of_an_object_have_its_cluster(scene: Any, new_record: Any, tmp_path: Path, renamed: bool) -> None:
    clusters = np.arange(len(scene.objects)) % 2 + 1
    objects = scene.objects.assign(**{"cluster": clusters.astype(np.int32), "class": [f"cluster {v}" for v in clusters]})
    classes = [ClassRecord(value=v, name=f"cluster {v}") for v in (1, 2)]
    store = ResultStore.create(tmp_path / "r", new_record(classes=classes, n_tiles=1), ("labels", "objects"))
    frame = store.record.frame
    store.add(0, frame, labels=(frame, scene.labels), objects=objects)
    result = store.finish()
    if renamed:
        ClassBook(result).rename(2, "lymphocyte")
    whole = objects[objects["area_um2"] > 60].iloc[1]
    x, y = whole["centroid_x_um"] / 0.5, whole["centroid_y_um"] / 0.5
    editor = Editor(result)
    pieces = editor.split(int(whole["id"]), [(x - 40, y), (x + 40, y)])
    assert len(pieces) == 2
    shown = same_everywhere(result).set_index("id").loc[pieces]
    assert shown["cluster"].tolist() == [whole["cluster"]] * 2
    assert shown["class"].nunique() == 1
    assert result.objects["cluster"].dtype == np.int32
    assert set(Clusters.of(result).cluster.tolist()) == {1, 2}
    ClassBook(result).merge([1, 2])
    assert set(same_everywhere(result)["class"]) == {"cluster 1"}


def test_a_reader_goes_on_while_another_process_tidies_up(cells: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    book, other = ClassBook(cells), open_result(cells.path)
    ids = ids_of(cells, 1)
    book.assign(ids[:1], 2)
    read, met = classes.Moves.read.__func__, []

    def late(cls: Any, path: Path) -> Any:
        if not met:
            met.append(path)
            book.undo()
            book.assign(ids[1:2], 3)
        return read(cls, path)

    monkeypatch.setattr(classes.Moves, "read", classmethod(late))
    assert other.objects["corrected"].sum() == 1
    assert not met[0].exists()
    assert other.objects.set_index("id").loc[ids[:2], "cluster"].tolist() == [1, 3]


# -- exports ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def named(cells: Result) -> Result:
    """Two named and recolored classes, one of them merged, and a correction."""
    book = ClassBook(cells)
    book.merge([1, 3])
    book.rename(1, "epithelial")
    book.recolor(1, "#102030")
    book.assign(ids_of(cells, 2)[:2], "mitosis")
    return cells


def test_geojson_has_the_names_and_colors(named: Result, tmp_path: Path) -> None:
    found = json.loads(export(named, tmp_path / "a.geojson").read_text())["features"]
    classes = {(f["properties"]["classification"]["name"], tuple(f["properties"]["classification"]["color"])) for f in found}
    colors = {c.name: c.color for c in named.classes}
    assert classes == {
        ("epithelial", (0x10, 0x20, 0x30)),
        ("cluster 2", (0x3C, 0xB4, 0x4B)),
        ("mitosis", tuple(bytes.fromhex(colors["mitosis"][1:]))),
    }
    assert set(found[0]["properties"]["measurements"]) <= {"centroid_x_um", "centroid_y_um", "probability", "area_um2", "eccentricity"}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_tables_have_the_names_and_what_was_corrected(named: Result, tmp_path: Path, name: str) -> None:
    path = export(named, tmp_path / name)
    table = pd.read_csv(path) if name.endswith("csv") else pq.read_table(path).to_pandas().drop(columns="outline")
    pd.testing.assert_frame_equal(table, named.objects, check_dtype=False, rtol=1e-5)
    assert table["corrected"].sum() == 2
    assert "embedding_03" in table


def test_anndata_has_the_embedding_and_the_colors(named: Result, tmp_path: Path) -> None:
    data = anndata.read_h5ad(export(named, tmp_path / "a.h5ad"))
    objects = named.objects
    np.testing.assert_array_equal(data.obsm["X_embedding"], objects[[f"embedding_{i:02d}" for i in range(4)]])
    assert list(data.var_names) == ["area_um2", "eccentricity"]
    assert data.obs["cluster"].tolist() == objects["cluster"].tolist()
    assert data.obs["corrected"].sum() == 2
    colors = {c.name: c.color for c in named.classes}
    assert list(data.uns["class_colors"]) == [colors[name] for name in data.obs["class"].cat.categories]


# -- colors -------------------------------------------------------------------------------------------------------------


def test_new_colors_are_never_taken() -> None:
    taken: list[str] = []
    for _ in range(60):
        taken.append(next_color(taken))
    assert len(set(taken)) == 60
    assert taken[: len(PALETTE)] == list(PALETTE)
    assert all(ClassRecord(value=1, name="x", color=c).color.startswith("#") and len(c) == 7 for c in taken)
