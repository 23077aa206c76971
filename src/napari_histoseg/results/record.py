"""The run record (``run.json``): what was run on what, with which settings, and how far it came."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from napari_histoseg.errors import ResultError
from napari_histoseg.results.files import atomic
from napari_histoseg.slide.geometry import Box

FORMAT_VERSION = 1
FILE_NAME = "run.json"


def _to_box(value: object) -> object:
    if isinstance(value, (list, tuple)) and len(value) == 4:
        return Box(*(int(v) for v in value))
    return value


BoxField = Annotated[
    Box,
    BeforeValidator(_to_box),
    PlainSerializer(lambda box: [box.x, box.y, box.width, box.height], return_type=list[int]),
]
"""A `Box` that is ``[x, y, width, height]`` in JSON."""

Status = Literal["running", "cancelled", "finished", "failed"]


def package_version() -> str:
    """Version of the installed package; ``"unknown"`` when it runs from a bare checkout."""
    try:
        return version("napari-histoseg")
    except PackageNotFoundError:
        return "unknown"


def now() -> str:
    """The current time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class SlideRecord(BaseModel):
    """The slide that a run read, as it was then."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    path: str | None = None
    fingerprint: str
    width: int
    height: int
    mpp: float | None
    mpp_source: str | None = None
    format: str = "array"
    stain: dict[str, Any] | None = None
    """How its colors were normalized; None as scanned."""


class WeightsRecord(BaseModel):
    """The weights that a run used."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    sha256: str


class ClassRecord(BaseModel):
    """One class of a method's output."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    value: int
    name: str
    color: str = "#3cb44b"


class RunRecord(BaseModel):
    """Everything about a run that is not pixels or objects.

    ``mpp`` is the working pixel size in µm/px; ``frame`` the covered box in working pixels; ``region`` the
    covered box in level-0 pixels when the run was limited to one, and ``outline`` its polygon (WKT, level-0
    pixels) when it is no box. ``merged`` maps finer values that pixels or objects have to the value of the class
    that they are shown as.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    version: str = Field(default_factory=package_version)
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsRecord | None = None
    outputs: tuple[str, ...] = ()
    slide: SlideRecord
    region: BoxField | None = None
    outline: str | None = None
    mpp: float | None
    frame: BoxField
    tile_px: int
    halo_px: int
    n_tiles: int
    tiles_done: int = 0
    device: str = "cpu"
    precision: str = "float32"
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    started: str = Field(default_factory=now)
    finished: str | None = None
    seconds: float = 0.0
    status: Status = "running"
    notices: list[str] = Field(default_factory=list)
    failed_tiles: list[dict[str, Any]] = Field(default_factory=list)
    classes: list[ClassRecord] = Field(default_factory=list)
    merged: dict[int, int] = Field(default_factory=dict)

    @property
    def downsample(self) -> float:
        """Level-0 pixels per working pixel."""
        if self.mpp is None or self.slide.mpp is None:
            return 1.0
        return self.mpp / self.slide.mpp

    def replaced(self, **changes: Any) -> RunRecord:
        """A validated copy with some fields changed."""
        return RunRecord.model_validate({**self.model_dump(), **changes})

    def write(self, folder: Path, durable: bool = True) -> None:
        """Write ``run.json`` into ``folder``, whole or not at all."""
        with atomic(folder / FILE_NAME, durable=durable) as file:
            file.write(self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read ``run.json`` from a result folder.

        Raises
        ------
        ResultError
            There is none, it is damaged, or another version of the package wrote it in another format.
        """
        path = folder / FILE_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ResultError(f"{folder} is no result: it has no {FILE_NAME}. Give the folder that a run wrote.") from error
        except (OSError, ValueError) as error:
            raise ResultError(f"{path} cannot be read ({error}). The result is damaged; run again.") from error
        found = data.get("format_version") if isinstance(data, dict) else None
        if found != FORMAT_VERSION:
            raise ResultError(
                f"{folder} was made by napari-histoseg {_maker(data)} in result format {found}; this version "
                f"reads format {FORMAT_VERSION}. Open it with that version, or run again into a new folder."
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ResultError(f"{path} is damaged: {problems}. Run again into a new folder.") from error


def _maker(data: object) -> str:
    return str(data.get("version", "unknown")) if isinstance(data, dict) else "unknown"


def differences(old: RunRecord, new: RunRecord) -> list[str]:
    """Sentences on what keeps a run with record ``new`` from continuing the one with record ``old``."""
    pairs: dict[str, tuple[object, object]] = {
        "format version": (old.format_version, new.format_version),
        "method": (old.method, new.method),
        "weights sha256": (_sha(old), _sha(new)),
        "slide fingerprint": (old.slide.fingerprint, new.slide.fingerprint),
        "stain": ((old.slide.stain or {}).get("key"), (new.slide.stain or {}).get("key")),
        "mpp": (old.mpp, new.mpp),
        "frame": (tuple(_corners(old.frame)), tuple(_corners(new.frame))),
        "outline": (old.outline, new.outline),
        "tile size": (old.tile_px, new.tile_px),
        "halo": (old.halo_px, new.halo_px),
        "seed": (old.seed, new.seed),
    }
    # Settings went through JSON once: tuples became lists there.
    settings = json.loads(json.dumps(new.settings, default=str))
    for key in sorted({*old.settings, *settings}):
        pairs[f"setting {key}"] = (old.settings.get(key), settings.get(key))
    return [f"{name} was {was!r}, now {now_!r}" for name, (was, now_) in pairs.items() if was != now_]


def _sha(record: RunRecord) -> str | None:
    return record.weights.sha256 if record.weights else None


def _corners(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.width, box.height
