"""Which slide an image layer shows, whoever opened it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from napari_histoseg.errors import SlideError
from napari_histoseg.gui.layers import KEY, place
from napari_histoseg.slide import Slide
from napari_histoseg.slide._array import ArraySource

if TYPE_CHECKING:
    from napari.layers import Image, Layer

MICROMETERS = "micrometer"


def is_slide_layer(layer: Layer) -> bool:
    """Whether a layer can be run on: an RGB image, or a single flat channel that is no result of this package."""
    from napari.layers import Image

    if not isinstance(layer, Image):
        return False
    entry = layer.metadata.get(KEY, {})
    if "slide" in entry:
        return True
    return not entry and layer.ndim == 2


def slide_of(layer: Image) -> Slide:
    """The slide behind an image layer, single or multiscale, opened by this package or by anyone else.

    The pixel size of a foreign layer is its scale when its units are lengths; ``mpp_source`` is then ``"layer"``.

    Raises
    ------
    SlideError
        When the layer's pixels are no picture of a slide.
    """
    entry = layer.metadata.get(KEY, {})
    slide = entry.get("slide")
    if isinstance(slide, Slide) and entry.get("data", layer.data) is layer.data:
        return slide
    if layer.ndim != 2:
        raise SlideError(
            f"The layer '{layer.name}' has {layer.ndim} dimensions besides color; a slide has two. Choose a flat image layer."
        )
    levels: list[Any] = list(layer.data) if layer.multiscale else [layer.data]
    slide = Slide(ArraySource(levels, name=layer.name), *_pixel_size(layer))
    # Opened once: the fingerprint that results are known by is computed from the pixels.
    layer.metadata[KEY] = {"slide": slide, "data": layer.data}
    return slide


def open_slide_by(fingerprint: str, layers: Iterable[Layer]) -> Slide | None:
    """The slide of that fingerprint among the layers; None when it is not open."""
    for layer in layers:
        slide = layer.metadata.get(KEY, {}).get("slide")
        if isinstance(slide, Slide) and slide.fingerprint() == fingerprint:
            return slide
    return None


def _pixel_size(layer: Image) -> tuple[float | None, Any]:
    sizes = []
    for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True):
        if not unit.is_compatible_with(MICROMETERS):
            return None, None
        sizes.append(abs(float(scale)) * float((1 * unit).to(MICROMETERS).magnitude))
    mean = sum(sizes) / 2
    return (mean, "layer") if mean > 0 else (None, None)


def set_pixel_size(layer: Image, mpp: float) -> Slide:
    """Give a layer's slide a pixel size that a person stated, and scale the layer to it.

    Raises
    ------
    PixelSizeError
        Unless ``mpp`` is a positive, finite number.
    """
    slide = slide_of(layer).with_mpp(mpp)
    rescale(layer, mpp / abs(float(layer.scale[-1])))
    layer.metadata[KEY] = {**layer.metadata[KEY], "slide": slide}
    return slide


def rescale(layer: Layer, factor: float) -> None:
    """Make a layer larger in the world, from the origin, and state its size in micrometers."""
    layer.units = place(1, 1)["units"]
    layer.scale = tuple(float(s) * factor for s in layer.scale)
    layer.translate = tuple(float(t) * factor for t in layer.translate)
