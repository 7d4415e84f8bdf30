"""Where results are written, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_json(result: Any, out: Path, *, ensure_ascii: bool = True) -> None:
    """Writes the result, with its folder where that is missing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=ensure_ascii) + "\n", encoding="utf-8")
