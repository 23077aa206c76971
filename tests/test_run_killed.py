"""A whole ``histoseg run`` that dies, or that can no longer write, goes on with ``--resume`` to the very same files."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import napari_histoseg as hs
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.cli import main

TILE_PX = 64
SIZE = (1280, 1024)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tissue without a border: 320 tiles, five times as many as a run brings to the disk at once."""
    return write_svs(tmp_path_factory.mktemp("slide") / "s.svs", he_image(512, 512, seed=3), mpp=0.5, size=SIZE)


@pytest.fixture(scope="module")
def whole(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run writes that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "r"
    assert main(words(slide, out)) == 0
    assert len(hs.open_result(out).objects) > 500
    return files(out)


def words(slide: Path, out: Path) -> list[str]:
    """The command, without its name."""
    return ["run", "nuclei", str(slide), "--out", str(out), "--set", "model=log", "--set", f"tile_px={TILE_PX}", "--resume"]


def files(result: Path) -> dict[str, bytes]:
    """Every file of a result, but the record, which holds times."""
    found = {str(p.relative_to(result)): p.read_bytes() for p in result.rglob("*") if p.is_file()}
    assert found.pop("run.json")
    return found


def run_until(slide: Path, out: Path, reached: Callable[[], bool]) -> subprocess.Popen[str]:
    """A run in a process of its own, as far as that."""
    command = [sys.executable, "-m", "napari_histoseg", *words(slide, out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def parts(out: Path) -> int:
    """How many times the run has brought tiles to the disk."""
    return len(list(out.glob("parts/*.parquet")))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on Windows")
def test_a_run_killed_again_and_again_ends_in_the_same_files(slide: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "r"
    for reached in (lambda: (out / "run.json").is_file(), lambda: parts(out) >= 1, lambda: parts(out) >= 3):
        process = run_until(slide, out, reached)
        process.kill()
        assert "Traceback" not in process.communicate(timeout=60)[1]
        assert process.returncode == -signal.SIGKILL
        assert_readable(out)
    assert main(words(slide, out)) == 0
    assert hs.open_result(out).finished
    assert files(out) == whole


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can take the disk away from a process that runs")
def test_a_run_that_can_no_longer_write_says_so_and_goes_on_later(slide: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    import resource

    out = tmp_path / "r"
    process = run_until(slide, out, lambda: parts(out) >= 1)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))  # from here on no file can grow, as on a full disk
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 1, err
    assert reason(err).startswith(f"Writing to {out} failed: ")
    assert reason(err).endswith("The tiles done so far are kept. Free space and run again with --resume.")
    assert len(assert_readable(out).objects) > 0
    assert main(words(slide, out)) == 0
    assert files(out) == whole


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count this limit in other ways")
def test_a_run_that_cannot_even_begin_leaves_nothing(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    full = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    script = f"{full}\nfrom napari_histoseg.cli import main\nsys.exit(main({words(slide, out)!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert reason(done.stderr).endswith(". Free space and run again.")
    assert not out.exists()


def test_a_run_killed_before_its_record_was_written_can_be_resumed(slide: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = stillborn(tmp_path / "r")
    assert main(words(slide, out)) == 0
    assert files(out) == whole


def test_what_else_lies_beside_a_dead_lock_is_not_touched(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = stillborn(tmp_path / "r")
    (out / "notes.txt").write_text("keep")
    assert main(words(slide, out)) == 2
    assert reason(capsys.readouterr().err).startswith(f"{out} exists.")
    assert (out / "notes.txt").read_text() == "keep"


def stillborn(out: Path) -> Path:
    """What a run leaves behind that is killed while it makes its folder."""
    (out / "labels.ome.zarr").mkdir(parents=True)
    (out / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    return out


def assert_readable(out: Path) -> hs.Result:
    """An unfinished result opens; all its objects have their pixels."""
    left = hs.open_result(out)
    assert not left.finished
    assert set(left.objects["id"]) <= set(np.unique(left.labels.compute()).tolist())
    return left


def reason(err: str) -> str:
    """What stderr says in its last line, the only one that is no progress."""
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("histoseg: ")] == lines[-1:], err
    assert "Traceback" not in err
    return lines[-1].removeprefix("histoseg: ")
