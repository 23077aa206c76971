"""Settings of training the tissue network; without torch."""

from __future__ import annotations

from pydantic import Field

from napari_histoseg.methods.settings import TrainSettings


class NetTraining(TrainSettings):
    """How the paper's network learns tissue. The paper names few numbers; the others are for minutes on a CPU."""

    width: int = Field(16, ge=4, le=256, title="Width", description="Channels of each dilated block; the class map sees three times as many.")
    start_classes: int = Field(
        10, ge=2, le=100, title="Start classes", description="Classes that the network starts with; those that die out are not in the result."
    )
    steps: int = Field(200, ge=1, title="Steps", description="Each updates the classes, then the reconstruction.")
    batch: int = Field(1, ge=1, le=512, title="Batch", description="Crops a step.")
    learning_rate: float = Field(0.03, gt=0, le=1, title="Learning rate", description="Of gradient descent.")
    momentum: float = Field(0.9, ge=0, lt=1, title="Momentum", description="Of gradient descent.")
    weight_decay: float = Field(0.0, ge=0, le=1, title="Weight decay", description="Of gradient descent; the paper has none.")
    superpixels: int = Field(
        5000, ge=1, le=100_000, title="Superpixels", description="In 512 × 512 pixels; pixels of one are taught one class. The paper's are 5,000."
    )
    compactness: float = Field(10.0, gt=0, le=1000, title="Compactness", description="Of superpixels: higher is squarer, lower keeps to colors.")
    decoder: bool = Field(True, title="Reconstruction", description="Learn to rebuild the picture from its classes too, against collapse.")
    reconstruction_weight: float = Field(
        1.0, gt=0, le=1000, title="Reconstruction weight", description="Weight of rebuilding the picture (mean absolute difference, colors from 0 to 1)."
    )
    instance_norm: bool = Field(
        True, title="Normalize responses", description="Give each class the same mean and spread in a picture before the strongest is taken, against collapse."
    )
    reseed: bool = Field(True, title="Revive classes", description="Split the largest class when one is empty at the end of an epoch, against collapse.")
    least_classes: int = Field(
        3, ge=0, le=100, title="Least classes", description="Stop when an epoch has fewer classes, and keep the best from before; 0 never stops for this."
    )
    loss_goal: float = Field(
        0.0, ge=0, le=100, title="Loss goal", description="Stop when an epoch's loss of the classes is below; 0 never stops for this."
    )
    validate_every: int = Field(50, ge=1, title="Validate every", description="Steps between two validations.")
    average_decay: float = Field(
        0.0, ge=0, lt=1, title="Weight averaging", description="Decay of the exponential moving average that is kept; 0 is off, as in the paper."
    )
