"""Covariates of a user's file: from a table, from columns of obs, or by a formula."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.covariates import dependencies, encode, standardize
from condrand.errors import InputError, Problems, listed, quoted
from condrand.formulas import note_strangers, right_side, words_of
from condrand.inputs.elements import check_unique, find, length_differs, obs_column, obs_columns
from condrand.io.h5ad import (
    Group,
    read,
)

log = logging.getLogger(__name__)


def read_covariates(
    file: Group, settings: Mapping[str, Any], cells: pd.Index, problems: Problems
) -> tuple[pd.DataFrame | None, int | None]:
    """Covariates as a table of the cells, by key, by columns of obs or by formula.

    Returns
    -------
    table : pandas.DataFrame or None
        Finite, with distinct column names; None where `problems` got an entry.
    numeric_as_category_threshold : int or None
        As configured for tables; None for an array of numbers and for a formula, which are taken
        as they are.
    """
    threshold = settings["numeric_as_category_threshold"]
    if "formula" in settings:
        where, table = "covariates.formula", None
        table = _covariates_by_formula(file, settings["formula"], cells, problems)
    elif "columns" in settings:
        where = "obs"
        table = _covariates_by_column(file, settings["columns"], cells, problems)
    else:
        table, where, is_array = _covariates_by_key(file, settings["key"], cells, problems)
        threshold = None if is_array else threshold
    if table is None:
        return None, threshold
    # A slash in the name of a column would become a folder of the file.
    table.columns = [str(name).replace("/", "\N{DIVISION SIGN}") for name in table.columns]
    before = len(problems.found)
    check_unique(list(table.columns), where, "covariate", "rename the columns.", problems)
    if len(problems.found) > before:
        return None, threshold
    whole = _check_finite(table, where, problems)
    _check_design(table[whole], where, threshold, settings["rank_deficient"], problems)
    return table, threshold


def read_batch(
    file: Group,
    key: str,
    covariates: pd.DataFrame | None,
    cells: pd.Index,
    problems: Problems,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes and levels of a batch column: of the covariates if they have it, else of obs.

    Returns
    -------
    codes : int64, shape (n_cells,)
    levels : object array of str, sorted
    """
    if covariates is None:
        # A problem has been noted, perhaps of this very column.
        return None
    if key in covariates.columns:
        values = covariates[key]
    else:
        values = obs_column(file, key, "batch", "batch_key", cells, problems)
        if values is None:
            return None
    missing = values.isna().to_numpy()
    if missing.any():
        problems.add(
            f"obs/{key}",
            f"{missing.sum():,} cells have no batch ({quoted(cells[missing], 3)})",
            "fill it in, remove those cells, or set `stratify_by_batch: false`.",
        )
        return None
    levels, codes = np.unique(values.astype(str).to_numpy(), return_inverse=True)
    if levels.size > len(cells) // 2 and levels.size > 1:
        problems.add(
            f"obs/{key}",
            f"has {levels.size:,} values in {len(cells):,} cells, which are no batches",
            "name the column of the batches with `batch_key`.",
        )
        return None
    return codes.astype(np.int64), levels.astype(object)


def _covariates_by_key(
    file: Group, key: str, cells: pd.Index, problems: Problems
) -> tuple[pd.DataFrame | None, str, bool]:
    where = find(file, key, "covariates.key", "covariates", problems)
    if where is None:
        return None, key, False
    value = read(file, where)
    if sp.issparse(value):
        value = value.toarray()
    # Numbers in an array may already be indicators or splines; those of a table have a meaning.
    in_obs = where.startswith("obs/")
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and not in_obs
    if isinstance(value, np.ndarray) and value.dtype.names:
        value = pd.DataFrame(value)
    elif isinstance(value, np.ndarray) and in_obs:
        value = pd.DataFrame({key: value})
    elif isinstance(value, np.ndarray) and value.ndim in (1, 2):
        value = value.reshape(value.shape[0], -1)
        value = pd.DataFrame(value, columns=[f"covar_{i}" for i in range(value.shape[1])])
    elif isinstance(value, pd.api.extensions.ExtensionArray):
        value = pd.DataFrame({key: value})
    if not isinstance(value, pd.DataFrame):
        problems.add(where, "is no table or array (covariates)", "store cells x covariates.")
        return None, where, is_array
    if len(value) != len(cells):
        problems.add(where, *length_differs(value.shape, len(cells), "covariates"))
        return None, where, is_array
    return value.set_axis(cells, axis=0), where, is_array


def _covariates_by_column(
    file: Group, columns: list[Any], cells: pd.Index, problems: Problems
) -> pd.DataFrame | None:
    table = {}
    for item in columns:
        item = {"name": item} if isinstance(item, str) else item
        name, transform = item["name"], item.get("transform", "none")
        values = obs_column(file, name, "covariates", "covariates.columns", cells, problems)
        if values is None:
            continue
        if transform == "none":
            table[name] = values
            continue
        if not pd.api.types.is_numeric_dtype(values):
            problems.add(
                f"obs/{name}",
                f"is not numeric ({quoted(values.unique(), 3)}), but {transform} is asked",
                "drop `transform`, or store the column as numbers.",
            )
            continue
        lowest = 0 if transform == "log" else -1
        low = values[(values <= lowest).fillna(False).astype(bool)]
        if len(low):
            problems.add(
                f"obs/{name}",
                f"{len(low):,} values are {lowest} or less ({listed(low.unique(), 3)}; "
                f"cells {quoted(low.index, 3)}), so {transform} is undefined",
                "use log1p, or remove those cells." if lowest == 0 else "remove those cells.",
            )
            continue
        table[f"{transform}({name})"] = (np.log if transform == "log" else np.log1p)(values)
    return pd.DataFrame(table, index=cells) if table else None


def _covariates_by_formula(
    file: Group, formula: str, cells: pd.Index, problems: Problems
) -> pd.DataFrame | None:
    from formulaic import Formula

    key = "covariates.formula"
    right = right_side(formula)
    there = obs_columns(file)
    if "~" in right:
        problems.add(
            key, f"{formula!r} has a left-hand side", "give covariates only, on the right of `~`."
        )
        return None
    named = sorted(words_of(right) & set(there))
    try:
        parsed = Formula(right)
        if note_strangers(key, formula, parsed, there, "obs", "use columns of obs.", problems):
            return None
        columns = [obs_column(file, name, "covariates", key, cells, problems) for name in named]
        if any(column is None for column in columns):
            return None
        obs = pd.DataFrame(dict(zip(named, columns, strict=True)), index=cells)
        if len(_check_finite(obs, "obs", problems)) < len(named):
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            design = parsed.get_model_matrix(obs, na_action="ignore")
        design = pd.DataFrame(design).astype(np.float64)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - formulaic raises many kinds; all are the user's
        text = str(error).split("\n")[0]
        problems.add(
            key,
            f"{formula!r} cannot be read: {text}",
            'write R-style, for example "~ log(n_umis) + batch". The columns there are: '
            f"{listed(there, 20)}.",
        )
        return None
    if "Intercept" not in design:
        problems.add(
            key,
            f"{formula!r} leaves the intercept out",
            "remove `0 +` or `- 1`: every model has an intercept.",
        )
        return None
    return design.drop(columns="Intercept")


def _check_finite(table: pd.DataFrame, where: str, problems: Problems) -> list[str]:
    """Names of the columns without missing or infinite values; the others are noted."""
    whole = []
    for name in table.columns:
        column = table[name]
        missing = column.isna().to_numpy()
        infinite = np.zeros(len(column), bool)
        if pd.api.types.is_float_dtype(column):
            infinite = np.isinf(column.to_numpy(np.float64, na_value=np.nan))
        if not (missing | infinite).any():
            whole.append(name)
            continue
        kinds = [
            f"{count:,} {kind}"
            for count, kind in ((missing.sum(), "NaN"), (infinite.sum(), "infinite"))
            if count
        ]
        mend = "fill them in, remove those cells, or leave the covariate out."
        if where == "covariates.formula":
            mend = f"the logarithm of 0 or the root of a negative number? {mend}"
        cells = table.index[missing | infinite]
        problems.add(
            f"{where}/{name}", f"{' and '.join(kinds)} values (cells {quoted(cells, 3)})", mend
        )
    return whole


def _check_design(
    table: pd.DataFrame, where: str, threshold: int | None, rank_deficient: str, problems: Problems
) -> None:
    n_cells = len(table)
    levels = {
        name: table[name].nunique()
        for name in table.columns
        if not pd.api.types.is_numeric_dtype(table[name])
    }
    numbers = [
        name
        for name, count in levels.items()
        # Plates 1 to 96 as text are categories; a thousand different numbers are none.
        if count > max(20, n_cells / 10) and _reads_as_numbers(table[name])
    ]
    for name in numbers:
        problems.add(
            f"{where}/{name}",
            f"holds {levels[name]:,} different numbers stored as text "
            f"({quoted(table[name].unique(), 3)})",
            "store it as numbers: `adata.obs[column].astype(float)`.",
        )
    table = table.drop(columns=numbers)
    # Counted before they are made: a column of a million levels would fill the memory.
    n_columns = sum(max(1, levels.get(name, 2) - 1) for name in table.columns)
    if n_cells > n_columns + 1:
        encoded = encode(table, threshold)
        n_columns = encoded.shape[1]
    if n_cells <= n_columns + 1:
        most = sorted(levels.items(), key=lambda item: -item[1])[:3]
        named = "; ".join(f"{name} has {count:,} levels" for name, count in most)
        problems.add(
            where,
            f"{n_columns + 1:,} design columns, the intercept among them, for {n_cells:,} cells"
            + (f" ({named})" if named else ""),
            "leave covariates out, or join levels.",
        )
        return
    dependent = dependencies(list(encoded.columns), standardize(encoded.to_numpy()))
    for dependency in dependent:
        if rank_deficient == "drop":
            log.warning("design column dropped: %s", dependency)
    if dependent and rank_deficient == "error":
        problems.add(
            where,
            f"these covariates add nothing to the others: {listed(dependent)}",
            "remove them, or set `covariates.rank_deficient: drop` to go on without them.",
        )


def _reads_as_numbers(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column.astype(str), errors="coerce").notna().all())
