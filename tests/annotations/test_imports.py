"""Annotations from elsewhere: areas from QuPath over their slide, folders of pictures with masks or by class."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.dataset import PatchClass, load_patch, read_dataset
from napari_histoseg.annotations.imports import import_folder, import_geojson
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError, StorageError
from napari_histoseg.slide import Box, Slide, open_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    file = write_svs(tmp_path_factory.mktemp("slide") / "s.svs", he_image(512, 512, seed=1), mpp=0.5, size=(4096, 2048))
    with open_slide(file) as slide:
        yield slide


@pytest.fixture
def session(tmp_path: Path) -> Iterator[AnnotationSession]:
    with AnnotationSession.create(tmp_path / "d", mpp=1.0, classes=[PatchClass(value=1, name="gland")]) as session:
        yield session


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def area(points: Any, name: str | None = None, color: Any = None) -> dict[str, Any]:
    kind = {} if name is None else {"classification": {"name": name, "color": color or [1, 2, 3]}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [points]}, "properties": kind}


def geojson(folder: Path, *areas: dict[str, Any]) -> Path:
    path = folder / "drawn.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": areas}))
    return path


def picture(path: Path, pixels: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)
    return path


# -- GeoJSON ------------------------------------------------------------------------------------------------------------


def test_a_small_area_lies_in_the_middle_of_a_patch(session: AnnotationSession, slide: Slide, tmp_path: Path) -> None:
    report = import_geojson(session, slide, geojson(tmp_path, area(square(1000, 1000, 100), "gland")))
    (patch,) = report.added
    assert patch.box == Box(794, 794, 512, 512) and patch.shape == (256, 256) and patch.patch.group == "s" and report.notices == ()
    mask = session.mask(patch.id)
    assert (mask[103:153, 103:153] == 1).all() and (mask == 255).sum() == 256**2 - 50**2


def test_classes_are_made_with_their_colors(session: AnnotationSession, slide: Slide, tmp_path: Path) -> None:
    import_geojson(session, slide, geojson(tmp_path, area(square(0, 0, 100), "gland"), area(square(0, 200, 100), " Tumor ", [200, 0, 16])))
    assert [(c.value, c.name, c.color) for c in session.classes] == [(1, "gland", "#3cb44b"), (2, "Tumor", "#c80010")]
    assert len(session.patches) == 1
    assert session.undo() == "Undid: 1 patch imported from drawn.geojson."
    assert session.patches == () and len(session.classes) == 1


def test_a_large_area_is_covered_side_by_side(session: AnnotationSession, slide: Slide, tmp_path: Path) -> None:
    import_geojson(session, slide, geojson(tmp_path, area(square(0, 0, 1200), "gland")), patch_um=128)
    boxes = [p.box for p in session.patches if p.box is not None]
    assert len(boxes) == 25 and all(b.width == b.height == 256 for b in boxes)
    assert shapely.union_all([shapely.box(b.x, b.y, b.right, b.bottom) for b in boxes]).covers(shapely.box(0, 0, 1200, 1200))


def test_what_lies_around_is_unlabeled_or_background(session: AnnotationSession, slide: Slide, tmp_path: Path) -> None:
    path = geojson(tmp_path, area(square(1000, 1000, 100), "gland"))
    (patch,) = import_geojson(session, slide, path, outside="background").added
    assert set(np.unique(session.mask(patch.id))) == {0, 1}
    again = import_geojson(session, slide, path)
    assert again.added == () and again.notices == ("1 place is painted already and stayed as it was.",)


def test_a_class_of_value_0_is_painted_as_the_background_it_names(session: AnnotationSession, slide: Slide, tmp_path: Path) -> None:
    session.add_class("glass", value=0)
    (patch,) = import_geojson(session, slide, geojson(tmp_path, area(square(1000, 1000, 100), "glass"))).added
    assert (session.mask(patch.id) == 0).sum() == 2500 and (session.mask(patch.id) == 255).sum() == 256**2 - 2500


def test_what_was_left_out_is_said(session: AnnotationSession, slide: Slide, tmp_path: Path) -> None:
    areas = [area(square(0, 0, 10), "gland"), area(square(0, 0, 9)), area(square(0, 0, 9), "Ignore*"), area(square(9000, 0, 9), "gland")]
    report = import_geojson(session, slide, geojson(tmp_path, *areas, {"type": "Point", "coordinates": [1, 2]}))
    assert report.notices == (
        "Feature 4: it is a Point, no area, and was left out.",
        "2 areas have no class and were left out.",
        "1 area lies outside s.svs and was left out.",
    )


@pytest.mark.parametrize(
    ("areas", "settings", "message"),
    [
        ([], {}, "has no area with a class on s.svs. Give the areas classes in QuPath, and choose their own slide here."),
        ([area(square(0, 0, 9))], {}, "on s.svs. 1 area has no class and was left out."),
        ([area(square(9000, 0, 9), "a")], {}, "1 area lies outside s.svs"),
        ([area(square(0, 0, 9), "a")], {"patch_um": 5}, "Patches of 5 µm have 5 px at 1 µm/px; they may have 8 to 4096. Choose 8 to 4096 µm."),
        ([area(square(0, 0, 9), "a")], {"patch_um": float("nan")}, "Patches of nan µm have 0 px"),
    ],
)
def test_a_file_that_gives_nothing_is_said(
    session: AnnotationSession, slide: Slide, tmp_path: Path, areas: list[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        import_geojson(session, slide, geojson(tmp_path, *areas), **settings)
    assert message in str(caught.value) and session.patches == () and session.can_undo is None


boxes = st.lists(st.tuples(st.integers(-100, 4000), st.integers(-100, 2000), st.integers(20, 900), st.sampled_from("ab")), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(drawn=boxes)
def test_every_drawn_pixel_on_the_slide_is_painted_with_its_class(slide: Slide, tmp_path_factory: pytest.TempPathFactory, drawn: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("any")
    expected = np.zeros((1024, 2048), np.uint8)
    areas = []
    for x, y, side, name in drawn:
        areas.append(area(square(x * 2, y * 2, side * 2), name))
        expected[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = "ab".index(name) + 1
    if not expected.any():
        return
    with AnnotationSession.create(folder / "d", mpp=1.0, classes=[PatchClass(value=i + 1, name=n) for i, n in enumerate("ab")]) as session:
        painted = np.zeros_like(expected)
        for patch in import_geojson(session, slide, geojson(folder, *areas)).added:
            assert patch.box is not None and patch.box.intersect(slide.bounds) == patch.box
            rows, columns = Box(patch.box.x // 2, patch.box.y // 2, *(patch.shape or (0, 0))[::-1]).slices
            mask = session.mask(patch.id)
            if patch.box.x % 2 == 0 and patch.box.y % 2 == 0:
                np.testing.assert_array_equal(np.where(mask == 255, 0, mask), expected[rows, columns])
            painted[rows, columns] = np.maximum(painted[rows, columns], mask != 255)
        assert (painted == (expected > 0)).mean() > 0.995


# -- folders of pictures and masks --------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three pictures; two with masks, of values 1 and 3."""
    for i, name in enumerate("abc"):
        picture(tmp_path / "from" / "images" / f"{name}.png", he_image(40, 30, seed=i))
    mask = np.full((30, 40), 255, np.uint8)
    mask[:10], mask[10:20] = 1, 3
    for name in "ab":
        picture(tmp_path / "from" / "masks" / f"{name}.png", mask)
    return tmp_path / "from"


def test_pictures_come_with_their_masks(session: AnnotationSession, source: Path) -> None:
    report = import_folder(session, source, mpp=1.0, group_of=lambda path: f"patient {path.stem}")
    assert [(p.id, p.kind, p.patch.group, p.box) for p in report.added] == [
        ("p0001", "mask", "patient a", None),
        ("p0002", "mask", "patient b", None),
        ("p0003", "unlabeled", "patient c", None),
    ]
    assert report.notices == (
        "1 picture has no mask and was added without annotation.",
        "Value 3 of the masks had no class and is now 'class 3'. Rename it in the list of classes.",
    )
    assert (session.folder / "images" / "p0001.png").read_bytes() == (source / "images" / "a.png").read_bytes()
    assert session.image("p0003").shape == (30, 40, 3) and session.counts()[1].painted_px == 800
    dataset = read_dataset(session.folder)
    image, mask, mpp = load_patch(dataset, dataset.patches[0])
    assert mask is not None and image.shape[:2] == mask.shape == (30, 40) and mpp == 1.0


def test_an_imported_folder_is_undone_and_redone(session: AnnotationSession, source: Path) -> None:
    import_folder(session, source)
    shutil.rmtree(source)
    assert session.undo() == "Undid: 3 pictures imported from from." and session.patches == ()
    session.redo()
    session.close()
    with AnnotationSession.open(session.folder) as again:
        assert len(again.patches) == 3 and (again.mask("p0001")[0] == 1).all() and again.image("p0001").shape == (30, 40, 3)


def test_values_are_translated(session: AnnotationSession, source: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[:5] = 255
    for name in "ab":
        picture(source / "masks" / f"{name}.png", mask)
    with pytest.raises(DatasetError, match="The masks hold only 0 and 255, and 255 means not annotated"):
        import_folder(session, source)
    import_folder(session, source, values={255: 1})
    assert {c.value: c.painted_px for c in session.counts()} == {0: 2000, 1: 400}
    with pytest.raises(DatasetError, match="Masks hold 0 to 255; values= has 300"):
        import_folder(session, source, values={300: 1})


def test_every_problem_of_a_folder_is_listed_and_nothing_is_added(session: AnnotationSession, source: Path) -> None:
    picture(source / "masks" / "a.png", np.zeros((3, 4), np.uint8))
    picture(source / "masks" / "b.png", np.full((30, 40), 700, np.uint16))
    picture(source / "masks" / "x.png", np.zeros((3, 4), np.uint8))
    picture(source / "images" / "a.jpg", he_image(40, 30))
    (source / "images" / "d.png").write_bytes(b"no picture")
    picture(source / "masks" / "d.png", np.zeros((3, 4), np.uint8))
    with pytest.raises(DatasetError) as caught:
        import_folder(session, source)
    said = str(caught.value)
    for problem in (
        "from has 5 problems, and nothing was added: ",
        "images has both a.jpg and a.png: which of them is meant?",
        "The mask x.png belongs to no picture.",
        "The mask a.png has 4 x 3 px and its picture 40 x 30.",
        "b.png holds values up to 700.",
        "The picture d.png cannot be read",
    ):
        assert problem in said
    assert session.patches == () and {p.name for p in session.folder.iterdir()} == {".lock", "dataset.json"}


def test_numbered_objects_are_not_taken_for_classes(session: AnnotationSession, source: Path) -> None:
    picture(source / "masks" / "a.png", (np.arange(1200).reshape(30, 40) % 200).astype(np.uint8))
    with pytest.raises(DatasetError, match="these seem to number single objects"):
        import_folder(session, source)


def test_one_folder_a_class(session: AnnotationSession, tmp_path: Path) -> None:
    for name in ("gland", "stroma"):
        for i in range(2):
            picture(tmp_path / "from" / name / f"{name} {i}.png", he_image(20, 20, seed=i))
    (tmp_path / "from" / "notes").mkdir()
    report = import_folder(session, tmp_path / "from")
    assert [(p.patch.label, p.value, p.patch.group) for p in report.added] == [
        ("gland", 1, "gland 0"),
        ("gland", 1, "gland 1"),
        ("stroma", 2, "stroma 0"),
        ("stroma", 2, "stroma 1"),
    ]
    (tmp_path / "from" / "gland" / "broken.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"has 1 problem, and nothing was added: The picture broken\.jpg cannot be read"):
        import_folder(session, tmp_path / "from")


def test_a_folder_of_another_kind_is_said(session: AnnotationSession, source: Path) -> None:
    with pytest.raises(DatasetError, match="has neither the folders 'images' and 'masks' nor one folder of pictures for each class"):
        import_folder(session, source / "images")
    with pytest.raises(DatasetError, match="has no folder 'images'"):
        import_folder(session, source / "masks", kind="masks")
    with pytest.raises(DatasetError, match="holds no pictures"):
        import_folder(session, source / "masks", kind="classes")
    with pytest.raises(DatasetError, match="is no folder"):
        import_folder(session, source / "none")
    with pytest.raises(DatasetError, match=r"The pictures have 0\.5 µm/px and the dataset 1\. Bring them into a dataset of their own"):
        import_folder(session, source, mpp=0.5)


def test_a_disk_that_fills_up_during_an_import_leaves_nothing(session: AnnotationSession, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if str(target).endswith("p0002.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(StorageError, match="the disk is full"):
            import_folder(session, source)
    assert session.patches == () and not list(session.folder.rglob("*.png")) and session.can_undo is None
    assert len(import_folder(session, source).added) == 3


# -- progress and cancel --------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """Somebody cancelled."""


class Steps:
    """Hears how far an import is, and stops it after so many pieces."""

    def __init__(self, stop: int = -1) -> None:
        self.heard: list[tuple[int, int]] = []
        self._stop = stop

    def __call__(self, done: int, total: int) -> None:
        if len(self.heard) == self._stop:
            raise StoppedError
        self.heard.append((done, total))


def areas_apart(folder: Path) -> Path:
    return geojson(folder, *(area(square(900 * i + 300, 200, 100), "tumor") for i in range(4)))


def pictures_by_class(folder: Path) -> Path:
    for i in range(4):
        picture(folder / "from" / "ab"[i % 2] / f"{i}.png", he_image(20, 16, seed=i))
    return folder / "from"


def pictures_with_masks(folder: Path) -> Path:
    for i in range(4):
        picture(folder / "from" / "images" / f"{i}.png", he_image(20, 16, seed=i))
        picture(folder / "from" / "masks" / f"{i}.png", np.ones((16, 20), np.uint8))
    return folder / "from"


IMPORTS = {"geojson": areas_apart, "classes": pictures_by_class, "masks": pictures_with_masks}


def bring(kind: str, session: AnnotationSession, slide: Slide, source: Path, steps: Steps) -> Any:
    return import_geojson(session, slide, source, step=steps) if kind == "geojson" else import_folder(session, source, step=steps)


@pytest.mark.parametrize("kind", list(IMPORTS))
def test_an_import_says_how_far_it_is(session: AnnotationSession, slide: Slide, tmp_path: Path, kind: str) -> None:
    steps = Steps()
    assert len(bring(kind, session, slide, IMPORTS[kind](tmp_path), steps).added) == 4
    shares = [done / total for done, total in steps.heard]
    assert shares[0] == 0 and shares == sorted(shares) and 0.8 < shares[-1] < 1 and len(set(shares)) == len(shares)


@pytest.mark.parametrize("kind", list(IMPORTS))
def test_an_import_can_be_stopped_at_any_step_and_leaves_nothing(session: AnnotationSession, slide: Slide, tmp_path: Path, kind: str) -> None:
    source = IMPORTS[kind](tmp_path)
    for stop in range(30):
        before = session.dataset
        try:
            bring(kind, session, slide, source, Steps(stop))
        except StoppedError:
            assert session.dataset is before and session.can_undo is None
            assert not [p for folder in ("masks", "images") for p in (session.folder / folder).glob("*")]
            with AnnotationSession.open(shutil.copytree(session.folder, tmp_path / f"copy {stop}", ignore=lambda *_: [".lock"])) as copy:
                assert copy.patches == ()
        else:
            break
    assert len(session.patches) == 4 and stop >= 8
