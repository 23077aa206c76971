"""The dock "Joint", driven as a person does: annotate, train, look, correct, map."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import napari
import numpy as np
import pytest
from qtpy.QtTest import QTest

from napari_histoseg import methods
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.gui import annotate, annotateroom, rundock
from napari_histoseg.gui.annotate import AnnotateDock
from napari_histoseg.gui.annotatenew import classes_of
from napari_histoseg.gui.joint import JointDock
from napari_histoseg.gui.layers import KEY, slide_layer
from napari_histoseg.gui.shown import show_layers
from napari_histoseg.gui.training import LiveTraining, Losses, Scored, trainer
from napari_histoseg.gui.trainpanel import fresh_file, models_in
from napari_histoseg.slide import Box, open_slide

SECONDS = 120_000
MPP, MASK_MPP, SIDE = 0.5, 2.0, 64
PURPLE = np.array([120, 60, 150], np.uint8)
FAST = {"steps": 6, "batch": 4, "crop_px": 64, "width": 8, "validate_every": 3, "threads": 1, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose left half is tissue, and whose right half is purple tissue."""
    image = he_image(2048, 1024, seed=4, mpp=MPP, glass=0.0)
    image[:, 1024:] = image[:, 1024:] // 3 + PURPLE // 2
    return write_svs(tmp_path_factory.mktemp("slides") / "two.svs", image, mpp=MPP)


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No imports ahead, and no room is left to the next test."""
    monkeypatch.setattr(methods, "_NAMES", tuple(dict.fromkeys((*methods.names(), "joint"))))
    for each in (rundock, annotate):
        monkeypatch.setattr(each, "warm_up", lambda viewer: None)
    yield
    for room in list(annotateroom.ROOMS):
        room.desk.abandon()
    annotateroom.ROOMS.clear()


class Person:
    """Sits before the window."""

    def __init__(self, viewer: napari.Viewer, qtbot: Any, tmp_path: Path) -> None:
        self.viewer, self.qtbot, self.folder = viewer, qtbot, tmp_path / "glands"
        self.dock = JointDock(viewer)
        viewer.window.add_dock_widget(self.dock, name="Joint")
        self.training, self.desk = self.dock.training, self.dock.panel.desk
        self.training.form.set_values(**FAST)
        self.dock.form.set_values(tile_px=256, device="cpu", precision="float32")
        self.verdict: dict[str, Any] = {"better": True, "message": "The new weights are not worse."}

    def until(self, what: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(what, timeout=SECONDS)

    def annotate(self) -> None:
        """Two painted patches and a classified one on each half, in two groups."""
        assert self.desk.do(lambda: self.desk.create(self.folder, MASK_MPP, classes_of("pink, purple")))
        self.desk.set_patch_px(SIDE)
        session = self.desk.require()
        slide = self.desk.require_slide()
        side = round(SIDE * MASK_MPP / MPP)
        for i, y in enumerate((100, 600)):
            mixed = session.add_mask_patch(slide, Box(1024 - side // 2, y, side, side), group=f"patient {i}")
            mask = np.ones((SIDE, SIDE), np.uint8)
            mask[:, SIDE // 2 :] = 2
            session.set_mask(mixed.id, mask)
            session.add_label_patch(slide, Box(300, y, side, side), 1, group=f"patient {i}")
            session.add_label_patch(slide, Box(1500, y, side, side), 2, group=f"patient {i}")

    def train(self) -> None:
        self.training.train_button.click()
        assert self.training.current is not None, self.training.progress.message.text()
        self.until(lambda: self.training.current is None and not self.dock.busy)

    def points(self) -> int:
        """How many points the lines of the curve have."""
        return sum(map(len, self.training.curve.losses.values()))

    def until_laid_out(self) -> None:
        """The layers of a dataset come one after another."""
        layers = self.desk.layers
        self.until(lambda: layers.paint is not None and layers.patches is not None)

    def layers(self, kind: str) -> list[Any]:
        return [each for each in self.viewer.layers if each.metadata.get(KEY, {}).get("kind") == kind]


@pytest.fixture
def person(make_napari_viewer: Callable[..., napari.Viewer], file: Path, qtbot: Any, tmp_path: Path) -> Person:
    viewer = make_napari_viewer(show=True)
    show_layers(viewer, [slide_layer(open_slide(file))])
    made = Person(viewer, qtbot, tmp_path)
    made.until(lambda: made.desk.slide is not None)
    return made


def test_without_a_dataset_and_a_model_nothing_can_be_pressed(person: Person) -> None:
    assert not person.training.train_button.isEnabled()
    assert not person.dock.run_button.isEnabled()
    assert not person.dock.preview_button.isEnabled()
    assert not person.dock.next.find_button.isEnabled()
    assert person.dock.models.combo.currentText() == "None yet"


def test_what_cannot_be_trained_on_is_a_sentence(person: Person) -> None:
    assert person.desk.do(lambda: person.desk.create(person.folder, MASK_MPP, classes_of("pink, purple")))
    slide = person.desk.require_slide()
    person.desk.require().add_label_patch(slide, Box(300, 100, 256, 256), 1)
    person.train()
    assert "has no patch with a mask" in person.training.progress.message.text()
    assert not models_in(person.folder, "joint")
    assert person.training.train_button.isEnabled()


def test_training_makes_a_model_that_is_put_in_place(person: Person) -> None:
    person.annotate()
    assert person.training.form.editor("mpp").value() == MASK_MPP  # type: ignore[attr-defined]
    person.train()
    (model,) = models_in(person.folder, "joint")
    assert person.training.model == person.dock.models.choice.weights == model
    assert {"segmentation", "classification"} <= set(person.training.curve.losses)
    assert [step for step, _ in person.training.curve.scores] == [3, 6]
    assert model.name in person.training.progress.words.text()
    assert person.dock.run_button.isEnabled()
    person.until(lambda: "would help most" in person.dock.advice.text())


def test_the_view_is_mapped_while_it_learns(person: Person) -> None:
    person.annotate()
    person.train()
    (layer,) = person.layers("labels")
    assert layer.name == "Joint of two.svs preview"
    assert "preview_of" in layer.metadata[KEY]
    person.training.watch.setChecked(False)
    person.training.train_button.click()
    person.until(lambda: person.training.current is None)
    assert person.layers("labels") == [layer]


def test_the_whole_slide_is_mapped_with_names_colors_and_areas(person: Person) -> None:
    person.annotate()
    person.training.watch.setChecked(False)
    person.train()
    person.dock.where.buttons["Whole slide"].setChecked(True)
    person.dock.run_button.click()
    person.until(lambda: person.dock.current is None)
    (layer,) = person.layers("labels")
    assert set(np.unique(np.asarray(layer.data[0]))) <= {0, 1, 2}
    assert layer.features["class"].tolist() == ["background", "pink", "purple"]
    assert person.dock.progress.words.text().startswith("Done: a map of pink, purple.")
    person.until(lambda: "mm²" in person.dock.areas.text())
    assert person.dock.result is not None
    assert person.dock.export_button.isEnabled()


def test_pause_waits_and_stop_keeps_the_best(person: Person, trainer: Any) -> None:
    person.annotate()
    training = person.training
    training.engine = trainer
    training.watch.setChecked(False)
    training.form.set_values(steps=100_000, validate_every=100_000)
    training.train_button.click()
    person.until(lambda: bool(training.curve.losses))
    trainer.hold(0)
    person.until(trainer.waiting.is_set)
    before = trainer.passed
    training.pause_button.click()
    assert training.pause_button.text() == "Continue"
    trainer.permits.release(10**6)
    # The step in hand is finished, and nothing after it.
    person.until(lambda: trainer.passed > before)
    person.qtbot.wait(800)
    assert trainer.passed == before + 1
    count = person.points()
    training.pause_button.click()
    person.until(lambda: person.points() > count)
    training.stop_button.click()
    person.until(lambda: training.current is None)
    assert models_in(person.folder, "joint") == [training.model]


def test_cancel_leaves_the_model_in_use(person: Person) -> None:
    person.annotate()
    person.training.form.set_values(steps=100_000, validate_every=100_000)
    person.training.train_button.click()
    person.until(lambda: bool(person.training.curve.losses))
    person.training.cancel_button.click()
    person.until(lambda: person.training.current is None)
    assert person.training.model is None
    assert "Cancelled" in person.training.progress.words.text()
    assert not models_in(person.folder, "joint")


@pytest.mark.parametrize("use", [False, True])
def test_a_model_that_got_worse_is_not_put_in_place_silently(person: Person, use: bool) -> None:
    person.annotate()
    person.training.watch.setChecked(False)
    person.train()
    first = person.training.model
    person.training._compare = lambda dataset, old, new: {"better": False, "message": f"{new.name} is worse than {old.name}."}
    person.train()
    person.until(lambda: person.training._doubtful is not None)
    assert person.training.model == first
    assert person.training.verdict.text() == "joint-002.safetensors is worse than joint-001.safetensors. The model in use was kept."
    assert person.training.use_button.isVisibleTo(person.training)
    (person.training.use_button if use else person.training.leave_button).click()
    assert person.training.model is not None
    assert person.training.model.stem == ("joint-002" if use else "joint-001")
    assert not person.training.use_button.isVisibleTo(person.training)


def test_a_training_goes_on_from_the_model_in_use(person: Person) -> None:
    person.annotate()
    person.training.watch.setChecked(False)
    given: list[dict[str, Any]] = []

    def heard(*args: Any, **keywords: Any) -> Iterator[Any]:
        given.append(keywords)
        return trainer(*args, **keywords)

    person.training.engine = heard
    person.train()
    person.training.warm.setChecked(True)
    person.train()
    person.until(lambda: "compare" in person.training.verdict.text() or "worse" in person.training.verdict.text())
    assert "start" not in given[0]
    assert Path(given[1]["start"]) == given[0]["out"]


def test_models_of_a_dataset_come_back_with_it(person: Person) -> None:
    person.annotate()
    person.training.watch.setChecked(False)
    person.train()
    folder = person.folder
    assert person.desk.do(lambda: person.desk.create(folder.with_name("other"), MASK_MPP, classes_of("a, b")))
    person.until_laid_out()
    assert person.training.model is None
    assert not person.dock.run_button.isEnabled()
    person.desk.do(lambda: person.desk.open(folder))
    person.until(lambda: person.training.model is not None)
    assert person.dock.models.combo.currentText().startswith("joint-001 (score ")


def test_places_to_annotate_next_are_listed_and_walked(person: Person) -> None:
    person.annotate()
    person.training.watch.setChecked(False)
    person.train()
    queue = person.dock.next
    queue.find_button.click()
    person.until(lambda: queue.current is None)
    assert len(queue.places) > 1, queue.progress.words.text()
    assert queue.list.currentRow() == 0
    center = person.viewer.camera.center
    queue.next_button.click()
    assert queue.list.currentRow() == 1
    assert person.viewer.camera.center != center
    taken = [each.box for each in person.desk.require().patches if each.box is not None]
    assert all(place.box.intersect(box).empty for place in queue.places for box in taken)
    queue.paint_button.click()
    made = person.desk.require().patches[-1]
    assert made.kind == "mask"
    assert made.box is not None
    assert not made.box.intersect(queue.places[1].box).empty


PLACES = [SimpleNamespace(box=Box(200 + 300 * i, 200, 100, 100), disagreement=0.1, classes=("pink",)) for i in range(3)]


def test_the_keys_step_through_the_list_in_sight(person: Person) -> None:
    person.annotate()
    person.until_laid_out()
    queue, desk = person.dock.next, person.desk
    canvas = person.viewer.window._qt_viewer.canvas.native

    def press(key: str) -> tuple[str | None, int]:
        person.viewer.window._qt_window.activateWindow()
        canvas.setFocus()
        person.qtbot.wait(50)
        QTest.keyClick(canvas, key)
        # A button that is pressed by its key lets go after a tenth of a second.
        person.qtbot.wait(200)
        return desk.chosen, queue.list.currentRow()

    queue._fill(PLACES)
    queue.list.setCurrentRow(0)
    ids = [patch.id for patch in desk.patches()]
    person.dock.tabs.setCurrentIndex(0)
    assert [press(key) for key in "..,"] == [(ids[0], 0), (ids[1], 0), (ids[0], 0)]
    person.dock.tabs.setCurrentIndex(1)
    assert [press(key) for key in "..,"] == [(ids[0], 1), (ids[0], 2), (ids[0], 1)]
    # Both in sight: the places, as long as there are any.
    other = AnnotateDock(person.viewer)
    added = person.viewer.window.add_dock_widget(other, name="Annotate", tabify=False)
    person.qtbot.waitUntil(lambda: other.panel.isVisible() and queue.isVisible())
    assert press(".") == (ids[0], 2)
    queue._fill([])
    assert press(".") == (ids[1], -1)
    queue._fill(PLACES)
    assert press(",")[0] == ids[1]
    person.dock.tabs.setCurrentIndex(2)
    assert press(".")[0] == ids[2]
    person.viewer.window.remove_dock_widget(added)


def test_events_of_a_training_arrive_as_points_and_scores(qtbot: Any, tmp_path: Path) -> None:
    from napari_histoseg.gui.training import Lesson
    from napari_histoseg.train.loop import StepDone, Trained, Validated

    threads: set[int] = set()

    def fake(*_: Any, out: Path, **__: Any) -> Iterator[Any]:
        for step in range(1, 5):
            threads.add(threading.get_ident())
            yield StepDone(step, 4, 0.5, 1e-3, 1.0, {"segmentation": 0.3, "classification": 0.2})
        yield Validated(4, {"score": 0.7}, True, out)
        yield Trained(out, {"score": 0.7}, 1.0)

    run = LiveTraining(Lesson("joint", tmp_path, tmp_path / "w.safetensors", {}), fake)
    heard: list[Any] = []
    run.job.said.connect(heard.append)
    with qtbot.waitSignal(run.job.finished, timeout=20_000) as ended:
        run.start()
    assert isinstance(heard[0], Losses)
    assert heard[0].values == pytest.approx({"segmentation": 0.3, "classification": 0.2})
    assert isinstance(heard[-1], Scored)
    assert ended.args[0].weights == tmp_path / "w.safetensors"
    assert threading.get_ident() not in threads


def test_weights_files_are_numbered_and_never_replaced(tmp_path: Path) -> None:
    first = fresh_file(tmp_path, "joint")
    assert first.name == "joint-001.safetensors"
    first.touch()
    assert fresh_file(tmp_path, "joint").name == "joint-002.safetensors"
    assert models_in(tmp_path, "joint") == [first]
