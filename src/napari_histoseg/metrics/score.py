"""`score`: a prediction against the truth or target, from arrays, files, results, or folders of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.cells import majority, score_cells, truth_table
from napari_histoseg.metrics.instances import score_nuclei
from napari_histoseg.metrics.joint import score_joint
from napari_histoseg.metrics.lsr import WITHIN_UM, score_lsr
from napari_histoseg.metrics.stain import score_stain
from napari_histoseg.metrics.tissue import score_tissue
from napari_histoseg.metrics.tumour import score_tumour

if TYPE_CHECKING:
    from napari_histoseg.results import Result

    Source = ArrayLike | Path | str | Result

EXTENSIONS = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".png", ".npy", ".ome.zarr", ".zarr")
"""Files of labels, and of pictures with two more kinds that lose something."""
PICTURES = (*EXTENSIONS, ".jpg", ".jpeg")
TRUTHS = (*EXTENSIONS, ".csv")
"""Files that say the classes of cells."""
MAX_PICTURE = 10**8
"""Most pixels of a picture that is scored at once."""
MAX_FACTOR = 16.0
"""Largest ratio of pixel sizes between a prediction and its truth."""
MAX_OUTLINE_FACTOR = 128.0
"""The same for outlines of tumour and from coarse labels, which are drawn at up to 32 µm/px on slides of 0.25 µm/px."""
_COUNTS = ("n_true", "n_pred", "n_objects", "n_left_out")

METHODS = ("nuclei", "stain", "cells", "tissue", "joint", "tumour", "lsr")


def score(
    method: str,
    prediction: Any,
    truth: Any,
    classes: Sequence[str] | None = None,
    *,
    source: Any = None,
    mpp: float | None = None,
    within_um: float | None = None,
) -> dict[str, Any]:
    """Score a method's labels or class map against the truth, or normalized pictures against a target.

    Parameters
    ----------
    method : str
        ``"nuclei"``, ``"stain"``, ``"cells"``, ``"tissue"``, ``"joint"``, ``"tumour"`` or ``"lsr"``.
    prediction, truth : array, path, Result, or list or folder of them
        For nuclei: labels, 0 background; for joint, tissue and lsr: class values, 0 background, and 255 in the truth where nothing is
        annotated (of tissue, each cluster is given a true class first); for tumour: 1 tumour, 0 not, and 255 as before. Files are ``.tif``, ``.png``, ``.npy`` or ``.ome.zarr``; a folder with a
        ``run.json`` is a result, another folder holds pictures that pair by name. Lists pair by position.
        A prediction of the same field at another pixel size is resampled (nearest neighbor).
        For stain: pictures, also ``.jpg`` and whatever :func:`~napari_histoseg.open_slide` opens, of up to 100 million
        pixels; ``truth`` is in the style that the prediction should have, and one may serve for several predictions.
        For cells: the prediction is a result with classes of cells; the truth is a CSV file with the columns ``id`` and
        ``class``, or class values over the same area, of which an object has the one under most of its pixels (0 and 255 do
        not count). Objects without a class take no part. Each of several results is matched to its truth by itself.
    classes : sequence of str, optional
        For joint, tissue and cells: names of the class values 0, 1, 2 … in this order; the others have none.
    source : as prediction, optional
        For stain: the picture that the prediction was made from, for what was kept of it.
    mpp : float, optional
        For lsr: µm per pixel of the truth, for the scores near the boundary and the islands; a result brings its own.
    within_um : float, optional
        For lsr: how far from the true boundary the masked scores reach; 1000 when not given, as in the paper.

    Returns
    -------
    dict
        For one picture the scores; see `score_nuclei`, `score_stain`, `score_cells`, `score_tissue`, `score_joint`, `score_tumour` and `score_lsr`. For several their means (counts,
        ``n_…``: sums) over the pictures for which they are defined, and ``n_images``, ``sd`` (standard deviation of each
        score over the pictures, n - 1) and ``images`` (the scores of each).

    Raises
    ------
    SettingsError
        The method cannot be scored, a file cannot be read, names do not pair, or the shapes cannot be brought
        together.
    """
    _check(method, classes, source, mpp, within_um)
    scale = _Scale(mpp, within_um)
    kinds = _KINDS.get(method, EXTENSIONS)
    predicted, true, sources = (_several(given, kinds) for given in (prediction, truth, source))
    if predicted is None and true is None and sources is None:
        return dict(_one(method, prediction, truth, source, classes, scale))
    if method == "stain" and predicted is not None and true is None:
        # Read once: a style's target serves for all.
        true = dict.fromkeys(predicted, read_picture(truth))
    if predicted is None or true is None:
        raise SettingsError("Prediction and truth must both be one picture, or both a list or folder of pictures.")
    if sources is None and source is not None:
        raise SettingsError("There are several predictions and one source. Give one source a prediction.")
    pairs = _paired(predicted, true, "truth")
    before = {} if sources is None else {name: pair[1] for name, pair in _paired(predicted, sources, "source").items()}
    return _summary({name: _one(method, *pair, before.get(name), classes, scale) for name, pair in pairs.items()})


_KINDS = {"stain": PICTURES, "cells": TRUTHS}


@dataclass(frozen=True)
class _Scale:
    """What scores near a boundary are measured with: µm per pixel of the truth, and a distance."""

    mpp: float | None = None
    within_um: float | None = None


def _check(method: str, classes: Sequence[str] | None, source: Any, mpp: float | None, within_um: float | None) -> None:
    if method not in METHODS:
        raise SettingsError(f"The method {method!r} cannot be scored. Methods that can: {', '.join(METHODS)}.")
    if classes and method not in ("joint", "cells", "tissue"):
        raise SettingsError(f"{method} is scored without classes. Leave classes out. Got {list(classes)}.")
    if source is not None and method != "stain":
        raise SettingsError(f"{method} is scored without a source. Leave the source out.")
    if method != "lsr" and mpp is not None:
        raise SettingsError(f"{method} is scored without a pixel size. Leave mpp out. Got {mpp:g}.")
    if method != "lsr" and within_um is not None:
        raise SettingsError(f"{method} is scored without a distance. Leave within_um out. Got {within_um:g}.")


def _one(method: str, prediction: Any, truth: Any, source: Any, classes: Sequence[str] | None, scale: _Scale) -> dict[str, Any]:
    if method == "cells":
        return _one_cells(prediction, truth, classes)
    if method == "stain":
        return score_stain(read_picture(prediction), read_picture(truth), None if source is None else read_picture(source))
    true = read_labels(truth)
    given = read_labels(prediction)
    predicted = fitted(given, true.shape, MAX_OUTLINE_FACTOR if method in ("tumour", "lsr") else MAX_FACTOR)
    if method == "lsr":
        return dict(_one_lsr(predicted, true, scale, _own_mpp(prediction, given.shape[1] / true.shape[1])))
    if method == "tumour":
        return dict(score_tumour(predicted, true))
    if method == "tissue":
        return score_tissue(predicted, true, classes)
    return score_joint(predicted, true, classes) if method == "joint" else score_nuclei(predicted, true)


def _one_lsr(predicted: NDArray[Any], true: NDArray[Any], scale: _Scale, own_mpp: float | None) -> dict[str, float]:
    mpp = own_mpp if scale.mpp is None else scale.mpp
    if mpp is None and scale.within_um is not None:
        raise SettingsError(f"Scores within {scale.within_um:g} µm need the pixel size. Give it with --mpp, or mpp= in Python.")
    return score_lsr(predicted, true, mpp, WITHIN_UM if scale.within_um is None else scale.within_um)


def _own_mpp(prediction: Any, factor: float) -> float | None:
    """µm per pixel of the truth of a result, which has ``factor`` times as many pixels along a side."""
    from napari_histoseg.results.result import Result, open_result

    if isinstance(prediction, (str, Path)) and _is_result(Path(prediction)):
        prediction = open_result(prediction)
    return prediction.mpp * factor if isinstance(prediction, Result) and prediction.mpp is not None else None


def _one_cells(prediction: Any, truth: Any, classes: Sequence[str] | None) -> dict[str, Any]:
    result, name = _with_clusters(prediction)
    if isinstance(truth, (str, Path)) and str(truth).lower().endswith(".csv"):
        ids, values = truth_table(_read_csv(Path(truth)), str(truth))
    else:
        ids, values = majority(*_finer(np.asarray(result.labels), read_labels(truth)))
    objects = result.objects
    said = pd.Series(values, index=ids).reindex(objects["id"].to_numpy(np.int64))
    known = said.notna().to_numpy()
    if not known.any():
        raise SettingsError(f"The truth says no class of any of the {len(objects)} objects of {name}. Give the truth of this result.")
    true = _named(said[known].to_numpy(values.dtype), classes)
    scores = score_cells(objects["class"].to_numpy(str)[known], true)
    return scores | {"n_left_out": int((~known).sum())}


def _with_clusters(prediction: Any) -> tuple[Result, str]:
    """The result, and what to call it."""
    from napari_histoseg.results.result import Result, open_result

    if isinstance(prediction, (str, Path)):
        prediction = open_result(prediction)
    if not isinstance(prediction, Result):
        raise SettingsError(f"Classes of cells are scored from a result. Got {type(prediction).__name__}; give a result of cells, or its folder.")
    if not prediction.has_objects or not {"class", "cluster"} <= set(prediction.schema().names):
        raise SettingsError(f"The result of {prediction.record.method} in {prediction.path} has no classes of cells. Give a result of cells.")
    return prediction, str(prediction.path)


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise SettingsError(f"{path} does not exist.")
    try:
        return pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as a table: {error}") from error


def _finer(labels: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both at the pixel size of the finer one, so that no object is lost."""
    brought = fitted(labels, values.shape)
    return (brought, values) if values.size >= labels.size else (labels, fitted(values, labels.shape))


def _named(values: NDArray[Any], classes: Sequence[str] | None) -> NDArray[Any]:
    """The names of class values."""
    if not classes:
        return values
    if values.dtype.kind != "i":
        raise SettingsError(f"The classes of the truth have names: {', '.join(np.unique(values))}. Leave classes out.")
    if wrong := sorted({int(v) for v in np.unique(values)} - set(range(len(classes)))):
        raise SettingsError(
            f"The values {wrong} are no classes: there are {len(classes)} names, of the values 0 to {len(classes) - 1}. Name every class."
        )
    return np.asarray(np.array(classes)[values])


def _summary(scores: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    # Tables and names are each picture's own.
    rows = [{name: value for name, value in row.items() if isinstance(value, (int, float))} for row in scores.values()]
    # Class maps have a score for each class that they show.
    columns = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in dict.fromkeys(n for row in rows for n in row)}
    defined = {name: values[~np.isnan(values)] for name, values in columns.items()}
    result: dict[str, Any] = {name: int(values.sum()) if name in _COUNTS else _mean(values) for name, values in defined.items()}
    spread = {name: float(values.std(ddof=1)) if len(values) > 1 else 0.0 for name, values in defined.items() if name not in _COUNTS}
    return result | {"n_images": len(rows), "sd": spread, "images": dict(scores)}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _several(source: Any, extensions: Sequence[str]) -> dict[str, Any] | None:
    """The pictures of a list or folder by name; None for a single picture."""
    if isinstance(source, (list, tuple)) and not _is_nested_numbers(source):
        return {str(i): item for i, item in enumerate(source)}
    if isinstance(source, (str, Path)) and (folder := Path(source)).is_dir():
        if (folder / "run.json").exists() or (folder / "zarr.json").exists() or (folder / ".zattrs").exists():
            return None
        found = {_stem(path, extensions): path for path in sorted(folder.iterdir()) if _extension(path, extensions) or _is_result(path)}
        if not found:
            kind = "label pictures" if extensions == EXTENSIONS else "pictures"
            raise SettingsError(f"{folder} holds no {kind} ({', '.join(extensions)}) and is no result folder.")
        return found
    return None


def _is_nested_numbers(source: Sequence[Any]) -> bool:
    """Whether a list is a picture written as rows of numbers."""
    return bool(source) and isinstance(source[0], (list, tuple)) and not isinstance(source[0][0], (list, tuple))


def _paired(prediction: dict[str, Any], other: dict[str, Any], name: str) -> dict[str, tuple[Any, Any]]:
    lists = all(key.isdecimal() for key in [*prediction, *other])
    if lists and len(prediction) != len(other):
        raise SettingsError(f"There are {len(prediction)} predictions and {len(other)} {name}s. Give one prediction a {name}.")
    missing = [f"{key} has no prediction" for key in sorted(set(other) - set(prediction))]
    missing += [f"{key} has no {name}" for key in sorted(set(prediction) - set(other))]
    if missing:
        raise SettingsError(f"Pictures pair by file name, but {'; '.join(missing)}.")
    return {key: (prediction[key], other[key]) for key in other}


def _extension(path: Path, extensions: Sequence[str] = EXTENSIONS) -> str | None:
    return next((e for e in extensions if path.name.lower().endswith(e)), None)


def _is_result(path: Path) -> bool:
    return (path / "run.json").is_file()


def _stem(path: Path, extensions: Sequence[str]) -> str:
    return path.name[: -len(extension)] if (extension := _extension(path, extensions)) else path.name


def read_picture(source: Any) -> NDArray[np.uint8]:
    """An RGB picture ``(h, w, 3)`` uint8 from an array, a file, or a result that made one.

    Raises
    ------
    SettingsError
        It is no picture, is empty, or is larger than 100 million pixels.
    SlideError
        It cannot be read.
    """
    from napari_histoseg.results.result import Result, open_result
    from napari_histoseg.slide import open_slide

    if isinstance(source, (str, Path)) and _is_result(Path(source)):
        source = open_result(source)
    if isinstance(source, Result):
        if source.image is None:
            raise SettingsError(f"The result of {source.record.method} holds no picture. Give the result of a method that makes one.")
        source = source.image
    if not isinstance(source, (str, Path)) and 0 in np.shape(source):
        raise SettingsError(f"The picture is empty: its shape is {np.shape(source)}. Give a picture with at least one pixel.")
    with open_slide(source) as slide:
        if slide.width * slide.height > MAX_PICTURE:
            raise SettingsError(
                f"{slide.name} has {slide.width} × {slide.height} px, and at most {MAX_PICTURE:,} can be scored at once. Score a region."
            )
        return slide.read(0, slide.bounds)


def read_labels(source: Any) -> NDArray[Any]:
    """A label picture ``(h, w)`` from an array, a file, or a result.

    Raises
    ------
    SettingsError
        It cannot be read, or is no plane of whole numbers.
    """
    from napari_histoseg.results.result import Result

    if isinstance(source, (str, Path)):
        labels = _read_path(Path(source))
    else:
        labels = np.asarray(source.labels if isinstance(source, Result) else source)
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        name = source if isinstance(source, (str, Path)) else type(source).__name__
        raise SettingsError(f"{name} has shape {labels.shape} and type {labels.dtype}. Labels are one plane of whole numbers.")
    return labels


def _read_path(path: Path) -> NDArray[Any]:
    if not path.exists():
        raise SettingsError(f"{path} does not exist.")
    if _is_result(path):
        from napari_histoseg.results.result import open_result

        return np.asarray(open_result(path).labels)
    extension = _extension(path)
    if extension is None:
        raise SettingsError(f"{path} is no label picture. Give a result folder or one of {', '.join(EXTENSIONS)}.")
    try:
        return _read_file(path, extension)
    except (OSError, ValueError, KeyError, SyntaxError) as error:
        raise SettingsError(f"{path} cannot be read as labels: {error}") from error


def _read_file(path: Path, extension: str) -> NDArray[Any]:
    if extension == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if extension.endswith("zarr"):
        import zarr

        node = zarr.open(path, mode="r")
        return np.asarray(node["0"] if isinstance(node, zarr.Group) else node)
    if extension == ".png":
        from PIL import Image

        with Image.open(path) as image:
            # A palette's colors mean nothing here: its indices are the labels.
            return np.asarray(image)
    import tifffile

    return np.asarray(tifffile.imread(path))


def fitted(labels: NDArray[Any], shape: tuple[int, ...], most: float = MAX_FACTOR) -> NDArray[Any]:
    """Labels of a field brought to another pixel size of the same field, ``most`` times as fine or coarse, by nearest neighbor.

    Raises
    ------
    SettingsError
        The two shapes are not of one aspect: they cannot show the same field.
    """
    if labels.shape == shape:
        return labels
    factor = np.sqrt(labels.size / max(int(np.prod(shape)), 1))
    # Rounding at either pixel size moves an edge by a pixel at most.
    slack = max(factor, 1.0) + 1e-6
    off = [abs(have - want * factor) for have, want in zip(labels.shape, shape, strict=True)]
    if not 1 / most <= factor <= most or max(off) > slack:
        raise SettingsError(
            f"The prediction has shape {labels.shape} and the truth {shape}: they do not show the same "
            "field. Score the region that the truth covers."
        )
    rows, columns = (((np.arange(want) + 0.5) * have / want).astype(np.int64) for have, want in zip(labels.shape, shape, strict=True))
    return np.asarray(labels[rows[:, None], columns[None, :]])
