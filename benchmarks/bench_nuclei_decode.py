"""Nuclei after the network: one tile from network output to labels, table and outlines, on one core.

    python benchmarks/bench_nuclei_decode.py [--size 2048] [--nuclei 2000] [--rounds 15] [--quick]

Candidates take turns within each round, so that other work on the machine hits all alike. Times are
processor time of the calling thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage
from skimage import color, feature, measure, morphology, segmentation

from napari_histoseg.methods.nuclei.decode import decode_boundary, decode_votes
from napari_histoseg.objects.measure import object_table
from napari_histoseg.objects.trace import outlines, to_wkb

MPP = 0.25


@dataclass(frozen=True)
class Scene:
    """A made-up tile: the truth, its picture, and what a good network would say of it."""

    labels: npt.NDArray[np.int32]
    image: npt.NDArray[np.uint8]
    nucleus: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    classes: npt.NDArray[np.float32]


def make_scene(size: int, nuclei: int, seed: int = 0) -> Scene:
    """Ellipses of 5 to 13 px half axes, many touching; noise of 1.5 px on the offsets."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    offset = np.zeros((2, size, size), np.float32)
    placed, tries = 0, 0
    while placed < nuclei and tries < 20 * nuclei:
        tries += 1
        a, b = rng.uniform(7, 13), rng.uniform(5, 10)
        y, x = rng.uniform(14, size - 14, 2)
        angle = rng.uniform(0, np.pi)
        top, left = int(y) - 13, int(x) - 13
        v, u = np.mgrid[top : top + 28, left : left + 28]
        along, across = (
            (u - x) * np.cos(angle) + (v - y) * np.sin(angle),
            (v - y) * np.cos(angle) - (u - x) * np.sin(angle),
        )
        window = np.s_[top : top + 28, left : left + 28]
        inside = (along / a) ** 2 + (across / b) ** 2 < 1
        free = inside & (labels[window] == 0)
        if free.sum() < 0.9 * inside.sum():
            continue
        placed += 1
        labels[window][free] = placed
        offset[0][window][free], offset[1][window][free] = (y - v)[free], (x - u)[free]
    foreground = labels > 0
    rim = (cv2.dilate(labels.astype(np.float32), np.ones((3, 3))) != labels) & foreground
    noise = rng.normal(0, 0.05, labels.shape).astype(np.float32)
    nucleus = np.clip(cv2.GaussianBlur(foreground.astype(np.float32), (0, 0), 1.0) + noise, 0, 1)
    offset += cv2.GaussianBlur(rng.normal(0, 6, (size, size, 2)).astype(np.float32), (0, 0), 1.2).transpose(2, 0, 1)
    classes = np.stack([~foreground, foreground & ~rim, rim]).astype(np.float32)
    classes = 0.1 + np.stack([cv2.GaussianBlur(c, (0, 0), 0.7) for c in classes])
    classes /= classes.sum(0)
    paper, ink = np.array([235, 200, 220.0]), np.array([90, 60, 130.0])
    image = np.where(foreground[..., None], ink, paper) + rng.normal(0, 12, (size, size, 3))
    return Scene(labels, np.clip(image, 0, 255).astype(np.uint8), nucleus, offset, classes)


def scikit_image(scene: Scene) -> int:
    """Run the usual chain: threshold, distance, maxima, watershed, region properties, contours."""
    mask = scene.nucleus > 0.5
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1.0)
    seeds = feature.peak_local_max(depth, min_distance=5, labels=mask.astype(np.int32), exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    labels = segmentation.watershed(-depth, markers, mask=mask)
    labels = segmentation.relabel_sequential(morphology.remove_small_objects(labels, max_size=29))[0]
    stains = color.rgb2hed(scene.image)[..., :2]
    shape = (
        "label",
        "area",
        "centroid",
        "axis_major_length",
        "axis_minor_length",
        "eccentricity",
        "orientation",
    )
    names = (*shape, "perimeter_crofton", "solidity", "intensity_mean", "intensity_std")
    table = measure.regionprops_table(labels, stains, properties=names)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        measure.find_contours(np.pad(labels[box] == number, 1).astype(np.uint8), 0.5)
    return len(table["label"])


def votes(scene: Scene) -> int:
    """Decode offset votes, table and outlines."""
    labels, probability = decode_votes(scene.nucleus, scene.offset)
    return len(object_table(labels, scene.image, mpp=MPP, probability=probability))


def boundary(scene: Scene) -> int:
    """Decode the paper's classes by watershed, table and outlines."""
    labels, probability = decode_boundary(scene.classes)
    return len(object_table(labels, scene.image, mpp=MPP, probability=probability))


def stages(scene: Scene) -> dict[str, Callable[[], object]]:
    """Each part of the chain alone."""
    labels, probability = decode_votes(scene.nucleus, scene.offset)
    points, offsets = outlines(labels)
    return {
        "votes → labels": lambda: decode_votes(scene.nucleus, scene.offset),
        "classes → labels": lambda: decode_boundary(scene.classes),
        "labels → table and outlines": lambda: object_table(labels, scene.image, mpp=MPP, probability=probability),
        "labels → outlines": lambda: outlines(labels),
        "outlines → WKB": lambda: to_wkb(points, offsets),
    }


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, npt.NDArray[np.float64]]:
    """Processor milliseconds ``(rounds,)`` of each candidate; one call of each goes first, unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, call in candidates.items():
            begin = time.thread_time()
            call()
            if number:
                times[name].append(1e3 * (time.thread_time() - begin))
    return {name: np.asarray(values) for name, values in times.items()}


def report(times: dict[str, npt.NDArray[np.float64]], extra: dict[str, str]) -> str:
    """Markdown table: median, quartiles, best."""
    lines = ["| | median ms | quartiles | best | |", "|---|---|---|---|---|"]
    for name, values in times.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        lines.append(f"| {name} | {middle:.1f} | {low:.1f}–{high:.1f} | {values.min():.1f} | {extra.get(name, '')} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    """Run the comparison and return its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--nuclei", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a tiny tile, one round: shows that the script works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.size, options.nuclei, options.rounds = 256, 30, 1
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        scene = make_scene(options.size, options.nuclei)
        calls = {"scikit-image and SciPy": scikit_image, "offset votes": votes, "boundary classes": boundary}
        found = {name: f"{call(scene)} objects" for name, call in calls.items()}
        chains = interleaved({name: (lambda call=call: call(scene)) for name, call in calls.items()}, options.rounds)
        parts = interleaved(stages(scene), options.rounds)
    finally:
        cv2.setNumThreads(before)
    share = (scene.labels > 0).mean()
    title = f"{options.size} × {options.size} px, {scene.labels.max()} nuclei, {share:.0%} foreground"
    versions = f"shapely {shapely.__version__}, OpenCV {cv2.__version__}, NumPy {np.__version__}"
    title += f"; one core, {options.rounds} rounds; {versions}"
    return "\n\n".join([title, report(chains, found), report(parts, {})])


if __name__ == "__main__":
    print(main())
