"""Checkpoints of a training: the last few of its states, atomic and bit for bit.

A checkpoint gets its final name only when all of it is on the disk, so a crash never leaves half of one. It holds the
checksum of each of its files, so later damage is detected: `restore` then uses the previous checkpoint, and says so.

    FOLDER/7/state.npz      the arrays by name, such as `[0].mu['Dense_0']['kernel']`; `numpy.load` reads them
    FOLDER/7/leaves.json    dtype and shape of every array, to refuse the state of another model before reading it, and
                            because NumPy writes dtypes that are not its own, such as bfloat16, as bytes
    FOLDER/7/SHA256SUMS     checksums of all files; `sha256sum -c SHA256SUMS` verifies them without this program

Orbax is not used: for each array, a call of tensorstore's `KvStore.Spec.to_json` keeps 0.27 KB (measured, 0.1.86), so
memory grows with every checkpoint; and on a full disk its threads print hundreds of lines.
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

from experiments.config import ConfigError
from experiments.training.devices import put

STATE, LEAVES, SUMS = "state.npz", "leaves.json", "SHA256SUMS"


class Restored(NamedTuple):
    """The result of `Checkpoints.restore`."""

    step: int | None
    """Step of the newest intact checkpoint; None if there is none."""
    state: Any
    """Its state, with the structure and shardings of `like`; None if there is none."""
    notes: list[str]
    """One sentence per damaged checkpoint that was skipped, newest first."""


class Checkpoints:
    """The last `keep` states of one training, in a folder of their own.

    A folder must have only one writer. Several trainings may write at once, in threads or processes, each to its own
    folder.

    Args:
      folder: the folder of the checkpoints; `save` creates it. It must hold nothing else.
      keep: number of checkpoints to keep, at least 1. With 2 or more, a damaged one costs some steps, not the training.

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
        self.folder = Path(folder).resolve()
        self._keep = keep
        self._broken: set[int] = set()

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, waits until it is on the disk, and deletes all checkpoints but the last `keep`.

        It also deletes checkpoints of later steps: `restore` skipped them, so the training has restarted before them.

        Args:
          step: step of the state, 0 or more; `restore` returns it.
          state: a tree of jax or NumPy arrays, which may lie on several devices of this process.

        Raises:
          OSError: the disk is full, or the folder cannot be written; earlier checkpoints are kept.
        """
        arrays = {name: np.asarray(leaf) for name, leaf in jax.device_get(_named(state)).items()}
        for path in self.folder.glob("*.tmp"):  # left by a process that was killed while it wrote
            shutil.rmtree(path)
        partial, whole = self.folder / f"{step}.tmp", self.folder / str(step)
        partial.mkdir(parents=True)
        try:
            _write(partial, arrays)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)  # it would fill the disk
            raise OSError(error.errno, error.strerror, error.filename or str(partial)) from None
        if whole.exists():
            shutil.rmtree(whole)
        partial.rename(whole)
        _sync(self.folder)
        self._broken.discard(step)
        self._delete_all_but_the_last(step)

    def restore(self, like: Any) -> Restored:
        """Reads the newest intact checkpoint; writes nothing.

        Args:
          like: a tree of arrays or `jax.ShapeDtypeStruct` with the expected structure, shapes and dtypes. Each array
            gets the sharding of its leaf, or lies on the default device if the leaf has none. A NumPy leaf gives a
            NumPy array.

        Returns:
          Step and state, equal to the saved ones bit for bit (except that weak types become strong), and a note for
          every newer checkpoint that is damaged.

        Raises:
          ConfigError: structure, shapes or dtypes of the checkpoint differ from those of `like`.
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
        return Restored(None, None, self._notes(reasons, "no earlier one is intact, so the training starts again"))

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
        """Reads a checkpoint, after checking its files against their checksums and its arrays against `wanted`."""
        _verify(folder)
        leaves = json.loads((folder / LEAVES).read_text(encoding="utf-8"))  # its checksum is right, so it parses
        if leaves != wanted:
            raise ConfigError(
                f"the checkpoints in {self.folder} are of another state ({_first_difference(leaves, wanted)}); "
                "delete that folder to train from the start"
            )
        with np.load(folder / STATE, allow_pickle=False) as arrays:
            return {name: arrays[name].view(np.dtype(dtype)) for name, (dtype, _) in leaves.items()}

    def _notes(self, reasons: dict[int, str], instead: str) -> list[str]:
        self._broken |= reasons.keys()
        return [
            f"{self.folder}: the checkpoint of step {step} is broken ({reason}); {instead}"
            for step, reason in reasons.items()
        ]


def _write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    leaves = {name: _leaf(array) for name, array in arrays.items()}
    (folder / LEAVES).write_text(json.dumps(leaves, indent=1) + "\n", encoding="utf-8")
    np.savez(folder / STATE, **arrays)  # pyright: ignore[reportArgumentType]  (NumPy 2.0 has no allow_pickle)
    sums = "".join(f"{digest}  {name}\n" for name, digest in _digests(folder, sync=True).items())
    (folder / SUMS).write_text(sums, encoding="utf-8")
    _sync(folder / SUMS)


class _BrokenError(Exception):
    """A checkpoint is damaged; the message names the file."""


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
    for name in {LEAVES, STATE, *written} - found.keys():
        raise _BrokenError(f"{name} is missing")


def _digests(folder: Path, sync: bool = False) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, by relative path."""
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
    """Waits until a file, or the entries of a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and need not
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by path; raises TypeError if one is not an array of numbers."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for name, leaf in named.items():
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            raise TypeError(f"{name or 'the state'} is a {type(leaf).__name__}; pass an array, such as jnp.asarray(it)")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(f"{name or 'the state'} is of dtype {leaf.dtype}; pass jax.random.key_data(it)")
        if leaf.dtype == object:
            raise TypeError(f"{name or 'the state'} holds Python objects; pass an array of numbers")
    return named


def _leaf(array: Any) -> list[Any]:
    """Dtype and shape as JSON values."""
    return [str(array.dtype), list(array.shape)]


def _put(array: np.ndarray, like: Any) -> Any:
    return array if isinstance(like, np.ndarray | np.generic) else put(array, like.sharding)


def _first_difference(theirs: dict[str, list[Any]], ours: dict[str, list[Any]]) -> str:
    def text(leaf: list[Any] | None) -> str:
        return f"{leaf[0]}[{','.join(map(str, leaf[1]))}]" if leaf else "missing"

    name = next(name for name in [*ours, *theirs] if theirs.get(name) != ours.get(name))
    return f"{name or 'the array'} is {text(theirs.get(name))} there and {text(ours.get(name))} here"
