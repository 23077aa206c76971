"""An annotation session: what a call changed is on the disk, can be undone, and comes back when it is opened again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.dataset import UNLABELED, PatchClass, load_patch, read_dataset
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.annotations.work import Changed
from napari_histoseg.errors import DatasetError, PixelSizeError
from napari_histoseg.slide import Box, Slide, open_slide

GLAND = PatchClass(value=1, name="gland", color="#ff0000")
STROMA = PatchClass(value=2, name="stroma", color="#0000ff")


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svs(tmp_path_factory.mktemp("slide") / "case 7.svs", he_image(1024, 768, seed=1), mpp=0.5)


@pytest.fixture
def slide(slide_file: Path) -> Iterator[Slide]:
    with open_slide(slide_file) as slide:
        yield slide


@pytest.fixture
def session(tmp_path: Path) -> Iterator[AnnotationSession]:
    with AnnotationSession.create(tmp_path / "d", mpp=2.0, classes=[GLAND, STROMA]) as session:
        yield session


def reopened(session: AnnotationSession) -> AnnotationSession:
    """The same folder in another session."""
    session.close()
    return AnnotationSession.open(session.folder)


def half(session: AnnotationSession, id: str, value: int = 1) -> np.ndarray:
    """The patch's mask with its upper half painted."""
    mask = session.mask(id)
    mask[: mask.shape[0] // 2] = value
    return mask


# -- patches ------------------------------------------------------------------------------------------------------------


def test_a_new_patch_is_all_unlabeled_at_the_datasets_resolution(session: AnnotationSession, slide: Slide) -> None:
    patch = session.add_mask_patch(slide, Box(100, 80, 256, 128))
    assert (patch.id, patch.kind, patch.box, patch.shape, patch.mpp) == ("p0001", "mask", Box(100, 80, 256, 128), (32, 64), 2.0)
    assert patch.patch.group == "case 7" and patch.slide_fingerprint == slide.fingerprint()
    assert (session.mask(patch.id) == UNLABELED).all() and session.mask(patch.id).shape == (32, 64)
    assert session.image(patch.id).shape == (32, 64, 3)


def test_everything_comes_back_in_place(session: AnnotationSession, slide: Slide) -> None:
    painted = session.add_mask_patch(slide, Box(0, 0, 256, 256), group="patient 1")
    labeled = session.add_label_patch(slide, Box(300, 0, 128, 128), 2)
    empty = session.add_label_patch(slide, Box(500, 0, 128, 128), None)
    mask = half(session, painted.id)
    session.set_mask(painted.id, mask)
    session.set_split(painted.id, "val")
    before, counts = session.patches, session.counts()
    with reopened(session) as again:
        assert again.patches == before and again.counts() == counts and again.classes == (GLAND, STROMA)
        assert [p.kind for p in again.patches] == ["mask", "label", "unlabeled"]
        np.testing.assert_array_equal(again.mask(painted.id), mask)
        assert again.patch(labeled.id).value == 2 and again.patch(empty.id).value is None
        np.testing.assert_array_equal(again.image(painted.id), session.image(painted.id))


def test_training_reads_what_was_painted_on_the_very_pixels(session: AnnotationSession, slide: Slide) -> None:
    patch = session.add_mask_patch(slide, Box(101, 53, 250, 190))
    session.set_mask(patch.id, half(session, patch.id))
    dataset = read_dataset(session.folder)
    image, mask, mpp = load_patch(dataset, dataset.patches[0])
    np.testing.assert_array_equal(image, session.image(patch.id))
    np.testing.assert_array_equal(mask, session.mask(patch.id))
    assert mpp == pytest.approx(patch.mpp)


def test_labels_are_set_and_taken_back(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_label_patch(slide, Box(0, 0, 64, 64), None).id
    session.set_label(id, 2)
    assert session.patch(id).kind == "label" and session.patch(id).patch.label == "stroma"
    session.set_label(id, None)
    assert session.patch(id).kind == "unlabeled"
    session.set_coarse(id, 3)
    assert session.patch(id).kind == "coarse"


def test_a_patch_can_have_several_classes(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_label_patch(slide, Box(0, 0, 64, 64), 2).id
    assert session.toggle_label(id, 1) == (2, 1)
    assert session.patch(id).patch.label == ("stroma", "gland") and session.patch(id).value == 2
    assert [c.label_patches for c in session.counts()] == [1, 1]
    assert session.can_undo == "class 'gland' added to p0001"
    session.rename_class(1, "crypt")
    with reopened(session) as again:
        assert again.patch(id).patch.label == ("stroma", "crypt")
        with pytest.raises(DatasetError, match=r"The class 'crypt' is used by 1 labeled patch\."):
            again.remove_class(1)
        assert again.toggle_label(id, 2) == (1,) and again.patch(id).patch.label == "crypt"
        assert again.toggle_label(id, 1) == () and again.patch(id).kind == "unlabeled"
        again.undo()
        again.undo()
        assert again.patch(id).values == (2, 1)
        again.set_label(id, 1)
        assert again.patch(id).values == (1,)
        both = again.add_label_patch(slide, Box(100, 0, 64, 64), [1, 2])
        assert both.values == (1, 2)
        painted = again.add_mask_patch(slide, Box(200, 0, 64, 64)).id
        with pytest.raises(DatasetError, match="is painted, so it has no class of its own"):
            again.toggle_label(painted, 1)


def test_patches_that_overlap_are_noticed(session: AnnotationSession, slide: Slide) -> None:
    assert session.add_mask_patch(slide, Box(0, 0, 100, 100)).notice is None
    assert session.add_label_patch(slide, Box(0, 0, 100, 100), 1).notice is None
    again = session.add_mask_patch(slide, Box(50, 50, 100, 100))
    assert again.notice == "It overlaps p0001: pixels in both count twice in training."


def test_a_removed_patch_takes_its_mask_along(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_mask_patch(slide, Box(0, 0, 100, 100)).id
    session.remove(id)
    assert session.patches == () and not list((session.folder / "masks").iterdir())
    assert json.loads((session.folder / "dataset.json").read_text())["patches"] == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box(5000, 0, 10, 10), "does not lie on case 7.svs (1024 x 768 px)"),
        (Box(0, 0, 0, 10), "does not lie on"),
        (Box(0, 0, 256, 256), "Patch p0001 is exactly there already."),
        (Box(0, 0, 40000, 100), "A patch of 10000 x 25 px is too large to paint in: its sides may have 4096 px at 2 µm/px."),
    ],
)
def test_impossible_places_are_refused(session: AnnotationSession, slide: Slide, box: Box, message: str) -> None:
    session.add_mask_patch(slide, Box(0, 0, 256, 256))
    with pytest.raises(DatasetError) as caught:
        session.add_mask_patch(slide, box)
    assert message in str(caught.value) and len(session.patches) == 1


def test_a_slide_must_have_a_pixel_size_a_file_and_detail(session: AnnotationSession, slide: Slide) -> None:
    with pytest.raises(DatasetError, match="comes from no file"):
        session.add_mask_patch(open_slide(he_image(64, 64), mpp=0.5), Box(0, 0, 64, 64))
    with pytest.raises(PixelSizeError, match="8 µm/px; this dataset is painted at 2 µm/px"):
        session.add_mask_patch(slide.with_mpp(8), Box(0, 0, 64, 64))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((3, 4), np.uint8), "The mask for p0001 has 4 x 3 px; it must have 64 x 64 px."),
        (np.full((64, 64), 9, np.uint8), "holds 9, which no class has. It may hold 0 (background), 1 (gland), 2 (stroma), 255 (not annotated)."),
        (np.full((64, 64), -1), "holds -1, which no class has."),
        (np.full((64, 64), -1, np.int8), "holds -1, which no class has."),
        (np.full((64, 64), 300), "holds 300, which no class has."),
        (np.zeros((64, 64)), "has type float64. A mask holds whole numbers."),
    ],
)
def test_impossible_masks_are_refused(session: AnnotationSession, slide: Slide, mask: np.ndarray, message: str) -> None:
    id = session.add_mask_patch(slide, Box(0, 0, 256, 256)).id
    with pytest.raises(DatasetError) as caught:
        session.set_mask(id, mask)
    assert message in str(caught.value) and (session.mask(id) == UNLABELED).all()


def test_a_patch_is_either_painted_or_has_a_class(session: AnnotationSession, slide: Slide) -> None:
    painted = session.add_mask_patch(slide, Box(0, 0, 256, 256)).id
    labeled = session.add_label_patch(slide, Box(0, 0, 256, 256), 1).id
    with pytest.raises(DatasetError, match="Patch p0001 is painted"):
        session.set_label(painted, 1)
    with pytest.raises(DatasetError, match="Patch p0002 is not painted"):
        session.set_mask(labeled, np.zeros((1, 1), np.uint8))
    with pytest.raises(DatasetError, match="There is no patch p0009"):
        session.remove("p0009")
    with pytest.raises(DatasetError, match="cannot have split='both'"):
        session.set_split(labeled, "both")  # type: ignore[arg-type]


def test_a_closed_session_writes_nothing(session: AnnotationSession, slide: Slide) -> None:
    session.close()
    with pytest.raises(DatasetError, match=r"was closed, and another window may have it by now\. Open it again"):
        session.add_mask_patch(slide, Box(0, 0, 256, 256))
    with pytest.raises(DatasetError, match="was closed"):
        session.add_class("new")
    session.close()


# -- classes ------------------------------------------------------------------------------------------------------------


def test_classes_are_added_renamed_recolored_and_removed(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_label_patch(slide, Box(0, 0, 64, 64), 1).id
    assert session.add_class("tumor").value == 3
    assert session.add_class("background", value=0).value == 0
    session.rename_class(1, "benign gland")
    session.recolor_class(1, "#123456")
    session.remove_class(3)
    assert [(c.value, c.name) for c in session.classes] == [(0, "background"), (1, "benign gland"), (2, "stroma")]
    assert session.patch(id).patch.label == "benign gland" and session.classes[1].color == "#123456"


def test_a_class_in_use_stays(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_mask_patch(slide, Box(0, 0, 256, 256)).id
    session.set_mask(id, half(session, id))
    session.add_label_patch(slide, Box(0, 0, 64, 64), 1)
    with pytest.raises(DatasetError, match=r"The class 'gland' is used by 1 painted patch and 1 labeled patch\."):
        session.remove_class(1)


@pytest.mark.parametrize(
    ("name", "color", "value", "message"),
    [
        ("gland", None, None, "There is a class 'gland' already."),
        ("  ", None, None, "A class needs a name."),
        ("new", None, 1, "The value 1 belongs to the class 'gland'."),
        ("new", None, 255, "values are 0 to 254"),
        ("new", "red", None, "colors '#rrggbb'"),
    ],
)
def test_impossible_classes_are_refused(session: AnnotationSession, name: str, color: str | None, value: int | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        session.add_class(name, color, value)
    assert session.classes == (GLAND, STROMA)


def test_counts_and_areas(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_mask_patch(slide, Box(0, 0, 256, 256)).id
    session.add_label_patch(slide, Box(0, 0, 64, 64), 2)
    session.set_mask(id, half(session, id))
    gland, stroma = session.counts()
    assert (gland.mask_patches, gland.label_patches, gland.painted_px, gland.painted_um2) == (1, 0, 2048, 2048 * 4.0)
    assert (stroma.mask_patches, stroma.label_patches, stroma.painted_px) == (0, 1, 0)
    session.set_mask(id, np.zeros((64, 64), np.uint8))
    assert next((c.value, c.name, c.painted_px) for c in session.counts()) == (0, "background", 4096)


# -- undo ---------------------------------------------------------------------------------------------------------------


def test_every_step_can_be_undone_and_redone(session: AnnotationSession, slide: Slide) -> None:
    id = session.add_mask_patch(slide, Box(0, 0, 256, 256)).id
    mask = half(session, id)
    session.set_mask(id, mask)
    session.set_mask(id, np.where(mask == 1, 2, mask))
    session.remove(id)
    assert session.can_undo == "patch p0001 removed" and session.can_redo is None
    assert session.undo() == "Undid: patch p0001 removed."
    assert (session.mask(id)[0] == 2).all()
    assert session.undo() == "Undid: painting in p0001."
    np.testing.assert_array_equal(session.mask(id), mask)
    assert session.redo() == "Redid: painting in p0001."
    session.undo()
    session.undo()
    session.undo()
    assert session.patches == () and session.undo() is None and session.can_redo == "patch p0001 added"
    assert not list((session.folder / "masks").iterdir())
    for _ in range(3):
        session.redo()
    with reopened(session) as again:
        assert (again.mask(id)[0] == 2).all()


def test_a_new_step_ends_redoing_and_ids_are_not_used_twice(session: AnnotationSession, slide: Slide) -> None:
    session.add_label_patch(slide, Box(0, 0, 64, 64), 1)
    session.undo()
    assert session.add_label_patch(slide, Box(0, 0, 64, 64), 1).id == "p0002"
    assert session.redo() is None


def test_watchers_hear_what_changed(session: AnnotationSession, slide: Slide) -> None:
    heard: list[Changed] = []
    stop = session.subscribe(heard.append)
    id = session.add_mask_patch(slide, Box(0, 0, 256, 256)).id
    session.set_mask(id, half(session, id))
    session.set_mask(id, session.mask(id))
    session.undo()
    session.add_class("tumor")
    stop()
    session.undo()
    assert [(c.sentence, sorted(c.ids), c.classes) for c in heard] == [
        ("patch p0001 added", ["p0001"], False),
        ("painting in p0001", ["p0001"], False),
        ("painting in p0001", ["p0001"], False),
        ("class 'tumor' added", [], True),
    ]


# -- thumbnails ---------------------------------------------------------------------------------------------------------


def test_thumbnails_show_the_annotation(session: AnnotationSession, slide: Slide) -> None:
    painted = session.add_mask_patch(slide, Box(0, 0, 256, 128)).id
    plain = session.thumbnail(painted)
    session.set_mask(painted, np.ones((32, 64), np.uint8))
    tinted = session.thumbnail(painted)
    assert plain.shape == tinted.shape == (64, 64, 3)
    assert tinted[32, 32, 1] < plain[32, 32, 1] and (tinted[0] == 255).all()
    labeled = session.add_label_patch(slide, Box(0, 0, 128, 128), 2).id
    assert (session.thumbnail(labeled, 48)[0] == (0, 0, 255)).all()
    session.toggle_label(labeled, 1)
    border = session.thumbnail(labeled, 48)[0]
    assert (border[:24] == (0, 0, 255)).all() and (border[24:] == (255, 0, 0)).all()


def test_pictures_are_drawn_beside_the_painting(session: AnnotationSession, slide: Slide) -> None:
    from concurrent.futures import ThreadPoolExecutor

    ids = [session.add_mask_patch(slide, Box(i * 64, 0, 128, 128)).id for i in range(6)]
    with ThreadPoolExecutor(2) as pool:
        drawn = [pool.submit(session.thumbnail, id) for id in ids * 20]
        for value in (1, 2, 0) * 5:
            for id in ids:
                session.set_mask(id, np.full((32, 32), value, np.uint8))
            session.undo()
    assert all(f.result().shape == (64, 64, 3) for f in drawn)
