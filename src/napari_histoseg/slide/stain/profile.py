"""What a stain looks like, measured: a small record that is saved, named and shared."""

from __future__ import annotations

import json
import math
import os
import uuid
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_histoseg.errors import SettingsError, StorageError

VERSION = 1
FIRST = "colon-consep"
"""The built-in profile that is taken when no reference is named."""
Triple = tuple[float, float, float]
Gray = Annotated[float, Field(gt=0, le=255)]
Sd = Annotated[float, Field(ge=0)]
#: The classical methods.
StainMethod = Literal["macenko", "vahadane", "reinhard"]
METHODS: tuple[StainMethod, ...] = ("macenko", "vahadane", "reinhard")


class StainVectors(BaseModel):
    """The colors of pure hematoxylin and pure eosin, and how much of each the tissue holds.

    Parameters
    ----------
    vectors : two triples
        Optical density (base 10) of red, green and blue for hematoxylin, then eosin; each of length 1.
    concentrations : (float, float)
        99th percentile of the amount of hematoxylin and of eosin over the tissue: optical density along the
        vector.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    vectors: tuple[Triple, Triple]
    concentrations: tuple[float, float]

    @field_validator("vectors")
    @classmethod
    def _length_one(cls, vectors: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
        for vector in vectors:
            if abs(math.hypot(*vector) - 1) > 1e-3:
                raise ValueError(f"a stain vector must have length 1; {vector} has {math.hypot(*vector):.4g}")
        return vectors


class StainProfile(BaseModel):
    """The stain of a slide or picture, as :func:`~napari_histoseg.slide.stain.measure` finds it.

    Parameters
    ----------
    name, note, source, license : str
        For people: what it is called, what it was measured on, and under which license those pixels were.
    white : (float, float, float)
        RGB of the glass, above 0 and up to 255.
    macenko, vahadane : StainVectors
        Measured in two ways.
    lab_mean, lab_sd : (float, float, float)
        Mean and standard deviation of CIE L*a*b* (D65) over the tissue.
    tissue_pixels : int
        How many pixels of tissue it was measured on.
    problems : tuple of str
        Why the measurement is not to be trusted; empty when it is sound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    name: str
    note: str = ""
    source: str = ""
    license: str = ""
    white: tuple[Gray, Gray, Gray]
    macenko: StainVectors
    vahadane: StainVectors
    lab_mean: Triple
    lab_sd: tuple[Sd, Sd, Sd]
    tissue_pixels: Annotated[int, Field(ge=0)]
    problems: tuple[str, ...] = ()

    def renamed(self, name: str, *, note: str = "", source: str = "", license: str = "") -> Self:
        """The same measurement under another name; empty texts keep the old ones."""
        texts = {"note": note, "source": source, "license": license}
        return self.model_copy(update={"name": name, **{key: text for key, text in texts.items() if text}})


@lru_cache(maxsize=1)
def _builtin() -> dict[str, StainProfile]:
    folder = resources.files(__package__) / "profiles"
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".json")]
    profiles = [StainProfile.model_validate_json(text) for text in texts]
    return {profile.name: profile for profile in sorted(profiles, key=lambda profile: (profile.name != FIRST, profile.name))}


def builtin_profiles() -> dict[str, StainProfile]:
    """The profiles that come with the package, by name; the first is the reference when none is given."""
    return dict(_builtin())


def load_profile(path_or_name: str | os.PathLike[str]) -> StainProfile:
    """Read a profile.

    Parameters
    ----------
    path_or_name : str or path
        The name of a built-in profile, or a JSON file that :func:`save_profile` wrote.

    Raises
    ------
    SettingsError
        For a name that is not known, and for a file that is no profile, says why.
    """
    known = _builtin()
    if isinstance(path_or_name, str) and path_or_name in known:
        return known[path_or_name]
    path = Path(path_or_name)
    remedy = f"Give the JSON file of a saved profile, or one of these names: {', '.join(known)}."
    if path.is_dir():
        raise SettingsError(f"{path} is a folder, not a stain profile. {remedy}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"There is no stain profile {str(path)!r}. {remedy}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not a stain profile: it is not text. {remedy}") from None
    except OSError as error:
        raise SettingsError(f"The stain profile {path} cannot be read: {error.strerror}. {remedy}") from error
    return _parse(text, path, remedy)


def _parse(text: str, path: Path, remedy: str) -> StainProfile:
    try:
        values = json.loads(text)
    except ValueError:
        raise SettingsError(f"{path} is not a stain profile: it is not JSON. {remedy}") from None
    if not isinstance(values, dict) or "version" not in values:
        raise SettingsError(f"{path} is not a stain profile: it has no version. {remedy}")
    if values["version"] != VERSION:
        raise SettingsError(
            f"{path} is a stain profile of version {values['version']!r}; this program reads version {VERSION}. "
            "Measure the profile again, or use the program that made it."
        )
    try:
        return StainProfile.model_validate(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise SettingsError(f"{path} is not a stain profile: {'; '.join(wrong)}. {remedy}") from None


def save_profile(profile: StainProfile, path: str | os.PathLike[str]) -> None:
    """Write a profile as JSON; an existing file is replaced.

    Raises
    ------
    StorageError
        When the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(profile.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"The stain profile cannot be saved as {target}: {error.strerror}. Choose a folder that exists and "
            "can be written to."
        ) from error
