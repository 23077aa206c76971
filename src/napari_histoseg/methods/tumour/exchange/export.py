"""A trained model as ONNX, with its description and a pipeline for FAST, checked against torch."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.errors import ResultError, StorageError, WeightsError
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.exchange import fast
from napari_histoseg.methods.tumour.exchange.description import FILE_NAME, Description, RefinerNetwork
from napari_histoseg.methods.tumour.exchange.graphs import Axes, FastOutline, FastPicture, Outline, Patches, write_graph
from napari_histoseg.methods.tumour.exchange.sessions import session
from napari_histoseg.methods.tumour.fitted import Fitted, read_fitted
from napari_histoseg.nn.weights import sha256_of
from napari_histoseg.slide import Box, open_slide

CLASSIFIER, REFINER, FAST_REFINER = "classifier.onnx", "refiner.onnx", "refiner-fast.onnx"
PATCHES = 4
"""That the classifier is compared on."""
TOLERANCE = 0.01
"""Largest difference of a probability between torch and ONNX Runtime that is borne."""
PLANE = {0: "n", 2: "h", 3: "w"}


def export_onnx(weights: Path, out: Path, tile: Path | None = None, overwrite: bool = False) -> Description:
    """Write a tumour model as ONNX into a folder.

    The folder has ``classifier.onnx`` and ``refiner.onnx``, as far as the model has them; ``model.json``, by which runs
    here take them as weights; and for FAST ``pipeline.fpl`` and ``refiner-fast.onnx``, the refiner as FAST calls it.

    Parameters
    ----------
    weights : Path
        A ``.safetensors`` file of the method ``tumour``.
    out : Path
        The folder. It appears whole or not at all.
    tile : Path, optional
        A picture of tissue to compare on; random pixels when not given.
    overwrite : bool
        Replace the folder of another export.

    Returns
    -------
    Description
        What ``model.json`` says, with the largest difference between torch and ONNX Runtime, where that is installed.

    Raises
    ------
    WeightsError
        The weights are of another method, the package onnx is missing, or what was written computes something else.
    ResultError
        The folder has something in it already.
    SlideError
        The picture cannot be read.
    """
    fitted = read_fitted(weights)
    _check_free(out, overwrite)
    picture = _random(fitted.settings) if tile is None else _read(tile, fitted.settings)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.absolute().parent))
        try:
            described = _write(fitted, weights, partial, picture)
            _move(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{out} could not be written: {error.strerror or error}. Free some space, or choose another folder.") from error
    return described


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.absolute().parent.is_dir():
        raise ResultError(f"The folder {out.absolute().parent} does not exist. Make it first, or choose another.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise ResultError(f"{out} is a file, and the export is a folder. Choose another name.")
    if not (out / FILE_NAME).is_file():
        raise ResultError(f"{out} has something else in it than an export. Choose another folder.")
    if not overwrite:
        raise ResultError(f"{out} holds an export already. Choose another folder, or overwrite it.")


def _move(partial: Path, out: Path) -> None:
    partial.chmod(0o755)
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.absolute().parent))
        out.replace(old)
        partial.replace(out)
        shutil.rmtree(old)
        return
    partial.replace(out)


def _random(settings: TumourTraining) -> NDArray[np.uint8]:
    side = settings.crop_px * PATCHES
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def _read(tile: Path, settings: TumourTraining) -> NDArray[np.uint8]:
    """The upper left of a picture, white where it ends."""
    with open_slide(tile, mpp=settings.mpp) as slide:
        side = settings.crop_px * PATCHES
        return slide.read(0, Box(0, 0, side, side))


def _write(fitted: Fitted, weights: Path, folder: Path, picture: NDArray[np.uint8]) -> Description:
    settings = fitted.settings
    how: dict[str, object] = {"mpp": settings.mpp, "patch_px": settings.crop_px}
    differences: dict[str, float | None] = {}
    if fitted.classifier is None:
        how["mpp"] = settings.mpp * settings.scale
    else:
        how["classifier"] = CLASSIFIER
        differences[CLASSIFIER] = _write_classifier(Patches(fitted.classifier), settings, folder, picture)
    if fitted.refiner is not None:
        how["refiner"] = _refiner_entry(settings)
        differences |= _write_refiner(fitted.refiner, settings, folder, picture)
    text = fast.pipeline(fitted.card.name, settings, CLASSIFIER if fitted.classifier else "", FAST_REFINER if fitted.refiner else "")
    (folder / fast.FILE_NAME).write_text(text, encoding="utf-8")
    described = Description(
        name=fitted.card.name or weights.stem,
        classes=["no tumour", "tumour"],
        thresholds={"tumour": 0.5, "least_tissue": settings.least_tissue},
        sha256={name: sha256_of(folder / name) for name in differences},
        largest_difference={name: value for name, value in differences.items() if value is not None},
        version=version("napari-histoseg"),
        **how,  # type: ignore[arg-type]
    )
    (folder / FILE_NAME).write_text(described.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
    return described


def _refiner_entry(settings: TumourTraining) -> RefinerNetwork:
    names = ["image", "heatmap"] if settings.backbone != "none" else ["image"]
    if settings.whole_px:
        return RefinerNetwork(file=REFINER, inputs=names, side_px=settings.whole_px)
    seen = settings.mpp * settings.scale * settings.factor
    return RefinerNetwork(file=REFINER, inputs=names, mpp=seen, multiple_px=2**settings.levels)


def _write_classifier(graph: Patches, settings: TumourTraining, folder: Path, picture: NDArray[np.uint8]) -> float | None:
    side = settings.crop_px
    rows = picture.reshape(PATCHES, side, PATCHES, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    patches = torch.from_numpy(np.ascontiguousarray(rows.transpose(0, 3, 1, 2))).float() / 255
    axes = {"image": {0: "n"}, "probability": {0: "n"}}
    return _written(graph, {"image": patches}, axes, folder / CLASSIFIER)


def _write_refiner(refiner: nn.Module, settings: TumourTraining, folder: Path, picture: NDArray[np.uint8]) -> dict[str, float | None]:
    """Both forms of the refiner; the one for FAST takes the heatmap at one pixel a patch."""
    whole, heat = settings.whole_px, settings.backbone != "none"
    step = 2**settings.levels
    side = whole or step * max(1, min(picture.shape[0] // step, 512 // step))
    image = _resized(picture, side, side)
    heatmap = image.mean(1, keepdim=True)
    given = {"image": image, "heatmap": heatmap} if heat else {"image": image}
    free = {0: "n"} if whole else PLANE
    differences = {REFINER: _written(Outline(refiner), given, dict.fromkeys([*given, "probability"], free), folder / REFINER)}
    cell = 1.0 if whole else settings.crop_px / (settings.scale * settings.factor)
    # Sides that are no multiples of what the network needs, as slides have them.
    odd = side if whole else side + step // 2
    shown = (_resized(picture, odd, odd) * 255).permute(0, 2, 3, 1)
    cells = -(-odd // cell) if cell != 1 else odd
    coarse = _resized(picture, int(cells), int(cells)).mean(1, keepdim=True).permute(0, 2, 3, 1)
    seen = {"heatmap": coarse, "image": shown} if heat else {"image": shown}
    own = (FastOutline if heat else FastPicture)(refiner, 1 if whole else step, cell)
    places: Axes = {} if whole else {"heatmap": {1: "rows", 2: "columns"}, "image": {1: "h", 2: "w"}, "probability": {1: "h", 2: "w"}}
    differences[FAST_REFINER] = _written(own, seen, {k: v for k, v in places.items() if k in seen or k == "probability"}, folder / FAST_REFINER)
    return differences


def _resized(picture: NDArray[np.uint8], rows: int, columns: int) -> Tensor:
    """(1, 3, rows, columns) in 0–1."""
    image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None].float() / 255
    return nn.functional.interpolate(image, (rows, columns), mode="area")


def _written(graph: nn.Module, given: dict[str, Tensor], axes: Axes, path: Path) -> float | None:
    """Write a graph and compare it with torch; the largest difference, or None without ONNX Runtime."""
    write_graph(graph, tuple(given.values()), list(given), axes, path)
    if find_spec("onnxruntime") is None:
        return None
    with torch.inference_mode():
        expected = graph(*given.values()).numpy()
    got = session(path).run(None, {name: value.numpy() for name, value in given.items()})[0]
    difference = float(np.abs(got - expected).max())
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"{path.name} computes something else than torch: probabilities differ by up to {difference:.2g}. Update the packages onnx, onnxruntime and torch."
        )
    return difference
