"""Network output becomes whole, numbered objects that do not depend on where the tile lies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from napari_histoseg.methods.nuclei import decode


def discs(shape, centers, radius):
    """Labels of discs of one radius, the first one in front."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (cy, cx) in reversed(list(enumerate(centers, 1))):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    return labels


def perfect_maps(labels):
    """Say what a perfect network says of labels: probability and vectors to the centroids."""
    offset = np.zeros((2, *labels.shape), np.float32)
    for number in np.unique(labels[labels > 0]):
        y, x = np.nonzero(labels == number)
        offset[:, y, x] = y.mean() - y, x.mean() - x
    return (labels > 0).astype(np.float32) * 0.9, offset


def perfect_classes(labels):
    """Background, nucleus and boundary of labels as certain probabilities."""
    rim = ndimage.grey_dilation(labels, 3) != ndimage.grey_erosion(labels, 3)
    boundary, nucleus = rim & (labels > 0), ~rim & (labels > 0)
    return np.stack([labels == 0, nucleus, boundary]).astype(np.float32)


def by_votes(labels, **options):
    return decode.decode_votes(*perfect_maps(labels), **options)


def by_boundary(labels, **options):
    return decode.decode_boundary(perfect_classes(labels), **options)


both = pytest.mark.parametrize("decoder", [by_votes, by_boundary])
label_images = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(0, 3))


@both
@pytest.mark.parametrize("centers", [[(20, 20)], [(20, 20), (20, 44)], [(20, 20), (20, 37)], [(15, 18), (31, 20), (22, 36)]])
def test_discs_come_back(decoder, centers):
    truth = discs((60, 60), centers, 9)
    found = decoder(truth)
    assert found.labels.max() == len(centers)
    assert np.array_equal(found.labels > 0, truth > 0)
    agree = sum(
        (found.labels == k)[truth == number].mean()
        for number in range(1, len(centers) + 1)
        for k in [np.bincount(found.labels[truth == number]).argmax()]
    )
    assert agree / len(centers) > 0.95


def test_votes_separate_nuclei_that_touch_along_a_side_exactly():
    truth = np.zeros((40, 60), np.int32)
    truth[10:30, 10:30], truth[10:30, 30:50] = 1, 2
    assert np.array_equal(by_votes(truth).labels, truth)


def test_votes_separate_nuclei_that_touch_at_a_corner():
    truth = np.zeros((50, 50), np.int32)
    truth[10:25, 10:25], truth[25:40, 25:40] = 1, 2
    assert np.array_equal(by_votes(truth).labels, truth)


@both
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 40), (40, 1), (30, 30)])
def test_nothing_in_nothing_out(decoder, shape):
    if 0 in shape and decoder is by_boundary:
        found = decode.decode_boundary(np.zeros((3, *shape), np.float32))
    else:
        found = decoder(np.zeros(shape, np.int32))
    assert found.labels.shape == shape
    assert found.labels.dtype == np.int32
    assert not found.labels.any()
    assert found.probability.shape == (0,)


def test_one_pixel_is_an_object_if_asked_for():
    truth = np.zeros((5, 5), np.int32)
    truth[2, 3] = 1
    found = by_votes(truth, min_area_px=1, min_votes=0.5)
    assert np.array_equal(found.labels, truth)
    assert found.probability == pytest.approx([0.9])


@both
def test_small_objects_are_dropped(decoder):
    truth = discs((60, 60), [(15, 15), (40, 40)], 5)
    truth[38:43, 38:43] = 2
    area = int((truth == 1).sum())
    assert decoder(truth, min_area_px=area).labels.max() == 2
    assert decoder(truth, min_area_px=area + 1).labels.max() == 0


def test_a_hole_in_the_probability_is_filled_and_counts_with_its_own_probability():
    truth = discs((40, 40), [(20, 20)], 10)
    nucleus, offset = perfect_maps(truth)
    nucleus[18:22, 18:22] = 0.2
    found = decode.decode_votes(nucleus, offset)
    assert np.array_equal(found.labels, truth)
    assert found.probability[0] == pytest.approx(nucleus[truth > 0].mean())


def test_peaks_on_one_ridge_merge_and_peaks_with_a_valley_do_not():
    truth = discs((40, 60), [(20, 30)], 12)
    nucleus, offset = perfect_maps(truth)
    x = np.broadcast_to(np.arange(60), (40, 60))
    offset[1] += np.where(x < 30, -3.5, 3.5) * (truth > 0)
    assert decode.decode_votes(nucleus, offset, merge_saddle=1.1).labels.max() == 2
    assert decode.decode_votes(nucleus, offset, merge_saddle=0).labels.max() == 1


def test_wild_vectors_are_no_votes_and_their_pixels_join_the_nucleus_they_touch():
    truth = discs((40, 40), [(20, 20)], 10)
    nucleus, offset = perfect_maps(truth)
    offset[:, 12, 20], offset[:, 28, 20], offset[:, 20, 12] = np.nan, np.inf, -1e30
    assert np.array_equal(decode.decode_votes(nucleus, offset).labels, truth)


def test_foreground_far_from_any_peak_is_dropped():
    truth = discs((60, 60), [(20, 20)], 9)
    nucleus, offset = perfect_maps(truth)
    nucleus[20, 30:55] = 0.9
    offset[1, 20, 30:55] = 1000
    found = decode.decode_votes(nucleus, offset, grow_px=3)
    assert found.labels[20, 32] == 1
    assert not found.labels[20, 33:].any()


@both
@settings(max_examples=20, deadline=None)
@given(dy=st.integers(0, 23), dx=st.integers(0, 23), data=st.data())
def test_translation_moves_the_objects_and_changes_nothing_else(decoder, dy, dx, data):
    centers = data.draw(st.lists(st.tuples(st.integers(12, 68), st.integers(12, 68)), min_size=1, max_size=8))
    truth = decode.relabel(discs((80, 80), centers, 8))[0]
    canvas = np.pad(truth, ((dy, 5), (dx, 3)))
    here, there = decoder(truth), decoder(canvas)
    assert np.array_equal(there.labels[dy : dy + 80, dx : dx + 80], here.labels)
    assert np.array_equal(there.probability, here.probability)


def test_a_crop_decodes_noisy_maps_as_the_whole_does():
    rng = np.random.default_rng(3)
    truth = discs((200, 200), rng.integers(10, 190, (60, 2)), 8)
    nucleus, offset = perfect_maps(truth)
    nucleus = np.clip(ndimage.gaussian_filter(nucleus, 1) + rng.normal(0, 0.1, nucleus.shape), 0, 1).astype(np.float32)
    offset += rng.normal(0, 2, offset.shape).astype(np.float32)
    whole = decode.decode_votes(nucleus, offset).labels
    part = decode.decode_votes(nucleus[37:, 41:], offset[:, 37:, 41:]).labels
    inner = np.s_[40:-40, 40:-40]
    assert np.array_equal(part[inner] > 0, whole[37:, 41:][inner] > 0)
    pairs = np.unique(np.stack([part[inner], whole[37:, 41:][inner]]).reshape(2, -1), axis=1)
    assert len(pairs.T) == len(np.unique(part[inner])) == len(np.unique(whole[37:, 41:][inner]))


@pytest.mark.parametrize("offset_shape", [(2, 4, 5), (4, 4), (3, 4, 4)])
def test_maps_of_two_sizes_are_refused(offset_shape):
    with pytest.raises(ValueError, match=r"must be \(2, 4, 4\)"):
        decode.decode_votes(np.zeros((4, 4), np.float32), np.zeros(offset_shape, np.float32))


def test_two_classes_are_refused():
    with pytest.raises(ValueError, match="background, nucleus, boundary"):
        decode.decode_boundary(np.zeros((2, 4, 4), np.float32))


@given(label_images)
@settings(deadline=None)
def test_largest_components_match_scipy(labels):
    kept = decode.keep_largest_component(labels)
    for number in range(1, 4):
        parts, count = ndimage.label(labels == number)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        expected = parts == 1 + sizes.argmax() if count else np.zeros(labels.shape, bool)
        assert np.array_equal(kept == number, expected)


@given(label_images)
@settings(deadline=None)
def test_holes_match_scipy_where_one_label_is_present(labels):
    one = (labels > 1).astype(np.int32)
    assert np.array_equal(decode.fill_holes(one) > 0, ndimage.binary_fill_holes(one))


def test_a_hole_between_two_labels_and_a_bay_at_the_border_stay_open():
    between = np.array([[1, 1, 2, 2], [1, 0, 0, 2], [1, 1, 2, 2]], np.int32)
    bay = np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]], np.int32)
    assert np.array_equal(decode.fill_holes(between), between)
    assert np.array_equal(decode.fill_holes(bay), bay)


def test_a_ring_is_filled_but_what_lies_in_it_stays():
    ring = np.pad(np.ones((5, 5), np.int32), 1)
    ring[2:5, 2:5] = 0
    assert (decode.fill_holes(ring) == 1).sum() == 25
    ring[3, 3] = 2
    assert np.array_equal(decode.fill_holes(ring), ring)


@given(label_images)
@settings(deadline=None)
def test_relabel_numbers_in_raster_order(labels):
    out, count = decode.relabel(labels)
    flat = out[out > 0]
    seen = flat[np.sort(np.unique(flat, return_index=True)[1])]
    assert np.array_equal(seen, np.arange(1, count + 1))
    assert np.array_equal(out > 0, labels > 0)
    assert len(np.unique(np.stack([out, labels]).reshape(2, -1), axis=1).T) == len(np.unique(labels))


@given(label_images, st.integers(0, 30))
@settings(deadline=None)
def test_remove_small_counts_pixels(labels, least):
    out = decode.remove_small(labels, least)
    area = np.bincount(labels.ravel(), minlength=4)
    keep = (area >= least) & (np.arange(4) > 0)
    assert np.array_equal(out, np.where(keep[labels], labels, 0))


@given(label_images)
@settings(deadline=None)
def test_tidy_objects_are_connected_and_whole(labels):
    out = decode.tidy(labels, np.ones(labels.shape, np.float32), labels > 0, grow_px=3).labels
    for number in range(1, out.max() + 1):
        assert ndimage.label(out == number)[1] == 1
    assert np.array_equal(decode.fill_holes(out), out)


def test_watershed_matches_scikit_image_on_smooth_distances():
    from skimage import segmentation

    truth = discs((80, 80), [(25, 25), (25, 42), (45, 33), (60, 60)], 10)
    mask = truth > 0
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    markers = np.zeros(truth.shape, np.int32)
    for number, place in enumerate([(25, 25), (25, 42), (45, 33)], 1):
        markers[place] = number
    ours = decode.watershed(depth, markers, mask)
    theirs = segmentation.watershed(-depth, markers, mask=mask)
    assert not ours[truth == 4].any()
    assert (ours == theirs)[mask].mean() > 0.97


def test_watershed_ignores_markers_outside_its_mask_and_keeps_its_input():
    mask = np.zeros((6, 9), bool)
    mask[2:4, 1:8] = True
    markers = np.zeros((6, 9), np.int32)
    markers[0, 0], markers[2, 1], markers[3, 7] = 7, 5, 9
    before = markers.copy()
    out = decode.watershed(np.ones((6, 9), np.float32), markers, mask)
    assert set(np.unique(out)) == {0, 5, 9}
    assert np.array_equal(out > 0, mask)
    assert np.array_equal(markers, before)


def test_mean_probability_of_an_absent_id_is_nan():
    labels = np.array([[1, 1, 0], [3, 0, 0]], np.int32)
    means = decode.mean_probability(labels, np.array([[0.2, 0.4, 1], [0.5, 1, 1]], np.float32))
    assert means == pytest.approx([0.3, np.nan, 0.5], nan_ok=True)
