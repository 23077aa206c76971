"""Train the stain style that ships with the package.

    python training/stain/train.py --data DATA --out colon.safetensors

DATA holds ``nuclei/consep`` with ``images/`` and ``types/`` (class of the nucleus at each pixel). Interrupted runs go on with
``--resume``. The curve is written beside the weights; see README.md here for what was run.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io

from napari_histoseg.methods.stain.config import StainTraining
from napari_histoseg.methods.stain.loss import NO_CLASS
from napari_histoseg.methods.stain.network import build
from napari_histoseg.methods.stain.train import Reference, StainTask, profile_of
from napari_histoseg.nn.weights import load_into, read_card, save_weights
from napari_histoseg.slide import Box, open_slide
from napari_histoseg.train.loop import StepDone, fit

MPP = 0.25
QUARTER_PX = 500
LEFT_OUT = {"train_12.png": "half of it is blue ink", "train_2.png": "a part of it is black pigment"}
CLASSES = {2: "inflammation", 3: "epithelium", 4: "stroma"}
"""Values in ``types/`` and what a quarter picture is called where most of the nuclei's area has that value."""
MOST = 0.6
RECIPE: dict[str, Any] = {
    "architecture": "compact",
    "width": 64,
    "optimizer": "adamw",
    "steps": 1600,
    "batch": 16,
    "validate_every": 200,
    "threads": 1,
}


def held_out(i: int) -> bool:
    """Whether the picture of this number, in the order of names, is held out: the same as for the nuclei."""
    return i % 7 == 3


def category(types: np.ndarray) -> int:
    """Class of a quarter picture, or none where no kind of nucleus prevails."""
    areas = np.array([(types == value).sum() for value in CLASSES])
    return int(areas.argmax()) if areas.max() > MOST * max((types > 0).sum(), 1) else NO_CLASS


def load(data: Path) -> tuple[list[Reference], list[Reference], str]:
    """Training quarters with their classes, whole held-out pictures, and the sha256 over all files used."""
    train: list[Reference] = []
    held: list[Reference] = []
    digest = hashlib.sha256()
    folder = data / "nuclei" / "consep"
    for i, path in enumerate(sorted((folder / "images").iterdir())):
        if path.name in LEFT_OUT:
            continue
        types_path = folder / "types" / path.name
        digest.update(path.read_bytes())
        digest.update(types_path.read_bytes())
        picture = open_slide(path, mpp=MPP)
        if held_out(i):
            held.append(Reference(picture, picture.bounds, path.name))
            continue
        types = skimage.io.imread(types_path)
        for y in range(0, picture.height, QUARTER_PX):
            for x in range(0, picture.width, QUARTER_PX):
                box = Box(x, y, QUARTER_PX, QUARTER_PX)
                train.append(Reference(picture, box, path.name, category(types[box.slices])))
    return train, held, digest.hexdigest()


def provenance(train: list[Reference], held: list[Reference], digest: str) -> dict[str, Any]:
    """What the model card says of the data."""
    rights = {"license": "Apache 2.0 (as listed by the InstanSeg project)", "source": "Graham et al., Medical Image Analysis 2019"}
    data = {
        "title": "CoNSeP (colon, 40x)",
        **rights,
        "train_images": len({r.name for r in train}),
        "held_out_images": [r.name for r in held],
        "left_out": LEFT_OUT,
        "stain_profile": {**profile_of(train, "histoseg stain colon"), **rights},
    }
    return {
        "name": "histoseg stain colon",
        "summary": "Bright purple and pink H&E of colon, 40x, of one laboratory.",
        "data": [data],
        "data_sha256": digest,
        "license": "BSD-3-Clause; attribution: CoNSeP (Graham et al. 2019)",
    }


def halve(path: Path) -> None:
    """Store the weights as float16, half the size; colors change by less than a gray level."""
    card = read_card(path)
    network = build(card.architecture, card.width, len(card.classes))
    load_into(network, path)
    save_weights(path, network, card, half=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    settings = StainTraining.parse({**RECIPE, **dict(pair.split("=", 1) for pair in args.set)})
    train, held, digest = load(args.data)
    counts = {name: sum(r.category == i for r in train) for i, name in enumerate(CLASSES.values())}
    print(f"{len(train)} training quarters {counts} and {len(held)} held-out pictures; {settings!r}", flush=True)
    task = StainTask(settings, train, held, tuple(CLASSES.values()), provenance(train, held, digest))
    for event in fit(task, args.out, resume=args.resume):
        if not isinstance(event, StepDone):
            print(event, flush=True)
        elif event.step % 50 == 0:
            print(f"step {event.step}/{event.steps} loss {event.loss:.4f} {event.seconds:.0f} s", flush=True)
    halve(args.out)


if __name__ == "__main__":
    main()
