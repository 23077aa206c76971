"""The dock "Tissue", driven as a person does: maps, names, the next slide, training labels, learning from several slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_histoseg import methods
from napari_histoseg._testing import he_tissue, write_svs
from napari_histoseg.annotations.dataset import UNLABELED, PatchDataset, load_patch, read_dataset, write_dataset
from napari_histoseg.annotations.frommap import Wanted
from napari_histoseg.gui.inspectorlist import NAME as NAME_COLUMN
from napari_histoseg.gui.layers import slide_layer
from napari_histoseg.gui.shown import result_of, show_layers
from napari_histoseg.gui.tissue import NEW, TissueDock
from napari_histoseg.gui.tissueslides import ANOTHER, written
from napari_histoseg.gui.uselabels import LabelsDialog
from napari_histoseg.results import Result, open_result
from napari_histoseg.slide import Slide, open_slide

SECONDS = 120_000
MPP, WIDTH, HEIGHT = 0.5, 640, 512
SEEDS = {"first": 3, "second": 9}
FAST = {"n_classes": 3, "device": "cpu", "sample": 4, "sample_px": 256}
NET = {**FAST, "variant": "paper", "steps": 4, "validate_every": 2, "width": 4, "start_classes": 4, "crop_px": 64, "superpixels": 500, "least_classes": 0}


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two slides on the disk; the right half is darker tissue."""
    folder = tmp_path_factory.mktemp("slides")
    made = {}
    for name, seed in SEEDS.items():
        image, _ = he_tissue(WIDTH, HEIGHT, seed=seed, mpp=MPP)
        image[:, WIDTH // 2 :] = (image[:, WIDTH // 2 :] * np.array([0.6, 0.5, 0.8])).astype(np.uint8)
        made[name] = write_svs(folder / f"{name}.svs", image, mpp=MPP)
    return made


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method is listed."""
    monkeypatch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "tissue"))))


class Person:
    """Sits before the window."""

    def __init__(self, viewer: napari.Viewer, slides: dict[str, Path], qtbot: Any, tmp_path: Path, engine: Any) -> None:
        self.viewer, self.qtbot, self.folder, self.slides = viewer, qtbot, tmp_path, slides
        self.slide = self.show_slide("first")
        # As napari does for plugins.
        self.dock = TissueDock(PublicOnlyProxy(viewer))
        self.added = viewer.window.add_dock_widget(self.dock, name="Tissue")
        self.engine = self.dock.engine = engine
        self.dock.form.set_values(**FAST, tile_px=256, patch_um=16.0)
        self.dock.where.buttons["Whole slide"].setChecked(True)

    def until(self, what: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(what, timeout=SECONDS)

    def click(self, widget: Any) -> None:
        self.qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)

    def show_slide(self, name: str) -> Slide:
        slide = open_slide(self.slides[name])
        show_layers(self.viewer, [slide_layer(slide)])
        return slide

    def run(self) -> None:
        """Press Run, and wait until the classes are there and counted."""
        self.click(self.dock.run_button)
        assert self.dock.current is not None, self.said
        self.until(lambda: self.dock.current is None)
        self.until(lambda: (self.dock.inspector.desk.book is not None and self.words.startswith("Done")) or bool(self.said))

    @property
    def said(self) -> str:
        return self.dock.progress.message.text()

    @property
    def words(self) -> str:
        return self.dock.progress.words.text()

    @property
    def result(self) -> Result:
        assert self.dock.result is not None, self.said
        return self.dock.result

    @property
    def layer(self) -> Any:
        return next(x for x in self.viewer.layers if result_of(x) is self.result and type(x).__name__ == "Labels")

    def rename(self, row: int, name: str) -> None:
        item = self.dock.inspector.bar.list.item(row, NAME_COLUMN)
        assert item is not None
        item.setText(name)

    def learn(self, **settings: Any) -> Any:
        """Press Train and wait until it is over, the last preview included."""
        training = self.dock.training
        self.dock.tabs.setCurrentIndex(2)
        training.form.set_values(**settings)
        self.click(training.train_button)
        assert training.current is not None, training.progress.message.text()
        self.until(lambda: training.current is None and not self.dock.busy)
        return training


def item_of(rows: Any, row: int) -> Any:
    """An entry of a list."""
    return rows.item(row)


@pytest.fixture
def person(make_napari_viewer: Callable[..., napari.Viewer], slides: dict[str, Path], qtbot: Any, tmp_path: Path, engine: Any) -> Person:
    return Person(make_napari_viewer(show=True), slides, qtbot, tmp_path, engine)


# -- maps -----------------------------------------------------------------------------------------------------------------


def test_a_slide_is_mapped_and_its_classes_are_shown(person: Person) -> None:
    person.run()
    assert person.words.startswith("Done: 3 classes: cluster ")
    assert " mm² (" in person.words
    assert f"Result: {person.result.path}" in person.words
    assert person.dock.tabs.tabText(person.dock.tabs.currentIndex()) == "Classes"
    assert person.dock.inspector.isVisible() and not person.dock.nothing.isVisible()
    assert person.dock.save_button.isEnabled() and person.dock.labels_button.isEnabled()
    labels = np.asarray(person.result.labels)
    assert set(np.unique(labels)) == {1, 2, 3}
    # The halves are different tissue.
    left, right = (np.bincount(half.ravel(), minlength=4).argmax() for half in np.split(labels, 2, axis=1))
    assert left != right


def test_a_preview_is_not_kept(person: Person) -> None:
    person.click(person.dock.preview_button)
    person.until(lambda: person.dock.current is None)
    person.until(lambda: person.words.startswith("Preview: "))
    assert person.words.endswith("it is not kept.")
    assert person.dock.tabs.currentIndex() == 0
    assert not list(person.dock.folder.folder.glob("*.histoseg"))


def test_what_the_run_has_to_say_is_seen(make_napari_viewer: Any, slides: dict[str, Path], qtbot: Any, tmp_path: Path, engine: Any) -> None:
    flat = write_svs(tmp_path / "flat.svs", np.full((HEIGHT, WIDTH, 3), (200, 120, 180), np.uint8), mpp=MPP)
    person = Person(make_napari_viewer(show=True), {**slides, "first": flat}, qtbot, tmp_path, engine)
    person.click(person.dock.run_button)
    person.until(lambda: person.dock.current is None)
    assert "1 kind could be told apart, not 3" in person.said
    assert person.dock.progress.message.isVisible()


def test_a_cancelled_run_goes_on(person: Person) -> None:
    person.dock.form.set_values(tile_px=128)
    person.engine.hold(14)
    person.click(person.dock.run_button)
    person.until(lambda: person.dock.current is not None and person.dock.current.labels is not None and person.engine.waiting.is_set())
    person.click(person.dock.cancel_button)
    person.engine.permits.release(10**6)
    person.until(lambda: person.dock.current is None)
    path: Path = person.engine.calls[0]["out"]
    assert open_result(path).record.status == "cancelled", person.said
    person.click(person.dock.resume_button)
    person.until(lambda: person.dock.current is None)
    assert open_result(path).finished, person.said


def test_settings_of_other_methods_cannot_be_changed(person: Person) -> None:
    form = person.dock.form
    for variant, used in (("improved", "window_um"), ("kmeans", "smooth_um"), ("fuzzy_cmeans", "fuzziness"), ("paper", "net_steps")):
        form.set_values(variant=variant)
        enabled = {name for name in ("window_um", "smooth_um", "fuzziness", "net_steps") if form.editor(name).isEnabled()}
        assert enabled == {used}
    assert not form.editor("crf_weight").isEnabled()
    form.set_values(crf=True)
    assert form.editor("crf_weight").isEnabled()


# -- the next slide -------------------------------------------------------------------------------------------------------


def test_saved_classes_name_the_tissue_of_the_next_slide(person: Person) -> None:
    person.run()
    person.rename(0, "stroma")
    person.until(lambda: person.result.classes[0].name == "stroma")
    named = {c.name: c.color for c in person.result.classes}
    person.dock.save_classes_to(person.folder / "mine", person.result)
    person.until(lambda: person.dock.models.choice.weights is not None)
    assert person.dock.models.choice.weights == person.folder / "mine.safetensors"
    assert "Saved as" in person.said
    form = person.dock.form
    assert not form.editor("n_classes").isEnabled() and not form.editor("variant").isEnabled()
    person.dock.progress.say("")
    person.show_slide("second")
    person.run()
    assert person.result.record.slide.name == "second.svs", person.said
    assert {c.name: c.color for c in person.result.classes} == named
    # New classes again: what was entered before is back.
    person.dock.models.combo.setCurrentIndex(0)
    person.dock.models.combo.activated.emit(0)
    assert form.editor("n_classes").isEnabled()
    assert form.values().model_dump()["n_classes"] == 3


# -- training labels ------------------------------------------------------------------------------------------------------


def paint(person: Person, wanted: Wanted, folder: Path) -> None:
    person.dock.use_labels_in(person.result, folder, wanted)
    person.until(lambda: not person.dock.busy)


def test_named_classes_become_training_labels(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    person.run()
    person.rename(0, "stroma")
    person.until(lambda: person.result.classes[0].name == "stroma")

    def accepted(dialog: LabelsDialog) -> bool:
        assert [item_of(dialog.classes, row).checkState() == Qt.CheckState.Checked for row in range(3)] == [True, False, False]
        dialog.folder.setText(str(person.folder / "set"))
        dialog.side.setValue(24)
        dialog.per_class.setValue(4)
        return True

    monkeypatch.setattr(LabelsDialog, "exec", accepted)
    person.click(person.dock.labels_button)
    person.until(lambda: not person.dock.busy)
    assert "4 patches were painted" in person.words, person.said
    dataset = read_dataset(person.folder / "set")
    assert [c.name for c in dataset.classes] == ["stroma"]
    labels = np.asarray(person.result.labels)
    value = person.result.classes[0].value
    for patch in dataset.patches:
        _, mask, _ = load_patch(dataset, patch)
        assert patch.box is not None and mask is not None
        x, y, width, height = patch.box
        assert set(np.unique(mask)) <= {value, UNLABELED} and (mask == value).any()
        assert (labels[y : y + height, x : x + width][mask == value] == value).all()


def test_training_labels_are_added_to_the_dataset_that_is_open(person: Person) -> None:
    from napari_histoseg.gui.annotateroom import room_of

    person.run()
    wanted = Wanted((1, 2), per_class=2, side_um=24)
    desk = room_of(person.viewer).desk
    desk.create(person.folder / "set", 1.0)
    paint(person, wanted, person.folder / "set")
    assert desk.session is not None and len(desk.session.patches) == 4, person.said
    assert len(desk.patches()) == 4
    desk.close()
    paint(person, wanted, person.folder / "set")
    assert len(read_dataset(person.folder / "set").patches) == 8, person.said


def test_labels_that_cannot_be_are_a_sentence(person: Person) -> None:
    person.run()
    paint(person, Wanted(()), person.folder / "set")
    assert "No class was chosen" in person.said
    result = person.result
    person.viewer.layers.remove(next(x for x in person.viewer.layers if x.name == "first.svs"))
    person.dock.use_labels_in(result, person.folder / "set", Wanted((1,)))
    assert "is not open" in person.said
    assert not (person.folder / "set").exists()


# -- learning -------------------------------------------------------------------------------------------------------------


def test_classes_are_learned_from_several_slides(person: Person) -> None:
    training = person.dock.training
    person.show_slide("second")
    assert [item_of(training.source.list, row).text() for row in range(2)] == ["first.svs", "second.svs"]
    person.learn(**FAST)
    assert training.progress.words.text().startswith("Learned 3 classes"), training.progress.message.text()
    assert not training.curve.isVisible() and not training.counts.isVisible()
    model = person.dock.models.choice.weights
    assert model is not None and model.parent == person.dock.folder.folder / "models"
    dataset = read_dataset(person.dock.folder.folder / "tissue training")
    assert [Path(str(p.slide)).name for p in dataset.patches] == ["first.svs", "second.svs"]
    assert all(p.box == (0, 0, WIDTH, HEIGHT) and p.mask is None and p.label is None for p in dataset.patches)
    person.dock.tabs.setCurrentIndex(0)
    person.run()
    assert person.result.record.weights is not None
    assert person.result.record.weights.name in person.dock.models.choice.title


def test_a_network_is_watched_while_it_learns(person: Person) -> None:
    training = person.learn(**NET)
    assert training.curve.isVisible() and training.counts.isVisible()
    assert list(training.curve.losses) == ["loss of the classes", "reconstruction"]
    assert training.counts.losses["classes"]
    assert training.curve.scores
    # The view was mapped as the network saw it.
    assert person.engine.calls and all(call["weights"] == person.dock.models.choice.weights for call in person.engine.calls)
    assert any("preview" in layer.name for layer in person.viewer.layers)
    assert person.dock.tabs.currentIndex() == 2


def test_a_network_that_is_stopped_keeps_the_best(person: Person) -> None:
    training = person.dock.training
    person.dock.tabs.setCurrentIndex(2)
    training.watch.setChecked(False)
    training.form.set_values(**{**NET, "steps": 100_000, "validate_every": 5})
    person.click(training.train_button)
    person.until(lambda: bool(training.curve.scores))
    assert not training.source.isEnabled() and not training.form.isEnabled()
    person.click(training.stop_button)
    person.until(lambda: training.current is None)
    assert person.dock.models.choice.weights is not None, training.progress.message.text()
    assert not person.engine.calls


def test_a_cancelled_training_leaves_the_list_alone(person: Person) -> None:
    training = person.dock.training
    person.dock.tabs.setCurrentIndex(2)
    training.form.set_values(**{**NET, "steps": 100_000, "validate_every": 100_000})
    person.click(training.train_button)
    person.until(lambda: bool(training.curve.losses))
    person.click(training.cancel_button)
    person.until(lambda: training.current is None)
    assert "Cancelled" in training.progress.words.text()
    assert [choice.title for choice in person.dock.models.choices] == [NEW]


def test_slides_are_chosen_and_added(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    training = person.dock.training
    source = training.source
    person.viewer.add_image(np.zeros((64, 64, 3), np.uint8), name="drawn by hand", rgb=True)
    assert [each.name for each in source.chosen] == ["first.svs"]
    # What comes from no file cannot be checked.
    assert not item_of(source.list, 1).flags() & Qt.ItemFlag.ItemIsEnabled
    item_of(source.list, 0).setCheckState(Qt.CheckState.Unchecked)
    assert not training.train_button.isEnabled()
    nothing = person.folder / "nothing.svs"
    nothing.write_bytes(b"nothing")
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", staticmethod(lambda *a, **k: ([str(person.slides["second"]), str(nothing)], "")))
    person.dock.tabs.setCurrentIndex(2)
    person.click(source.add_button)
    person.until(lambda: source.list.count() == 3)
    assert [each.name for each in source.chosen] == ["second.svs"]
    assert "nothing.svs" in training.progress.message.text()
    assert training.train_button.isEnabled()


def test_only_drawn_regions_are_learned_from(person: Person) -> None:
    source = person.dock.training.source
    source.drawn.setChecked(True)
    person.dock.training.train()
    assert "No region is drawn" in person.dock.training.progress.message.text()
    person.dock.where.start_drawing()
    shapes = person.dock.where.regions_layer()
    assert shapes is not None
    for x in (10, 200):
        shapes.add([[10, x], [10, x + 60], [70, x + 60], [70, x]], shape_type="rectangle")
    dataset = read_dataset(source.folder(person.folder, 0.5))
    assert len(dataset.patches) == 2
    assert all(p.box is not None and abs(p.box[2] - 120) <= 2 and abs(p.box[3] - 120) <= 2 for p in dataset.patches)


def test_a_patch_dataset_is_learned_from(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    source = person.dock.training.source
    folder = source.folder(person.folder, MPP)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", staticmethod(lambda *a, **k: str(folder)))
    source.combo.activated.emit(source.combo.findText(ANOTHER))
    assert source.dataset == folder
    assert not source.list.isVisibleTo(source)
    training = person.learn(**FAST, variant="kmeans")
    assert person.dock.models.choice.weights is not None, training.progress.message.text()
    assert person.dock.models.choice.model == "kmeans"


def test_a_list_of_slides_never_takes_the_place_of_another(person: Person) -> None:
    patches = person.dock.training.source.chosen[0].patches([person.slide.bounds])
    dataset = PatchDataset.model_validate({"mpp": MPP, "patches": patches})
    other = PatchDataset.model_validate({"mpp": 1.0, "patches": patches})
    home = person.folder / "home" / "tissue training"
    assert written(home, dataset) == home
    assert written(home, dataset) == home
    assert written(home, other) == home.with_name("tissue training-2")
    (home / "dataset.json").write_text("painted by hand")
    assert written(home, dataset) == home.with_name("tissue training-3")
    assert (home / "dataset.json").read_text() == "painted by hand"
    write_dataset(home, dataset)
