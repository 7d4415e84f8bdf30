"""The laboratory. `experiments.run(config)` trains and `experiments.load(folder)` reads; both return `Results`.

Importing this package imports nothing else, until one of its names is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.python import PUBLISHED, Picture, Results, load, run

__all__ = ["PUBLISHED", "Picture", "Results", "load", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'experiments' has no attribute {name!r}")
    from experiments import python

    return getattr(python, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING"})
