"""`python -m benchmarks COMMAND [options]`; see `benchmarks.commands`."""

from __future__ import annotations

import sys

from benchmarks.commands import parse, run
from benchmarks.machine import set_environment

if __name__ == "__main__":
    options = parse(sys.argv[1:])
    set_environment(options.command.environment)
    sys.exit(run(options))
