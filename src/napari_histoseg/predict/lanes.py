"""How tiles flow through read, network and decode: on CPU cores side by side, on a card in batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from napari_histoseg.errors import RunError, TileError
from napari_histoseg.methods.base import Finer, Model, TileFrame, TileOutput
from napari_histoseg.slide import Box, Slide
from napari_histoseg.tiling import Tile


@dataclass(frozen=True)
class Work:
    """What a lane needs to know about the run."""

    slide: Slide
    model: Model
    mpp: float
    downsample: float
    bounds: Box
    """The slide in working pixels."""

    @property
    def scale(self) -> int:
        """Pixels that the model reads for each working pixel, along each axis."""
        return scale_of(self.model)


@dataclass(frozen=True)
class Done:
    """A tile and what came of it; ``problem`` when it could not be read."""

    tile: Tile
    output: TileOutput | None
    problem: TileError | None = None


Say = Callable[[str], None]

BYTES_A_PIXEL = 1000
"""Memory that the largest network here holds for each pixel of a tile, generously."""


def scale_of(model: Model) -> int:
    """Pixels that a model reads for each working pixel, along each axis."""
    return model.scale if isinstance(model, Finer) else 1


def reading(model: Model, tile: Tile) -> Box:
    """What is read for a tile: in steps from the slide's corner for models that look at finer pixels, else with the model's margin."""
    return snapped(tile.keep, model.halo_px, model.stride_px) if isinstance(model, Finer) else aligned(tile, model.halo_px, model.stride_px)


def snapped(keep: Box, halo_px: int, stride_px: int) -> Box:
    """The smallest box around ``keep`` whose sides are multiples of the stride in the slide's frame, with a margin."""
    left, top = keep.x // stride_px * stride_px, keep.y // stride_px * stride_px
    width, height = -(-(keep.right - left) // stride_px) * stride_px, -(-(keep.bottom - top) // stride_px) * stride_px
    return Box(left, top, width, height).padded(halo_px)


def aligned(tile: Tile, halo_px: int, stride_px: int) -> Box:
    """The tile's read box, grown to a multiple of the network's stride on the right and below."""
    box = tile.keep.padded(halo_px)
    return Box(box.x, box.y, -(-box.width // stride_px) * stride_px, -(-box.height // stride_px) * stride_px)


def read_tile(work: Work, tile: Tile) -> NDArray[np.uint8]:
    """The pixels of the tile's read box; what lies outside the slide is mirrored, so that its edge is no edge to the network."""
    return read_box(work, tile.read, work.scale)


def read_box(work: Work, box: Box, scale: int = 1) -> NDArray[np.uint8]:
    """The pixels of a box of working pixels, ``scale`` times as fine, mirrored outside the slide."""
    mpp, bounds = work.mpp, work.bounds
    if scale > 1:
        mpp = work.mpp / scale
        box, bounds = box.scaled(scale), Box(0, 0, *work.slide.size_at(mpp))
    inside = box.intersect(bounds)
    image = work.slide.read_at(mpp, inside)
    if inside == box:
        return image
    top, left = inside.y - box.y, inside.x - box.x
    mirrored = cv2.copyMakeBorder(image, top, box.bottom - inside.bottom, left, box.right - inside.right, cv2.BORDER_REFLECT)
    return np.asarray(mirrored, np.uint8)


def run_tiles(
    work: Work, tiles: Iterator[Tile], device: torch.device, batch: int, tile_px: int, say: Say
) -> Generator[Done, None, None]:
    """Compute tiles as they come; at most a few are in flight, so memory does not grow with the slide."""
    tiles = (Tile(t.index, t.keep, reading(work.model, t)) for t in tiles)
    if device.type == "cpu":
        return _side_by_side(work, tiles, say)
    side = (tile_px + 2 * work.model.halo_px) * work.scale
    return _batched(work, tiles, batch or fitting_batch(_free_memory(device), side), say)


def fitting_batch(free_bytes: int, side_px: int) -> int:
    """Tiles that fit into half of a card's free memory at once, a power of two from 1 to 16.

    A power of two, so that a little more or less free memory gives the same batches and so the same bits.
    """
    fitting = free_bytes // 2 // (side_px**2 * BYTES_A_PIXEL)
    return int(2 ** min(max(fitting, 1).bit_length() - 1, 4))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return 8 * 2**30


def frame_of(work: Work, tile: Tile) -> TileFrame:
    """Where a tile lies, as methods are told."""
    return TileFrame(tile, work.mpp, work.downsample, work.bounds)


def _side_by_side(work: Work, tiles: Iterator[Tile], say: Say) -> Generator[Done, None, None]:
    """One thread a core takes a tile from reading to decoded objects: faster than one network with many threads."""

    def whole(tile: Tile) -> Done:
        try:
            image = read_tile(work, tile)
        except TileError as problem:
            return Done(tile, None, problem)
        raw = work.model.forward(image[None])[0]
        return Done(tile, work.model.decode(raw, image, frame_of(work, tile)))

    workers = _cores()
    with _single_threaded_torch(), ThreadPoolExecutor(workers, "histoseg-tile") as pool:
        waiting: list[Future[Done]] = []
        again: deque[Tile] = deque()
        try:
            while True:
                # Twice the workers, so that none waits while the store writes.
                while len(waiting) < 2 * workers and (tile := again.popleft() if again else next(tiles, None)):
                    waiting.append(_submit(pool, whole, tile))
                if not waiting:
                    return
                finished = wait(waiting, return_when=FIRST_COMPLETED).done
                for future in [f for f in waiting if f in finished]:
                    waiting.remove(future)
                    try:
                        yield future.result()
                    except (MemoryError, RuntimeError) as error:
                        if not _out_of_memory(error) or workers == 1:
                            raise _no_memory(error) from error
                        workers = 1
                        again.append(future.tile)  # type: ignore[attr-defined]
                        say("Not enough memory for several tiles at once: going on with one at a time.")
        finally:
            for future in waiting:
                future.cancel()


def _submit(pool: ThreadPoolExecutor, work: Callable[[Tile], Done], tile: Tile) -> Future[Done]:
    future = pool.submit(work, tile)
    future.tile = tile  # type: ignore[attr-defined]
    return future


def _batched(work: Work, tiles: Iterator[Tile], batch: int, say: Say) -> Generator[Done, None, None]:
    """Threads read and decode around one network on the card; batches are filled up to one size, so that bits repeat."""

    def read(tile: Tile) -> tuple[Tile, NDArray[np.uint8] | TileError]:
        try:
            return tile, read_tile(work, tile)
        except TileError as problem:
            return tile, problem

    with ThreadPoolExecutor(_cores(), "histoseg-read") as readers, ThreadPoolExecutor(_cores(), "histoseg-decode") as decoders:
        reading: deque[Future[tuple[Tile, NDArray[np.uint8] | TileError]]] = deque()
        decoding: deque[Future[Done]] = deque()
        while True:
            while len(reading) < 2 * batch and (tile := next(tiles, None)) is not None:
                reading.append(readers.submit(read, tile))
            if not reading:
                break
            ready = [reading.popleft().result() for _ in range(min(batch, len(reading)))]
            good: list[tuple[Tile, NDArray[np.uint8]]] = []
            for tile, image in ready:
                if isinstance(image, TileError):
                    yield Done(tile, None, image)
                else:
                    good.append((tile, image))
            raws, batch = _forward(work.model, [image for _, image in good], batch, say)
            for (tile, image), raw in zip(good, raws, strict=True):
                decoding.append(decoders.submit(_decode, work, tile, image, raw))
            while decoding and (decoding[0].done() or len(decoding) > 2 * batch):
                yield decoding.popleft().result()
        while decoding:
            yield decoding.popleft().result()


def _decode(work: Work, tile: Tile, image: NDArray[np.uint8], raw: NDArray[np.float32]) -> Done:
    return Done(tile, work.model.decode(raw[:, : image.shape[0], : image.shape[1]], image, frame_of(work, tile)))


def _forward(
    model: Model, images: list[NDArray[np.uint8]], batch: int, say: Say
) -> tuple[list[NDArray[np.float32]], int]:
    """Network output of each image, and the batch size that fitted."""
    if not images:
        return [], batch
    side = tuple(max(image.shape[axis] for image in images) for axis in (0, 1))
    stack = np.full((len(images), *side, 3), 255, np.uint8)
    for row, image in zip(stack, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    while True:
        try:
            out: list[NDArray[np.float32]] = []
            for start in range(0, len(stack), batch):
                part = stack[start : start + batch]
                full = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.uint8)])
                out.extend(model.forward(full)[: len(part)])
            return out, batch
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error) or batch == 1:
                raise _no_memory(error) from error
            batch //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            say(f"Not enough memory on the device: going on with batches of {batch}.")


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _no_memory(error: Exception) -> Exception:
    if not _out_of_memory(error):
        return error
    return RunError("There is not enough memory for a single tile. Choose a smaller tile_px, or close other programs, and run again.")


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@contextmanager
def _single_threaded_torch() -> Iterator[Any]:
    """One torch and OpenCV thread a worker: cores are used by tiles side by side, and bits do not hang on the core count."""
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv_threads)
