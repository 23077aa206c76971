"""The dock "Cells", driven as a person does: nuclei from anywhere, classes, names, the next slide, learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.utils._proxies import PublicOnlyProxy

from napari_histoseg import methods
from napari_histoseg._testing import he_tissue, write_svs
from napari_histoseg._testing_clusters import cluster_table, slide_record, stored
from napari_histoseg.gui.cells import NEW, CellsDock
from napari_histoseg.gui.cellslearn import NO_RESULT, sheet_of
from napari_histoseg.gui.inspector import ClusterInspector
from napari_histoseg.gui.inspectorcolors import rgba
from napari_histoseg.gui.inspectorlist import NAME as NAME_COLUMN
from napari_histoseg.gui.layers import KEY, result_layers, slide_layer, tissue_layer
from napari_histoseg.gui.nucleipicker import FILE, FOLDER, NO_NUCLEI, NONE, NucleiPicker
from napari_histoseg.gui.shown import result_of, show_layers
from napari_histoseg.results import Result, ResultStore, RunRecord, open_result
from napari_histoseg.slide import Box, Slide, TissueMask, open_slide

SECONDS = 120_000
MPP, WIDTH, HEIGHT = 0.5, 640, 512
GAN = {"method": "infogan", "steps": 4, "validate_every": 2, "width": 4, "start_steps": 2, "batch": 8, "view_batch": 8, "device": "cpu"}
SEEDS = {"first": 3, "second": 9}


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """Two slides on the disk, and the labels of their nuclei."""
    folder = tmp_path_factory.mktemp("slides")
    made = {}
    for name, seed in SEEDS.items():
        image, labels = he_tissue(WIDTH, HEIGHT, seed=seed, mpp=MPP)
        made[name] = write_svs(folder / f"{name}.svs", image, mpp=MPP), labels.astype(np.uint32)
    return made


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method is listed."""
    monkeypatch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "cells"))))


def nuclei_result(path: Path, slide: Slide, labels: np.ndarray) -> Result:
    """What a run of nuclei leaves behind."""
    frame = Box(0, 0, labels.shape[1], labels.shape[0])
    table = cluster_table(labels, MPP)
    objects = table[[c for c in table if c not in ("cluster", "class") and not c.startswith("embedding")]]
    record = RunRecord(
        method="nuclei", slide=slide_record(slide), mpp=MPP, frame=frame, settings={}, n_tiles=1, tile_px=512, halo_px=0
    )
    store = ResultStore.create(path, record, ("labels", "objects"))
    store.add(0, frame, labels=(frame, labels), objects=objects)
    return store.finish()


def geojson(path: Path, labels: np.ndarray) -> Path:
    """The boxes of the labels as QuPath writes objects, in level-0 pixels."""
    features = []
    for number in np.unique(labels)[1:]:
        rows, columns = np.nonzero(labels == number)
        left, top, right, bottom = (int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"objectType": "detection"}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path


class Person:
    """Sits before the window."""

    def __init__(self, viewer: napari.Viewer, slides: dict[str, tuple[Path, np.ndarray]], qtbot: Any, tmp_path: Path, engine: Any) -> None:
        self.viewer, self.qtbot, self.folder, self.slides = viewer, qtbot, tmp_path, slides
        self.slide = self.show_slide("first")
        self.numbers = slides["first"][1]
        # As napari does for plugins.
        self.dock = CellsDock(PublicOnlyProxy(viewer))
        self.added = viewer.window.add_dock_widget(self.dock, name="Cells")
        self.engine = self.dock.engine = engine
        self.dock.form.set_values(device="cpu", sample=500, tile_px=256)
        self.dock.where.buttons["Whole slide"].setChecked(True)

    def until(self, what: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(what, timeout=SECONDS)

    def show_slide(self, name: str) -> Slide:
        slide = open_slide(self.slides[name][0])
        show_layers(self.viewer, [slide_layer(slide)])
        return slide

    def show_nuclei(self, name: str = "first", slide: Slide | None = None) -> Any:
        made = nuclei_result(self.folder / f"{name}-nuclei", slide or self.slide, self.slides[name][1])
        return show_layers(self.viewer, result_layers(made))[-1]

    def run(self) -> None:
        """Press Run, and wait until the classes are there."""
        self.dock.run_button.click()
        self.until(lambda: self.dock.current is None)
        self.until(lambda: self.dock.inspector.desk.book is not None or bool(self.said))

    @property
    def said(self) -> str:
        return self.dock.progress.message.text()

    @property
    def result(self) -> Result:
        assert self.dock.result is not None, self.said
        return self.dock.result

    @property
    def layer(self) -> Any:
        return next(x for x in self.viewer.layers if result_of(x) is self.result)

    def rename(self, row: int, name: str) -> None:
        item = self.dock.inspector.bar.list.item(row, NAME_COLUMN)
        assert item is not None
        item.setText(name)

    def gan(self, **more: Any) -> Any:
        training = self.dock.training
        training.form.set_values(**{**GAN, **more})
        return training

    def until_learned(self) -> None:
        self.until(lambda: self.dock.training.current is None)


@pytest.fixture
def person(make_napari_viewer: Callable[..., napari.Viewer], slides: Any, qtbot: Any, tmp_path: Path, engine: Any) -> Person:
    return Person(make_napari_viewer(show=True), slides, qtbot, tmp_path, engine)


# -- nuclei from anywhere -------------------------------------------------------------------------------------------------


def assert_grouped(person: Person, count: int) -> None:
    """As many nuclei are in three classes, and each is shown in the color of its class."""
    objects = person.result.objects
    assert len(objects) == count, person.said
    words = person.dock.progress.words.text()
    assert words.startswith(f"Done: {count:,} nuclei in 3 classes: cluster 1 "), words
    colors = {each.name: each.color for each in person.result.classes}
    wanted = np.array([rgba(colors[name]) for name in objects["class"]])
    np.testing.assert_allclose(person.layer.colormap.map(objects["id"].to_numpy()), wanted, atol=1e-6)
    assert person.dock.tabs.tabText(person.dock.tabs.currentIndex()) == "Classes"
    assert person.dock.inspector.isVisible()


def test_nuclei_of_a_result_are_grouped(person: Person) -> None:
    source = person.show_nuclei()
    assert person.dock.nuclei.layer == source
    person.run()
    assert_grouped(person, len(np.unique(person.numbers)) - 1)
    np.testing.assert_array_equal(np.unique(person.result.objects["id"]), np.unique(person.numbers)[1:])
    assert not source.visible
    assert "class" in person.layer.features


def test_nuclei_of_a_plain_layer_of_finer_pixels_are_grouped(person: Person) -> None:
    finer = np.kron(person.numbers, np.ones((2, 2), np.uint32))
    person.viewer.add_labels(finer, name="mine", scale=(MPP / 2,) * 2, translate=(-MPP / 4,) * 2, units=("um", "um"))
    assert person.dock.nuclei.combo.currentText() == "mine"
    person.run()
    assert_grouped(person, len(np.unique(person.numbers)) - 1)


def test_nuclei_of_a_geojson_are_grouped(person: Person) -> None:
    person.dock.nuclei.add_file(geojson(person.folder / "cells.geojson", person.numbers))
    assert person.dock.nuclei.combo.currentText() == "cells.geojson"
    person.run()
    assert person.result.record.settings["labels"]["kind"] == "geojson"
    # Boxes of neighbors overlap, and one may lose all its pixels.
    assert_grouped(person, person.result.n_stored)
    assert person.result.n_stored > 0.9 * (len(np.unique(person.numbers)) - 1)


def test_earlier_classes_are_hidden_by_later_ones(person: Person) -> None:
    person.show_nuclei()
    person.run()
    first = person.layer
    person.dock.form.set_values(n_classes=2)
    person.run()
    assert person.layer is not first
    assert person.layer.visible and not first.visible
    assert len(person.result.classes) == 2


def test_a_preview_is_colored_and_stays_at_the_settings(person: Person) -> None:
    person.show_nuclei()
    person.dock.preview_button.click()
    person.until(lambda: person.dock.current is None)
    person.until(lambda: person.dock.inspector.desk.book is not None)
    assert person.dock.tabs.currentIndex() == 0
    assert len(person.layer.colormap.map(person.result.objects["id"].to_numpy())) > 20
    assert person.dock.progress.words.text().startswith("Preview: ")


# -- which nuclei ---------------------------------------------------------------------------------------------------------


def listed(picker: NucleiPicker) -> list[str]:
    return [picker.combo.itemText(i) for i in range(picker.combo.count())]


def test_what_could_be_nuclei_is_listed_results_first(person: Person) -> None:
    picker = person.dock.nuclei
    assert listed(picker) == [NONE, FILE, FOLDER]
    person.viewer.add_labels(person.numbers, name="old")
    new = person.viewer.add_labels(person.numbers, name="new")
    assert listed(picker) == ["new", "old", FILE, FOLDER]
    nuclei = person.show_nuclei()
    assert listed(picker)[:3] == [nuclei.name, "new", "old"]
    assert picker.layer == nuclei
    new.name = "newer"
    assert listed(picker)[1] == "newer"
    person.viewer.layers.remove(nuclei)
    assert picker.layer == new


def test_what_is_chosen_stays_chosen(person: Person) -> None:
    picker = person.dock.nuclei
    old = person.viewer.add_labels(person.numbers, name="old")
    person.viewer.add_labels(person.numbers, name="new")
    picker.combo.setCurrentIndex(1)
    picker.combo.activated.emit(1)
    person.show_nuclei()
    assert picker.layer == old


def test_other_labels_of_ours_are_not_listed(person: Person) -> None:
    show_layers(person.viewer, [tissue_layer(TissueMask(np.ones((8, 8), bool), 80.0), person.slide)])
    map_of_classes = stored(person.folder / "map", slide_record(person.slide), person.numbers > 0, None, 1, MPP)
    show_layers(person.viewer, result_layers(map_of_classes))
    person.viewer.add_labels(person.numbers, name="under way", metadata={KEY: {"path": "x", "kind": "labels"}})
    assert listed(person.dock.nuclei) == [NONE, FILE, FOLDER]


def test_nuclei_of_another_slide_are_not_listed(person: Person) -> None:
    first = person.show_nuclei()
    second = person.show_slide("second")
    assert person.dock.header.slide() is second
    assert person.dock.nuclei.choice is None
    other = person.show_nuclei("second", second)
    assert person.dock.nuclei.layer == other
    person.dock.header.slides.setCurrentIndex(person.dock.header.slides.findText("first.svs"))
    assert person.dock.nuclei.layer == first


def test_without_nuclei_a_sentence_says_what_to_do(person: Person) -> None:
    person.dock.run_button.click()
    assert person.said == NO_NUCLEI
    assert not person.engine.calls


def test_too_few_nuclei_are_a_sentence(person: Person) -> None:
    person.viewer.add_labels(np.where(person.numbers <= 2, person.numbers, 0), name="two")
    person.run()
    assert "2" in person.said and "class" in person.said
    assert person.dock.run_button.isEnabled()


def test_a_layer_that_lies_elsewhere_is_a_sentence(person: Person) -> None:
    person.viewer.add_labels(person.numbers, name="elsewhere", translate=(9999, 9999), units=("um", "um"), scale=(MPP, MPP))
    person.dock.run_button.click()
    assert "does not lie over" in person.said


# -- names, and the next slide --------------------------------------------------------------------------------------------


def test_a_new_name_is_in_the_slide_and_on_the_disk(person: Person) -> None:
    person.show_nuclei()
    person.run()
    person.rename(0, "lymphocyte")
    person.until(lambda: "lymphocyte" in set(person.layer.features["class"]))
    assert "lymphocyte" in set(open_result(person.result.path).objects["class"])


def test_saved_classes_name_the_nuclei_of_the_next_slide(person: Person) -> None:
    person.show_nuclei()
    person.run()
    person.rename(0, "lymphocyte")
    classes = {c.name: c.color for c in person.result.classes}
    person.dock.save_classes_to(person.folder / "mine", person.result)
    person.until(lambda: person.dock.models.choice.weights is not None)
    assert person.dock.models.choice.weights == person.folder / "mine.safetensors"
    assert "Saved as" in person.said
    assert not person.dock.form.editor("n_classes").isEnabled()
    second = person.show_slide("second")
    person.show_nuclei("second", second)
    person.run()
    assert person.result.record.slide.name == "second.svs"
    assert {c.name: c.color for c in person.result.classes} == classes
    assert set(person.result.objects["class"]) <= set(classes)
    # Written anew it is listed once.
    count = person.dock.models.combo.count()
    person.dock.save_classes_to(person.folder / "mine.safetensors", person.result)
    person.until(lambda: "Saved as" in person.said)
    assert person.dock.models.combo.count() == count


def test_classes_are_read_once(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    show = ClusterInspector.show_result
    monkeypatch.setattr(ClusterInspector, "show_result", lambda self, *given: (read.append(given), show(self, *given)))
    person.show_nuclei()
    person.run()
    person.dock.tabs.setCurrentIndex(0)
    person.dock.tabs.setCurrentIndex(1)
    assert len(read) == 1


def test_classes_follow_the_chosen_layer(person: Person) -> None:
    dock = person.dock
    dock.tabs.setCurrentIndex(1)
    assert dock.nothing.isVisible() and not dock.inspector.isVisible()
    person.show_nuclei()
    person.run()
    first = person.result
    other = stored(person.folder / "map", slide_record(person.slide), person.numbers > 0, None, 2, MPP)
    layer = show_layers(person.viewer, result_layers(other))[-1]
    person.until(lambda: dock.inspector.desk.result is other)
    person.viewer.layers.remove(layer)
    assert dock.inspector.desk.result is None or dock.inspector.desk.result is first
    person.viewer.layers.selection.active = next(x for x in person.viewer.layers if result_of(x) is first)
    person.until(lambda: dock.inspector.desk.result is first)
    person.viewer.layers.remove(person.layer)
    assert dock.inspector.desk.result is None
    assert dock.nothing.isVisible()


# -- stopping in the middle -----------------------------------------------------------------------------------------------


def stopped_in_the_middle(person: Person) -> Path:
    # Started, looking at the slide, and some tiles.
    person.engine.hold(12)
    person.dock.run_button.click()
    person.until(lambda: person.dock.current is not None and person.dock.current.labels is not None and person.engine.waiting.is_set())
    person.dock.cancel_button.click()
    person.engine.permits.release(10**6)
    person.until(lambda: person.dock.current is None)
    assert "Cancelled" in person.dock.progress.words.text(), person.said
    path: Path = person.engine.calls[0]["out"]
    assert open_result(path).record.status == "cancelled"
    assert person.dock.tabs.currentIndex() == 0
    return path


@pytest.mark.parametrize("source", ["result", "layer", "file"])
@pytest.mark.parametrize("session", ["same", "another"])
def test_a_cancelled_run_goes_on(person: Person, source: str, session: str) -> None:
    if source == "result":
        person.show_nuclei()
    elif source == "layer":
        person.viewer.add_labels(person.numbers, name="mine")
    else:
        person.dock.nuclei.add_file(geojson(person.folder / "cells.geojson", person.numbers))
    person.dock.form.set_values(tile_px=128)
    path = stopped_in_the_middle(person)
    if session == "another":
        person.dock._stopped.clear()
        person.dock._show_state()
    assert person.dock.resume_button.isEnabled()
    person.dock.resume_button.click()
    assert person.dock.current is not None, person.said
    person.until(lambda: person.dock.current is None)
    assert open_result(path).finished, person.said
    assert person.engine.calls[-1]["out"] == path
    assert person.dock.tabs.currentIndex() == 1


def test_looking_at_the_slide_is_told(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histoseg.gui.jobs.PERIOD_S", 0.0)
    heard: list[str] = []
    person.show_nuclei()
    person.dock.form.set_values(tile_px=128)
    show = person.dock.progress.show_progress
    monkeypatch.setattr(person.dock.progress, "show_progress", lambda progress, what="": (heard.append(what), show(progress, what)))
    person.run()
    assert any(words.startswith("Learning from the slide: ") for words in heard)
    assert heard[-1] == ""


def test_a_window_that_is_closed_in_a_run_leaves_what_is_done(person: Person) -> None:
    from napari_histoseg.gui.jobs import stop_all

    person.show_nuclei()
    person.dock.form.set_values(tile_px=128)
    person.engine.hold(12)
    person.dock.run_button.click()
    person.until(lambda: person.dock.current is not None and person.dock.current.labels is not None and person.engine.waiting.is_set())
    person.viewer.close()
    person.engine.permits.release(10**6)
    assert stop_all(120)
    assert open_result(person.engine.calls[0]["out"]).record.status == "cancelled"


# -- learning -------------------------------------------------------------------------------------------------------------


def test_a_network_learns_from_the_chosen_result_and_draws(person: Person) -> None:
    training = person.gan()
    person.dock.tabs.setCurrentIndex(2)
    assert not training.train_button.isEnabled()
    assert training.source.combo.currentText() == NO_RESULT
    person.show_nuclei()
    assert training.train_button.isEnabled()
    training.train_button.click()
    assert training.current is not None, training.progress.message.text()
    person.until_learned()
    person.until(lambda: training.sheet.shown)
    assert not training.progress.message.text()
    assert list(training.curve.losses) == ["critic distance", "mutual information", "class balance"]
    assert training.sheet.isVisible()
    picture = training.sheet.picture.pixmap()
    assert picture.width() / picture.height() == pytest.approx((3 * 42 + 2) / (5 * 42 + 2), rel=0.02)
    model = person.dock.models.choice.weights
    assert model is not None and model.is_file()
    assert model.parent == person.dock.folder.folder / "models"
    person.dock.tabs.setCurrentIndex(0)
    person.run()
    assert_grouped_by(person, "cells-001.safetensors")


def assert_grouped_by(person: Person, file: str) -> None:
    assert person.result.finished, person.said
    assert person.result.record.weights is not None
    assert file in person.dock.models.combo.currentText()


def test_ways_without_a_network_show_no_curve(person: Person) -> None:
    person.show_nuclei()
    training = person.dock.training
    training.form.set_values(method="morphology", device="cpu")
    assert not training.form.editor("steps").isEnabled()
    training.train_button.click()
    person.until_learned()
    assert not training.curve.isVisibleTo(training)
    assert not training.sheet.isVisibleTo(training)
    assert person.dock.models.choice.weights is not None, training.progress.message.text()


def test_learning_waits_and_ends_early(person: Person, trainer: Any) -> None:
    person.show_nuclei()
    training = person.gan(steps=100_000, validate_every=100_000)
    training.engine = trainer
    training.train_button.click()
    person.until(lambda: bool(training.curve.losses))
    trainer.hold(0)
    person.until(trainer.waiting.is_set)
    before = trainer.passed
    training.pause_button.click()
    trainer.permits.release(10**6)
    # The step in hand is finished, and nothing after it.
    person.until(lambda: trainer.passed > before)
    person.qtbot.wait(600)
    assert trainer.passed == before + 1
    count = len(training.curve.losses["critic distance"])
    training.pause_button.click()
    person.until(lambda: len(training.curve.losses["critic distance"]) > count)
    training.stop_button.click()
    person.until_learned()
    assert person.dock.models.choice.weights is not None, training.progress.message.text()


def test_a_cancelled_training_leaves_the_list_alone(person: Person) -> None:
    person.show_nuclei()
    training = person.gan(steps=100_000, validate_every=100_000)
    training.train_button.click()
    person.until(lambda: bool(training.curve.losses))
    training.cancel_button.click()
    person.until_learned()
    assert "Cancelled" in training.progress.words.text()
    assert [choice.title for choice in person.dock.models.choices] == [NEW]


def test_a_folder_can_be_learned_from(person: Person) -> None:
    made = nuclei_result(person.folder / "elsewhere", person.slide, person.numbers)
    training = person.dock.training
    training.source.choose(made.path)
    assert training.dataset == made.path
    training.source.combo.setCurrentIndex(0)
    training.source.combo.activated.emit(0)
    assert training.dataset is None


def test_what_cannot_be_learned_from_is_a_sentence(person: Person) -> None:
    training = person.dock.training
    training.source.choose(person.folder)
    training.train_button.click()
    person.until_learned()
    assert "dataset.json" in training.progress.message.text()


@pytest.mark.parametrize("content", [None, b"nothing"])
def test_there_is_no_sheet_of_a_file_without_a_network(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "gone.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert sheet_of(path) is None
