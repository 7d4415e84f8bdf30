"""Reads configs from Python files and from JSON, and writes them as JSON."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiments.config.ablation import Config
from experiments.config.errors import ConfigError, explain, raised, shortened

_ADAPTER = TypeAdapter(Config)


def to_json(config: Config) -> dict[str, Any]:
    """The resolved config as JSON values, defaults included.

    Args:
      config: any config.

    Returns:
      What config.json of a run folder holds.

    Example:
      >>> from experiments.config import Config, to_json
      >>> to_json(Config("mine"))["placements"]
      ['none', 'before', 'after']
    """
    return _ADAPTER.dump_python(config, mode="json")


def from_json(values: dict[str, Any]) -> Config:
    """The inverse of `to_json`.

    Args:
      values: the content of a config.json. Fields that it lacks have their defaults.

    Returns:
      The config.

    Raises:
      ConfigError: a field is unknown or has a wrong value.

    Example:
      >>> from experiments.config import from_json
      >>> from_json({"name": "mine", "placements": ["before", "after"]}).placements
      ('before', 'after')
    """
    try:
        return _ADAPTER.validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def load(path: str | Path) -> Config:
    """The CONFIG of a config file, such as configs/digits_placement.py.

    Args:
      path: path of the file.

    Returns:
      The config.

    Raises:
      ConfigError: the file does not exist or defines no CONFIG, or a field is unknown, ill-typed or out of range.

    Example:
      >>> from experiments.config import load
      >>> load("configs/smoke.py").name
      'smoke'
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, returns False for names that are too long
        found = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        hint = f"; did you mean {path.parent / found[0]}?" if found else "; give the path of a config, such as "
        raise ConfigError(f"no config at {path}{hint if found else hint + 'configs/digits_placement.py'}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; give the path of a config, such as configs/smoke.py")
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # the config file may raise anything
        raise ConfigError(f"{path}: {raised(error)}") from None
    finally:
        sys.dont_write_bytecode = writes
    config = getattr(module, "CONFIG", None)
    if not isinstance(config, Config):
        there = "defines no CONFIG" if config is None else f"has CONFIG = {shortened(config)}, which is no Config"
        raise ConfigError(f"{path} {there}; write CONFIG = Config(name=..., ...)")
    return config
