"""Tissue: superpixels and the CRF on one core, beside other programs on the same pixels.

    python benchmarks/bench_tissue_kernels.py [--data DIR] [--size 512] [--rounds 15] [--quick]

Candidates take turns within each round, so that other work on the machine hits all alike; times are processor time of the
calling thread. pydensecrf2 is compared when it can be imported, and said to be absent otherwise. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.segmentation import find_boundaries, slic

from napari_histoseg._testing import he_tissue
from napari_histoseg.methods.tissue.crf import CrfSettings, dense_crf, reach_px
from napari_histoseg.methods.tissue.lattice import Lattice
from napari_histoseg.objects.superpixels import COUNT, majority, mean_of, side_of, superpixels

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Candidates = dict[str, Callable[[], object]]

CLASSES = 8
COMPACTNESS = 10.0
ABSENT = "pydensecrf2 (not installed)"


class Scene(NamedTuple):
    """A picture and what is where in it."""

    name: str
    image: UInt8
    truth: Int32


def scenes(data: Path | None, size: int) -> list[Scene]:
    """Photographs of glands, or one made-up picture of nuclei."""
    if data is None:
        image, nuclei = he_tissue(size, size, seed=1)
        return [Scene("generated", image, (nuclei > 0).astype(np.int32))]
    found = []
    for name in ("testA_10", "train_40", "train_64"):
        images = sorted((data / "glands" / "glas" / "images").glob(f"{name}.*"))
        labels = sorted((data / "glands" / "glas" / "labels").glob(f"{name}.*"))
        picture, truth = (np.asarray(Image.open(files[0]))[:size, :size] for files in (images, labels))
        found.append(Scene(name, np.ascontiguousarray(picture), (truth > 0).astype(np.int32)))
    return found


def probabilities(image: UInt8, seed: int = 0) -> Float32:
    """What an unsure network says: nearness to eight colors of the picture, with noise ``(c, h, w)``."""
    rng = np.random.default_rng(seed)
    color = cv2.GaussianBlur(image, (0, 0), 2).astype(np.float32)
    centers = color.reshape(-1, 3)[rng.choice(color.shape[0] * color.shape[1], CLASSES, replace=False)]
    energy = np.stack([-((color - center) ** 2).sum(-1) / 600 for center in centers])
    energy += rng.normal(0, 1, energy.shape)
    likely = np.exp(energy - energy.max(0))
    return (likely / likely.sum(0)).astype(np.float32)


# -- superpixels --------------------------------------------------------------------------------------------------------


def cutters(count: int) -> dict[str, Callable[[UInt8], Int32]]:
    """What makes ``count`` superpixels of a picture."""

    def ours(image: UInt8, rounds: int) -> Int32:
        return superpixels(image, side_of(count, *image.shape[:2]), COMPACTNESS, rounds)

    def theirs(image: UInt8, rounds: int) -> Int32:
        found: Int32 = slic(image, count, compactness=COMPACTNESS, max_num_iter=rounds, start_label=0).astype(np.int32)
        return found

    return {
        "napari-histoseg, 5 rounds": lambda image: ours(image, 5),
        "napari-histoseg, 10 rounds": lambda image: ours(image, 10),
        "scikit-image, 5 rounds": lambda image: theirs(image, 5),
        "scikit-image, 10 rounds": lambda image: theirs(image, 10),
    }


def quality(labels: Int32, truth: Int32) -> tuple[float, float, float]:
    """Undersegmentation error, boundary recall within 2 px, and the part of the pixels that lie at a border, in percent."""
    error = float(np.mean(majority(truth, labels, int(truth.max()) + 1) != truth))
    near = cv2.dilate(find_boundaries(labels, mode="inner").astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    edge = find_boundaries(truth, mode="inner")
    return 100 * error, 100 * float(near[edge].mean()), 100 * float(find_boundaries(labels, mode="inner").mean())


def superpixel_table(pictures: list[Scene], count: int, rounds: int) -> str:
    """Time of one picture and quality of all."""
    image = pictures[0].image
    times = interleaved({name: lambda cut=cut: cut(image) for name, cut in cutters(count).items()}, rounds)
    head = ["superpixels", "median ms", "best ms", "found", "undersegmentation error %", "boundary recall %", "border pixels %"]
    rows = []
    for name, cut in cutters(count).items():
        cuts = [cut(scene.image) for scene in pictures]
        error, recall, border = np.mean([quality(c, s.truth) for c, s in zip(cuts, pictures, strict=True)], axis=0)
        found = np.mean([c.max() + 1 for c in cuts])
        rows.append([name, *timed(times[name]), f"{found:.0f}", f"{error:.3f}", f"{recall:.1f}", f"{border:.1f}"])
    return table(head, rows)


# -- the CRF ------------------------------------------------------------------------------------------------------------


def peer(probability: Float32, image: UInt8, settings: CrfSettings) -> Float32:
    """Infer with pydensecrf2, by the same kernels."""
    from pydensecrf import densecrf

    classes, height, width = probability.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(np.maximum(probability, 1e-5)).reshape(classes, -1)))
    crf.addPairwiseGaussian(settings.smooth_px, settings.smooth_weight)
    crf.addPairwiseBilateral(settings.color_px, settings.color_sd, image, settings.color_weight)
    return np.asarray(crf.inference(settings.rounds)).reshape(probability.shape)


def all_pairs(probability: Float32, image: UInt8, settings: CrfSettings) -> Float32:
    """Mean field with both kernels as matrices of all pairs of pixels: exact, and of use for tiny pictures only."""
    classes, height, width = probability.shape
    place = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float32)
    color = image.reshape(-1, 3).astype(np.float32) / settings.color_sd
    joined = np.zeros((len(place), len(place)), np.float32)
    for points, weight in (
        (place / settings.smooth_px, settings.smooth_weight),
        (np.concatenate([place / settings.color_px, color], 1), settings.color_weight),
    ):
        norms = (points**2).sum(1)
        kernel = np.exp(-0.5 * np.maximum(norms[:, None] + norms - 2 * points @ points.T, 0))
        scale = 1 / np.sqrt(kernel.sum(1))
        joined += weight * scale[:, None] * kernel * scale
    unary = np.log(np.maximum(probability, 1e-5)).reshape(classes, -1).T
    found = energy = unary
    for number in range(settings.rounds + 1):
        energy = unary + joined @ found if number else unary
        found = np.exp(energy - energy.max(1, keepdims=True))
        found /= found.sum(1, keepdims=True)
    return np.ascontiguousarray(found.T).reshape(probability.shape)


def crf_table(image: UInt8, settings: CrfSettings, rounds: int) -> str:
    """Time of both programs on one picture, and how far they agree."""
    probability = probabilities(image)
    ours = dense_crf(probability, image, settings)
    calls: Candidates = {"napari-histoseg": lambda: dense_crf(probability, image, settings)}
    said = {"napari-histoseg": ["100.00", "0.0000"]}
    if importlib.util.find_spec("pydensecrf") is not None:
        theirs = peer(probability, image, settings)
        calls["pydensecrf2"] = lambda: peer(probability, image, settings)
        said["pydensecrf2"] = compared(ours, theirs)
    rows = [[name, *timed(values), *said[name]] for name, values in interleaved(calls, rounds).items()]
    if "pydensecrf2" not in calls:
        rows.append([ABSENT, "0 runs", "–", "–", "–"])
    height, width = image.shape[:2]
    head = [f"CRF, {width} × {height} px, {CLASSES} classes, {settings.rounds} rounds", "median ms", "best ms"]
    return table([*head, "same label %", "mean difference"], rows)


def compared(ours: Float32, theirs: Float32) -> list[str]:
    """Pixels with the same label, and mean absolute difference of probabilities."""
    return [f"{100 * np.mean(ours.argmax(0) == theirs.argmax(0)):.2f}", f"{np.abs(ours - theirs).mean():.4f}"]


def exact_table(image: UInt8, settings: CrfSettings, side: int, rounds: int) -> str:
    """The lattice beside all pairs, on a picture small enough."""
    small = np.ascontiguousarray(image[:side, :side])
    probability = probabilities(small)
    calls: Candidates = {
        "lattice": lambda: dense_crf(probability, small, settings),
        "all pairs": lambda: all_pairs(probability, small, settings),
    }
    exact = all_pairs(probability, small, settings)
    said = {"lattice": compared(exact, dense_crf(probability, small, settings)), "all pairs": ["100.00", "0.0000"]}
    rows = [[name, *timed(values), *said[name]] for name, values in interleaved(calls, rounds).items()]
    return table([f"CRF, {side} × {side} px", "median ms", "best ms", "same label %", "mean difference"], rows)


def parts(image: UInt8, settings: CrfSettings, rounds: int) -> str:
    """What single steps cost."""
    probability, cut = probabilities(image), superpixels(image)
    labels = probability.argmax(0)
    calls: Candidates = {
        "lattice of the picture": lambda: Lattice.build(image, settings.color_px, settings.color_sd),
        "majority in superpixels": lambda: majority(labels, cut, CLASSES),
        f"means of {CLASSES} channels in superpixels": lambda: mean_of(probability, cut),
    }
    return table(["step", "median ms", "best ms"], [[name, *timed(values)] for name, values in interleaved(calls, rounds).items()])


# -- shared -------------------------------------------------------------------------------------------------------------


def interleaved(candidates: Candidates, rounds: int) -> dict[str, npt.NDArray[np.float64]]:
    """Processor milliseconds ``(rounds,)`` of each candidate; one call of each goes first, unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, call in candidates.items():
            begin = time.thread_time()
            call()
            if number:
                times[name].append(1e3 * (time.thread_time() - begin))
    return {name: np.asarray(values) for name, values in times.items()}


def timed(values: npt.NDArray[np.float64]) -> list[str]:
    """Median and best, as cells."""
    return [f"{np.median(values):.1f}", f"{values.min():.1f}"]


def table(head: list[str], rows: list[list[str]]) -> str:
    """One Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def main(arguments: list[str] | None = None) -> str:
    """Run the comparison and return its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder of real data; without it, a picture is made up")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a tiny picture, one round: shows that the script works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.data, options.size, options.rounds = None, 96, 1
    settings = CrfSettings.parse({})
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        pictures = scenes(options.data, options.size)
        image = pictures[0].image
        count = round(COUNT * image.shape[0] * image.shape[1] / 512**2)
        title = f"{image.shape[1]} × {image.shape[0]} px, {', '.join(s.name for s in pictures)}; {count} superpixels, compactness "
        title += f"{COMPACTNESS:g}; one core, {options.rounds} rounds; margin of the CRF {reach_px(settings)} px"
        found = [
            superpixel_table(pictures, count, options.rounds),
            crf_table(image, settings, options.rounds),
            exact_table(image, settings, min(64, options.size // 2), max(1, options.rounds // 5)),
            parts(image, settings, options.rounds),
        ]
    finally:
        cv2.setNumThreads(before)
    return "\n\n".join([title, *found])


if __name__ == "__main__":
    print(main())
