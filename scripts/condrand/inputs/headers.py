"""What the head of a user's file says of the work to come: its shape, read in a moment."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from condrand import plan
from condrand.config import analyses_of, is_count_table, needs_of
from condrand.errors import Problems
from condrand.inputs.elements import find, obs_columns
from condrand.inputs.guides import read_guide2gene
from condrand.io.h5ad import Group, Matrix, is_array, locate, matrix, open_anndata
from condrand.io.tables import count_table_size
from condrand.planner import Shape, Values

# Cells whose guides are counted where the matrix does not tell how many there are.
_SAMPLE = 1000
# Covariates of a formula: not known before it is evaluated.
_OF_FORMULA = 10


def read_shape(config: Mapping[str, Any], screen: str) -> Shape:
    """The shape of a screen, for :func:`condrand.planner.propose`.

    Parameters
    ----------
    config : mapping
        Complete configuration.
    screen : str

    Returns
    -------
    Shape
        No matrix is loaded; guide calls of a dense matrix are counted in 1,000 cells.

    Raises
    ------
    InputError
        If the file is none, or lacks what the analyses take from it.
    """
    section = config["screens"][screen]
    analyses = [config["analyses"][name] for of, name in analyses_of(config) if of == screen]
    if "simulate" in section:
        return _of_simulation(section["simulate"], analyses)
    path = section["path"]
    if is_count_table(path):
        return _of_table(path, analyses, len(section["annotation_columns"]))
    problems = Problems(str(path))
    with open_anndata(path) as file:
        shape = _of_file(file, path, config, screen, analyses, problems)
    problems.report()
    return shape


def _of_file(
    file: Group,
    path: str,
    config: Mapping[str, Any],
    screen: str,
    analyses: list[Mapping[str, Any]],
    problems: Problems,
) -> Shape:
    section, needs = config["screens"][screen], needs_of(config, screen)
    index = file["obs"][file["obs"].attrs["_index"]]
    n_cells = int(index.shape[0] if is_array(index) else index["codes"].shape[0])
    values, estimated = {}, []
    for key in dict.fromkeys(a["outcome"]["key"] for a in analyses):
        where = find(file, key, "outcome.key", "outcome", problems)
        found = matrix(file, where) if where else None
        if found is None:
            if where:
                problems.add(where, "is no numeric matrix (outcome)", "name a matrix of cells.")
            continue
        values[key] = _values(found)
    guides: dict[str, int] = {}
    by_targets = any(a.get("pseudobulk", {}).get("targets") for a in analyses)
    if needs["guides"] or by_targets:
        guides = _guides(file, section, problems, estimated)
    covariates = 0
    if needs["covariates"]:
        covariates = _n_covariates(file, section["covariates"], estimated)
    columns = {a.get("groupby") for a in analyses} | {a.get("sample") for a in analyses}
    columns |= {column for a in analyses for column in a.get("pseudobulk", {}).get("by", ())}
    levels = {c: _n_levels(file, c, n_cells, estimated) for c in sorted(columns - {None})}
    return Shape(
        n_cells,
        plan.read_mb(path),
        values,
        **guides,
        n_covariates=covariates,
        levels=levels,
        estimated=estimated,
    )


def _values(found: Matrix) -> Values:
    element, (n_cells, n_features) = found.element, found.shape
    if found.kind == "table":
        return Values(n_features, n_cells * n_features, 8 * n_cells * n_features / 2**20)
    if found.kind == "dense":
        n_stored = n_cells * n_features
        return Values(n_features, n_stored, n_stored * found.dtype.itemsize / 2**20)
    n_stored = int(element["data"].shape[0])
    blocks = plan.n_feature_blocks(n_features)
    # A column's number with each value, and where each cell's values begin, in each block.
    mb = (n_stored * (found.dtype.itemsize + 4) + 8 * n_cells * blocks) / 2**20
    return Values(n_features, n_stored, mb, is_sparse=True)


def _guides(
    file: Group, section: Mapping[str, Any], problems: Problems, estimated: list[str]
) -> dict[str, int]:
    key = section["guide_assignment"]
    where = find(file, key, "guide_assignment", "guide calls", problems)
    found = matrix(file, where) if where else None
    target_of = read_guide2gene(file, section, problems)
    if found is None or target_of is None:
        return {}
    n_cells, n_guides = found.shape
    ntc = sum(target in section["ntc_labels"] for target in target_of.values())
    targets = len(set(target_of.values()) - set(section["ntc_labels"]))
    if found.kind in ("csr", "csc"):
        calls = int(found.element["data"].shape[0])
    else:
        cells = np.unique(np.linspace(0, n_cells - 1, min(_SAMPLE, n_cells)).astype(np.int64))
        calls = round(float((found.rows(cells) > 0).sum()) / cells.size * n_cells)
        if cells.size < n_cells:
            estimated.append(f"guide calls, from those of {cells.size:,} cells")
    return {
        "n_targets": targets,
        "n_ntc_guides": ntc,
        "n_guides": n_guides,
        "n_calls": calls,
    }


def _n_covariates(file: Group, settings: Mapping[str, Any], estimated: list[str]) -> int:
    if "formula" in settings:
        estimated.append(f"{_OF_FORMULA} covariates, for the formula")
        return _OF_FORMULA
    if "columns" in settings:
        names = [c if isinstance(c, str) else c["name"] for c in settings["columns"]]
        return sum(_n_dummies(file["obs"], name) for name in names)
    where = locate(file, settings.get("key", "covar"))
    found = matrix(file, where) if where else None
    if found is None:
        return 0
    if found.columns is None:
        return found.shape[1]
    return sum(_n_dummies(file[where], name) for name in found.columns)


def _n_dummies(table: Group, name: str) -> int:
    """Columns of a design that a column of a table makes."""
    column = table.get(name)
    if column is None or is_array(column) or "categories" not in column:
        return 1
    return max(1, int(column["categories"].shape[0]) - 1)


def _n_levels(file: Group, name: str, n_cells: int, estimated: list[str]) -> int:
    column = file["obs"].get(name) if name in obs_columns(file) else None
    if column is not None and not is_array(column) and "categories" in column:
        return int(column["categories"].shape[0])
    guess = min(n_cells, 100)
    estimated.append(f"{guess} groups in obs/{name}, which is no category")
    return guess


def _of_table(path: str, analyses: list[Mapping[str, Any]], annotation: int) -> Shape:
    rows, columns = count_table_size(path)
    samples = max(1, columns - annotation)
    values = Values(rows, rows * samples, 8 * rows * samples / 2**20)
    return Shape(
        samples,
        plan.read_mb(path),
        {a["outcome"]["key"]: values for a in analyses},
        estimated=["features, from the size of the file"],
    )


def _of_simulation(settings: Mapping[str, Any], analyses: list[Mapping[str, Any]]) -> Shape:
    n_cells, n_features = settings["n_cells"], settings["n_programs"]
    on_targets = settings["n_targets"] * settings["guides_per_target"]
    share = settings["ntc_fraction"]
    ntc = max(round(on_targets * share / (1 - share)), 1) if share > 0 else 0
    per_cell = 1.0 if settings["guides_per_cell"] == "one" else settings["moi_mean"]
    n_stored = n_cells * n_features
    mb = 8 * n_stored / 2**20
    return Shape(
        n_cells,
        math.ceil(1.5 * mb),
        {a["outcome"]["key"]: Values(n_features, n_stored, mb) for a in analyses},
        n_targets=settings["n_targets"],
        n_ntc_guides=ntc,
        n_guides=on_targets + ntc,
        n_calls=round(n_cells * per_cell),
        n_covariates=settings["n_covariates"] + settings["n_batches"],
        levels={},
    )
