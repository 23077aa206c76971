"""Tumour on a whole slide: patches and refinement, beside the networks alone and beside other ways to run them.

    python benchmarks/bench_tumour.py [--width 100000 --height 80000] [--rounds 5] [--quick]

The slide has 0.25 um pixels, levels at 1, 4 and 16, and 35 % of tissue; networks have random numbers, whose time is that of trained ones. "alone" is
the classifier on tiles in memory, one thread a core. "plain torch" reads with OpenSlide and runs the network as it is, in batches of 32, on
a part of the patches, and is scaled up. ONNX Runtime and OpenVINO, where installed, run the same network on tiles in memory. With
--fast PYTHON, an interpreter that has pyfast, FAST reads the same slide, finds its tissue by color, and runs the exported classifier, in a
process of its own, timed from the first patch on. Ways
take turns, so that they meet the same machine. "waiting" is the share of a training's time in which the network has no batch, with
patches drawn from the slide.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import skimage.io
import torch

import napari_histoseg as hs
from napari_histoseg._testing import he_image, write_svs
from napari_histoseg.methods.tumour.config import TumourSettings, TumourTraining
from napari_histoseg.methods.tumour.fitted import Fitted, new_refiner, read_fitted, save_fitted
from napari_histoseg.methods.tumour.network import Classifier
from napari_histoseg.methods.tumour.predictor import heat_of
from napari_histoseg.nn.weights import ModelCard
from napari_histoseg.predict.device import choose_precision
from napari_histoseg.predict.events import Fitting, TileDone

TISSUE = (0.2, 0.2, 0.8, 0.783)
"""35 % of the slide."""
SIDE, BATCH = 256, 32
CPU = torch.device("cpu")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Way = Callable[[], float]
FAST = """
import sys, time
import fast
fast.Reporter.setGlobalReportMethod(fast.Reporter.NONE)
slide, model = sys.argv[1:]
importer = fast.WholeSlideImageImporter.create(slide)
tissue = fast.TissueSegmentation.create(useColorThresholdingMethod=True).connect(importer)
patches = fast.PatchGenerator.create(256, 256, level=1, maskThreshold=0.25).connect(importer).connect(1, tissue)
network = fast.NeuralNetwork.create(model, scaleFactor=1 / 255).connect(patches)
stitcher = fast.PatchStitcher.create().connect(network)
begun, count = time.perf_counter(), 0
for _ in fast.DataStream(stitcher):
    count += 1
print("patches", count, time.perf_counter() - begun)
"""
"""What FAST's own example of a heatmap does."""


def model(path: Path) -> Path:
    """Weights with random numbers."""
    settings = TumourTraining()
    torch.manual_seed(0)
    card = ModelCard(method="tumour", name="random", architecture="random", width=0, mpp=1.0, settings=settings.model_dump(mode="json"))
    save_fitted(path, Classifier("mobilenet_v2").state_dict(), new_refiner(settings).state_dict(), card)
    return path


def run(slide: Path, weights: Path, outline: str) -> tuple[float, float]:
    """Seconds of the patches and of the refinement, from the first tile's start."""
    begun, patches, end = time.perf_counter(), 0.0, 0.0
    for event in hs.iter_run("tumour", slide, weights=weights, outline=outline):
        if isinstance(event, TileDone):
            patches = time.perf_counter() - begun
        elif isinstance(event, Fitting):
            end = time.perf_counter() - begun
    return patches, max(end - patches, 0.0)


def alone(fitted: Fitted, patches: np.ndarray, total: int) -> float:
    """Seconds of the classifier for ``total`` patches in memory, one thread a core."""
    heat = heat_of(fitted, TumourSettings(), CPU, choose_precision("auto", CPU))
    assert heat is not None
    return side_by_side(lambda part: heat.probability(part), patches, total)


def side_by_side(compute: Callable[[np.ndarray], object], patches: np.ndarray, total: int) -> float:
    """Seconds for ``total`` patches in pieces of 8, with one thread a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pieces = [patches[i : i + 8] for i in range(0, len(patches), 8)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(compute, pieces))
    seconds = time.perf_counter() - begun
    torch.set_num_threads(before)
    return seconds * total / len(patches)


def plain(slide: Path, boxes: list[tuple[int, int]], total: int) -> float:
    """OpenSlide, and the network as it is."""
    network = Classifier("mobilenet_v2").eval()
    begun = time.perf_counter()
    with openslide.OpenSlide(str(slide)) as opened, torch.inference_mode():
        for start in range(0, len(boxes), BATCH):
            tiles = [np.asarray(opened.read_region(corner, 1, (SIDE, SIDE)).convert("RGB")) for corner in boxes[start : start + BATCH]]
            network(torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255)
    return (time.perf_counter() - begun) * total / len(boxes)


def peers(weights: Path, folder: Path, patches: np.ndarray, total: int) -> dict[str, Way]:
    """ONNX Runtime and OpenVINO with the exported classifier, where they are installed."""
    ways: dict[str, Way] = {}
    images = np.ascontiguousarray(patches.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    try:
        import onnxruntime

        hs.export_onnx(weights, folder / "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "onnx" / "classifier.onnx"), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        ways["ONNX Runtime, float32, alone"] = lambda: side_by_side(lambda part: session.run(None, {name: part}), images, total)
        import openvino

        core = openvino.Core()
        network = core.read_model(folder / "onnx" / "classifier.onnx")
        for precision in ("f32", "bf16"):
            hint = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": CORES}
            ways[f"OpenVINO, {precision}, alone"] = throughput(core.compile_model(network, "CPU", hint), images, total)
    except (ImportError, AttributeError) as error:
        print(f"absent: {error}")
    return ways


def throughput(compiled: object, images: np.ndarray, total: int) -> Way:
    """A compiled OpenVINO network with requests side by side."""
    import openvino

    def way() -> float:
        queue = openvino.AsyncInferQueue(compiled, CORES)
        begun = time.perf_counter()
        for i in range(0, len(images), 8):
            queue.start_async({0: images[i : i + 8]})
        queue.wait_all()
        return (time.perf_counter() - begun) * total / len(images)

    return way


def in_fast(interpreter: str, slide: Path, model: Path, total: int) -> float:
    """Seconds of FAST for as many patches as the run has, tissue and network included, loading left out."""
    done = subprocess.run([interpreter, "-c", FAST, str(slide), str(model)], capture_output=True, text=True, check=True)
    (line,) = (row for row in done.stdout.splitlines() if row.startswith("patches "))
    _, count, seconds = line.split()
    return float(seconds) * total / int(count)


def outlined(slide: Path, size: tuple[int, int]) -> Path:
    """A dataset of the slide, whose left half is tumour."""
    folder = slide.parent
    mask = np.zeros((size[1] // 64, size[0] // 64), np.uint8)
    mask[:, : mask.shape[1] // 2] = 1
    skimage.io.imsave(folder / "mask.png", mask, check_contrast=False)
    patch = {"slide": slide.name, "box": [0, 0, *size], "mask": "mask.png", "grade": 1}
    content = {"version": 1, "classes": [{"value": 1, "name": "tumour"}], "patches": [patch]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def waiting(slide: Path, size: tuple[int, int], quick: bool) -> tuple[float, float]:
    """Share of a training's time without a batch, and seconds a step."""
    from napari_histoseg.train import loop

    waited, prefetch = [0.0], loop._prefetch

    def timed(*given: object) -> object:
        batches = prefetch(*given)  # type: ignore[arg-type]
        try:
            while True:
                begun = time.perf_counter()
                batch = next(batches)
                waited[0] += time.perf_counter() - begun
                yield batch
        except StopIteration:
            return
        finally:
            batches.close()

    dataset = outlined(slide, size)
    small = {"crop_px": 64, "batch": 4} if quick else {}
    steps = 2 if quick else 30
    loop._prefetch = timed  # type: ignore[assignment]
    try:
        events = list(hs.iter_train("tumour", dataset, out=dataset / "trained.safetensors", refiner="none", steps=steps, validate_every=steps, val_patches=4, **small))
    finally:
        loop._prefetch = prefetch
    taken = [e.seconds for e in events if isinstance(e, loop.StepDone)]
    return waited[0] / (taken[-1] - taken[0] + waited[0]), (taken[-1] - taken[0]) / max(len(taken) - 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=100_000)
    parser.add_argument("--height", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fast", metavar="PYTHON", help="an interpreter that has pyfast")
    parser.add_argument("--quick", action="store_true", help="a tiny slide: shows that the script works")
    args = parser.parse_args()
    if args.quick:
        args.width, args.height, args.rounds = 4096, 4096, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = write_svs(folder / "slide.svs", he_image(4096, 4096, mpp=0.25), levels=(1, 4, 16), size=(args.width, args.height), tissue=TISSUE)
        weights = model(folder / "w.safetensors")
        fitted = read_fitted(weights)
        corners = [(x, y) for y in range(int(TISSUE[1] * args.height), int(TISSUE[3] * args.height) - 1023, 1024) for x in range(int(TISSUE[0] * args.width), int(TISSUE[2] * args.width) - 1023, 1024)]
        total = len(corners)
        some = corners[:: max(1, total // 128)][:128]
        with hs.open_slide(slide) as opened:
            patches = np.stack([opened.read(1, hs.slide.Box(x // 4, y // 4, SIDE, SIDE)) for x, y in some])
        ways: dict[str, Way] = {"plain torch, OpenSlide, batches of 32": lambda: plain(slide, some, total), "this classifier, alone": lambda: alone(read_fitted(weights), patches, total)}
        ways |= peers(weights, folder, patches, total)
        if args.fast:
            if not (folder / "onnx").exists():
                hs.export_onnx(weights, folder / "onnx")
            ways["FAST, from the slide"] = lambda: in_fast(args.fast, slide, folder / "onnx" / "classifier.onnx", total)
        found: dict[str, list[float]] = {way: [] for way in ways}
        parts: list[tuple[float, float]] = []
        for _ in range(args.rounds):
            for way, measure in ways.items():
                found[way].append(measure())
            parts.append(run(slide, weights, "refined"))
        del fitted
        found["run: patches"] = [p for p, _ in parts]
        found["run: refinement"] = [r for _, r in parts]
        print(f"{args.width} x {args.height} px, {total} patches, {CORES} cores, {str(choose_precision('auto', CPU)).removeprefix('torch.')}\n")
        print("| way | s, median | least to most |\n|---|---|---|")
        for way, seconds in found.items():
            print(f"| {way} | {np.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |")
        share, step = waiting(slide, (args.width, args.height), args.quick)
        print(f"\n| training | s a step | waiting |\n|---|---|---|\n| batches of {4 if args.quick else 16} | {step:.2f} | {share:.1%} |")


if __name__ == "__main__":
    main()
