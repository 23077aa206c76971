"""The networks of the cell classifier: a generator of nuclei, and a trunk with a critic head and a class head (InfoGAN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CROP_PX = 40
"""Side of a nucleus crop (paper 3.3)."""
START_PX = 5
"""Side of the generator's first map: three doublings make a crop."""
LEAK = 0.2


class Generator(nn.Module):
    """Makes nuclei from noise and a class (paper 3.3).

    Parameters
    ----------
    classes : int
        K, the number of classes.
    z_dim : int
        Length of the noise vector; the paper's is 16.
    width : int
        Channels of the last hidden map.
    """

    def __init__(self, classes: int, z_dim: int = 16, width: int = 16) -> None:
        super().__init__()
        self.classes, self.z_dim = classes, z_dim
        self.first = nn.Linear(z_dim + classes, 4 * width * START_PX**2)
        self.start = nn.Sequential(nn.BatchNorm2d(4 * width), nn.ReLU())
        self.grow = nn.Sequential(
            *_doubled(4 * width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(),
            *_doubled(2 * width, width), nn.BatchNorm2d(width), nn.ReLU(),
            *_doubled(width, 3), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor, category: Tensor) -> Tensor:
        """Crops (n, 3, 40, 40) in −1…1 of noise (n, z_dim) and class indices (n,)."""
        chosen = functional.one_hot(category, self.classes).to(noise.dtype)
        maps = self.first(torch.cat([noise, chosen], 1)).unflatten(1, (-1, START_PX, START_PX))
        crops: Tensor = self.grow(self.start(maps))
        return crops


def _doubled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """Twice the size. Not a transposed convolution, which leaves a checkerboard in a short training."""
    return nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1)


class Trunk(nn.Module):
    """Four convolutions and the mean over the crop, so that a feature says what is there rather than where (Hu et al. 2018).

    Parameters
    ----------
    width : int
        Channels of the first map; the feature vector has eight times as many.
    normed : bool
        Normalize each map over its channels and pixels. The critic's has none: a gradient penalty is one of single crops, and
        batch norm would tie the crops of a batch together (Gulrajani et al. 2017, section 4).
    """

    def __init__(self, width: int = 16, normed: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 8 * width, 1)):
            layers.append(nn.Conv2d(inputs, outputs, 4 if stride == 2 else 3, stride, 1))
            if normed:
                layers.append(nn.GroupNorm(1, outputs))
            layers.append(nn.LeakyReLU(LEAK))
        self.layers = nn.Sequential(*layers)
        self.length = 8 * width

    def forward(self, crops: Tensor) -> Tensor:
        """Features (n, 8·width) of crops (n, 3, 40, 40) in −1…1."""
        features: Tensor = self.layers(crops).mean((2, 3))
        return features


class InfoGan(nn.Module):
    """Generator G, trunk D, critic D_D and class head D_Q (paper 3.3, figure 5).

    Parameters
    ----------
    classes, z_dim, width
        As in :class:`Generator` and :class:`Trunk`.
    own_trunk : bool
        Give the class head its own trunk, which is normalized. The paper's heads share one.
    """

    def __init__(self, classes: int, z_dim: int = 16, width: int = 16, own_trunk: bool = False) -> None:
        super().__init__()
        self.generator = Generator(classes, z_dim, width)
        self.trunk = Trunk(width)
        self.critic = nn.Linear(self.trunk.length, 1)
        self.class_trunk = Trunk(width, normed=True) if own_trunk else None
        self.classifier = nn.Linear(self.trunk.length, classes)
        self.apply(_start)

    @property
    def classes(self) -> int:
        """K."""
        return self.generator.classes

    def judge(self, crops: Tensor) -> Tensor:
        """The critic's value (n,) of crops in −1…1: higher is more real."""
        value: Tensor = self.critic(self.trunk(crops))[:, 0]
        return value

    def features(self, crops: Tensor) -> Tensor:
        """What the class head sees, (n, 8·width), of crops in −1…1."""
        trunk = self.trunk if self.class_trunk is None else self.class_trunk
        features: Tensor = trunk(crops)
        return features

    def classify(self, crops: Tensor) -> Tensor:
        """Class logits (n, K) of crops in −1…1."""
        logits: Tensor = self.classifier(self.features(crops))
        return logits

    def class_parameters(self) -> list[nn.Parameter]:
        """What the mutual information trains besides the generator."""
        trunk = self.trunk if self.class_trunk is None else self.class_trunk
        return [*trunk.parameters(), *self.classifier.parameters()]

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the Wasserstein distance trains besides the generator."""
        return [*self.trunk.parameters(), *self.critic.parameters()]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities (n, K) and features (n, 8·width) of crops (n, 3, 40, 40) in 0–1."""
        features = self.features(image * 2 - 1)
        return self.classifier(features).softmax(1), features


def _start(module: nn.Module) -> None:
    """Weights that keep the size of the signal from layer to layer (He et al. 2015): a short training has no time to grow it."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, LEAK, "fan_in", "leaky_relu")
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
