"""The cache of reduced levels has a limit; what is in use, or being built, stays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_histoseg import _testing as make
from napari_histoseg.errors import SettingsError
from napari_histoseg.slide import Slide, cache, lease, open_slide

IMAGE = make.he_image(1024, 1024)


class User:
    """Somebody who has a folder in use."""


@pytest.fixture
def levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all reduced levels, still empty."""
    monkeypatch.setenv("HISTOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "levels"


def folder(place: Path, name: str, size: int = 1000, age: float = 0.0) -> Path:
    """A cache of so many bytes that was last used so many seconds ago."""
    made = place / name
    made.mkdir(parents=True)
    (made / "chunk").write_bytes(bytes(size))
    (made / lease.MARKER).touch()
    used_ago(made, age)
    return made


def used_ago(made: Path, age: float) -> None:
    """Pretend that a folder was last used so long ago."""
    os.utime(made / lease.MARKER, (time.time() - age,) * 2)


def flat(place: Path, name: str) -> Slide:
    """A large image without a pyramid."""
    return open_slide(make.write_svs(place / name, IMAGE, levels=(1,), size=(9000, 1024)))


def names(place: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in place.iterdir()}


# -- folders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        (3000, {"a", "b", "c"}),
        (2999, {"a", "c"}),
        (2000, {"a", "c"}),
        (1999, {"a"}),
        (0, set()),
    ],
)
def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, limit: int, left: set[str]) -> None:
    made = [folder(tmp_path, name, age=age) for name, age in (("a", 100), ("b", 300), ("c", 200))]
    lease.trim(made, limit)
    assert names(tmp_path) == left


def test_what_is_in_use_stays_until_its_user_is_gone(tmp_path: Path) -> None:
    made = folder(tmp_path, "a")
    user = User()
    assert lease.hold(made, user)
    used_ago(made, 1000)
    lease.trim([made], 0)
    assert made.is_dir()
    del user
    gc.collect()
    lease.trim([made], 0)
    assert not made.exists()


def test_another_process_keeps_its_folder_as_long_as_it_lives(tmp_path: Path) -> None:
    made = folder(tmp_path, "a")
    script = (
        "import sys; from pathlib import Path; from napari_histoseg.slide import lease\n"
        "user = lambda: None\n"
        f"assert lease.hold(Path({str(made)!r}), user)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert not lease.remove_unused(made)
    process.kill()
    process.communicate(timeout=60)
    assert lease.remove_unused(made)


def test_opening_makes_a_folder_the_last_to_go(tmp_path: Path) -> None:
    made = [folder(tmp_path, "a", age=300), folder(tmp_path, "b", age=200)]
    assert lease.hold(made[0], User())
    lease.trim(made, 1000)
    assert names(tmp_path) == {"a"}


def test_what_was_used_just_now_stays(tmp_path: Path) -> None:
    made = folder(tmp_path, "a", age=5)
    lease.trim([made], 0)
    assert made.is_dir()


def test_a_folder_that_is_gone_cannot_be_held(tmp_path: Path) -> None:
    assert not lease.hold(tmp_path / "a", User())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs no lock")
def test_a_folder_about_to_go_cannot_be_held(tmp_path: Path) -> None:
    made = folder(tmp_path, "a")
    with lease._alone(made) as alone:
        assert alone
        assert not lease.hold(made, User())


# -- reduced levels -----------------------------------------------------------------------------------------------------


def test_building_makes_room(levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RECENT_SECONDS", -1.0)
    monkeypatch.setenv("HISTOSEG_CACHE_GB", "0.0000001")
    shown = flat(tmp_path, "shown.svs")
    shown.build_cache()
    flat(tmp_path, "closed.svs").build_cache()
    gc.collect()
    being_built = folder(levels, ".other.zarr.123.part")
    last = flat(tmp_path, "last.svs")
    last.build_cache()
    assert names(levels) == {shown._view._place.name, last._view._place.name, being_built.name}
    assert flat(tmp_path, "closed.svs").needs_cache
    whole = shown.read(0, shown.bounds)
    np.testing.assert_allclose(shown.pyramid()[1].compute().astype(int), make.halved(whole, 4).astype(int), atol=1)


def test_below_the_limit_all_stay(levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RECENT_SECONDS", -1.0)
    for name in ("a.svs", "b.svs"):
        flat(tmp_path, name).build_cache()
    assert len(names(levels)) == 2


def test_long_work_is_not_taken_for_left_behind(levels: Path) -> None:
    part = folder(levels, ".a.zarr.1.part")
    os.utime(part, (1, 1))
    with lease.held(part):
        cache._remove_stale(levels)
        assert part.is_dir()
    os.utime(part, (1, 1))
    cache._remove_stale(levels)
    assert not part.exists()


@pytest.mark.parametrize("given", ["much", "-1", "nan"])
def test_the_limit_is_a_number(given: str, levels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOSEG_CACHE_GB", given)
    with pytest.raises(SettingsError, match=rf"HISTOSEG_CACHE_GB must be a number .* Got '{given}' instead"):
        flat(tmp_path, "a.svs").build_cache()
    assert not levels.exists()
