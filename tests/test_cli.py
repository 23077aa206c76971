"""The command line: what it prints, what it returns, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing import he_image
from napari_histoseg.arguments import parse_settings
from napari_histoseg.cli import main
from napari_histoseg.errors import RunError, SettingsError, StorageError
from napari_histoseg.predict.events import Notice

FAST = ["--set", "model=log"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An H&E picture whose file says no pixel size; 0.5 µm/px."""
    path = tmp_path_factory.mktemp("slide") / "tissue.png"
    Image.fromarray(he_image(400, 300, seed=1)).save(path)
    return path


@pytest.fixture(scope="module")
def result(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result that the command line made."""
    out = tmp_path_factory.mktemp("run") / "result"
    assert main(["run", "nuclei", str(picture), "--out", str(out), "--mpp", "0.5", *FAST]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The reason on stderr, which is one line and no traceback."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("histoseg: ")]
    assert len(lines) == 1 and lines[0] == err.splitlines()[-1]
    assert "Traceback" not in err
    return lines[0]


# -- reading ------------------------------------------------------------------------------------------------------------


def test_info_is_json(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(picture)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["width"], told["height"], told["mpp"], told["mpp_source"]) == (400, 300, None, None)
    assert told["levels"] == [{"width": 400, "height": 300, "downsample": 1.0}]


def test_methods_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(hs.methods.names())


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)] == list(hs.methods.names())


def test_a_method_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "nuclei"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == set(hs.methods.get("nuclei").spec.settings.model_fields)


def test_weights_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all(Path(row["path"]).is_file() for row in rows)
    assert main(["weights", "show", rows[0]["name"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "nuclei"
    assert main(["weights", "show", rows[0]["path"]]) == 0
    assert re.search(r"^mpp +[\d.]+$", capsys.readouterr().out, re.MULTILINE)


# -- running ------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_found(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r"
    assert main(["run", "nuclei", str(picture), "--out", str(out), "--mpp", "0.5", "--json", *FAST]) == 0
    told = json.loads(capsys.readouterr().out)
    made = hs.open_result(out)
    assert told["objects"] == len(made.objects) > 50
    assert told["failed_tiles"] == [] and told["result"] == str(out)
    assert told["density_per_mm2"] == pytest.approx(told["objects"] / told["area_mm2"])
    assert made.record.slide.mpp_source == "user"
    assert made.record.settings["model"] == "log"


def test_a_region_is_in_level0_pixels(picture: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "r")
    region = ["--region", "100", "50", "120", "80"]
    assert main(["run", "nuclei", str(picture), "--out", out, "--mpp", "0.5", *region, *FAST]) == 0
    made = hs.open_result(out)
    assert made.region == hs.Box(100, 50, 120, 80)
    assert made.objects["centroid_x_um"].between(50, 110).all()


def test_regions_come_from_geojson(picture: Path, tmp_path: Path) -> None:
    ring = [[50, 50], [150, 50], [50, 150], [50, 50]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "r.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [drawn]}))
    run = ["run", "nuclei", str(picture), "--out", str(tmp_path / "r"), "--mpp", "0.5", *FAST]
    assert main([*run, "--regions", str(tmp_path / "r.geojson")]) == 0
    objects = hs.open_result(tmp_path / "r").objects
    assert len(objects)
    assert (objects["centroid_x_um"] + objects["centroid_y_um"] <= 100).all()


@pytest.mark.parametrize("extension", [".csv", ".parquet", ".geojson", ".geojson.gz", ".tif", ".ome.tif", ".png"])
def test_export_goes_by_extension(result: Path, tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"nuclei{extension}"
    assert main(["export", str(result), str(out)]) == 0
    assert out.stat().st_size > 100
    assert main(["export", str(result), str(out)]) == 2
    assert main(["export", str(result), str(out), "--overwrite"]) == 0


def test_a_result_scores_one_against_itself(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "nuclei", str(result), str(result)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["aji"] == scores["pq"] == scores["dice"] == 1


# -- wrong input --------------------------------------------------------------------------------------------------------


def _wrong() -> Iterator[tuple[str, list[str], str]]:
    run = ["run", "nuclei", "{picture}", "--out", "{out}", "--mpp", "0.5"]
    yield "command", ["segment"], "No such command 'segment'. See 'histoseg --help'."
    yield "argument", ["run", "nuclei"], "Missing argument 'SLIDE'. See 'histoseg run --help'."
    yield "option", [*run, "--color"], "No such option"
    yield "method", ["run", "nucleus", "{picture}", "--out", "{out}"], "There is no method 'nucleus'"
    yield "no slide", ["info", "{tmp}/none.svs"], "none.svs does not exist"
    yield "broken slide", ["info", "{tmp}/broken.svs"], "broken.svs"
    yield "no pixel size", run[:5], "Pass --mpp on the command line"
    yield "pixel size", [*run[:6], "0"], "The pixel size must be a positive number of µm/px. Got 0.0 instead."
    yield "pair", [*run, "--set", "threshold"], "--set takes KEY=VALUE"
    yield (
        "unknown setting",
        [*run, "--set", "treshold=0.4"],
        "There is no setting 'treshold'. The settings are: ",
    )
    yield (
        "value",
        [*run, "--set", "threshold=2"],
        r"The setting 'threshold' is wrong: .*less than 1.* Got 2 instead",
    )
    yield "two settings", [*run, "--set", "seed=1", "--set", "seed=2"], "'seed' is given twice"
    yield "two devices", [*run, "--device", "cpu", "--set", "device=cpu"], "'device' is given twice"
    yield "device", [*run, "--device", "tpu"], "'tpu' is not one of"
    yield "region", [*run, "--region", "9000", "0", "10", "10"], "does not meet the slide"
    yield "region words", [*run, "--region", "a", "0", "10", "10"], "'a' is not a valid integer"
    yield (
        "two regions",
        [*run, "--region", "0", "0", "9", "9", "--regions", "{tmp}/broken.svs"],
        "Give one of them",
    )
    yield "regions", [*run, "--regions", "{tmp}/broken.svs"], "broken.svs"
    yield "resume or overwrite", [*run, "--resume", "--overwrite"], "Give one of them"
    yield "weights", [*run, "--weights", "{tmp}/broken.svs"], "is not a weights file"
    yield "weights name", [*run, "--weights", "best"], "There are no weights called 'best'"
    yield "result", ["export", "{tmp}", "{out}.csv"], "histoseg"
    yield "extension", ["export", "{result}", "{out}.docx"], "no extension that a result can be exported to"
    yield "score", ["score", "stars", "{result}", "{result}"], "cannot be scored"
    yield "dataset", ["train", "nuclei", "{tmp}/none", "--out", "{tmp}/w.safetensors"], "none"
    yield "weights type", ["train", "nuclei", "{tmp}", "--out", "{tmp}/w.pt"], ".safetensors"


@pytest.mark.parametrize(("words", "reason"), [w[1:] for w in _wrong()], ids=[w[0] for w in _wrong()])
def test_wrong_input_ends_with_2_and_a_plain_line(
    words: list[str],
    reason: str,
    picture: Path,
    result: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.svs").write_bytes(b"this is no slide " * 60)
    capsys.readouterr()
    places = {"picture": picture, "result": result, "tmp": tmp_path, "out": tmp_path / "out"}
    assert main([word.format(**places) for word in words]) == 2
    assert re.search(reason, said(capsys))
    assert not (tmp_path / "out").exists()


def test_a_result_is_not_overwritten_by_accident(result: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (result / "run.json").read_bytes()
    assert main(["run", "nuclei", str(picture), "--out", str(result), "--mpp", "0.5", *FAST]) == 2
    assert str(result) in said(capsys)
    assert (result / "run.json").read_bytes() == before


def test_settings_are_json_where_they_parse() -> None:
    given = ("threshold=0.25", "tissue_only=false", "model=log", "name=a=b")
    assert parse_settings(given, device=None, seed=3) == {
        "threshold": 0.25,
        "tissue_only": False,
        "model": "log",
        "name": "a=b",
        "seed": 3,
    }
    with pytest.raises(SettingsError, match="KEY=VALUE"):
        parse_settings(("=1",))


# -- failures and interruptions -------------------------------------------------------------------------------------------


class Events:
    """A run that says something and then ends in an exception; knows whether it was closed."""

    def __init__(self, end: BaseException, out: Path | None = None) -> None:
        self.closed = False
        self._iterator = self._events(end, out)

    def _events(self, end: BaseException, out: Path | None) -> Iterator[Any]:
        if out is not None:
            out.mkdir()
            (out / "run.json").touch()
        yield Notice("half of it is glass")
        raise end

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RunError("The loss is no longer a number."), 1, "histoseg: The loss is no longer a number."),
        (StorageError("The disk is full."), 1, "histoseg: The disk is full."),
        (ZeroDivisionError("by zero"), 1, "histoseg: ZeroDivisionError: by zero (this was not expected"),
    ],
)
def test_a_failed_run_ends_with_1(
    error: Exception,
    code: int,
    reason: str,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = Events(error)
    monkeypatch.setattr(hs, "iter_run", lambda *_, **__: events, raising=False)
    assert main(["run", "nuclei", str(picture), "--out", "nowhere"]) == code
    assert said(capsys).startswith(reason)
    assert events.closed


def test_debug_shows_where_it_happened(picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HISTOSEG_DEBUG", "1")
    monkeypatch.setattr(hs, "iter_run", lambda *_, **__: Events(RunError("It broke.")), raising=False)
    assert main(["run", "nuclei", str(picture), "--out", "nowhere"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1] == "histoseg: It broke."


def test_interrupted_before_the_first_tile_nothing_is_kept(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = Events(KeyboardInterrupt())
    monkeypatch.setattr(hs, "iter_run", lambda *_, **__: events, raising=False)
    assert main(["run", "nuclei", str(picture), "--out", str(tmp_path / "r")]) == 130
    assert said(capsys) == "histoseg: interrupted; nothing was kept."
    assert events.closed


def test_an_interrupted_run_says_how_to_go_on(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my result"
    monkeypatch.setattr(hs, "iter_run", lambda *_, **__: Events(KeyboardInterrupt(), out), raising=False)
    assert main(["run", "nuclei", str(picture), "--out", str(out), "--overwrite"]) == 130
    assert said(capsys).endswith(f"histoseg run nuclei {picture} --out '{out}' --resume")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_same_result(number: signal.Signals, tmp_path: Path) -> None:
    slide = tmp_path / "slide.png"
    Image.fromarray(np.tile(he_image(256, 256, seed=3), (4, 4, 1))).save(slide)
    words = ["run", "nuclei", str(slide), "--mpp", "0.5", *FAST, "--set", "tile_px=64"]
    out = tmp_path / "r"
    command = [sys.executable, "-m", "napari_histoseg", *words, "--out", str(out)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Go on with: histoseg run" in err.splitlines()[-1]
    assert main([*words, "--out", str(out), "--resume"]) == 0
    whole = hs.run("nuclei", hs.open_slide(slide, mpp=0.5), model="log", tile_px=64)
    resumed = hs.open_result(out)
    np.testing.assert_array_equal(np.asarray(resumed.labels), np.asarray(whole.labels))
    assert resumed.objects.equals(whole.objects)


# -- training -----------------------------------------------------------------------------------------------------------


def test_training_reports_and_returns_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from napari_histoseg.nn.weights import ModelCard, save_tensors
    from napari_histoseg.train.loop import StepDone, Trained, Validated

    given: dict[str, Any] = {}
    data: list[dict[str, Any]] = [{"notices": ["Nothing was held out."]}, {}]

    def fake(method: str, dataset: Path, /, **options: Any) -> Iterator[Any]:
        given.update(options, method=method)
        save_tensors(options["out"], {"a": torch.zeros(1)}, ModelCard(method=method, name="a", architecture="a", width=1, mpp=1.0, data=data))
        yield StepDone(1, 2, 0.5, 1e-3, 1.0)
        yield StepDone(2, 2, 0.4, 1e-3, 2.0)
        yield Validated(2, {"score": 0.7}, True, options["out"])
        yield Trained(options["out"], {"score": 0.7}, 2.0)

    monkeypatch.setattr(hs, "iter_train", fake, raising=False)
    out = tmp_path / "w.safetensors"
    words = ["train", "nuclei", str(tmp_path), "--out", str(out), "--seed", "4", "--set", "steps=2", "--json"]
    assert main(words) == 0
    told, log = capsys.readouterr()
    assert json.loads(told) == {"weights": str(out), "scores": {"score": 0.7}, "seconds": 2.0, "notices": ["Nothing was held out."]}
    assert "step 2: score 0.7 (best so far, kept)" in log
    assert given == {"method": "nuclei", "out": out, "resume": False, "stain": None, "stain_method": None, "steps": 2, "seed": 4}


# -- the demo -----------------------------------------------------------------------------------------------------------


def test_the_demo_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HISTOSEG_DATA", raising=False)
    monkeypatch.setenv("HISTOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("napari_histoseg.samples.urlopen", _no_network)
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
        told, log = capsys.readouterr()
        summary = json.loads(told)
        assert "(user)" in log and "pixel size is assumed" in log
        assert summary["objects"] > 100
        assert 5 < summary["mean_area_um2"] < 150
        assert all(Path(path).exists() for path in summary["files"].values())
    with Image.open(tmp_path / "demo" / "overlay.png") as shown:
        assert min(shown.size) >= 512


def _no_network(*_: Any, **__: Any) -> Any:
    raise OSError("no route to host")
