"""A checkpoint is restored bit for bit, or it is skipped with a note; never anything else."""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.config import ConfigError
from experiments.training.checkpoints import Checkpoints

# Quiet and signalling NaNs with payloads and both signs; -0.0; both infinities; a subnormal number.
AWKWARD = np.array([0x7FC12345, 0xFFC00001, 0x7F800001, 0x80000000, 0x7F800000, 0xFF800000, 1], np.uint32).view(
    np.float32
)


class State(NamedTuple):
    variables: dict
    optimizer: tuple
    step: jax.Array
    awkward: np.ndarray
    half: jax.Array
    negative_zeros: jax.Array
    seen: jax.Array
    empty: jax.Array
    nothing: None = None


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=False)(nn.Dense(5)(x)))


def state(seed=0):
    variables = Network().init(jax.random.key(seed), jnp.ones((4, 2)))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(variables["params"])
    return State(
        variables,
        jax.tree.map(lambda a: a + jnp.asarray(seed, a.dtype), optimizer),
        jnp.asarray(seed, jnp.int32),
        AWKWARD,
        jnp.asarray([1 / 3, -0.0, jnp.nan], jnp.bfloat16),
        jnp.full((2, 3), -0.0),
        jnp.asarray([True, False]),
        jnp.zeros((0, 3)),
    )


def small(value):
    return {"a": jnp.full(3, value, jnp.float32), "b": (jnp.asarray(value, jnp.int32),)}


def assert_same_bits(restored, saved):
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(saved), strict=True):
        name = jax.tree_util.keystr(path)
        assert a.dtype == b.dtype, name
        assert a.shape == b.shape, name
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def steps(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_of_flax_and_optax_comes_back_bit_for_bit(tmp_path):
    saved = state(3)
    Checkpoints(tmp_path / "c", keep=2).save(11, saved)
    like = state(0)
    step, restored, notes = Checkpoints(tmp_path / "c", keep=2).restore(like)
    assert step == 11 and notes == []
    assert_same_bits(restored, saved)
    assert isinstance(restored.awkward, np.ndarray) and isinstance(restored.step, jax.Array)


def test_an_abstract_state_is_enough_to_restore_and_a_bare_array_is_a_state(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(0, jnp.arange(3.0))
    assert_same_bits(checkpoints.restore(jax.ShapeDtypeStruct((3,), jnp.float32)).state, jnp.arange(3.0))


def test_float64_stays_float64(tmp_path, x64):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(0, {"a": jnp.asarray([1 / 3]), "n": jnp.asarray(2**40)})
    assert_same_bits(
        checkpoints.restore({"a": jnp.zeros(1), "n": jnp.zeros((), jnp.int64)}).state,
        {"a": jnp.asarray([1 / 3]), "n": jnp.asarray(2**40)},
    )


def test_restored_arrays_lie_where_those_of_like_lie(tmp_path):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("lanes", "model"))
    saved_on = NamedSharding(mesh, PartitionSpec("lanes", "model"))
    wanted = {
        "by_lane": NamedSharding(mesh, PartitionSpec("lanes")),
        "both": NamedSharding(mesh, PartitionSpec("model", "lanes")),
        "everywhere": NamedSharding(mesh, PartitionSpec()),
        "one": jax.sharding.SingleDeviceSharding(jax.devices()[5]),
    }
    saved = {name: jax.device_put(jnp.arange(32.0).reshape(8, 4) + i, saved_on) for i, name in enumerate(wanted)}
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, saved)
    for like in (
        {name: jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=s) for name, s in wanted.items()},
        {name: jax.device_put(jnp.zeros((8, 4)), s) for name, s in wanted.items()},
    ):
        restored = checkpoints.restore(like).state
        assert_same_bits(restored, saved)
        assert {name: array.sharding for name, array in restored.items()} == wanted


def test_a_donated_state_still_says_where_it_lay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    like = jax.device_put(jnp.zeros(3), jax.devices()[2])
    checkpoints.save(0, like)
    like.delete()
    assert checkpoints.restore(like).state.devices() == {jax.devices()[2]}


def test_the_last_k_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.restore(small(0)) == (None, None, [])
    assert not (tmp_path / "c").exists(), "restoring must not write"
    for step in (2, 9, 10):  # 10 sorts after 9 only as a number
        checkpoints.save(step, small(step))
    assert steps(tmp_path / "c") == ["10", "9"]
    assert checkpoints.restore(small(0)).step == 10
    checkpoints.save(10, small(-10))
    assert steps(tmp_path / "c") == ["10", "9"]
    assert_same_bits(checkpoints.restore(small(0)).state, small(-10))
    with pytest.raises(ConfigError, match="0 checkpoints are to be kept; use at least 1"):
        Checkpoints(tmp_path, keep=0)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_to_any_file_of_the_last_one_is_found_said_and_costs_one_step(tmp_path, damage, capfd):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, small(1))
    checkpoints.save(2, small(2))
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "c" / "2", whole)
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size]
    assert {str(file) for file in files} == {"SHA256SUMS", "leaves.json", "state.npz"}
    for file in files:
        damage(tmp_path / "c" / "2" / file)
        step, restored, notes = Checkpoints(tmp_path / "c", keep=2).restore(small(0))
        assert step == 1, file
        assert_same_bits(restored, small(1))
        assert len(notes) == 1, file
        reason = "differs from its checksum|is missing|is damaged|cannot be read: .+"
        said = rf"c: the checkpoint of step 2 is broken \(\S+ ({reason})\); going on from step 1$"
        assert re.search(said, notes[0]), notes
        shutil.rmtree(tmp_path / "c" / "2")
        shutil.copytree(whole, tmp_path / "c" / "2")
    assert checkpoints.restore(small(0)).step == 2, "undamaged it must be found again"
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_whose_folder_is_empty_is_broken_not_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, small(1))
    (tmp_path / "c" / "2").mkdir()
    step, _, notes = checkpoints.restore(small(0))
    assert step == 1 and "step 2 is broken (SHA256SUMS cannot be read: No such file" in notes[0]


def test_a_broken_one_does_not_count_among_the_kept_and_a_left_past_is_deleted(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2):
        checkpoints.save(step, small(step))
    flip(tmp_path / "c" / "2" / "leaves.json")
    assert checkpoints.restore(small(0)).step == 1
    checkpoints.save(3, small(3))
    assert steps(tmp_path / "c") == ["1", "3"], "the broken one was kept in place of a whole one"

    flip(tmp_path / "c" / "3" / "leaves.json")
    again = Checkpoints(tmp_path / "c", keep=2)
    assert again.restore(small(0)).step == 1
    again.save(2, small(-2))
    assert steps(tmp_path / "c") == ["1", "2"]
    assert_same_bits(Checkpoints(tmp_path / "c", keep=2).restore(small(0)).state, small(-2))


def test_where_all_are_broken_there_is_none_and_every_one_is_said(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2):
        checkpoints.save(step, small(step))
        truncate(tmp_path / "c" / str(step) / "state.npz")
    step, restored, notes = checkpoints.restore(small(0))
    assert step is None and restored is None
    assert [re.findall(r"step \d", note) for note in notes] == [["step 2"], ["step 1"]]
    assert all("no earlier one is intact, so the training starts again" in note for note in notes)


@pytest.mark.parametrize(
    ("like", "differs"),
    [
        ({"a": jnp.zeros(4), "b": (jnp.zeros((), jnp.int32),)}, r"\['a'\] is float32\[3\] there and float32\[4\] here"),
        (
            {"a": jnp.zeros(3, jnp.bfloat16), "b": (jnp.zeros((), jnp.int32),)},
            r"\['a'\] is float32\[3\] there and bfloat16\[3\] here",
        ),
        (small(0) | {"c": jnp.zeros(2)}, r"\['c'\] is missing there and float32\[2\] here"),
        ({"a": jnp.zeros(3)}, r"\['b'\]\[0\] is int32\[\] there and missing here"),
    ],
    ids=["shape", "dtype", "more", "fewer"],
)
def test_a_checkpoint_of_another_state_is_refused_in_one_line_and_kept(tmp_path, like, differs):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(1, small(1))
    with pytest.raises(ConfigError, match=rf"of another state \({differs}\); delete that folder to train") as error:
        checkpoints.restore(like)
    assert "\n" not in str(error.value)
    assert checkpoints.restore(small(0)).step == 1


def test_what_is_no_array_is_refused_saying_what_to_write(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    with pytest.raises(TypeError, match=r"\['rate'\] is a float; pass an array"):
        checkpoints.save(1, {"rate": 0.1})
    with pytest.raises(TypeError, match=r"the state is of dtype key<fry>; pass jax.random.key_data"):
        checkpoints.save(1, jax.random.key(0))
    with pytest.raises(TypeError, match=r"\['a'\] holds Python objects; pass an array of numbers"):
        checkpoints.save(1, {"a": np.array([{}])})
    assert not (tmp_path / "c").exists()


def test_threads_save_and_restore_in_folders_of_their_own(tmp_path):
    def train(lane):
        checkpoints = Checkpoints(tmp_path / str(lane), keep=2)
        for step in range(4):
            checkpoints.save(step, small(10 * lane + step))
            assert_same_bits(checkpoints.restore(small(0)).state, small(10 * lane + step))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, range(4))) == [None] * 4


def test_others_can_read_it_and_verify_it(tmp_path):
    Checkpoints(tmp_path / "c", keep=1).save(1, small(2))
    folder = tmp_path / "c" / "1"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    with np.load(folder / "state.npz") as theirs:
        assert_same_bits(dict(theirs), {"['a']": np.full(3, 2, np.float32), "['b'][0]": np.asarray(2, np.int32)})


# Saves until it is in the middle of writing an array, and then kills itself, as in a power failure.
KILLED = textwrap.dedent(
    """
    import os, signal, sys, threading
    from pathlib import Path
    import numpy as np
    from experiments.training.checkpoints import Checkpoints

    folder = Path(sys.argv[1])
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(1, {"a": np.full(4, 1.0)})

    def watch():
        while not any(path.is_file() and path.stat().st_size > 1 << 19 for path in folder.glob("2.tmp/**/*")):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    noise = np.random.default_rng(0).random((8, 1 << 20))
    checkpoints.save(2, {str(i): part for i, part in enumerate(noise)})
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_killed_while_it_saves_leaves_the_former_one_and_no_half_one(tmp_path):
    folder = tmp_path / "c"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=60,
    )
    assert done.returncode == -9, done.stderr
    assert done.stderr == ""
    assert steps(folder) == ["1", "2.tmp"]
    checkpoints = Checkpoints(folder, keep=2)
    step, restored, notes = checkpoints.restore({"a": np.zeros(4)})
    assert (step, notes) == (1, [])
    assert_same_bits(restored, {"a": np.full(4, 1.0)})
    checkpoints.save(2, {"a": np.full(4, 2.0)})
    assert steps(folder) == ["1", "2"]


def test_a_full_disk_is_an_error_of_the_system_and_the_former_checkpoint_is_kept(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, small(1))

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device") as error:
        patch.setattr(np, "savez", fail)
        checkpoints.save(2, small(2))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "c" / "2.tmp"))
    assert steps(tmp_path / "c") == ["1"], "what was written of the other would fill the disk"
    checkpoints.save(2, small(2))
    assert checkpoints.restore(small(0)).step == 2


def test_a_checkpoint_of_an_earlier_version_is_said_to_lack_its_arrays(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, small(1))
    folder = tmp_path / "c" / "1"
    (folder / "state.npz").unlink()
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in sums if "state.npz" not in line))
    assert "state.npz is missing" in checkpoints.restore(small(0)).notes[0]


def test_nothing_is_said_where_nothing_is_wrong(tmp_path, capfd):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in range(3):
        checkpoints.save(step, small(step))
        checkpoints.restore(small(0))
    assert capfd.readouterr() == ("", "")
