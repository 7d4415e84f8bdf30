"""The command `python -m explainer`.

build [STEP ...]  builds the site; `make site` installs what that needs and calls it
report FOLDER     adds the figure of contrasts, with its controls, to the report of a run; the site must be built
"""

import sys
from pathlib import Path

from experiments.config import ConfigError
from explainer.build import build
from explainer.report import add_to_report

match sys.argv[1:]:
    case ["build", *steps]:
        build(steps)
    case ["report", folder]:
        try:
            print(add_to_report(Path(folder)))
        except (ConfigError, FileNotFoundError, ValueError) as error:
            sys.exit(f"error: {error}")
    case _:
        sys.exit(f"error: this is no command. {__doc__}")
