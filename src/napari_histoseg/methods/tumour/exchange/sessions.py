"""ONNX networks as torch modules: what a heatmap and a refiner call, computed by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.tumour.exchange.description import Layout, Network, Range, RefinerNetwork

AXES: dict[Layout, str] = {"nchw": "(n, channels, rows, columns)", "nhwc": "(n, rows, columns, channels)"}
Shape = tuple[int | None, ...]
Array = NDArray[np.float32]


def runtime() -> ModuleType:
    """ONNX Runtime.

    Raises
    ------
    WeightsError
        It is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise WeightsError("ONNX networks need the package onnxruntime. Install it: pip install 'napari-histoseg[onnx]'.") from None
    module: ModuleType = onnxruntime
    return module


def session(file: Path, threads: int = 1) -> Any:
    """An ONNX file, ready to run on the processor, the same bits each time.

    Parameters
    ----------
    threads : int
        1 for what several threads call side by side.

    Raises
    ------
    WeightsError
        It is no ONNX network, or one that ONNX Runtime cannot run.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(f"{file} cannot be read as an ONNX network: {_first_line(error)}. Export it again.") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


class OnnxClassifier(nn.Module):
    """A patch classifier.

    Parameters
    ----------
    file : Path
    network : Network
    patch_px : int

    Raises
    ------
    WeightsError
        It is no ONNX network, or has other inputs or outputs than a classifier of such patches.
    """

    def __init__(self, file: Path, network: Network, patch_px: int) -> None:
        super().__init__()
        self.network, self._session = network, session(file)
        what = f"The classifier {file.name}"
        given = self._session.get_inputs()
        if len(given) != 1:
            raise WeightsError(f"{what} takes {len(given)} inputs, and one picture is given to it. Export it with one input.")
        shape = _known(given[0].shape)
        _check_picture(what, shape, network.layout, 3)
        rows, columns = _sides(shape, network.layout)
        if (rows or patch_px, columns or patch_px) != (patch_px, patch_px):
            raise WeightsError(f"{what} takes patches of {rows} × {columns} px, and patch_px is {patch_px}. Correct patch_px in the JSON.")
        self._alone = _batch(what, shape)
        self._name = given[0].name
        self._probe(what, patch_px)

    def _probe(self, what: str, side: int) -> None:
        shape = tuple(self._run(np.zeros((1, 3, side, side), np.float32), what).shape)
        if len(shape) != 2 or shape[1] < 2:
            raise WeightsError(f"{what} gives {shape} for one patch, and a value for each of two or more classes is needed, (1, 2). Export the softmax.")
        if self.network.tumour_output >= shape[1]:
            raise WeightsError(f"{what} gives {shape[1]} classes, so tumour_output is at most {shape[1] - 1}. Got {self.network.tumour_output} instead.")

    def _run(self, patches: Array, what: str = "") -> Array:
        given = arranged(patches, self.network.range, self.network.layout)
        parts = given if self._alone else [given]
        try:
            return np.concatenate([self._session.run(None, {self._name: part[None] if self._alone else part})[0] for part in parts])
        except Exception as error:
            raise _failed(what, error) from None

    def forward(self, patches: Tensor) -> Tensor:
        """(n, 3, side, side) in 0–1 → logits (n, 2) of all else and tumour."""
        values = torch.from_numpy(self._run(patches.float().numpy()))
        chance = torch.softmax(values, 1) if self.network.values == "logits" else values
        tumour = chance[:, self.network.tumour_output].clamp(0, 1)
        return torch.stack([1 - tumour, tumour], 1).log()


class OnnxRefiner(nn.Module):
    """A refiner.

    Parameters
    ----------
    file : Path
    network : RefinerNetwork
    heat : bool
        Whether there is a heatmap to give to it.

    Raises
    ------
    WeightsError
        It is no ONNX network, or has other inputs or outputs than a refiner.
    """

    def __init__(self, file: Path, network: RefinerNetwork, heat: bool) -> None:
        super().__init__()
        # One outline at a time is computed, by all processors.
        self.network, self._session = network, session(file, os.cpu_count() or 1)
        self._what = f"The refiner {file.name}"
        given = {each.name: _known(each.shape) for each in self._session.get_inputs()}
        self._names = self._named(given, 2 if heat else 1)
        for name, channels in zip(self._names, (3, 1), strict=False):
            self._check(name, given[name], channels)
        self._probe()

    def _named(self, given: dict[str, Shape], count: int) -> list[str]:
        names = list(self.network.inputs) or list(given)
        if missing := [name for name in names if name not in given]:
            raise WeightsError(f"{self._what} has no input '{missing[0]}'. Its inputs are: {', '.join(given)}.")
        if len(given) != count or len(names) != count:
            rule = "the picture and the heatmap" if count == 2 else "the picture; there is no classifier that would give a heatmap"
            raise WeightsError(f"{self._what} takes {len(given)} inputs ({', '.join(given)}), and {count} are given to it: {rule}. Export it so.")
        return names

    def _check(self, name: str, shape: Shape, channels: int) -> None:
        what = f"The input '{name}' of {self._what[0].lower()}{self._what[1:]}"
        _check_picture(what, shape, self.network.layout, channels)
        sides, wanted = _sides(shape, self.network.layout), self.network.side_px
        if wanted and any(side not in (None, wanted) for side in sides):
            raise WeightsError(f"{what} has {sides[0]} × {sides[1]} px, and side_px is {wanted}. Correct side_px in the JSON.")
        if not wanted and any(side is not None for side in sides):
            raise WeightsError(f"{what} has {sides[0]} × {sides[1]} px, and side_px is 0, which means any size. Write that side as side_px.")

    def _probe(self) -> None:
        side = self.network.side_px or max(self.network.multiple_px, 32)
        shape = tuple(self._run(np.zeros((1, 2 + len(self._names), side, side), np.float32)).shape)
        expected = f"(1, 1, {side}, {side})" if self.network.layout == "nchw" else f"(1, {side}, {side}, 1)"
        plane = None if len(shape) != 4 else shape[2:] if self.network.layout == "nchw" else shape[1:3]
        if plane != (side, side):
            raise WeightsError(f"{self._what} gives {shape} for a picture of {side} × {side} px, and {expected} is needed. Export its last layer.")
        count = shape[1] if self.network.layout == "nchw" else shape[3]
        if count > 1 and self.network.tumour_output >= count:
            raise WeightsError(
                f"{self._what} gives {count} classes, so tumour_output is at most {count - 1}. Got {self.network.tumour_output} instead."
            )

    def _run(self, image: Array) -> Array:
        network = self.network
        planes = [arranged(image[:, :3], network.range, network.layout), arranged(image[:, 3:], "0-1", network.layout)]
        try:
            values: Array = self._session.run(None, dict(zip(self._names, planes, strict=False)))[0]
            return values
        except Exception as error:
            raise _failed(self._what, error) from None

    def forward(self, image: Tensor) -> list[Tensor]:
        """(1, 3 or 4, h, w) in 0–1 → logits (1, 1, h, w), alone in a list."""
        given = self._run(image.float().numpy())
        values = torch.from_numpy(np.ascontiguousarray(given if self.network.layout == "nchw" else given.transpose(0, 3, 1, 2)))
        one = values.shape[1] == 1
        if self.network.values == "logits":
            chance = torch.sigmoid(values) if one else torch.softmax(values, 1)
        else:
            chance = values
        at = 0 if one else self.network.tumour_output
        return [torch.logit(chance[:, at : at + 1].clamp(0, 1))]


def arranged(image: Array, to: Range, layout: Layout) -> Array:
    """(n, c, h, w) in 0–1 → the values and axes that a network takes."""
    if to == "0-255":
        image = image * np.float32(255)
    elif to == "-1-1":
        image = image * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(image if layout == "nchw" else image.transpose(0, 2, 3, 1))


def _known(shape: Sequence[object]) -> Shape:
    """Sides that are free have names or nothing."""
    return tuple(side if isinstance(side, int) and side > 0 else None for side in shape)


def _sides(shape: Shape, layout: Layout) -> tuple[int | None, int | None]:
    return (shape[2], shape[3]) if layout == "nchw" else (shape[1], shape[2])


def _written(shape: Shape) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _check_picture(what: str, shape: Shape, layout: Layout, channels: int) -> None:
    if len(shape) != 4:
        raise WeightsError(f"{what} takes {_written(shape)}, which has {len(shape)} axes, and 4 are needed: {AXES[layout]}. Export it so.")
    own = shape[1] if layout == "nchw" else shape[3]
    if own not in (None, channels):
        other: Layout = "nhwc" if layout == "nchw" else "nchw"
        raise WeightsError(
            f"{what} takes {_written(shape)}, which as {AXES[layout]} has {own} channels, and {channels} {'is' if channels == 1 else 'are'} needed. "
            f'If its axes are {AXES[other]}, write "layout": "{other}".'
        )


def _batch(what: str, shape: Shape) -> bool:
    """Whether patches have to be given one at a time."""
    if shape[0] not in (None, 1):
        raise WeightsError(f"{what} takes {shape[0]} patches at once, no more and no fewer. Export it with a free number of patches, or with 1.")
    return shape[0] == 1


def _failed(what: str, error: Exception) -> WeightsError:
    return WeightsError(f"{what or 'The classifier'} could not be run: {_first_line(error)}. Export it again, with sides as the JSON says.")
