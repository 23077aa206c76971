"""A normalized slide and its separated stains as lazy layers over the slide's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.gui.layers import KEY, LayerData, slide_layer
from napari_histoseg.gui.stainfit import read_view, stain_of
from napari_histoseg.gui.stainlate import late_levels
from napari_histoseg.slide import Box, Slide
from napari_histoseg.slide.stain import StainNormalizer, StainProfile, separate

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.utils.colormaps import Colormap
    from napari.viewer import Viewer

STAINS = ("Hematoxylin", "Eosin", "Residual")
SHADES = 64
RESIDUAL_DENSITY = 0.5


def same_place(layer: Image) -> dict[str, Any]:
    """Where a layer lies, moved or turned as it is, for another with the same pixels."""
    return {
        "scale": tuple(layer.scale),
        "translate": tuple(layer.translate),
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def normalized_layer(slide: Slide, layer: Image, name: str) -> LayerData:
    """A slide that is read through a normalizer, over the layer of the slide as scanned; for a worker."""
    data, keywords, kind = slide_layer(slide)
    if slide.stain is not None and slide.stain.halo_px:
        # A network is too slow to be waited for.
        several = keywords["multiscale"]
        late = late_levels(data if several else [data], _stand_in(slide).pyramid())
        data = late if several else late[0]
    return data, {**keywords, **same_place(layer), "name": name}, kind


def _stand_in(slide: Slide) -> Slide:
    """What is shown until the network has come to a place: Macenko's colors of the same style where they are good, else as scanned."""
    target = getattr(slide.stain, "target", None)
    if isinstance(target, StainProfile):
        quick = StainNormalizer(stain_of(slide), target)
        if quick.quality.light == "good":
            # Builds its table now and not in the window.
            quick.apply(np.zeros((1, 1, 3), np.uint8))
            return slide.with_stain(quick)
    return slide.unstained


def find_normalized(viewer: Viewer, slide: Slide) -> Image | None:
    """The layer that shows the same slide through the same normalizer."""
    wanted = None if slide.stain is None else slide.stain.key()
    for layer in viewer.layers:
        other = layer.metadata.get(KEY, {}).get("slide")
        if isinstance(other, Slide) and other.stain is not None and other.stain.key() == wanted and other.fingerprint() == slide.fingerprint():
            return layer
    return None


def read_ahead(levels: Sequence[Any], box: Box, canvas: tuple[int, int]) -> None:
    """Read what napari will ask for first, so that the window finds it in memory; for a worker."""
    np.asarray(levels[-1])
    read_view(levels, box, canvas)


def stain_layers(slide: Slide, layer: Image, profile: StainProfile) -> list[LayerData]:
    """Hematoxylin, eosin and residual of a slide: optical density (float32), lazy, in the stains' own colors.

    Parameters
    ----------
    slide : Slide
        Separated as scanned.
    layer : Image
        Where they lie.
    profile : StainProfile
        Of the slide.
    """
    import dask.array as da

    levels = slide.unstained.pyramid()
    made: list[LayerData] = []
    for i, stain in enumerate(STAINS):
        arrays = [
            da.map_blocks(  # type: ignore[no-untyped-call]
                _part, level, profile=profile, index=i, dtype=np.float32, drop_axis=2, meta=np.empty((0, 0), np.float32)
            )
            for level in levels
        ]
        colors, limits = _colors(profile, i)
        keywords = {
            "name": f"{stain} of {slide.name}",
            "multiscale": len(arrays) > 1,
            "rgb": False,
            "colormap": colors,
            "contrast_limits": limits,
            # One is seen at a time: as through a slide that is stained with nothing else.
            "visible": i == 0,
            "metadata": {KEY: {"stain": stain.lower(), "slide_fingerprint": slide.fingerprint()}},
            **same_place(layer),
        }
        made.append((arrays if len(arrays) > 1 else arrays[0], keywords, "image"))
    return made


def _part(block: NDArray[np.uint8], profile: StainProfile, index: int) -> NDArray[np.float32]:
    if not block.size:
        return np.zeros(block.shape[:2], np.float32)
    return np.asarray(separate(block, profile)[index])


def _colors(profile: StainProfile, index: int) -> tuple[Colormap, tuple[float, float]]:
    """The look of a pure stain from none to its 99th percentile; the residual from blue over white to orange."""
    from napari.utils.colormaps import Colormap

    if index == 2:
        rgb = np.array([[0.1, 0.3, 0.8], [1, 1, 1], [0.9, 0.4, 0.0]])
        limits = (-RESIDUAL_DENSITY, RESIDUAL_DENSITY)
    else:
        most = max(profile.macenko.concentrations[index], 0.3)
        amounts = np.linspace(0, most, SHADES)[:, None]
        rgb = 10.0 ** (-amounts * np.asarray(profile.macenko.vectors[index]))
        limits = (0.0, float(most))
    return Colormap(np.column_stack([np.clip(rgb, 0, 1), np.ones(len(rgb))]), name=f"histoseg {STAINS[index].lower()}"), limits
