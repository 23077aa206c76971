"""Stain keeps what every method keeps, and what it is given as a reference is what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing import he_image
from napari_histoseg.cli import main
from napari_histoseg.errors import ResultError, SettingsError, SlideError
from napari_histoseg.predict.events import Notice
from napari_histoseg.slide.stain import builtin_profiles, measure, save_profile

_spec = importlib.util.spec_from_file_location("conformance", Path(__file__).with_name("conformance.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

PINK = (255 * (he_image(300, 300, seed=9, mpp=0.5) / 255) ** (1.3, 1.8, 1.4)).astype(np.uint8)
"""Another laboratory: more eosin, a darker lamp."""


class _Stain(_module.Conformance):
    method = "stain"

    def agree(self, a: Any, b: Any, least: float | None = None) -> None:
        first, second = np.asarray(a.image).astype(int), np.asarray(b.image).astype(int)
        assert np.abs(first - second).max() <= self.fast.get("method", "").count("neural")

    def test_glass_gives_nothing(self) -> None:
        glass = np.full((400, 400, 3), 243, np.uint8)
        result = hs.run("stain", hs.open_slide(glass, mpp=0.25), **self.fast)
        np.testing.assert_array_equal(np.asarray(result.image), glass)


class TestMacenko(_Stain):
    fast = {"method": "macenko"}


class TestVahadane(_Stain):
    fast = {"method": "vahadane"}


class TestReinhard(_Stain):
    fast = {"method": "reinhard"}


class TestNeural(_Stain):
    fast = {"method": "neural"}


@pytest.fixture(scope="module")
def slide() -> hs.Slide:
    return hs.open_slide(he_image(400, 300, seed=5, mpp=0.5), mpp=0.5)


def references(folder: Path) -> dict[str, Any]:
    """The same picture, given in every way."""
    profile = measure(PINK, name="pink")
    Image.fromarray(PINK).save(folder / "pink.png")
    save_profile(profile, folder / "pink.json")
    return {
        "array": PINK,
        "slide": hs.open_slide(PINK, mpp=0.5),
        "path": folder / "pink.png",
        "string": str(folder / "pink.png"),
        "profile": profile,
        "profile's file": str(folder / "pink.json"),
    }


def test_a_reference_can_be_a_picture_a_slide_a_file_or_a_profile(slide: hs.Slide, tmp_path: Path) -> None:
    made = {name: np.asarray(hs.run("stain", slide, target=target).image) for name, target in references(tmp_path).items()}
    assert np.abs(made["array"].astype(int) - slide.read(0, slide.bounds)).mean() > 5
    for name, image in made.items():
        difference = np.abs(image.astype(int) - made["array"])
        assert difference.mean() < 2, name


def test_the_run_and_the_lazy_slide_are_the_same_pixels(slide: hs.Slide) -> None:
    stored = np.asarray(hs.run("stain", slide, target=PINK).image)
    lazy = hs.open_slide(slide, stain=PINK)
    np.testing.assert_array_equal(stored, lazy.read(0, lazy.bounds))


def test_a_region_has_the_colors_of_the_whole_slide(slide: hs.Slide) -> None:
    whole = np.asarray(hs.run("stain", slide, target=PINK).image)
    part = hs.run("stain", slide, target=PINK, region=(100, 50, 120, 90))
    np.testing.assert_array_equal(np.asarray(part.image), whole[50:140, 100:220])


def test_every_method_reads_the_normalized_slide_and_the_record_says_so(slide: hs.Slide) -> None:
    result = hs.run("nuclei", hs.open_slide(slide, stain=PINK), model="log")
    assert result.record.slide.stain["method"] == "macenko"
    plain = hs.run("nuclei", slide, model="log")
    assert plain.record.slide.stain is None
    assert not np.array_equal(np.asarray(result.probability), np.asarray(plain.probability))


def test_resuming_with_other_colors_is_refused(slide: hs.Slide, tmp_path: Path) -> None:
    hs.run("nuclei", slide, out=tmp_path / "r", model="log")
    with pytest.raises(ResultError, match="stain was None"):
        hs.run("nuclei", hs.open_slide(slide, stain=PINK), out=tmp_path / "r", resume=True, model="log")


def test_what_cannot_be_normalized_is_left_and_said() -> None:
    glass = hs.open_slide(np.full((300, 300, 3), 240, np.uint8), mpp=0.5)
    events = list(hs.iter_run("stain", glass))
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert notices and "tissue" in notices[0]
    assert events[-1].result.record.slide.stain["quality"]["light"] == "refused"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "macenk"}, "The setting 'method' is wrong: input should be 'macenko', 'vahadane', 'reinhard' or 'neural'. Got 'macenk' instead."),
        ({"target": 3.5}, "A stain target is a profile, its name or file, a picture, or a slide. Got float instead."),
        ({"weights": "w.safetensors"}, "Only the method 'neural' has weights; 'macenko' measures the slide. Leave the weights out, or choose neural."),
    ],
)
def test_bad_settings(slide: hs.Slide, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        hs.run("stain", slide, **settings)
    assert str(caught.value) == message


def test_bad_stains_of_a_slide(slide: hs.Slide, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^The stain method 'macenko' needs a stain to bring the colors to"):
        hs.open_slide(slide, stain_method="macenko")
    with pytest.raises(SettingsError, match=r"^There is no stain method 'x'\. The methods are: macenko, vahadane, reinhard, neural\.$"):
        hs.open_slide(slide, stain=PINK, stain_method="x")
    with pytest.raises(SettingsError, match=r"which only the method 'neural' can use\. Got 'reinhard' instead"):
        hs.open_slide(slide, stain="style.safetensors", stain_method="reinhard")
    (tmp_path / "no.tif").write_bytes(b"this is no picture")
    with pytest.raises(SlideError, match="not a slide or image that can be read"):
        hs.open_slide(slide, stain=tmp_path / "no.tif")
    with pytest.raises(SettingsError, match=next(iter(builtin_profiles()))):
        hs.open_slide(slide, stain="no such profile")


def test_the_command(slide: hs.Slide, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(slide.read(0, slide.bounds)).save(tmp_path / "s.png")
    Image.fromarray(PINK).save(tmp_path / "pink.png")
    target, out = str(tmp_path / "pink.png"), tmp_path / "r"
    assert main(["run", "stain", str(tmp_path / "s.png"), "--mpp", "0.5", "--out", str(out), "--set", f"target={target}"]) == 0
    made = np.asarray(hs.open_result(out).image)
    np.testing.assert_array_equal(made, np.asarray(hs.run("stain", slide, target=target).image))
    code = main(
        ["run", "nuclei", str(tmp_path / "s.png"), "--mpp", "0.5", "--out", str(tmp_path / "n"), "--stain", target, "--stain-method", "reinhard", "--set", "model=log"]
    )
    assert code == 0
    assert hs.open_result(tmp_path / "n").record.slide.stain["method"] == "reinhard"
    assert main(["run", "nuclei", str(tmp_path / "s.png"), "--mpp", "0.5", "--out", str(tmp_path / "m"), "--stain", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_training_in_one_set_of_colors(tmp_path: Path) -> None:
    from napari_histoseg.annotations.dataset import load_patch, read_dataset
    from napari_histoseg.methods.stain.pictures import PictureStain

    (tmp_path / "images").mkdir()
    patches = []
    for i in range(4):
        Image.fromarray(he_image(120, 120, seed=i, mpp=0.5)).save(tmp_path / "images" / f"{i}.png")
        patches.append({"image": f"images/{i}.png", "group": f"patient {i // 2}"})
    import json

    (tmp_path / "dataset.json").write_text(json.dumps({"version": 1, "mpp": 0.5, "patches": patches}))
    plain = read_dataset(tmp_path)
    look = PictureStain(PINK, "reinhard")
    stained = plain.model_copy(update={"look": look})
    for patch in plain.patches:
        before, after = load_patch(plain, patch)[0], load_patch(stained, patch)[0]
        assert np.abs(before.astype(int) - after).mean() > 5
    assert len(look._known) == 2, "one measurement a patient"
