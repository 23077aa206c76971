"""Training the InfoGAN of nuclei, for the shared loop; its classes; a sheet of what it generates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.methods.cells import ganloss
from napari_histoseg.methods.cells.gan import CROP_PX, InfoGan
from napari_histoseg.methods.cells.gansettings import GanTraining
from napari_histoseg.methods.cells.ganstart import Start
from napari_histoseg.nn.inference import to_input
from napari_histoseg.nn.weights import ModelCard
from napari_histoseg.train.card import card_of
from napari_histoseg.train.task import Optimizers

BETAS = (0.5, 0.9)
"""Of Adam, for a critic under a gradient penalty (Gulrajani et al. 2017)."""
VIEWS = 4
"""Views of each held-out crop that its class must survive."""
MOST_SCORED = 2048


class Crops(Protocol):
    """Nuclei (n, 40, 40, 3) uint8: an array, a memory map, or what is indexed like one by ascending positions."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class GanTask:
    """Learning kinds of nuclei without labels (paper 3.3).

    A step is some steps of the critic (``critic_steps``), then one of the generator together with the class head. The generator
    wants the critic's approval and that the class head finds the class it was given; the class head, and what it sees
    through, want the latter (Hu et al. 2018, whom the paper follows). ``improved`` adds two wishes of the class head: that
    generated nuclei keep their class when they are turned and restained, and that two such views of a real nucleus share as
    much information as K classes can. The paper's class head never sees a real nucleus while it learns.

    Parameters
    ----------
    settings : GanTraining
    crops, val : (n, 40, 40, 3) uint8
        Nuclei to learn from and to score on, at one stain: normalized, or by :func:`even_colors`.
    provenance : mapping, optional
        Name, data, hash and license for the model card, and ``mpp``.
    """

    def __init__(self, settings: GanTraining, crops: Crops, val: Crops, provenance: Mapping[str, Any] | None = None) -> None:
        self.settings, self.crops = settings, crops
        self.provenance = dict(provenance or {})
        kept = np.sort(np.random.default_rng(settings.seed).permutation(len(val))[:MOST_SCORED])
        self.val: NDArray[np.uint8] = np.asarray(val[kept])
        self.start = Start(crops, settings.n_classes, settings.seed) if settings.improved else None

    def network(self) -> InfoGan:
        """A fresh network."""
        settings = self.settings
        return InfoGan(settings.n_classes, settings.z_dim, settings.width, own_trunk=settings.improved)

    def optimizers(self, network: nn.Module) -> Optimizers:
        """Adam at a rate for each: generator, critic, class head. A shared trunk is in the latter two."""
        assert isinstance(network, InfoGan)
        settings = self.settings

        def adam(parameters: Iterator[nn.Parameter] | list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
            return torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=settings.weight_decay)

        return Optimizers(
            generator=adam(network.generator.parameters(), settings.own("learning_rate")),
            critic=adam(network.critic_parameters(), settings.own("critic_rate")),
            classes=adam(network.class_parameters(), settings.own("class_rate")),
        )

    def batch_at(self, rng: np.random.Generator, step: int) -> dict[str, NDArray[np.generic]]:
        """Real nuclei of all critic steps and of the views; noise, classes, interpolation, and how the views are turned and stained."""
        settings = self.settings
        real = settings.batch * settings.critics
        made = real + settings.batch
        views = settings.batch + 2 * settings.view_batch
        pair = self._draw(rng, settings.view_batch if settings.improved else 0)
        return {
            "image": self._draw(rng, real),
            "pair": pair,
            "anchor": np.zeros(0, np.int64) if self.start is None else self.start.classes_of(pair.transpose(0, 2, 3, 1)),
            "noise": rng.standard_normal((made, settings.z_dim), np.float32),
            "category": rng.integers(0, settings.n_classes, made),
            "mix": rng.random(real, np.float32),
            **_views(rng, views, settings.stain_jitter),
        }

    def _draw(self, rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
        """Nuclei (count, 3, 40, 40) at random, turned by quarters and mirrored."""
        if not count:
            return np.zeros((0, 3, CROP_PX, CROP_PX), np.uint8)
        places = rng.choice(len(self.crops), count, replace=count > len(self.crops))
        found, back = np.unique(places, return_inverse=True)
        drawn = np.asarray(self.crops[found])[back].transpose(0, 3, 1, 2)
        if not self.settings.rotations:
            return np.ascontiguousarray(drawn)
        turn = rng.integers(0, 8, count)
        out = np.empty(drawn.shape, np.uint8)
        for kind in range(8):
            chosen = turn == kind
            quarter = np.rot90(drawn[chosen], kind % 4, (2, 3))
            out[chosen] = quarter[..., ::-1] if kind >= 4 else quarter
        return out

    def take_step(
        self, network: nn.Module, optimizers: Optimizers, batch: Mapping[str, Tensor], step: int
    ) -> tuple[float, dict[str, float]]:
        """The critic's steps, then the generator's and the class head's.

        The parts are ``critic distance``, ``mutual information`` (its lower bound in units of log K: 1 is all there is),
        ``class balance`` (entropy of the classes of real nuclei in units of log K: 0 is collapse), and ``shared information``
        of the views where they are used.
        """
        assert isinstance(network, InfoGan)
        settings = self.settings
        real = _scaled(batch["image"])
        loss, distance = self._train_critic(network, optimizers["critic"], real, batch)
        lost = self._train_generator(network, optimizers, batch)
        parts = {"critic distance": distance, "mutual information": 1 - lost / float(np.log(settings.n_classes))}
        if len(batch["pair"]):
            parts["shared information"] = self._train_views(network, optimizers["classes"], batch, step)
        parts["class balance"] = self._balance(network, real[: settings.batch])
        return loss + lost, parts

    def _train_critic(
        self, network: InfoGan, optimizer: torch.optim.Optimizer, real: Tensor, batch: Mapping[str, Tensor]
    ) -> tuple[float, float]:
        """Mean loss and mean distance of the critic's steps."""
        with torch.no_grad():
            fake = network.generator(batch["noise"][: len(real)], batch["category"][: len(real)])
        rows = []
        for start in range(0, len(real), self.settings.batch):
            part = slice(start, start + self.settings.batch)
            loss, distance = ganloss.critic_loss(network.judge, real[part], fake[part], batch["mix"][part])
            _descend(optimizer, loss, network.critic_parameters())
            rows.append((float(loss.detach()), float(distance)))
        mean = np.mean(rows, 0)
        return float(mean[0]), float(mean[1])

    def _train_generator(self, network: InfoGan, optimizers: Optimizers, batch: Mapping[str, Tensor]) -> float:
        """Cross-entropy of the generated nuclei's classes. The class head does not learn what the critic likes."""
        settings = self.settings
        noise, category = batch["noise"][-settings.batch :], batch["category"][-settings.batch :]
        fake = network.generator(noise, category)
        (liked,) = torch.autograd.grad(-network.judge(fake).mean(), fake, retain_graph=True)
        lost = ganloss.class_information(network.classify(fake), category)
        total = settings.class_weight * lost
        if settings.improved and settings.rotation_weight:
            seen = network.classify(_view(fake, batch, slice(0, settings.batch)))
            total = total + settings.rotation_weight * ganloss.class_information(seen, category)
        own = network.class_parameters()
        wanted, *slopes = torch.autograd.grad(total, [fake, *own], retain_graph=True)
        made = list(network.generator.parameters())
        _step(optimizers["generator"], made, torch.autograd.grad(fake, made, liked + wanted))
        _step(optimizers["classes"], own, slopes)
        return float(lost.detach())

    def _train_views(self, network: InfoGan, optimizer: torch.optim.Optimizer, batch: Mapping[str, Tensor], step: int) -> float:
        """Information that two views of real nuclei share, in units of log K."""
        settings = self.settings
        pair, n = _scaled(batch["pair"]), len(batch["pair"])
        both = torch.cat([_view(pair, batch, slice(start, start + n)) for start in (settings.batch, settings.batch + n)])
        logits = network.classify(both)
        probability = logits.softmax(1)
        shared = ganloss.shared_information(probability[:n], probability[n:])
        starting = step < settings.start_steps
        anchor = 1.0 if starting else settings.anchor_weight
        loss = anchor * ganloss.class_information(logits, batch["anchor"].repeat(2))
        if not starting:
            loss = loss - settings.real_weight * shared
        _descend(optimizer, loss, network.class_parameters())
        return float(shared.detach()) / float(np.log(settings.n_classes))

    @torch.no_grad()
    def _balance(self, network: InfoGan, real: Tensor) -> float:
        classes = network.classify(real).argmax(1)
        return evenness(torch.bincount(classes, minlength=network.classes).cpu().numpy())

    def validate(self, network: nn.Module) -> dict[str, float]:
        """How much the class of a held-out nucleus says, without any label.

        ``score`` is the information that the classes of two turned and restained views of a nucleus have of each other, in
        units of log K. It is 1 when the K classes are even and always the same, 0 when all nuclei are of one class, and low
        when the class is the rotation or the stain, since it then differs between views. ``agreement`` is the share of
        pairs of views with the same class, ``balance`` the evenness of the classes.

        Tried on CoNSeP against labels: in two trainings without a start it was below 0.5 with 0.50 to 0.55 of the nuclei right, in
        six with one 0.5 to 0.62 with 0.62 to 0.68 right. So it tells failure from success; among trainings that succeeded it hardly ranks.
        """
        assert isinstance(network, InfoGan)
        network.eval()
        device = next(network.parameters()).device
        drawn = _views(np.random.default_rng(0), VIEWS * len(self.val), self.settings.stain_jitter)
        views = {name: torch.from_numpy(values).to(device) for name, values in drawn.items()}
        found = []
        with torch.inference_mode():
            for start in range(0, VIEWS * len(self.val), len(self.val)):
                crops = to_input(self.val, device, torch.float32) * 2 - 1
                found.append(network.classify(_view(crops, views, slice(start, start + len(crops)))).argmax(1).cpu().numpy())
        table = sum(pair_table(a, b, network.classes) for i, a in enumerate(found) for b in found[:i])
        assert isinstance(table, np.ndarray)
        agreement = float(np.trace(table) / table.sum())
        return {"score": information(table), "agreement": agreement, "balance": evenness(table.sum(0))}

    def card(self, scores: Mapping[str, float], seconds: float) -> ModelCard:
        """The model card: settings, data, scores, hardware."""
        settings = self.settings
        return card_of(
            "cells", settings, self.provenance, scores, len(self.val), seconds,
            name="cells",
            summary="Kinds of nuclei, learned without labels.",
            architecture=settings.variant,
            width=settings.width,
            mpp=float(self.provenance.get("mpp", 0.25)),
            classes=[{"value": i + 1, "name": f"cluster {i + 1}"} for i in range(settings.n_classes)],
        )  # fmt: skip


def _scaled(image: Tensor) -> Tensor:
    return image.float().div_(127.5).sub_(1)


def _views(rng: np.random.Generator, count: int, jitter: float) -> dict[str, NDArray[np.generic]]:
    """Angles (count,), mirroring (count,) and stain amounts (count, 3): mostly all colors together, a little each."""
    together = rng.normal(0, jitter, (count, 1))
    return {
        "angle": rng.uniform(0, 2 * np.pi, count).astype(np.float32),
        "flip": rng.choice(np.array([-1, 1], np.float32), count),
        "amount": np.exp(together + rng.normal(0, jitter / 2, (count, 3))).astype(np.float32),
    }


def _view(crops: Tensor, batch: Mapping[str, Tensor], part: slice) -> Tensor:
    return ganloss.restained(ganloss.turned(crops, batch["angle"][part], batch["flip"][part]), batch["amount"][part])


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> None:
    _step(optimizer, parameters, torch.autograd.grad(loss, parameters))


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], slopes: Any) -> None:
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def pair_table(first: NDArray[np.int64], second: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """How often each pair of classes (K, K) is given to the same object, either way round."""
    table = np.bincount(first * classes + second, minlength=classes**2).reshape(classes, classes).astype(np.float64)
    return table + table.T


def information(table: NDArray[np.float64]) -> float:
    """Mutual information of the rows and columns of a table of counts (K, K), in units of log K."""
    joint = table / table.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    known = joint > 0
    return float((joint[known] * np.log(joint[known] / apart[known])).sum() / np.log(len(table)))


def evenness(counts: NDArray[Any]) -> float:
    """Entropy of counts (K,), in units of log K: 1 when all are equal, 0 when one has everything."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(counts))) + 0.0


def classify(network: InfoGan, crops: NDArray[np.uint8], batch: int = 1024) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Class probabilities and features of nuclei.

    A nucleus has no up and down, so both are means over its eight quarter turns and mirror images.

    Parameters
    ----------
    network : InfoGan
    crops : (n, 40, 40, 3) uint8
        At the stain that the network was trained at.
    batch : int
        Crops at once.

    Returns
    -------
    probability : (n, K) float32
    features : (n, 8·width) float32
    """
    network.eval()
    device = next(network.parameters()).device
    probability = np.empty((len(crops), network.classes), np.float32)
    features = np.empty((len(crops), network.classifier.in_features), np.float32)
    for start in range(0, len(crops), batch):
        part = slice(start, start + batch)
        with torch.inference_mode():
            sides = [network(image) for image in _sides(to_input(crops[part], device, torch.float32))]
            probability[part] = torch.stack([side[0] for side in sides]).mean(0).cpu().numpy()
            features[part] = torch.stack([side[1] for side in sides]).mean(0).cpu().numpy()
    return probability, features


def _sides(image: Tensor) -> Iterator[Tensor]:
    """The eight quarter turns and mirror images."""
    for quarter in range(4):
        turned = torch.rot90(image, quarter, (2, 3))
        yield turned
        yield turned.flip(3)


def sheet(network: InfoGan, rows: int = 10, seed: int = 0) -> NDArray[np.uint8]:
    """Generated nuclei: a column a class, the same noise along a row (paper, figure 7 C and D).

    Returns
    -------
    (rows·42 + 2, K·42 + 2, 3) uint8
        On white.
    """
    network.eval()
    device = next(network.parameters()).device
    noise = np.random.default_rng(seed).standard_normal((rows, network.generator.z_dim), np.float32)
    with torch.inference_mode():
        z = torch.from_numpy(noise).to(device).repeat_interleave(network.classes, 0)
        category = torch.arange(network.classes, device=device).repeat(rows)
        crops = ((network.generator(z, category) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    gap = 2
    framed = np.pad(crops, ((0, 0), (gap, 0), (gap, 0), (0, 0)), constant_values=255)
    side = CROP_PX + gap
    joined = framed.reshape(rows, network.classes, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(rows * side, network.classes * side, 3)
    return np.pad(joined, ((0, gap), (0, gap), (0, 0)), constant_values=255)


def even_colors(
    crops: NDArray[np.uint8], groups: NDArray[np.int64], target: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Nuclei of several pictures at one mean color, so that a class is not the picture that a nucleus is from.

    Parameters
    ----------
    crops : (n, h, w, 3) uint8
    groups : (n,) int
        The picture or slide of each.
    target : (3,) float32, optional
        Mean color to give each group; without it, the mean of all crops.

    Returns
    -------
    crops : (n, h, w, 3) uint8
    target : (3,) float32
        Give it to the crops of other slides.
    """
    goal = crops.mean((0, 1, 2), dtype=np.float64).astype(np.float32) if target is None else target
    out = np.empty_like(crops)
    for group in np.unique(groups):
        chosen = groups == group
        shift = goal - crops[chosen].mean((0, 1, 2), dtype=np.float64).astype(np.float32)
        out[chosen] = np.clip(np.rint(crops[chosen] + shift), 0, 255).astype(np.uint8)
    return out, goal
