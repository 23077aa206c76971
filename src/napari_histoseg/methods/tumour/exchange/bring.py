"""Somebody else's networks: from a JSON that describes ONNX files to what a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tumour.config import TumourSettings
from napari_histoseg.methods.tumour.exchange.description import fingerprint, onnx_file, read_description
from napari_histoseg.methods.tumour.exchange.sessions import OnnxClassifier, OnnxRefiner
from napari_histoseg.methods.tumour.heat import HeatNetwork
from napari_histoseg.methods.tumour.refine import Refiner

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Brought:
    """Both networks, ready for a run on the processor; either may be missing.

    Attributes
    ----------
    mpp : float
        µm per pixel of heatmap and outline.
    about : dict
        Name, file and sha256, of the JSON and its files together.
    """

    heat: HeatNetwork | None
    refiner: Refiner | None
    mpp: float
    about: dict[str, Any]


def brought(path: Path, settings: TumourSettings) -> Brought:
    """Read what a JSON describes.

    Raises
    ------
    WeightsError
        The JSON, or an ONNX file that it names, is missing, broken, or does not fit.
    SettingsError
        Samples with dropout are wanted, which ONNX networks do not have.
    """
    described = read_description(path)
    if settings.mc_samples and described.refiner is not None:
        raise SettingsError(f"{path.name} has no dropout to sample, as ONNX networks are made for use. Set mc_samples to 0.")
    sha256 = fingerprint(path, described)
    heat = refiner = None
    if patches := described.patches:
        network = OnnxClassifier(onnx_file(path, patches.file), patches, described.patch_px)
        heat = HeatNetwork(network, CPU, torch.float32, described.patch_px, described.scale, float(settings.overlap), settings.least_tissue)
    if how := described.refiner:
        outline = OnnxRefiner(onnx_file(path, how.file), how, heat is not None)
        refiner = Refiner(outline, CPU, torch.float32, how.levels, described.factor, heat is not None, how.side_px)
    about = {"name": described.name or path.stem, "sha256": sha256, "file": path.name}
    return Brought(heat, refiner, described.working_mpp, about)
