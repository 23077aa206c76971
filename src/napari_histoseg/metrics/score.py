"""`score`: a prediction against the truth, from arrays, files, results, or folders of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.instances import score_nuclei

if TYPE_CHECKING:
    from napari_histoseg.results import Result

    Source = ArrayLike | Path | str | Result

EXTENSIONS = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".png", ".npy", ".ome.zarr", ".zarr")
MAX_FACTOR = 16.0
"""Largest ratio of pixel sizes between a prediction and its truth."""
_COUNTS = ("n_true", "n_pred")

_SCORES: dict[str, Callable[[ArrayLike, ArrayLike], dict[str, float]]] = {"nuclei": score_nuclei}


def score(method: str, prediction: Any, truth: Any, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Score a method's labels against the truth.

    Parameters
    ----------
    method : str
        ``"nuclei"``.
    prediction, truth : array, path, Result, or list or folder of them
        Labels, 0 background. Files are ``.tif``, ``.png``, ``.npy`` or ``.ome.zarr``; a folder with a
        ``run.json`` is a result, another folder holds pictures that pair by name. Lists pair by position.
        A prediction of the same field at another pixel size is resampled (nearest neighbor).
    classes : sequence of str, optional
        For methods with classes; nuclei have none.

    Returns
    -------
    dict
        For one picture the scores; see `score_nuclei`. For several their means (``n_true`` and ``n_pred``:
        sums), and ``n_images``, ``sd`` (standard deviation of each score over the pictures, n - 1) and
        ``images`` (the scores of each).

    Raises
    ------
    SettingsError
        The method cannot be scored, a file cannot be read, names do not pair, or the shapes cannot be brought
        together.
    """
    if method not in _SCORES:
        known = ", ".join(_SCORES)
        raise SettingsError(f"The method {method!r} cannot be scored. Methods that can: {known}.")
    if classes:
        raise SettingsError(f"{method} is scored without classes. Leave classes out. Got {list(classes)}.")
    predicted, true = _several(prediction), _several(truth)
    if predicted is None and true is None:
        return dict(_one(method, prediction, truth))
    if predicted is None or true is None:
        raise SettingsError("Prediction and truth must both be one picture, or both a list or folder of pictures.")
    pairs = _paired(predicted, true)
    return _summary({name: _one(method, *pair) for name, pair in pairs.items()})


def _one(method: str, prediction: Any, truth: Any) -> dict[str, float]:
    true = read_labels(truth)
    return _SCORES[method](fitted(read_labels(prediction), true.shape), true)


def _summary(scores: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    rows = list(scores.values())
    columns = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
    result: dict[str, Any] = {name: int(values.sum()) if name in _COUNTS else float(values.mean()) for name, values in columns.items()}
    spread = {name: float(values.std(ddof=1)) if len(values) > 1 else 0.0 for name, values in columns.items() if name not in _COUNTS}
    return result | {"n_images": len(rows), "sd": spread, "images": dict(scores)}


def _several(source: Any) -> dict[str, Any] | None:
    """The pictures of a list or folder by name; None for a single picture."""
    if isinstance(source, (list, tuple)) and not _is_nested_numbers(source):
        return {str(i): item for i, item in enumerate(source)}
    if isinstance(source, (str, Path)) and (folder := Path(source)).is_dir():
        if (folder / "run.json").exists() or (folder / "zarr.json").exists() or (folder / ".zattrs").exists():
            return None
        found = {_stem(path): path for path in sorted(folder.iterdir()) if _extension(path) or _is_result(path)}
        if not found:
            raise SettingsError(f"{folder} holds no label pictures ({', '.join(EXTENSIONS)}) and is no result folder.")
        return found
    return None


def _is_nested_numbers(source: Sequence[Any]) -> bool:
    """Whether a list is a picture written as rows of numbers."""
    return bool(source) and isinstance(source[0], (list, tuple)) and not isinstance(source[0][0], (list, tuple))


def _paired(prediction: dict[str, Any], truth: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    lists = all(key.isdecimal() for key in [*prediction, *truth])
    if lists and len(prediction) != len(truth):
        raise SettingsError(f"There are {len(prediction)} predictions and {len(truth)} truths. Give one prediction a truth.")
    missing = [f"{name} has no prediction" for name in sorted(set(truth) - set(prediction))]
    missing += [f"{name} has no truth" for name in sorted(set(prediction) - set(truth))]
    if missing:
        raise SettingsError(f"Pictures pair by file name, but {'; '.join(missing)}.")
    return {name: (prediction[name], truth[name]) for name in truth}


def _extension(path: Path) -> str | None:
    return next((e for e in EXTENSIONS if path.name.lower().endswith(e)), None)


def _is_result(path: Path) -> bool:
    return (path / "run.json").is_file()


def _stem(path: Path) -> str:
    return path.name[: -len(_extension(path) or "")] if _extension(path) else path.name


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


def fitted(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Labels of a field brought to another pixel size of the same field by nearest neighbor.

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
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR or max(off) > slack:
        raise SettingsError(
            f"The prediction has shape {labels.shape} and the truth {shape}: they do not show the same "
            "field. Score the region that the truth covers."
        )
    rows, columns = (((np.arange(want) + 0.5) * have / want).astype(np.int64) for have, want in zip(labels.shape, shape, strict=True))
    return np.asarray(labels[rows[:, None], columns[None, :]])
