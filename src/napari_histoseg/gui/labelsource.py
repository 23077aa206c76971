"""From a labels layer, whoever made it, to objects over a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoseg.errors import SettingsError
from napari_histoseg.gui.layers import KEY, level0_points
from napari_histoseg.gui.slides import MICROMETERS
from napari_histoseg.methods.cells.sources import LabelImage, covering_scale
from napari_histoseg.results import Result

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from numpy.typing import NDArray

    from napari_histoseg.slide import Slide

LEVEL = 1e-4
"""How much of a pixel's length a straight layer may lean."""
SQUARE = 0.01
"""How far the sides of a pixel may differ."""


def labels_of(layer: Labels, image: Image, slide: Slide) -> Result | LabelImage:
    """The objects that a labels layer shows, for `source_of`.

    A layer that was neither scaled nor moved, of the proportions of the slide, is taken to cover all of it. What lies in
    memory is copied, so that painting does not change what is being read.

    Parameters
    ----------
    layer : Labels
        A result's own layer, or anyone's.
    image : Image
        The slide's layer.
    slide : Slide
        The slide that it shows, with a pixel size.

    Returns
    -------
    Result or LabelImage

    Raises
    ------
    SettingsError
        The layer is a stack, holds no objects, or does not lie straight over the slide.
    PixelSizeError
        The slide has no pixel size.
    """
    entry = layer.metadata.get(KEY, {})
    if isinstance(entry.get("result"), Result):
        result: Result = entry["result"]
        return result
    _check_made(layer, entry)
    mpp = slide.require_mpp()
    array = _flat(layer)
    shape = int(array.shape[-2]), int(array.shape[-1])
    covering = covering_scale(shape, slide) if _untouched(layer) else None
    if covering is not None:
        corner, scale = np.zeros(2), np.array(covering)
    else:
        corner, scale = _over(layer, image)
    if abs(scale[0] / scale[1] - 1) > SQUARE + 1 / max(min(shape), 1):
        raise SettingsError(
            f"The pixels of the layer '{layer.name}' are not square over the slide: {scale[0]:g} × {scale[1]:g} slide pixels. "
            "Give both axes of the layer the same scale."
        )
    right, bottom = corner + scale * shape[::-1]
    if right <= 0 or bottom <= 0 or corner[0] >= slide.width or corner[1] >= slide.height:
        raise SettingsError(
            f"The layer '{layer.name}' does not lie over {slide.name}. Choose the layer that was made of this slide, or set its scale "
            "and translation so that it lies where it belongs."
        )
    x, y = corner * mpp
    pixels = array.copy() if type(array) is np.ndarray else array
    return LabelImage(pixels, float(scale.mean()) * mpp, float(x), float(y), f"The layer '{layer.name}'")


def _check_made(layer: Labels, entry: dict[str, Any]) -> None:
    if "path" in entry:
        raise SettingsError(f"The run that makes the layer '{layer.name}' has not ended. Wait for its end, or stop it.")
    if "tissue_of" in entry:
        raise SettingsError(f"The layer '{layer.name}' shows where tissue is, not objects. Choose a layer of nuclei.")


def _flat(layer: Labels) -> Any:
    """The finest level, behind axes of length 1 at most."""
    array: Any = layer.data[0] if layer.multiscale else layer.data
    if any(n != 1 for n in array.shape[:-2]):
        raise SettingsError(
            f"The layer '{layer.name}' is a stack of shape {tuple(array.shape)}; objects lie on one plane. "
            "Make a layer of the plane that belongs to the slide."
        )
    return array


def _untouched(layer: Labels) -> bool:
    """Whether a layer is as napari places any array: nobody has said where it lies."""
    matrix, shift = _to_world(layer)
    return bool(np.array_equal(matrix, np.eye(2)) and not shift.any() and not any(_is_length(unit) for unit in layer.units[-2:]))


def _to_world(layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and shift of (y, x) in the layer's pixels to its world."""
    lead = (0.0,) * (layer.ndim - 2)
    places = [np.asarray(layer.data_to_world((*lead, *p)), float)[-2:] for p in ((0, 0), (1, 0), (0, 1))]
    return np.column_stack([places[1] - places[0], places[2] - places[0]]), places[0]


def _is_length(unit: Any) -> bool:
    return bool(unit.is_compatible_with(MICROMETERS))


def _over(layer: Labels, image: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Upper left corner, and size of a pixel, of a layer in level-0 pixels ``(x, y)`` of the slide."""
    matrix, shift = _to_world(layer)
    factors = [_factor(a, b) for a, b in zip(layer.units[-2:], image.units[-2:], strict=True)]
    # The center of the first pixel has the index 0.
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5]])
    origin, down, right = level0_points(image, (corners @ matrix.T + shift) * factors)
    steps = np.column_stack([right - origin, down - origin])
    scale = np.diag(steps)
    if (abs(steps - np.diag(scale)) > LEVEL * abs(steps).max()).any():
        raise SettingsError(
            f"The layer '{layer.name}' is rotated or sheared against the slide. Objects are read along the slide's rows: "
            "rotate the slide's layer alike, or resample the labels."
        )
    if (scale <= 0).any():
        raise SettingsError(f"The layer '{layer.name}' is mirrored against the slide. Flip its pixels and give it a positive scale.")
    return origin, scale


def _factor(unit: Any, other: Any) -> float:
    """``unit`` in the other unit; 1 where one of them is no length."""
    return float((1 * unit).to(other).magnitude) if _is_length(unit) and _is_length(other) else 1.0
