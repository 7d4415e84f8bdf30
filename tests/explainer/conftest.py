"""Without the site's requirements its tests are skipped, and files that import them are not searched for doctests."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("sybil") else ["code_blocks.py", "shell_blocks.py"]
