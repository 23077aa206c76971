"""The dock "Tumour", driven as a person does: outlines, training, heatmaps, thresholds, polygons, regions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
import shapely
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_histoseg._testing import write_svs
from napari_histoseg._testing_tumour import MPP, SMALL, tumour_model, tumour_picture
from napari_histoseg.annotations.dataset import read_dataset, read_mask
from napari_histoseg.gui.layers import slide_layer
from napari_histoseg.gui.shown import result_of, show_layers
from napari_histoseg.gui.slides import slide_of
from napari_histoseg.gui.tumour import TumourDock
from napari_histoseg.gui.tumourdraw import CUT, INSIDE
from napari_histoseg.gui.tumourtable import GRADE, NAME, OUTLINE, PATIENT
from napari_histoseg.gui.where import drawn_region
from napari_histoseg.predict.run import iter_run
from napari_histoseg.results import Result, open_result
from napari_histoseg.slide import Slide, open_slide
from napari_histoseg.train.loop import Preparing, StepDone, Trained, Validated

SIDE = 512
SQUARE = [(100, 80), (100, 300), (240, 300), (240, 80)]
"""An outline, corners ``(y, x)`` in level-0 pixels."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides on the disk with a disk of tumour in the middle."""
    made = tmp_path_factory.mktemp("slides")
    for i, name in enumerate("abcd"):
        write_svs(made / f"{name}.svs", tumour_picture(SIDE, seed=i)[0], mpp=MPP)
    return made


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tumour_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def outline_file(slide: Path, corners: list[tuple[int, int]] | None = None, name: str = "Tumor") -> Path:
    """GeoJSON beside a slide."""
    ring = [[x, y] for y, x in corners or [(156, 156), (156, 356), (356, 356), (356, 156)]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}, "properties": {"classification": {"name": name}}}
    path = slide.with_suffix(".geojson")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


class Person:
    """Sits before the window."""

    def __init__(self, viewer: napari.Viewer, folder: Path, qtbot: Any, tmp_path: Path) -> None:
        self.viewer, self.qtbot, self.folder, self.tmp = viewer, qtbot, folder, tmp_path
        self.show_slide("a")
        # As napari does for plugins.
        self.dock = TumourDock(PublicOnlyProxy(viewer))
        self.added = viewer.window.add_dock_widget(self.dock, name="Tumour")
        self.dock.form.set_values(tile_px=32, device="cpu")
        self.dock.where.buttons["Whole slide"].setChecked(True)

    def until(self, what: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(what)

    def click(self, widget: Any) -> None:
        assert widget.isEnabled()
        self.qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)

    def show_slide(self, name: str) -> Slide:
        slide = open_slide(self.folder / f"{name}.svs")
        show_layers(self.viewer, [slide_layer(slide)])
        return slide

    @property
    def said(self) -> str:
        return self.dock.progress.message.text()

    @property
    def slides(self) -> Any:
        return self.dock.slides

    def named(self, name: str) -> Any:
        return next(layer for layer in self.viewer.layers if layer.name == name)

    def line(self, row: int) -> dict[int, str]:
        return {column: self.slides.table.item(row, column).text() for column in range(self.slides.table.columnCount())}

    def draw(self, corners: list[tuple[int, int]], layer: str = "Tumour of a.svs") -> None:
        """As a finished drag with the lasso."""
        self.named(layer).add([np.array(corners, float) - 0.5], shape_type="polygon")
        # A person sees what was drawn before doing anything else.
        self.qtbot.wait(200)

    def outline(self, corners: list[tuple[int, int]] = SQUARE) -> None:
        self.click(self.slides.outline_button)
        self.draw(corners)
        self.until(lambda: self.slides.current.area is not None)

    def kept(self) -> Any:
        """The dataset on the disk, once all was written."""
        self.slides.flush()
        return read_dataset(self.slides.keeper.folder)

    def run(self, model: Path, **settings: Any) -> Result:
        dock = self.dock
        dock.tabs.setCurrentIndex(2)
        if dock.models.choice.weights != model if dock.models.any else True:
            dock.models.add_file(model)
        dock.form.set_values(**settings)
        self.click(dock.run_button)
        assert dock.current is not None, self.said
        self.measured()
        assert dock.heat.result is not None, self.said
        return dock.heat.result

    def measured(self) -> None:
        self.until(lambda: self.dock.current is None)
        self.until(lambda: (self.dock.heat.heat is not None and self.dock.heat.layer("probability") is not None) or bool(self.said))


@pytest.fixture
def person(make_napari_viewer: Callable[..., napari.Viewer], folder: Path, qtbot: Any, tmp_path: Path) -> Person:
    return Person(make_napari_viewer(show=True), folder, qtbot, tmp_path)


# -- outlines -------------------------------------------------------------------------------------------------------------


def test_a_drawn_outline_is_kept_as_a_dataset(person: Person) -> None:
    assert person.line(0)[OUTLINE] == "no outline" and not person.slides.any
    assert person.slides.keeper.folder is None
    person.click(person.slides.outline_button)
    layer = person.named("Tumour of a.svs")
    assert layer.mode == "add_polygon_lasso" and person.viewer.layers.selection.active == layer
    person.draw(SQUARE)
    person.until(lambda: person.slides.keeper.folder is not None)
    assert person.line(0)[OUTLINE] == "0.493 mm²"
    (patch,) = person.kept().patches
    mask = read_mask(person.slides.keeper.folder / patch.mask)
    assert patch.box == (0, 0, SIDE, SIDE) and mask.shape == (SIDE, SIDE)
    assert mask.sum() == 140 * 220 and mask[100:240, 80:300].all()


def test_what_is_cut_out_is_no_tumour(person: Person) -> None:
    person.outline()
    person.click(person.slides.cut_button)
    assert person.named("Tumour of a.svs").feature_defaults["part"].item() == CUT
    person.draw([(150, 150), (150, 200), (200, 200), (200, 150)])
    person.slides.flush()
    assert person.slides.current.area.area == 140 * 220 - 2500
    assert list(person.named("Tumour of a.svs").features["part"]) == [INSIDE, CUT]


def test_deleting_all_shapes_takes_the_outline_back(person: Person) -> None:
    person.outline()
    layer = person.named("Tumour of a.svs")
    layer.selected_data = {0}
    layer.remove_selected()
    person.slides.flush()
    assert person.slides.current.area is None and "no outline" in person.line(0)[OUTLINE]
    assert person.kept().patches[0].mask is None


def test_a_slide_without_tumour_is_said_to_have_none(person: Person) -> None:
    person.click(person.slides.none_button)
    assert person.line(0)[OUTLINE] == "no tumour" and person.slides.any
    assert person.kept().patches[0].label == "no tumour"


def test_grade_patient_and_check_mark_are_kept(person: Person) -> None:
    person.outline()
    table = person.slides.table
    table.item(0, GRADE).setText("2")
    table.item(0, PATIENT).setText("Miller")
    (patch,) = person.kept().patches
    assert patch.model_extra == {"grade": 2} and patch.group == "Miller" and patch.split is None
    table.item(0, NAME).setCheckState(Qt.CheckState.Unchecked)
    assert person.kept().patches[0].split == "test"


def test_drawn_outlines_are_no_regions_to_run_in(person: Person) -> None:
    person.outline()
    assert person.dock.where.regions_layer() is None


def test_an_outline_beside_the_tissue_is_said(person: Person) -> None:
    person.outline([(2, 50), (2, 300), (40, 300), (40, 50)])
    person.until(lambda: "outside the tissue" in person.line(0)[OUTLINE])
    assert person.slides.entries[0].problems


def test_files_come_with_the_outline_beside_them(person: Person, tmp_path: Path) -> None:
    for name in "bc":
        (tmp_path / f"{name}.svs").write_bytes((person.folder / f"{name}.svs").read_bytes())
    outline_file(tmp_path / "b.svs")
    (tmp_path / "x.svs").write_bytes(b"nothing")
    person.slides.add_files([tmp_path / f"{name}.svs" for name in "bcx"])
    person.until(lambda: len(person.slides.entries) == 3)
    assert [person.line(row)[OUTLINE] for row in range(3)] == ["no outline", "0.64 mm²", "⚠ no outline"]
    assert "x.svs" in person.said
    assert [patch.mask is not None for patch in person.kept().patches] == [True, False]


def test_a_dataset_comes_back_with_outlines_to_correct(person: Person) -> None:
    person.outline()
    person.click(person.slides.cut_button)
    person.draw([(150, 150), (150, 200), (200, 200), (200, 150)])
    folder = person.kept().folder
    person.click(person.slides.new_button)
    assert person.slides.keeper.folder is None
    person.until(lambda: not any("Tumour of" in layer.name for layer in person.viewer.layers))
    person.slides.open_dataset(folder)
    person.until(lambda: person.slides.keeper.folder is not None and person.slides.reading is None)
    person.until(lambda: not person.slides.drawings.filling)
    layer = person.named("Tumour of a.svs")
    assert list(layer.features["part"]) == [INSIDE, CUT] and len(layer.data) == 2
    # What is shown is not yet a change; a correction is.
    assert person.slides.current.version == 0
    layer.selected_data = {1}
    layer.remove_selected()
    person.slides.flush()
    assert read_mask(folder / str(read_dataset(folder).patches[0].mask)).sum() == 140 * 220


def test_a_dataset_that_is_open_elsewhere_is_left_alone(person: Person, tmp_path: Path) -> None:
    from napari_histoseg.annotations.session import AnnotationSession

    with AnnotationSession.create(tmp_path / "other", mpp=MPP):
        person.slides.open_dataset(tmp_path / "other")
        person.until(lambda: "open in another window" in person.said)
    assert person.slides.reading is None and len(person.slides.entries) == 1


def test_a_dock_that_is_closed_gives_its_dataset_free(person: Person) -> None:
    from napari_histoseg.annotations.session import AnnotationSession

    person.outline()
    person.slides.table.item(0, GRADE).setText("3")
    person.until(lambda: person.slides.keeper.folder is not None)
    folder = person.slides.keeper.folder
    person.viewer.window.remove_dock_widget(person.added)
    person.until(lambda: person.slides.keeper.folder is None)
    with AnnotationSession.open(folder) as session:
        assert session.dataset.patches[0].model_extra == {"grade": 3}


def test_an_outline_from_a_file_takes_the_place_of_what_was_drawn(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person.outline()
    path = outline_file(tmp_path / "z.svs")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", staticmethod(lambda *a, **k: (str(path), "")))
    person.click(person.slides.import_button)
    person.until(lambda: person.line(0)[OUTLINE] == "0.64 mm²" and not person.slides.drawings.filling)
    assert len(person.named("Tumour of a.svs").data) == 1
    path.write_text("nothing")
    person.click(person.slides.import_button)
    person.until(lambda: "cannot be read as GeoJSON" in person.said)


def test_a_slide_is_taken_out_of_the_list(person: Person) -> None:
    person.outline()
    kept = person.kept()
    assert len(kept.patches) == 1
    person.click(person.slides.remove_button)
    assert person.line(0)[OUTLINE] == "no outline" and not person.slides.any
    person.slides.flush()
    assert not json.loads((kept.folder / "dataset.json").read_text())["patches"]


# -- training -------------------------------------------------------------------------------------------------------------


def train(person: Person, **settings: Any) -> Any:
    training = person.dock.training
    person.dock.tabs.setCurrentIndex(1)
    training.form.set_values(**{**SMALL, "device": "cpu", **settings})
    person.click(training.train_button)
    return training


def add_outlined(person: Person, names: str) -> None:
    for name in names:
        (person.tmp / f"{name}.svs").write_bytes((person.folder / f"{name}.svs").read_bytes())
        outline_file(person.tmp / f"{name}.svs")
    before = len(person.slides.entries)
    person.slides.add_files([person.tmp / f"{name}.svs" for name in names])
    person.until(lambda: len(person.slides.entries) == before + len(names))


def test_everything_wrong_is_said_before_training(person: Person) -> None:
    for name in "bc":
        (person.tmp / f"{name}.svs").write_bytes((person.folder / f"{name}.svs").read_bytes())
    person.slides.add_files([person.tmp / "b.svs", person.tmp / "c.svs"])
    person.until(lambda: len(person.slides.entries) == 3)
    training = train(person)
    assert training.current is None
    assert training.progress.message.text().startswith("b.svs, c.svs have no outline.")


def test_outlined_slides_are_learned_from(person: Person) -> None:
    add_outlined(person, "bcd")
    training = train(person)
    assert training.current is not None, training.progress.message.text()
    assert not training.form.isEnabled()
    person.until(lambda: training.current is None and not person.dock.busy)
    assert training.progress.words.text().startswith("Trained in"), training.progress.message.text()
    weights = person.dock.models.choice.weights
    assert weights is not None and weights.parent == person.slides.keeper.folder / "models"
    assert set(training.curve.losses) <= {"classifier", "cross-fitting", "refiner"}
    # Of both networks that are kept, and of none that just make heatmaps.
    first, *others = [step for step, _ in training.curve.scores]
    assert first == 2 and others and all(step > 6 for step in others)
    assert training.curve.steps == SMALL["steps"] * 3 + SMALL["refine_steps"]
    person.until(lambda: training.worst.pictures.count() > 0)
    count = len(person.viewer.layers)
    training.worst.pictures.itemClicked.emit(training.worst.pictures.item(0))
    person.until(lambda: len(person.viewer.layers) > count)
    assert {layer.name for layer in person.viewer.layers} & {"b.svs", "c.svs", "d.svs"}


def test_a_training_says_what_it_is_doing(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histoseg.gui.jobs.PERIOD_S", 0.0)
    mapped, crossed = threading.Event(), threading.Event()

    def engine(*args: Any, out: Path, **keywords: Any) -> Iterator[Any]:
        yield Preparing("Mapping the slides", 3, 7)
        assert mapped.wait(120)
        yield StepDone(8, 10, 0.5, 1e-3, 1.0, {"fold 1": 0.5})
        assert crossed.wait(120)
        yield Validated(8, {"score": 0.9}, True, out)
        yield StepDone(9, 10, 0.4, 1e-3, 1.0, {"refiner": 0.4})
        yield Validated(9, {"score": 0.7}, True, out)
        yield Trained(out, {"score": 0.7, "classifier": 0.8, "refiner": 0.7}, 1.0)

    person.outline()
    training = person.dock.training
    training.engine = engine
    training.watch.setChecked(False)
    train(person)
    person.until(lambda: training.progress.words.text() == "Mapping the slides: 3 of 7")
    mapped.set()
    person.until(lambda: "8 of 10 · cross-fitting" in training.progress.words.text())
    crossed.set()
    person.until(lambda: training.current is None)
    # A classifier that just makes heatmaps is not scored.
    assert training.curve.scores == [(9, 0.7)]
    assert "classifier 0.800 of held-out patches, outline 0.700 (Dice)" in training.progress.words.text()


def test_a_training_that_is_stopped_keeps_the_best(person: Person) -> None:
    add_outlined(person, "bc")
    training = train(person, steps=100_000, validate_every=2, folds=1)
    training.watch.setChecked(False)
    person.until(lambda: bool(training.curve.scores))
    person.click(training.stop_button)
    person.until(lambda: training.current is None)
    assert person.dock.models.choice.weights is not None, training.progress.message.text()


# -- maps -----------------------------------------------------------------------------------------------------------------


def test_a_slide_is_mapped_and_its_outline_follows_the_slider(person: Person, model: Path) -> None:
    result = person.run(model, outline="smoothed")
    heat = person.dock.heat
    probability, labels = heat.layer("probability"), heat.layer("labels")
    assert probability.visible and labels.contour and labels.name == "Mapped tumour of a.svs"
    values = np.asarray(result.probability)
    person.until(lambda: heat.heat is not None)
    for percent in (30, 70, 50):
        heat.slider.setValue(percent)
        person.until(lambda: heat.naive_box.isChecked())
        inside = values >= percent / 100
        assert heat.naive_box.text() == f"Heatmap ≥ {percent} %: {heat.heat.above(percent / 100) / 1e6:.3g} mm²"
        assert heat.heat.above(percent / 100) == pytest.approx(inside.sum() * result.mpp**2)
    lines = [layer for layer in person.viewer.layers if layer.name == "Heatmap outline"]
    assert len(lines) == 1
    person.until(lambda: len(lines[0].data) == max(1, len(heat.heat.lines(0.5))))
    np.testing.assert_array_equal(lines[0].scale, probability.scale)
    heat.naive_box.click()
    assert not lines[0].visible and labels.visible
    assert heat.outline_box.text() == f"Smoothed outline: {np.asarray(result.labels).sum() * result.mpp**2 / 1e6:.3g} mm²"


def test_the_heatmap_is_seen_before_the_run_ends(person: Person, model: Path, engine: Any) -> None:
    dock = person.dock
    dock.engine = engine
    engine.hold(6)
    dock.models.add_file(model)
    dock.tabs.setCurrentIndex(2)
    person.click(dock.run_button)
    person.until(lambda: dock.current is not None and dock.current.probability is not None and dock.current.probability.visible)
    assert dock.current.probability.name == "Probability of a.svs"
    engine.permits.release(10**6)
    person.measured()
    assert np.asarray(dock.heat.layer("labels").data[0]).any()


def test_refining_takes_the_heatmap_as_it_is(person: Person, model: Path) -> None:
    first = person.run(model, outline="threshold", threshold=0.5)
    calls: list[str] = []
    engine = person.dock.engine

    def counted(*args: Any, **keywords: Any) -> Any:
        for event in engine(*args, **keywords):
            calls.append(type(event).__name__)
            yield event

    person.dock.engine = counted
    person.dock.form.set_values(mc_samples=2)
    person.click(person.dock.heat.refine_button)
    person.until(lambda: person.dock.current is None)
    assert "TileDone" not in calls and "Fitting" in calls, person.said
    second = person.dock.heat.result
    assert second is not None and second.path != first.path and second.record.settings["outline"] == "refined"
    np.testing.assert_array_equal(np.asarray(first.probability), np.asarray(second.probability))
    assert (np.asarray(first.labels) != np.asarray(second.labels)).any()
    assert second.uncertainty is not None and np.asarray(second.uncertainty).any()
    person.until(lambda: person.dock.heat.layer("uncertainty") is not None)
    band = person.dock.heat.layer("uncertainty")
    assert not band.visible
    person.until(person.dock.heat.band_box.isEnabled)
    person.dock.heat.band_box.click()
    assert band.visible
    # As a run that refines from the beginning.
    slide = open_slide(person.folder / "a.svs")
    whole = list(iter_run("tumour", slide, weights=model, settings=type(person.dock.form.values()).parse(second.record.settings)))[-1].result
    np.testing.assert_array_equal(np.asarray(whole.labels), np.asarray(second.labels))


def test_a_model_that_cannot_refine_leaves_nothing_behind(person: Person, tmp_path: Path) -> None:
    plain = tumour_model(tmp_path / "plain.safetensors", refiner="none")
    person.run(plain)
    before = sorted(person.dock.folder.folder.iterdir())
    person.click(person.dock.heat.refine_button)
    person.until(lambda: person.dock.current is None)
    assert "has no network that refines" in person.said
    assert sorted(person.dock.folder.folder.iterdir()) == before
    assert not person.dock.resume_button.isEnabled()


def test_the_outline_becomes_polygons_that_are_measured_and_exported(person: Person, model: Path, tmp_path: Path) -> None:
    result = person.run(model)
    heat = person.dock.heat
    person.click(heat.polygons_button)
    person.until(lambda: bool(heat.edited.text()) and not heat.drawings.filling)
    layer = person.named("Outline of a.svs")
    area = heat.drawings.area(layer, person.named("a.svs"))
    assert area.area * MPP**2 == pytest.approx(np.asarray(result.labels).sum() * result.mpp**2, rel=0.05)
    assert not heat.layer("labels").visible
    layer.data = [np.array(SQUARE, float) - 0.5]
    assert heat.edited.text() == "Polygons: 1 area, 0.493 mm²"
    heat.export_to(tmp_path / "out.geojson")
    person.until(lambda: "Wrote" in person.said)
    from napari_histoseg.annotations.geojson import read_geojson

    (region,) = read_geojson(tmp_path / "out.geojson")
    assert region.class_name == "Tumor" and region.geometry.area == pytest.approx(140 * 220)
    heat.export_to(tmp_path / "out.txt")
    person.until(lambda: "another extension" in person.said)


def test_the_outline_is_a_region_for_every_method(person: Person, model: Path) -> None:
    result = person.run(model)
    heat = person.dock.heat
    for _ in range(2):
        # Twice is the same as once.
        person.dock.progress.say("")
        person.click(heat.region_button)
        person.until(lambda: "drawn as regions" in person.said and not heat.drawings.filling)
        shapes = person.dock.where.regions_layer()
        image = person.named("a.svs")
        region = drawn_region(shapes, image, slide_of(image))
        assert region.area * MPP**2 == pytest.approx(np.asarray(result.labels).sum() * result.mpp**2, rel=0.05)
    assert person.dock.where.choice == "Drawn regions"


def test_a_map_is_taken_as_an_outline_to_be_corrected(person: Person, model: Path) -> None:
    result = person.run(model)
    person.dock.tabs.setCurrentIndex(0)
    person.click(person.slides.take_button)
    person.until(lambda: person.slides.current.area is not None and not person.slides.drawings.filling)
    assert person.slides.current.area.area * MPP**2 == pytest.approx(np.asarray(result.labels).sum() * result.mpp**2, rel=0.05)
    assert len(person.named("Tumour of a.svs").data)


def test_an_opened_result_is_looked_at(person: Person, model: Path) -> None:
    result = person.run(model, mc_samples=2)
    path = result.path
    for layer in [x for x in person.viewer.layers if result_of(x) is not None]:
        person.viewer.layers.remove(layer)
    assert person.dock.heat.result is None and not person.dock.heat.refine_button.isEnabled()
    person.dock.show_result(path)
    heat = person.dock.heat
    person.until(lambda: heat.heat is not None)
    assert heat.result is not None and heat.result.path == path
    assert heat.layer("probability").visible and heat.layer("labels").contour and not heat.layer("uncertainty").visible
    assert open_result(path).finished


def test_a_preview_is_not_kept(person: Person, model: Path) -> None:
    person.dock.models.add_file(model)
    person.dock.tabs.setCurrentIndex(2)
    person.click(person.dock.preview_button)
    person.until(lambda: person.dock.current is None)
    person.until(lambda: person.dock.progress.words.text().startswith("Preview: "))
    assert not list(person.dock.folder.folder.glob("*.histoseg"))


def test_shapes_of_a_large_outline_come_back_whole(person: Person) -> None:
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = shapely.Polygon(np.column_stack([256 + 120 * np.cos(angle), 256 + 120 * np.sin(angle)]))
    person.slides._replace(circle)
    person.until(lambda: not person.slides.drawings.filling)
    layer = person.named("Tumour of a.svs")
    assert list(layer.shape_type) == ["path"]
    back = person.slides.drawings.area(layer, person.named("a.svs"))
    assert back.symmetric_difference(circle).area < 1e-6 * circle.area
