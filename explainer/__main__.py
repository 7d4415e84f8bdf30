"""`python -m explainer build [STEP ...]` builds the site; `make site` installs what that needs and calls it."""

import sys

from explainer.build import build

if sys.argv[1:2] != ["build"]:
    sys.exit("error: the only command is `build`; run: python -m explainer build")
build(sys.argv[2:])
