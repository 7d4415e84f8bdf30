"""Measurements in a process of their own: with other devices, or with a memory counter that starts at zero."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def json_of(module: str, *arguments: object, environment: Mapping[str, str]) -> Any:
    """What `python -m module arguments` prints in its last line, with more variables in its environment."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def simulated_devices(number: int) -> Mapping[str, str]:
    """The environment of a process with so many CPU devices."""
    return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(number)}
