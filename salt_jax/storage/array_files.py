"""Trees of arrays in files, written and read with Orbax."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from salt_jax.files import failures
from salt_jax.model.parameters import is_in_stack
from salt_jax.storage.checksums import described, named_arrays

# Arrays are stored in chunks of this size, so that a reader of one piece reads little
# more than that piece, and a stack of layers can be read layer by layer.
CHUNK_BYTES = 32 << 20


class CorruptArraysError(ValueError):
    """Stored arrays are missing or cannot be read."""


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns `path` as an absolute path; a bucket's URL is returned as it is."""
    path = epath.Path(path)
    return path if "://" in os.fspath(path) else path.resolve()


def check_name(path: epath.PathLike) -> None:
    """Checks that Orbax can write to `path`.

    Orbax looks for files with patterns made from the path, so it would not find its own
    under a name that is itself a pattern, and the arrays could never be read.

    Raises:
      ValueError: the path contains one of * ? [ or a backslash.
    """
    special = sorted(set(os.fspath(path)) & set("*?[\\"))
    if special:
        raise ValueError(
            f"{path} contains {' '.join(special)}: arrays cannot be written to a path "
            "with * ? [ or a backslash. Use another name."
        )


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Drops Orbax's log lines, dozens per save. Failures are raised all the same."""
    logger = logging.getLogger("absl")
    from_others = lambda record: "orbax" not in record.pathname
    logger.addFilter(from_others)
    try:
        yield
    finally:
        logger.removeFilter(from_others)


def one_line(error: BaseException) -> str:
    """Returns the type of `error` and the beginning of its message, in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}"


def write_arrays(path: epath.Path, tree: Any) -> None:
    """Writes the arrays of `tree` into the new directory `path`, atomically."""

    def chunks(key: Any, x: Any) -> ocp.SaveArgs:
        first = (0,) if is_in_stack([str(part.key) for part in key]) else ()
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=first)

    arguments = jax.tree_util.tree_map_with_path(chunks, tree)
    with quiet_orbax(), ocp.StandardCheckpointer() as writer:
        writer.save(path, tree, save_args=arguments)


def read_arrays(path: epath.Path, like: Any, *, partial: bool = False) -> Any:
    """Reads arrays straight onto their devices.

    Args:
      path: A directory written by `write_arrays` or a `Checkpointer`.
      like: The tree to return, as shapes, dtypes and shardings.
      partial: Whether to ignore stored arrays that `like` does not name.

    Raises:
      ValueError: a name, shape or dtype differs between the directory and `like`.
      CorruptArraysError: an array cannot be read.
      OSError: the storage failed, or another process.
    """
    with quiet_orbax(), no_stray_callbacks(), ocp.PyTreeCheckpointer() as reader:
        description = _read(lambda: reader.metadata(path).item_metadata, path)
        if description is None:  # Orbax logs the reason.
            raise CorruptArraysError(f"The arrays in {path} are missing or corrupt.")
        check_same_arrays(path, described_arrays(description.tree), like, partial)
    return restore_arrays(path, like, partial=partial)


def restore_arrays(path: epath.Path, like: Any, *, partial: bool = False) -> Any:
    """Reads arrays as `read_arrays` does, trusting that they are those of `like`.

    Raises:
      CorruptArraysError: an array cannot be read.
      OSError: the storage failed, or another process.
    """
    arguments = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=partial,
    )
    with quiet_orbax(), no_stray_callbacks(), ocp.PyTreeCheckpointer() as reader:
        return _read(lambda: reader.restore(path, args=arguments), path)


def fingerprint(tree: Any) -> str:
    """Returns a digest of the names, shapes, dtypes and bits of a tree of arrays.

    It is the same on every mesh. Each device mixes its elements with their positions
    into integer sums, so the order does not matter and no array is gathered.
    """
    sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(mixed_sums, tree))(tree))
    return digest_of_sums(*(ocp.tree.to_flat_dict(x, sep=".") for x in (tree, sums)))


def digest_of_sums(arrays: Mapping[str, Any], sums: Mapping[str, np.ndarray]) -> str:
    """Returns the `fingerprint` of `arrays`, given their `mixed_sums`, by name."""
    digest = hashlib.sha256()
    for name, (first, second) in sorted(sums.items()):
        recorded = f"{name} {described(arrays[name])} {first:08x}{second:08x}\n"
        digest.update(recorded.encode())
    return digest.hexdigest()


def mixed_sums(
    x: jax.Array, begins: jax.Array | None = None, shape: Sequence[int] | None = None
) -> jax.Array:
    """Returns two sums modulo 2^32 over `x`; changing one element changes both.

    Args:
      x: An array, or a piece of one. The sums of the pieces add up to the whole's.
      begins: The indices in the whole at which the piece begins; None: all 0.
      shape: The shape of the whole; None: `x` is the whole.
    """
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(shape or x.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        if begins is not None:
            index += begins[axis]
        position = position * jnp.uint32(size) + index

    def mixed_sum(seed):
        # The finalizer of MurmurHash3: each line is one-to-one in `bits`.
        h = bits + (position + jnp.uint32(seed)) * jnp.uint32(0x9E3779B9)
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)

    return jnp.stack([mixed_sum(0x2545F491), mixed_sum(0x6C8E9CF5)])


def _read(function: Callable[[], Any], path: epath.Path) -> Any:
    """Calls a reader of Orbax; alone, again after failures that may pass.

    With several processes one may not call again what the others have called once.
    """
    delays = failures.DELAYS if jax.process_count() == 1 else ()
    try:
        return failures.retried(function, f"Reading {path}", delays=delays)
    except failures.MachineError:
        raise
    except Exception as error:
        raise CorruptArraysError(
            f"The arrays in {path} are corrupt ({one_line(error)})."
        ) from error


@contextlib.contextmanager
def no_stray_callbacks() -> Iterator[None]:
    """Drops the tracebacks that a failed read of Orbax prints besides its error.

    The other reads in flight report to an event loop that is closed by then. They may
    do so after the error has left this block, so after an error nothing is undone.
    """
    previous, loops = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        is_closed = str(unraisable.exc_value) == "Event loop is closed"
        if not is_closed and "array_index" not in repr(unraisable.object):
            previous(unraisable)

    def is_ours(record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()

    sys.unraisablehook = hook
    loops.addFilter(is_ours)
    try:
        yield
    except BaseException:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        raise
    loops.removeFilter(is_ours)
    sys.unraisablehook = previous


def described_arrays(tree: Any) -> dict[str, str]:
    """Returns the dtype and shape of each array of a tree in words, by its name."""
    return {name: described(x) for name, x in named_arrays(tree).items()}


def check_same_arrays(
    path: epath.Path, stored: Mapping[str, str], like: Any, partial: bool
) -> None:
    """Checks that the stored arrays are those of `like`.

    Args:
      path: The directory, for the message.
      stored: The `described_arrays` in it.
      like: The tree that is to be read.
      partial: Whether more arrays may be stored.

    Raises:
      ValueError: a name, shape or dtype differs.
    """
    wanted = described_arrays(like)
    for name in sorted(wanted if partial else {**wanted, **stored}):
        found, expected = stored.get(name, "nothing"), wanted.get(name, "nothing")
        if found != expected:
            raise ValueError(
                f"{path} holds {found} as {name!r} where {expected} is expected. It "
                "was written for another model or optimizer."
            )
