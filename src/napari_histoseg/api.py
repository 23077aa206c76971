"""The Python calls: what ``histoseg run`` and ``histoseg train`` do, with the same settings and the same results."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histoseg import methods
from napari_histoseg.errors import DatasetError, RunError, SettingsError
from napari_histoseg.slide import Slide
from napari_histoseg.slide import open_slide as open_as_scanned

if TYPE_CHECKING:
    from napari_histoseg.annotations.dataset import PatchDataset
    from napari_histoseg.predict.events import RunEvent
    from napari_histoseg.results import Result
    from napari_histoseg.train.loop import TrainEvent


def open_slide(source: Any, mpp: float | None = None, *, stain: Any = None, stain_method: str | None = None) -> Slide:
    """Open anything that holds an H&E image.

    Parameters
    ----------
    source : path, array, sequence of arrays, or Slide
        A slide file (SVS, TIFF, OME-TIFF, DICOM, MRXS, NDPI, SCN, BIF ...), an OME-Zarr folder, an image file, a NumPy or dask
        array ``(H, W)``, ``(H, W, 3 | 4)`` or ``(3 | 4, H, W)``, or a list of such arrays from fine to coarse.
    mpp : float, optional
        µm per pixel of level 0; overrides what the file says.
    stain : name, path, StainProfile, picture, Slide or normalizer, optional
        Read in these colors: a built-in profile, a profile's JSON file, a picture or slide to measure, or a trained style
        (``.safetensors``). The slide is measured once; the file is not changed.
    stain_method : {"macenko", "vahadane", "reinhard", "neural"}, optional
        ``macenko`` when not given.

    Raises
    ------
    SlideError
        When the source does not exist or is no image.
    PixelSizeError
        When ``mpp`` is no positive number.
    SettingsError
        When ``stain`` is none of these.
    """
    slide = open_as_scanned(source, mpp)
    if stain is None:
        if stain_method is not None:
            raise SettingsError(f"The stain method '{stain_method}' needs a stain to bring the colors to. Give one, for instance a profile.")
        return slide
    from napari_histoseg.methods.stain.resolve import stained

    return stained(slide, stain, stain_method)


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
        A ``.safetensors`` file; the shipped weights when not given. For ``tumour`` also a ``.json`` that describes ONNX networks.
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
    opened = slide if isinstance(slide, Slide) else open_as_scanned(slide)
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
    method: str,
    dataset: str | Path,
    /,
    *,
    out: str | Path,
    resume: bool = False,
    stain: Any = None,
    stain_method: str | None = None,
    **settings: Any,
) -> Path:
    """Train a method on a patch dataset and return the weights file.

    Parameters
    ----------
    method : str
    dataset : path
        Folder with ``dataset.json``; for ``cells`` also a result's folder, for ``tissue`` also a slide or a folder of slides.
    out : path
        The ``.safetensors`` file to write; the learning curve goes beside it.
    resume : bool
        Go on from the checkpoint beside ``out``.
    stain, stain_method : optional
        Read the pictures in these colors, as for :func:`open_slide`; each slide, or group of pictures, is measured once.
    **settings
        Fields of the method's training settings, ``methods.get(method).spec.training``.
    """
    from napari_histoseg.train.loop import Trained

    for event in iter_train(method, dataset, out=out, resume=resume, stain=stain, stain_method=stain_method, **settings):
        if isinstance(event, Trained):
            return event.weights
    raise RunError("The training ended without weights.")


def iter_train(
    method: str,
    dataset: str | Path,
    /,
    *,
    out: str | Path,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
    stain: Any = None,
    stain_method: str | None = None,
    **settings: Any,
) -> Generator[TrainEvent, None, None]:
    """The training as an iterator of events; closing it stops. Parameters as :func:`train`.

    ``stop``, asked after each step, ends the training at once with the best weights.
    """
    chosen = methods.get(method)
    if chosen.spec.training is None:
        raise SettingsError(f"The method '{method}' has no training.")
    model = chosen.spec.training.parse(settings)
    target = Path(out)
    if target.suffix != ".safetensors":
        raise SettingsError(f"Weights are written as .safetensors. Got {target.name!r} instead; name the file for instance weights.safetensors.")
    if not target.parent.is_dir():
        raise DatasetError(f"The folder {target.parent} for the weights does not exist. Make it first, or choose another.")
    from napari_histoseg.train.loop import fit, never
    from napari_histoseg.train.task import OwnTraining

    task = chosen.train_task(_looked_at(Path(dataset), stain, stain_method), model)
    if isinstance(task, OwnTraining):
        return task.events(target, resume, stop or never)
    return fit(task, target, resume=resume, stop=stop or never)


def _looked_at(dataset: Path, stain: Any, method: str | None) -> Path | PatchDataset:
    """The dataset, its pictures in the colors of ``stain``; a result's folder, a slide or a folder of slides as it is."""
    from napari_histoseg.annotations.dataset import FILE_NAME, read_dataset

    if stain is None and not (dataset / FILE_NAME).is_file():
        return dataset
    read = read_dataset(dataset)
    if stain is None:
        return read
    from napari_histoseg.methods.stain.pictures import PictureStain

    return read.model_copy(update={"look": PictureStain(stain, method)})


def carry(result: Any, out: str | Path, /) -> Path:
    """Write what a person made of a result's classes (names, colors, merges, splits, corrections) as weights for the next slide.

    Parameters
    ----------
    result : Result or path
        Of ``cells`` or ``tissue``.
    out : path
        The ``.safetensors`` file to write.

    Raises
    ------
    ResultError
        The result has no model of classes.
    """
    from napari_histoseg.methods.cells.carry import carry as carry_cells
    from napari_histoseg.methods.tissue.carry import carry as carry_tissue
    from napari_histoseg.results import Result, open_result

    opened = result if isinstance(result, Result) else open_result(result)
    write = carry_tissue if opened.record.method == "tissue" else carry_cells
    return write(opened, Path(out))


def export_onnx(weights: str | Path, out: str | Path, /, *, tile: str | Path | None = None, overwrite: bool = False) -> dict[str, Any]:
    """Write the networks of a ``tumour`` model as ONNX, with a description and a pipeline for FAST and FastPathology.

    Parameters
    ----------
    weights : path
        A ``.safetensors`` file of the method ``tumour``.
    out : path
        The folder to write. Its ``model.json`` can be given as weights again.
    tile : path, optional
        A picture of tissue that torch and ONNX Runtime are compared on; random pixels when not given.
    overwrite : bool
        Replace another export there.

    Returns
    -------
    dict
        What ``model.json`` says; ``largest_difference`` has the difference between torch and ONNX Runtime of each file.

    Raises
    ------
    WeightsError
        The weights are of another method, or a package for ONNX is missing.
    ResultError
        The folder has something in it already.
    """
    from napari_histoseg.methods.tumour.exchange.export import export_onnx as write

    return write(Path(weights), Path(out), None if tile is None else Path(tile), overwrite).model_dump(mode="json", exclude_none=True)


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
