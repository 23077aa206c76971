"""Bad input to the command line, word for word: one plain line, nothing half-made, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.cli import main
from napari_histoseg.errors import StorageError, TileError
from napari_histoseg.predict.events import TileDone

FAST = ("--set", "model=log", "--set", "tile_px=64")
MPP = ("--mpp", "0.5")


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """Why it failed; nothing else is said."""
        assert self.out == "" and self.err.startswith("histoseg: ") and self.err.count("\n") == 1, self
        return self.err.removeprefix("histoseg: ").rstrip("\n")


Call = Callable[..., Said]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small H&E picture whose file says no pixel size."""
    path = tmp_path_factory.mktemp("slides") / "tissue.png"
    Image.fromarray(he_image(160, 128)).save(path)
    return path


@pytest.fixture
def run(cli: Call, picture: Path, tmp_path: Path) -> Call:
    """Run the fast model on the picture into ``tmp_path / "r"``."""

    def call(*words: object) -> Said:
        return cli("run", "nuclei", picture, "--out", tmp_path / "r", *FAST, *MPP, *words)

    return call


def interrupted(picture: Path, out: Path) -> None:
    """Leave a run after a tile."""
    slide = hs.open_slide(picture, mpp=0.5)
    with closing(hs.iter_run("nuclei", slide, out=out, model="log", tile_px=64)) as events:  # type: ignore[type-var]
        next(event for event in events if isinstance(event, TileDone))


# -- settings and options -----------------------------------------------------------------------------------------------

SETTINGS = ", ".join(sorted(hs.methods.get("nuclei").spec.settings.model_fields))


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ("threshold", "--set takes KEY=VALUE, for example threshold=0.4. Got 'threshold'."),
        ("=0.4", "--set takes KEY=VALUE, for example threshold=0.4. Got '=0.4'."),
        ("treshold=0.4", f"There is no setting 'treshold'. The settings are: {SETTINGS}."),
        ("threshold=1.5", "The setting 'threshold' is wrong: input should be less than 1. Got 1.5 instead."),
        ("tile_px=70", "The setting 'tile_px' is wrong: input should be a multiple of 32. Got 70 instead."),
        ("threshold=NaN", "The setting 'threshold' is wrong: input should be a finite number. Got nan instead."),
        # These are arguments of the Python call, not settings.
        ("out=elsewhere", f"There is no setting 'out'. The settings are: {SETTINGS}."),
        ("region=1", f"There is no setting 'region'. The settings are: {SETTINGS}."),
    ],
)
def test_a_wrong_setting_names_the_field_the_rule_and_the_value(cli: Call, picture: Path, tmp_path: Path, pair: str, reason: str) -> None:
    said = cli("run", "nuclei", picture, "--out", tmp_path / "r", *MPP, "--set", pair)
    assert (said.code, said.reason) == (2, reason)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("key", ["out", "resume"])
def test_training_settings_are_checked_alike(cli: Call, tmp_path: Path, key: str) -> None:
    said = cli("train", "nuclei", tmp_path, "--out", tmp_path / "w.safetensors", "--set", f"{key}=1")
    assert said.code == 2 and said.reason.startswith(f"There is no setting '{key}'.")


@pytest.mark.parametrize("group", [(), ("weights",)])
def test_without_a_command_it_shows_the_help(cli: Call, group: tuple[str, ...]) -> None:
    said = cli(*group)
    assert said.code == 2 and said.err.startswith("Usage: histoseg")


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("run", "-h"), ("weights", "--help")])
def test_help_is_no_error(cli: Call, words: tuple[str, ...]) -> None:
    said = cli(*words)
    assert (said.code, said.err) == (0, "") and "histoseg" in said.out


def test_the_process_returns_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "napari_histoseg", "info", str(tmp_path / "no.svs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"histoseg: {tmp_path / 'no.svs'} does not exist.\n"


# -- slides and regions -------------------------------------------------------------------------------------------------


def test_a_slide_without_pixel_size_names_the_option(cli: Call, picture: Path, tmp_path: Path) -> None:
    said = cli("run", "nuclei", picture, "--out", tmp_path / "r", *FAST)
    assert (said.code, said.reason) == (
        2,
        f"{picture} has no pixel size (µm/px). Pass --mpp on the command line, mpp= in Python, or enter it in the window.",
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("content", [b"", b"no slide", b"II*\0" + bytes(40)], ids=["empty", "text", "cut"])
@pytest.mark.parametrize("command", ["info", "run"])
def test_a_broken_slide_is_named(cli: Call, tmp_path: Path, command: str, content: bytes) -> None:
    path = tmp_path / "broken.svs"
    path.write_bytes(content)
    said = cli("info", path) if command == "info" else cli("run", "nuclei", path, "--out", tmp_path / "r")
    assert said.code == 2 and str(path) in said.reason
    assert not (tmp_path / "r").exists()


def test_a_region_outside_the_slide(run: Call, tmp_path: Path) -> None:
    said = run("--region", 500, 0, 10, 10)
    assert (said.code, said.reason) == (
        2,
        "The region x 500, y 0, width 10, height 10 does not meet the slide, which is 160 × 128 level-0 pixels. "
        "Give a region in level-0 pixels inside the slide.",
    )
    assert not (tmp_path / "r").exists()


def test_regions_without_an_area(run: Call, tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    said = run("--regions", path)
    assert (said.code, said.reason) == (
        2,
        f"{path} holds no polygon. Draw at least one region with an area.",
    )


def test_the_density_counts_the_drawn_regions_only(run: Call, tmp_path: Path) -> None:
    rings = [[[x, 0], [x + 40, 0], [x + 40, 40], [x, 40], [x, 0]] for x in (0, 80)]
    drawn = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in drawn]
    (tmp_path / "two.geojson").write_text(json.dumps(features))
    said = run("--regions", tmp_path / "two.geojson", "--set", "tissue_only=false", "--json")
    found = json.loads(said.out)
    assert found["area_mm2"] == pytest.approx(2 * 20 * 20 / 1e6)
    x = hs.open_result(tmp_path / "r").objects["centroid_x_um"]
    assert found["objects"] == len(x) > 0
    assert (x.between(0, 20) | x.between(40, 60)).all()


def test_a_slide_that_is_all_glass_is_no_failure(cli: Call, tmp_path: Path) -> None:
    path = tmp_path / "glass.png"
    Image.fromarray(np.full((2400, 2400, 3), 245, np.uint8)).save(path)
    said = cli("run", "nuclei", path, "--out", tmp_path / "r", *MPP, *FAST, "--json")
    assert said.code == 0 and "note: No tissue was found" in said.err
    found = json.loads(said.out)
    assert (found["objects"], found["tiles"], found["density_per_mm2"]) == (0, 0, None)


def test_a_tile_that_cannot_be_read_is_listed(cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_svs(tmp_path / "slide.svs", he_image(512, 128), mpp=0.5)
    read_at = hs.Slide.read_at

    def damaged(self: hs.Slide, mpp: float, box: hs.Box) -> Any:
        if box.x < 10 and box.width > 128:  # with its margin: as a tile is read, not as tissue is sampled
            raise TileError("The tile at 0, 0 is damaged.")
        return read_at(self, mpp, box)

    monkeypatch.setattr(hs.Slide, "read_at", damaged)
    words = ("--set", "model=log", "--set", "tile_px=128", "--set", "tissue_only=false", "--json")
    said = cli("run", "nuclei", path, "--out", tmp_path / "r", *words)
    assert said.code == 0 and "note: Tile 0 could not be read" in said.err
    assert [row["tile"] for row in json.loads(said.out)["failed_tiles"]] == [0]


# -- results ------------------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_left_alone(run: Call, tmp_path: Path) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (out / "notes.txt").write_text("keep")
    said = run()
    assert (said.code, said.reason) == (
        2,
        f"{out} exists. Choose another folder, or pass --resume or --overwrite.",
    )
    said = run("--overwrite")
    assert (said.code, said.reason) == (
        2,
        f"{out} is not a result folder, so it is not overwritten. Choose another folder.",
    )
    assert (out / "notes.txt").read_text() == "keep"


def test_overwrite_replaces_a_result(run: Call) -> None:
    assert [run().code, run().code, run("--overwrite").code] == [0, 2, 0]


def test_resume_starts_goes_on_and_leaves_alone(run: Call, picture: Path, tmp_path: Path) -> None:
    interrupted(picture, tmp_path / "r")
    said = run("--resume")
    assert said.code == 0 and "1 of them done before" in said.err
    assert hs.open_result(tmp_path / "r").finished
    assert run("--resume").code == 0


def test_resume_with_other_settings_names_the_difference(run: Call, picture: Path, tmp_path: Path) -> None:
    interrupted(picture, tmp_path / "r")
    said = run("--resume", "--set", "min_area_um2=9")
    assert said.code == 2 and "cannot be resumed" in said.reason and "min_area_um2" in said.reason


def test_a_read_only_folder(run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        if self == tmp_path / "r":
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = run()
    assert (said.code, said.reason) == (
        2,
        f"The result folder {tmp_path / 'r'} cannot be made: Permission denied. Choose a folder that you may write.",
    )


def test_a_full_disk_keeps_what_is_done(run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_histoseg.results import ResultStore

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("Writing failed: the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "add", full)
        said = run()
    assert said.code == 1
    assert said.err.splitlines()[-1] == "histoseg: Writing failed: the disk is full."
    assert hs.open_result(tmp_path / "r").record.status == "failed"
    assert run("--resume").code == 0


def test_two_runs_into_one_result(run: Call, picture: Path, tmp_path: Path) -> None:
    slide = hs.open_slide(picture, mpp=0.5)
    first = hs.iter_run("nuclei", slide, out=tmp_path / "r", model="log", tile_px=64)
    next(first)
    for option in ("--resume", "--overwrite"):
        said = run(option)
        assert said.code == 2 and f"{tmp_path / 'r'} is in use" in said.reason
    for _ in first:
        pass
    assert hs.open_result(tmp_path / "r").finished


def test_a_result_of_another_version(run: Call, cli: Call, tmp_path: Path) -> None:
    assert run().code == 0
    newer = tmp_path / "newer"
    shutil.copytree(tmp_path / "r", newer)
    record = json.loads((newer / "run.json").read_text())
    (newer / "run.json").write_text(json.dumps(record | {"format_version": 99}))
    said = cli("export", newer, tmp_path / "nuclei.csv")
    assert said.code == 2 and str(newer) in said.reason and "99" in said.reason
    assert not (tmp_path / "nuclei.csv").exists()


def test_an_export_is_not_overwritten_by_accident(run: Call, cli: Call, tmp_path: Path) -> None:
    assert run().code == 0
    out = tmp_path / "nuclei.csv"
    out.write_text("mine")
    said = cli("export", tmp_path / "r", out)
    assert (said.code, said.reason) == (2, f"{out} exists. Choose another name, or pass --overwrite.")
    assert out.read_text() == "mine"


# -- weights and scores -------------------------------------------------------------------------------------------------


def test_weights_of_another_kind(cli: Call, picture: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"PK\x03\x04" + bytes(64))
    said = cli("run", "nuclei", picture, "--out", tmp_path / "r", *MPP, "--weights", path)
    assert said.code == 2 and said.reason.startswith(f"{path} is not a weights file: ")
    assert said.reason.endswith("other formats are not loaded, because they can run code.")
    assert not (tmp_path / "r").exists()


def test_weights_of_another_method(cli: Call, picture: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    card = {"method": "tissue", "name": "t", "architecture": "compact", "width": 8, "mpp": 0.5}
    path = tmp_path / "tissue.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, path, metadata={"histoseg": json.dumps(card)})
    said = cli("run", "nuclei", picture, "--out", tmp_path / "r", *MPP, "--weights", path)
    assert (said.code, said.reason) == (
        2,
        f"{path} holds weights for the method 'tissue', not for 'nuclei'. Choose weights made for 'nuclei'.",
    )


def test_scores_are_json_even_without_objects(cli: Call, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    np.save(tmp_path / "empty.npy", np.zeros((8, 8), np.int32))
    said = cli("score", "nuclei", tmp_path / "empty.npy", tmp_path / "empty.npy")
    assert json.loads(said.out, parse_constant=refuse)["n_true"] == 0
