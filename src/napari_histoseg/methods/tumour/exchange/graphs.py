"""What is written as ONNX: the networks with softmax or sigmoid behind them, as other programs expect them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.tumour.network import Classifier

OPSET = 13
"""Old enough for programs of the last years, new enough for these networks."""
Axes = Mapping[str, Mapping[int, str]]


class Patches(nn.Module):
    """Patches (n, 3, side, side) in 0–1 → probability (n, 2) of no tumour and tumour."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return torch.softmax(self.classifier(image), 1)


class Outline(nn.Module):
    """Picture (n, 3, h, w) and, if the refiner takes it, heatmap (n, 1, h, w), in 0–1 → probability (n, 1, h, w)."""

    def __init__(self, refiner: nn.Module) -> None:
        super().__init__()
        self.refiner = refiner

    def forward(self, image: Tensor, heatmap: Tensor | None = None) -> Tensor:
        """See the class."""
        seen = image if heatmap is None else torch.cat([image, heatmap], 1)
        return torch.sigmoid(self.refiner(seen)[0])


class FastOutline(nn.Module):
    """The refiner as FAST calls it: channels last, by which FAST recognizes pictures of any size, bytes, and two classes out.

    The heatmap has one pixel for each patch, and comes first, since FAST sorts inputs by name.

    Parameters
    ----------
    refiner : Module
    step : int
        Sides are continued to multiples of it; 1 where they are given.
    cell : float
        Pixels of the picture for each pixel of the heatmap, along each axis; 1 where both have the same size.
    """

    def __init__(self, refiner: nn.Module, step: int, cell: float) -> None:
        super().__init__()
        self.refiner, self.step, self.cell = refiner, step, cell

    def outline(self, image: Tensor, heatmap: Tensor | None) -> Tensor:
        """(1, h, w, 3) in 0–255 and (1, rows, columns, 1) in 0–1 → (1, h, w, 2) of no tumour and tumour."""
        seen = image.permute(0, 3, 1, 2) / 255
        height, width = seen.shape[2], seen.shape[3]
        if heatmap is not None:
            heat = heatmap.permute(0, 3, 1, 2)
            if self.cell != 1:
                heat = self._spread(self._spread(heat, 2, height), 3, width)
            seen = torch.cat([seen, heat], 1)
        if self.step > 1:
            seen = functional.pad(seen, (0, -width % self.step, 0, -height % self.step), mode="replicate")
        tumour = torch.sigmoid(self.refiner(seen)[0])[:, :, :height, :width]
        return torch.cat([1 - tumour, tumour], 1).permute(0, 2, 3, 1)

    def _spread(self, heat: Tensor, axis: int, size: int) -> Tensor:
        """Each pixel of the heatmap over the patch that it stands for."""
        own = torch.floor((torch.arange(size) + 0.5) / self.cell).long()
        return heat.index_select(axis, own.clamp(max=heat.shape[axis] - 1))

    def forward(self, heatmap: Tensor, image: Tensor) -> Tensor:
        """See :meth:`outline`."""
        return self.outline(image, heatmap)


class FastPicture(FastOutline):
    """A refiner that takes the picture alone, as FAST calls it."""

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        """See :meth:`outline`."""
        return self.outline(image, None)


def write_graph(module: nn.Module, given: Sequence[Tensor], names: Sequence[str], axes: Axes, path: Path) -> None:
    """Write a module as ONNX.

    Parameters
    ----------
    given : sequence of Tensor
        An example of its inputs.
    names : sequence of str
        Of its inputs; the output is called ``probability``.
    axes : mapping
        Names of the axes that are free, for each input and for the output.

    Raises
    ------
    WeightsError
        The package onnx is missing.
    """
    try:
        import onnx
    except ImportError:
        raise WeightsError("Writing ONNX needs the package onnx. Install it: pip install 'napari-histoseg[onnx]'.") from None
    with warnings.catch_warnings(), torch.inference_mode():
        # The exporter by tracing is called old, but writes these networks in a second and with the names that were given.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(given), str(path), input_names=list(names), output_names=["probability"],
            dynamic_axes={name: dict(free) for name, free in axes.items()}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    onnx.checker.check_model(str(path))
