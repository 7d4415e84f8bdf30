"""Checkpoints of a training: the last few of its states, whole or not at all, bit for bit.

Orbax writes the arrays. A checkpoint gets its name when all of it is on the disk, so a crash leaves no half of one; and
it holds the checksum of each of its files, so later damage is found: `restore` then takes the checkpoint before, and
says so.

    FOLDER/7/state          the arrays by name, such as `[0].mu['Dense_0']['kernel']`; orbax alone reads them, too:
                            `orbax.checkpoint.StandardCheckpointer().restore(path)`
    FOLDER/7/leaves.json    dtype and shape of every array: refuses the state of another model before it is read
    FOLDER/7/SHA256SUMS     of all files; `sha256sum -c SHA256SUMS` verifies it without this program
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments.config import ConfigError
from experiments.training.dispatch import dispatch

SUMS = "SHA256SUMS"


class Restored(NamedTuple):
    """What `Checkpoints.restore` found."""

    step: int | None
    """Step of the newest whole checkpoint; None where there is none."""
    state: Any
    """Its state, in the structure and on the shardings of `like`; None where there is none."""
    notes: list[str]
    """One sentence per checkpoint that is broken and was passed over, newest first."""


class Checkpoints:
    """The last `keep` states of one training, in a folder of their own.

    One writer per folder; several trainings may write at once, in threads or processes, each to its own.

    Args:
      folder: where; made by the first `save`. Nothing else may lie in it.
      keep: how many to keep, at least 1. With 2 or more a damaged one costs some steps, not the training.

    Raises:
      ConfigError: `keep` is below 1.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     checkpoints = Checkpoints(Path(folder) / "lane0", keep=2)
      ...     checkpoints.save(3, {"w": jnp.arange(2.0)})
      ...     checkpoints.restore(like={"w": jnp.zeros(2)})
      Restored(step=3, state={'w': Array([0., 1.], dtype=float32)}, notes=[])
    """

    def __init__(self, folder: Path, keep: int):
        if keep < 1:
            raise ConfigError(f"{keep} checkpoints are to be kept; use at least 1, better 2")
        self.folder = Path(folder).resolve()  # orbax takes absolute paths only
        self._keep = keep
        self._broken: set[int] = set()

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, waits until it is on the disk, and deletes all checkpoints but the last `keep`.

        Those of a later step go, too: they belong to a past that was left when `restore` passed over them.

        Args:
          step: what `restore` gives back with the state; 0 or more.
          state: jax or NumPy arrays in any structure; they may lie on several devices of this process.
        """
        arrays = {name: np.asarray(leaf) for name, leaf in jax.device_get(_named(state)).items()}
        for path in self.folder.glob("*.tmp"):  # a process was killed while it wrote
            shutil.rmtree(path)
        partial, whole = self.folder / f"{step}.tmp", self.folder / str(step)
        partial.mkdir(parents=True)
        leaves = {name: _leaf(array) for name, array in arrays.items()}
        (partial / "leaves.json").write_text(json.dumps(leaves, indent=1) + "\n", encoding="utf-8")
        # Orbax refuses arrays without elements; dtype and shape say all there is of them.
        written = {name: array for name, array in arrays.items() if array.size}
        if written:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                checkpointer.save(partial / "state", args=ocp.args.StandardSave(written))
        sums = "".join(f"{digest}  {name}\n" for name, digest in _digests(partial, sync=True).items())
        (partial / SUMS).write_text(sums, encoding="utf-8")
        _sync(partial / SUMS)
        if whole.exists():
            shutil.rmtree(whole)
        partial.rename(whole)
        _sync(self.folder)
        self._broken.discard(step)
        self._delete_all_but_the_last(step)

    def restore(self, like: Any) -> Restored:
        """The newest checkpoint that is whole; nothing is written.

        Args:
          like: the structure wanted, of arrays or `jax.ShapeDtypeStruct`. Where a leaf has a sharding the array is put
            on it; where it has none, on the default device; a NumPy array gives a NumPy array.

        Returns:
          Step and state, every array equal to what was saved, bit for bit (but a weak type becomes a strong one); and a
          note for every newer checkpoint that is broken.

        Raises:
          ConfigError: the checkpoint is of another structure than `like`, or of other shapes or dtypes.
        """
        wanted = _named(like)
        reasons: dict[int, str] = {}
        for step in reversed(self._steps()):
            try:
                arrays = self._read(self.folder / str(step), {name: _leaf(leaf) for name, leaf in wanted.items()})
            except _BrokenError as broken:
                reasons[step] = str(broken)
                continue
            leaves = [_put(arrays[name], leaf) for name, leaf in wanted.items()]
            state = jax.tree.unflatten(jax.tree.structure(like), leaves)
            return Restored(step, state, self._notes(reasons, f"going on from step {step}"))
        return Restored(None, None, self._notes(reasons, "no earlier one is whole, so the training begins anew"))

    def clear(self) -> None:
        """Deletes the folder, when the training is finished; where there is none, nothing happens."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def _delete_all_but_the_last(self, step: int) -> None:
        useful = [other for other in self._steps() if other <= step and other not in self._broken]
        for other in set(self._steps()) - set(useful[-self._keep :]):
            shutil.rmtree(self.folder / str(other))
            self._broken.discard(other)

    def _read(self, folder: Path, wanted: dict[str, list[Any]]) -> dict[str, np.ndarray]:
        """The arrays of a checkpoint, if its files are what was written and its arrays are what is wanted."""
        _verify(folder)  # first: what orbax makes of damaged files is any exception, and pages on stderr
        leaves = json.loads((folder / "leaves.json").read_text(encoding="utf-8"))  # as written: see its checksum
        if leaves != wanted:
            raise ConfigError(
                f"the checkpoints in {self.folder} are of another state ({_first_difference(leaves, wanted)}); "
                "delete that folder to train from the start"
            )
        arrays = {name: np.empty(shape, np.dtype(dtype)) for name, (dtype, shape) in leaves.items() if 0 in shape}
        if len(arrays) < len(leaves):
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                arrays |= checkpointer.restore(folder / "state", args=ocp.args.StandardRestore())
        return arrays

    def _notes(self, reasons: dict[int, str], instead: str) -> list[str]:
        self._broken |= reasons.keys()
        return [
            f"{self.folder}: the checkpoint of step {step} is broken ({reason}); {instead}"
            for step, reason in reasons.items()
        ]


class _BrokenError(Exception):
    """A checkpoint is not what was written; the message says where."""


def _verify(folder: Path) -> None:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        found = _digests(folder)
    except (OSError, ValueError) as error:
        raise _BrokenError(f"{SUMS} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    written = {line[66:]: line[:64] for line in lines}
    for name in found:
        if written.get(name) != found[name]:
            raise _BrokenError(f"{name} differs from its checksum" if name in written else f"{SUMS} is damaged")
    for name in written.keys() - found.keys():
        raise _BrokenError(f"{name} is missing")


def _digests(folder: Path, sync: bool = False) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, by its path within it."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SUMS:
            digests[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
            if sync:
                _sync(path)
        elif sync and path.is_dir():
            _sync(path)
    return digests


def _sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders, and needs none
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _named(tree: Any) -> dict[str, Any]:
    """The leaves, arrays of numbers all, by their path."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name, leaf in named.items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            raise TypeError(f"{name or 'the state'} is a {type(leaf).__name__}; pass an array, such as jnp.asarray(it)")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(f"{name or 'the state'} is of dtype {leaf.dtype}; pass jax.random.key_data(it)")
    return named


def _leaf(array: Any) -> list[Any]:
    """Dtype and shape, as JSON knows them."""
    return [str(array.dtype), list(array.shape)]


def _put(array: np.ndarray, like: Any) -> Any:
    return array if isinstance(like, np.ndarray | np.generic) else dispatch(jax.device_put, array, like.sharding)


def _first_difference(theirs: dict[str, list[Any]], ours: dict[str, list[Any]]) -> str:
    def text(leaf: list[Any] | None) -> str:
        return f"{leaf[0]}[{','.join(map(str, leaf[1]))}]" if leaf else "missing"

    name = next(name for name in [*ours, *theirs] if theirs.get(name) != ours.get(name))
    return f"{name or 'the array'} is {text(theirs.get(name))} there and {text(ours.get(name))} here"
