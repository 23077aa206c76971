"""Opening files in napari."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_histoseg._testing import he_image, write_ome_tiff, write_ome_zarr, write_svs
from napari_histoseg.gui import reader, samples
from napari_histoseg.gui.layers import KEY


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that napari would show."""
    shown: list[str] = []
    monkeypatch.setattr("napari.utils.notifications.show_error", shown.append)
    return shown


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "folder", "missing.zarr", "a.h5"])
def test_files_that_are_no_slides_are_left_to_others(tmp_path: Path, name: str) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
    assert reader.get_reader(str(tmp_path / name)) is None


@pytest.mark.parametrize("name", ["a.svs", "a.TIF", "a.ome.tiff", "a.ndpi", "a.mrxs", "a.scn", "a.bif", "a.dcm", "a.png"])
def test_slides_are_ours_by_their_name(tmp_path: Path, name: str) -> None:
    assert reader.get_reader(str(tmp_path / name)) is not None
    assert reader.get_reader([str(tmp_path / name), str(tmp_path / "a.txt")]) is None


def make_svs(folder: Path) -> Path:
    return write_svs(folder / "a.svs", he_image(600, 400), mpp=0.25)


def make_ome_tiff(folder: Path) -> Path:
    return write_ome_tiff(folder / "a.ome.tif", he_image(600, 400), mpp=0.25)


def make_ome_zarr(folder: Path) -> Path:
    return write_ome_zarr(folder / "a.zarr", he_image(600, 400), mpp=0.25)


@pytest.mark.parametrize("make", [make_svs, make_ome_tiff, make_ome_zarr])
def test_a_slide_becomes_one_layer_with_its_scale(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    read = reader.get_reader(str(path))
    assert read is not None
    ((data, keywords, kind),) = read(str(path))
    assert kind == "image"
    assert keywords["scale"] == pytest.approx((0.25, 0.25))
    finest = data[0] if keywords["multiscale"] else data
    assert finest.shape == (400, 600, 3)
    assert keywords["metadata"][KEY]["slide"].mpp_source == "file"


@pytest.mark.parametrize("content", [b"", b"not a slide at all" * 50])
def test_a_file_that_is_no_slide_is_one_plain_message(tmp_path: Path, errors: list[str], content: bytes) -> None:
    path = tmp_path / "broken.svs"
    path.write_bytes(content)
    assert reader.read(str(path)) == [(None,)]
    (message,) = errors
    assert "broken.svs" in message
    assert "Traceback" not in message


def test_a_broken_file_does_not_keep_the_others_from_opening(tmp_path: Path, errors: list[str]) -> None:
    (tmp_path / "broken.svs").write_bytes(b"x")
    layers = reader.read([str(tmp_path / "broken.svs"), str(make_svs(tmp_path))])
    assert len(layers) == 1
    assert len(errors) == 1


def test_napari_opens_a_slide_with_our_reader(viewer: Any, tmp_path: Path) -> None:
    path = make_svs(tmp_path)
    layers = viewer.open(str(path), plugin="napari-histoseg")
    assert layers[0].source.reader_plugin == "napari-histoseg"
    assert layers[0].rgb


def test_a_result_folder_opens_with_its_slide(finished: Any) -> None:
    path = finished.edit.result.path
    assert reader.get_reader(str(path)) is not None
    layers = reader.read(str(path))
    # The slide of this test has no file, so only the result's own layers come.
    assert [kind for _, _, kind in layers] == ["image", "labels"]
    assert "area µm²" in layers[1][1]["features"]


def test_a_result_of_another_version_is_one_plain_message(finished: Any, errors: list[str]) -> None:
    run = finished.edit.result.path / "run.json"
    run.write_text(run.read_text().replace('"format_version": 1', '"format_version": 99'))
    assert reader.read(str(run.parent)) == [(None,)]
    assert "99" in errors[0]


def test_a_flat_giant_image_is_prepared_in_a_dialog(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_histoseg.gui.prepare import prepare

    class Flat:
        name, needs_cache, built = "flat.tif", True, False

        def build_cache(self, progress: Any) -> None:
            for i in range(5):
                progress(i, 5)
            self.built = True

    flat = Flat()
    assert prepare(flat)  # type: ignore[arg-type]
    assert flat.built


def test_stopping_the_preparation_opens_nothing(qtbot: Any) -> None:
    import time

    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication, QProgressDialog

    from napari_histoseg.gui.prepare import prepare

    class Endless:
        name, needs_cache = "flat.tif", True

        def build_cache(self, progress: Any) -> None:
            while True:
                time.sleep(0.01)
                progress(1, 100)

    def stop() -> None:
        for widget in QApplication.topLevelWidgets():
            if isinstance(widget, QProgressDialog):
                widget.canceled.emit()

    # Again and again: on a busy machine the dialog comes late.
    timer = QTimer()
    timer.timeout.connect(stop)
    timer.start(100)
    assert not prepare(Endless())  # type: ignore[arg-type]
    timer.stop()


def test_the_sample_without_a_network_opens(viewer: Any) -> None:
    pytest.importorskip("napari_histoseg.samples")
    ((data, keywords, _),) = samples.stained_tissue()
    finest = data[0] if keywords["multiscale"] else data
    assert finest.shape == (512, 512, 3)
    assert np.asarray(finest[:8, :8]).dtype == np.uint8


def test_the_slide_sample_opens(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("napari_histoseg.samples")
    monkeypatch.setenv("HISTOSEG_DATA", str(data_dir))
    ((_, keywords, _),) = samples.cmu_region()
    assert keywords["scale"] == pytest.approx((0.499, 0.499))
