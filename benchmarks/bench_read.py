"""Reading JPEG tiles: this package beside OpenSlide, tifffile and tiffslide, interleaved in one run.

    python benchmarks/bench_read.py [--size 20000] [--tiles 200] [--rounds 7] [--box 256] [--quick]

The slide is generated (seeded), so the numbers need no data. Prints a markdown table; processor time, because
other jobs may run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.slide import Box, open_slide

Reader = Callable[[Box], Any]


def readers(path: Path) -> dict[str, Reader]:
    """One reader for each library; peers that are not installed are left out."""
    import openslide
    import tifffile
    import zarr

    slide = open_slide(path)
    reference = openslide.OpenSlide(path)
    reference.set_cache(openslide.OpenSlideCache(0))
    store = zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r")
    found: dict[str, Reader] = {
        "napari-histoseg": lambda b: slide.read(0, b),
        "OpenSlide": lambda b: np.asarray(
            reference.read_region((b.x, b.y), 0, (b.width, b.height)).convert("RGB")
        ),
        "tifffile (zarr)": lambda b: store[b.slices],
    }
    try:
        import tiffslide
    except ImportError:
        return found
    other = tiffslide.TiffSlide(path)
    found["tiffslide"] = lambda b: other.read_region((b.x, b.y), 0, (b.width, b.height), as_array=True)
    return found


def measure(found: dict[str, Reader], boxes: list[Box], rounds: int) -> dict[str, list[float]]:
    """Processor milliseconds a box, one value a round; the readers take turns."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, read in found.items():
            start = time.process_time()
            for box in boxes:
                read(box)
            times[name].append((time.process_time() - start) / len(boxes) * 1e3)
    return times


def table(times: dict[str, list[float]], box_px: int) -> str:
    """A markdown table of medians and spreads."""
    own = statistics.median(times["napari-histoseg"])
    lines = [f"| reader | ms per {box_px} px box, median (least to most) | relative |", "|---|---|---|"]
    for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        middle = statistics.median(values)
        lines.append(
            f"| {name} | {middle:.2f} ({min(values):.2f} to {max(values):.2f}) | {middle / own:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    """Generate a slide, check that all read the same pixels, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=20000, help="side of the slide in px")
    parser.add_argument("--tiles", type=int, default=200, help="boxes in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--box", type=int, default=256, help="side of a box in px; boxes start at tile corners"
    )
    parser.add_argument("--quick", action="store_true", help="a few boxes: shows that the script works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.size, options.tiles, options.rounds = 2048, 4, 2
    with tempfile.TemporaryDirectory() as folder:
        path = write_svs(Path(folder) / "a.svs", he_image(2048, 2048), size=(options.size, options.size))
        rng = np.random.default_rng(0)
        places = rng.integers(0, max(1, (options.size - options.box) // 256), (options.tiles, 2)) * 256
        boxes = [Box(int(x), int(y), options.box, options.box) for x, y in places]
        found = readers(path)
        for name, read in found.items():
            np.testing.assert_array_equal(read(boxes[0]), found["OpenSlide"](boxes[0]), err_msg=name)
        times = measure(found, boxes, options.rounds)
    print(table(times, options.box))
    return times


if __name__ == "__main__":
    main()
