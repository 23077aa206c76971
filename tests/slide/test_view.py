"""What a viewer gets: lazy arrays, added levels, thumbnails, and the cache for flat giant images."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from napari_histoseg import _testing as make
from napari_histoseg.errors import StorageError
from napari_histoseg.slide import Box, Slide, cache, open_slide, view

IMAGE = make.he_image(1024, 1024)


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HISTOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def flat(folder: Path, width: int = 9000, height: int = 3000) -> Slide:
    """A large JPEG image without a pyramid."""
    return open_slide(make.write_svs(folder / "flat.svs", IMAGE, levels=(1,), size=(width, height)))


def test_the_arrays_are_the_levels(tmp_path: Path) -> None:
    slide = open_slide(make.write_svs(tmp_path / "a.svs", IMAGE, levels=(1, 2)))
    arrays = slide.pyramid()
    assert [a.shape for a in arrays] == [(1024, 1024, 3), (512, 512, 3)]
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(array.compute(), slide.read(number, slide.levels[number].bounds))


def test_chunks_are_whole_tiles_near_512_px(tmp_path: Path) -> None:
    slide = open_slide(make.write_svs(tmp_path / "a.svs", IMAGE, tile=240, levels=(1,)))
    assert slide.pyramid()[0].chunks[0] == (480, 480, 64)


def test_a_view_reads_its_own_chunks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = open_slide(make.write_svs(tmp_path / "a.svs", IMAGE, size=(20000, 20000), levels=(1, 4, 16)))
    array = slide.pyramid()[0]
    boxes: list[Box] = []
    original = slide._source.read

    def read(level: int, box: Box) -> Any:
        boxes.append(box)
        return original(level, box)

    monkeypatch.setattr(slide._source, "read", read)
    with dask.config.set(scheduler="synchronous"):
        np.asarray(array[5000:5600, 7000:7900])
    assert sorted((b.x, b.y) for b in boxes) == sorted(
        (x, y) for x in (6656, 7168, 7680) for y in (4608, 5120)
    )
    assert all(b.shape == (512, 512) for b in boxes)


def test_tiny_levels_are_left_out(data_dir: Path) -> None:
    with open_slide(data_dir / "slides/dicom_cmu-1-small-region") as slide:
        assert len(slide.levels) == 12
        assert min(max(a.shape[:2]) for a in slide.pyramid()) >= 256


def test_coarser_levels_are_added_in_memory() -> None:
    picture = np.tile(IMAGE, (5, 3, 1))
    slide = open_slide(picture)
    arrays = slide.pyramid()
    assert [a.shape[:2] for a in arrays] == [(5120, 3072), (2560, 1536), (1280, 768)]
    assert not slide.needs_cache
    np.testing.assert_allclose(arrays[1].compute().astype(int), make.halved(picture).astype(int), atol=1)
    again = pickle.loads(pickle.dumps(arrays[-1]))
    np.testing.assert_array_equal(again.compute(), arrays[-1].compute())


def test_a_flat_giant_image_gets_cached_levels(tmp_path: Path, cache_dir: Path) -> None:
    slide = flat(tmp_path)
    steps: list[tuple[int, int]] = []
    assert slide.needs_cache
    slide.build_cache(lambda done, total: steps.append((done, total)))
    assert not slide.needs_cache
    assert steps[-1][0] == steps[-1][1] == len(steps)
    arrays = slide.pyramid()
    assert [a.shape[:2] for a in arrays] == [(3000, 9000), (750, 2250), (375, 1125)]
    whole = slide.read(0, slide.bounds)
    np.testing.assert_allclose(arrays[1].compute().astype(int), make.halved(whole, 4).astype(int), atol=1)


def test_the_cache_is_used_again_and_follows_the_file(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat(tmp_path).build_cache()
    assert not flat_again(tmp_path).needs_cache
    monkeypatch.setattr(cache, "build_reduced", None)  # a second building would fail
    assert len(flat_again(tmp_path).pyramid()) == 3
    os.utime(tmp_path / "flat.svs", (1, 1))
    assert flat_again(tmp_path).needs_cache


def flat_again(folder: Path) -> Slide:
    return open_slide(folder / "flat.svs")


def test_a_stopped_building_leaves_nothing_behind(tmp_path: Path, cache_dir: Path) -> None:
    slide = flat(tmp_path)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slide.pyramid(stop)
    assert slide.needs_cache
    assert list((cache_dir / "levels").iterdir()) == []


def test_a_half_built_cache_is_never_used(tmp_path: Path, cache_dir: Path) -> None:
    slide = flat(tmp_path)
    left = cache_dir / "levels" / f".{slide._view._place.name}.abc.part"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    assert slide.needs_cache
    slide.build_cache()
    assert not left.exists()


def test_a_damaged_cache_is_built_again(tmp_path: Path, cache_dir: Path) -> None:
    slide = flat(tmp_path)
    slide.build_cache()
    (slide._view._place / "zarr.json").write_text("{")
    fresh = flat_again(tmp_path)
    assert fresh.needs_cache
    assert len(fresh.pyramid()) == 3


def test_a_full_disk_is_told_with_a_remedy(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_publish", full)
    with pytest.raises(StorageError, match=r"No space left on device.*HISTOSEG_CACHE"):
        flat(tmp_path).build_cache()
    assert list((cache_dir / "levels").iterdir()) == []


def test_large_arrays_are_cached_for_their_lifetime(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MEMORY_PX", 2100)
    slide = open_slide(np.tile(IMAGE, (3, 1, 1)))
    assert [a.shape[:2] for a in slide.pyramid()] == [(3072, 1024), (768, 256)]
    place = slide._view._place
    assert place.is_dir()
    assert not cache_dir.exists()
    del slide
    import gc

    gc.collect()
    assert not place.exists()


def test_strips_are_read_in_full_rows() -> None:
    band = Box(0, 2048, 30000, 2048)
    strips = list(cache._parts(band, (30000, 1)))
    squares = list(cache._parts(band, (256, 256)))
    assert {(b.x, b.width, b.height) for b in strips} == {(0, 30000, 256)}
    assert max(b.width for b in squares) == 2048
    for boxes in (strips, squares):
        assert sum(b.area for b in boxes) == band.area


@pytest.mark.parametrize("max_px", [1, 50, 300, 1024, 5000])
def test_a_thumbnail_has_the_wanted_size_and_no_rim(max_px: int) -> None:
    dark = np.full((600, 1024, 3), 40, np.uint8)
    small = open_slide(dark).thumbnail(max_px)
    longer = min(max_px, 1024)
    assert small.shape[1] == longer
    assert abs(small.shape[0] - longer * 600 / 1024) <= 0.5 or small.shape[0] == 1
    assert (small == 40).all()


def test_a_new_pyramid_never_shows_the_chunks_of_one_that_is_gone(tmp_path: Path) -> None:
    pixels = make.he_image(3000, 2500, seed=1, mpp=0.25)
    slide = open_slide(make.write_svs(tmp_path / "s.svs", pixels, mpp=0.25))
    levels = [np.asarray(array) for array in open_slide(slide.path).pyramid()]
    assert len(levels) > 1
    for i in range(60):
        arrays = slide.pyramid()
        k = i % len(arrays)
        np.testing.assert_array_equal(np.asarray(arrays[k][:256, :256]), levels[k][:256, :256])
        del arrays
