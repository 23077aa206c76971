"""Nuclei are found without a network, with a threshold of the slide and not of the tile."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_histoseg.errors import RegionError
from napari_histoseg.methods.nuclei.log import LogModel, fit_log, halo_um, segment_log

PAPER, STROMA, INK = (245, 243, 246), (225, 175, 205), (95, 65, 140)


def tissue(shape, nuclei, *, ink=INK, seed=0):
    """Stroma with dark discs ``(y, x, radius)`` and noise; returns image and labels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number, (cy, cx, radius) in enumerate(nuclei, 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number
    image = np.where((labels > 0)[..., None], np.array(ink), np.array(STROMA)).astype(float)
    image = ndimage.gaussian_filter(image, (0.8, 0.8, 0)) + rng.normal(0, 6, (*shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8), labels


SOME = [(40, 40, 12), (40, 90, 10), (90, 45, 9), (95, 100, 14), (60, 66, 9)]


def test_discs_are_found_whole():
    image, truth = tissue((140, 140), SOME)
    (labels, _), probability = segment_log(image, fit_log([image], mpp=0.25), mpp=0.25)
    assert labels.max() == len(SOME)
    for number in range(1, len(SOME) + 1):
        found = labels == np.bincount(labels[truth == number]).argmax()
        assert (found & (truth == number)).sum() / (found | (truth == number)).sum() > 0.8
    assert probability.dtype == np.float32
    assert probability.min() >= 0
    assert probability.max() <= 1
    assert probability[truth > 0].mean() > 0.6 > 0.4 > probability[truth == 0].mean()


def test_two_that_touch_are_two():
    image, _ = tissue((100, 100), [(50, 38, 11), (50, 60, 11)])
    (labels, _), _ = segment_log(image, fit_log([image], mpp=0.25), mpp=0.25)
    assert labels.max() == 2
    assert labels[50, 38] != labels[50, 60]


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_sizes_are_in_micrometers(mpp):
    image, _ = tissue((140, 140), [(y, x, round(r * 0.25 / mpp)) for y, x, r in SOME])
    assert segment_log(image, fit_log([image], mpp=mpp), mpp=mpp)[0].labels.max() == len(SOME)


def test_a_tile_without_nuclei_stays_empty_with_the_threshold_of_the_slide():
    full, _ = tissue((140, 140), SOME)
    empty, _ = tissue((140, 140), [], seed=1)
    model = fit_log([full, empty], mpp=0.25)
    assert segment_log(empty, model, mpp=0.25)[0].labels.max() == 0
    assert segment_log(full, model, mpp=0.25)[0].labels.max() == len(SOME)


def test_glass_takes_no_part_in_the_fit():
    image, _ = tissue((140, 140), SOME)
    glass = np.full((400, 400, 3), PAPER, np.uint8)
    assert fit_log([image, glass], mpp=0.25) == fit_log([image], mpp=0.25)


@pytest.mark.parametrize("samples", [[], [np.full((20, 20, 3), 250, np.uint8)], [np.zeros((0, 0, 3), np.uint8)]])
def test_samples_without_tissue_are_refused(samples):
    with pytest.raises(RegionError, match="no tissue"):
        fit_log(samples, mpp=0.25)


@pytest.mark.parametrize("radii", [(0.0, 4.0), (3.0, 2.0)])
def test_impossible_radii_are_refused(radii):
    with pytest.raises(ValueError, match="the first at most the second"):
        segment_log(
            np.zeros((4, 4, 3), np.uint8),
            LogModel(0.3),
            mpp=1,
            min_radius_um=radii[0],
            max_radius_um=radii[1],
        )


def test_sensitivity_finds_paler_nuclei():
    dark, _ = tissue((140, 140), SOME)
    pale, _ = tissue((140, 140), SOME, ink=(175, 140, 190))
    model = fit_log([dark], mpp=0.25)
    counts = [segment_log(pale, model, mpp=0.25, sensitivity=s)[0].labels.max() for s in (0.0, 0.5, 1.0)]
    assert counts[0] == 0
    assert counts[2] >= len(SOME)
    assert counts == sorted(counts)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 50), (50, 1)])
def test_tiny_images_have_labels_of_their_size(shape):
    (labels, _), probability = segment_log(np.full((*shape, 3), 120, np.uint8), LogModel(0.2), mpp=0.25)
    assert labels.shape == probability.shape == shape


def test_a_crop_with_its_halo_gives_the_objects_of_the_whole_exactly():
    rng = np.random.default_rng(5)
    places = np.column_stack([rng.integers(15, 585, (160, 2)), rng.integers(6, 13, 160)])
    image, _ = tissue((600, 600), places.tolist())
    model = fit_log([image], mpp=0.25)
    (whole, _), chance = segment_log(image, model, mpp=0.25)
    margin = round(halo_um() / 0.25) + 1
    y, x = 600 - 2 * margin - 53, 7
    (part, _), part_chance = segment_log(image[y:, x:], model, mpp=0.25)
    core = np.s_[margin:, margin : 600 - x - margin]
    assert np.array_equal(part_chance[core], chance[y:, x:][core])
    one, other = part[core], whole[y:, x:][core]
    assert np.array_equal(one > 0, other > 0)
    assert len(np.unique(np.stack([one, other]).reshape(2, -1), axis=1).T) == len(np.unique(one)) > 5
    assert len(np.unique(one)) == len(np.unique(other))


def test_real_tissue_neither_floods_nor_vanishes(data_dir):
    from skimage import io

    folder = data_dir / "nuclei" / "tnbc"
    image = io.imread(folder / "images" / "1014.png")[..., :3]
    truth = io.imread(folder / "labels" / "1014.png")
    (labels, _), _ = segment_log(image, fit_log([image], mpp=0.25), mpp=0.25)
    both = ((labels > 0) & (truth > 0)).sum()
    assert 2 * both / ((labels > 0).sum() + (truth > 0).sum()) > 0.6


def test_warm_up_runs_every_kernel():
    from napari_histoseg.methods.nuclei import decode, seeds
    from napari_histoseg.methods.nuclei.warm import warm_up
    from napari_histoseg.objects import measure, runs, trace

    warm_up()
    # Kernels that only other kernels call are compiled into these, and have no code of their own after a cached load.
    inner = {"_chain", "_end", "_has", "_is_gap", "_join", "_lattice_points"}
    inner |= {"_lowest_between", "_root", "_touch", "_turn"}
    for module in (runs, seeds, decode, measure, trace):
        compiled = {name: f.signatures for name, f in vars(module).items() if hasattr(f, "signatures")}
        assert compiled
        assert [name for name, found in compiled.items() if not found and name not in inner] == []
