"""Samples and their features: what the stages of the linear models hand on, as a file."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from condrand.io.atomic import replacing
from condrand.io.h5ad import dense_rows, new_anndata, read, write_element

# Samples moved at once between a file, where they are rows, and memory, where they are columns.
_SAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class Samples:
    """Values of features in samples, the table of the samples, and what stages add.

    Attributes
    ----------
    values : float64, shape (G, n)
        Counts or log expression, NaN where missing.
    features : list of str
    table : pandas.DataFrame
        One row per sample, by name. Text is Categorical, its categories in their order.
    arrays : dict of str to numpy.ndarray
        Numbers, bool, or text as objects. Those of shape (G, n) are cut with the features.
    words : dict of str to str, float, int or bool
        ``source``: a sentence for the summary; ``digest`` of everything, once written.
    """

    values: np.ndarray
    features: list[str]
    table: pd.DataFrame
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    words: dict[str, str | float | int | bool] = field(default_factory=dict)


def write_samples(path: str | Path, samples: Samples) -> None:
    """Write samples as .h5ad, which anndata opens: samples x features, obs, var, layers, uns.

    Parameters
    ----------
    path : str or pathlib.Path
    samples : Samples
        A digest in its words is replaced by the one of what is written.
    """
    values = np.ascontiguousarray(samples.values, np.float64)
    shape = (len(samples.features), len(samples.table))
    if values.shape != shape:
        raise ValueError(f"values have shape {values.shape}, the names say {shape}")
    twice = set(samples.arrays) & set(samples.words)
    if twice:
        raise ValueError(f"both arrays and words are called {sorted(twice)}")
    arrays = {name: np.asarray(samples.arrays[name]) for name in sorted(samples.arrays)}
    words = {name: word for name, word in samples.words.items() if name != "digest"}
    table = samples.table.rename_axis(index=None, columns=None)
    words["digest"] = _digest(values, samples.features, table, arrays, words)
    features = pd.Index(samples.features, dtype=object)
    with (
        replacing(path) as temporary,
        new_anndata(temporary, table.index, features) as file,
    ):
        write_element(file, "obs", table)
        _write_turned(file, "X", values)
        for name, array in arrays.items():
            if array.shape == shape:
                _write_turned(file["layers"], name, array)
            else:
                write_element(file["uns"], name, array)
        for name, word in sorted(words.items()):
            write_element(file["uns"], name, word)


def read_samples(path: str | Path, features: slice | None = None) -> Samples:
    """Read what :func:`write_samples` wrote.

    Parameters
    ----------
    path : str or pathlib.Path
    features : slice, optional
        A run of features: of values, and of arrays of their shape, no others are read.
    """
    run = features or slice(None)
    with h5py.File(path, "r") as file:
        arrays = {name: _read_turned(file["layers"][name], run) for name in file["layers"]}
        words = {}
        for name, element in file["uns"].items():
            if element.shape:
                arrays[name] = read(file, f"uns/{name}")
            else:
                word = element[()]
                words[name] = word.decode() if isinstance(word, bytes) else word.item()
        columns = [str(name) for name in file["obs"].attrs["column-order"]]
        return Samples(
            _read_turned(file["X"], run),
            [str(name) for name in read(file, "var/_index")[run]],
            pd.DataFrame(
                {name: read(file, f"obs/{name}") for name in columns},
                index=pd.Index(read(file, "obs/_index"), dtype=object),
                columns=pd.Index(columns, dtype=object),
            ),
            arrays,
            words,
        )


def _write_turned(group: h5py.Group, name: str, array: np.ndarray) -> None:
    dataset = dense_rows(group, name, array.shape[::-1], array.dtype)
    for start in range(0, array.shape[1], _SAMPLES_AT_ONCE):
        some = slice(start, start + _SAMPLES_AT_ONCE)
        dataset[some] = array[:, some].T


def _read_turned(dataset: h5py.Dataset, run: slice) -> np.ndarray:
    n, n_features = dataset.shape
    array = np.empty((len(range(*run.indices(n_features))), n), dataset.dtype)
    for start in range(0, n, _SAMPLES_AT_ONCE):
        some = slice(start, start + _SAMPLES_AT_ONCE)
        array[:, some] = dataset[some, run].T
    return array


def _digest(
    values: np.ndarray,
    features: list[str],
    table: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    words: Mapping[str, object],
) -> str:
    digest = hashlib.blake2b(digest_size=16)
    parts = {"values": values, "features": np.array(features, dtype=object)}
    parts["samples"] = table.index.to_numpy(object)
    parts |= {f"column {name}{what}": part for name, what, part in _columns(table)}
    parts |= {f"array {name}": arrays[name] for name in sorted(arrays)}
    parts["words"] = np.array([f"{key}={words[key]!r}" for key in sorted(words)], dtype=object)
    for name, part in parts.items():
        digest.update(f"{name} {part.dtype} {part.shape}\0".encode())
        if part.dtype == object:
            # Lengths, so that names are not told apart by where they join alone.
            texts = [str(text).encode() for text in part.ravel()]
            digest.update(b"".join(b"%d:%b" % (len(text), text) for text in texts))
        else:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _columns(table: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            yield name, " codes", column.cat.codes.to_numpy(np.int64)
            yield name, " levels", column.cat.categories.to_numpy(object)
        else:
            yield name, "", column.to_numpy()
