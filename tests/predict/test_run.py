"""The engine: events, tiles, cancel and resume, regions, and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray
from scipy import ndimage

import napari_histoseg as hs
from napari_histoseg.errors import PixelSizeError, RegionError, ResultError, RunError, SettingsError, TileError
from napari_histoseg.predict.events import Finished, Fitting, Notice, Started, TileDone
from napari_histoseg.slide import Box

FAST = {"tile_px": 128, "tissue_only": False}


def opened(picture: NDArray[np.uint8], mpp: float | None = 0.5) -> Any:
    return hs.open_slide(picture, mpp=mpp)


def same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a.labels), np.asarray(b.labels))
    np.testing.assert_array_equal(np.asarray(a.probability), np.asarray(b.probability))
    assert a.objects.equals(b.objects)


def test_events_tell_the_whole_story(blobs: Any, picture: NDArray[np.uint8]) -> None:
    events = list(hs.iter_run("blobs", opened(picture), **FAST))
    assert isinstance(events[0], Started) and events[0].total == 8 * 5
    tiles = [e for e in events if isinstance(e, TileDone)]
    assert [e.done for e in tiles] == list(range(1, 41))
    assert isinstance(events[-1], Finished)
    assert len(events[-1].result.objects) == tiles[-1].n_objects > 100


@pytest.mark.parametrize("tile_px", [64, 96, 256])
def test_tiled_equals_whole(blobs: Any, picture: NDArray[np.uint8], tile_px: int) -> None:
    tiled = np.asarray(hs.run("blobs", opened(picture), tissue_only=False, tile_px=tile_px).labels)
    whole, n = ndimage.label(picture.mean(2) < 128)
    assert len(np.unique(tiled)) - 1 == n
    # One to one: each pair of ids occurs once.
    assert len({*zip(tiled[whole > 0].tolist(), whole[whole > 0].tolist(), strict=True)}) == n
    assert ((tiled > 0) == (whole > 0)).all()


def test_the_same_run_twice_gives_the_same_bits(blobs: Any, picture: NDArray[np.uint8]) -> None:
    same(hs.run("blobs", opened(picture), **FAST), hs.run("blobs", opened(picture), **FAST))


def test_the_order_of_tiles_does_not_matter(blobs: Any, picture: NDArray[np.uint8]) -> None:
    from napari_histoseg.predict.run import iter_run

    settings = blobs.spec.settings(**FAST)
    spots = iter(np.random.default_rng(0).uniform(0, 900, (100, 2)))
    *_, end = iter_run("blobs", opened(picture), settings=settings, focus=lambda: tuple(next(spots)))
    same(end.result, hs.run("blobs", opened(picture), **FAST))


@pytest.mark.parametrize("stop_after", [0, 1, 13, 39])
def test_a_cancelled_run_resumes_to_the_same_result(
    blobs: Any, picture: NDArray[np.uint8], tmp_path: Path, stop_after: int
) -> None:
    events = hs.iter_run("blobs", opened(picture), out=tmp_path / "r", **FAST)
    for event in events:
        if isinstance(event, Started if stop_after == 0 else TileDone) and getattr(event, "done", 0) == stop_after:
            events.close()
            break
    kept = hs.open_result(tmp_path / "r")
    assert kept.record.status == "cancelled"
    resumed = list(hs.iter_run("blobs", opened(picture), out=tmp_path / "r", resume=True, **FAST))
    assert resumed[0].done == stop_after
    same(resumed[-1].result, hs.run("blobs", opened(picture), **FAST))


def test_a_run_that_was_never_started_leaves_no_folder(blobs: Any, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    hs.iter_run("blobs", opened(picture), out=tmp_path / "r", **FAST).close()
    assert not (tmp_path / "r").exists()


def test_a_region_gives_the_same_objects_as_the_whole(blobs: Any, picture: NDArray[np.uint8]) -> None:
    whole, part = hs.run("blobs", opened(picture), **FAST), hs.run("blobs", opened(picture), region=(200, 100, 300, 250), **FAST)
    assert part.frame == Box(200, 100, 300, 250)
    assert part.labels.shape == (250, 300)
    x, y = (whole.objects[f"centroid_{a}_um"] / 0.5 for a in "xy")
    inside = (x >= 200) & (x < 500) & (y >= 100) & (y < 350)
    assert len(part.objects) == inside.sum() > 5
    np.testing.assert_allclose(sorted(part.objects.centroid_x_um), sorted(whole.objects.centroid_x_um[inside]))


def test_a_drawn_region_keeps_only_what_has_its_center_inside(blobs: Any, picture: NDArray[np.uint8]) -> None:
    circle = shapely.Point(450, 300).buffer(180)
    result = hs.run("blobs", opened(picture), region=circle, **FAST)
    points = shapely.points(result.objects[["centroid_x_um", "centroid_y_um"]].to_numpy() / 0.5)
    assert len(points) > 5 and shapely.contains(circle, points).all()
    assert result.record.outline is not None
    assert set(np.unique(np.asarray(result.labels))) - {0} == set(result.objects.id)


def test_glass_is_not_computed(blobs: Any) -> None:
    image = np.full((2400, 2400, 3), 245, np.uint8)
    image[100:110, 100:110] = 0
    events = list(hs.iter_run("blobs", opened(image), tile_px=512))
    assert events[0].total == 0
    assert [e.message for e in events if isinstance(e, Notice)] == [
        "No tissue was found in the region, so nothing was computed. Set tissue_only to false to compute it all the same."
    ]
    result = events[-1].result
    assert not np.asarray(result.labels).any() and result.objects.empty
    assert "centroid_x_um" in result.objects.columns


def test_a_small_field_is_computed_whole(blobs: Any) -> None:
    image = np.full((512, 512, 3), 245, np.uint8)
    image[100:110, 100:110] = 0
    assert len(hs.run("blobs", opened(image), tile_px=128).objects) == 1


def test_an_unreadable_tile_is_listed_and_the_run_goes_on(
    blobs: Any, picture: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = opened(picture)
    read = slide.read_at

    def failing(mpp: float, box: Box) -> NDArray[np.uint8]:
        if box.contains_point(450, 300):
            raise TileError("slide.svs, level 0, x 450, y 300: the JPEG data are damaged.")
        return read(mpp, box)

    monkeypatch.setattr(slide, "read_at", failing)
    events = list(hs.iter_run("blobs", slide, out=tmp_path / "r", **FAST))
    result = events[-1].result
    assert len(result.record.failed_tiles) > 0
    assert result.record.failed_tiles[0]["reason"] == "slide.svs, level 0, x 450, y 300: the JPEG data are damaged."
    assert "could not be read and was left out" in result.record.notices[0]
    assert len(result.objects) > 50
    # Once the tile can be read again, resuming fills the gap.
    same(hs.run("blobs", opened(picture), out=tmp_path / "r", resume=True, **FAST), hs.run("blobs", opened(picture), **FAST))


def test_samples_come_from_tiles_that_can_be_read(blobs: Any, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    slide = opened(picture)
    hs.run("blobs", slide, **FAST)
    survey = blobs.models[-1].surveys[-1]
    read = slide.read_at
    reads: list[Box] = []

    def failing(mpp: float, box: Box) -> NDArray[np.uint8]:
        reads.append(box)
        if len(reads) % 2:
            raise TileError("slide.svs, level 0: the JPEG data are damaged.")
        return read(mpp, box)

    monkeypatch.setattr(slide, "read_at", failing)
    tissue = survey.tissue(8)
    assert [t.shape for t in tissue] == [(*f.tile.keep.shape, 3) for f in survey.frames[1:16:2]] and len({*reads}) == 16

    def broken(mpp: float, box: Box) -> NDArray[np.uint8]:
        raise TileError("slide.svs, level 0: the JPEG data are damaged.")

    monkeypatch.setattr(slide, "read_at", broken)
    with pytest.raises(RunError, match="None of the 40 tiles with tissue could be read"):
        survey.tissue(8)


def test_fitting_is_said_before_the_first_tile_and_resuming_fits_the_same(
    blobs: Any, picture: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "steps", 3)
    events = hs.iter_run("blobs", opened(picture), out=tmp_path / "r", seed=4, **FAST)
    head = [next(events) for _ in range(5)]
    assert [type(e) for e in head[:5]] == [Started, *[Fitting] * 3, TileDone]
    assert [(e.done, e.total) for e in head if isinstance(e, Fitting)] == [(0, 2), (1, 2), (2, 2)]
    events.close()
    hs.run("blobs", opened(picture), out=tmp_path / "r", resume=True, seed=4, **FAST)
    first, again = (blobs.models[i].surveys[0].frames for i in (-2, -1))
    assert first == again and first[0].tile.index != 0


def test_a_map_has_classes_that_are_known_after_fitting_and_patches(shades: Any, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    events = list(hs.iter_run("shades", opened(picture), out=tmp_path / "r", **FAST))
    result = events[-1].result
    assert [c.name for c in result.record.classes] == ["dark", "light"] and result.record.merged == {3: 2}
    stored, shown = np.asarray(result.arrays()["labels"][0][:]), np.asarray(result.labels)
    assert set(np.unique(stored)) == {1, 3} and set(np.unique(shown)) == {1, 2}
    assert {e.n_objects for e in events if isinstance(e, TileDone)} == {0}
    assert not result.has_objects and result.objects.empty
    patches = result.patches
    assert patches["id"].is_unique and len(patches) == 40 and set(patches["class"]) <= {"light", "dark"}
    rows, columns = ((patches[f"centroid_{axis}_um"] / 0.5).astype(int) for axis in "yx")
    np.testing.assert_array_equal(stored[rows, columns], patches["cluster"])


def test_patches_are_kept_inside_of_a_region(shades: Any, picture: NDArray[np.uint8]) -> None:
    circle = shapely.Point(450, 300).buffer(180)
    patches = hs.run("shades", opened(picture), region=circle, **FAST).patches
    points = shapely.points(patches[["centroid_x_um", "centroid_y_um"]].to_numpy() / 0.5)
    assert 5 < len(points) < 40 and shapely.contains(circle, points).all()


@pytest.mark.parametrize("stop_after", [0, 7, 40])
def test_a_map_resumes_to_the_same_classes_and_patches(shades: Any, picture: NDArray[np.uint8], tmp_path: Path, stop_after: int) -> None:
    events = hs.iter_run("shades", opened(picture), out=tmp_path / "r", **FAST)
    for event in events:
        if isinstance(event, Started if stop_after == 0 else TileDone) and getattr(event, "done", 0) == stop_after:
            events.close()
            break
    assert hs.open_result(tmp_path / "r").record.merged == ({3: 2} if stop_after else {})
    resumed = hs.run("shades", opened(picture), out=tmp_path / "r", resume=True, **FAST)
    whole = hs.run("shades", opened(picture), **FAST)
    assert resumed.record.classes == whole.record.classes and resumed.record.merged == whole.record.merged == {3: 2}
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    pd.testing.assert_frame_equal(resumed.patches, whole.patches)


# -- models that look at finer pixels, and decide once all tiles are there -----------------------------------------------


def squares(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the fake method maps: darkness of squares of 64 pixels from the slide's corner, each a square of 16 working pixels."""
    right, below = -picture.shape[1] % 64, -picture.shape[0] % 64
    whole = np.pad(picture, ((0, below), (0, right), (0, 0)), "symmetric")
    means = whole.reshape(whole.shape[0] // 64, 64, whole.shape[1] // 64, 64, 3).mean((1, 3, 4), dtype=np.float32)
    return (255 - means).round().astype(np.uint8).repeat(16, 0).repeat(16, 1)[: picture.shape[0] // 4, : picture.shape[1] // 4]


def stored(result: Any, kind: str) -> NDArray[Any]:
    return np.asarray(result.arrays()[kind][0][:])


@pytest.mark.parametrize("halo_px", [0, 16])
@pytest.mark.parametrize("tile_px", [64, 96, 256])
def test_a_model_may_look_at_finer_pixels_than_it_writes(fine: Any, picture: NDArray[np.uint8], tile_px: int, halo_px: int) -> None:
    fine.halo_px = halo_px
    result = hs.run("fine", opened(picture), tissue_only=False, tile_px=tile_px)
    assert result.mpp == 2.0 and result.labels.shape == (150, 225)
    np.testing.assert_array_equal(stored(result, "probability"), squares(picture))
    assert all(height % 64 == width % 64 == 0 for _, height, width, _ in fine.models[-1].seen)


@pytest.mark.parametrize("box", [Box(0, 0, 256, 256), Box(101, 203, 333, 250), Box(700, 500, 200, 100)])
def test_squares_lie_on_the_slide_s_grid_whatever_the_region(fine: Any, picture: NDArray[np.uint8], box: Box) -> None:
    result = hs.run("fine", opened(picture), region=box, **FAST)
    assert result.frame == box.scaled(0.25).intersect(Box(0, 0, 225, 150))
    np.testing.assert_array_equal(stored(result, "probability"), squares(picture)[result.frame.slices])


def test_finer_pixels_come_from_a_slide_of_any_resolution(fine: Any, picture: NDArray[np.uint8]) -> None:
    result = hs.run("fine", opened(picture.repeat(2, 0).repeat(2, 1), 0.25), **FAST)
    assert result.mpp == 2.0 and result.labels.shape == (150, 225)
    assert np.abs(stored(result, "probability").astype(int) - squares(picture)).max() <= 2
    # The check of the pixel size is about what is looked at, 0.5 µm, and not about what is written.
    with pytest.raises(PixelSizeError, match=r"the model was made for 0\.5 µm/px"):
        hs.run("fine", opened(picture, 1.2), **FAST)
    assert hs.run("fine", opened(picture[:64, :64], 1.2), force_mpp=True, **FAST).mpp > 1.7


def test_batches_on_a_card_give_the_same_map_of_finer_pixels(fine: Any, picture: NDArray[np.uint8]) -> None:
    from napari_histoseg.predict.lanes import Work, _batched, _side_by_side, reading
    from napari_histoseg.tiling import Tile, TileGrid

    slide = opened(picture)
    model = fine.load(None, fine.spec.settings(), None, None, None)
    work = Work(slide, model, 2.0, 4.0, Box(0, 0, 225, 150))
    assert work.scale == 4
    tiles = [Tile(t.index, t.keep, reading(model, t)) for t in TileGrid(work.bounds, 96, 0, 2.0)]
    said: list[str] = []
    one = {d.tile.index: d for d in _side_by_side(work, iter(tiles), said.append)}
    many = {d.tile.index: d for d in _batched(work, iter(tiles), 4, said.append)}
    assert one.keys() == many.keys() == set(range(6)) and said == []
    for index, done in one.items():
        np.testing.assert_array_equal(done.output.probability[1], many[index].output.probability[1])


def test_labels_follow_from_the_whole_map_at_the_end(fine: Any, picture: NDArray[np.uint8]) -> None:
    events = list(hs.iter_run("fine", opened(picture), **FAST))
    assert [type(e) for e in events] == [Started, *[TileDone] * 4, Notice, *[Fitting] * 4, Finished]
    refining = [e for e in events if isinstance(e, Fitting)]
    assert [(e.done, e.total) for e in refining][-1] == (4, 4) and {e.words for e in refining} == {"Refining the outline"}
    result = events[-1].result
    expected = squares(picture)
    np.testing.assert_array_equal(stored(result, "labels"), expected > expected.mean())
    np.testing.assert_array_equal(stored(result, "uncertainty"), expected // 2)
    np.testing.assert_allclose(np.asarray(result.uncertainty), (expected // 2) / 510, atol=1e-6)
    assert result.record.notices == ["Something to know."] and not result.has_objects
    np.testing.assert_array_equal(result.pyramid[0], expected > expected.mean())


def test_what_decides_is_shown_all_tiles_in_order_and_the_slide(fine: Any, picture: NDArray[np.uint8]) -> None:
    region = Box(101, 203, 700, 390)
    hs.run("fine", opened(picture), region=region, tissue_only=False, tile_px=64)
    (whole,) = fine.models[-1].wholes
    assert whole.bounds == Box(0, 0, 225, 150) and whole.frame == region.scaled(0.25)
    assert [f.tile.index for f in whole.frames] == list(range(6))
    inside = whole.read(Box(10, 20, 30, 40))
    np.testing.assert_array_equal(inside, opened(picture).read_at(2.0, Box(10, 20, 30, 40)))
    edge = whole.read(Box(-5, 0, 10, 10))
    np.testing.assert_array_equal(edge[:, :5], edge[:, 5:][:, ::-1])


@pytest.mark.parametrize("stop_at", ["tile", "refining", "done"])
def test_deciding_is_done_again_when_a_run_is_resumed(fine: Any, picture: NDArray[np.uint8], tmp_path: Path, stop_at: str) -> None:
    events = hs.iter_run("fine", opened(picture), out=tmp_path / "r", **FAST)
    for event in events:
        if (stop_at == "tile" and isinstance(event, TileDone) and event.done == 2) or (stop_at == "refining" and isinstance(event, Fitting)):
            events.close()
            break
    resumed = hs.run("fine", opened(picture), out=tmp_path / "r", resume=True, **FAST)
    whole = hs.run("fine", opened(picture), **FAST)
    for kind in ("labels", "probability", "uncertainty"):
        np.testing.assert_array_equal(stored(resumed, kind), stored(whole, kind))
    assert resumed.record.status == "finished" and resumed.record.tiles_done == 4


def test_a_model_writes_only_what_it_says(fine: Any, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    load = fine.load

    def plain(*given: Any) -> Any:
        model = load(*given)
        model.outputs = ("labels", "probability")
        return model

    monkeypatch.setattr(fine, "load", plain)
    result = hs.run("fine", opened(picture), **FAST)
    assert result.uncertainty is None and set(result.arrays()) == {"labels", "probability"}
    assert stored(result, "labels").any() and result.record.outputs == ("labels", "probability")


def test_without_tissue_there_is_nothing_to_decide(fine: Any) -> None:
    image = np.full((2400, 2400, 3), 245, np.uint8)
    result = hs.run("fine", opened(image), tile_px=512)
    assert fine.models[-1].wholes == [] and not stored(result, "labels").any()


def test_a_bug_while_deciding_keeps_the_map(fine: Any, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    events = hs.iter_run("fine", opened(picture), out=tmp_path / "r", **FAST)
    next(events)
    fine.models[-1].refine = lambda whole: 1 / 0
    with pytest.raises(RunError, match=r"The run stopped: ZeroDivisionError: .* run again with --resume\."):
        list(events)
    kept = hs.open_result(tmp_path / "r")
    assert kept.record.status == "failed" and kept.record.tiles_done == 4
    np.testing.assert_array_equal(stored(kept, "probability"), squares(picture))


def test_ids_that_were_given_are_kept(blobs: Any, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = hs.run("blobs", opened(picture), **FAST)
    monkeypatch.setattr(blobs, "given", plain)
    kept = hs.run("blobs", opened(picture), **FAST)
    assert kept.objects["id"].tolist() == plain.objects["id"].tolist()
    assert np.array_equal(kept.labels.compute(), plain.labels.compute())


def test_a_bug_in_a_method_is_a_plain_error_and_keeps_what_is_done(
    blobs: Any, picture: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = hs.iter_run("blobs", opened(picture), out=tmp_path / "r", **FAST)
    next(events)
    monkeypatch.setattr(blobs.models[0], "forward", lambda images: 1 / 0)
    with pytest.raises(RunError, match=r"The run stopped: ZeroDivisionError: .* run again with --resume\."):
        list(events)
    assert hs.open_result(tmp_path / "r").record.status == "failed"


def test_too_little_memory_goes_on_with_one_tile_at_a_time(
    blobs: Any, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histoseg.predict import lanes

    monkeypatch.setattr(lanes, "_cores", lambda: 2)
    events = hs.iter_run("blobs", opened(picture), **FAST)
    next(events)
    forward, failures = blobs.models[0].forward, iter([True])

    def tight(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if next(failures, False):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return forward(images)

    monkeypatch.setattr(blobs.models[0], "forward", tight)
    rest = list(events)
    assert [e.message for e in rest if isinstance(e, Notice)] == [
        "Not enough memory for several tiles at once: going on with one at a time."
    ]
    same(rest[-1].result, hs.run("blobs", opened(picture), **FAST))


def test_batches_on_a_card_give_what_the_cores_give(blobs: Any, picture: NDArray[np.uint8]) -> None:
    from napari_histoseg.predict.lanes import Work, _batched, _side_by_side
    from napari_histoseg.tiling import Tile, TileGrid

    slide = opened(picture)
    work = Work(slide, blobs.load(slide, blobs.spec.settings(), None, None, None), 0.5, 1.0, slide.bounds)
    grid = TileGrid(slide.bounds, 128, 32, 0.5)
    said: list[str] = []
    one = {d.tile.index: d for d in _side_by_side(work, iter(grid), said.append)}
    many = {d.tile.index: d for d in _batched(work, iter(grid), 7, said.append)}
    assert one.keys() == many.keys() == set(range(len(grid)))
    for index, done in one.items():
        assert isinstance(done.tile, Tile)
        np.testing.assert_array_equal(done.output.labels[1], many[index].output.labels[1])
    assert said == []


def test_a_full_card_gets_smaller_batches(blobs: Any, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_histoseg.predict.lanes import Work, _batched
    from napari_histoseg.tiling import TileGrid

    slide = opened(picture)
    model = blobs.load(None, blobs.spec.settings(), None, None, None)
    forward = model.forward

    def small(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(images) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(images)

    monkeypatch.setattr(model, "forward", small)
    said: list[str] = []
    done = list(_batched(Work(slide, model, 0.5, 1.0, slide.bounds), iter(TileGrid(slide.bounds, 128, 32, 0.5)), 8, said.append))
    assert len(done) == 40
    assert said == [f"Not enough memory on the device: going on with batches of {n}." for n in (4, 2)]


@pytest.mark.parametrize(("gib", "batch"), [(0.1, 1), (4, 1), (8, 2), (24, 8), (141, 16)])
def test_the_batch_follows_the_cards_memory(gib: float, batch: int) -> None:
    from napari_histoseg.predict.lanes import fitting_batch

    assert fitting_batch(int(gib * 2**30), 1216) == batch


def test_two_runs_into_one_folder_are_refused(blobs: Any, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    events = hs.iter_run("blobs", opened(picture), out=tmp_path / "r", **FAST)
    next(events)
    with pytest.raises(ResultError, match="in use by another run"):
        list(hs.iter_run("blobs", opened(picture), out=tmp_path / "r", resume=True, **FAST))
    events.close()


def test_a_finished_result_is_not_overwritten_unasked(blobs: Any, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    first = hs.run("blobs", opened(picture), out=tmp_path / "r", **FAST)
    with pytest.raises(ResultError, match="exists"):
        hs.run("blobs", opened(picture), out=tmp_path / "r", **FAST)
    assert len(hs.run("blobs", opened(picture), out=tmp_path / "r", overwrite=True, **FAST).objects) == len(first.objects)


def test_resuming_with_other_settings_names_them(blobs: Any, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    hs.run("blobs", opened(picture), out=tmp_path / "r", **FAST)
    with pytest.raises(ResultError, match="setting darkness was 128, now 100"):
        hs.run("blobs", opened(picture), out=tmp_path / "r", resume=True, darkness=100, **FAST)


@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (SettingsError, "There is no method 'magic'. The methods are: nuclei, stain, cells, tissue, tumour, lsr, joint.", {"method": "magic"}),
        (SettingsError, "There is no setting 'darknes'.", {"darknes": 3}),
        (SettingsError, "The setting 'darkness' is wrong: input should be less than or equal to 255. Got 300 instead.", {"darkness": 300}),
        (SettingsError, "resume and overwrite exclude each other", {"resume": True, "overwrite": True}),
        (SettingsError, "resume needs out", {"resume": True}),
        (RegionError, "The region x 5000, y 0, width 10, height 10 does not meet the slide, which is 900 × 600", {"region": (5000, 0, 10, 10)}),
        (RegionError, "A region is four whole numbers", {"region": (1, 2)}),
        (PixelSizeError, "has no pixel size", {"mpp": None}),
        (PixelSizeError, "2.2 times coarser", {"mpp": 2.0}),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    blobs: Any, picture: NDArray[np.uint8], kind: type[Exception], message: str, call: dict[str, Any]
) -> None:
    call = dict(call)
    method, mpp = call.pop("method", "blobs"), call.pop("mpp", 0.5)
    with pytest.raises(kind) as caught:
        hs.run(method, opened(picture, mpp), **{**FAST, **call})
    assert message in str(caught.value)


def test_a_too_coarse_slide_runs_when_told_to(blobs: Any, picture: NDArray[np.uint8]) -> None:
    result = hs.run("blobs", opened(picture[:100, :100], 2.0), force_mpp=True, **FAST)
    assert result.mpp == 0.5 and result.labels.shape == (400, 400)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (37, 1)])
def test_tiny_and_thin_pictures_run(blobs: Any, shape: tuple[int, int]) -> None:
    result = hs.run("blobs", opened(np.full((*shape, 3), 200, np.uint8)), **FAST)
    assert result.labels.shape == shape and result.objects.empty


def test_the_record_says_what_was_run(blobs: Any, picture: NDArray[np.uint8]) -> None:
    record = hs.run("blobs", opened(picture), region=Box(0, 0, 256, 256), seed=7, **FAST).record
    assert record.method == "blobs" and record.seed == 7 and record.status == "finished"
    assert record.slide.mpp == 0.5 and record.slide.mpp_source == "user"
    assert record.settings["darkness"] == 128 and record.tile_px == 128
    assert record.slide.fingerprint.startswith("sha256:") and "torch" in record.versions
    assert record.region == Box(0, 0, 256, 256) and record.tiles_done == 4
