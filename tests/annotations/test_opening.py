"""Opening a dataset to go on with it: broken ones, ones in use, ones whose slides moved."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.annotations.dataset import PatchClass, read_dataset
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError, PixelSizeError, SlideError, StorageError
from napari_histoseg.slide import Box, Slide, open_slide

GLAND = PatchClass(value=1, name="gland")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide in ``slides`` and a dataset ``d`` with a painted and a labeled patch on it, and a picture of its own."""
    home = tmp_path_factory.mktemp("made")
    (home / "slides").mkdir()
    write_svs(home / "slides" / "s.svs", he_image(512, 512, seed=1), mpp=0.5)
    with AnnotationSession.create(home / "d", mpp=2.0, classes=[GLAND]) as session, open_slide(home / "slides" / "s.svs") as slide:
        session.add_mask_patch(slide, Box(0, 0, 256, 256))
        session.set_mask("p0001", np.ones((64, 64), np.uint8))
        session.add_label_patch(slide, Box(256, 0, 128, 128), 1)
    save(home / "d" / "images" / "i.png", he_image(40, 30, seed=2))
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil; its slide's path still names the original."""
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ``dataset.json`` by hand."""
    file = folder / "dataset.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


# -- broken -------------------------------------------------------------------------------------------------------------


def test_every_problem_is_listed_at_once_and_nothing_is_written(home: Path) -> None:
    folder = home / "d"
    save(folder / "masks" / "values.png", np.full((32, 32), 7, np.uint8))
    save(folder / "masks" / "deep.png", np.full((32, 32), 700, np.uint16))
    save(folder / "masks" / "long.png", np.zeros((16, 32), np.uint8))
    save(folder / "masks" / "small.png", np.zeros((3, 4), np.uint8))
    save(folder / "masks" / "rgb.png", np.zeros((32, 32, 3), np.uint8))
    (folder / "masks" / "half.png").write_bytes(b"\x89PNG")
    box = {"slide": "s.svs", "box": [0, 0, 64, 64]}
    bad = [{**box, "mask": f"masks/{n}.png"} for n in ("values", "deep", "long", "rgb", "half", "none")]
    bad += [{"image": "images/i.png", "mask": "masks/small.png"}, {"image": "../slides/s.svs"}, {**box, "label": "bone"}]
    bad += [{"box": [1, 2, 3, 4]}, {**box, "split": "both"}]
    edit(folder, lambda d: (d["patches"].extend(bad), d["classes"].append({"value": 1, "name": "x"}), d.pop("mpp")))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(DatasetError) as caught:
        AnnotationSession.open(folder)
    said = str(caught.value)
    for problem in (
        "dataset.json has 13 problems: ",
        "Patch 2: the mask masks/values.png holds 7, which no class has.",
        "masks/deep.png holds values up to 700. Values of classes are 0 to 254, and 255 is not annotated.",
        "Patch 4: the mask masks/long.png has 32 x 16 px, and its box 64 x 64 other proportions.",
        "masks/rgb.png has shape (32, 32, 3) and type uint8. A mask is one plane of whole numbers.",
        "masks/half.png cannot be read",
        "Patch 7: the mask masks/none.png does not exist.",
        "Patch 8: the mask masks/small.png has 4 x 3 px, its image images/i.png 40 x 30.",
        "Patch 9: the image ../slides/s.svs lies outside the dataset's folder.",
        "Patch 10: the class 'bone' is not among the classes.",
        "patches.11: a patch has either 'image', or 'slide' and 'box'.",
        "patches.12.split: Input should be 'train', 'val' or 'test'.",
        "Class value 1 is listed twice.",
        "mpp is missing: the µm per pixel at which patches are painted.",
    ):
        assert problem in said
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is no valid JSON"),
        ("[]", "it holds no JSON object"),
        ('{"version": 2}', "has format version 2; this version reads 1"),
        ('{"mpp": 1, "patches": 3}', "patches: Input should be a list."),
        ('{"mpp": 0}', "has 1 problem: mpp: Input should be greater than 0."),
        ('{"mpp": 1, "classes": [{"value": 255, "name": "a"}]}', "classes.0.value: Input should be less than or equal to 254."),
    ],
)
def test_a_list_that_is_no_dataset_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError) as caught:
        AnnotationSession.open(tmp_path)
    assert message in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"] and (tmp_path / "dataset.json").read_text() == text


def test_what_there_is_and_what_there_is_not(home: Path) -> None:
    with pytest.raises(DatasetError, match=r"slides is no patch dataset: it has no dataset\.json"):
        AnnotationSession.open(home / "slides")
    with pytest.raises(DatasetError, match=r"d holds a dataset already\. Open it"):
        AnnotationSession.create(home / "d", mpp=1.0)
    with pytest.raises(PixelSizeError):
        AnnotationSession.create(home / "new", mpp=0)
    with pytest.raises(DatasetError, match="There is a class 'gland' already"):
        AnnotationSession.create(home / "new", mpp=1, classes=[GLAND, PatchClass(value=2, name="gland")])
    assert not (home / "new").exists()
    with AnnotationSession.open(home / "d" / "dataset.json") as session:
        assert len(session.patches) == 2


def test_a_dataset_written_by_hand_is_taken_as_it_is(home: Path) -> None:
    folder = home / "d"
    save(folder / "masks" / "i.png", np.zeros((30, 40), np.uint8))
    edit(folder, lambda d: d["patches"].append({"image": "images/i.png", "mask": "masks/i.png", "grade": 2}))
    edit(folder, lambda d: (d["patches"][0].pop("id"), d["patches"][1].update(id="mine"), d.update(license="CC0")))
    edit(folder, lambda d: d["patches"][0].pop("slide_fingerprint"))
    before = (folder / "dataset.json").read_bytes()
    with AnnotationSession.open(folder) as session, open_slide(home / "slides" / "s.svs") as slide:
        assert [p.id for p in session.patches] == ["p0001", "mine", "p0002"]
        assert session.patches[0].slide_fingerprint == slide.fingerprint()
        assert session.image("p0002").shape == (30, 40, 3) and session.thumbnail("p0002").shape == (64, 64, 3)
        assert (folder / "dataset.json").read_bytes() == before
        session.set_mask("p0002", np.ones((30, 40), np.uint8))
        session.remove("p0002")
        assert (folder / "masks" / "i.png").exists()
        session.undo()
    data = json.loads((folder / "dataset.json").read_text())
    assert data["license"] == "CC0" and data["patches"][2]["grade"] == 2
    assert read_dataset(folder).patches[2].model_extra == {"grade": 2}


def test_a_mask_that_two_patches_share_is_painted_for_one_of_them(home: Path) -> None:
    edit(home / "d", lambda d: d["patches"].append({**d["patches"][0], "id": "twin"}))
    with AnnotationSession.open(home / "d") as session:
        session.set_mask("twin", np.zeros((64, 64), np.uint8))
        assert (session.mask("p0001") == 1).all() and (session.mask("twin") == 0).all()
        session.undo()
        assert (session.mask("twin") == 1).all()


def test_a_list_changed_by_another_program_is_not_overwritten(home: Path) -> None:
    with AnnotationSession.open(home / "d") as session:
        edit(home / "d", lambda d: d["patches"].pop())
        text = (home / "d" / "dataset.json").read_bytes()
        with pytest.raises(DatasetError, match=r"dataset\.json was changed by another program since it was opened, and was left as it is"):
            session.add_class("new")
        assert (home / "d" / "dataset.json").read_bytes() == text and session.classes == (GLAND,)


# -- two windows --------------------------------------------------------------------------------------------------------


def test_a_second_window_is_refused_until_the_first_is_closed(home: Path) -> None:
    with AnnotationSession.open(home / "d"), pytest.raises(DatasetError) as caught:
        AnnotationSession.open(home / "d")
    assert str(caught.value) == f"{home / 'd'} is open in another window (process {os.getpid()}). Close it there, or choose another folder."
    AnnotationSession.open(home / "d").close()


@pytest.mark.parametrize(("host", "opens"), [(socket.gethostname(), True), ("elsewhere", False)])
def test_a_dead_process_gives_the_dataset_free_where_that_is_known(home: Path, host: str, opens: bool) -> None:
    lock = home / "d" / ".lock"
    lock.write_text(json.dumps({"pid": 2**22 + 1, "host": host}))
    if opens:
        AnnotationSession.open(home / "d").close()
        assert not lock.exists()
    else:
        with pytest.raises(DatasetError, match=f"process 4194305 on elsewhere.*If it has ended, delete {lock}"):
            AnnotationSession.open(home / "d")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_said(home: Path) -> None:
    (home / "d").chmod(0o555)
    with pytest.raises(StorageError, match=r"permission denied\. Make the folder writable and try again"):
        AnnotationSession.open(home / "d")
    (home / "d").chmod(0o755)


# -- slides that moved --------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(home: Path) -> Iterator[AnnotationSession]:
    """The dataset, its slide nowhere to be found."""
    edit(home / "d", lambda d: [p.update(slide="/nowhere/s.svs") for p in d["patches"]])
    shutil.move(home / "slides" / "s.svs", home / "slides" / "renamed.svs")
    with AnnotationSession.open(home / "d") as session:
        yield session


def place(session: AnnotationSession) -> str:
    """Where the list on the disk says that the slide is."""
    return str(json.loads((session.folder / "dataset.json").read_text())["patches"][0]["slide"])


def test_a_missing_slide_is_said_and_takes_nothing_away(lost: AnnotationSession) -> None:
    (ref,) = lost.slides()
    assert not ref.found and ref.path == "/nowhere/s.svs" and ref.n_patches == 2
    with pytest.raises(DatasetError, match=r"The slide /nowhere/s\.svs is not there any more. Open the slide, or say where it is now."):
        lost.image("p0001")
    assert lost.thumbnail("p0001").shape == (64, 64, 3)
    lost.set_mask("p0001", np.zeros((64, 64), np.uint8))
    assert lost.counts()[0].painted_um2 == 64 * 64 * 4


def test_a_moved_slide_that_is_open_is_known_by_its_content(lost: AnnotationSession, home: Path) -> None:
    with open_slide(home / "slides" / "renamed.svs") as slide:
        assert [p.id for p in lost.patches_of(slide)] == ["p0001", "p0002"]
        assert lost.image("p0001").shape == (64, 64, 3) and lost.slides()[0].found
    assert place(lost) == str(home / "slides" / "renamed.svs")


def test_a_moved_slide_is_relocated_only_to_itself(lost: AnnotationSession, home: Path) -> None:
    key = lost.slides()[0].fingerprint
    other = write_svs(home / "slides" / "other.svs", he_image(512, 512, seed=9), mpp=0.5)
    with pytest.raises(DatasetError, match=r"other\.svs is another slide than s\.svs, which was annotated"):
        lost.relocate(key, other)
    with pytest.raises(SlideError, match="does not exist"):
        lost.relocate(key, home / "none.svs")
    with pytest.raises(DatasetError, match="No patch lies on the slide"):
        lost.relocate("sha256:0", other)
    lost.relocate(key, home / "slides" / "renamed.svs")
    assert lost.slides()[0].found and place(lost) == str(home / "slides" / "renamed.svs")
    lost.undo()
    assert place(lost) == str(home / "slides" / "renamed.svs")


@pytest.mark.parametrize("folder", ["d", ".", "d/slides"])
def test_a_slide_near_the_dataset_is_found_by_itself(home: Path, folder: str) -> None:
    edit(home / "d", lambda d: [p.update(slide="/nowhere/s.svs") for p in d["patches"]])
    (home / folder).mkdir(exist_ok=True)
    shutil.move(home / "slides" / "s.svs", home / folder / "s.svs")
    with AnnotationSession.open(home / "d") as session:
        assert session.slides()[0].found
        session.add_class("new")
        assert place(session) == {"d": "s.svs", "d/slides": "slides/s.svs"}.get(folder, str(home / "s.svs"))
    assert len(read_dataset(home / "d").patches) == 2


def test_another_slide_under_the_same_name_is_not_taken(home: Path) -> None:
    edit(home / "d", lambda d: [p.update(slide=str(home / "slides" / "s.svs")) for p in d["patches"]])
    write_svs(home / "slides" / "s.svs", he_image(512, 512, seed=9), mpp=0.5)
    with AnnotationSession.open(home / "d") as session:
        assert not session.slides()[0].found
        with pytest.raises(DatasetError, match="is not there any more"):
            session.image("p0001")


def test_the_pixel_size_that_a_person_gave_goes_with_the_patches(tmp_path: Path) -> None:
    file = write_svs(tmp_path / "n.svs", he_image(256, 256), mpp=None)
    with AnnotationSession.create(tmp_path / "d", mpp=1.0) as session, open_slide(file, mpp=0.5) as slide:
        id = session.add_mask_patch(slide, Box(0, 0, 128, 128)).id
        image = session.image(id)
    with AnnotationSession.open(tmp_path / "d") as session, open_slide(file) as plain:
        np.testing.assert_array_equal(session.image(id), image)
        assert session.attach(plain) == 1
        np.testing.assert_array_equal(session.image(id), image)
        session.attach(plain.with_mpp(0.25))
        assert session.patch(id).mpp == 0.5


def test_several_slides_share_a_dataset(home: Path, tmp_path: Path) -> None:
    with AnnotationSession.open(home / "d") as session:
        for i in range(2):
            with open_slide(write_svs(tmp_path / f"{i}.svs", he_image(256, 256, seed=20 + i), mpp=0.5)) as slide:
                session.add_mask_patch(slide, Box(0, 0, 128, 128))
                assert len(session.patches_of(slide)) == 1
        assert [s.n_patches for s in session.slides()] == [2, 1, 1]
        assert {p.patch.group for p in session.patches} == {"s", "0", "1"}


def test_a_slide_that_was_closed_is_opened_again(home: Path) -> None:
    with AnnotationSession.open(home / "d") as session:
        slide: Slide = open_slide(home / "slides" / "s.svs")
        session.attach(slide)
        slide.close()
        session.detach(slide)
        assert session.image("p0001").shape == (64, 64, 3)
