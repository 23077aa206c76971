"""Quality of nuclei segmentation on pictures held out from training, beside classical baselines.

    python benchmarks/bench_nuclei.py --data DATA [--limit N] [--json OUT]
    python benchmarks/bench_nuclei.py --quick

DATA holds ``nuclei/<set>/images`` and ``labels``. The held-out pictures are those that the model card of the shipped weights
names; all methods see the same pictures in the same run. Rows at 0.5 µm/px are the same pictures reduced to half size, as a
20x scanner gives them, and scored at full size. ``--quick`` needs no data: one small generated picture, which shows that the
script works and says nothing of quality.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.io
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.metrics import score_nuclei

COLUMNS = ("aji", "pq", "f1_50", "dice")
MPP = 0.25


def otsu_watershed(image: np.ndarray, mpp: float) -> np.ndarray:
    """The floor: Otsu on the red channel, distance transform, watershed."""
    red = ndimage.gaussian_filter(image[..., 0].astype(float), 0.5 / mpp)
    mask = remove_small_objects(red < threshold_otsu(red), max_size=round(6 / mpp**2))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 0.5 / mpp)
    peaks = peak_local_max(distance, min_distance=round(2 / mpp), labels=mask.astype(int), exclude_border=False)
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-distance, markers, mask=mask))


def ours(model: str) -> Callable[[np.ndarray, float], np.ndarray]:
    """A model of the package as ``(image, mpp) → labels``."""

    def call(image: np.ndarray, mpp: float) -> np.ndarray:
        return np.asarray(hs.run("nuclei", hs.open_slide(image, mpp=mpp), model=model).labels)

    return call


METHODS = {
    "Otsu + watershed": otsu_watershed,
    "LoG blobs + watershed": ours("log"),
    "paper's U-Net": ours("unet"),
    "compact (default)": ours("compact"),
}


def held_out(data: Path, limit: int) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Pictures and instance maps that no shipped weights have seen, by set."""
    card = next(w["card"] for w in hs.list_weights() if w["name"] == "compact")
    sets = {}
    for entry, name in zip(card["data"], ("consep", "dsb2018", "tnbc"), strict=True):
        folder = data / "nuclei" / name
        sets[name] = [
            (skimage.io.imread(folder / "images" / n)[..., :3], skimage.io.imread(folder / "labels" / n).astype(np.int32))
            for n in entry["held_out_images"][:limit]
        ]
    return sets


def evaluate(pictures: list[tuple[np.ndarray, np.ndarray]], method: Any, reduce: int) -> tuple[list[dict[str, float]], float]:
    """Scores of each picture, and seconds in all."""
    scores, begun = [], time.perf_counter()
    for image, truth in pictures:
        small = cv2.resize(image, None, fx=1 / reduce, fy=1 / reduce, interpolation=cv2.INTER_AREA) if reduce > 1 else image
        labels = method(small, MPP * reduce)
        if labels.shape != truth.shape:
            size = (truth.shape[1], truth.shape[0])
            labels = cv2.resize(labels.astype(np.float64), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
        scores.append(score_nuclei(labels, truth))
    return scores, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path)
    source.add_argument("--quick", action="store_true", help="one generated picture instead of data")
    parser.add_argument("--limit", type=int, default=1000, help="pictures a set")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sets = {"generated": [he_tissue(192, 192, mpp=MPP)]} if args.quick else held_out(args.data, args.limit)
    rows = []
    print("| set | µm/px | images | method | " + " | ".join(c.upper() for c in COLUMNS) + " | s |")
    print("|---|---|---|---|" + "---|" * (len(COLUMNS) + 1))
    for name, pictures in sets.items():
        for reduce in (1, 2):
            for label, method in METHODS.items():
                scores, seconds = evaluate(pictures, method, reduce)
                cells = [f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in ([s[c] for s in scores] for c in COLUMNS)]
                print(f"| {name} | {MPP * reduce} | {len(pictures)} | {label} | " + " | ".join(cells) + f" | {seconds:.1f} |", flush=True)
                rows.append({"set": name, "mpp": MPP * reduce, "method": label, "scores": scores, "seconds": seconds})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
