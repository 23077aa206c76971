"""Importing without a window: into a dataset that is there, or a new one."""

from __future__ import annotations

from pathlib import Path

from napari_histoseg.annotations.dataset import FILE_NAME
from napari_histoseg.annotations.imports import ImportReport, Kind, Outside, import_folder, import_geojson
from napari_histoseg.annotations.session import AnnotationSession
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide import open_slide

GEOJSON = (".geojson", ".json", ".geojson.gz", ".json.gz")


def import_annotations(
    source: str | Path,
    dataset: str | Path,
    *,
    mpp: float | None = None,
    slide: str | Path | None = None,
    kind: Kind | None = None,
    outside: Outside = "unlabeled",
) -> ImportReport:
    """Bring annotations that were made elsewhere into a patch dataset.

    Parameters
    ----------
    source : path
        GeoJSON, as QuPath writes it, or a folder of pictures with masks or in one folder for each class.
    dataset : path
        The dataset's folder; made when there is none.
    mpp : float, optional
        µm per pixel of the dataset, needed for a new one.
    slide : path, optional
        The slide that the GeoJSON was drawn on.
    kind : {"masks", "classes"}, optional
        What a folder of pictures has; found out when not given.
    outside : {"unlabeled", "background"}
        What pixels are that no area of the GeoJSON covers.

    Raises
    ------
    DatasetError
        Says what is missing or wrong; the dataset is then as it was.
    """
    source, dataset = Path(source), Path(dataset)
    drawn = source.name.lower().endswith(GEOJSON)
    if drawn and slide is None:
        raise DatasetError(f"{source.name} holds areas on a slide, but no slide was given. Name it with --slide, or slide= in Python.")
    if not drawn and slide is not None:
        raise DatasetError(f"{source} is no GeoJSON, so it needs no slide. Leave --slide out, or give a .geojson file.")
    with _opened(dataset, mpp) as session:
        if slide is None:
            return import_folder(session, source, kind=kind, mpp=mpp)
        with open_slide(slide) as opened:
            return import_geojson(session, opened, source, outside=outside)


def _opened(dataset: Path, mpp: float | None) -> AnnotationSession:
    if (dataset / FILE_NAME).is_file():
        return AnnotationSession.open(dataset)
    if mpp is None:
        raise DatasetError(f"{dataset} is no dataset yet. Say at how many µm per pixel it shall be, with --mpp, or mpp= in Python.")
    return AnnotationSession.create(dataset, mpp=mpp)
