"""What networks that are not linen have in common: they are made anew at each use, and may be converted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.config import ConfigError, ModelConfig
from experiments.config.errors import require
from experiments.networks.norms import AFFINE, KINDS, OPTIONS, refuse_without_effect

_ADD = "add norm to the function"


class Adapter(ABC):
    """A network with the methods of a linen module that the laboratory calls.

    Args:
      config: the config of the network, which names its function.
      make: the user's function with all arguments but those in `later`.
      later: of the random keys and "input_shape", those that the function takes.
      train: whether the network is made for training or for evaluation.
      takes_norm: whether the function takes the norm; otherwise jbn's batch norms replace those of the library.

    Each use makes the network anew, abstractly where its arrays are given, so that nothing is kept between traces.
    """

    replaced: str
    """The batch norm of its library, as messages name it."""

    def __init__(
        self, config: ModelConfig, make: Callable[..., Any], later: set[str], *, train: bool, takes_norm: bool
    ):
        self.config, self.train, self.takes_norm = config, train, takes_norm
        self._function, self._later = make, later

    @abstractmethod
    def init(self, key: jax.Array, x: jax.Array) -> dict[str, Any]:
        """Initial variables for inputs shaped as `x`, by collection: params, batch_stats, constants."""

    @abstractmethod
    def apply(
        self, variables: Mapping[str, Any], x: jax.Array, mutable: Any = (), capture_intermediates: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Logits, and what the call has updated in the collections `mutable`.

        Args:
          variables: from `init`, and possibly more, which are ignored.
          x: a batch.
          mutable: names of collections, of "batch_stats" and "intermediates", which are what blocks have seen.
          capture_intermediates: ignored, because blocks always say what they return.

        Raises:
          ConfigError: the call has effects that the laboratory would not keep, or does not follow `train`.
        """

    @abstractmethod
    def layers(self, x: jax.Array) -> tuple[Any, ...]:
        """What tells `jbn.optim` about the layers; nothing if the names of the parameters do."""

    def init_with_output(self, key: jax.Array, x: jax.Array) -> tuple[Any, dict[str, Any]]:
        """Logits, and the initial variables."""
        variables = self.init(key, x)
        return self.apply(variables, x)[0], variables

    def _call(self, **given: Any) -> Any:
        """The user's function with the last of its arguments."""
        return self._function(**{name: given[name] for name in self._later})

    def _to_convert(self, theirs: list[str], ours: list[str]) -> bool:
        """Whether batch norms are to be replaced: those of the library at `theirs`, none of jbn at `ours`.

        Raises:
          ConfigError: norms that no arm would change, or settings that do not reach them.
        """
        config, network = self.config, self.config.network
        if self.takes_norm:
            require(
                not theirs,
                f"{network} takes norm, but has {self.replaced} at {', '.join(theirs)}, which no arm would change; "
                "make all norms by norm, or do not take it: then the laboratory replaces these",
            )
            return False
        require(
            not ours,
            f"{network} takes no norm, but has a batch norm of jbn at {', '.join(ours)}, which no arm would change; "
            f"make {self.replaced}, which the laboratory replaces, or add norm to the function",
        )
        if not theirs:
            reason = f"takes no norm, and has no {self.replaced} to replace"
            refuse_without_effect(config, ["norm", *AFFINE, *OPTIONS], reason, _ADD)
            return False
        refuse_without_effect(config, AFFINE, "takes no norm, so that its layers keep their scale and bias", _ADD)
        if config.norm not in KINDS:
            reason = f"takes no norm, and its batch norms can become only {', '.join(KINDS)}"
            refuse_without_effect(config, ["norm"], reason, _ADD)
        return True

    def _converted(self, convert: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return convert(*arguments, **options)
        except ValueError as error:
            raise ConfigError(f"{self.config.network}: {error}") from None

    def _check_follows(self, changed: bool, stats: bool, switch: str) -> None:
        """Refuses a call that decides by itself whether it updates running statistics."""
        doing = "does not update its running statistics in training"
        if not self.train:
            doing = "updates its running statistics in evaluation"
        follows = changed == self.train or not stats or self.config.norm not in ("batch_norm", "batch_renorm")
        require(
            follows,
            f"{self.config.network} {doing}; do not pass {switch} when you call layers, because the laboratory sets it "
            "in the layers",
        )
