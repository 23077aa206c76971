"""Measure the built-in stain profiles.

    python training/stain/profiles.py DATA

``DATA`` holds ``nuclei/tnbc``, ``nuclei/consep`` and ``slides/CMU-1-Small-Region.svs``: pictures whose licenses allow
their colors to be passed on. Writes one JSON file each into the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_histoseg.slide import open_slide
from napari_histoseg.slide.stain import measure, measure_slide, save_profile

PROFILES = Path(__file__).resolve().parents[2] / "src" / "napari_histoseg" / "slide" / "stain" / "profiles"


def pictures(folder: Path) -> list[npt.NDArray[np.uint8]]:
    """All pictures of a folder, RGB."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]


def main(data: Path) -> None:
    """Measure and save all three."""
    breast, colon = pictures(data / "nuclei/tnbc/images"), pictures(data / "nuclei/consep/images")
    slide = open_slide(data / "slides/CMU-1-Small-Region.svs")
    profiles = [
        measure(breast).renamed(
            "breast-tnbc",
            note=f"Breast, pale and purple: {len(breast)} pictures at 40x together",
            source="TNBC data set, Naylor et al., IEEE Trans. Med. Imaging 38, 2019",
            license="CC BY 4.0",
        ),
        measure(colon).renamed(
            "colon-consep",
            note=f"Colon, pink and violet: {len(colon)} pictures at 40x together",
            source="CoNSeP data set, Graham et al., Med. Image Anal. 58, 2019",
            license="Apache-2.0",
        ),
        measure_slide(slide).renamed(
            "cmu-1",
            note="Strongly stained, magenta: a region of an Aperio scan at 20x",
            source="CMU-1-Small-Region.svs, OpenSlide test data, Carnegie Mellon University",
            license="CC0-1.0",
        ),
    ]
    for profile in profiles:
        save_profile(profile, PROFILES / f"{profile.name}.json")
        print(profile.name, profile.macenko.vectors, profile.problems)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
