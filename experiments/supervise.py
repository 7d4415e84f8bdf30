"""Runs one of several processes in a child, so that its end can be explained.

When a process of a distributed run dies, jax ends the others by abort(), from a thread of its own, in half a minute.
No Python code runs then, so that only a parent can say in one line what happened, and what to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

ENDED = (
    "error: another process of this run has ended (its own output says why), so that jax ended this one, too; what is "
    "in the run folder is kept: start all processes again, as many as you like, to go on from there"
)
_PR_SET_PDEATHSIG = 1


def supervised(work: Callable[[], int]) -> int:
    """Runs `work` in a child process, and returns its exit status.

    Signals reach the child: from a terminal or a scheduler, which send them to both, or from this process. It does not
    outlive this process (on Linux).
    """
    if not hasattr(os, "fork"):
        return work()
    parent, child = os.getpid(), os.fork()
    if not child:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return work() if os.getppid() == parent else 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child, too
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGABRT:
        print(ENDED, file=sys.stderr, flush=True)
        return 1
    return code if code >= 0 else 128 - code
