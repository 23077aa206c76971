"""The patch classifier: a backbone and the paper's small head."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from napari_histoseg.errors import SettingsError
from napari_histoseg.nn.inception import InceptionV3
from napari_histoseg.nn.mobilenet import MobileNetV2

Backbone = Literal["mobilenet_v2", "inception_v3"]
BACKBONES: tuple[str, ...] = get_args(Backbone)
HIDDEN, DROPPED, CLASSES = 100, 0.5, 2


class Classifier(nn.Module):
    """Backbone, mean over the patch, dense 100, ReLU, dropout 0.5, batch norm, dense 2 (H2G-Net §2.3, as in its released code).

    The paper's text has the dropout before the ReLU, which is the same: a ReLU leaves zeros zero, and commutes with the scale.

    Parameters
    ----------
    backbone : {"mobilenet_v2", "inception_v3"}
        2.35 or 21.99 million parameters with the head. The paper's 2.39 and 22.00 include what batch norm counts.

    Raises
    ------
    SettingsError
        If there is no such backbone.
    """

    def __init__(self, backbone: Backbone = "mobilenet_v2") -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise SettingsError(f"There is no backbone '{backbone}'. The backbones are: {', '.join(BACKBONES)}.")
        self.backbone = MobileNetV2() if backbone == "mobilenet_v2" else InceptionV3()
        self.head = nn.Sequential(
            nn.Linear(self.backbone.channels, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(DROPPED),
            nn.BatchNorm1d(HIDDEN),
            nn.Linear(HIDDEN, CLASSES),
        )

    @property
    def channels(self) -> int:
        """Features of :meth:`embed`."""
        return self.backbone.channels

    def embed(self, image: Tensor) -> Tensor:
        """Patches (n, 3, h, w) in 0–1 → the backbone's features (n, channels), averaged over each patch."""
        features: Tensor = self.backbone(image)
        return features.mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Patches (n, 3, h, w) in 0–1 → logits (n, 2) of no tumour and tumour; in training n is at least 2, for batch norm."""
        logits: Tensor = self.head(self.embed(image))
        return logits
