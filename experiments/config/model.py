"""Config of the network, its norm, and the placement of the norm."""

from __future__ import annotations

from typing import Literal

from experiments.config.errors import configuration, near, require
from experiments.vocabulary import (
    NETWORK_NAMES,
    POOLED,
    RESIDUAL,
    Activation,
    DType,
    Initialization,
    Norm,
    Padding,
    Placement,
    Pooling,
    Unit,
)


@configuration
class ModelConfig:
    """In every field, None means "as published with the network"; see `experiments.networks`."""

    network: str = "mlp"
    """`mlp`, `strided_cnn`, `cnn9`, `vgg16`, `simple8`, `resnet`, `wrn`, `airbench94`; or yours, as module:function,
    which returns a linen module, or takes rngs and returns one of nnx, or takes key and returns one of Equinox."""
    placement: Placement = "before"
    """Placement of the norm in arms that do not set it themselves; residual networks have `unit` instead."""
    unit: Unit | None = None
    """Order of steps within a residual unit, for `resnet` and `wrn`."""
    activation: Activation = "relu"
    """Activation function of arms that do not set it themselves."""
    norm: Norm = "batch_norm"
    """The norm: `batch_norm`, `batch_renorm`, `frozen_batch_norm`, Flax's `layer_norm` or `group_norm`, or `none`."""
    hidden: tuple[int, ...] = (100, 100, 100)
    """Units of each hidden layer of the multilayer perceptron."""
    depth: int | None = None
    """Layers of `resnet` (6n + 2) or `wrn` (6n + 4)."""
    width: float | None = None
    """Factor on the features of every hidden layer."""
    final_norm: bool = False
    """Whether to add a norm in front of the classifier; with `after` there is one already."""
    use_bias: bool | None = None
    """Whether hidden layers add a bias."""
    padding: Padding = "zero"
    """Padding of convolutions. Zero is the channel mean after a norm, but the minimum after a ReLU."""
    pooling: Pooling | None = None
    """Where blocks pool: after their last step, or between layer and norm."""
    momentum: float | None = None
    """Weight of the old running statistics, as in Flax (torch's 0.1 is 0.9 here); in [0, 1)."""
    epsilon: float | None = None
    """Added to the variance before the square root."""
    norm_scale: bool | None = None
    """Whether the norms have a scale."""
    norm_bias: bool | None = None
    """Whether the norms have a bias."""
    norm_trainable: bool | None = None
    """Whether scale and bias of the norms are trained."""
    scale_init: Literal["ones", "uniform"] = "ones"
    """Initial scale of the norms: 1, or uniform in [0, 1), as Frankle et al. (2021) use to train only norms."""
    virtual_batch_size: int | None = None
    """Examples per virtual batch, each normalized by its own statistics (ghost batch norm)."""
    norm_scope: Literal["global", "host"] | int = "global"
    """Which examples of a batch share statistics if `--distributed` spreads it over devices: all (`global`), those on
    the devices of one host (`host`), or those on so many devices. Running statistics follow the groups' mean."""
    r_max: float = 3.0
    """Limit of batch renormalization's r after the ramp."""
    d_max: float = 5.0
    """Limit of batch renormalization's d after the ramp."""
    renorm_ramp: tuple[int, int] = (0, 0)
    """First and last step of the ramp over which r_max and d_max grow; before it, batch norm."""
    groups: int = 8
    """Number of channel groups of `group_norm`."""
    init: Initialization = "published"
    """Initializer of the kernels of hidden layers and classifier; `published` is the network's own."""
    init_std: float = 0.01
    """Standard deviation of init `normal`."""
    dtype: DType = "float32"
    """Dtype of activations and products; parameters, statistics and logits are float32."""

    def __post_init__(self) -> None:
        require(
            self.network in NETWORK_NAMES or self.own,
            f"model.network is {self.network!r}; choose one of {', '.join(NETWORK_NAMES)}, or module:function of yours"
            + near(self.network, NETWORK_NAMES),
        )
        require(
            len(self.hidden) > 0 and all(width > 0 for width in self.hidden),
            f"model.hidden is {self.hidden}; use at least one positive width, such as (100, 100, 100)",
        )
        require(
            self.momentum is None or 0 <= self.momentum < 1,
            f"model.momentum is {self.momentum}; use a value in [0, 1), such as 0.9",
        )
        require(
            self.epsilon is None or self.epsilon > 0,
            f"model.epsilon is {self.epsilon}; use a positive value, such as 1e-5",
        )
        require(self.width is None or self.width > 0, f"model.width is {self.width}; use a positive factor")
        require(self.init_std > 0, f"model.init_std is {self.init_std}; use a positive value, such as 0.01")
        require(self.r_max >= 1, f"model.r_max is {self.r_max}; use 1 (batch norm) or more")
        require(self.d_max >= 0, f"model.d_max is {self.d_max}; use 0 (batch norm) or more")
        require(
            0 <= self.renorm_ramp[0] <= self.renorm_ramp[1],
            f"model.renorm_ramp is {self.renorm_ramp}; use (first step, last step), such as (500, 2500)",
        )
        self._belongs("unit", self.unit is not None, RESIDUAL)
        self._belongs("depth", self.depth is not None, RESIDUAL)
        self._belongs("hidden", self.hidden != (100, 100, 100), ("mlp",))
        self._belongs("pooling", self.pooling is not None, POOLED)
        require(
            self.padding == "zero" or self.network != "mlp",
            f"model.padding is {self.padding!r}, but an mlp has no convolutions; leave it out",
        )
        require(
            self.virtual_batch_size is None or self.norm in ("batch_norm", "batch_renorm"),
            f"model.virtual_batch_size is {self.virtual_batch_size}, but {self.norm} has no batches; leave it out",
        )
        require(
            self.norm_scope in ("global", "host") or (isinstance(self.norm_scope, int) and self.norm_scope >= 1),
            f"model.norm_scope is {self.norm_scope!r}; choose global, host, or a number of devices",
        )
        require(
            self.norm_scope == "global" or self.norm in ("batch_norm", "batch_renorm"),
            f"model.norm_scope is {self.norm_scope!r}, but {self.norm} has no batches; leave it out",
        )
        require(
            self.norm_scope == "global" or self.virtual_batch_size is None,
            f"model.norm_scope is {self.norm_scope!r}, and model.virtual_batch_size {self.virtual_batch_size}; set one",
        )

    @property
    def own(self) -> bool:
        """Whether the network is the user's own function, module:function."""
        return self.network.count(":") == 1

    def _belongs(self, field: str, given: bool, networks: tuple[str, ...]) -> None:
        require(
            not given or self.own or self.network in networks,
            f"model.{field} is {getattr(self, field)!r}, but {self.network} has none; leave it out, or set "
            f"model.network to {' or '.join(networks)}",
        )
