"""Training the paper's network without labels, for the shared loop and inside a run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.settings import Settings
from napari_histoseg.methods.tissue.deep import LEAST_SHARE, DeepClusterer, living, measure
from napari_histoseg.methods.tissue.netsettings import NetTraining
from napari_histoseg.methods.tissue.network import DeepNet
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.weights import ModelCard, load_into
from napari_histoseg.objects.superpixels import majority, side_of, superpixels
from napari_histoseg.train.card import card_of
from napari_histoseg.train.loop import StepDone, Trained, TrainEvent, fit, never
from napari_histoseg.train.task import Optimizers

Pictures = Sequence[NDArray[np.uint8]]
NOISE = 0.3
"""Size of the perturbation that a split class starts with, in units of its weights."""
EPOCH_STEPS = (10, 50)
"""Fewest and most steps of an epoch."""
MEASURED, SCORED = 24, 8
"""Crops that a validation measures and scores."""
_ORDER, _REVIVED, _FIXED = 1, 2, 3
"""Streams of random numbers that are not those of a step."""


class DeepTask:
    """Learning tissue without labels (paper 3.2 and 3.4).

    A step takes some crops. The network says the class of each pixel; in each superpixel the most frequent one is the class
    that all its pixels are taught, by cross-entropy. Then the picture is rebuilt from the probabilities that the network now
    gives, and the mean absolute difference teaches encoder and decoder. The paper finds the classes of all images first and
    trains on them afterwards; here each crop is taught the classes of the moment, as by Kanezaki (2018), whom the paper
    follows: a look at each crop is saved.

    At the end of an epoch, when every picture was seen about once, the pixels of each class are counted, as they were taught. With fewer
    classes than ``least_classes``, or a mean loss below ``loss_goal``, the training is over (:attr:`over`). Otherwise each
    empty class becomes a part of the largest.

    Parameters
    ----------
    settings : NetTraining
    pictures : sequence of (h, w, 3) uint8
        To learn from, at one pixel size; ``val_fraction`` of them are held out, when there are enough.
    provenance : mapping, optional
        Name, data, hash and license for the model card, and ``mpp``.

    Attributes
    ----------
    over : str
        Why the training should stop; empty as long as it should not.
    """

    def __init__(self, settings: NetTraining, pictures: Pictures, provenance: Mapping[str, Any] | None = None) -> None:
        if not len(pictures):
            raise SettingsError("There is no picture to learn from. Choose a slide or region that has tissue.")
        self.settings = settings
        self.provenance = dict(provenance or {})
        order = [int(i) for i in np.random.default_rng((settings.seed, _FIXED)).permutation(len(pictures))]
        held = int(settings.val_fraction * len(pictures))
        self.pictures = pictures
        self.train, self.val = sorted(order[held:]), sorted(order[:held])
        self.over = ""
        self._cut: dict[int, NDArray[np.integer[Any]]] = {}

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return int(np.clip(-(-len(self.train) // self.settings.batch), *EPOCH_STEPS))

    def network(self) -> DeepNet:
        """A fresh network."""
        settings = self.settings
        return DeepNet(settings.start_classes, settings.width, settings.decoder, settings.instance_norm)

    def optimizers(self, network: nn.Module) -> Optimizers:
        """Gradient descent with momentum: of the encoder by its classes, and of encoder and decoder by the reconstruction."""
        assert isinstance(network, DeepNet)
        settings = self.settings

        def descent(part: nn.Module) -> torch.optim.SGD:
            return torch.optim.SGD(part.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay)

        both = {} if network.decoder is None else {"rebuilding": descent(network)}
        return Optimizers(classes=descent(network.encoder), **both)

    def batch_at(self, rng: np.random.Generator, step: int) -> dict[str, NDArray[np.generic]]:
        """Crops, turned and mirrored, of the pictures whose turn it is, and their superpixels."""
        settings = self.settings
        first = step * settings.batch
        numbers = [self._turn(first + i) for i in range(settings.batch)]
        pairs = [self._crop(number, rng) for number in numbers]
        turns = rng.integers(0, 8, settings.batch)
        image = np.stack([_turned(pair[0], int(turn)) for pair, turn in zip(pairs, turns, strict=True)])
        cut = np.stack([_turned(pair[1], int(turn)) for pair, turn in zip(pairs, turns, strict=True)])
        return {"image": image, "superpixels": cut}

    def _turn(self, place: int) -> int:
        """The picture at a place of the sequence in which all take their turns, in a new order each time."""
        number, within = divmod(place, len(self.train))
        order = np.random.default_rng((self.settings.seed, _ORDER, number)).permutation(len(self.train))
        return self.train[int(order[within])]

    def _crop(self, number: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """A crop (h, w, 3) of a picture, and its superpixels."""
        side = self.settings.crop_px
        picture = np.asarray(self.pictures[number])
        cut = self._superpixels(number, picture)
        height, width = cut.shape
        top, left = (int(rng.integers(0, max(size - side, 0) + 1)) for size in (height, width))
        box = slice(top, top + side), slice(left, left + side)
        return _filled(picture[box], side), _filled(cut[box].astype(np.int32), side)

    def _superpixels(self, number: int, picture: NDArray[np.uint8]) -> NDArray[np.integer[Any]]:
        """Superpixels of a picture, found once; kept in half the memory where they are few."""
        if number not in self._cut:
            settings = self.settings
            cut = superpixels(np.ascontiguousarray(picture), side_of(settings.superpixels, 512, 512), settings.compactness)
            self._cut[number] = cut.astype(np.uint16) if int(cut.max()) < 2**16 else cut
        return self._cut[number]

    def take_step(
        self, network: nn.Module, optimizers: Optimizers, batch: Mapping[str, Tensor], step: int
    ) -> tuple[float, dict[str, float]]:
        """Update the encoder by its classes, then encoder and decoder by the reconstruction.

        The parts are ``pseudo`` and ``reconstruction``, the two losses, and ``classes``: how many the last epoch had.
        """
        assert isinstance(network, DeepNet)
        image = batch["image"].permute(0, 3, 1, 2).float().div_(255)
        logits = network(image)
        labels = taught(logits, batch["superpixels"])
        loss = functional.cross_entropy(logits, labels)
        _descend(optimizers["classes"], loss)
        pseudo = total = float(loss.detach())
        parts = {"pseudo": pseudo}
        if network.decoder is not None:
            lost = functional.l1_loss(network.rebuild(image), image)
            _descend(optimizers["rebuilding"], self.settings.reconstruction_weight * lost)
            parts["reconstruction"] = float(lost.detach())
            total += self.settings.reconstruction_weight * parts["reconstruction"]
        network.tally += torch.bincount(labels.flatten(), minlength=network.classes)
        network.epoch_loss += pseudo
        if (step + 1) % self.epoch_steps == 0:
            self._end_epoch(network, optimizers, step)
        parts["classes"] = float(network.epoch_classes) or float((network.tally > 0).sum())
        return total, parts

    def _end_epoch(self, network: DeepNet, optimizers: Optimizers, step: int) -> None:
        """Count the classes, see whether to stop, revive empty classes, and begin anew."""
        settings = self.settings
        share = network.tally / network.tally.sum()
        full = int((share >= LEAST_SHARE).sum())
        loss = float(network.epoch_loss) / self.epoch_steps
        if full < settings.least_classes:
            self.over = f"{full} classes are left, fewer than least_classes ({settings.least_classes})"
        elif loss < settings.loss_goal:
            self.over = f"the loss of an epoch, {loss:.3f}, is below loss_goal ({settings.loss_goal:g})"
        elif settings.reseed:
            rng = np.random.default_rng((settings.seed, _REVIVED, step))
            for empty in torch.nonzero(share < LEAST_SHARE).flatten().tolist():
                largest = int(share.argmax())
                network.revive(empty, largest, torch.from_numpy(NOISE * rng.standard_normal(network.centers.shape[1])))
                _still(optimizers, network.encoder.head, empty)
                share[[empty, largest]] = float(share[largest]) / 2
        network.epoch_classes.fill_(full)
        network.tally.zero_()
        network.epoch_loss.zero_()

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Measure the network on training pictures, and score it on held-out ones, where no truth is known.

        ``score`` is how much of the classes that superpixels have is known from the network's pixels: their entropy less the loss of
        them, in units of log K. It is 1 at most, for K even classes that never differ inside a superpixel, and 0 for a network that collapsed,
        whose loss is low too. ``pseudo`` is that loss, ``classes`` counts those that live. Without held-out pictures the
        training's own are scored.
        """
        assert isinstance(network, DeepNet)
        network.eval()
        measure(network, [crop for crop, _ in self._fixed(self.train, MEASURED)])
        device = network.share.device
        losses, counts = [], torch.zeros(network.classes, dtype=torch.int64)
        alive = living(network.share)
        with torch.inference_mode():
            for crop, cut in self._fixed(self.val or self.train, SCORED):
                logits = network(to_input(crop[None], device, torch.float32))[:, alive]
                labels = taught(logits, torch.from_numpy(cut[None]))
                losses.append(float(functional.cross_entropy(logits, labels)))
                counts += torch.bincount(labels.flatten().cpu(), minlength=network.classes)
        loss, shares = float(np.mean(losses)), (counts[counts > 0] / counts.sum()).double()
        entropy = float(-(shares * shares.log()).sum())
        return {"score": (entropy - loss) / float(np.log(network.classes)), "pseudo": loss, "classes": float(len(alive))}

    def _fixed(self, numbers: list[int], most: int) -> list[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
        """Always the same crops, evenly from the pictures."""
        rng = np.random.default_rng((self.settings.seed, _FIXED))
        return [self._crop(numbers[i * len(numbers) // most], rng) for i in range(most)]

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card: settings, data, scores, hardware."""
        settings = self.settings
        return card_of(
            "tissue", settings, self.provenance, scores, len(self.val), seconds,
            name="tissue",
            summary="Kinds of tissue, learned without labels.",
            architecture="paper",
            width=settings.width,
            mpp=float(self.provenance.get("mpp", 1.0)),
            classes=[{"value": i + 1, "name": f"cluster {i + 1}"} for i in range(int(scores["classes"]))],
        )  # fmt: skip


def taught(logits: Tensor, cut: Tensor) -> Tensor:
    """The classes (n, h, w) that pixels are taught: in each superpixel, the one that is the strongest most often (paper 3.2)."""
    strongest = logits.detach().argmax(1).int().cpu().numpy()
    rows = zip(strongest, cut.cpu().numpy(), strict=True)
    labels = np.stack([majority(row, np.ascontiguousarray(parts), logits.shape[1]) for row, parts in rows])
    return torch.from_numpy(labels).to(logits.device, torch.int64)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _still(optimizers: Optimizers, head: nn.Conv2d, number: int) -> None:
    """Forget where a class was moving: it is another one."""
    for name in optimizers.state_dict():
        for parameter in head.parameters():
            moving = optimizers[name].state.get(parameter, {}).get("momentum_buffer")
            if moving is not None:
                moving[number] = 0


def _turned(picture: NDArray[Any], turn: int) -> NDArray[Any]:
    """One of the eight quarter turns and mirror images."""
    quarter = np.rot90(picture, turn % 4)
    return np.ascontiguousarray(quarter[::-1] if turn >= 4 else quarter)


def _filled(picture: NDArray[Any], side: int) -> NDArray[Any]:
    """A picture that is smaller than a crop, mirrored until it fills it."""
    missing = [(0, side - size) for size in picture.shape[:2]]
    if not any(after for _, after in missing):
        return np.ascontiguousarray(picture)
    return np.ascontiguousarray(np.pad(picture, [*missing, *[(0, 0)] * (picture.ndim - 2)], mode="symmetric"))


def deep_events(
    settings: NetTraining, pictures: Pictures, out: Path, resume: bool = False, stop: Callable[[], bool] = never,
    provenance: Mapping[str, Any] | None = None,
) -> Generator[TrainEvent, None, tuple[DeepClusterer, str]]:  # fmt: skip
    """Train, and return the clusterer with the best score, and why the training ended early, if it did by itself.

    ``out`` is a file of the whole network, which :func:`clusterer_in` opens; it is there from the first validation on.
    """
    task = DeepTask(settings, pictures, provenance)
    for event in fit(task, out, resume=resume, stop=lambda: stop() or bool(task.over)):
        yield event
        if isinstance(event, Trained):
            return clusterer_in(out, settings, task.provenance), task.over
    raise AssertionError("a training ends with Trained")


def clusterer_in(weights: Path, settings: NetTraining, provenance: Mapping[str, Any]) -> DeepClusterer:
    """The clusterer of a network that the loop has kept, for a preview or when it is done."""
    network = DeepNet(settings.start_classes, settings.width, settings.decoder, settings.instance_norm)
    load_into(network, weights)
    return DeepClusterer(network, float(provenance.get("mpp", 1.0)))


def fit_deep(pictures: Pictures, settings: Settings, mpp: float) -> Generator[tuple[int, int] | str, None, DeepClusterer]:
    """Learn from the pictures of one slide, inside its run: (step, steps) as it goes on, and sentences for the person.

    Of ``settings``, those are used that :class:`NetTraining` has too; the others are its defaults.
    """
    known = settings.model_dump()
    training = NetTraining.parse({name: known[name] for name in NetTraining.model_fields if name in known})
    if _flat(pictures):
        yield "All pictures are of one even color, so there is one class of tissue."
        training = training.replace(steps=1)
    clusterer: DeepClusterer
    with tempfile.TemporaryDirectory() as folder:
        events = deep_events(training, pictures, Path(folder) / "deep.safetensors", provenance={"mpp": mpp})
        while True:
            try:
                event = next(events)
            except StopIteration as ended:
                clusterer, over = ended.value
                break
            if isinstance(event, StepDone):
                yield event.step, event.steps
    if over:
        yield f"The training stopped early: {over}. The best classes from before are kept."
    elif clusterer.n_fine == 1 and not _flat(pictures):
        yield "The network sees one class of tissue. Choose another variant, or learn from a larger region."
    return clusterer


def _flat(pictures: Pictures) -> bool:
    first = np.asarray(pictures[0])[:1, :1] if len(pictures) else None
    return first is not None and all(bool((np.asarray(picture) == first).all()) for picture in pictures)
