"""``model.json``: what somebody has to say of ONNX networks, so that they can be run here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from napari_histoseg.errors import WeightsError
from napari_histoseg.methods.tumour.config import scale_at
from napari_histoseg.nn.weights import sha256_of

FILE_NAME = "model.json"
Range = Literal["0-1", "0-255", "-1-1"]
Layout = Literal["nchw", "nhwc"]
Values = Literal["probability", "logits"]


class Network(BaseModel):
    """What an ONNX file takes and gives.

    Attributes
    ----------
    file : str
        The ONNX file, in the folder of the JSON.
    range : {"0-1", "0-255", "-1-1"}
        What black and white are for the network. Normalization by mean and spread belongs into the network.
    layout : {"nchw", "nhwc"}
        Channels before rows and columns (PyTorch), or after them (TensorFlow).
    values : {"probability", "logits"}
        Whether its output went through softmax or sigmoid.
    tumour_output : int
        Which of its outputs is the tumour; not asked where there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    file: str = Field(min_length=1)
    range: Range = "0-1"
    layout: Layout = "nchw"
    values: Values = "probability"
    tumour_output: int = Field(default=1, ge=0)


class RefinerNetwork(Network):
    """A network that refines the outline from the picture at low resolution and the heatmap.

    Attributes
    ----------
    inputs : list of str
        Names of its inputs for the picture and, if it takes one, for the heatmap; by default in the order of the file.
    side_px : int
        The side that a whole slide is brought to; 0 for a network that takes pictures of any size at ``mpp``.
    mpp : float
        µm per pixel of the picture, where ``side_px`` is 0; by default that of the heatmap, 8.
    multiple_px : int
        Sides of the picture are multiples of it, where ``side_px`` is 0: 2 to the power of the poolings.
    """

    inputs: list[str] = Field(default_factory=list, max_length=2)
    side_px: int = Field(default=0, ge=0, le=8192)
    mpp: float | None = Field(default=None, gt=0, le=128)
    multiple_px: int = Field(default=64, ge=1, le=1024)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.multiple_px & (self.multiple_px - 1):
            raise ValueError(f"multiple_px is a power of two, such as 64. Got {self.multiple_px} instead.")
        return self

    @property
    def levels(self) -> int:
        """Halvings in the network."""
        return self.multiple_px.bit_length() - 1


class Description(BaseModel):
    """The whole JSON.

    Attributes
    ----------
    classifier : str or None
        The ONNX file of the patch classifier, in the folder of the JSON.
    mpp : float
        µm per pixel of its patches; without a classifier, of the picture that the refiner sees.
    patch_px : int
        Side of a patch.
    range, layout, values, tumour_output
        Of the classifier, as in :class:`Network`.
    refiner : RefinerNetwork or None
    name : str
    sha256 : dict
        Of the files, by name; those that are named here are compared.
    classes, thresholds, version, largest_difference
        For the reader; not used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = ""
    classifier: str | None = None
    mpp: float = Field(gt=0, le=128)
    patch_px: int = Field(default=256, ge=16, le=4096)
    range: Range = "0-1"
    layout: Layout = "nchw"
    values: Values = "probability"
    tumour_output: int = Field(default=1, ge=0)
    refiner: RefinerNetwork | None = None
    classes: list[str] = Field(default_factory=list)
    thresholds: dict[str, float] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)
    largest_difference: dict[str, float] = Field(default_factory=dict)
    version: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.classifier is None and self.refiner is None:
            raise ValueError("It names neither a classifier nor a refiner. Name at least one ONNX file.")
        if self.classifier is not None and self.patch_px % 4:
            raise ValueError(f"patch_px is a multiple of 4. Got {self.patch_px} instead; crop or enlarge the patches inside the network.")
        return self

    @property
    def patches(self) -> Network | None:
        """The classifier."""
        if self.classifier is None:
            return None
        return Network(file=self.classifier, range=self.range, layout=self.layout, values=self.values, tumour_output=self.tumour_output)

    @property
    def scale(self) -> int:
        """Pixels of a patch for each pixel of the heatmap, along each axis: as in training, or fewer where patches cannot be divided so."""
        scale = 1 if self.classifier is None else scale_at(self.mpp)
        while scale > 1 and self.patch_px % (4 * scale):
            scale //= 2
        return scale

    @property
    def working_mpp(self) -> float:
        """µm per pixel of heatmap and outline."""
        return self.mpp * self.scale

    @property
    def factor(self) -> int:
        """Pixels of the heatmap for each pixel that the refiner sees, along each axis."""
        wanted = None if self.refiner is None else self.refiner.mpp
        return 1 if wanted is None else max(1, round(wanted / self.working_mpp))


def read_description(path: Path) -> Description:
    """Read a JSON that describes ONNX networks.

    Raises
    ------
    WeightsError
        It is missing, no JSON, or says something impossible.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"The file {path} does not exist. Give the .json that describes ONNX networks.") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}. Write it again, or give the .json that 'histoseg weights onnx' wrote.") from None
    if not isinstance(values, dict):
        raise WeightsError(f'{path} does not describe ONNX networks. It holds no names and values, such as {{"classifier": "file.onnx", "mpp": 1.0}}.')
    try:
        return Description.model_validate(values)
    except ValidationError as error:
        raise WeightsError(f"{path} does not describe ONNX networks. {_explained(error)}") from None


def _explained(error: ValidationError) -> str:
    """The first problem: the field, the rule, and what was given."""
    problem: Any = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        of = RefinerNetwork if problem["loc"][0] == "refiner" else Description
        return f"There is no '{name}'. What can be said is: {', '.join(of.model_fields)}."
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "missing":
        return f"'{name}' is missing. Write it."
    rule = problem["msg"][0].lower() + problem["msg"][1:]
    return f"'{name or 'the whole'}' is wrong: {rule}. Got {problem['input']!r} instead."


def onnx_file(path: Path, name: str) -> Path:
    """An ONNX file that a JSON names.

    Raises
    ------
    WeightsError
        It lies outside the folder of the JSON, or is not there.
    """
    folder = path.resolve().parent
    file = (folder / name).resolve()
    if not file.is_relative_to(folder):
        raise WeightsError(f"{path} names {name!r}, which lies outside its folder. Put the ONNX file beside the JSON, and name it without a path.")
    if not file.is_file():
        raise WeightsError(f"{path} names {name!r}, which is not in its folder. Put the ONNX file there, or correct the name.")
    return file


def fingerprint(path: Path, description: Description) -> str:
    """One hash of the JSON and the files that it names.

    Raises
    ------
    WeightsError
        A file is not the one whose hash the JSON states.
    """
    digest = hashlib.sha256(sha256_of(path).encode())
    for network in (description.patches, description.refiner):
        if network is None:
            continue
        own = sha256_of(onnx_file(path, network.file))
        if description.sha256.get(network.file, own) != own:
            raise WeightsError(f"{path} was written for another {network.file}: its sha256 differs. Copy both again, or take the hash out of the JSON.")
        digest.update(own.encode())
    return digest.hexdigest()
