"""Files of a batch: its fitted propensities, and its shards. Each carries its key and checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from condrand.errors import listed
from condrand.io.atomic import replacing

# Bytes that HDF5 leaves free at the start of the file; it wants a power of two, 512 or more.
_HEADER = 512
_MAGIC = b"condrand 1 "


class ShardError(ValueError):
    """A shard that cannot be merged; the message names it and the command that redoes it."""


def write_arrays(
    path: str | Path, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write arrays with the key that says what they are and a checksum, atomically.

    Parameters
    ----------
    path : str or pathlib.Path
    key : mapping
        JSON-able: everything that gives the numbers their meaning.
    arrays : mapping of str to numpy.ndarray
        Numbers; strings belong in the key.
    """
    with replacing(path) as temporary:
        with h5py.File(temporary, "w", userblock_size=_HEADER) as file:
            file.attrs["key"] = json.dumps(key, sort_keys=True)
            for name, array in arrays.items():
                # Mostly small counts and zeros: shuffled and deflated they shrink many times.
                squeeze = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                file.create_dataset(name, data=array, **(squeeze if array.size > 64 else {}))
        # HDF5 leaves the first bytes of the file to its users: they tell whether the rest is
        # whole, before the HDF5 library, which may crash on damaged bytes, sees any of it.
        with open(temporary, "r+b") as file:
            file.seek(_HEADER)
            digest = _digest(file.read())
            file.seek(0)
            file.write(_MAGIC + digest)


def read_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what :func:`write_arrays` wrote.

    Returns
    -------
    key : dict
        As written, and ``checksum``.
    arrays : dict of numpy.ndarray

    Raises
    ------
    ShardError
        If the file is absent, truncated, damaged or not one of ours.
    """
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}). {_redo(path)}") from error
    digest = _digest(contents[_HEADER:])
    if contents[: len(_MAGIC)] != _MAGIC:
        raise ShardError(f"{path}: is no file of this workflow. {_redo(path)}")
    if contents[len(_MAGIC) : len(_MAGIC) + len(digest)] != digest:
        what = "its contents do not match its checksum: it is truncated or damaged"
        raise ShardError(f"{path}: {what}. {_redo(path)}")
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][()] for name in file}
        key = json.loads(file.attrs["key"])
    return {**key, "checksum": digest.decode()}, arrays


def differences(key: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What a key says other than expected, by name; a shard with any is foreign."""
    return [name for name, value in expected.items() if key.get(name) != value]


def check_shards(
    paths: list[str | Path],
    keys: list[dict[str, Any]],
    expected: Mapping[str, Any],
    n_blocks: int,
    noun: str = "block",
) -> None:
    """Refuse shards that are foreign, or do not cover every block exactly once.

    Parameters
    ----------
    paths : list of str or pathlib.Path
    keys : list of dict
        Each with ``first_block`` and ``end_block`` beside what `expected` holds.
    expected : mapping
        What every key must hold: seed, digests, units, parameters, version.
    n_blocks : int
    noun : str
        What a block is called in messages.

    Raises
    ------
    ShardError
        Naming each shard at fault, and the command that redoes it.
    """
    faults = []
    covered = np.zeros(n_blocks, np.int64)
    for path, key in zip(paths, keys, strict=True):
        wrong = differences(key, expected)
        if wrong:
            faults.append(f"{path}: made for another {' and '.join(wrong)}. {_redo(path)}")
            continue
        if not 0 <= key["first_block"] <= key["end_block"] <= n_blocks:
            faults.append(
                f"{path}: holds {noun}s {key['first_block']} to {key['end_block']} of a run that "
                f"now has {n_blocks}. {_redo(path)}"
            )
            continue
        covered[key["first_block"] : key["end_block"]] += 1
    if not faults and np.any(covered == 0):
        blocks = np.flatnonzero(covered == 0)
        faults.append(f"no shard holds {noun} {listed(blocks)} of {n_blocks}; a shard is missing")
    if not faults and np.any(covered > 1):
        blocks = np.flatnonzero(covered > 1)
        faults.append(f"several shards hold {noun} {listed(blocks)} of {n_blocks}")
    if faults:
        raise ShardError("; ".join(faults))


def read_shards(
    paths: list[str | Path], expected: Mapping[str, Any], n_blocks: int, noun: str = "block"
) -> list[dict[str, np.ndarray]]:
    """Arrays of all shards but the empty ones, in the order of their blocks.

    Parameters
    ----------
    paths : list of str or pathlib.Path
    expected, n_blocks, noun
        As of :func:`check_shards`.

    Raises
    ------
    ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    read = [read_arrays(path) for path in paths]
    keys = [key for key, _ in read]
    check_shards(paths, keys, expected, n_blocks, noun)
    in_order = sorted((key["first_block"], i) for i, key in enumerate(keys) if read[i][1])
    return [read[i][1] for _, i in in_order]


def read_joined(
    paths: list[str | Path], expected: Mapping[str, Any], n_blocks: int
) -> dict[str, np.ndarray]:
    """As :func:`read_shards`, the arrays of all shards one after the other."""
    return join_arrays(read_shards(paths, expected, n_blocks))


def join_arrays(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of the same names, along their first axis; none of no parts."""
    names = parts[0] if parts else ()
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _redo(path: str | Path) -> str:
    return f"Remove it and give the same command again: rm '{path}'"


def _digest(contents: bytes) -> bytes:
    return hashlib.blake2b(contents, digest_size=16).hexdigest().encode()
