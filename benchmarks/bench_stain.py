"""Stain normalization: what applying, measuring and preparing cost, beside other programs on the same pixels.

    python benchmarks/bench_stain.py [--data DIR] [--size 2048] [--rounds 7]

One thread each. Candidates take turns within each round, so that other work on the machine hits all alike; times are
processor time of the process, the least of all rounds. torchstain and tiatoolbox are compared when they can be imported, and
said to be absent otherwise. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_histoseg import open_slide
from napari_histoseg._testing import he_image
from napari_histoseg.slide.stain import METHODS, StainNormalizer, load_profile, measure, measure_slide, separate, table

UInt8 = npt.NDArray[np.uint8]
Candidates = dict[str, Callable[[], object]]


class PlainMacenko:
    """Macenko's method as one writes it with numpy, on every pixel: the baseline."""

    def __init__(self, target: UInt8) -> None:
        self.vectors, self.top = self._fit(self._density(target))

    @staticmethod
    def _density(image: UInt8) -> npt.NDArray[np.float64]:
        return -np.log((image.reshape(-1, 3).astype(np.float64) + 1) / 240)

    @staticmethod
    def _fit(density: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        tissue = density[(density > 0.15).all(1)]
        plane = np.linalg.eigh(np.cov(tissue.T))[1][:, 1:]
        angle = np.arctan2(*(tissue @ plane).T[::-1])
        edges = [plane @ (np.cos(a), np.sin(a)) for a in np.percentile(angle, (1, 99))]
        vectors = np.stack(sorted(edges, key=lambda v: -v[0]))
        amounts = np.linalg.lstsq(vectors.T, density.T, rcond=None)[0]
        return vectors, np.percentile(amounts, 99, axis=1)

    def __call__(self, image: UInt8) -> UInt8:
        """Measure the picture and normalize it."""
        density = self._density(image)
        vectors, top = self._fit(density)
        amounts = np.linalg.lstsq(vectors.T, density.T, rcond=None)[0]
        amounts *= (self.top / top)[:, None]
        return np.clip(240 * np.exp(-(self.vectors.T @ amounts)), 0, 255).T.reshape(image.shape).astype(np.uint8)


def torchstain_candidates(image: UInt8, target: UInt8) -> Candidates:
    """torchstain's normalizers, which measure and apply in one call."""
    if importlib.util.find_spec("torchstain") is None:
        return {}
    import torch
    import torchstain

    torch.set_num_threads(1)
    made: Candidates = {}
    for backend in ("numpy", "torch"):
        convert = (lambda x: torch.from_numpy(x.copy()).permute(2, 0, 1)) if backend == "torch" else (lambda x: x)
        normalizer = torchstain.normalizers.MacenkoNormalizer(backend=backend)
        normalizer.fit(convert(target))
        given = convert(image)
        made[f"torchstain Macenko ({backend})"] = lambda n=normalizer, g=given: n.normalize(I=g, stains=False)
    reinhard = torchstain.normalizers.ReinhardNormalizer(backend="numpy")
    reinhard.fit(target)
    made["torchstain Reinhard (numpy)"] = lambda: reinhard.normalize(I=image)
    return made


def tiatoolbox_candidates(image: UInt8, target: UInt8) -> Candidates:
    """tiatoolbox's normalizers, which measure and apply in one call."""
    if importlib.util.find_spec("tiatoolbox") is None:
        return {}
    from tiatoolbox.tools import stainnorm

    made: Candidates = {}
    for name in ("Macenko", "Reinhard"):
        normalizer = stainnorm.get_normalizer(name.lower())
        normalizer.fit(target.copy())  # it writes into what it is given
        made[f"tiatoolbox {name}"] = lambda n=normalizer: n.transform(image.copy())
    return made


def least(candidates: Candidates, rounds: int) -> dict[str, float]:
    """Least processor seconds of each candidate."""
    best = dict.fromkeys(candidates, float("inf"))
    for name, run in candidates.items():
        run()
        print(f"<!-- warm: {name} -->")
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best


def show(title: str, unit: str, rows: dict[str, float]) -> None:
    """One Markdown table."""
    print(f"\n| {title} | {unit} |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.3g} |")


def pictures(data: Path | None, size: int) -> tuple[UInt8, UInt8]:
    """A picture of ``size``² and a reference: torchstain's own two, repeated, or made-up ones."""
    if data is None:
        return he_image(size, size, seed=1), he_image(512, 512, seed=2)
    source, target = (
        np.asarray(Image.open(data / "stain" / f"torchstain_{name}.png").convert("RGB")) for name in ("source", "target")
    )
    times = -(-size // min(source.shape[:2]))
    return np.ascontiguousarray(np.tile(source, (times, times, 1))[:size, :size]), target


def slides(data: Path | None) -> Candidates:
    """Measuring whole slides."""
    made: Candidates = {}
    big = open_slide(np.tile(he_image(1024, 1024, seed=3, glass=0.1), (8, 8, 1)), mpp=0.5)
    made["8192² array"] = lambda: measure_slide(big)
    for name in ("CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs") if data else ():
        slide = open_slide(data / "slides" / name, mpp=0.5) if data else big
        made[name] = lambda slide=slide: measure_slide(slide)
    return made


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real data")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a small generated picture, once: shows that the script works")
    asked = parser.parse_args()
    if asked.quick:
        asked.data, asked.size, asked.rounds = None, 512, 1
    image, target = pictures(asked.data, asked.size)
    megapixels = image.shape[0] * image.shape[1] / 1e6
    own, other, tile = measure(image), measure(target), np.ascontiguousarray(image[:512, :512])
    normalizers = {method: StainNormalizer(own, other, method) for method in METHODS}

    apply: Candidates = {"copy": image.copy}
    apply |= {f"{m} (table)": lambda n=n: n.apply(image) for m, n in normalizers.items()}
    apply["separate into 3 stains"] = lambda: separate(image, own)
    show("apply, measured before", "ms a megapixel", {n: 1e3 * s / megapixels for n, s in least(apply, asked.rounds).items()})

    one = {m: lambda n=n: n.apply(tile) for m, n in normalizers.items()}
    show("apply to a tile of 512²", "ms", {n: 1e3 * s for n, s in least(one, 5 * asked.rounds).items()})

    first = {m: lambda n=n: (table.clear(), n.apply(tile)) for m, n in normalizers.items()}
    show("the first tile of 512² of a slide", "ms", {n: 1e3 * s for n, s in least(first, asked.rounds).items()})

    profile, plain = load_profile("colon-consep"), PlainMacenko(target)
    whole: Candidates = {
        "measure (all three methods at once)": lambda: measure(image),
        "measure and apply Macenko, first picture": lambda: (
            table.clear(),
            StainNormalizer(measure(image), profile).apply(image),
        ),
        "numpy Macenko, measure and apply": lambda: plain(image),
        **torchstain_candidates(image, target),
        **tiatoolbox_candidates(image, target),
    }
    absent = [name for name in ("torchstain", "tiatoolbox") if importlib.util.find_spec(name) is None]
    times = least(whole, 3)
    show(f"end to end, {megapixels:.1f} megapixels", "ms a megapixel", {n: 1e3 * s / megapixels for n, s in times.items()})
    print("".join(f"\n{name} is not installed: not compared." for name in absent))
    if not asked.quick:
        show("measure a slide", "s", least(slides(asked.data), 3))


if __name__ == "__main__":
    main()
