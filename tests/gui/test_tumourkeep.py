"""Annotated slides of tumour: what is wrong with them, and the dataset that they are kept in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import skimage.io

from napari_histoseg._testing import he_tissue, write_svs
from napari_histoseg.annotations.dataset import FILE_NAME, read_dataset, read_mask
from napari_histoseg.errors import DatasetError
from napari_histoseg.gui.lessons import Known
from napari_histoseg.gui.tumourentry import (
    NO_MPP,
    NO_OUTLINE,
    OUTSIDE,
    Entry,
    read_file,
    read_outline,
    wrong_with,
)
from napari_histoseg.gui.tumourkeep import Keeper
from napari_histoseg.methods.tumour.outlines import outline_beside
from napari_histoseg.methods.tumour.slides import read_lessons
from napari_histoseg.slide import Box, open_slide

MPP, WIDTH, HEIGHT = 1.0, 600, 400
SQUARE = shapely.box(100, 80, 300, 240)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides on the disk; the right third of each is glass."""
    folder = tmp_path_factory.mktemp("slides")
    for name, seed in (("a", 1), ("b", 2)):
        image, _ = he_tissue(WIDTH, HEIGHT, seed=seed, mpp=MPP)
        image[:, 400:] = 245
        write_svs(folder / f"{name}.svs", image, mpp=MPP)
    return folder


def geojson(path: Path, *shapes: shapely.Geometry, name: str = "Tumor") -> Path:
    features = [{"type": "Feature", "geometry": json.loads(shapely.to_geojson(s)), "properties": {"classification": {"name": name}}} for s in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def entry(files: Path, name: str = "a", area: shapely.Geometry | None = SQUARE) -> Entry:
    made = read_file(files / f"{name}.svs")
    if area is not None:
        made.draw(area)
    return made


def keeper(home: Path, *entries: Entry) -> Keeper:
    made = Keeper({each.key: each for each in entries})
    made.shot()(home)
    return made


def test_what_is_kept_can_be_trained_on(files: Path, tmp_path: Path) -> None:
    drawn, empty = entry(files, "a"), entry(files, "b", shapely.MultiPolygon())
    drawn.grade, empty.patient = "2", "Smith"
    kept = keeper(tmp_path, drawn, empty)
    assert kept.folder == tmp_path / "tumour slides"
    dataset = read_dataset(kept.folder)
    first, second = dataset.patches
    assert first.box == (0, 0, WIDTH, HEIGHT) and first.slide_mpp == MPP and first.model_extra == {"grade": 2} and first.group == "a"
    assert second.label == "no tumour" and second.mask is None and second.group == "Smith"
    mask = read_mask(kept.folder / str(first.mask))
    assert mask.shape == (HEIGHT // 4, WIDTH // 4)
    assert mask.sum() == 200 * 160 / 16
    lessons = read_lessons(kept.folder)
    middle = np.array([0.5])
    assert [each.truth(np.array([0.4]), np.array([0.3]))[0, 0] for each in lessons.slides] == [1, 0]
    assert lessons.slides[0].truth(middle, middle + 0.4)[0, 0] == 0
    assert lessons.slides[0].labels == {"grade": "2"}
    kept.forget()


def test_a_dataset_is_opened_and_changed(files: Path, tmp_path: Path) -> None:
    kept = keeper(tmp_path, entry(files, "a"), entry(files, "b"))
    folder = kept.folder
    assert folder is not None
    with pytest.raises(DatasetError, match="open in another window"):
        Keeper().read(folder)
    kept.forget()
    again = Keeper()
    again.read(folder)()
    first, second = again.entries.values()
    assert first.area is not None and first.area.symmetric_difference(SQUARE).area < 4 * shapely.length(SQUARE)
    assert first.outline == "1 area, 0.032 mm²" and first.chosen and first.patient == "" and not first.problems
    before = (folder / "masks/p0001.png").read_bytes()
    second.draw(None)
    first.chosen, first.grade = False, "high"
    again.shot()(tmp_path)
    dataset = read_dataset(folder)
    assert dataset.patches[0].split == "test" and dataset.patches[0].model_extra == {"grade": "high"}
    assert dataset.patches[1].mask is None and not (folder / "masks/p0002.png").exists()
    assert (folder / "masks/p0001.png").read_bytes() == before
    del again.entries[second.key]
    first.chosen = True
    again.shot()(tmp_path)
    (patch,) = read_dataset(folder).patches
    assert patch.split is None
    again.forget()


def test_what_else_a_mask_says_stays(files: Path, tmp_path: Path) -> None:
    mask = np.zeros((100, 150), np.uint8)
    mask[20:60, 25:75], mask[:, 100:], mask[80:, :20] = 3, 255, 2
    home = tmp_path / "set"
    (home / "masks").mkdir(parents=True)
    skimage.io.imsave(home / "masks/other.png", mask, check_contrast=False)
    patch = {"slide": str(files / "a.svs"), "box": [0, 0, WIDTH, HEIGHT], "mask": "masks/other.png", "split": "val", "hospital": "north"}
    classes = [{"value": 2, "name": "stroma"}, {"value": 3, "name": "Carcinoma"}]
    (home / FILE_NAME).write_text(json.dumps({"version": 1, "classes": classes, "patches": [patch], "source": "me"}))
    kept = Keeper()
    kept.read(home)()
    (line,) = kept.entries.values()
    line.draw(shapely.box(100, 80, 200, 240), line.rest)
    kept.shot()(tmp_path)
    dataset = read_dataset(home)
    (patch_now,) = dataset.patches
    assert dataset.model_extra == {"source": "me"} and patch_now.split == "val" and patch_now.model_extra == {"hospital": "north"}
    now = read_mask(home / str(patch_now.mask))
    assert (now[20:60, 25:50] == 3).all() and (now[20:60, 50:75] == 0).all()
    assert (now[:, 100:] == 255).all() and (now[80:, :20] == 2).all()
    assert (read_mask(home / "masks/other.png") == mask).all()
    kept.forget()


def test_an_older_list_never_takes_the_place_of_a_newer_one(files: Path, tmp_path: Path) -> None:
    line = entry(files)
    kept = keeper(tmp_path, line)
    line.grade = "1"
    old = kept.shot()
    line.grade = "2"
    kept.shot()(tmp_path)
    old(tmp_path)
    assert read_dataset(tmp_path / "tumour slides").patches[0].model_extra == {"grade": 2}
    kept.forget()
    assert keeper(tmp_path, entry(files)).folder == tmp_path / "tumour slides 2"


def test_a_slide_that_was_taken_out_before_it_was_written_is_not_written_later(files: Path, tmp_path: Path) -> None:
    line = entry(files)
    kept = Keeper({line.key: line})
    old = kept.shot()
    line.listed = False
    kept.shot()(tmp_path)
    old(tmp_path)
    assert kept.folder is None and not list(tmp_path.iterdir())


def test_a_list_without_annotation_writes_nothing(tmp_path: Path, files: Path) -> None:
    with open_slide(files / "a.svs") as slide:
        open_one = Entry.of(Known.of(slide))
    assert keeper(tmp_path / "home", open_one).folder is None
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("area", "mpp", "problems"),
    [
        (SQUARE, 1.0, []),
        (None, 1.0, [NO_OUTLINE]),
        (None, None, [NO_OUTLINE, NO_MPP]),
        (shapely.box(450, 50, 590, 300), 1.0, [OUTSIDE]),
        (shapely.MultiPolygon(), 1.0, []),
    ],
)
def test_what_is_wrong_with_a_slide_is_said(files: Path, area: shapely.Geometry | None, mpp: float | None, problems: list[str]) -> None:
    line = entry(files, area=area)
    line.known = Known(line.known.name, line.known.path, line.known.bounds, mpp, line.known.fingerprint)
    assert line.problems == problems


def test_everything_wrong_is_said_at_once(files: Path) -> None:
    first, second = entry(files, area=None), entry(files, "b", shapely.box(450, 50, 590, 300))
    sentences = wrong_with([first, second])
    assert len(sentences) == 2 and sentences[0].startswith("a.svs has no outline") and sentences[1].startswith("b.svs is outlined outside")
    first.chosen = second.chosen = False
    assert "No slide is chosen" in wrong_with([first, second])[0]
    assert "None of the chosen slides has tumour" in wrong_with([entry(files, area=shapely.MultiPolygon())])[0]


# -- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.geojson", "a.svs.geojson", "a-mask.png", "a_labels.png", "a.geojson.gz"])
def test_an_outline_beside_a_slide_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "b.geojson").write_bytes(b"")
    assert outline_beside(tmp_path / "a.svs") == tmp_path / name
    assert outline_beside(tmp_path / "c.svs") is None


def test_outlines_are_read_from_geojson_and_masks(tmp_path: Path) -> None:
    bounds = Box(0, 0, WIDTH, HEIGHT)
    area, rest = read_outline(geojson(tmp_path / "x.geojson", SQUARE, shapely.box(500, 0, 900, 100)), bounds)
    assert area.area == pytest.approx(200 * 160 + 100 * 100) and rest is None
    mask = np.zeros((100, 150), np.uint8)
    mask[20:60, 25:75] = 255
    skimage.io.imsave(tmp_path / "m.png", mask, check_contrast=False)
    area, rest = read_outline(tmp_path / "m.png", bounds)
    assert area.bounds == (100, 80, 300, 240) and rest is None
    mask[20:60, 25:75], mask[:10] = 1, 255
    skimage.io.imsave(tmp_path / "n.png", mask, check_contrast=False)
    area, rest = read_outline(tmp_path / "n.png", bounds)
    assert area.bounds == (100, 80, 300, 240)
    assert rest is not None and (rest[:10] == 255).all() and (rest[10:] == 0).all()


def test_outlines_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    bounds = Box(0, 0, WIDTH, HEIGHT)
    with pytest.raises(DatasetError, match="outside of the slide"):
        read_outline(geojson(tmp_path / "x.geojson", shapely.box(5000, 5000, 6000, 6000)), bounds)
    skimage.io.imsave(tmp_path / "m.png", np.zeros((100, 100), np.uint8), check_contrast=False)
    with pytest.raises(DatasetError, match="their shapes differ"):
        read_outline(tmp_path / "m.png", bounds)
    geojson(tmp_path / "y.geojson", SQUARE, name="necrosis")
    with pytest.raises(DatasetError, match="no area of the class 'tumour'"):
        read_outline(tmp_path / "y.geojson", bounds, "tumour")


def test_a_broken_outline_beside_a_slide_is_said_in_its_line(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes((files / "a.svs").read_bytes())
    (tmp_path / "a.geojson").write_text("nothing")
    line = read_file(path)
    assert line.area is None and "cannot be read as GeoJSON" in line.problems[0]
    geojson(tmp_path / "a.geojson", SQUARE)
    assert read_file(path).outline == "1 area, 0.032 mm²"


def test_a_slide_that_is_gone_is_named(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.svs"
    path.write_bytes((files / "a.svs").read_bytes())
    line = read_file(path)
    line.draw(SQUARE)
    kept = keeper(tmp_path, line)
    folder = kept.folder
    assert folder is not None
    kept.forget()
    path.unlink()
    kept.read(folder)()
    (line,) = kept.entries.values()
    assert line.name == "gone.svs" and "cannot be read" in line.problems[0] and line.area is not None
    kept.shot()(tmp_path)
    assert read_dataset(folder).patches[0].slide_fingerprint is not None
    kept.forget()
