"""What is learned from: patch datasets and folders of slides with outlines beside them; every problem is named, all at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg._testing_tumour import TUMOUR, tumour_model, write_dataset
from napari_histoseg.annotations.dataset import read_dataset
from napari_histoseg.errors import DatasetError
from napari_histoseg.methods.tumour.outlines import outline_beside
from napari_histoseg.methods.tumour.sheets import Outlined
from napari_histoseg.methods.tumour.slides import Lessons, read_lessons
from napari_histoseg.slide import Box

WIDTH, HEIGHT = 120, 80
STROMA = {"value": 2, "name": "stroma", "color": "#00ff00"}


def save(path: Path, array: np.ndarray) -> str:
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path.name


def mask(value: int = 1) -> np.ndarray:
    """The upper left quarter has the value."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[:40, :60] = value
    return found


def truth(outlined: Outlined, rows: int = 4, columns: int = 4) -> list[list[int]]:
    """The truth on a grid over the part."""
    return outlined.truth((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns).tolist()


QUARTER = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and a mask."""
    for name in "ab":
        save(tmp_path / f"{name}.png", he_image(WIDTH, HEIGHT, seed=1))
    save(tmp_path / "m.png", mask())
    return tmp_path


def lessons(folder: Path, *patches: dict[str, Any], classes: tuple[dict[str, Any], ...] = (TUMOUR,), mpp: float | None = 4.0, **how: Any) -> Lessons:
    """What is read of a dataset with these patches."""
    return read_lessons(write_dataset(folder, patches, classes, mpp), **how)


def refused(folder: Path, *patches: dict[str, Any], **how: Any) -> str:
    """Why a dataset is refused, after the words that all refusals begin with."""
    with pytest.raises(DatasetError) as caught:
        lessons(folder, *patches, **how)
    return str(caught.value).removeprefix(f"{folder} cannot be trained on: ")


# -- a patch dataset ----------------------------------------------------------------------------------------------------


def test_a_mask_over_a_picture_is_its_truth(folder: Path) -> None:
    found = lessons(folder, {"image": "a.png", "mask": "m.png", "grade": 2, "stage": "x", "group": "p 1", "split": "val", "id": "seven"})
    (only,) = found.slides
    assert (only.name, only.group, only.split, only.part) == ("a.png", "p 1", "val", None)
    assert only.labels == {"grade": "2", "stage": "x"}
    assert truth(only) == QUARTER
    with only.open() as slide:
        assert slide.mpp == 4.0 and slide.bounds == Box(0, 0, WIDTH, HEIGHT)
    assert found.notices == [] and len(found.provenance["data_sha256"]) == 64 and found.provenance["name"] == f"tumour ({folder.name})"


def test_masks_of_any_resolution_cover_the_picture(folder: Path) -> None:
    save(folder / "coarse.png", mask()[::20, ::20])
    save(folder / "fine.png", mask().repeat(2, 0).repeat(2, 1))
    for name in ("coarse.png", "fine.png"):
        assert truth(lessons(folder, {"image": "a.png", "mask": name}).slides[0]) == QUARTER


def test_what_is_not_annotated_stays_so(folder: Path) -> None:
    save(folder / "m.png", np.where(mask() == 1, 1, 255))
    assert truth(lessons(folder, {"image": "a.png", "mask": "m.png"}).slides[0], 2, 2) == [[1, 255], [255, 255]]


def test_a_class_for_all_of_a_picture(folder: Path) -> None:
    found = lessons(
        folder, {"image": "a.png", "label": "tumour"}, {"image": "b.png", "label": "stroma"}, {"image": "b.png", "label": ["stroma", "tumour"]}, classes=(TUMOUR, STROMA)
    )
    assert [truth(each, 1, 1) for each in found.slides] == [[[1]], [[0]], [[1]]]
    assert [each.group for each in found.slides] == ["a.png", "b.png", "b.png"]


def test_boxes_of_a_slide_are_parts_of_it(folder: Path) -> None:
    write_svs(folder / "s.svs", he_image(512, 512, seed=1), mpp=2.0)
    found = lessons(folder, *({"slide": "s.svs", "box": [x, 8, WIDTH, HEIGHT], "mask": "m.png"} for x in (0, 200)))
    assert [(each.name, each.part, each.group) for each in found.slides] == [
        ("s.svs at 0, 8", Box(0, 8, WIDTH, HEIGHT), "s.svs"),
        ("s.svs at 200, 8", Box(200, 8, WIDTH, HEIGHT), "s.svs"),
    ]
    assert truth(found.slides[1]) == QUARTER
    with found.slides[0].open() as slide:
        assert slide.mpp == 2.0


def test_test_slides_are_not_learned_from(folder: Path) -> None:
    found = lessons(folder, {"image": "a.png", "mask": "m.png"}, {"image": "b.png", "split": "test"})
    assert [each.name for each in found.slides] == ["a.png"]


@pytest.mark.parametrize(("names", "tumour_class", "value"), [
    (("stroma", "Tumor"), "", 2), (("stroma", "invasive carcinoma"), "", 2), (("fat",), "", 1), (("fat", "muscle"), "muscle", 2), (("tumour", "necrosis"), "necrosis", 2),
])  # fmt: skip
def test_the_class_that_is_the_tumour(folder: Path, names: tuple[str, ...], tumour_class: str, value: int) -> None:
    classes = tuple({"value": i, "name": name} for i, name in enumerate(names, 1))
    save(folder / "m.png", mask(value))
    assert truth(lessons(folder, {"image": "a.png", "mask": "m.png"}, classes=classes, tumour_class=tumour_class).slides[0]) == QUARTER
    if len(names) > 1:
        save(folder / "m.png", mask(3 - value))
        assert not np.any(truth(lessons(folder, {"image": "a.png", "mask": "m.png"}, classes=classes, tumour_class=tumour_class).slides[0]))


def test_without_classes_1_is_the_tumour_and_0_may_be_named(folder: Path) -> None:
    for classes in ((), ({"value": 0, "name": "tumour-free"},)):
        assert truth(lessons(folder, {"image": "a.png", "mask": "m.png"}, classes=classes).slides[0]) == QUARTER


def test_several_classes_that_could_be_the_tumour(folder: Path) -> None:
    patch = {"image": "a.png", "mask": "m.png"}
    fat, muscle = {"value": 1, "name": "fat"}, {"value": 2, "name": "muscle"}
    assert refused(folder, patch, classes=(fat, muscle)) == (
        f"{folder} has 2 classes (fat, muscle), and which of them is the tumour is not clear. Name it in tumour_class."
    )
    both = ({"value": 1, "name": "tumour A"}, {"value": 2, "name": "tumour B"})
    assert "2 classes (tumour A, tumour B)" in refused(folder, patch, classes=both)
    assert refused(folder, patch, classes=both, tumour_class="tumour") == (
        f"{folder} has no class 'tumour' to learn as the tumour. Its classes are: tumour A, tumour B."
    )


def bad(folder: Path, kind: str) -> tuple[dict[str, Any], str]:
    """A patch that cannot be learned from, and what is said of it."""
    if kind == "no outline":
        return {"image": "b.png"}, "The slide b.png has no outline: nothing can be learned from it. Outline its tumour, or leave it out."
    if kind == "shape":
        save(folder / "wide.png", np.zeros((40, 120)))
        text = "The mask wide.png has 120 × 40 pixels and its patch of b.png 120 × 80: their shapes differ. A mask covers exactly its patch."
        return {"image": "b.png", "mask": "wide.png"}, text
    if kind == "mask":
        save(folder / "color.png", np.zeros((HEIGHT, WIDTH, 3)))
        text = f"The mask {folder / 'color.png'} has shape ({HEIGHT}, {WIDTH}, 3) and type uint8. A mask is one plane of whole numbers."
        return {"image": "b.png", "mask": "color.png"}, text
    (folder / "torn.png").write_bytes((folder / "b.png").read_bytes()[:40])
    return {"image": "torn.png", "mask": "m.png"}, str(folder / "torn.png")


BAD = ("no outline", "shape", "mask", "torn")


@pytest.mark.parametrize("kind", BAD)
def test_a_slide_that_cannot_be_learned_from_is_named(folder: Path, kind: str) -> None:
    patch, said = bad(folder, kind)
    told = refused(folder, {"image": "a.png", "mask": "m.png"}, patch)
    assert said in told if kind == "torn" else told == said


def test_all_problems_are_named_at_once(folder: Path) -> None:
    patches, said = zip(*(bad(folder, kind) for kind in BAD), strict=True)
    told = refused(folder, *patches)
    assert all(each in told for each in said)


def test_unreadable_slides_are_left_out_only_when_told_to(folder: Path) -> None:
    patches = [{"image": "a.png", "mask": "m.png"}, *(bad(folder, kind)[0] for kind in ("shape", "torn"))]
    found = lessons(folder, *patches, skip_unreadable=True)
    assert [each.name for each in found.slides] == ["a.png"]
    assert len(found.notices) == 2 and all(notice.startswith("Left out: ") for notice in found.notices)
    assert "wide.png" in found.notices[0] and "torn.png" in found.notices[1]
    # A slide without an outline is no unreadable one: somebody forgot it.
    assert "b.png has no outline" in refused(folder, *patches, {"image": "b.png"}, skip_unreadable=True)


def test_nothing_to_learn_from(folder: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        lessons(folder, {"image": "a.png", "mask": "m.png", "split": "test"})
    assert str(caught.value) == f"{folder} has no annotated slide to learn from. Outline the tumour of at least one slide."


def test_a_slide_without_pixel_size_is_refused(folder: Path) -> None:
    assert refused(folder, {"image": "a.png", "mask": "m.png"}, mpp=None) == (
        'The pixel size of a.png is unknown. Write "mpp" (µm/px) into dataset.json, or "slide_mpp" into its patch.'
    )


def test_a_dataset_that_was_read_is_taken_too_and_may_be_looked_at_through_a_stain(folder: Path) -> None:
    write_dataset(folder, [{"image": "a.png", "mask": "m.png"}])

    class Look:
        def __call__(self, dataset: Any, patch: Any, slide: Any) -> Any:
            return hs.open_slide(255 - slide.read(0, slide.bounds), mpp=slide.mpp)

        def __str__(self) -> str:
            return "inverted"

    found = read_lessons(read_dataset(folder).model_copy(update={"look": Look()}))
    assert found.provenance["stain"] == "inverted"
    with found.slides[0].open() as slide:
        np.testing.assert_array_equal(slide.read(0, slide.bounds), 255 - np.asarray(Image.open(folder / "a.png")))


# -- a folder of slides -------------------------------------------------------------------------------------------------


def areas(*named: tuple[str | None, tuple[int, int, int, int]]) -> dict[str, Any]:
    """QuPath's GeoJSON of boxes with classes."""
    features = []
    for name, (x, y, width, height) in named:
        ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
        properties = {"objectType": "annotation", **({} if name is None else {"classification": {"name": name}})}
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def slide(path: Path, mpp: float | None = 2.0) -> Path:
    """A small slide file that knows its pixel size."""
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, he_image(WIDTH, HEIGHT, seed=1), photometric="rgb", tile=(64, 64), **resolution)
    return path


QUARTER_BOX = (0, 0, 60, 40)


@pytest.mark.parametrize("name", ["one.geojson", "one.tif.geojson", "one.geojson.gz", "ONE.geojson", "one.json", "one-mask.png", "one_mask.tif", "one-labels.png", "one_labels.png"])
def test_outlines_lie_beside_slides_under_their_names(tmp_path: Path, name: str) -> None:
    slide(tmp_path / "one.tif")
    if "json" in name:
        text = json.dumps(areas(("Tumor", QUARTER_BOX))).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    else:
        save(tmp_path / name, mask())
    (tmp_path / "notes.txt").write_text("no slide")
    (tmp_path / ".hidden").write_text("no slide")
    found = read_lessons(tmp_path)
    (only,) = found.slides
    assert (only.name, only.group, only.part) == ("one.tif", "one", None)
    assert truth(only) == QUARTER
    with only.open() as opened:
        assert opened.mpp == pytest.approx(2.0)


def test_geojson_goes_before_masks_and_json_comes_last(tmp_path: Path) -> None:
    path = slide(tmp_path / "one.tif")
    (tmp_path / "one.json").write_text('{"scanner": "x"}')
    save(tmp_path / "one-mask.png", mask())
    assert truth(read_lessons(tmp_path).slides[0]) == QUARTER
    (tmp_path / "one.geojson").write_text(json.dumps(areas(("Tumor", (0, 0, 120, 80)))))
    assert np.all(truth(read_lessons(tmp_path).slides[0]))
    assert outline_beside(path) == tmp_path / "one.geojson"


@pytest.mark.parametrize(
    ("named", "tumour_class", "expected"),
    [
        ([(None, QUARTER_BOX)], "", QUARTER),
        ([("Anything", QUARTER_BOX)], "", QUARTER),
        ([("Tumor", QUARTER_BOX), ("Stroma", (60, 40, 60, 40))], "", QUARTER),
        ([("Stroma", QUARTER_BOX), ("Fat", (60, 40, 60, 40))], "Stroma", QUARTER),
        ([("Tumor", (0, 0, 60, 20)), ("Carcinoma in situ", (0, 20, 60, 20))], "", QUARTER),
        ([("Tumor", QUARTER_BOX), ("Tumor", (60, 40, 60, 40))], "", [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]),
    ],
)
def test_areas_of_geojson(tmp_path: Path, named: Any, tumour_class: str, expected: Any) -> None:
    slide(tmp_path / "one.tif")
    (tmp_path / "one.geojson").write_text(json.dumps(areas(*named)))
    assert truth(read_lessons(tmp_path, tumour_class).slides[0]) == expected


@pytest.mark.parametrize(
    ("named", "tumour_class", "words"),
    [
        ([("Stroma", QUARTER_BOX), ("Fat", QUARTER_BOX)], "", "one.geojson has areas of 2 classes (Fat, Stroma), and which of them is the tumour is not clear. Name it in tumour_class."),
        ([("Stroma", QUARTER_BOX)], "Tumor", "one.geojson has no area of the class 'Tumor'. Its classes are: Stroma."),
        ([(None, QUARTER_BOX)], "Tumor", "one.geojson has no area of the class 'Tumor'. Its classes are: none."),
        ([("Tumor", (500, 0, 60, 40))], "", "The areas of one.geojson lie outside of the slide. Check that they belong together: coordinates are pixels of the finest level."),
    ],
)  # fmt: skip
def test_areas_that_are_not_clear_or_not_on_the_slide(tmp_path: Path, named: Any, tumour_class: str, words: str) -> None:
    slide(tmp_path / "one.tif")
    (tmp_path / "one.geojson").write_text(json.dumps(areas(*named)))
    with pytest.raises(DatasetError) as caught:
        read_lessons(tmp_path, tumour_class)
    assert str(caught.value) == f"{tmp_path} cannot be trained on: {words}"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 255), [[1, 0], [0, 0]]),  # black and white
        ((0, 1), [[1, 0], [0, 0]]),
        ((0, 7), [[1, 0], [0, 0]]),
        ((0, 0), [[0, 0], [0, 0]]),
        ((255, 255), [[255, 255], [255, 255]]),
    ],
)
def test_masks_beside_slides_have_one_class(tmp_path: Path, values: tuple[int, int], expected: Any) -> None:
    slide(tmp_path / "one.tif")
    save(tmp_path / "one-mask.png", np.where(mask() == 1, values[1], values[0]))
    assert truth(read_lessons(tmp_path).slides[0], 2, 2) == expected


def test_a_mask_with_a_class_and_what_is_not_annotated(tmp_path: Path) -> None:
    slide(tmp_path / "one.tif")
    save(tmp_path / "one-mask.png", np.vstack([mask()[:40], np.full((40, WIDTH), 255)]))
    assert truth(read_lessons(tmp_path).slides[0], 2, 2) == [[1, 0], [255, 255]]


def test_all_problems_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    for name in ("alone.tif", "torn.tif", "wide.tif", "unknown.tif"):
        slide(tmp_path / name, None if name == "unknown.tif" else 2.0)
        if name != "alone.tif":
            save(tmp_path / name.replace(".tif", "-mask.png"), mask()[: 40 if name == "wide.tif" else None])
    (tmp_path / "torn.tif").write_bytes(b"II*\0no slide")
    with pytest.raises(DatasetError) as caught:
        read_lessons(tmp_path)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path} cannot be trained on: ")
    for words in (
        "The slide alone.tif has no outline: nothing can be learned from it. Put alone.geojson or alone-mask.png beside it, or leave it out.",
        "The mask wide-mask.png has 120 × 40 pixels and its slide 120 × 80: their shapes differ. A mask covers exactly its slide.",
        'The pixel size of unknown.tif is unknown. List the slides in a patch dataset, and write "mpp" (µm/px) into its dataset.json.',
        str(tmp_path / "torn.tif"),
    ):
        assert words in told
    slide(tmp_path / "good.tif")
    save(tmp_path / "good-mask.png", mask())
    found = read_lessons(tmp_path, skip_unreadable=True)
    assert [each.name for each in found.slides] == ["good.tif"] and len(found.notices) == 4


def test_what_trainings_and_runs_leave_beside_the_slides_is_no_slide(tmp_path: Path) -> None:
    slide(tmp_path / "one.tif")
    save(tmp_path / "one-mask.png", mask())
    for name in ("w.safetensors", "w.curve.csv", "w.draws.csv", "w.safetensors.partial"):
        (tmp_path / name).write_text("x")
    (tmp_path / "w.parts").mkdir()
    (tmp_path / "w.parts" / "settings.json").write_text("{}")
    hs.run("tumour", hs.open_slide(he_image(64, 64), mpp=4.0), out=tmp_path / "result", weights=tumour_model(tmp_path / "v.safetensors"))
    assert [each.name for each in read_lessons(tmp_path).slides] == ["one.tif"]


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist\. Give a patch dataset, or a folder of slides with their outlines"):
        read_lessons(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"has no annotated slide to learn from\. Outline the tumour of at least one slide\."):
        read_lessons(tmp_path)


def test_areas_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    slide(tmp_path / "one.tif")
    slide(tmp_path / "two.tif")
    broken = areas(("Tumor", QUARTER_BOX), ("Tumor", QUARTER_BOX))
    broken["features"][1]["geometry"]["coordinates"] = [[[0, 0], [5, 5]]]
    (tmp_path / "one.geojson").write_text(json.dumps(broken))
    (tmp_path / "two.geojson").write_text(json.dumps(areas()))
    found = read_lessons(tmp_path)
    assert [truth(each) for each in found.slides] == [QUARTER, [[0] * 4] * 4]
    assert len(found.notices) == 2 and found.notices[0].startswith("one.geojson: ")
    assert found.notices[1] == "two.geojson has no area: nothing of its slide is learned as tumour."
