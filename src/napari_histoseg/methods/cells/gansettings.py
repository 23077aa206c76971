"""Settings of training the cell classifier; without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_histoseg.methods.settings import TrainSettings

Variant = Literal["improved", "paper"]
OWN: dict[Variant, dict[str, float]] = {
    "improved": {"critic_steps": 2, "learning_rate": 5e-4, "critic_rate": 5e-4, "class_rate": 1e-3},
    "paper": {"critic_steps": 5, "learning_rate": 1e-4, "critic_rate": 1e-4, "class_rate": 2e-4},
}
"""What each variant takes where a setting is 0. Five times the paper's rates, for a hundredth of its steps."""


class GanTraining(TrainSettings):
    """How the InfoGAN of nuclei is trained. Defaults are for minutes on a CPU; ``paper`` is the published recipe."""

    variant: Variant = Field(
        "improved",
        title="Training",
        description="improved: the class head has its own trunk and learns from real nuclei too; paper: as published, from generated nuclei only.",
    )
    n_classes: int = Field(3, ge=2, le=20, title="Classes", description="K, how many kinds of cells to tell apart; the paper's are 3 and 5.")
    z_dim: int = Field(16, ge=1, le=256, title="Noise", description="Length of the noise vector; the paper's is 16.")
    width: int = Field(8, ge=4, le=256, title="Width", description="Channels of the first map; features are eight times as many.")
    steps: int = Field(1500, ge=1, title="Steps", description="Generator steps; the paper's are 70,000.")
    batch: int = Field(64, ge=2, le=512, title="Batch", description="Nuclei a critic step; the paper's is 64.")
    critic_steps: int = Field(
        0, ge=0, le=20, title="Critic steps", description="Critic steps a generator step; 0 takes the variant's own: 2, the paper's 5."
    )
    learning_rate: float = Field(
        0.0, ge=0, le=1, title="Generator rate", description="Of the generator; 0 takes the variant's own: 0.0005, the paper's 0.0001."
    )
    critic_rate: float = Field(
        0.0, ge=0, le=1, title="Critic rate", description="Of the critic; 0 takes the variant's own: 0.0005, the paper's 0.0001."
    )
    class_rate: float = Field(
        0.0, ge=0, le=1, title="Class rate", description="Of the class head; 0 takes the variant's own: 0.001, the paper's 0.0002."
    )
    weight_decay: float = Field(0.0, ge=0, le=1, title="Weight decay", description="Of all three; the paper has none.")
    class_weight: float = Field(1.0, ge=0, le=100, title="Class weight", description="Weight of the generated nuclei's class.")
    rotation_weight: float = Field(
        1.0, ge=0, le=100, title="Rotation weight", description="Weight of generated nuclei keeping their class turned and restained; 0 in the paper."
    )
    real_weight: float = Field(
        1.0, ge=0, le=100, title="Real weight", description="Weight of the information that two views of a real nucleus share; 0 in the paper."
    )
    start_steps: int = Field(
        150, ge=0, title="Start", description="Steps in which the class head learns k-means' classes of real nuclei; 0 in the paper."
    )
    anchor_weight: float = Field(
        0.0, ge=0, le=100, title="Anchor weight", description="Weight of k-means' classes after the start; 0 lets them go."
    )
    view_batch: int = Field(128, ge=2, le=4096, title="Views", description="Real nuclei a step that the class head sees in two views.")
    stain_jitter: float = Field(0.05, ge=0, le=1, title="Stain jitter", description="How much the stain of two views differs.")
    rotations: bool = Field(True, title="Rotations", description="Turn and mirror real nuclei at random.")
    average_decay: float = Field(
        0.98, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off."
    )
    crop_px: int = Field(40, ge=40, le=40, title="Crop", description="Side of a nucleus crop.")

    @property
    def improved(self) -> bool:
        """Whether the class head goes beyond the paper."""
        return self.variant == "improved"

    def own(self, name: str) -> float:
        """A setting of :data:`OWN`: as given, or the variant's own where it is 0."""
        return float(getattr(self, name) or OWN[self.variant][name])

    @property
    def critics(self) -> int:
        """Critic steps a generator step."""
        return int(self.own("critic_steps"))
