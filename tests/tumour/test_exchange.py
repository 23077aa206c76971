"""Tumour networks as ONNX: written, described, piped into FAST, and read from others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import napari_histoseg as hs
from napari_histoseg._testing import he_image
from napari_histoseg.cli import main
from napari_histoseg.errors import ResultError, SettingsError, SlideError, WeightsError
from napari_histoseg.methods.tumour.config import TumourTraining
from napari_histoseg.methods.tumour.exchange import export, fast
from napari_histoseg.methods.tumour.exchange.description import Description, read_description
from napari_histoseg.methods.tumour.exchange.sessions import OnnxClassifier, session
from napari_histoseg.methods.tumour.fitted import new_refiner, read_fitted, save_fitted
from napari_histoseg.methods.tumour.network import Classifier
from napari_histoseg.nn.weights import ModelCard

Make = Callable[..., Path]
SIDE = 64


def untrained(path: Path, **how: Any) -> Path:
    """Weights that were not trained, but tell patches apart: batch norm knows what it will see."""
    torch.manual_seed(0)
    settings = TumourTraining.parse({"crop_px": SIDE, "refine_px": SIDE, **how})
    classifier = None if settings.backbone == "none" else Classifier(settings.backbone)
    refiner = None if settings.refiner == "none" else new_refiner(settings)
    picture = he_image(8 * SIDE, 8 * SIDE, seed=1, mpp=1.0)
    patches = torch.from_numpy(picture.reshape(8, SIDE, 8, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2).copy()) / 255
    given = torch.cat([patches, patches.mean(1, keepdim=True)], 1)[:8]
    with torch.inference_mode():
        for network, seen in ((classifier, patches), (refiner, given if classifier is not None else given[:, :3])):
            if network is not None:
                for module in network.modules():
                    if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                        module.momentum = None  # the statistics are those of what was seen
                network.train()(seen)
                network.eval()
    card = ModelCard(method="tumour", name='a "small" model', architecture="x", width=0, mpp=settings.mpp, settings=settings.model_dump(mode="json"))
    save_fitted(path, *(None if n is None else n.state_dict() for n in (classifier, refiner)), card)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a classifier alone."""
    return untrained(tmp_path_factory.mktemp("small") / "w.safetensors", refiner="none")


@pytest.fixture(scope="module")
def written(weights: Path) -> Path:
    """The export of the weights."""
    out = weights.with_name("onnx")
    hs.export_onnx(weights, out)
    return out


@pytest.fixture(scope="module")
def slide() -> hs.Slide:
    return hs.open_slide(he_image(700, 500, seed=5, mpp=1.0, glass=0.1), mpp=1.0)


# -- out ----------------------------------------------------------------------------------------------------------------


def test_the_folder_has_networks_description_and_pipeline(written: Path) -> None:
    assert sorted(p.name for p in written.iterdir()) == ["classifier.onnx", "model.json", "pipeline.fpl", "refiner-fast.onnx", "refiner.onnx"]
    described = read_description(written / "model.json")
    assert (described.mpp, described.patch_px, described.range, described.classes) == (1.0, SIDE, "0-1", ["no tumour", "tumour"])
    assert described.refiner is not None and described.refiner.mpp == 16.0 and described.refiner.inputs == ["image", "heatmap"]
    assert set(described.sha256) == set(described.largest_difference) == {"classifier.onnx", "refiner.onnx", "refiner-fast.onnx"}
    assert max(described.largest_difference.values()) < 1e-3
    assert not list(written.parent.glob(".onnx*"))


def test_graphs_take_any_number_of_patches_and_any_size_of_picture(written: Path) -> None:
    shapes = {name: (_shapes(onnx.load(written / name).graph.input), _shapes(onnx.load(written / name).graph.output)) for name in ("classifier.onnx", "refiner.onnx")}
    assert shapes["classifier.onnx"] == ({"image": ["n", 3, SIDE, SIDE]}, {"probability": ["n", 2]})
    assert shapes["refiner.onnx"] == ({"image": ["n", 3, "h", "w"], "heatmap": ["n", 1, "h", "w"]}, {"probability": ["n", 1, "h", "w"]})


def _shapes(values: Any) -> dict[str, list[str | int]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_onnx_computes_what_torch_does_on_tiles(weights: Path, written: Path) -> None:
    fitted = read_fitted(weights)
    assert fitted.classifier is not None and fitted.refiner is not None
    tiles = torch.from_numpy(np.stack([he_image(SIDE, SIDE, seed=i, mpp=1.0) for i in range(5)]).transpose(0, 3, 1, 2).copy()) / 255
    with torch.inference_mode():
        expected = torch.softmax(fitted.classifier(tiles), 1).numpy()
        outline = torch.sigmoid(fitted.refiner(torch.cat([tiles, tiles[:, :1]], 1))[0]).numpy()
    assert expected.std(0).min() > 1e-3
    got = session(written / "classifier.onnx").run(None, {"image": tiles.numpy()})[0]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    got = session(written / "refiner.onnx").run(None, {"image": tiles.numpy(), "heatmap": tiles[:, :1].numpy()})[0]
    np.testing.assert_allclose(got, outline, atol=1e-4)


@pytest.mark.parametrize("outline", ["refined", "threshold"])
def test_the_export_runs_as_the_model_does(weights: Path, written: Path, slide: hs.Slide, outline: str) -> None:
    own, exported = (hs.run("tumour", slide, weights=w, outline=outline, precision="float32") for w in (weights, written / "model.json"))
    heats = [np.asarray(r.probability) for r in (own, exported)]
    assert own.mpp == exported.mpp == 8.0 and heats[0].std() > 0.01
    np.testing.assert_allclose(heats[0], heats[1], atol=1.01 / 255)
    assert (np.asarray(own.labels) == np.asarray(exported.labels)).mean() > 0.999
    used = exported.record.weights
    assert used is not None and used.name == 'a "small" model' and used.model_extra == {"file": "model.json"}
    assert re.fullmatch("[0-9a-f]{64}", used.sha256)


@pytest.mark.parametrize(
    ("how", "files", "inputs"),
    [
        ({"backbone": "none"}, {"refiner.onnx", "refiner-fast.onnx"}, ["image"]),
        ({"refiner": "none"}, {"classifier.onnx"}, []),
        ({"variant": "paper"}, {"classifier.onnx", "refiner.onnx", "refiner-fast.onnx"}, ["image", "heatmap"]),
        ({"refiner": "dagunet"}, {"classifier.onnx", "refiner.onnx", "refiner-fast.onnx"}, ["image", "heatmap"]),
    ],
    ids=["no classifier", "no refiner", "paper", "attention"],
)
def test_models_of_one_network_and_of_one_size(tmp_path: Path, slide: hs.Slide, how: dict[str, Any], files: set[str], inputs: list[str]) -> None:
    weights = untrained(tmp_path / "w.safetensors", **how)
    described = Description(**hs.export_onnx(weights, tmp_path / "e"))
    assert set(described.sha256) == files
    assert (described.refiner.inputs if described.refiner else []) == inputs
    if how.get("variant") == "paper":
        assert described.refiner is not None and described.refiner.side_px == SIDE
        assert _shapes(onnx.load(tmp_path / "e" / "refiner.onnx").graph.input)["image"] == ["n", 3, SIDE, SIDE]
    own, exported = (hs.run("tumour", slide, weights=w, precision="float32") for w in (weights, tmp_path / "e" / "model.json"))
    assert own.mpp == exported.mpp
    np.testing.assert_allclose(np.asarray(own.probability), np.asarray(exported.probability), atol=1.01 / 255)
    assert (np.asarray(own.labels) == np.asarray(exported.labels)).mean() > 0.999


def test_it_is_compared_on_a_tile_that_is_given(small: Path, tmp_path: Path) -> None:
    Image.fromarray(he_image(100, 80)).save(tmp_path / "tile.png")
    said = hs.export_onnx(small, tmp_path / "e", tile=tmp_path / "tile.png")
    assert max(said["largest_difference"].values()) < 1e-3
    with pytest.raises(SlideError, match=r"none\.png"):
        hs.export_onnx(small, tmp_path / "f", tile=tmp_path / "none.png")
    assert not (tmp_path / "f").exists()


def test_only_another_export_is_overwritten(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_write", lambda fitted, weights, folder, picture: (folder / "model.json").write_text("new"))
    out = tmp_path / "e"
    out.mkdir()
    write = export.export_onnx
    write(small, out)
    with pytest.raises(ResultError, match=r"e holds an export already\. Choose another folder, or overwrite it\."):
        write(small, out)
    (out / "old.onnx").write_text("")
    write(small, out, overwrite=True)
    assert [p.name for p in out.iterdir()] == ["model.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    (out / "model.json").rename(out / "notes.txt")
    with pytest.raises(ResultError, match=r"e has something else in it than an export\. Choose another folder\."):
        write(small, out, overwrite=True)
    with pytest.raises(ResultError, match=r"notes\.txt is a file, and the export is a folder\. Choose another name\."):
        write(small, out / "notes.txt")
    with pytest.raises(ResultError, match=r"The folder .*none does not exist\. Make it first, or choose another\."):
        write(small, tmp_path / "none" / "e")


def test_what_fails_leaves_nothing(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(WeightsError, match=r"classifier\.onnx computes something else than torch: probabilities differ by up to .*\. Update the packages onnx, onnxruntime and torch\."):
        hs.export_onnx(small, tmp_path / "e")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_method_are_not_written(tmp_path: Path) -> None:
    nuclei = next(row["path"] for row in hs.list_weights() if row["method"] == "nuclei")
    with pytest.raises(WeightsError, match="holds weights for the method 'nuclei', not for 'tumour'"):
        hs.export_onnx(nuclei, tmp_path / "e")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_named_with_the_extra(written: Path, weights: Path, slide: hs.Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeightsError, match=rf"needs? the package {package}\. Install it: pip install 'napari-histoseg\[onnx\]'\."):
        if package == "onnx":
            hs.export_onnx(weights, tmp_path / "e")
        else:
            hs.run("tumour", slide, weights=written / "model.json")
    assert not list(tmp_path.iterdir())


# -- FAST ---------------------------------------------------------------------------------------------------------------

TYPES = {
    "TissueSegmentation": (), "PatchGenerator": ("patch-size", "patch-magnification", "mask-threshold"), "NeuralNetwork": ("model", "scale-factor"),
    "PatchStitcher": (), "RunUntilFinished": (), "TensorToImage": ("channels",), "SegmentationNetwork": ("model", "threshold"),
    "ImagePyramidRenderer": (), "HeatmapRenderer": ("hidden-channels",), "SegmentationRenderer": ("border-opacity",),
}  # fmt: skip


def parsed(text: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """A pipeline's head, and its blocks: type, attributes, inputs."""
    head, *parts = [part.splitlines() for part in text.strip().split("\n\n")]
    blocks: dict[str, dict[str, Any]] = {}
    for first, *lines in parts:
        kind, name, type_ = first.split(" ")
        assert kind in ("ProcessObject", "Renderer") and type_ in TYPES and name not in blocks
        split = [line.split(" ", 2) for line in lines]
        attributes = {key: value for word, key, value in split if word == "Attribute"}
        inputs = [(int(port), source) for word, port, source in split if word == "Input"]
        assert set(attributes) <= set(TYPES[type_]) and len(attributes) + len(inputs) == len(lines)
        assert [port for port, _ in inputs] == list(range(len(inputs)))
        for _, source in inputs:
            # What a block takes was said before it.
            assert source == "WSI" or (source.endswith(" 0") and source[:-2] in blocks)
        blocks[name] = {"type": type_, "attributes": attributes, "inputs": [source.removesuffix(" 0") for _, source in inputs]}
    return head, blocks


def test_the_pipeline_names_what_is_there(written: Path) -> None:
    head, blocks = parsed((written / "pipeline.fpl").read_text())
    assert head == [
        "PipelineName \"Tumour: a 'small' model\"",
        'PipelineDescription "Heatmap of patches and outline of the tumour, refined from it, as trained in napari-histoseg"',
        'PipelineInputData WSI "Whole-slide image"',
        "PipelineOutputData segmentation refinement 0",
        'Attribute classes "Background;Tumour"',
    ]
    files = {name: block["attributes"]["model"] for name, block in blocks.items() if "model" in block["attributes"]}
    assert files == {"network": '"$CURRENT_PATH$/classifier.onnx"', "refinement": '"$CURRENT_PATH$/refiner-fast.onnx"'}
    assert all((written / re.sub(r'^"\$CURRENT_PATH\$/|"$', "", file)).is_file() for file in files.values())
    assert blocks["patch"]["attributes"] == {"patch-size": "64 64", "patch-magnification": "10", "mask-threshold": "0.25"}
    assert blocks["piece"]["attributes"] == {"patch-size": "64 64", "patch-magnification": "0.625"}
    # FAST sorts inputs by name, and the graph has them in that order.
    graph = onnx.load(written / "refiner-fast.onnx").graph
    assert [each.name for each in graph.input] == sorted(each.name for each in graph.input) == ["heatmap", "image"]
    assert blocks["refinement"]["inputs"] == ["heatmap", "pictureDone"]
    assert _shapes(graph.input) == {"heatmap": [1, "rows", "columns", 1], "image": [1, "h", "w", 3]}


@pytest.mark.parametrize(("classifier", "refiner"), [("c.onnx", ""), ("", "r.onnx")])
def test_pipelines_of_one_network(classifier: str, refiner: str) -> None:
    head, blocks = parsed(fast.pipeline("x", TumourTraining(), classifier, refiner))
    assert head[3] == ("PipelineOutputData heatmap stitcher 0" if classifier else "PipelineOutputData segmentation refinement 0")
    assert ("network" in blocks) == ("heatmapRenderer" in blocks) == bool(classifier)
    assert ("refinement" in blocks) == ("outlineRenderer" in blocks) == bool(refiner)


def test_the_refiner_for_fast_gives_what_the_refiner_gives(written: Path) -> None:
    """Bytes instead of fractions, channels last, a pixel of heatmap for each patch, two classes out."""
    picture, cells = he_image(128, 64, seed=3, mpp=16.0), np.linspace(0, 1, 16 * 32, dtype=np.float32).reshape(16, 32)
    heat = cells.repeat(4, 0).repeat(4, 1)
    image = (picture.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    expected = session(written / "refiner.onnx").run(None, {"image": image, "heatmap": heat[None, None]})[0]
    got = session(written / "refiner-fast.onnx").run(None, {"image": picture[None].astype(np.float32), "heatmap": cells[None, ..., None]})[0]
    assert got.shape == (1, 64, 128, 2)
    np.testing.assert_allclose(got[..., 1], expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)


# -- in -----------------------------------------------------------------------------------------------------------------


def mean_classifier(path: Path, layout: str = "nchw", shape: list[Any] | None = None, outputs: int = 2, inputs: int = 1) -> Path:
    """Tumour where patches are dark: softmax over (mean, 0.5, ...) turned by weights; any layout and range."""
    free = shape or (["n", 3, SIDE, SIDE] if layout == "nchw" else ["n", SIDE, SIDE, 3])
    weight = np.zeros((1, outputs), np.float32)
    weight[0, -1] = -8
    bias = np.zeros(outputs, np.float32)
    bias[-1] = 6
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=list(range(1, len(free))), keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Gemm", ["column", "weight", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["chance"], axis=1),
    ]
    constants = [numpy_helper.from_array(v, n) for n, v in (("one", np.array([1], np.int64)), ("weight", weight), ("bias", bias))]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, free) for name in ["image", "other"][:inputs]]
    return _saved(path, nodes, given, ["n", outputs], constants)


def mean_refiner(path: Path, layout: str = "nchw", inputs: int = 2, names: tuple[str, ...] = ("image", "heatmap"), side: Any = None, channels: int = 3) -> Path:
    """The heatmap as it is, or of one input the picture's mean."""
    rows, columns = (side, side) if side else ("h", "w")
    wide, thin = ([[1, c, rows, columns] if layout == "nchw" else [1, rows, columns, c] for c in (channels, 1)])
    axis = 1 if layout == "nchw" else 3
    nodes = [helper.make_node("ReduceMean", [names[0]], ["mean"], axes=[axis], keepdims=1)]
    if inputs == 2:
        nodes += [helper.make_node("Sub", ["mean", "mean"], ["nothing"]), helper.make_node("Add", [names[1], "nothing"], ["chance"])]
    else:
        nodes += [helper.make_node("Identity", ["mean"], ["chance"])]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names[:inputs], (wide, thin))]
    return _saved(path, nodes, given, [None] * 4, [])


def _saved(path: Path, nodes: list[Any], given: list[Any], out: list[Any], constants: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("chance", TensorProto.FLOAT, out)], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def describe(tmp_path: Path) -> Make:
    """Write a JSON; the classifier and refiner of others lie beside it."""
    mean_classifier(tmp_path / "c.onnx")
    mean_refiner(tmp_path / "r.onnx")

    def write(**what: Any) -> Path:
        path = tmp_path / "m.json"
        path.write_text(json.dumps({"classifier": "c.onnx", "mpp": 1.0, "patch_px": SIDE, **what}))
        return path

    return write


def heat_of(slide: hs.Slide, model: Path, **settings: Any) -> NDArray[np.float32]:
    return np.asarray(hs.run("tumour", slide, weights=model, **settings).probability)


def test_layouts_and_ranges_are_the_network_s_own(describe: Make, slide: hs.Slide, tmp_path: Path) -> None:
    expected = heat_of(slide, describe())
    assert expected.std() > 0.01
    mean_classifier(tmp_path / "last.onnx", "nhwc")
    np.testing.assert_array_equal(heat_of(slide, describe(classifier="last.onnx", layout="nhwc")), expected)
    # A network that takes one patch at a time is given one at a time.
    mean_classifier(tmp_path / "one.onnx", shape=[1, 3, SIDE, SIDE])
    np.testing.assert_array_equal(heat_of(slide, describe(classifier="one.onnx")), expected)
    patch = he_image(SIDE, SIDE, seed=1)
    given = torch.from_numpy(patch.transpose(2, 0, 1)[None].copy()) / 255
    for range_, value in (("0-1", patch.mean() / 255), ("0-255", patch.mean()), ("-1-1", patch.mean() / 127.5 - 1)):
        described = read_description(describe(range=range_))
        assert described.patches is not None
        network = OnnxClassifier(tmp_path / "c.onnx", described.patches, SIDE)
        chance = float(torch.softmax(network(given), 1)[0, 1])
        assert chance == pytest.approx(0.5 * (1 - np.tanh(4 * value - 3)), abs=1e-4)


def test_the_tumour_may_be_any_output(describe: Make, slide: hs.Slide, tmp_path: Path) -> None:
    tissue = heat_of(slide, describe())
    other = heat_of(slide, describe(tumour_output=0))
    np.testing.assert_allclose(other[tissue > 0], 1 - tissue[tissue > 0], atol=1.01 / 255)
    mean_classifier(tmp_path / "four.onnx", outputs=4)
    assert heat_of(slide, describe(classifier="four.onnx", tumour_output=3)).max() > 0


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_refiner_of_others_is_run(describe: Make, slide: hs.Slide, tmp_path: Path, layout: str) -> None:
    mean_refiner(tmp_path / "r.onnx", layout, names=("a", "b"))
    model = describe(refiner={"file": "r.onnx", "layout": layout, "inputs": ["a", "b"], "multiple_px": 32})
    result = hs.run("tumour", slide, weights=model)
    np.testing.assert_array_equal(np.asarray(result.labels) > 0, np.asarray(result.probability) >= 127.5 / 255)
    assert np.asarray(result.labels).any()


def test_a_refiner_of_one_size_sees_the_whole_slide(describe: Make, slide: hs.Slide, tmp_path: Path) -> None:
    mean_refiner(tmp_path / "r.onnx", side=96)
    result = hs.run("tumour", slide, weights=describe(refiner={"file": "r.onnx", "side_px": 96}))
    assert (np.asarray(result.labels) > 0).mean() == pytest.approx((np.asarray(result.probability) >= 0.5).mean(), abs=0.1)


def test_the_hash_covers_the_files(describe: Make, slide: hs.Slide, tmp_path: Path) -> None:
    first = hs.run("tumour", slide, weights=describe()).record.weights
    mean_classifier(tmp_path / "c.onnx", outputs=3)
    second = hs.run("tumour", slide, weights=describe()).record.weights
    assert first is not None and second is not None and first.sha256 != second.sha256 and first.name == "m"


# -- bad input ----------------------------------------------------------------------------------------------------------

BAD_JSON = [
    ({"mmp": 1}, r"does not describe ONNX networks\. There is no 'mmp'\. What can be said is: name, classifier, mpp, patch_px, .*\."),
    ({"mpp": 0}, r"'mpp' is wrong: input should be greater than 0\. Got 0 instead\."),
    ({"mpp": None}, r"'mpp' is wrong: input should be a valid number\. Got None instead\."),
    ({"patch_px": 255}, r"patch_px is a multiple of 4\. Got 255 instead; crop or enlarge the patches inside the network\."),
    ({"range": "0-2"}, r"'range' is wrong: input should be '0-1', '0-255' or '-1-1'\. Got '0-2' instead\."),
    ({"classifier": None}, r"It names neither a classifier nor a refiner\. Name at least one ONNX file\."),
    ({"refiner": {"side_px": 0}}, r"'refiner\.file' is missing\. Write it\."),
    ({"refiner": {"file": "r.onnx", "multiple_px": 48}}, r"multiple_px is a power of two, such as 64\. Got 48 instead\."),
    ({"refiner": {"file": "r.onnx", "size": 1}}, r"There is no 'refiner\.size'\. What can be said is: file, .*\."),
    ({"classifier": "../c.onnx"}, r"names '\.\./c\.onnx', which lies outside its folder\. Put the ONNX file beside the JSON, and name it without a path\."),
    ({"classifier": "/etc/hosts"}, r"names '/etc/hosts', which lies outside its folder\."),
    ({"classifier": "no.onnx"}, r"names 'no\.onnx', which is not in its folder\. Put the ONNX file there, or correct the name\."),
    ({"sha256": {"c.onnx": "0"}}, r"was written for another c\.onnx: its sha256 differs\. Copy both again, or take the hash out of the JSON\."),
    ({"classifier": "m.json"}, r"m\.json cannot be read as an ONNX network: .*\. Export it again\."),
    ({"tumour_output": 2}, r"The classifier c\.onnx gives 2 classes, so tumour_output is at most 1\. Got 2 instead\."),
    ({"patch_px": 128}, r"The classifier c\.onnx takes patches of 64 × 64 px, and patch_px is 128\. Correct patch_px in the JSON\."),
    ({"layout": "nhwc"}, r'as \(n, rows, columns, channels\) has 64 channels, and 3 are needed\. If its axes are .*, write "layout": "nchw"\.'),
    ({"refiner": {"file": "r.onnx", "inputs": ["image", "x"]}}, r"The refiner r\.onnx has no input 'x'\. Its inputs are: image, heatmap\."),
    ({"classifier": None, "refiner": {"file": "r.onnx"}}, r"takes 2 inputs \(image, heatmap\), and 1 are given to it: the picture; there is no classifier"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "message"), BAD_JSON, ids=[str(i) for i in range(len(BAD_JSON))])
def test_a_description_that_does_not_fit(describe: Make, slide: hs.Slide, what: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        hs.run("tumour", slide, weights=describe(**what))


BAD_CLASSIFIERS = [
    ({"shape": ["n", 3]}, r"The classifier c\.onnx takes \(any, 3\), which has 2 axes, and 4 are needed: \(n, channels, rows, columns\)\. Export it so\."),
    ({"shape": ["n", 1, SIDE, SIDE]}, r"takes \(any, 1, 64, 64\), which as \(n, channels, rows, columns\) has 1 channels, and 3 are needed\."),
    ({"shape": ["n", 3, 32, 48]}, r"takes patches of 32 × 48 px, and patch_px is 64\."),
    ({"shape": [8, 3, SIDE, SIDE]}, r"takes 8 patches at once, no more and no fewer\. Export it with a free number of patches, or with 1\."),
    ({"outputs": 1}, r"gives \(1, 1\) for one patch, and a value for each of two or more classes is needed, \(1, 2\)\. Export the softmax\."),
    ({"inputs": 2}, r"takes 2 inputs, and one picture is given to it\. Export it with one input\."),
]  # fmt: skip


@pytest.mark.parametrize(("what", "message"), BAD_CLASSIFIERS, ids=["rank", "channels", "side", "batch", "one class", "inputs"])
def test_a_classifier_that_does_not_fit(describe: Make, slide: hs.Slide, tmp_path: Path, what: dict[str, Any], message: str) -> None:
    mean_classifier(tmp_path / "c.onnx", **what)
    with pytest.raises(WeightsError, match=message):
        hs.run("tumour", slide, weights=describe())


BAD_REFINERS = [
    ({"inputs": 1}, {}, r"The refiner r\.onnx takes 1 inputs \(image\), and 2 are given to it: the picture and the heatmap\. Export it so\."),
    ({"channels": 1}, {}, r"The input 'image' of the refiner r\.onnx takes \(1, 1, any, any\), which as .* has 1 channels, and 3 are needed\."),
    ({}, {"inputs": ["heatmap", "image"]}, r"The input 'heatmap' of the refiner r\.onnx takes \(1, 1, any, any\)"),
    ({"side": 96}, {}, r"has 96 × 96 px, and side_px is 0, which means any size\. Write that side as side_px\."),
    ({"side": 96}, {"side_px": 64}, r"has 96 × 96 px, and side_px is 64\. Correct side_px in the JSON\."),
]  # fmt: skip


@pytest.mark.parametrize(("network", "what", "message"), BAD_REFINERS, ids=["no heatmap", "channels", "order", "fixed", "side"])
def test_a_refiner_that_does_not_fit(describe: Make, slide: hs.Slide, tmp_path: Path, network: dict[str, Any], what: dict[str, Any], message: str) -> None:
    mean_refiner(tmp_path / "r.onnx", **network)
    with pytest.raises(WeightsError, match=message):
        hs.run("tumour", slide, weights=describe(refiner={"file": "r.onnx", **what}))


def test_onnx_has_no_dropout_to_sample(describe: Make, slide: hs.Slide) -> None:
    with pytest.raises(SettingsError, match=r"m\.json has no dropout to sample, as ONNX networks are made for use\. Set mc_samples to 0\."):
        hs.run("tumour", slide, weights=describe(refiner={"file": "r.onnx"}), mc_samples=2)
    with pytest.raises(SettingsError, match=r"m\.json has no network that refines\."):
        hs.run("tumour", slide, weights=describe(), outline="refined")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"The file .*m\.json does not exist\. Give the \.json that describes ONNX networks\."),
        ("{", r"m\.json cannot be read as JSON: .*\. Write it again, or give the \.json that 'histoseg weights onnx' wrote\."),
        ("[]", r"It holds no names and values, such as \{\"classifier\": \"file\.onnx\", \"mpp\": 1\.0\}\."),
        ('{"classifier": "c.onnx"}', r"'mpp' is missing\. Write it\."),
    ],
    ids=["missing", "broken", "list", "mpp"],
)
def test_the_command_line_returns_2_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str) -> None:
    Image.fromarray(he_image(160, 128)).save(tmp_path / "s.png")
    if text is not None:
        (tmp_path / "m.json").write_text(text)
    words = ["run", "tumour", tmp_path / "s.png", "--out", tmp_path / "r", "--mpp", "1", "--weights", tmp_path / "m.json"]
    assert main([str(word) for word in words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "r").exists()


def test_the_command_line_writes_and_refuses(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["weights", "onnx", str(small), str(tmp_path / "e")]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("classifier.onnx    differs from torch by at most ") and said[-1] == str(tmp_path / "e")
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("e holds an export already. Choose another folder, or overwrite it.\n")
    assert main([*words, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classifier"] == "classifier.onnx"
