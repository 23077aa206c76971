"""Profiles: what is saved is what is loaded, and what is no profile is told so plainly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from napari_histoseg.errors import SettingsError, StorageError
from napari_histoseg.slide.stain import StainProfile, StainVectors, builtin_profiles, load_profile, save_profile
from napari_histoseg.slide.stain.density import angle_deg

REMEDY = "Give the JSON file of a saved profile, or one of these names: colon-consep, breast-tnbc, cmu-1."


@pytest.fixture
def profile() -> StainProfile:
    return load_profile("colon-consep")


def test_the_built_in_profiles_are_sound_and_say_where_they_are_from() -> None:
    profiles = builtin_profiles()
    assert sorted(profiles) == ["breast-tnbc", "cmu-1", "colon-consep"]
    for name, profile in profiles.items():
        assert profile.name == name
        assert profile.problems == ()
        assert profile.source and profile.license in {"CC BY 4.0", "CC0-1.0", "Apache-2.0"}
        assert profile.macenko.vectors[0][0] > profile.macenko.vectors[1][0]
        assert 15 < angle_deg(profile.macenko.vectors) < 60


def test_changing_the_returned_names_changes_nothing_else() -> None:
    builtin_profiles().clear()
    assert builtin_profiles()


def test_a_saved_profile_is_loaded_as_it_was(profile: StainProfile, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    save_profile(profile.renamed("mine", note="Tuesday's scanner"), path)
    save_profile(profile.renamed("mine", note="Tuesday's scanner"), str(path))
    loaded = load_profile(path)
    assert loaded == profile.renamed("mine", note="Tuesday's scanner")
    assert loaded.source == profile.source
    assert list(tmp_path.iterdir()) == [path]


def _broken(change: dict[str, Any]) -> str:
    return json.dumps({**load_profile("cmu-1").model_dump(mode="json"), **change})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "is not a stain profile: it is not JSON. " + REMEDY),
        ("[1, 2]", "is not a stain profile: it has no version. " + REMEDY),
        ('{"name": "x"}', "is not a stain profile: it has no version. " + REMEDY),
        (
            _broken({"version": 2}),
            "is a stain profile of version 2; this program reads version 1. "
            "Measure the profile again, or use the program that made it.",
        ),
        (
            _broken({"white": [0, 240, 240], "extra": 1}),
            "is not a stain profile: white.0: Input should be greater than 0; extra: Extra inputs are not permitted. " + REMEDY,
        ),
        (
            _broken({"macenko": {"vectors": [[1, 1, 0], [0, 1, 0]], "concentrations": [1, 1]}}),
            "is not a stain profile: macenko.vectors: Value error, a stain vector must have length 1; "
            "(1.0, 1.0, 0.0) has 1.414. " + REMEDY,
        ),
    ],
)
def test_a_file_that_is_no_profile_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load_profile(path)
    assert str(error.value) == f"{path} {message}"


def test_a_picture_is_not_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(SettingsError) as error:
        load_profile(path)
    assert str(error.value) == f"{path} is not a stain profile: it is not text. {REMEDY}"


def test_a_folder_is_not_a_profile(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        load_profile(tmp_path)
    assert str(error.value) == f"{tmp_path} is a folder, not a stain profile. {REMEDY}"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError) as error:
        load_profile("colon")
    assert str(error.value) == f"There is no stain profile 'colon'. {REMEDY}"


def test_saving_where_nothing_can_be_written_says_so(profile: StainProfile, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "p.json"
    with pytest.raises(StorageError) as error:
        save_profile(profile, path)
    assert str(error.value) == (
        f"The stain profile cannot be saved as {path}: No such file or directory. "
        "Choose a folder that exists and can be written to."
    )


def test_profiles_cannot_be_changed_in_place(profile: StainProfile) -> None:
    with pytest.raises(ValidationError):
        profile.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        StainVectors(vectors=((float("nan"), 0, 0), (0, 1, 0)), concentrations=(1, 1))
