"""How much of the network's own speed the whole pipeline keeps.

    python benchmarks/bench_pipeline.py [--side PX] [--rounds N] [--slide FILE] [--quick]

Whole pipeline: read, network, decode, measure, write, over a slide file. Network alone: the same tiles, already in memory, through
the same network in the same number of threads. Rounds are interleaved; median, minimum and maximum of tiles a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import napari_histoseg as hs
from napari_histoseg import methods
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.predict.device import choose_device, choose_precision
from napari_histoseg.predict.events import Started, TileDone
from napari_histoseg.predict.lanes import Work, _cores, _single_threaded_torch, aligned, read_tile
from napari_histoseg.slide import Box, Slide
from napari_histoseg.tiling import Tile, TileGrid


def tiles_of(slide: Slide, tile_px: int, halo_px: int, mpp: float) -> list[np.ndarray]:
    """The pictures that a run gives to the network."""
    width, height = slide.size_at(mpp)
    bounds = Box(0, 0, width, height)
    grid = TileGrid(bounds, tile_px, halo_px, mpp)
    work = Work(slide, None, mpp, mpp / slide.require_mpp(), bounds)  # type: ignore[arg-type]
    return [read_tile(work, Tile(t.index, t.keep, aligned(t, halo_px, 16))) for t in grid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--quick", action="store_true", help="four small tiles, one round: shows that the script works")
    args = parser.parse_args()
    if args.quick:
        args.side, args.tile, args.rounds = 512, 256, 1
    with tempfile.TemporaryDirectory() as folder:
        path = args.slide or write_svs(Path(folder) / "s.svs", he_image(args.side, args.side, mpp=0.25))
        slide = hs.open_slide(path, mpp=args.mpp)
        settings = methods.get("nuclei").spec.settings.parse({"tile_px": args.tile, "tissue_only": False})
        device = choose_device("cpu")
        model = methods.get("nuclei").load(slide, settings, None, device, choose_precision("auto", device))
        images = tiles_of(slide, args.tile, model.halo_px, slide.working_mpp(model.mpp))
        network, whole, objects = [], [], 0
        for _ in range(args.rounds):
            with _single_threaded_torch(), ThreadPoolExecutor(_cores()) as pool:
                begun = time.perf_counter()
                list(pool.map(lambda image: model.forward(image[None]), images))
                network.append(len(images) / (time.perf_counter() - begun))
            for event in hs.iter_run("nuclei", slide, tile_px=args.tile, tissue_only=False):
                if isinstance(event, Started):
                    begun = time.perf_counter()
                elif isinstance(event, TileDone) and event.done == event.total:
                    whole.append(len(images) / (time.perf_counter() - begun))
                    objects = event.n_objects
    print(f"{len(images)} tiles of {args.tile} px, {objects} nuclei, {_cores()} threads\n")
    print("| | tiles/s median | min | max |\n|---|---|---|---|")
    for name, rates in (("network alone", network), ("whole pipeline", whole)):
        print(f"| {name} | {np.median(rates):.3f} | {min(rates):.3f} | {max(rates):.3f} |")
    ratios = np.array(whole) / np.array(network)
    print(f"| ratio, paired rounds | {np.median(ratios):.3f} | {ratios.min():.3f} | {ratios.max():.3f} |")


if __name__ == "__main__":
    main()
