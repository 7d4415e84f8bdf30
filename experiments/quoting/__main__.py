"""python -m experiments.quoting: writes the quotes of published results anew, in the pages and in the configs."""

from __future__ import annotations

import sys

from experiments.config import ConfigError
from experiments.quoting.pages import write
from experiments.quoting.runs import ROOT, read_published


def main() -> int:
    """Returns the exit status; prints the files that changed, or an error as one line on stderr."""
    try:
        changed = write(read_published())
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in changed:
        print(f"quoted: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
