"""Tissue on large regions: time, peak memory, and whether tiles show.

    python benchmarks/bench_tissue.py [--side 20000] [--mpp 0.5] [--crf] [--data DATA] [--quick]

A slide of the side is made of one field repeated (an H&E-looking one; with --data, gland pictures of GlaS beside each other), and mapped in a process of
its own, whose maximum resident set is the peak. Classes are learned once. "Shifted" maps a part of it twice, on grids of tiles that are
shifted against each other by 300 px, and counts the pixels that have the same class.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.io

from napari_histoseg._testing import he_image, write_svs

SHIFT_PX, PART_PX = 300, 3000


def field(data: Path | None, mpp: float) -> np.ndarray:
    """What is repeated."""
    if data is None:
        return he_image(2048, 2048, mpp=mpp)
    paths = sorted((data / "glands" / "glas" / "images").iterdir())[::12][:9]
    parts = [skimage.io.imread(path)[:400, :500, :3] for path in paths]
    return np.vstack([np.hstack(parts[i : i + 3]) for i in (0, 3, 6)])


def run_one(slide: str, out: str, crf: bool, weights: str) -> None:
    """The measured process."""
    import napari_histoseg as hs

    begun = time.perf_counter()
    result = hs.run("tissue", slide, out=out, crf=crf, weights=weights)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"peak_gib": peak, "seconds": time.perf_counter() - begun, "pixels": result.labels.size}))


def agreement(slide: Path, weights: Path, part_px: int, crf: bool) -> float:
    """Share of the pixels that have the same class on two grids of tiles."""
    import napari_histoseg as hs

    opened = hs.open_slide(slide)
    first, second = (
        hs.run("tissue", opened, weights=weights, crf=crf, tile_px=512, region=(start, start, part_px, part_px)) for start in (0, SHIFT_PX)
    )
    a = np.asarray(first.labels)[SHIFT_PX:, SHIFT_PX:]
    b = np.asarray(second.labels)[: a.shape[0], : a.shape[1]]
    return float((a == b).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--crf", action="store_true", help="with the CRF too")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tiny slide: shows that the script works")
    parser.add_argument("--one", nargs=4, metavar=("SLIDE", "OUT", "CRF", "WEIGHTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], args.one[1], args.one[2] == "1", args.one[3])
        return
    import napari_histoseg as hs

    side, part = (512, 400) if args.quick else (args.side, PART_PX)
    print("| region (px) | CRF | s | s a megapixel | peak memory (GiB) | same class on shifted grids |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        slide, weights = Path(folder) / "slide.svs", Path(folder) / "kinds.safetensors"
        write_svs(slide, field(args.data, args.mpp), mpp=args.mpp, levels=(1, 4, 16), size=(side, side))
        small = {"sample": 4, "sample_px": 128, "n_words": 8} if args.quick else {}
        hs.train("tissue", slide, out=weights, mpp=args.mpp, **small)
        for crf in (False, True) if args.crf or args.quick else (False,):
            command = [sys.executable, __file__, "--one", str(slide), f"{folder}/{int(crf)}", str(int(crf)), str(weights)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
            same = agreement(slide, weights, part, crf)
            speed = row["seconds"] / row["pixels"] * 1e6
            print(f"| {side} × {side} | {'yes' if crf else 'no'} | {row['seconds']:.0f} | {speed:.2f} | {row['peak_gib']:.2f} | {same:.2%} |", flush=True)


if __name__ == "__main__":
    main()
