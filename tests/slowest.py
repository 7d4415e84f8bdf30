"""Chooses the tests that only make test-all runs: `python tests/slowest.py SECONDS LOG...` writes slow.txt.

The logs come from `pytest --durations=0 -vv -m "not long"` on an otherwise idle machine. The slowest tests are removed
from make test until the rest takes at most SECONDS of one core. The fastest case of a parametrized test always stays.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

LEAST = 1.0  # seconds; a faster test is never slow


def main(budget: float, *logs: str) -> None:
    seconds: dict[str, float] = defaultdict(float)
    for log in logs:
        for line in Path(log).read_text().splitlines():
            if found := re.fullmatch(r"(\d+\.\d+)s (?:call|teardown) +(.*)", line):
                seconds[found[2]] += float(found[1])
    cases = defaultdict(list)
    for test in seconds:
        cases[test.partition("[")[0]].append(test)
    fastest = {min(group, key=seconds.__getitem__) for group in cases.values() if len(group) > 1}
    left, slow = sum(seconds.values()), []
    for test in sorted(seconds.keys() - fastest, key=seconds.__getitem__, reverse=True):
        if left <= budget or seconds[test] < LEAST:
            break
        slow.append(test)
        left -= seconds[test]
    (Path(__file__).parent / "slow.txt").write_text("".join(f"{test}\n" for test in sorted(slow)))
    print(f"{len(slow)} of {len(seconds)} tests are slow; without them {left:.0f} of {sum(seconds.values()):.0f} s")


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
