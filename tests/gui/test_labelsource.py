"""Labels layers of all kinds as objects over a slide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.layers import Image, Labels, Layer

from napari_histoseg._testing import he_tissue
from napari_histoseg.errors import PixelSizeError, SettingsError
from napari_histoseg.gui.labelsource import labels_of
from napari_histoseg.gui.layers import result_layers, slide_layer, tissue_layer
from napari_histoseg.gui.slides import slide_of
from napari_histoseg.methods.cells.sources import LabelImage, source_of
from napari_histoseg.results import Result, ResultStore, RunRecord, SlideRecord
from napari_histoseg.slide import Box, Slide, TissueMask, open_slide

MPP, WIDTH, HEIGHT = 0.25, 240, 180
IMAGE, NUCLEI = he_tissue(WIDTH, HEIGHT, seed=6, mpp=MPP)
LABELS = NUCLEI.astype(np.uint32)
WHOLE = Box(0, 0, WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def slide() -> Slide:
    """A small slide."""
    return open_slide(IMAGE, mpp=MPP)


@pytest.fixture(scope="module")
def image(slide: Slide) -> Image:
    """Its layer."""
    return Layer.create(*slide_layer(slide))


def read(layer: Labels, image: Image, slide: Slide) -> np.ndarray:
    """What is read of a layer over the whole slide."""
    return source_of(labels_of(layer, image, slide), slide).read(WHOLE, MPP)


def over(step: int) -> dict[str, Any]:
    """Scale and translation of pixels that cover ``step`` pixels of the slide."""
    return {"scale": (step * MPP,) * 2, "translate": ((step - 1) / 2 * MPP,) * 2, "units": ("um", "um")}


LAYERS: dict[str, Callable[[], Labels]] = {
    "placed": lambda: Labels(LABELS, **over(1)),
    "never placed": lambda: Labels(LABELS),
    "in millimeters": lambda: Labels(LABELS, scale=(MPP / 1000,) * 2, units=("mm", "mm")),
    "scaled, without units": lambda: Labels(LABELS, scale=(MPP, MPP)),
    "lazy": lambda: Labels(da.from_array(LABELS, chunks=(64, 50)), **over(1)),
    "multiscale": lambda: Labels([LABELS, LABELS[::2, ::2]], multiscale=True, **over(1)),
    "of one plane": lambda: Labels(LABELS[None], scale=(1, MPP, MPP), units=("um", "um", "um")),
    "three times finer": lambda: Labels(np.kron(LABELS, np.ones((3, 3), np.uint32)), scale=(MPP / 3,) * 2, translate=(-MPP / 3,) * 2, units=("um", "um")),
    "finer, never placed": lambda: Labels(np.kron(LABELS, np.ones((3, 3), np.uint32))),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_labels_of_the_whole_slide_lie_on_it(kind: str, image: Image, slide: Slide) -> None:
    np.testing.assert_array_equal(read(LAYERS[kind](), image, slide), LABELS)


@pytest.mark.parametrize("layer", [Labels(LABELS[::2, ::2], **over(2)), Labels(LABELS[::2, ::2])], ids=["placed", "never placed"])
def test_labels_at_half_the_size_lie_on_the_slide(layer: Labels, image: Image, slide: Slide) -> None:
    np.testing.assert_array_equal(read(layer, image, slide), np.kron(LABELS[::2, ::2], np.ones((2, 2), np.uint32)))


def test_labels_of_a_part_lie_where_they_are_shown(image: Image, slide: Slide) -> None:
    part = Box(50, 30, 100, 90)
    layer = Labels(LABELS[part.slices], scale=(MPP, MPP), translate=(30 * MPP, 50 * MPP), units=("um", "um"))
    expected = np.zeros_like(LABELS)
    expected[part.slices] = LABELS[part.slices]
    np.testing.assert_array_equal(read(layer, image, slide), expected)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(-15, 40), y=st.floats(-15, 40), scale=st.floats(0.1, 3), move_x=st.floats(-500, 500), move_y=st.floats(-500, 500))
def test_a_pixel_is_read_where_napari_shows_it(x: float, y: float, scale: float, move_x: float, move_y: float) -> None:
    slide = open_slide(IMAGE, mpp=MPP)
    image = Layer.create(*slide_layer(slide))
    image.translate = (move_y, move_x)
    layer = Labels(LABELS, scale=(scale, scale), translate=(y + move_y, x + move_x), units=("um", "um"))
    seen = read(layer, image, slide)
    for row, column in ((0, 0), (17, 230), (120, 60), (179, 3)):
        # A hair beside the center: exactly on an edge either side may be meant.
        world = np.asarray(image.data_to_world((row + 1e-4, column + 1e-4)))
        below = np.floor(np.asarray(layer.world_to_data(world)) + 0.5).astype(int)
        inside = (below >= 0).all() and (below < LABELS.shape).all()
        beside = np.abs(np.asarray(layer.world_to_data(world)) + 0.5 - np.round(np.asarray(layer.world_to_data(world)) + 0.5)).min() < 2e-3
        assert beside or seen[row, column] == (LABELS[tuple(below)] if inside else 0)


def test_a_slide_of_someone_else_in_pixels(slide: Slide) -> None:
    image = Image(IMAGE, rgb=True)
    own = slide_of(image).with_mpp(MPP)
    np.testing.assert_array_equal(read(Labels(LABELS), image, own), LABELS)
    np.testing.assert_array_equal(read(Labels(LABELS[40:, 60:], translate=(40, 60)), image, own)[40:, 60:], LABELS[40:, 60:])


def test_painting_does_not_change_what_is_read(image: Image, slide: Slide) -> None:
    layer = Labels(LABELS.copy(), **over(1))
    source = source_of(labels_of(layer, image, slide), slide)
    layer.data[:] = 0
    np.testing.assert_array_equal(source.read(WHOLE, MPP), LABELS)


def test_rotated_alike_the_labels_lie_straight(slide: Slide) -> None:
    image = Layer.create(*slide_layer(slide))
    image.rotate = 30
    np.testing.assert_array_equal(read(Labels(LABELS, rotate=30, **over(1)), image, slide), LABELS)


# -- our own layers ----------------------------------------------------------------------------------------------------


def result_of(path: Path, slide: Slide) -> Result:
    """A result with the nuclei of the slide."""
    from napari_histoseg.objects.measure import object_table

    about = SlideRecord(name=slide.name, fingerprint=slide.fingerprint(), width=WIDTH, height=HEIGHT, mpp=MPP)
    record = RunRecord(method="nuclei", slide=about, mpp=MPP, frame=WHOLE, tile_px=512, halo_px=0, n_tiles=1)
    store = ResultStore.create(path, record, ("labels", "objects"))
    store.add(0, WHOLE, labels=(WHOLE, NUCLEI), objects=object_table(NUCLEI, IMAGE, mpp=MPP))
    return store.finish("finished")


def test_the_layer_of_a_result_is_the_result(tmp_path: Path, image: Image, slide: Slide) -> None:
    result = result_of(tmp_path / "run", slide)
    (layer,) = (Layer.create(*made) for made in result_layers(result))
    assert labels_of(layer, image, slide) is result
    np.testing.assert_array_equal(read(layer, image, slide), LABELS)


def test_the_layer_of_a_run_under_way_is_refused(image: Image, slide: Slide) -> None:
    layer = Labels(LABELS, metadata={"histoseg": {"path": "/some/run"}})
    with pytest.raises(SettingsError, match="has not ended"):
        labels_of(layer, image, slide)


def test_tissue_is_refused(image: Image, slide: Slide) -> None:
    layer = Layer.create(*tissue_layer(TissueMask(np.ones((18, 24), bool), 10), slide))
    with pytest.raises(SettingsError, match="where tissue is"):
        labels_of(layer, image, slide)


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], Labels], str]] = {
    "rotated": (lambda: Labels(LABELS, rotate=3, **over(1)), "rotated or sheared"),
    "sheared": (lambda: Labels(LABELS, shear=[0.1], **over(1)), "rotated or sheared"),
    "mirrored": (lambda: Labels(LABELS, scale=(-MPP, MPP), translate=(HEIGHT * MPP, 0), units=("um", "um")), "mirrored"),
    "a stack": (lambda: Labels(np.zeros((3, HEIGHT, WIDTH), np.uint8)), "stack of shape"),
    "beside": (lambda: Labels(LABELS, scale=(MPP, MPP), translate=(0, 61), units=("um", "um")), "does not lie over"),
    "above": (lambda: Labels(LABELS, scale=(MPP, MPP), translate=(-46, 0), units=("um", "um")), "does not lie over"),
    "not square": (lambda: Labels(LABELS, scale=(MPP, 2 * MPP), units=("um", "um")), "not square"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_do_not_lie_straight_over_the_slide_are_refused(case: str, image: Image, slide: Slide) -> None:
    make, words = REFUSED[case]
    with pytest.raises(SettingsError, match=words):
        labels_of(make(), image, slide)


def test_labels_that_cover_a_part_of_the_slide_are_taken(image: Image, slide: Slide) -> None:
    found = labels_of(Labels(LABELS, scale=(MPP, MPP), translate=(20, -30), units=("um", "um")), image, slide)
    assert isinstance(found, LabelImage)
    assert found.mpp == pytest.approx(MPP)
    assert (found.x_um, found.y_um) == pytest.approx((-30, 20))


def test_a_slide_without_a_pixel_size_is_refused() -> None:
    image = Image(IMAGE, rgb=True)
    with pytest.raises(PixelSizeError):
        labels_of(Labels(LABELS), image, slide_of(image))
