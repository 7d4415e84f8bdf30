"""Concurrent stages never deadlock: their programs are dispatched in turns."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

from experiments.training.dispatch import dispatch, dispatched, program

# Two devices, as on a machine with two cores; with more devices, threads meet less often. In a deadlock no Python code
# runs any more: faulthandler's own thread ends the process and prints the stacks.
HEAD = """
    import faulthandler, os, subprocess, sys
    from concurrent.futures import ThreadPoolExecutor

    faulthandler.dump_traceback_later({limit}, exit=True)
    import jax, jax.numpy as jnp, numpy as np

    jax.config.update("jax_num_cpu_devices", 2)
    busy = "import os\\nwhile os.getppid() == {parent}: sum(range(10_000))"
    for _ in range({load}):
        subprocess.Popen([sys.executable, "-S", "-c", busy.replace("{parent}", str(os.getpid()))])
"""

STEPS = """
    from experiments.training.compiled import over_lanes, program
    from experiments.training.devices import mesh_of, put_by_lane

    @program(1, static_argnums=(0,), donate_argnums=1)
    def step(mesh, x):
        return over_lanes(lambda x: jnp.tanh(x @ x.T @ x), mesh, x)

    def stage(number):
        mesh = mesh_of(2)
        x = put_by_lane(np.ones((2, 16, 16), np.float32), mesh)
        for _ in range(5_000):
            x = step(mesh, x)
        return jax.block_until_ready(x)

    with ThreadPoolExecutor(2) as pool:
        print(len(list(pool.map(stage, range(2)))), "stages are through")
"""

STAGES = """
    from small_arms import BEFORE, NONE, lane, one_split

    from experiments.config import TrainingConfig
    from experiments.data.arrays import Data, Split
    from experiments.training.loop import train_arm
    from experiments.training.compiled import Engine

    rng = np.random.default_rng(0)

    def split(n):
        return Split(jnp.asarray(rng.normal(0, 1, (n, 5)), jnp.float32), jnp.asarray(rng.integers(0, 3, n), jnp.int32))

    data, lanes = one_split(Data(split(400), split(13), split(23))), [lane(0.1, 0), lane(0.3, 1)]
    setups = [s._replace(training=TrainingConfig(batch_size=4, epochs=2)) for s in (BEFORE, NONE)]

    def stage(number):
        return train_arm(setups[number % 2], data, lanes, Engine({steps!r}, "sequence"), width=2)

    with ThreadPoolExecutor(2) as pool:
        print(len(list(pool.map(stage, range(200)))), "stages are through")
"""


def last_line_of(script, limit, **settings):
    """The last line that the script prints, in a separate process that ends itself after `limit` seconds."""
    code = textwrap.dedent(HEAD) + textwrap.dedent(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", code.format(limit=limit, parent="{parent}", **settings)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, f"not through after {limit} s:\n{done.stderr[-4000:]}"
    return done.stdout.splitlines()[-1]


def test_two_threads_that_dispatch_over_the_same_devices_come_through():
    """Without turns, they deadlock within a second."""
    assert last_line_of(STEPS, limit=120, load=0) == "2 stages are through"


@pytest.mark.long
@pytest.mark.parametrize("steps", ["loop", "scan"])
def test_many_short_stages_on_a_busy_machine_come_through(steps):
    assert last_line_of(STAGES, limit=1800, load=4, steps=steps) == "200 stages are through"


def test_a_program_compiles_once_and_while_another_thread_dispatches():
    traces, through = [], threading.Event()

    @program(0, static_argnums=(0,))
    def scaled(factor, x):
        traces.append(factor)
        return factor * x, jnp.zeros(())

    def call():
        scaled(3, np.ones(4, np.float32))
        through.set()

    def hold():
        """Holds the turn until another thread has compiled the program: forever, if compiling waited for the turn."""
        thread.start()
        for _ in range(6000):
            if scaled._compiled:
                return not through.wait(0.1)
            time.sleep(0.01)
        return False

    thread, before = threading.Thread(target=call), dispatched()
    assert dispatch(hold), "it compiles during the turn, and is dispatched after it"
    thread.join()
    assert through.is_set() and dispatched() == before + 2
    np.testing.assert_array_equal(scaled(3, np.full(4, 2.0, np.float32))[0], 6.0)
    assert traces == [3]
    with jax.enable_x64(True):  # a setting of jax that changes the program, although the arguments are the same
        assert scaled(3, np.ones(4, np.float32))[1].dtype == jnp.float64
