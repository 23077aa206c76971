"""The dock "Nuclei", driven as a person does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest

from napari_histoseg._testing import he_image
from napari_histoseg.gui.layers import KEY, slide_layer
from napari_histoseg.gui.nuclei import NucleiDock
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.results import open_result
from napari_histoseg.slide import Box, open_slide


def labels_of(dock: NucleiDock) -> Any:
    assert dock.edit.layer is not None
    return dock.edit.layer


def wait(dock: NucleiDock, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: dock.current is None, timeout=60_000)


def test_a_run_finds_the_nuclei_and_places_them_on_the_slide(finished: NucleiDock, scene: Any) -> None:
    layer, result = labels_of(finished), finished.edit.result
    assert result is not None
    assert layer.multiscale
    assert tuple(str(u) for u in layer.units) == ("micrometer", "micrometer")
    found = np.asarray(result.labels) > 0
    image = finished.header.layer
    assert image is not None
    # The label pixel over each true nucleus' middle, through the layers' own transforms.
    hits = 0
    ids = np.unique(scene[1])[1:]
    for number in ids:
        rows, columns = np.nonzero(scene[1] == number)
        world = image.data_to_world((rows.mean(), columns.mean()))
        y, x = (round(float(v)) for v in layer.world_to_data(world))
        hits += bool(found[min(y, found.shape[0] - 1), min(x, found.shape[1] - 1)])
    assert hits / len(ids) > 0.8


def test_progress_says_tiles_and_nuclei_and_the_end_says_where(finished: NucleiDock) -> None:
    assert "Done:" in finished.progress.words.text()
    assert str(finished.edit.result.path) in finished.progress.words.text()  # type: ignore[union-attr]
    assert not finished.progress.bar.isVisible()


def test_labels_and_progress_appear_while_it_runs(dock: NucleiDock, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histoseg.gui.jobs.COMMIT_S", 0.0)
    monkeypatch.setattr("napari_histoseg.gui.jobs.PERIOD_S", 0.0)
    engine: Any = dock.engine
    engine.hold(6)
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.run_button.click()
    assert not dock.run_button.isEnabled()
    qtbot.waitUntil(lambda: "left" in dock.progress.words.text(), timeout=60_000)
    run = dock.current
    assert run is not None and run.labels is not None
    assert "of 20 tiles" in dock.progress.words.text()
    assert np.asarray(run.labels.data[0][:, :]).any()
    engine.permits.release(10**6)
    wait(dock, qtbot)


def test_cancel_keeps_what_is_done_and_resume_ends_with_the_same(dock: NucleiDock, qtbot: Any, tmp_path: Path) -> None:
    engine: Any = dock.engine
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.folder.line.setText(str(tmp_path / "a"))
    engine.hold(8)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.current is not None and dock.current.labels is not None and engine.waiting.is_set())
    dock.cancel_button.click()
    engine.permits.release(10**6)
    wait(dock, qtbot)
    assert engine.closed.is_set()
    assert "Cancelled" in dock.progress.words.text()
    path = engine.calls[0]["out"]
    partial = open_result(path)
    assert partial.record.status == "cancelled"
    assert 0 < partial.record.tiles_done < 20
    assert dock.resume_button.isEnabled()
    qtbot.waitUntil(lambda: len(dock.viewer.layers) == 3)
    dock.resume_button.click()
    wait(dock, qtbot)
    assert engine.calls[1]["resume"]
    assert len(dock.viewer.layers) == 3
    dock.folder.line.setText(str(tmp_path / "b"))
    dock.run_button.click()
    wait(dock, qtbot)
    resumed, whole = open_result(path), open_result(engine.calls[2]["out"])
    assert resumed.finished
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    assert not dock.resume_button.isEnabled()


def test_an_unfinished_run_of_an_earlier_session_can_be_resumed(dock: NucleiDock, qtbot: Any, tmp_path: Path) -> None:
    engine: Any = dock.engine
    dock.folder.line.setText(str(tmp_path))
    dock.where.buttons["Whole slide"].setChecked(True)
    engine.hold(5)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.current is not None and dock.current.labels is not None and engine.waiting.is_set())
    dock.cancel_button.click()
    engine.permits.release(10**6)
    wait(dock, qtbot)
    dock._stopped.clear()
    dock._show_state()
    assert dock.resume_button.isEnabled()
    dock.resume_button.click()
    wait(dock, qtbot)
    assert open_result(engine.calls[0]["out"]).finished


def test_the_result_goes_to_the_slide_that_it_was_started_for(dock: NucleiDock, qtbot: Any) -> None:
    engine: Any = dock.engine
    first = dock.header.slide()
    engine.hold(3)
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.run_button.click()
    other = open_slide(he_image(300, 260, seed=8), mpp=0.25)
    show_layers(dock.viewer, [slide_layer(other)])
    assert dock.header.slide() is other
    engine.permits.release(10**6)
    wait(dock, qtbot)
    layer = next(x for x in dock.viewer.layers if x.metadata.get(KEY, {}).get("kind") == "labels")
    assert layer.metadata[KEY]["slide_fingerprint"] == first.fingerprint()
    assert tuple(layer.data.shape) == (first.height, first.width)


def test_the_current_view_is_what_is_run_on(dock: NucleiDock, qtbot: Any) -> None:
    dock.viewer.scene.camera.zoom = 8
    dock.viewer.scene.camera.center = (0, 60, 70)
    # As it is at the click: showing another layer's controls may change it.
    height, width = dock.viewer.canvas.size
    dock.run_button.click()
    wait(dock, qtbot)
    engine: Any = dock.engine
    region = engine.calls[0]["region"]
    assert isinstance(region, Box)
    assert region.contains_point(70 / 0.5, 60 / 0.5)
    assert region.width == pytest.approx(width / 8 / 0.5, abs=2) or region.x == 0
    assert region.height == pytest.approx(height / 8 / 0.5, abs=2) or region.y == 0


def test_drawn_regions_are_run_on_in_level0_pixels(dock: NucleiDock, qtbot: Any) -> None:
    dock.where.draw.click()
    shapes = dock.where.regions_layer()
    assert shapes is not None
    shapes.add_rectangles(np.array([[19.75, 9.75], [19.75, 109.75], [99.75, 109.75], [99.75, 9.75]]))
    dock.run_button.click()
    wait(dock, qtbot)
    engine: Any = dock.engine
    # 10 to 110 µm and 20 to 100 µm from the slide's corner, which lies half a pixel before napari's 0.
    assert engine.calls[0]["region"] == Box(20, 40, 200, 160)


def test_no_region_drawn_is_said_in_a_sentence(dock: NucleiDock) -> None:
    dock.where.buttons["Drawn regions"].setChecked(True)
    dock.run_button.click()
    assert dock.current is None
    assert "No region is drawn" in dock.progress.message.text()


def test_a_preview_leaves_no_result_and_a_second_takes_its_place(dock: NucleiDock, qtbot: Any) -> None:
    engine: Any = dock.engine
    for _ in range(2):
        dock.preview_button.click()
        wait(dock, qtbot)
    names = [layer.name for layer in dock.viewer.layers]
    assert sum("preview" in name and "Nuclei" in name for name in names) == 1
    assert not dock.folder.folder.exists()
    assert engine.calls[0]["out"] != engine.calls[1]["out"]


def test_without_a_pixel_size_the_window_asks_and_then_runs(dock: NucleiDock, qtbot: Any) -> None:
    show_layers(dock.viewer, [slide_layer(open_slide(he_image(256, 256, seed=5)))])
    assert dock.header.edit.isChecked()
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.run_button.click()
    assert dock.current is None
    assert "has no pixel size" in dock.progress.message.text()
    dock.header.mpp.setValue(0.5)
    dock.header.use.click()
    assert "given by you" in dock.header.pixel_size.text()
    dock.run_button.click()
    wait(dock, qtbot)
    result = dock.edit.result
    assert result is not None
    assert result.record.slide.mpp_source == "user"
    # The window remembers: the same pixels opened again have the size at once.
    from napari_histoseg.gui.pixelsize import with_remembered

    assert with_remembered(open_slide(he_image(256, 256, seed=5))).mpp == 0.5


def test_an_engine_that_fails_is_reported_as_its_sentence(dock: NucleiDock, qtbot: Any) -> None:
    from napari_histoseg.errors import StorageError

    def broken(*args: Any, **keywords: Any) -> Any:
        raise StorageError("Writing to /x failed: the disk is full.")
        yield

    dock.engine = broken
    dock.run_button.click()
    wait(dock, qtbot)
    assert dock.progress.message.text() == "Writing to /x failed: the disk is full."
    assert dock.run_button.isEnabled()


def test_an_unexpected_error_is_one_sentence_too(dock: NucleiDock, qtbot: Any) -> None:
    def broken(*args: Any, **keywords: Any) -> Any:
        raise ZeroDivisionError("division by zero")
        yield

    dock.engine = broken
    dock.run_button.click()
    wait(dock, qtbot)
    assert "ZeroDivisionError" in dock.progress.message.text()
    assert "Traceback" not in dock.progress.message.text()


def test_a_setting_out_of_bounds_is_said_under_the_form(dock: NucleiDock) -> None:
    dock.form.set_values(threshold=0.0)
    dock.run_button.click()
    assert dock.current is None
    assert "threshold" in dock.progress.message.text()
    assert dock.form.problem.isVisible()


def test_no_tissue_is_said_and_gives_an_empty_result(dock: NucleiDock, qtbot: Any) -> None:
    show_layers(dock.viewer, [slide_layer(open_slide(np.full((2400, 2400, 3), 240, np.uint8), mpp=0.5))])
    dock.where.buttons["Tissue"].setChecked(True)
    dock.run_button.click()
    wait(dock, qtbot)
    assert "No tissue" in dock.progress.message.text()
    assert "0 nuclei" in dock.progress.words.text()


def test_detected_tissue_is_a_layer_that_can_be_painted_and_is_used(dock: NucleiDock, qtbot: Any) -> None:
    dock.header.detect.click()
    qtbot.waitUntil(lambda: dock.header.tissue_layer() is not None, timeout=30_000)
    tissue = dock.header.tissue_layer()
    assert tissue is not None
    assert tissue.editable
    assert tissue.data.dtype == np.uint8
    tissue.data = np.zeros_like(tissue.data)
    dock.where.buttons["Tissue"].setChecked(True)
    dock.run_button.click()
    wait(dock, qtbot)
    assert "No tissue" in dock.progress.message.text()


def test_a_stored_result_opens_again_over_its_slide(finished: NucleiDock) -> None:
    result = finished.edit.result
    assert result is not None
    before = labels_of(finished)
    viewer = finished.viewer
    viewer.layers.remove(before)
    finished.show_result(result.path)
    again = viewer.layers[-1]
    assert isinstance(again, napari.layers.Labels)
    np.testing.assert_allclose(again.translate, before.translate)
    np.testing.assert_allclose(again.scale, before.scale)
    assert "area µm²" in again.features


def test_a_folder_that_is_no_result_is_a_sentence(dock: NucleiDock, tmp_path: Path) -> None:
    dock._try(lambda: dock.show_result(tmp_path / "nothing"))
    assert dock.progress.message.text()


def test_export_writes_by_extension(finished: NucleiDock, qtbot: Any, tmp_path: Path) -> None:
    from napari_histoseg.gui.export import export_to

    result = finished.edit.result
    assert result is not None
    out = tmp_path / "nuclei.geojson"
    job = export_to(out, result, None, finished.progress, finished._problem, finished)
    with qtbot.waitSignal(job.ended, timeout=30_000):
        pass
    assert finished.progress.words.text() == f"Written: {out}"
    assert out.read_text().startswith("{")


def test_an_export_is_cancelled_by_the_button(
    finished: NucleiDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histoseg.gui import export

    out, begun, go_on = tmp_path / "nuclei.csv", threading.Event(), threading.Event()

    def slow(result: Any, out: Path, *, step: Any, **_: Any) -> Path:
        for piece in range(1000):
            step(piece, 1000)
            begun.set()
            go_on.wait(0.02)
        return out

    monkeypatch.setattr("napari_histoseg.results.export", slow)
    monkeypatch.setattr(export.QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    finished.export_button.click()
    assert begun.wait(120)
    assert finished.cancel_button.isEnabled()
    assert not finished.run_button.isEnabled()
    assert finished.exporting is not None
    qtbot.waitUntil(lambda: "Writing nuclei.csv" in finished.progress.words.text(), timeout=20_000)
    with qtbot.waitSignal(finished.exporting.ended, timeout=20_000):
        finished.cancel_button.click()
    assert finished.progress.words.text() == "Cancelled. nuclei.csv was not written."
    assert not finished.cancel_button.isEnabled()
    assert finished.run_button.isEnabled()
