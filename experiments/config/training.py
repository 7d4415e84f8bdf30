"""How one training goes: optimizer, batches, how steps and seeds run, and what is probed."""

from __future__ import annotations

from typing import Literal

from experiments.config.errors import configuration, require


@configuration
class OptimizerConfig:
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """`sgd` with momentum, its weight decay added to the gradient as in torch (so with `adam`, too); or `adamw`, its
    decay decoupled."""
    momentum: float = 0.9
    """Momentum of `sgd`, and beta_1 of `adam` and `adamw`; in [0, 1)."""
    nesterov: bool = False
    """Nesterov's momentum, for `sgd`."""
    schedule: Literal["cosine", "constant", "step", "triangle", "onecycle", "exponential"] = "cosine"
    """Learning rate through training: `cosine` falls to 0 at the last step; `step` is divided by 10 at `milestones`;
    `triangle` rises from 0 until `warmup` and falls to 0, both linearly; `onecycle` the same with cosines, from 1/25
    and to 1e-5 of the rate; `exponential` is multiplied until it is `growth` times the first rate."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the training after which `step` divides by 10."""
    warmup: float = 0.25
    """Share of the training after which `triangle` and `onecycle` fall."""
    growth: float = 4096.0
    """Last rate over first rate of `exponential`, for stress tests."""
    weight_decay: float = 0.0
    """Weight decay on kernels; 0 is off. Biases of linear layers never decay."""
    decay_scale_bias: bool = False
    """Whether weight decay acts on the scale and bias of the norm layers, too."""
    norm_bias_rate: float = 1.0
    """Learning rate of the norms' biases over that of all else."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    trains: Literal["all", "norm"] = "all"
    """What is trained: `all`, or scale and bias of the `norm` layers alone."""

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
    batch_size: int = 60
    """Examples a step. Every epoch visits a fresh order and leaves the last, incomplete batch out."""
    epochs: int = 20
    """Passes over the training set."""
    classes_per_batch: int | None = None
    """Examples of that many classes in each batch, others in the next: batches that are not drawn independently."""
    steps: Literal["auto", "scan", "loop"] = "auto"
    """How steps run: `scan`, an epoch as one compiled loop; `loop`, one compiled step called from Python; `auto`
    measures both on this device and takes the faster."""
    lanes: Literal["auto", "vmap", "sequence"] = "auto"
    """How the trainings of an arm run: `vmap`, side by side; `sequence`, one after another on each device; `auto`
    measures."""
    vmap_lanes: int = 32
    """Trainings side by side at most; memory grows with them."""
    checkpoint_epochs: int = 0
    """Epochs between checkpoints, from which a killed training goes on; 0 is off: it begins again."""
    keep_checkpoints: int = 2
    """Checkpoints kept of each training."""

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
    """What is measured inside the networks, for the first evaluation seeds of each arm."""

    seeds: int = 3
    """Evaluation seeds that are probed; 0 is none."""
    examples: int = 2048
    """Training examples on which the networks are probed: the first ones, all if there are fewer."""
    gradients: bool = True
    """Norm of the gradient per layer, after every epoch."""
    eigenvalues: int = 0
    """Largest eigenvalues of the Hessian after the last step, by Lanczos; 0 is off."""
    mean_logit: bool = False
    """||d mean(logit 0) / dW||² per layer after the last step."""
    predictiveness: bool = False
    """Loss and gradient along the gradient's direction on a fixed batch, after every epoch."""

    def __post_init__(self) -> None:
        require(self.seeds >= 0, f"probes.seeds is {self.seeds}; use 0 (off) or more")
        require(self.examples >= 2, f"probes.examples is {self.examples}; use at least 2")
        require(self.eigenvalues >= 0, f"probes.eigenvalues is {self.eigenvalues}; use 0 (off) or more")
