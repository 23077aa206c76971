"""The Python calls: what ``histoseg run`` and ``histoseg train`` do, with the same settings and the same results."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histoseg import methods
from napari_histoseg.errors import DatasetError, RunError, SettingsError
from napari_histoseg.slide import Slide, open_slide

if TYPE_CHECKING:
    from napari_histoseg.predict.events import RunEvent
    from napari_histoseg.results import Result
    from napari_histoseg.train.loop import TrainEvent


def run(
    method: str,
    slide: Any,
    /,
    *,
    out: str | Path | None = None,
    region: Any = None,
    weights: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Result:
    """Run a method on a slide and return the result.

    Parameters
    ----------
    method : str
        One of ``methods.names()``.
    slide : Slide, path or array
        An array needs a Slide: ``open_slide(array, mpp=0.25)``.
    out : path, optional
        Folder of the result; a temporary folder when not given.
    region : Box, (x, y, width, height), or shapely polygon, optional
        Level-0 pixels.
    weights : path, optional
        A ``.safetensors`` file; the shipped weights when not given.
    resume, overwrite : bool
        Go on with, or replace, a result in ``out``.
    **settings
        Fields of the method's settings model, ``methods.get(method).spec.settings``.

    Raises
    ------
    HistosegError
        Its subclasses say what was given, the rule, and what to do.
    """
    from napari_histoseg.predict.events import Finished

    for event in iter_run(
        method, slide, out=out, region=region, weights=weights, resume=resume, overwrite=overwrite, **settings
    ):
        if isinstance(event, Finished):
            return event.result
    raise RunError("The run ended without a result.")


def iter_run(
    method: str,
    slide: Any,
    /,
    *,
    out: str | Path | None = None,
    region: Any = None,
    weights: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Generator[RunEvent, None, None]:
    """The run as an iterator of events; closing it cancels. Parameters as :func:`run`."""
    model = methods.get(method).spec.settings.parse(settings)
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    from napari_histoseg.predict.run import iter_run as engine

    return engine(
        method,
        opened,
        out=None if out is None else Path(out),
        region=region,
        weights=None if weights is None else Path(weights),
        resume=resume,
        overwrite=overwrite,
        settings=model,
    )


def train(
    method: str, dataset: str | Path, /, *, out: str | Path, resume: bool = False, **settings: Any
) -> Path:
    """Train a method on a patch dataset and return the weights file.

    Parameters
    ----------
    method : str
    dataset : path
        Folder with ``dataset.json``.
    out : path
        The ``.safetensors`` file to write; the learning curve goes beside it.
    resume : bool
        Go on from the checkpoint beside ``out``.
    **settings
        Fields of the method's training settings, ``methods.get(method).spec.training``.
    """
    from napari_histoseg.train.loop import Trained

    for event in iter_train(method, dataset, out=out, resume=resume, **settings):
        if isinstance(event, Trained):
            return event.weights
    raise RunError("The training ended without weights.")


def iter_train(
    method: str, dataset: str | Path, /, *, out: str | Path, resume: bool = False, **settings: Any
) -> Generator[TrainEvent, None, None]:
    """The training as an iterator of events; closing it stops. Parameters as :func:`train`."""
    chosen = methods.get(method)
    if chosen.spec.training is None:
        raise SettingsError(f"The method '{method}' has no training.")
    model = chosen.spec.training.parse(settings)
    target = Path(out)
    if target.suffix != ".safetensors":
        raise SettingsError(f"Weights are written as .safetensors. Got {target.name!r} instead; name the file for instance weights.safetensors.")
    if not target.parent.is_dir():
        raise DatasetError(f"The folder {target.parent} for the weights does not exist. Make it first, or choose another.")
    from napari_histoseg.train.loop import fit

    return fit(chosen.train_task(Path(dataset), model), target, resume=resume)


def list_weights() -> list[dict[str, Any]]:
    """The weights that ship with the package: name, method, file and model card, best first for each method."""
    from napari_histoseg.nn.weights import read_card

    home = Path(methods.__file__).parent
    rows = []
    for name in methods.names():
        for path in sorted((home / name / "weights").glob("*.safetensors")):
            card = read_card(path).model_dump()
            rows.append({"name": path.stem, "method": name, "path": str(path), "card": card})
    return rows
