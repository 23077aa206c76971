"""Peak memory of a run against the size of the slide.

    python benchmarks/bench_memory.py [--sides 10000 20000 40000] [--mpp 1.0] [--model compact] [--quick]

Each size runs ``histoseg run`` in a process of its own on a generated JPEG pyramid (one H&E-looking field repeated, so that the file is
small and all of it is tissue); the peak is the process's own maximum resident set. Memory may not grow with the slide.
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

from napari_histoseg._testing import he_image, write_svs


def run_one(slide: str, out: str, model: str) -> None:
    """The measured process."""
    import napari_histoseg as hs

    begun = time.perf_counter()
    result = hs.run("nuclei", slide, out=out, model=model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = sum(len(t) for t in result.iter_objects())
    print(json.dumps({"peak_gib": peak, "seconds": time.perf_counter() - begun, "nuclei": rows, "mpp": result.mpp}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10000, 20000, 40000])
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--quick", action="store_true", help="a tiny slide and no network: shows that the script works")
    parser.add_argument("--one", nargs=2, metavar=("SLIDE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(*args.one, args.model)
        return
    if args.quick:
        args.sides, args.model = [512], "log"
    print("| slide (px) | working µm/px | nuclei | s | peak memory (GiB) |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sides:
            slide = Path(folder) / f"{side}.svs"
            field = he_image(2048, 2048, mpp=args.mpp)
            write_svs(slide, field, mpp=args.mpp, levels=(1, 4, 16), size=(side, side))
            command = [sys.executable, __file__, "--model", args.model, "--one", str(slide), f"{folder}/{side}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            row = json.loads(done.stdout.splitlines()[-1])
            print(f"| {side} × {side} | {row['mpp']:.3g} | {row['nuclei']} | {row['seconds']:.0f} | {row['peak_gib']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
