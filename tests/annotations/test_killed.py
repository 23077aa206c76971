"""A session that dies while it works loses at most its last call; one that cannot write says so and loses nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import StorageError
from napari_histoseg.slide import Box, open_slide

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is neither kill -9 nor fork on Windows")

#: Work of every kind, the same each time; it runs here and in processes that are killed.
WORK = """
import numpy as np
from napari_histoseg.annotations.dataset import PatchClass
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.slide import Box, open_slide

ROUNDS = 15

def calls(folder, slide, rounds):
    "Yields after each call."
    rng = np.random.default_rng(0)
    session = AnnotationSession.create(folder, mpp=2.0, classes=[PatchClass(value=1, name="a"), PatchClass(value=2, name="b")])
    yield session
    for i in range(rounds):
        a = session.add_mask_patch(slide, Box(300 * i, 0, 256, 256)).id
        yield session
        for _ in range(2):
            session.set_mask(a, rng.choice(np.array([0, 1, 2, 255], np.uint8), (64, 64)))
            yield session
        b = session.add_label_patch(slide, Box(300 * i, 300, 64, 64), None).id
        yield session
        session.set_label(b, 1 + i % 2)
        yield session
        session.undo()
        yield session
        session.rename_class(1, f"a{i}")
        yield session
        session.remove(a)
        yield session
        session.undo()
        yield session
        session.remove(b)
        yield session
"""

LIVE = """
import signal, sys
with open_slide(sys.argv[2]) as slide:
    for i, session in enumerate(calls(sys.argv[1], slide, ROUNDS)):
        print(i, flush=True)
    # On a busy machine all may be done before the kill comes.
    signal.pause()
"""

#: A process for each write of the work, killed right before it; prints how many calls each had reported done.
EVERY_WRITE = """
import os, pathlib, signal, sys

def deadly(n):
    "The n-th change to the disk from now on is death."
    left = [n]
    def wrap(function):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped
    os.fsync = wrap(os.fsync)
    for name in ("replace", "unlink", "open"):
        setattr(pathlib.Path, name, wrap(getattr(pathlib.Path, name)))

slide = open_slide(sys.argv[2])
slide.fingerprint()
n = 0
while True:
    pid = os.fork()
    if not pid:
        work = calls(f"{sys.argv[1]}/{n}", slide, 1)
        next(work)
        deadly(n)
        done = 0
        for _ in work:
            done += 1
            with open(f"{sys.argv[1]}/{n}.done", "w") as file:
                file.write(str(done))
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
    n += 1
"""


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svs(tmp_path_factory.mktemp("slide") / "s.svs", he_image(512, 512, seed=1), mpp=0.5, size=(300 * 40, 512))


def state(session: AnnotationSession) -> list[Any]:
    """All that a person did, as far as it shows."""
    painted = {p.id: hashlib.sha256(session.mask(p.id)).hexdigest() for p in session.patches if p.kind == "mask"}
    return [session.classes, [(p.id, p.kind, p.box, p.value, painted.get(p.id)) for p in session.patches]]


@pytest.fixture(scope="module")
def states(slide_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """The state after each call of the work."""
    scope: dict[str, Any] = {}
    exec(WORK, scope)
    with open_slide(slide_file) as slide:
        work = scope["calls"](tmp_path_factory.mktemp("whole") / "d", slide, scope["ROUNDS"])
        found = []
        for session in work:
            found.append(state(session))
    session.close()
    return found


def assert_nothing_is_left_over(folder: Path) -> None:
    """No partial file, and no mask of a patch that is not there, once the folder was opened."""
    with AnnotationSession.open(folder) as session:
        listed = {f"{p.id}.png" for p in session.patches if p.kind == "mask"}
        assert {p.name for p in (folder / "masks").glob("*")} == listed
        assert {p.name for p in folder.iterdir()} <= {"dataset.json", "masks", ".lock"}


@posix
def test_a_session_killed_at_any_time_lost_at_most_its_last_call(slide_file: Path, states: list[list[Any]], tmp_path: Path) -> None:
    chance = random.Random(0)
    for number in range(4):
        folder = tmp_path / str(number)
        command = [sys.executable, "-c", WORK + LIVE, str(folder), str(slide_file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        enough = chance.randrange(3, 100)
        for line in process.stdout:
            if int(line) >= enough:
                break
        time.sleep(chance.random() * 0.02)
        process.kill()
        done = max([enough, *map(int, process.stdout.read().split())])
        assert process.wait(timeout=60) == -signal.SIGKILL
        with AnnotationSession.open(folder) as session:
            assert state(session) in states[done : done + 2]
        assert_nothing_is_left_over(folder)


@posix
def test_a_session_killed_before_any_single_write_lost_at_most_its_last_call(slide_file: Path, states: list[list[Any]], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORK + EVERY_WRITE, str(tmp_path), str(slide_file)]
    subprocess.run(command, check=True, timeout=200)
    folders = sorted((p for p in tmp_path.iterdir() if p.is_dir()), key=lambda p: int(p.name))
    assert len(folders) > 40
    for folder in folders:
        said = folder.with_suffix(".done")
        done = int(said.read_text() or 0) if said.exists() else 0
        with AnnotationSession.open(folder) as session:
            assert state(session) in states[done : done + 2], folder.name
        assert_nothing_is_left_over(folder)


def full_disk(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """From here on no file whose name ends so can be put in its place."""
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if str(target).endswith(suffix):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)


CALLS: dict[str, Callable[[AnnotationSession, Any], Any]] = {
    "paint": lambda s, _: s.set_mask("p0001", np.ones((64, 64), np.uint8)),
    "add": lambda s, slide: s.add_mask_patch(slide, Box(300, 0, 256, 256)),
    "label": lambda s, _: s.set_label("p0002", 2),
    "remove": lambda s, _: s.remove("p0001"),
    "undo": lambda s, _: s.undo(),
    "class": lambda s, _: s.add_class("new"),
}
#: What each call has to write, where that is more than the list.
NEEDS = {"paint": {".png"}, "add": {".png", ".json"}}


@pytest.mark.parametrize("suffix", [".json", ".png"])
@pytest.mark.parametrize("call", CALLS)
def test_a_full_disk_is_said_and_changes_nothing(
    slide_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, suffix: str
) -> None:
    folder = tmp_path / "d"
    scope: dict[str, Any] = {}
    exec(WORK, scope)
    with open_slide(slide_file) as slide:
        work = scope["calls"](folder, slide, 1)
        session = [next(work) for _ in range(6)][-1]
        before, files, undoable = state(session), masks_of(folder), session.can_undo
        with monkeypatch.context() as patched:
            full_disk(patched, suffix)
            if suffix in NEEDS.get(call, {".json"}):
                with pytest.raises(StorageError) as caught:
                    CALLS[call](session, slide)
                assert str(caught.value) == f"Writing to {folder} failed: the disk is full. Free space and try again."
                assert state(session) == before and session.can_undo == undoable
                assert masks_of(folder) == files
        CALLS[call](session, slide)
        after = state(session)
        assert after != before
        session.close()
    with AnnotationSession.open(folder) as again:
        assert state(again) == after


def masks_of(folder: Path) -> dict[str, bytes]:
    """The mask files, partial ones included."""
    return {p.name: p.read_bytes() for p in (folder / "masks").iterdir()}
