"""Differential expression of every target against one control, in one call."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.api import elements
from condrand.engines import dex as engine
from condrand.errors import Problems, listed, nearest, quoted
from condrand.fdr import benjamini_hochberg
from condrand.groups import CONTROLS, NTC, REST, Control
from condrand.guide_counts import GuideCounts, targets_per_cell
from condrand.inputs.elements import Faults, check_unique, obs_column, texts
from condrand.inputs.guides import read_guides
from condrand.io.h5ad import Matrix, matrix, open_anndata, read
from condrand.outcomes.expression import automatic, log1p_cpm
from condrand.twosample.control import ControlTables
from condrand.twosample.rows import Facts, Scaling
from condrand.units import NTC_LABELS

if TYPE_CHECKING:  # a type only: whoever has an AnnData has imported it
    from anndata import AnnData

_TESTS = {"mwu": "mwu", "ttest": "welch", "welch": "welch"}
# Tests whose sums and results are held at a time beside the table; many, as every batch of
# targets walks through all tables of the control.
_TESTS_AT_A_TIME = 500_000
# Bytes per stored value: of the control's tables while they are made, and of a target's rows
# while they are compressed and transposed.
_CONTROL_BYTES, _TARGET_BYTES = 32, 16
_PIECE_BYTES = 64 * 2**20
# log1p of counts per 10,000 is below 9.3, of counts per million below 13.9.
_LOOKS_LOGGED = 14.0
_FOLDERS = ("layers", "obsm")


def dex(
    adata: "AnnData | str | Path",
    groupby: str | None = None,
    target: str | Iterable[str] | None = None,
    control: str | None = None,
    feature_space: str = "X",
    test: str = "mwu",
    target_sum: float = 1e4,
    threads: int = 0,
    geometric_mean: bool = True,
    max_records: int | None = None,
    *,
    transform: str = "auto",
    library_size: str | Sequence[float] | None = None,
    epsilon: float = 1e-9,
    continuity: bool = True,
    exact_max_cells: int = 0,
    ties: str = "exact",
    seed: int = 0,
    guide_assignment: str = "guide_assignment",
    guide_names: str = "guide_names",
    guide2gene: str = "guide2gene",
    ntc_labels: Iterable[str] = NTC_LABELS,
    multiple_guides: str = "include",
    memory: int = 2 * 2**30,
) -> pd.DataFrame:
    """Test every feature of every target against a control.

    Parameters
    ----------
    adata : anndata.AnnData, str or pathlib.Path
        In memory, backed, or the file's name; not changed. Of a file only what is needed is read.
    groupby : str, optional
        Column of obs that names each cell's group. By default groups are taken from the guide
        calls: a target's cells carry any of its guides.
    target : str or list of str, optional
        Groups to test, in this order. None or "all": all but the control and, unless the control
        is "rest", NTC labels; sorted.
    control : str, optional
        A group; or "ntc", cells that carry NTC guides alone or whose group is an NTC label; or
        "rest", all other cells; or "perturbed", all other cells of targets. By default "ntc". A
        group of such a name comes before the word.
    feature_space : str
        "X", "raw", a layer, or a key of obsm; "layers/NAME" and "obsm/KEY" where both have it.
    test : {"mwu", "ttest"}
        Mann-Whitney U, asymptotic and with tie correction; or Welch's t ("welch").
    target_sum : float
        Values are ``value / library * target_sum``, where they are normalized.
    threads : int
        0 for all. Changes no bit.
    geometric_mean : bool
        Whether means are ``expm1(mean(log1p(x)))`` rather than ``mean(x)``.
    max_records : int, optional
        Compare a random sample of at most so many cells of each group.
    transform : {"auto", "log_normalize", "logged", "counts", "none"}
        "log_normalize": ``log1p(value / library * target_sum)``; "logged": values are log1p
        already; "counts": integers, log1p as they are; "none": as they are, with arithmetic
        means. "auto" is "log_normalize" for sparse values, "none" for dense.
    library_size : str or array, optional
        Column of obs, or a number per cell, to divide by. By default the sum of the cell's
        values in this feature space.
    epsilon : float
        Added to both means in fold changes. The default makes fold changes of about 2**30 where
        a feature is seen on one side only; `note` marks those.
    continuity : bool
        Correction of the Mann-Whitney test.
    exact_max_cells : int
        Exact Mann-Whitney test where both groups together have at most so many cells and no
        values tie.
    ties : {"exact", "rounded"}
        "exact" ranks ``value / library``, so that equal fractions tie; "rounded" ranks
        ``log1p(value * (target_sum / library))`` as other programs do, where rounding breaks ties.
    seed : int
        Of the samples.
    guide_assignment, guide_names, guide2gene : str
        Keys of the guide calls, their names, and the target of each guide.
    ntc_labels : iterable of str
    multiple_guides : {"include", "exclude"}
        "exclude": leave out cells with guides of several targets.
    memory : int
        Bytes to use beside the result, and beside data that are in memory already. A file's rows
        are read at once if they fit, else the control first and then targets in batches.

    Returns
    -------
    pandas.DataFrame
        Targets one after the other, each with all features: ``feature, target_mean, ref_mean,
        target_n, ref_n, fold_change`` (log2), ``percent_change`` (a fraction), ``p_value,
        statistic`` (U or t), ``fdr`` (Benjamini-Hochberg within the target), ``target``; then
        ``neg_log10_p, fdr_all`` (over all targets), ``auroc, target_fraction, ref_fraction`` (of
        cells with a nonzero value), ``p_source, note`` (why there is no p value, or that the
        feature is seen on one side only).

    Raises
    ------
    ValueError
        Listing all that is wrong.
    """
    name = str(adata) if isinstance(adata, str | Path) else "adata"
    problems = Problems(name)
    _check_word("test", test, _TESTS, problems)
    _check_word("transform", transform, ("auto", *engine.MEASURES), problems)
    _check_word("ties", ties, ("exact", "rounded"), problems)
    _check_word("multiple_guides", multiple_guides, ("include", "exclude"), problems)
    for key, value in (("target_sum", target_sum), ("memory", memory)):
        if not value > 0:
            problems.add(key, f"is {value}", "give a positive number.")
    if not epsilon >= 0:
        problems.add("epsilon", f"is {epsilon}", "give 0 or a positive number.")
    if max_records is not None and max_records < 1:
        problems.add("max_records", f"is {max_records}", "give at least 1, or None for all cells.")
    problems.report()
    threads = threads if threads > 0 else len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        if isinstance(adata, str | Path):
            screen = _File(stack.enter_context(open_anndata(adata)), problems)
        else:
            screen = _Memory(adata, problems)
        values = screen.values(feature_space)
        if groupby is None:
            keys = (guide_assignment, guide_names, guide2gene)
            groups = _groups_of_guides(screen, keys, ntc_labels, multiple_guides)
        else:
            groups = _groups_of_labels(screen.column(groupby, "groupby"), ntc_labels, problems)
        library = _given_library(screen, library_size)
        compared = groups and _compared(groups, target, control, max_records, seed, problems)
        if values is not None:
            check_unique(values.features, feature_space, "feature", "make them unique.", problems)
            if transform == "auto":
                transform = automatic(values.is_sparse)
        if problems.found and values is not None and not values.is_stored:
            # Already in memory: what is wrong with them is told too.
            everyone = np.arange(screen.n_cells)
            _check_values(values, everyone, values.matrix, transform, screen, problems, threads)
        problems.report()
        settings = engine.Settings(
            *(_TESTS[test], engine.MEASURES[transform], geometric_mean),
            *(epsilon, continuity, exact_max_cells),
        )
        work = _Work(
            values, compared, settings, transform, ties, float(target_sum), threads, memory
        )
        facts = work.look(screen, problems)
        problems.report()
        if transform == "log_normalize":
            library, warned = _library(facts, library, work.cells, values.where)
            for text in warned:
                warnings.warn(text, stacklevel=2)
        else:
            library = None
        found = work.run(library, facts)
    return _table(found, compared, values.features)


def _check_word(key: str, word: str, words: Iterable[str], problems: Problems) -> None:
    if word not in words:
        problems.add(key, f"is {word!r}", f"it is one of {quoted(words, 20)}.")


# What is read


@dataclass(frozen=True)
class _Values:
    """A feature space.

    Attributes
    ----------
    matrix : numpy.ndarray, CSR, or Matrix in a file
    features : list of str
    where : str
    """

    matrix: "np.ndarray | sp.csr_matrix | Matrix"
    features: list[str]
    where: str

    @property
    def is_stored(self) -> bool:
        return isinstance(self.matrix, Matrix)

    @property
    def is_sparse(self) -> bool:
        if self.is_stored:
            return self.matrix.kind in ("csr", "csc")
        return sp.issparse(self.matrix)

    def per_cell(self) -> float:
        """Stored values of a cell, on average."""
        n_cells, n_features = self.matrix.shape
        if not self.is_sparse:
            return float(n_features)
        stored = self.matrix.element["data"].shape[0] if self.is_stored else self.matrix.nnz
        return stored / max(1, n_cells)

    @property
    def value_bytes(self) -> int:
        """Of a stored value with its index."""
        size = max(self.matrix.dtype.itemsize, 4)
        return size + 4 * self.is_sparse


def _in_memory(value: object, names: list[str], where: str, problems: Problems) -> _Values | None:
    """Values in a form that the kernels read without a copy, if they have one."""
    if isinstance(value, pd.DataFrame):
        value = value.to_numpy()
    if sp.issparse(value):
        made = value.tocsr()
        if made is value and not made.has_canonical_format:
            made = made.copy()
        made.sum_duplicates()
    else:
        made = np.asarray(value)
    if made.ndim != 2 or made.dtype.kind not in "biuf":
        problems.add(where, f"is no numeric matrix: {made.dtype} {made.shape}", "name another.")
        return None
    return _Values(_fitting(made), names, where)


def _fitting(values: "np.ndarray | sp.csr_matrix") -> "np.ndarray | sp.csr_matrix":
    """In a dtype that the kernels take, converted once."""
    dtype = values.dtype
    if dtype not in (np.float32, np.float64, np.int32):
        small = dtype.kind in "biu" and dtype.itemsize < 4
        values = values.astype(np.int32 if small else np.float64)
    return values if sp.issparse(values) else np.ascontiguousarray(values)


class _Memory:
    """An AnnData; only X may be in a file."""

    def __init__(self, adata: "AnnData", problems: Problems):
        self.adata, self.problems = adata, problems
        self.n_cells = adata.n_obs

    def cell_names(self) -> pd.Index:
        return self.adata.obs_names

    def values(self, key: str) -> _Values | None:
        adata, problems = self.adata, self.problems
        if key == "raw" and adata.raw is not None:
            return _in_memory(adata.raw.X, texts(adata.raw.var_names), key, problems)
        if key == "X" and adata.X is not None:
            names = texts(adata.var_names)
            if not adata.isbacked:
                return _in_memory(adata.X, names, key, problems)
            if adata.is_view:
                mend = "pass the whole AnnData, or `adata.to_memory()`."
                problems.add(key, "is a view of a file", mend)
                return None
            element = getattr(adata.X, "group", adata.X)
            return _Values(matrix(element.file, element.name.strip("/")), names, key)
        folder, _, name = key.rpartition("/")
        for place in [folder] if folder else _FOLDERS:
            there = getattr(adata, place) if place in _FOLDERS else {}
            if name in there:
                value = there[name]
                if place == "layers":
                    names = texts(adata.var_names)
                else:
                    columns = value.columns if isinstance(value, pd.DataFrame) else None
                    names = _names_of(name, value.shape[1], columns)
                return _in_memory(value, names, f"{place}/{name}", problems)
        there = [*("X",) * (adata.X is not None), *("raw",) * (adata.raw is not None)]
        _no_features(key, [*there, *adata.layers, *adata.obsm], problems)
        return None

    def column(self, name: str, setting: str) -> pd.Series | None:
        obs = self.adata.obs
        if name in obs:
            return obs[name]
        self.problems.add(
            f"obs/{name}",
            "there is no such column",
            f"correct `{setting}`. {nearest(name, obs)}There are: {listed(obs, 20)}.",
        )
        return None

    def guides(self, keys: tuple[str, str, str]) -> tuple[sp.csc_matrix, list[str]] | None:
        """Guide calls, and the target of each column."""
        try:
            calls, names = elements.read_guides(self.adata, *keys[:2], self.problems)
            target_of = elements.read_guide2gene(elements.element(self.adata, keys[2]), keys[2])
        except (KeyError, ValueError) as error:
            self.problems.add(
                "guide calls", str(error.args[0]), "correct the key, or give `groupby`."
            )
            return None
        missing = [guide for guide in names if guide not in target_of]
        if missing:
            self.problems.add(
                *(keys[2], f"lacks {len(missing)} guides: {quoted(missing)}", "add their targets.")
            )
            return None
        return calls, [target_of[guide] for guide in names]


class _File:
    """An AnnData in a file."""

    def __init__(self, file: object, problems: Problems):
        self.file, self.problems = file, problems
        index = file["obs"][file["obs"].attrs["_index"]]
        self.n_cells = index.shape[0]

    def cell_names(self) -> pd.Index:
        return pd.Index(self._names("obs"))

    def _names(self, table: str) -> list[str]:
        return texts(read(self.file, f"{table}/{self.file[table].attrs['_index']}"))

    def values(self, key: str) -> _Values | None:
        file = self.file
        where = {"raw": "raw/X"}.get(key, key)
        if where not in ("X", "raw/X") and "/" not in key:
            where = next((f"{x}/{key}" for x in _FOLDERS if key in file.get(x, ())), key)
        found = matrix(file, where) if where in file else None
        if found is None or where.split("/")[0] not in ("X", "raw", *_FOLDERS):
            there = [key for key in ("X", "raw") if key in file]
            there += [name for place in _FOLDERS for name in file.get(place, ())]
            _no_features(key, there, self.problems)
            return None
        if where.startswith("obsm/"):
            names = _names_of(where[5:], found.shape[1], found.columns)
        else:
            names = self._names("raw/var" if key == "raw" else "var")
        return _Values(found, names, where)

    def column(self, name: str, setting: str) -> pd.Series | None:
        cells = pd.RangeIndex(self.n_cells)
        return obs_column(self.file, name, setting, setting, cells, self.problems)

    def guides(self, keys: tuple[str, str, str]) -> tuple[sp.csc_matrix, list[str]] | None:
        """Guide calls, and the target of each column."""
        settings = dict(zip(("guide_assignment", "guide_names", "guide2gene"), keys, strict=True))
        before = len(self.problems.found)
        guides = read_guides(self.file, settings, self.cell_names(), self.problems)
        if guides is None or guides.carried is None or len(self.problems.found) > before:
            return None
        return guides.carried, [guides.target_of[guide] for guide in guides.names]


def _names_of(key: str, n: int, columns: Iterable[object] | None) -> list[str]:
    return texts(list(columns)) if columns is not None else [f"{key}_{i}" for i in range(n)]


def _no_features(key: str, there: list[str], problems: Problems) -> None:
    problems.add(
        key,
        "there is no such feature space",
        f"correct `feature_space`. {nearest(key, there)}There are: {listed(there, 20)}.",
    )


# Who is compared


@dataclass(frozen=True)
class _Groups:
    """Sorted cells by group, and what control words stand for; masks over all cells."""

    cells: dict[str, np.ndarray]
    labels: set[str]
    is_ntc: np.ndarray
    is_perturbed: np.ndarray
    is_used: np.ndarray


@dataclass(frozen=True)
class _Compared:
    """Names and cells of the targets, the control, and who is among the control cells."""

    names: list[str]
    cells: list[np.ndarray]
    within: np.ndarray
    control: np.ndarray


def _groups_of_labels(
    column: pd.Series | None, ntc_labels: Iterable[str], problems: Problems
) -> _Groups | None:
    if column is None:
        return None
    labels = pd.Categorical(column).remove_unused_categories()
    names, codes = texts(labels.categories), np.asarray(labels.codes)
    check_unique(names, f"obs/{column.name}", "group", "write each in one way.", problems)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
    cells = {name: order[a:b] for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)}
    ntc = set(ntc_labels)
    is_ntc_code = np.array([*(name in ntc for name in names), False], bool)
    is_ntc = is_ntc_code[codes]
    return _Groups(cells, ntc, is_ntc, ~is_ntc & (codes >= 0), np.ones(codes.size, bool))


def _groups_of_guides(
    screen: "_Memory | _File",
    keys: tuple[str, str, str],
    ntc_labels: Iterable[str],
    multiple_guides: str,
) -> _Groups | None:
    found = screen.guides(keys)
    if found is None:
        return None
    calls, target_of = found
    ntc = set(ntc_labels)
    codes, names = pd.factorize(np.array(target_of, object))
    is_of = sp.csr_matrix((np.ones(codes.size), (np.arange(codes.size), codes)))
    carried = sp.csc_matrix(calls > 0).astype(np.int64)
    targets = sp.csc_matrix(carried @ is_of)
    targets.sort_indices()
    n_targets = targets_per_cell(carried, target_of, ntc)
    is_used = n_targets < 2 if multiple_guides == "exclude" else np.ones(screen.n_cells, bool)
    cells = {}
    for k, name in enumerate(names):
        of = targets.indices[targets.indptr[k] : targets.indptr[k + 1]].astype(np.int64)
        cells[name] = of[is_used[of]]
    counts = GuideCounts.of(carried, np.isin(target_of, list(ntc)))
    return _Groups(cells, ntc, counts.is_ntc_cell & is_used, counts.n_guides > 0, is_used)


def _given_library(
    screen: "_Memory | _File", library: str | Sequence[float] | None
) -> np.ndarray | None:
    if library is None:
        return None
    column = screen.column(library, "library_size") if isinstance(library, str) else library
    if column is None:
        return None
    try:
        sizes = np.asarray(column, np.float64)
    except (TypeError, ValueError):
        sizes = np.empty(0)
    if sizes.shape != (screen.n_cells,):
        mend = f"give one number for each of the {screen.n_cells:,} cells."
        screen.problems.add("library_size", "is not a number per cell", mend)
        return None
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        screen.problems.add(
            "library_size",
            f"{bad.sum():,} are not positive numbers: {listed(sizes[bad], 3)}",
            "give positive library sizes, or remove those cells.",
        )
    return sizes


def _compared(
    groups: _Groups,
    target: str | Iterable[str] | None,
    control: str | None,
    most: int | None,
    seed: int,
    problems: Problems,
) -> _Compared | None:
    before, there = len(problems.found), groups.cells
    control = NTC if control is None else str(control)
    if control not in CONTROLS and control not in there:
        problems.add(
            "control",
            f"there is no group {control!r}",
            f"name a group, or one of {quoted(CONTROLS)}. {nearest(control, there)}"
            f"There are: {quoted(sorted(there), 20)}.",
        )
    elif control == NTC and control not in there and not groups.is_ntc.any():
        problems.add(
            "control",
            f"no cell is an NTC cell by the labels {quoted(sorted(groups.labels))}",
            "set `ntc_labels`, or name a group as `control`. "
            f"There are: {quoted(sorted(there), 20)}.",
        )
    if target is None or (isinstance(target, str) and target == "all"):
        everyone = control == REST and REST not in there
        aside = set() if everyone else groups.labels
        names = sorted(set(there) - aside - {control})
    else:
        names = [target] if isinstance(target, str) else [str(name) for name in target]
        names = list(dict.fromkeys(names))
    strangers = [name for name in names if name not in there]
    if strangers:
        hints = "".join(f"{x}: {close}" for x in strangers if (close := nearest(x, there)))
        problems.add(
            "target",
            f"{len(strangers)} are no groups: {quoted(strangers, len(strangers))}",
            f"correct the names. {hints}There are: {quoted(sorted(there), 20)}.",
        )
    if control in names:
        problems.add("target", f"{control!r} is the control", "leave it out.")
    if not names:
        problems.add("target", "there is no group to test", "name some.")
    if len(problems.found) > before:
        return None
    chosen = Control.of(
        control, there, groups.is_ntc, groups.is_perturbed, most, seed, groups.is_used
    )
    found = []
    for name in names:
        try:
            found.append(chosen.compared(name, there[name]))
        except ValueError as error:
            mend = 'give `multiple_guides="exclude"`, or another control.'
            problems.add("control", str(error), mend)
    if len(problems.found) > before:
        return None
    within = np.array([inside for _, inside in found], bool)
    return _Compared(names, [cells for cells, _ in found], within, chosen.cells)


# What is computed


def _check_values(
    values: _Values,
    cells: np.ndarray,
    rows: "np.ndarray | sp.csr_matrix",
    transform: str,
    screen: "_Memory | _File",
    problems: Problems,
    threads: int,
    order: np.ndarray | None = None,
) -> Facts:
    """What the values of some cells, which are rows of a matrix, are; faults are noted."""
    order = np.arange(rows.shape[0]) if order is None else order
    facts = Facts.of(rows, order, threads)
    logs = engine.MEASURES[transform] == "log1p"
    if facts.n_not_finite or (facts.n_negative and logs):
        faults = Faults(may_be_negative=not logs)
        faults.look(0, rows[order])
        mend = "mend or remove those cells; values of other kinds have their own `transform`."
        names = screen.cell_names()[cells]
        faults.report(values.where, names, values.features, mend, problems)
    if transform == "counts" and facts.n_fractional:
        problems.add(
            values.where,
            f"{facts.n_fractional:,} values are no integers",
            'give another `transform`; "counts" takes counts only.',
        )
    return facts


def _library(
    facts: Facts, given: np.ndarray | None, cells: np.ndarray, where: str
) -> tuple[np.ndarray, list[str]]:
    """Library sizes of the compared cells, and what a user should know."""
    warned = []
    if facts.n_fractional and facts.largest < _LOOKS_LOGGED:
        warned.append(
            f"{where} looks normalized already (no integers, at most {facts.largest:.3g}): give "
            'transform="logged" where the values are log1p, "none" to take them as they are'
        )
    if given is not None:
        return given[cells], warned
    empty = facts.totals == 0
    if empty.any():
        warned.append(
            f"{np.count_nonzero(empty):,} compared cells have no counts in {where}: they count "
            "as zeros"
        )
    return np.where(empty, 1.0, facts.totals), warned


@dataclass
class _Work:
    """The comparison of all targets, in pieces that fit into memory."""

    values: _Values
    compared: _Compared
    settings: engine.Settings
    transform: str
    ties: str
    target_sum: float
    threads: int
    memory: int

    def __post_init__(self) -> None:
        stored, n_features = self.values.matrix, len(self.values.features)
        per_cell = self.values.per_cell()
        # All compared cells, sorted; libraries and facts are in this order.
        mask = np.zeros(stored.shape[0], bool)
        for cells in (self.compared.control, *self.compared.cells):
            mask[cells] = True
        self.cells = np.flatnonzero(mask)
        need = self.compared.control.size * per_cell * _CONTROL_BYTES
        n_blocks = int(min(max(1, n_features), -(-need // (self.memory / 2)) or 1))
        cuts = np.linspace(0, n_features, n_blocks + 1).astype(int)
        self.blocks = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
        whole = self.cells.size * per_cell * self.values.value_bytes
        self.at_once = not self.values.is_stored or (n_blocks == 1 and whole <= self.memory / 2)
        self.rows = None

    def _read(self, cells: np.ndarray, block: tuple[int, int] | None = None) -> object:
        """Rows of a file, of some columns."""
        found = self.values.matrix
        if block is None or block == (0, found.shape[1]):
            return _fitting(found.rows(cells))
        step = max(1, int(_PIECE_BYTES // (self.values.per_cell() * self.values.value_bytes + 1)))
        parts = [
            _fitting(found.rows(cells[start : start + step]))[:, block[0] : block[1]]
            for start in range(0, cells.size, step)
        ]
        if not parts:
            return _fitting(found.rows(cells))[:, block[0] : block[1]]
        return sp.vstack(parts, "csr") if sp.issparse(parts[0]) else np.vstack(parts)

    def look(self, screen: "_Memory | _File", problems: Problems) -> Facts:
        """What the values of all compared cells are."""
        common = (self.transform, screen, problems, self.threads)
        if self.at_once:
            if self.values.is_stored:
                self.rows = self._read(self.cells)
                order = None
            else:
                self.rows, order = self.values.matrix, self.cells
            return _check_values(self.values, self.cells, self.rows, *common, order)
        step = max(1, int(_PIECE_BYTES // (self.values.per_cell() * self.values.value_bytes + 1)))
        parts = []
        for start in range(0, self.cells.size, step):
            cells = self.cells[start : start + step]
            parts.append(_check_values(self.values, cells, self._read(cells), *common))
        return Facts.joined(parts)

    def run(self, library: np.ndarray | None, facts: Facts) -> dict[str, np.ndarray]:
        """Results of all targets, as :func:`condrand.engines.dex.results` gives them."""
        settings = self.settings
        rounded = library is not None and self.ties == "rounded"
        if rounded:
            settings = replace(settings, measure="logged")
        scaling = Scaling(settings.measure, self.target_sum)
        counts = library is None and not (facts.n_negative or facts.n_fractional)
        # Counts have their own tables; larger ones do not fit.
        counts = counts and facts.largest < 2**31 - 2
        out: dict[str, np.ndarray] = {}
        try:
            for block in self.blocks:
                self._run_block(block, out, library, rounded, settings, scaling, counts)
        finally:
            # The table is made beside what is found alone.
            self.rows = None
        return out

    def _run_block(
        self,
        block: tuple[int, int],
        out: dict[str, np.ndarray],
        library: np.ndarray | None,
        rounded: bool,
        settings: engine.Settings,
        scaling: Scaling,
        counts: bool,
    ) -> None:
        """Fill in the results of a block of features."""
        load = _Loader(self, block, library, rounded)
        rows, sizes, order = load(self.compared.control)
        common = {"order": order, "threads": self.threads}
        needs = settings.needs
        tables = ControlTables.of(rows, sizes, scaling, counts=counts, needs=needs, **common)
        del rows
        for first, last in self._batches(block):
            units = self.compared.cells[first:last]
            members = np.concatenate([np.empty(0, np.int64), *units])
            ptr = np.concatenate([[0], np.cumsum([cells.size for cells in units])])
            rows, sizes, order = load(members)
            within = self.compared.within[first:last]
            common = {"order": order, "threads": self.threads}
            sums = engine.sums(tables, rows, ptr, within, sizes, **common)
            del rows
            part = engine.results(sums, settings, self.threads)
            self._store(out, part, slice(first, last), slice(*block))

    def _batches(self, block: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Ranges of targets whose rows and results fit into memory."""
        n_features = max(1, block[1] - block[0])
        share = n_features / max(1, len(self.values.features))
        size = _TARGET_BYTES + (0 if self.at_once else self.values.value_bytes)
        is_held = self.at_once and self.values.is_sparse
        # Sparse rows in memory are transposed few at a time by the kernels themselves.
        per_cell = 0.0 if is_held else self.values.per_cell() * share * size
        first, held = 0, 0.0
        cells = self.compared.cells
        for k in range(len(cells)):
            more = cells[k].size * per_cell
            too_many = (k + 1 - first) * n_features > _TESTS_AT_A_TIME
            if k > first and (too_many or held + more > self.memory / 4):
                yield first, k
                first, held = k, 0.0
            held += more
        if first < len(cells):
            yield first, len(cells)

    def _store(
        self, out: dict[str, np.ndarray], part: dict[str, np.ndarray], units: slice, block: slice
    ) -> None:
        shape = (len(self.compared.cells), len(self.values.features))
        for name, values in part.items():
            if name not in out:
                out[name] = np.empty(shape if values.ndim == 2 else shape[:1], values.dtype)
            out[name][(units, block) if values.ndim == 2 else units] = values


class _Loader:
    """Rows of cells, in memory or from the file, with their libraries."""

    def __init__(
        self, work: _Work, block: tuple[int, int], library: np.ndarray | None, rounded: bool
    ):
        self.work, self.block, self.library, self.rounded = work, block, library, rounded
        self.held = None
        if work.at_once:
            rows = work.rows
            if block != (0, rows.shape[1]):
                rows = rows[:, block[0] : block[1]]
                rows = rows if sp.issparse(rows) else np.ascontiguousarray(rows)
            at = work.cells if not work.values.is_stored else np.arange(work.cells.size)
            self.held = self._normalized(rows, work.cells, at)

    def __call__(self, cells: np.ndarray) -> tuple[object, object, np.ndarray]:
        """A matrix, the libraries of its rows, and the row of each cell."""
        work = self.work
        if work.at_once:
            rows, sizes = self.held
            return rows, sizes, cells if not work.values.is_stored else self._place(cells)
        wanted = np.unique(cells)
        rows = work._read(wanted, self.block)
        rows, sizes = self._normalized(rows, wanted, np.arange(wanted.size))
        return rows, sizes, np.searchsorted(wanted, cells)

    def _place(self, cells: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.work.cells, cells)

    def _normalized(
        self, rows: object, cells: np.ndarray, at: np.ndarray
    ) -> tuple[object, np.ndarray | None]:
        """Rows, and the library of each; `cells` are the rows `at`."""
        if self.library is None:
            return rows, None
        sizes = np.ones(rows.shape[0])
        sizes[at] = self.library[self._place(cells)]
        if not self.rounded:
            return rows, sizes
        return log1p_cpm(rows, sizes, self.work.target_sum), None


def _table(found: dict[str, np.ndarray], compared: _Compared, features: list[str]) -> pd.DataFrame:
    n_units, n_features = len(compared.names), len(features)
    n_rows = n_units * n_features

    def flat(name: str) -> np.ndarray:
        return found[name].reshape(n_rows)

    def category(codes: np.ndarray, names: Sequence[str]) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, names)

    fdr = np.empty((n_units, n_features))
    for k in range(n_units):
        fdr[k] = benjamini_hochberg(found["p_value"][k])
    # Without a copy of what is most of the memory.
    return pd.DataFrame(
        {
            "feature": category(np.tile(np.arange(n_features, dtype=np.int32), n_units), features),
            "target_mean": flat("target_mean"),
            "ref_mean": flat("control_mean"),
            "target_n": np.repeat(found["n_target"], n_features),
            "ref_n": np.repeat(found["n_control"], n_features),
            "fold_change": flat("log2_fold_change"),
            "percent_change": flat("percent_change"),
            "p_value": flat("p_value"),
            "statistic": flat("statistic"),
            "fdr": fdr.reshape(n_rows),
            "target": category(
                np.repeat(np.arange(n_units, dtype=np.int32), n_features), compared.names
            ),
            "neg_log10_p": flat("neg_log10_p"),
            "fdr_all": benjamini_hochberg(flat("p_value")),
            "auroc": flat("auroc"),
            "target_fraction": flat("target_fraction"),
            "ref_fraction": flat("control_fraction"),
            "p_source": category(flat("p_source"), engine.SOURCES),
            "note": category(flat("note"), engine.NOTES),
        },
        copy=False,
    )
