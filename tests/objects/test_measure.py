"""The table agrees with scikit-image, and does not depend on where the tile lies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import color, morphology
from skimage import measure as sk

from napari_histoseg.methods.nuclei import decode
from napari_histoseg.objects.measure import MEASUREMENTS, measure, neighbors, object_table


@pytest.fixture(scope="module")
def scene():
    """Blobs, many at the border, with an image of random colors."""
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.standard_normal((150, 200)), 3)
    labels = decode.relabel(sk.label(field > 0.04, connectivity=1).astype(np.int32))[0]
    return labels, rng.integers(1, 256, (*labels.shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("column", "theirs", "unit"),
    [
        ("area_um2", "area", 0.25),
        ("major_axis_um", "axis_major_length", 0.5),
        ("minor_axis_um", "axis_minor_length", 0.5),
        ("eccentricity", "eccentricity", 1),
        ("perimeter_um", "perimeter_crofton", 0.5),
    ],
)
def test_shape_matches_scikit_image(scene, column, theirs, unit):
    labels, image = scene
    expected = sk.regionprops_table(labels, properties=(theirs,))[theirs]
    assert measure(labels, image, mpp=0.5)[column].to_numpy() == pytest.approx(expected * unit, abs=1e-9)


def test_centroid_is_in_micrometers_from_the_origin_with_pixel_centers_at_one_half(scene):
    labels, image = scene
    expected = sk.regionprops_table(labels, properties=("centroid",))
    found = measure(labels, image, mpp=0.5, origin_um=(100.0, 7.0))
    assert found["centroid_x_um"].to_numpy() == pytest.approx((expected["centroid-1"] + 0.5) * 0.5 + 100)
    assert found["centroid_y_um"].to_numpy() == pytest.approx((expected["centroid-0"] + 0.5) * 0.5 + 7)


def test_orientation_is_that_of_scikit_image_from_the_x_axis(scene):
    labels, image = scene
    expected = np.rad2deg(sk.regionprops_table(labels, properties=("orientation",))["orientation"]) + 90
    found = measure(labels, image, mpp=1)
    difference = (found["orientation_deg"].to_numpy() - expected + 90) % 180 - 90
    long = found["eccentricity"] > 0.1
    assert np.abs(difference[long]).max() < 1e-6
    assert found["orientation_deg"].between(0, 180, inclusive="left").all()


@pytest.mark.parametrize(
    ("rows", "columns", "degrees"),
    [
        ([0, 0, 0], [0, 1, 2], 0),
        ([0, 1, 2], [0, 0, 0], 90),
        ([2, 1, 0], [0, 1, 2], 45),
        ([0, 1, 2], [0, 1, 2], 135),
    ],
)
def test_orientation_turns_counterclockwise_on_the_screen(rows, columns, degrees):
    labels = np.zeros((3, 3), np.int32)
    labels[rows, columns] = 1
    found = measure(labels, np.zeros((3, 3, 3), np.uint8), mpp=1)
    assert found["orientation_deg"].tolist() == pytest.approx([degrees])


def test_solidity_counts_the_pixels_of_the_convex_hull(scene):
    labels, image = scene
    hulls = [
        morphology.convex_hull_image(labels == k, offset_coordinates=False).sum()
        for k in range(1, labels.max() + 1)
        if (labels == k).sum() > 2
    ]
    found = measure(labels, image, mpp=1)
    found = found[found["area_um2"] > 2]
    assert (found["area_um2"] / found["solidity"]).to_numpy() == pytest.approx(np.array(hulls), rel=0.01, abs=1.01)


@pytest.mark.parametrize("radius", [1, 3, 7.5, 12])
def test_a_disc_is_solid_and_round(radius):
    y, x = np.mgrid[-15:16, -15:16]
    labels = (y**2 + x**2 <= radius**2).astype(np.int32)
    found = measure(labels, np.zeros((31, 31, 3), np.uint8), mpp=0.5).iloc[0]
    assert found["solidity"] == 1
    assert found["eccentricity"] == 0
    if radius > 5:
        assert found["perimeter_um"] == pytest.approx(2 * np.pi * radius * 0.5, rel=0.05)
        assert found["major_axis_um"] == pytest.approx(2 * radius * 0.5, rel=0.05)


def test_solidity_of_an_l_is_below_one():
    labels = np.zeros((9, 9), np.int32)
    labels[:, 0] = labels[8, :] = 1
    assert measure(labels, np.zeros((9, 9, 3), np.uint8), mpp=1)["solidity"][0] == pytest.approx(17 / 45)


@pytest.mark.parametrize(("stain", "channel"), [("hematoxylin", 0), ("eosin", 1)])
def test_stains_match_color_deconvolution(scene, stain, channel):
    labels, image = scene
    # scikit-image divides by log(1e-6); six of its units are one unit of optical density to base 10.
    density = 6 * color.rgb2hed(image)[..., channel]
    found, ids = measure(labels, image, mpp=0.5), np.arange(1, labels.max() + 1)
    assert found[f"{stain}_od_mean"].to_numpy() == pytest.approx(ndimage.mean(density, labels, ids), abs=1e-6)
    assert found[f"{stain}_od_sd"].to_numpy() == pytest.approx(ndimage.standard_deviation(density, labels, ids), abs=1e-6)


def test_black_counts_as_one_and_white_is_clear():
    labels = np.array([[1, 2, 3]], np.int32)
    image = np.array([[[0, 0, 0], [1, 1, 1], [255, 255, 255]]], np.uint8)
    found = measure(labels, image, mpp=1)["hematoxylin_od_mean"].tolist()
    assert found[0] == found[1] > 1
    assert found[2] == 0


def test_columns_are_those_that_are_named_and_ids_ascend():
    labels = np.array([[7, 7, 0], [2, 2, 2]], np.int32)
    found = measure(labels, np.zeros((2, 3, 3), np.uint8), mpp=1)
    assert list(found.columns) == ["id", *MEASUREMENTS]
    assert found["id"].tolist() == [2, 7]
    assert found["area_um2"].tolist() == [3, 2]
    assert found["probability"].isna().all()


def test_probability_is_per_id_or_averaged_from_a_map():
    labels = np.array([[3, 3, 0], [1, 1, 1]], np.int32)
    image = np.zeros((2, 3, 3), np.uint8)
    assert measure(labels, image, mpp=1, probability=[0.25, 0.5, 0.75])["probability"].tolist() == [
        0.25,
        0.75,
    ]
    chances = np.array([[0.5, 1, 0], [0, 0.25, 0.5]])
    assert measure(labels, image, mpp=1, probability=chances)["probability"].tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="one value for each of the ids 1 to 3"):
        measure(labels, image, mpp=1, probability=[0.5])


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (1, 1), (5, 6)])
def test_no_object_gives_an_empty_table_of_the_same_columns(shape):
    empty = object_table(np.zeros(shape, np.int32), np.zeros((*shape, 3), np.uint8), mpp=0.5)
    full = object_table(np.ones((2, 2), np.int32), np.zeros((2, 2, 3), np.uint8), mpp=0.5)
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)


def test_one_pixel_has_a_point_for_an_ellipse():
    found = measure(np.ones((1, 1), np.int32), np.zeros((1, 1, 3), np.uint8), mpp=2.0).iloc[0]
    assert (found["centroid_x_um"], found["centroid_y_um"], found["area_um2"]) == (1, 1, 4)
    assert found[["major_axis_um", "minor_axis_um", "eccentricity", "orientation_deg"]].tolist() == [
        0,
        0,
        0,
        0,
    ]
    assert found["solidity"] == 1


@given(
    hnp.arrays(np.int32, (9, 11), elements=st.integers(0, 3)),
    st.integers(0, 40),
    st.integers(0, 40),
)
@settings(deadline=None, max_examples=50)
def test_translation_moves_the_centroid_alone(labels, dy, dx):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    here = measure(labels, image, mpp=0.5)
    there = measure(np.pad(labels, ((dy, 0), (dx, 0))), np.pad(image, ((dy, 0), (dx, 0), (0, 0))), mpp=0.5)
    assert there["centroid_x_um"].to_numpy() == pytest.approx(here["centroid_x_um"].to_numpy() + dx * 0.5)
    assert there["centroid_y_um"].to_numpy() == pytest.approx(here["centroid_y_um"].to_numpy() + dy * 0.5)
    same = [name for name in MEASUREMENTS if not name.startswith("centroid")]
    pd.testing.assert_frame_equal(there[same], here[same], check_exact=True)


@given(hnp.arrays(np.int32, (8, 8), elements=st.integers(0, 3)))
@settings(deadline=None)
def test_measurements_stay_in_their_range(labels):
    found = measure(labels, np.full((8, 8, 3), 128, np.uint8), mpp=0.25)
    assert found["solidity"].between(0, 1, inclusive="right").all()
    assert found["eccentricity"].between(0, 1).all()
    assert (found["major_axis_um"] >= found["minor_axis_um"]).all()
    assert (found["perimeter_um"] > 0).all()
    assert found["hematoxylin_od_sd"].to_numpy() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "image", "mpp", "reason"),
    [
        (np.zeros((4, 4), np.int32), np.zeros((4, 5, 3), np.uint8), 1.0, r"must be \(4, 4, 3\)"),
        (np.zeros((4, 4), np.int32), np.zeros((4, 4, 3), float), 1.0, "must be uint8"),
        (np.zeros((4, 4), np.int32), np.zeros((4, 4, 3), np.uint8), 0.0, "positive number"),
        (
            np.zeros((4, 4, 1), np.int32),
            np.zeros((4, 4, 3), np.uint8),
            np.nan,
            r"must be \(h, w\).*positive number",
        ),
    ],
)
def test_input_that_does_not_fit_is_refused_with_all_its_problems(labels, image, mpp, reason):
    with pytest.raises(ValueError, match=reason):
        measure(labels, image, mpp=mpp)


def test_object_table_has_outlines_in_pixels_of_level_zero():
    labels = np.zeros((6, 6), np.int32)
    labels[2:4, 3:6] = 1
    table = object_table(labels, np.zeros((6, 6, 3), np.uint8), mpp=0.5, origin_px=(100, 40), downsample=2.0)
    assert list(table.columns) == ["id", *MEASUREMENTS, "outline"]
    outline = shapely.from_wkb(table["outline"][0])
    assert outline.bounds == (206, 84, 212, 88)
    assert (table["centroid_x_um"][0], table["centroid_y_um"][0]) == (52.25, 21.5)
    assert outline.centroid.coords[0] == (52.25 / 0.25, 21.5 / 0.25)


@given(hnp.arrays(float, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 50).map(float)))
@settings(deadline=None)
def test_neighbors_counts_the_others_within_the_radius(points):
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert neighbors(points, 10.0).tolist() == ((distance <= 10).sum(1) - 1).tolist()
