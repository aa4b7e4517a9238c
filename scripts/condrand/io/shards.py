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
    text = json.dumps(key, sort_keys=True)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["key"] = text
        file.attrs["checksum"] = _checksum(text, arrays)
        for name, array in arrays.items():
            # Mostly small counts and zeros: shuffled and deflated they shrink many times.
            squeeze = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            file.create_dataset(name, data=array, **(squeeze if array.size > 64 else {}))


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
        with h5py.File(path, "r") as file:
            text, checksum = file.attrs["key"], file.attrs["checksum"]
            arrays = {name: file[name][()] for name in file}
    except (OSError, KeyError, RuntimeError) as error:
        raise ShardError(f"{path}: cannot be read ({error}). {_redo(path)}") from error
    if _checksum(text, arrays) != checksum:
        raise ShardError(f"{path}: its contents do not match its checksum. {_redo(path)}")
    return {**json.loads(text), "checksum": str(checksum)}, arrays


def check_shards(
    paths: list[str | Path], keys: list[dict[str, Any]], expected: Mapping[str, Any], n_blocks: int
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

    Raises
    ------
    ShardError
        Naming each shard at fault, and the command that redoes it.
    """
    faults = []
    covered = np.zeros(n_blocks, np.int64)
    for path, key in zip(paths, keys, strict=True):
        wrong = [name for name, value in expected.items() if key.get(name) != value]
        if wrong:
            faults.append(f"{path}: made for another {' and '.join(wrong)}. {_redo(path)}")
            continue
        covered[key["first_block"] : key["end_block"]] += 1
    if not faults and np.any(covered == 0):
        blocks = np.flatnonzero(covered == 0)
        faults.append(f"no shard holds block {listed(blocks)} of {n_blocks}; a shard is missing")
    if not faults and np.any(covered > 1):
        blocks = np.flatnonzero(covered > 1)
        faults.append(f"several shards hold block {listed(blocks)} of {n_blocks}")
    if faults:
        raise ShardError("; ".join(faults))


def _redo(path: str | Path) -> str:
    return f"Remove it and run again: snakemake --forcerun '{path}'"


def _checksum(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
