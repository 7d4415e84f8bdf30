"""The steps of `make site`, each a function without arguments: from the files of the repository to `_site/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from explainer.staging import stage

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "explainer/_build"
SITE = ROOT / "_site"


def pages() -> None:
    """The pages of docs/ and what they link to, made HTML by Sphinx; every warning is an error."""
    stage(ROOT, BUILD / "pages")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "-n", "--keep-going", "-c", ROOT / "docs"]
    done = subprocess.run([*command, "-d", BUILD / "doctrees", BUILD / "pages", SITE], cwd=ROOT)
    if done.returncode:
        shutil.rmtree(BUILD / "doctrees")  # or the next build would not read these pages again, and not warn
        sys.exit("error: Sphinx warned; see above")


# In this order. A new step stands before `pages`, which needs what the others write.
STEPS = (pages,)


def build() -> None:
    for step in STEPS:
        print(f"{step.__name__}: {(step.__doc__ or '').splitlines()[0]}", flush=True)
        step()
