"""A style as a normalizer: tiles join, lightness stays, glass and ink stay, and what it says of itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_histoseg._testing import he_image
from napari_histoseg.errors import RegionError, SettingsError, WeightsError
from napari_histoseg.methods.stain.lab import to_lab
from napari_histoseg.methods.stain.network import AB_UNIT, HALO_PX, build
from napari_histoseg.methods.stain.style import (
    SHIPPED,
    NeuralNormalizer,
    stained_part,
    style_for,
    style_profile,
    tissue_samples,
)
from napari_histoseg.nn.weights import ModelCard, read_card, save_weights
from napari_histoseg.slide import Box, open_slide
from napari_histoseg.slide.stain import StainProfile, kernels, measure
from napari_histoseg.slide.stain.density import USUAL, density_table
from napari_histoseg.slide.stain.effect import fan_of


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """(400, 520, 3): synthetic tissue beside glass."""
    return he_image(520, 400, seed=3, glass=0.1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random numbers with lively colors."""
    torch.manual_seed(3)
    network = build("compact", 16, classes=2)
    with torch.no_grad():
        network.color.weight.mul_(4)
        network.color.bias.copy_(torch.tensor([0.5, -0.3]))
    path = tmp_path_factory.mktemp("weights") / "style.safetensors"
    profile = measure(he_image(300, 300, seed=8), name="its own").model_dump(mode="json")
    classes = [{"value": 0, "name": "a"}, {"value": 1, "name": "b"}]
    card = ModelCard(method="stain", name="random", architecture="compact", width=16, mpp=0.25, classes=classes, data=[{"stain_profile": profile}])
    save_weights(path, network, card)
    return path


@pytest.fixture(params=["random", "shipped"])
def style(request: pytest.FixtureRequest, weights: Path, tissue: np.ndarray) -> NeuralNormalizer:
    """Fitted on the tissue, with random numbers and with the weights that ship."""
    return NeuralNormalizer(weights if request.param == "random" else SHIPPED, device="cpu").fit([tissue])


def test_it_changes_colors_and_keeps_lightness(style: NeuralNormalizer, tissue: np.ndarray) -> None:
    before, after = to_lab(tissue), to_lab(style.apply(tissue))
    # L* of the nearest 8-bit colors: half a gray level.
    assert np.abs(after[0] - before[0]).max() < 0.4
    assert np.abs(after[1] - before[1]).mean() > 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_tile_by_tile_equals_whole(weights: Path, tissue: np.ndarray, precision: str) -> None:
    slide = open_slide(tissue, mpp=0.25)
    for path in (weights, SHIPPED):
        stained = slide.with_stain(NeuralNormalizer(path, device="cpu", precision=precision).fit([tissue]))
        whole = stained.read(0, stained.bounds).astype(int)
        for box in (Box(0, 0, 100, 100), Box(133, 75, 200, 121), Box(300, 209, 220, 191), Box(517, 397, 3, 3)):
            assert np.abs(stained.read(0, box) - whole[box.slices]).max() <= 1


def test_large_pictures_go_through_in_blocks_that_join(weights: Path, tissue: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    style = NeuralNormalizer(weights, device="cpu").fit([tissue])
    whole = style.apply(tissue).astype(int)
    monkeypatch.setattr("napari_histoseg.methods.stain.style.BLOCK_PX", 128)
    assert np.abs(style.apply(tissue) - whole).max() <= 1


def test_the_same_pixels_give_the_same_bits(style: NeuralNormalizer, tissue: np.ndarray) -> None:
    assert np.array_equal(style.apply(tissue), style.apply(tissue))


@pytest.mark.parametrize("glass", [(255, 255, 255), (238, 236, 240), (225, 228, 226), (243, 240, 231)])
def test_glass_stays(style: NeuralNormalizer, tissue: np.ndarray, glass: tuple[int, int, int]) -> None:
    lit = np.clip(tissue * (np.array(glass) / 245), 0, 255).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 1.5, (96, 96, 3))
    blank = np.clip(np.array(glass) + noise, 0, 255).astype(np.uint8)
    assert np.abs(style.fit([lit]).apply(blank).astype(int) - blank).mean() < 1


@pytest.mark.parametrize("ink", [(20, 140, 90), (20, 60, 190), (10, 10, 10), (60, 60, 62)])
def test_ink_stays(style: NeuralNormalizer, ink: tuple[int, int, int]) -> None:
    marked = np.full((64, 64, 3), ink, np.uint8)
    assert np.abs(style.apply(marked).astype(int) - marked).mean() < 1


@pytest.mark.parametrize("fitted", [True, False])
def test_the_ramp_to_glass_and_ink_is_that_of_the_classical_methods(tissue: np.ndarray, fitted: bool) -> None:
    source = measure(tissue) if fitted else None
    vectors = USUAL if source is None else source.macenko.vectors
    table = density_table((255.0, 255.0, 255.0) if source is None else source.white).astype(np.float32)
    noise = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    colors = np.concatenate([noise, tissue[180:210, :90], np.minimum(noise, 60) + tissue[180:210, :90] // 2])
    fan = fan_of(vectors)
    expected = [kernels._effect(*(table[i, v] for i, v in enumerate(color)), fan) for color in colors.reshape(-1, 3)]
    assert np.allclose(stained_part(colors, source).ravel(), expected, atol=1e-4)


def test_a_slide_without_tissue_is_left_as_it_is(weights: Path) -> None:
    blank = np.full((200, 200, 3), 240, np.uint8)
    style = style_for(open_slide(blank, mpp=0.25), weights, device="cpu")
    assert style.method is None and style.asked == "neural"
    assert style.quality.light == "refused" and style.quality.reason.endswith("The colors are left as they are.")
    assert np.array_equal(style.apply(blank), blank)


def test_the_vector_is_the_slides_own_and_taken_once(weights: Path, tissue: np.ndarray) -> None:
    style = style_for(open_slide(tissue, mpp=0.25), weights, device="cpu")
    assert style.vector is not None and style.vector.shape == (16,)
    assert style.source is not None and style.source.white != (255, 255, 255)
    assert np.array_equal(style.vector, style_for(open_slide(tissue, mpp=0.25), weights, device="cpu").vector)


def test_before_it_is_fitted_the_styles_mean_vector_is_used(weights: Path, tissue: np.ndarray) -> None:
    style = NeuralNormalizer(weights, device="cpu")
    assert style.vector is None and style.quality.light == "good"
    assert style.apply(tissue).shape == tissue.shape


def test_samples_are_tissue_at_the_styles_pixel_size(tissue: np.ndarray) -> None:
    samples = list(tissue_samples(open_slide(tissue, mpp=0.5), 0.25, seed=0))
    assert len(samples) == 24 and {s.shape for s in samples} == {(224, 224, 3)}
    assert list(tissue_samples(open_slide(np.full((300, 300, 3), 250, np.uint8), mpp=0.5), 0.25, seed=0)) == []


def test_key_tells_what_does_the_same(weights: Path, tissue: np.ndarray) -> None:
    def made(**options: str) -> NeuralNormalizer:
        return NeuralNormalizer(weights, device="cpu", **options)

    fitted = made().fit([tissue])
    assert fitted.key() == made().fit([tissue]).key() == pickle.loads(pickle.dumps(fitted)).key()
    keys = {made().key(), fitted.key(), made(precision="bfloat16").key(), made().fit([tissue[:, :200]]).key()}
    assert len(keys) == 4 and all(k.startswith("sha256:") for k in keys)


def test_a_pickled_style_colors_alike_and_carries_no_network(style: NeuralNormalizer, tissue: np.ndarray) -> None:
    style.apply(tissue[:64, :64])
    again = pickle.loads(pickle.dumps(style))
    assert len(pickle.dumps(style)) < 100_000
    assert np.array_equal(again.apply(tissue), style.apply(tissue))


def test_it_describes_itself_in_json(style: NeuralNormalizer) -> None:
    record = json.loads(json.dumps(style.describe()))
    assert record["method"] == record["asked"] == "neural" and record["key"] == style.key()
    assert record["weights"]["sha256"] == style.sha256 and record["quality"] == {"light": "good", "reason": ""}
    assert record["source"]["tissue_pixels"] > 0 and record["target"]["name"]


def test_another_target_is_reached_from_the_styles_own_colors(weights: Path, tissue: np.ndarray) -> None:
    slide = open_slide(tissue, mpp=0.25)
    own = style_profile(read_card(weights))
    target = measure(np.ascontiguousarray(tissue[..., [0, 2, 1]] // 8 * 7), name="mine")
    assert style_for(slide, weights, target=own, device="cpu").then is None
    plain, style = style_for(slide, weights, device="cpu"), style_for(slide, weights, target=target, device="cpu")
    assert style.then is not None and style.target == target and style.key() != plain.key()
    made, onward = style.apply(tissue).astype(int), style.then.apply(plain.apply(tissue))
    stained = stained_part(tissue, style.source) == 1
    assert stained.any() and np.array_equal(made[stained], onward[stained])
    glass = np.full((64, 64, 3), style.source.white, np.uint8)
    assert np.abs(style.apply(glass).astype(int) - glass).max() <= 1


def test_a_style_without_a_profile_reaches_a_target_too(weights: Path, tissue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    card = read_card(weights).model_copy(update={"data": []})
    save_weights(path, build("compact", 16, 2), card)
    target: StainProfile = measure(np.ascontiguousarray(tissue[..., [0, 2, 1]] // 8 * 7), name="mine")
    style = style_for(open_slide(tissue, mpp=0.25), path, target=target, device="cpu")
    assert style.then is not None and style.target == target
    plain = style_for(open_slide(tissue, mpp=0.25), path, device="cpu")
    far, near = (np.linalg.norm(np.subtract(measure(s.apply(tissue)).lab_mean, target.lab_mean)) for s in (plain, style))
    assert near < far


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(weights: Path, pixels: np.ndarray) -> None:
    with pytest.raises(RegionError) as caught:
        NeuralNormalizer(weights, device="cpu").apply(pixels)
    assert str(caught.value) == f"A picture to normalize is uint8 RGB of shape (h, w, 3). Got {pixels.dtype} of shape {pixels.shape}."


def test_weights_of_another_method_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build("compact", 8), ModelCard(method="nuclei", name="n", architecture="compact", width=8, mpp=0.25))
    with pytest.raises(WeightsError, match="holds weights for the method 'nuclei', not for 'stain'"):
        NeuralNormalizer(path)


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"precision": "int8"}])
def test_unknown_options_are_refused(weights: Path, options: dict[str, str]) -> None:
    (name, value), = options.items()
    with pytest.raises(SettingsError, match=f"The {name} '{value}' is not available"):
        NeuralNormalizer(weights, **options)


def test_the_shipped_style_is_small_and_says_what_it_is() -> None:
    card = read_card(SHIPPED, "stain")
    assert SHIPPED.stat().st_size < 10e6
    assert "CoNSeP" in card.license and card.data[0]["license"].startswith("Apache 2.0")
    profile = style_profile(card)
    assert profile is not None and not profile.problems


def test_the_shipped_style_brings_its_own_laboratory_close_to_itself(data_dir: Path) -> None:
    """On a held-out picture: the mean error of a* and b* is a few units of L*a*b*."""
    slide = open_slide(data_dir / "nuclei" / "consep" / "images" / "train_19.png", mpp=0.25)
    found = slide.with_stain(style_for(slide, device="cpu")).read(0, Box(0, 0, 512, 512))
    difference = to_lab(found)[1] - to_lab(slide.read(0, Box(0, 0, 512, 512)))[1]
    assert float(np.sqrt(np.mean(difference**2))) < 5 < AB_UNIT < HALO_PX


@pytest.mark.parametrize("name", ["no-tissue.png", "no-tissue2.png", "no-tissue-green-pen.png", "no-tissue-red-pen.png", "almost-white-1.png"])
def test_blank_glass_of_real_slides_stays(data_dir: Path, name: str) -> None:
    slide = open_slide(data_dir / "background" / name, mpp=8.0)
    pixels = slide.read(0, slide.bounds)
    glass = (pixels.min(-1) > 200) & (np.ptp(pixels, axis=-1) < 14)
    found = style_for(slide, device="cpu").apply(pixels)
    assert np.abs(found.astype(int) - pixels)[glass].mean() < 1
