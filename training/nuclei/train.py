"""Train the nuclei weights that ship with the package.

    python training/nuclei/train.py compact --data DATA --out compact.safetensors
    python training/nuclei/train.py compact-more --data DATA --out more.safetensors --set start=compact.safetensors
    python training/nuclei/train.py compact-last --data DATA --out last.safetensors --set start=more.safetensors
    python training/nuclei/train.py unet    --data DATA --out unet.safetensors

DATA holds ``nuclei/consep``, ``nuclei/dsb2018`` and ``nuclei/tnbc``, each with ``images/`` and ``labels/`` (instance maps).
Interrupted runs go on with ``--resume``. The curve is written beside the weights; see README.md here for what was run.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.io
from skimage.measure import regionprops

from napari_histoseg.methods.nuclei.config import NucleiTraining
from napari_histoseg.methods.nuclei.network import build
from napari_histoseg.methods.nuclei.targets import UNLABELED
from napari_histoseg.methods.nuclei.train import Example, NucleiTask
from napari_histoseg.nn.weights import load_into, read_card, save_weights
from napari_histoseg.train.loop import StepDone, fit

MPP = 0.25
"""CoNSeP and TNBC state 40x; DSB 2018 states nothing and looks like it: the zoom augmentation covers the doubt."""

SETS: list[dict[str, Any]] = [
    {
        "name": "consep",
        "title": "CoNSeP (colon, 40x)",
        "license": "Apache 2.0 (as listed by the InstanSeg project)",
        "source": "Graham et al., Medical Image Analysis 2019",
        "hold": lambda i: i % 7 == 3,
    },
    {
        "name": "dsb2018",
        "title": "Data Science Bowl 2018, stained tissue (BBBC038)",
        "license": "CC0",
        "source": "Caicedo et al., Nature Methods 2019",
        "hold": lambda i: i % 7 == 3,
    },
    {
        "name": "tnbc",
        "title": "TNBC (breast, 40x)",
        "license": "CC BY 4.0",
        "source": "Naylor et al., IEEE TMI 2019",
        "hold": lambda i: i % 3 == 1,
    },
]

RECIPES: dict[str, dict[str, Any]] = {
    "compact": {"steps": 5000, "batch": 8, "crop_px": 256, "learning_rate": 1e-3},
    "compact-more": {"steps": 1800, "batch": 8, "crop_px": 256, "learning_rate": 5e-4, "seed": 1, "validate_every": 600, "augmentation": 1.4},
    "compact-last": {"steps": 6000, "batch": 8, "crop_px": 256, "learning_rate": 1e-3, "seed": 2, "validate_every": 1000, "augmentation": 1.4},
    "unet": {"steps": 1500, "batch": 8, "crop_px": 144, "learning_rate": 3e-4},
}


def pictures(data: Path, entry: dict[str, Any]) -> Iterator[tuple[int, Path, Path]]:
    """(number, picture, labels) of a set, in the order of their names."""
    folder = data / "nuclei" / entry["name"]
    for i, image in enumerate(sorted((folder / "images").iterdir())):
        yield i, image, folder / "labels" / image.name


def load(data: Path) -> tuple[list[Example], list[Example], str]:
    """Training and held-out pictures, split by picture, and the sha256 over all files used."""
    train: list[Example] = []
    held: list[Example] = []
    digest = hashlib.sha256()
    for entry in SETS:
        for i, image_path, labels_path in pictures(data, entry):
            digest.update(image_path.read_bytes())
            digest.update(labels_path.read_bytes())
            image = np.ascontiguousarray(skimage.io.imread(image_path)[..., :3])
            labels = skimage.io.imread(labels_path).astype(np.int32)
            keep = entry["hold"](i)
            if entry["name"] == "tnbc" and not keep:
                labels = without_merged(labels)
            (held if keep else train).append(Example(image, labels, MPP, entry["name"], image_path.name))
    return train, held, digest.hexdigest()


def without_merged(labels: np.ndarray) -> np.ndarray:
    """TNBC's masks were binary, so touching nuclei are one: what is not convex is taken out of the loss."""
    out = labels.copy()
    for region in regionprops(labels):
        if region.solidity < 0.9:
            out[labels == region.label] = UNLABELED
    return out


def halve(path: Path) -> None:
    """Store the weights as float16, half the size: the U-Net's would be 31 MB. Scores change in the fourth decimal."""
    card = read_card(path)
    network = build(card.architecture, card.width)
    load_into(network, path)
    save_weights(path, network, card, half=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    changes = dict(pair.split("=", 1) for pair in args.set)
    settings = NucleiTraining.parse({"architecture": args.recipe.split("-")[0], **RECIPES[args.recipe], **changes})
    train, held, digest = load(args.data)
    provenance = {
        "name": f"histoseg nuclei {settings.architecture}",
        "summary": "Nuclei of H&E at 0.25 µm/px, trained on colon, breast and mixed stained tissue.",
        "data": [
            {
                **{k: entry[k] for k in ("title", "license", "source")},
                "train_images": sum(e.source == entry["name"] for e in train),
                "held_out_images": [e.name for e in held if e.source == entry["name"]],
            }
            for entry in SETS
        ],
        "data_sha256": digest,
        "license": "BSD-3-Clause; attribution: CoNSeP (Graham et al. 2019), BBBC038 (Caicedo et al. 2019), TNBC (Naylor et al. 2019, CC BY 4.0)",
    }
    print(f"{len(train)} training and {len(held)} held-out pictures; {settings!r}", flush=True)
    for event in fit(NucleiTask(settings, train, held, provenance), args.out, resume=args.resume):
        if not isinstance(event, StepDone):
            print(event, flush=True)
        elif event.step % 100 == 0:
            print(f"step {event.step}/{event.steps} loss {event.loss:.4f} {event.seconds:.0f} s", flush=True)
    if settings.architecture == "unet":
        halve(args.out)


if __name__ == "__main__":
    main()
