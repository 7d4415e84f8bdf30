"""Config of one training: optimizer, batches, execution of steps and seeds, and probes."""

from __future__ import annotations

from typing import Literal

from experiments.config.errors import configuration, require


@configuration
class OptimizerConfig:
    """Optimizer, learning rate through training, decay, and the loss."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """`sgd` (with momentum) and `adam` add weight decay to the gradient, as in torch; `adamw` decouples it."""
    momentum: float = 0.9
    """Momentum of `sgd`, or beta_1 of `adam` and `adamw`; in [0, 1)."""
    nesterov: bool = False
    """Nesterov's momentum, for `sgd`."""
    schedule: Literal["cosine", "constant", "step", "triangle", "onecycle", "exponential"] = "cosine"
    """Learning rate through training. `cosine` falls to 0 at the last step. `step` divides by 10 at `milestones`.
    `triangle` rises linearly from 0 until `warmup`, then falls linearly to 0. `onecycle` does so with cosines, from
    1/25 of the rate, and down to 1e-5 of it. `exponential` grows to `growth` times the first rate."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Fractions of the training at which `step` divides by 10."""
    warmup: float = 0.25
    """Fraction of the training during which `triangle` and `onecycle` rise."""
    growth: float = 4096.0
    """Ratio of the last to the first rate of `exponential`, for stress tests."""
    weight_decay: float = 0.0
    """Weight decay of kernels; 0 is off. Biases of linear layers never decay."""
    decay_scale_bias: bool = False
    """Whether weight decay acts on the scale and bias of the norm layers, too."""
    norm_bias_rate: float = 1.0
    """Factor on the learning rate of the norms' biases."""
    label_smoothing: float = 0.0
    """Fraction of the target that is spread evenly over all classes."""
    trains: Literal["all", "norm"] = "all"
    """Parameters to train: `all`, or only scale and bias of the norms (`norm`)."""

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, f"optimizer.momentum is {self.momentum}; use a value in [0, 1)")
        require(self.weight_decay >= 0, f"optimizer.weight_decay is {self.weight_decay}; use 0 or more")
        require(0 < self.warmup < 1, f"optimizer.warmup is {self.warmup}; use a share between 0 and 1")
        require(self.growth > 0, f"optimizer.growth is {self.growth}; use a positive factor")
        require(self.norm_bias_rate > 0, f"optimizer.norm_bias_rate is {self.norm_bias_rate}; use a positive factor")
        require(
            0 <= self.label_smoothing < 1,
            f"optimizer.label_smoothing is {self.label_smoothing}; use a share in [0, 1)",
        )
        require(
            list(self.milestones) == sorted(set(self.milestones)) and all(0 < m < 1 for m in self.milestones),
            f"optimizer.milestones is {self.milestones}; use growing shares of the training, such as (0.5, 0.75)",
        )
        require(
            not self.nesterov or self.name == "sgd",
            f"optimizer.nesterov is on, but optimizer.name is {self.name!r}; use sgd, or leave it out",
        )


@configuration
class TrainingConfig:
    """Batches, epochs, and how steps and seeds run."""

    batch_size: int = 60
    """Examples per step. Every epoch has its own order and drops the last, incomplete batch."""
    epochs: int = 20
    """Passes over the training set."""
    classes_per_batch: int | None = None
    """Number of classes per batch, drawn for each batch, so that batches are not random samples; None means random."""
    steps: Literal["auto", "scan", "loop"] = "auto"
    """How steps run: `scan` compiles an epoch as one loop; `loop` calls one compiled step from Python; `auto` measures
    both on this device and uses the faster one."""
    lanes: Literal["auto", "vmap", "sequence"] = "auto"
    """How the trainings of an arm run: `vmap` runs many in one program; `sequence` runs one after another on each
    device; `auto` measures both and uses the faster one."""
    vmap_lanes: int = 32
    """The most trainings in one vmap; memory grows with this number."""
    checkpoint_epochs: int = 0
    """Epochs between checkpoints, from which a killed training resumes; 0 is off: it starts again."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep per training."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 2, f"training.batch_size is {self.batch_size}; batch norm needs at least 2")
        require(self.epochs >= 1, f"training.epochs is {self.epochs}; use at least 1")
        require(
            self.classes_per_batch is None or self.classes_per_batch >= 1,
            f"training.classes_per_batch is {self.classes_per_batch}; use at least 1, or leave it out",
        )
        require(self.vmap_lanes >= 1, f"training.vmap_lanes is {self.vmap_lanes}; use at least 1")
        require(self.checkpoint_epochs >= 0, f"training.checkpoint_epochs is {self.checkpoint_epochs}; use 0 or more")
        require(self.keep_checkpoints >= 1, f"training.keep_checkpoints is {self.keep_checkpoints}; use at least 1")


@configuration
class ProbesConfig:
    """Measurements inside the networks: an arm's first seeds are trained once more, at its most chosen setting."""

    seeds: int = 3
    """Number of seeds to probe; 0 is off."""
    examples: int = 2048
    """Number of training examples on which to probe the networks: the first ones, or all if there are fewer."""
    gradients: bool = True
    """Whether to compute the norm of the gradient per layer after every epoch."""
    eigenvalues: int = 0
    """Number of largest eigenvalues of the Hessian to compute after the last step, by Lanczos; 0 is off."""
    mean_logit: bool = False
    """Whether to compute ||d mean(logit 0) / dW||² per layer after the last step."""
    predictiveness: bool = False
    """Whether to compute loss and gradient along the gradient's direction on a fixed batch after every epoch."""

    def __post_init__(self) -> None:
        require(self.seeds >= 0, f"probes.seeds is {self.seeds}; use 0 (off) or more")
        require(self.examples >= 2, f"probes.examples is {self.examples}; use at least 2")
        require(self.eigenvalues >= 0, f"probes.eigenvalues is {self.eigenvalues}; use 0 (off) or more")
