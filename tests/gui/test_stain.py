"""The dock "Stain" and the header's row for it, driven as a person does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.utils._proxies import PublicOnlyProxy
from PIL import Image
from qtpy.QtCore import QEvent, QObject, QPoint, QPointF, Qt
from qtpy.QtGui import QImage, QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QInputDialog

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.gui import stain, stainrefs
from napari_histoseg.gui.header import SlideHeader
from napari_histoseg.gui.layers import KEY, result_layers, slide_layer
from napari_histoseg.gui.nuclei import NucleiDock
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.gui.slides import slide_of
from napari_histoseg.gui.stain import StainDock
from napari_histoseg.gui.stainfit import normalizer_of, target_name
from napari_histoseg.gui.stainlate import Colorist
from napari_histoseg.gui.stainlayers import normalized_layer
from napari_histoseg.results import open_result
from napari_histoseg.slide import Slide, open_slide
from napari_histoseg.slide.stain import StainProfile, load_profile, measure, save_profile

SECONDS = 60_000


def redder(pixels: np.ndarray) -> np.ndarray:
    """The picture as another laboratory would stain it."""
    density = -np.log10(np.maximum(pixels, 1) / 245)
    changed = density @ np.array([[0.7, 0.1, 0.0], [0.0, 0.9, 0.1], [0.2, 0.2, 0.9]])
    return np.asarray(np.clip(245 * 10**-changed, 0, 255), np.uint8)


@pytest.fixture(scope="session")
def profile() -> StainProfile:
    """A reference that differs from the scene."""
    return measure(redder(he_image(400, 400, seed=9)), name="other laboratory")


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: StainProfile) -> Iterator[Path]:
    """A folder with one saved profile, and a list of references of this test's own."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    save_profile(profile, folder / "other.json")
    monkeypatch.setenv("HISTOSEG_PROFILES", str(folder))
    monkeypatch.setattr(stain, "warm_up", lambda viewer: None)
    stainrefs.references.cache_clear()
    yield folder
    stainrefs.references.cache_clear()


def choose(dock: StainDock | SlideHeader, name: str) -> None:
    """Choose a reference by its name."""
    combo = dock.choice.reference if isinstance(dock, StainDock) else dock.colors.reference
    assert combo.findText(name) >= 0, [combo.itemText(i) for i in range(combo.count())]
    combo.setCurrentIndex(combo.findText(name))


@pytest.fixture
def stains(viewer: napari.Viewer, qtbot: Any) -> StainDock:
    """The dock in the window, with the saved reference chosen and its preview shown."""
    dock = StainDock(viewer)
    viewer.window.add_dock_widget(dock, name="Stain")
    choose(dock, "other laboratory")
    until_shown(dock, qtbot, "other laboratory")
    return dock


def until_shown(dock: StainDock, qtbot: Any, name: str, method: str = "macenko") -> None:
    """Wait until the preview is of this reference and method."""

    def there() -> bool:
        shown = dock.shown
        return shown is not None and shown.target is not None and shown.target.name == name and shown.normalizer.asked == method

    qtbot.waitUntil(there, timeout=SECONDS)


def message(dock: StainDock) -> str:
    return str(dock.progress.message.text())


def applied(dock: StainDock, qtbot: Any) -> Any:
    """The layer that Apply adds."""
    before = len(dock.viewer.layers)
    dock.apply_button.click()
    qtbot.waitUntil(lambda: len(dock.viewer.layers) > before and dock.viewer.layers[-1].visible, timeout=SECONDS)
    return dock.viewer.layers[-1]


def grab(dock: StainDock) -> np.ndarray:
    """What the preview shows, (h, w, 3)."""
    image = dock.view.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    pixels = np.frombuffer(image.constBits().asarray(image.sizeInBytes()), np.uint8).reshape(image.height(), image.width(), 4)
    return pixels[..., 2::-1].astype(int)


# -- preview ------------------------------------------------------------------------------------------------------------


def test_the_preview_shows_the_view_before_and_after(stains: StainDock) -> None:
    shown = stains.shown
    assert shown is not None
    assert shown.before.shape == shown.after.shape
    assert np.abs(shown.before.astype(int) - shown.after).mean() > 5
    assert stains.light.light == "good"
    assert "Good" in stains.light.words.text()


def test_another_reference_and_another_method_change_the_preview(stains: StainDock, qtbot: Any, tmp_path: Path) -> None:
    first = stains.shown
    Image.fromarray(he_image(300, 300, seed=4) // 2 + 100).save(tmp_path / "pale.png")
    stains.add_file(tmp_path / "pale.png")
    until_shown(stains, qtbot, "pale")
    assert first is not None and stains.shown is not None
    assert not np.array_equal(first.after, stains.shown.after)
    second = stains.shown.after
    stains.choice.method.setCurrentText("Reinhard")
    until_shown(stains, qtbot, "pale", "reinhard")
    assert not np.array_equal(second, stains.shown.after)


def test_the_preview_follows_the_view(stains: StainDock, qtbot: Any) -> None:
    before = stains.shown
    stains.viewer.scene.camera.zoom = 12
    stains.viewer.scene.camera.center = (0, 60, 70)
    qtbot.waitUntil(lambda: stains.shown is not before, timeout=SECONDS)
    assert before is not None and stains.shown is not None
    assert not np.array_equal(before.before, stains.shown.before)
    assert not np.array_equal(stains.shown.before, stains.shown.after)


def test_dragging_the_line_uncovers_the_other_picture(stains: StainDock, qtbot: Any) -> None:
    view = stains.view
    place = view._place()
    row = round(place.center().y()) + 40
    at = round(place.left() + 0.7 * place.width())
    before = grab(stains)[row, at]
    QTest.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(round(place.center().x()), row))
    end = QPoint(round(place.left() + 0.9 * place.width()), row)
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    where = QPointF(end), QPointF(view.mapToGlobal(end))
    QApplication.sendEvent(view, QMouseEvent(QEvent.Type.MouseMove, *where, left, left, none))
    QTest.mouseRelease(view, left, pos=end)
    assert view.split == pytest.approx(0.9, abs=0.02)
    assert np.abs(grab(stains)[row, at] - before).sum() > 0


def test_the_line_goes_where_the_mouse_presses_and_where_arrow_keys_send_it(stains: StainDock) -> None:
    view = stains.view
    place = view._place()
    QTest.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(round(place.left() + 0.25 * place.width()), 100))
    assert view.split == pytest.approx(0.25, abs=0.02)
    QTest.keyClick(view, Qt.Key.Key_Right)
    assert view.split == pytest.approx(0.27, abs=0.02)
    QTest.keyClick(view, Qt.Key.Key_End)
    assert view.split == 1
    QTest.keyClick(view, Qt.Key.Key_Home)
    assert view.split == 0


def test_stain_vectors_are_shown_as_colors_and_as_axes(stains: StainDock) -> None:
    cells = stains.swatches.cells
    assert all("background" in cell.styleSheet() for cell in cells.values())
    assert cells["Slide", "Eosin"].styleSheet() != cells["Reference", "Eosin"].styleSheet()
    assert "optical density" in cells["Slide", "Hematoxylin"].toolTip()
    cloud = stains.plot.cloud
    assert 100 < len(cloud.density) <= stains.plot.MOST
    assert cloud.slide is not None and cloud.reference is not None


def test_a_slide_without_tissue_is_refused_in_words_and_not_applied(stains: StainDock, qtbot: Any) -> None:
    glass = open_slide(np.full((600, 800, 3), 240, np.uint8), mpp=0.5)
    show_layers(stains.viewer, [slide_layer(glass)])
    stains.viewer.reset_view()
    qtbot.waitUntil(lambda: stains.light.light == "refused", timeout=SECONDS)
    assert "Refused" in stains.light.words.text()
    assert "nearly no stained tissue" in stains.light.words.text()
    assert not stains.apply_button.isEnabled()
    shown = stains.shown
    assert shown is not None
    np.testing.assert_array_equal(shown.before, shown.after)


def test_a_doubtful_reference_says_what_is_done_instead(stains: StainDock, qtbot: Any, profile: StainProfile, profiles: Path) -> None:
    same = profile.macenko.model_copy(update={"vectors": (profile.macenko.vectors[0],) * 2})
    save_profile(profile.model_copy(update={"name": "collinear", "macenko": same}), profiles.parent / "collinear.json")
    stains.add_file(profiles.parent / "collinear.json")
    until_shown(stains, qtbot, "collinear")
    assert stains.light.light == "doubtful"
    assert "Reinhard" in stains.light.words.text()


# -- references -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, content, words", [
    ("notes.json", b"{]", "is not a stain profile"),
    ("picture.png", b"no picture", "is not a slide or image that can be read"),
    ("style.safetensors", b"no weights", "is not a weights file"),
    ("gone.png", None, "does not exist"),
])
def test_a_file_that_is_no_reference_is_a_sentence(stains: StainDock, qtbot: Any, tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    count = stains.choice.reference.count()
    stains.add_file(tmp_path / name)
    qtbot.waitUntil(lambda: words in message(stains), timeout=SECONDS)
    assert "Traceback" not in message(stains)
    assert stains.choice.reference.count() == count


def test_a_layer_becomes_a_reference(stains: StainDock, qtbot: Any) -> None:
    stains.viewer.add_image(redder(he_image(300, 300, seed=2)), name="neighbor", rgb=True)
    stains.header.slides.setCurrentIndex(0)
    stains.new._list_layers()
    action = next(a for a in stains.new.layers.actions() if a.text() == "neighbor")
    action.trigger()
    until_shown(stains, qtbot, "neighbor")
    assert stains.choice.reference.currentText() == "neighbor"


def test_a_drawn_region_becomes_a_reference(stains: StainDock, qtbot: Any) -> None:
    stains.new.add_region()
    assert "Draw a region" in message(stains)
    shapes = stains.viewer.layers["Regions"]
    shapes.add_polygons(np.array([[20, 10], [20, 200], [200, 100]]))
    stains.new.add_region()
    qtbot.waitUntil(lambda: "region of" in stains.choice.reference.currentText(), timeout=SECONDS)
    line = stains.choice.line
    assert line is not None and isinstance(line.target, StainProfile)
    # Half of the bounding box, at 0.5 µm/px.
    assert 0.8 * 34_200 / 0.25 / 2 < line.target.tissue_pixels <= 34_200 / 0.25 / 2 * 1.05


def test_a_reference_is_saved_under_a_name_and_is_in_every_list(
    stains: StainDock, qtbot: Any, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = SlideHeader(stains.viewer)
    stains.new.add_layer(stains.header.layer)
    qtbot.waitUntil(lambda: "Added the reference" in message(stains), timeout=SECONDS)
    monkeypatch.setattr(QInputDialog, "getText", lambda *a, **k: ("Our lab 2026", True))
    stains.new.keep.click()
    assert load_profile(profiles / "Our_lab_2026.json").name == "Our lab 2026"
    assert stains.choice.reference.currentText() == "Our lab 2026"
    assert header.colors.reference.findText("Our lab 2026") >= 0
    stains.new.keep.click()
    assert "There is a profile named 'Our lab 2026' already" in message(stains)
    header.deleteLater()


# -- layers ---------------------------------------------------------------------------------------------------------------


def test_apply_adds_a_lazy_layer_at_the_same_place(
    make_napari_viewer: Callable[..., napari.Viewer], qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svs(tmp_path / "slide.svs", he_image(3000, 2500, seed=6, mpp=0.25), mpp=0.25)
    slide = open_slide(tmp_path / "slide.svs")
    viewer = make_napari_viewer(show=True)
    (layer,) = show_layers(viewer, [slide_layer(slide)])
    layer.translate = (100, 30)
    viewer.scene.camera.zoom = 8
    viewer.scene.camera.center = (0, 200, 130)
    dock = StainDock(viewer)
    viewer.window.add_dock_widget(dock, name="Stain")
    choose(dock, "other laboratory")
    until_shown(dock, qtbot, "other laboratory")
    read: list[int] = []
    source = type(slide._source)
    original = source.read
    monkeypatch.setattr(source, "read", lambda self, level, box: read.append(box.area * (level == 0)) or original(self, level, box))
    made = applied(dock, qtbot)
    qtbot.wait(300)
    assert made.name == "slide.svs as other laboratory"
    assert made.multiscale and made.rgb
    np.testing.assert_allclose(made.translate, layer.translate)
    np.testing.assert_allclose(made.scale, layer.scale)
    assert made.units == layer.units
    assert sum(read) < 0.5 * slide.bounds.area
    normalized = slide_of(made)
    assert normalized.stain is not None and normalized.fingerprint() == slide.fingerprint()
    np.testing.assert_array_equal(np.asarray(made.data[0][600:700, 500:640]), normalized.stain.apply(np.asarray(layer.data[0][600:700, 500:640])))


def test_applying_twice_chooses_the_layer_that_is_there(stains: StainDock, qtbot: Any) -> None:
    made = applied(stains, qtbot)
    count = len(stains.viewer.layers)
    stains.apply_button.click()
    qtbot.waitUntil(lambda: "already" in message(stains), timeout=SECONDS)
    assert len(stains.viewer.layers) == count
    assert stains.viewer.layers.selection.active is made


def test_a_normalized_layer_is_normalized_from_the_slide_as_scanned(stains: StainDock, qtbot: Any) -> None:
    made = applied(stains, qtbot)
    assert stains.header.layer is made
    first = stains.shown
    stains.choice.method.setCurrentText("Vahadane")
    until_shown(stains, qtbot, "other laboratory", "vahadane")
    assert first is not None and stains.shown is not None
    assert stains.shown.source == first.source


def test_stains_are_separated_into_lazy_layers_of_density(stains: StainDock, qtbot: Any, scene: Any) -> None:
    stains.separate_button.click()
    qtbot.waitUntil(lambda: len(stains.viewer.layers) == 4, timeout=SECONDS)
    qtbot.wait(300)
    names = [layer.name.split(" of ")[0] for layer in stains.viewer.layers][1:]
    assert names == ["Hematoxylin", "Eosin", "Residual"]
    base = stains.viewer.layers[0]
    for layer in list(stains.viewer.layers)[1:]:
        np.testing.assert_allclose(layer.scale, base.scale)
        np.testing.assert_allclose(layer.translate, base.translate)
        assert layer.dtype == np.float32
    hematoxylin = np.asarray(stains.viewer.layers[1].data)
    assert hematoxylin[scene[1] > 0].mean() > 3 * hematoxylin[scene[1] == 0].mean()
    # They are no slides: no other dock offers them.
    assert stains.header.slides.count() == 1


class SlowNormalizer:
    """As a network is: needs its surroundings, and takes its time."""

    halo_px, stride_px = 8, 8

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(0.05)
        return np.asarray(255 - pixels, np.uint8)

    def key(self) -> str:
        return "slow"

    def describe(self) -> dict[str, Any]:
        return {"style": "negative"}


def test_a_layer_that_a_network_colors_is_shown_at_once_and_colored_later(
    make_napari_viewer: Callable[..., napari.Viewer], qtbot: Any
) -> None:
    slide = open_slide(he_image(2600, 2400, seed=6, mpp=0.25), mpp=0.25)
    viewer = make_napari_viewer(show=True)
    (layer,) = show_layers(viewer, [slide_layer(slide)])
    viewer.scene.camera.zoom = 4
    viewer.scene.camera.center = (0, 150, 150)
    data, keywords, _ = normalized_layer(slide.with_stain(SlowNormalizer()), layer, "negative")
    (made,) = show_layers(viewer, [(data, keywords, "image")])
    owner = QObject()
    colorist = Colorist(viewer, made, data, owner)
    fine = made.data[0]
    before = np.asarray(layer.data[0])
    np.testing.assert_array_equal(fine[500:700, 500:700], before[500:700, 500:700])
    fine[:600, :600]
    qtbot.waitUntil(lambda: not fine.wanted and not colorist._busy and (fine[500:700, 500:700] == 255 - before[500:700, 500:700]).all(), timeout=SECONDS)
    np.testing.assert_array_equal(np.asarray(made.data[-1]), 255 - np.asarray(layer.data[-1]))
    viewer.layers.remove(made)
    qtbot.waitUntil(lambda: not colorist._timer.isActive(), timeout=SECONDS)


# -- the header of the other docks ------------------------------------------------------------------------------------------


def run(dock: NucleiDock, qtbot: Any) -> Any:
    """Run on the whole slide; returns the slide that the engine was given."""
    dock.where.buttons["Whole slide"].setChecked(True)
    dock.run_button.click()
    qtbot.waitUntil(lambda: dock.current is None, timeout=SECONDS)
    assert dock.edit.result is not None, dock.progress.message.text()
    engine: Any = dock.engine
    return engine.calls[-1]["slide"]


def test_the_header_makes_nuclei_read_the_normalized_slide(dock: NucleiDock, qtbot: Any) -> None:
    assert not dock.header.normalize.isChecked()
    assert not dock.header.colors.isVisible()
    assert run(dock, qtbot).stain is None
    dock.header.normalize.click()
    assert dock.header.colors.isVisible()
    choose(dock.header, "other laboratory")
    given = run(dock, qtbot)
    assert target_name(given.stain) == "other laboratory"
    result = dock.edit.result
    assert result is not None
    stored = open_result(result.path).record.slide.stain
    assert stored is not None and stored["target"]["name"] == "other laboratory"


def test_a_dock_that_napari_opened_follows_the_chosen_layer(viewer: napari.Viewer, slide: Slide) -> None:
    show_layers(viewer, [slide_layer(open_slide(he_image(300, 260, seed=8), mpp=0.25))])
    header = SlideHeader(PublicOnlyProxy(viewer))
    for layer in (viewer.layers[0], viewer.layers[1], viewer.layers[0]):
        viewer.layers.selection.active = layer
        assert header.layer is layer
    header.deleteLater()


def test_a_normalized_layer_is_read_as_it_is(dock: NucleiDock, stains: StainDock, qtbot: Any) -> None:
    made = applied(stains, qtbot)
    dock.header.normalize.setChecked(True)
    dock.viewer.layers.selection.active = dock.viewer.layers[0]
    assert dock.header.normalize.isEnabled()
    dock.viewer.layers.selection.active = made
    assert not dock.header.normalize.isEnabled()
    assert "already" in dock.header.normalize.text()
    assert dock.header.stain is None
    given = run(dock, qtbot)
    assert given is made.metadata[KEY]["slide"]


# -- on the disk --------------------------------------------------------------------------------------------------------------


def write(dock: StainDock, qtbot: Any) -> None:
    dock.write_button.click()
    qtbot.waitUntil(lambda: not dock.writer.running, timeout=SECONDS)


def test_the_slide_is_written_and_opens_again_as_a_picture(stains: StainDock, qtbot: Any) -> None:
    shown = stains.shown
    write(stains, qtbot)
    result = stains.writer.result
    assert result is not None, message(stains)
    assert "Written" in stains.progress.words.text()
    slide = stains.header.slide()
    assert shown is not None
    np.testing.assert_array_equal(np.asarray(result.image), shown.normalizer.apply(slide.read(0, slide.bounds)))
    ((data, keywords, kind),) = result_layers(open_result(result.path))
    assert kind == "image" and keywords["rgb"]
    assert keywords["name"].endswith("as other laboratory")
    (layer,) = show_layers(stains.viewer, [(data, keywords, kind)])
    assert layer.data[0].shape[-1] == 3 if layer.multiscale else layer.data.shape[-1] == 3
    np.testing.assert_allclose(layer.scale, stains.viewer.layers[0].scale)
    np.testing.assert_allclose(layer.translate, stains.viewer.layers[0].translate)
    stored = slide_of(layer)
    assert isinstance(stored, Slide) and stored.mpp == slide.mpp and (stored.width, stored.height) == (slide.width, slide.height)


def test_writing_stops_and_goes_on_to_the_same_picture(dock: NucleiDock, stains: StainDock, qtbot: Any, scene: Any) -> None:
    slide = open_slide(np.tile(scene[0], (3, 3, 1)), mpp=0.5)
    show_layers(stains.viewer, [slide_layer(slide)])
    gated: Any = dock.engine
    stains.engine = gated
    gated.hold(3)
    stains.write_button.click()
    assert stains.cancel_button.isEnabled() and not stains.write_button.isEnabled()
    qtbot.waitUntil(lambda: "of 4 tiles" in stains.progress.words.text(), timeout=SECONDS)
    stains.cancel_button.click()
    gated.permits.release(10**6)
    qtbot.waitUntil(lambda: not stains.writer.running, timeout=SECONDS)
    assert "Cancelled" in stains.progress.words.text()
    write(stains, qtbot)
    assert gated.calls[1]["resume"] and gated.calls[1]["out"] == gated.calls[0]["out"]
    result = stains.writer.result
    assert result is not None and result.finished
    profile = stains.choice.value
    assert profile is not None
    np.testing.assert_array_equal(np.asarray(result.image), normalizer_of(slide, *profile).apply(slide.read(0, slide.bounds)))


def test_what_was_written_is_exported_as_ome_tiff(stains: StainDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtpy.QtWidgets import QFileDialog

    assert not stains.export_button.isEnabled()
    write(stains, qtbot)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(tmp_path / "out"), ""))
    stains.export_button.click()
    qtbot.waitUntil(lambda: "Written:" in stains.progress.words.text(), timeout=SECONDS)
    again = open_slide(tmp_path / "out.ome.tif")
    assert again.mpp == pytest.approx(0.5)
    assert stains.writer.result is not None
    np.testing.assert_array_equal(again.read(0, again.bounds), np.asarray(stains.writer.result.image))


def test_writing_an_ome_tiff_is_cancelled_by_the_button(
    stains: StainDock, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histoseg.results import tiff

    write(stains, qtbot)
    whole = tiff.tiles

    def slowly(level: Any) -> Any:
        for _ in range(1000):
            time.sleep(0.02)
            yield from whole(level)

    monkeypatch.setattr(tiff, "tiles", slowly)
    stains.writer.export_to(tmp_path / "out.ome.tif")
    assert stains.cancel_button.isEnabled()
    assert not stains.write_button.isEnabled()
    stains.cancel_button.click()
    qtbot.waitUntil(lambda: "was not written" in stains.progress.words.text(), timeout=SECONDS)
    assert not list(tmp_path.glob("*.tif"))
    assert stains.export_button.isEnabled()


def test_without_a_pixel_size_writing_asks_for_it(stains: StainDock, qtbot: Any) -> None:
    show_layers(stains.viewer, [slide_layer(open_slide(he_image(256, 256, seed=5)))])
    stains.write_button.click()
    assert "has no pixel size" in message(stains)
    assert stains.header.edit.isChecked()
