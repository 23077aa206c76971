"""The store keeps every committed tile, whatever the order, and whenever it is killed."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from napari_histoseg.errors import ResultError, StorageError
from napari_histoseg.results import ResultStore, RunRecord, open_result, table
from napari_histoseg.results import store as store_module
from napari_histoseg.results.pyramid import halve
from napari_histoseg.slide.geometry import Box

ALL = ("labels", "objects", "probability", "image")


def assert_same(a: Any, b: Any) -> None:
    """Two results hold the same pixels at every level and the same table, byte for byte."""
    for kind in ("labels", "probability", "image"):
        for left, right in zip(a.levels(kind), b.levels(kind), strict=True):
            np.testing.assert_array_equal(left.compute(), right.compute())
    pd.testing.assert_frame_equal(a.table(outlines=True), b.table(outlines=True))


def test_a_finished_result_holds_what_went_in(finished: Any, scene: Any) -> None:
    np.testing.assert_array_equal(finished.labels.compute(), scene.labels)
    np.testing.assert_array_equal(finished.image.compute(), scene.image)
    np.testing.assert_allclose(finished.probability.compute(), scene.probability / 255, rtol=1e-6)
    pd.testing.assert_frame_equal(finished.table(outlines=True), scene.objects, check_dtype=False)
    assert "outline" not in finished.objects.columns
    assert finished.record.status == "finished"
    assert sorted(p.name for p in finished.path.iterdir()) == [
        "image.ome.zarr",
        "labels.ome.zarr",
        "objects.parquet",
        "probability.ome.zarr",
        "run.json",
    ]


def test_coarser_levels_invent_no_labels(finished: Any, scene: Any) -> None:
    shapes = [level.shape for level in finished.pyramid]
    assert shapes == [(1100, 1500), (550, 750), (275, 375)]
    for fine, coarse in pairwise(finished.pyramid):
        np.testing.assert_array_equal(coarse.compute(), halve(fine.compute(), "labels"))
    assert set(np.unique(finished.pyramid[-1].compute())) <= set(np.unique(scene.labels))


def test_the_mode_of_four_values_wins() -> None:
    block = np.array([[1, 2, 5, 5, 7], [2, 2, 6, 8, 0]], np.uint32)
    np.testing.assert_array_equal(halve(block, "labels"), [[2, 5, 7]])


def test_pyramids_are_valid_ome_zarr(finished: Any) -> None:
    labels = ImageLabel.from_zarr(zarr.open_group(finished.path / "labels.ome.zarr", mode="r"))
    multiscale = labels.ome_attributes.multiscales[0]
    assert [axis.unit for axis in multiscale.axes] == ["micrometer", "micrometer"]
    scale, move = multiscale.datasets[1].coordinateTransformations
    assert scale.scale == [1.0, 1.0]
    # The frame begins at working pixel (300, 140) of 0.5 µm. The center of a pixel of 1 µm lies 0.375 µm
    # further in than that of one of 0.25 µm.
    assert move.translation == [70.375, 150.375]
    for name in ("probability", "image"):
        Image.from_zarr(zarr.open_group(finished.path / f"{name}.ome.zarr", mode="r"))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_tiles_does_not_matter(finished: Any, scene: Any, new_record: Any, tmp_path: Path, seed: int) -> None:
    order = list(range(len(scene.tiles)))
    random.Random(seed).shuffle(order)
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    for count, index in enumerate(order):
        store.add(**scene.tile(index))
        if count % 3 == 0:
            store.commit()
    assert_same(store.finish(), finished)


def test_where_two_tiles_claim_a_pixel_the_smaller_id_wins(new_record: Any) -> None:
    box = Box(300, 140, 4, 1)
    for order in ([0, 1], [1, 0]):
        store = ResultStore.create(None, new_record(), ("labels",))
        claims = [np.array([[9, 9, 9, 0]], np.int32), np.array([[0, 4, 12, 12]], np.int32)]
        for i in order:
            store.add(i, box, labels=(box, claims[i]))
        np.testing.assert_array_equal(store.finish().labels[0, :4], [9, 4, 9, 12])


def test_a_chunk_cache_that_holds_little_gives_the_same(
    finished: Any, scene: Any, new_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = store_module.ChunkCache
    monkeypatch.setattr(store_module, "ChunkCache", lambda array, _: cached(array, 1))
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    for index in range(len(scene.tiles)):
        store.add(**scene.tile(index))
    assert_same(store.finish(), finished)


def test_only_committed_tiles_are_done(scene: Any, new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    store.add(**scene.tile(3))
    assert store.done == frozenset()
    store.commit()
    store.add(**scene.tile(4))
    assert store.done == {3}
    store.close()
    assert ResultStore.resume(tmp_path / "r", new_record()).done == {3}


def test_the_growing_labels_show_at_every_level(scene: Any, new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    coarsest = store.arrays()["labels"][-1]
    assert not np.asarray(coarsest[:]).any()
    store.add(**scene.tile(7))
    store.commit()
    assert np.asarray(coarsest[:]).any()


def test_a_cancelled_result_reads_and_resumes(finished: Any, scene: Any, new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    for index in (5, 1, 9):
        store.add(**scene.tile(index))
    part = store.finish("cancelled")
    assert part.record.status == "cancelled"
    assert part.record.tiles_done == 3
    expected = pd.concat([scene.tile(i)["objects"] for i in (1, 5, 9)])
    assert part.objects["id"].tolist() == sorted(expected["id"])
    store = ResultStore.resume(tmp_path / "r", new_record())
    for index in set(range(len(scene.tiles))) - store.done:
        store.add(**scene.tile(index))
    assert_same(store.finish(), finished)


def test_a_finished_result_resumes_with_nothing_left_to_do(own: Any, finished: Any, new_record: Any, scene: Any) -> None:
    store = ResultStore.resume(own.path, new_record())
    assert store.done == set(range(len(scene.tiles)))
    assert_same(store.finish(), finished)


def test_a_result_without_objects_remembers_its_tiles(scene: Any, write: Any, new_record: Any, tmp_path: Path) -> None:
    result = write(tmp_path / "r", scene, "cancelled", ("labels",))
    assert not result.has_objects
    assert result.objects.empty
    assert len(ResultStore.resume(tmp_path / "r", new_record()).done) == len(scene.tiles)


MAPS = ("labels", "probability", "uncertainty")


def test_pixels_of_tiles_that_are_done_can_be_put_right(scene: Any, new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), MAPS)
    for index in range(len(scene.tiles)):
        store.add(**scene.tile(index))
    store.commit()
    # Across tiles and chunks; zeros and larger numbers replace what was there as well.
    box = Box(700, 500, 600, 500)
    inside = box.relative_to(store.record.frame)
    before = {kind: np.asarray(levels[0][:]) for kind, levels in store.arrays().items()}
    labels = np.where(before["labels"][inside.slices] > 0, 0, 4_000_000).astype(np.uint32)
    spread = np.full(box.shape, 77, np.uint8)
    store.amend(labels=(box, labels), uncertainty=(box, spread), probability=None, image=(box, np.zeros((*box.shape, 3), np.uint8)))
    result = store.finish()
    for kind, wanted in (("labels", labels), ("uncertainty", spread)):
        after = np.asarray(result.arrays()[kind][0][:])
        np.testing.assert_array_equal(after[inside.slices], wanted)
        after[inside.slices] = before[kind][inside.slices]
        np.testing.assert_array_equal(after, before[kind])
        # Coarser levels follow.
        for fine, coarse in pairwise(np.asarray(level[:]) for level in result.arrays()[kind]):
            np.testing.assert_array_equal(coarse, halve(fine, kind))
    np.testing.assert_array_equal(result.arrays()["probability"][0][:], before["probability"])
    assert "image" not in result.arrays()


def test_amendments_are_on_the_disk_after_the_next_commit(new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), MAPS)
    box = Box(300, 140, 10, 10)
    store.amend(labels=(box, np.ones(box.shape, np.int32)))
    store.commit()
    store.close()
    assert np.asarray(open_result(tmp_path / "r").labels)[:10, :10].all()
    # Pixels alone make no tile done.
    assert ResultStore.resume(tmp_path / "r", new_record()).done == frozenset()


def test_uncertainty_is_a_share_of_a_half_and_has_a_pyramid(new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), MAPS)
    frame = store.record.frame
    values = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    store.amend(uncertainty=(frame, values))
    store.finish()
    result = open_result(tmp_path / "r")
    np.testing.assert_allclose(np.asarray(result.uncertainty), values / 510, atol=1e-6)
    levels = [np.asarray(level[:]) for level in result.arrays()["uncertainty"]]
    assert len(levels) == 3
    for fine, coarse in pairwise(levels):
        np.testing.assert_array_equal(coarse, halve(fine, "uncertainty"))
    Image.from_zarr(zarr.open_group(result.path / "uncertainty.ome.zarr", mode="r"))


def test_a_result_without_uncertainty_has_none(finished: Any) -> None:
    assert finished.uncertainty is None


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the store's own code runs after it."""


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_any_write_it_resumes_to_the_identical_result(
    finished: Any, scene: Any, new_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    live, copy = tmp_path / "live", tmp_path / "copy"
    store = ResultStore.create(live, new_record(), ALL)
    stop = rng.randint(1, 260)
    steps = 0
    replace = Path.replace

    def counted(self: Path, target: Any) -> Path:
        # Every file that appears does so by a rename: chunks, parts, the table, run.json.
        nonlocal steps
        steps += 1
        if steps == stop:
            shutil.copytree(live, copy)
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    monkeypatch.setattr("napari_histoseg.results.chunks.WORKERS", 1)
    try:
        for index in rng.sample(range(len(scene.tiles)), len(scene.tiles)):
            store.add(**scene.tile(index))
            if rng.random() < 0.3:
                store.commit()
        store.finish()
    except Killed:
        pass
    monkeypatch.undo()
    store.close()
    if not copy.exists():
        shutil.copytree(live, copy)
    (copy / ".lock").unlink(missing_ok=True)
    open_result(copy).labels.compute()
    resumed = ResultStore.resume(copy, new_record())
    for index in set(range(len(scene.tiles))) - resumed.done:
        resumed.add(**scene.tile(index))
    assert_same(resumed.finish(), finished)
    assert not list(copy.rglob("*.partial"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_process_that_is_killed_leaves_a_result_to_take_over(scene: Any, finished: Any, new_record: Any, tmp_path: Path) -> None:
    path = tmp_path / "r"
    (tmp_path / "record.json").write_text(new_record().model_dump_json())
    script = f"""
        import os, signal
        import numpy as np
        from napari_histoseg.results import ResultStore, RunRecord
        from napari_histoseg.slide.geometry import Box
        record = RunRecord.model_validate_json(open({str(tmp_path / "record.json")!r}).read())
        store = ResultStore.create({str(path)!r}, record, {ALL!r})
        store.add(999, Box(300, 140, 8, 8))
        store.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert (path / ".lock").exists()
    assert open_result(path).record.status == "running"
    store = ResultStore.resume(path, new_record())
    assert store.done == {999}
    for index in range(len(scene.tiles)):
        store.add(**scene.tile(index))
    assert_same(store.finish(), finished)


def test_a_folder_that_exists_is_not_touched(own: Any, new_record: Any) -> None:
    with pytest.raises(ResultError, match=r"exists. Choose another folder, or pass --resume or --overwrite"):
        ResultStore.create(own.path, new_record(), ALL)
    assert ResultStore.create(own.path, new_record(), ALL, overwrite=True).done == frozenset()


def test_overwrite_deletes_results_only(tmp_path: Path, new_record: Any) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ResultError, match="is not a result folder"):
        ResultStore.create(tmp_path, new_record(), ALL, overwrite=True)
    with pytest.raises(ResultError, match="is not a result folder"):
        ResultStore.create(tmp_path / "thesis.txt", new_record(), ALL, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_two_runs_into_one_result_are_refused(tmp_path: Path, new_record: Any) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    message = rf"in use by another run \(process {os.getpid()}\)"
    with pytest.raises(ResultError, match=message):
        ResultStore.resume(tmp_path / "r", new_record())
    with pytest.raises(ResultError, match=message):
        ResultStore.create(tmp_path / "r", new_record(), ALL, overwrite=True)
    store.close()
    ResultStore.resume(tmp_path / "r", new_record()).close()


@pytest.mark.parametrize("held", ["", "{}", json.dumps({"pid": 2**22 + 1, "host": "HERE"})])
def test_a_dead_runs_lock_is_taken_over(tmp_path: Path, new_record: Any, held: str) -> None:
    import socket

    ResultStore.create(tmp_path / "r", new_record(), ALL).close()
    (tmp_path / "r" / ".lock").write_text(held.replace("HERE", socket.gethostname()))
    ResultStore.resume(tmp_path / "r", new_record()).close()
    assert not list((tmp_path / "r").glob(".lock*"))


def test_another_machines_lock_is_respected(tmp_path: Path, new_record: Any) -> None:
    ResultStore.create(tmp_path / "r", new_record(), ALL).close()
    (tmp_path / "r" / ".lock").write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    with pytest.raises(ResultError, match=r"process 7 on elsewhere.*delete"):
        ResultStore.resume(tmp_path / "r", new_record())


def test_resume_names_every_difference(own: Any, new_record: Any) -> None:
    other = new_record(
        method="cells",
        settings={"threshold": 0.7, "speed": 2},
        weights=None,
        tile_px=512,
        frame=Box(0, 0, 1500, 1100),
    )
    with pytest.raises(ResultError) as caught:
        ResultStore.resume(own.path, other)
    for part in (
        "method was 'nuclei', now 'cells'",
        "setting threshold",
        "setting speed",
        "weights sha256",
        "tile size",
        "frame",
    ):
        assert part in str(caught.value)


def test_another_formats_result_is_refused(own: Any, new_record: Any) -> None:
    path = own.path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 7, "version": "9.9"}))
    with pytest.raises(ResultError, match=r"napari-histoseg 9\.9 in result format 7"):
        open_result(own.path)
    with pytest.raises(ResultError, match="result format 7"):
        ResultStore.resume(own.path, new_record())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ResultError, match=r"run\.json|format None"):
        open_result(tmp_path)


def test_a_folder_that_is_no_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is no result"):
        open_result(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
@pytest.mark.parametrize("what", ["chunk", "part"])
def test_a_disk_that_fails_is_named_and_the_tiles_done_are_kept(
    scene: Any,
    finished: Any,
    new_record: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    reason: str,
    what: str,
) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ALL)
    store.add(**scene.tile(0))
    store.commit()
    store.add(**scene.tile(1))
    replace = Path.replace

    def fails(self: Path, target: Any) -> Path:
        if ("parts" in str(target)) == (what == "part"):
            raise OSError(number, os.strerror(number))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(StorageError, match=rf"{reason}.*--resume"):
        store.commit()
    monkeypatch.undo()
    store.close()
    resumed = ResultStore.resume(tmp_path / "r", new_record())
    assert resumed.done == {0}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, new_record: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be made"):
        ResultStore.create(tmp_path / "file" / "r", new_record(), ALL)


def test_a_temporary_result_lives_as_long_as_its_arrays(scene: Any, write: Any) -> None:
    result = write(None, scene)
    path, labels = result.path, result.labels
    del result
    np.testing.assert_array_equal(labels.compute(), scene.labels)
    del labels
    assert not path.exists()


@pytest.mark.parametrize("rows", [1, 7, 1000, 2999])
def test_the_same_rows_are_the_same_bytes_however_they_come(rows: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Outlines of three megabytes, which is more than the dictionary of a column holds.
    outlines = [rng.bytes(1024) for _ in range(3000)]
    whole = table.to_arrow(pd.DataFrame({"id": np.arange(1, 3001, dtype=np.uint32), "outline": outlines}))
    table.write_table(tmp_path / "whole", [whole], whole.schema)
    table.write_table(tmp_path / "pieces", [whole.slice(i, rows) for i in range(0, 3000, rows)], whole.schema)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_many_parts_merge_in_order_of_id(scene: Any, new_record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histoseg.results.table._FAN_IN", 3)
    monkeypatch.setattr("napari_histoseg.results.table._BATCH_ROWS", 4)
    monkeypatch.setattr("napari_histoseg.results.table._GROUP_ROWS", 50)
    store = ResultStore.create(tmp_path / "r", new_record(), ("objects",))
    for index in random.Random(1).sample(range(len(scene.tiles)), len(scene.tiles)):
        tile = scene.tile(index)
        store.add(index, tile["keep"], objects=tile["objects"])
        store.commit()
    result = store.finish()
    assert pq.read_table(result.path / "objects.parquet")["id"].to_pylist() == scene.objects["id"].tolist()
    pd.testing.assert_frame_equal(result.table(outlines=True), scene.objects, check_dtype=False)
    pieces = list(result.iter_objects(batch=30))
    assert max(len(piece) for piece in pieces) == 30
    assert sum(len(piece) for piece in pieces) == len(scene.objects)


def test_columns_for_all_objects_are_added_at_the_end(scene: Any, new_record: Any, tmp_path: Path) -> None:
    store = ResultStore.create(tmp_path / "r", new_record(), ("objects",))
    for index in (4, 2, 8):
        store.add(index, scene.tiles[index], objects=scene.tile(index)["objects"])
        store.commit()
    result = store.finish(enrich=lambda rows: pd.DataFrame({"twice_x": rows["centroid_x_um"] * 2}))
    assert result.objects["twice_x"].tolist() == (result.objects["centroid_x_um"] * 2).tolist()
    assert list(result.table(outlines=True).columns)[-1] == "outline"


def test_the_record_goes_through_json(new_record: Any) -> None:
    record = new_record(region=[10, 20, 30, 40], notices=["a notice"], failed_tiles=[{"tile": 3, "reason": "bad"}])
    again = RunRecord.model_validate_json(record.model_dump_json())
    assert again == record
    assert again.region == Box(10, 20, 30, 40)
    assert json.loads(record.model_dump_json())["region"] == [10, 20, 30, 40]


def test_the_label_at_a_place(finished: Any, scene: Any) -> None:
    row = scene.objects.iloc[3]
    assert finished.label_at(row["centroid_x_um"], row["centroid_y_um"]) == row["id"]
    assert finished.label_at(1, 1) == 0
    assert finished.label_at(1e6, 1e6) == 0
