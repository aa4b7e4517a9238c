"""Engine dex: every target against one control, feature by feature, by Mann-Whitney or Welch.

Sums over cells come first, p values after: jobs that see some targets, or some features, store
:class:`Sums`; joined, they give the results of one job that sees all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from condrand.tables import effects_table, one_text
from condrand.twosample.control import ControlSums, ControlTables
from condrand.twosample.groups import GroupSums, group_sums, rest_sums
from condrand.twosample.p_values import auroc, mann_whitney, mann_whitney_exact, welch
from condrand.twosample.rows import Needs, each

if TYPE_CHECKING:
    import scipy.sparse as sp

TESTS = ("mwu", "welch")
# How values enter means and Welch's t, by transform.
MEASURES = {"log_normalize": "log1p", "logged": "logged", "counts": "log1p", "none": "plain"}
# The column `note`; what is not tested comes first, the first that holds is given.
NOTES = (
    "",
    "no target cell",
    "no control cell",
    "fewer than two cells",
    "constant",
    "seen in target cells alone",
    "seen in control cells alone",
)
_NO_TARGET, _NO_CONTROL, _TOO_FEW, _CONSTANT, _TARGET_ALONE, _CONTROL_ALONE = range(1, 7)
SOURCES = ("", "asymptotic", "exact", "t")
_ASYMPTOTIC, _EXACT, _T = range(1, 4)
# Tests whose p values are computed at a time: their scratch stays in the cache, and small.
_TESTS_AT_A_TIME = 32_768
_PER_CONTROL = [field.name for field in fields(ControlSums)]
_PER_GROUP = [field.name for field in fields(GroupSums)]
# Of these there is one number per cell group; of all others one per feature too.
_CELLS = ("n_cells", "n_control")


@dataclass(frozen=True)
class Settings:
    """How groups are compared.

    Attributes
    ----------
    test : {"mwu", "welch"}
    measure : {"log1p", "logged", "plain"}
        See :class:`condrand.twosample.rows.Scaling`.
    geometric_mean : bool
        Whether means are ``expm1(mean(log1p(x)))`` rather than ``mean(x)`` of natural values x.
        Plain values have arithmetic means.
    epsilon : float
        Added to both means in fold changes.
    continuity : bool
        Of the Mann-Whitney test: whether ``|U - mean|`` is reduced by one half.
    exact_max_cells : int
        The exact Mann-Whitney test is made where target and control together have at most so
        many cells, and none tie.
    """

    test: str = "mwu"
    measure: str = "log1p"
    geometric_mean: bool = True
    epsilon: float = 1e-9
    continuity: bool = True
    exact_max_cells: int = 0

    @property
    def needs(self) -> Needs:
        """The sums that test and means use."""
        welch = self.test == "welch"
        return Needs(ranks=not welch, squares=welch, natural=not self.geometric)

    @property
    def geometric(self) -> bool:
        """Whether means are geometric."""
        return self.geometric_mean and self.measure != "plain"

    def effect_scale(self, values: str) -> str:
        """The column ``effect_scale``, for values such as "counts per 10,000"."""
        if self.measure == "plain":
            return f"difference of means, {values}"
        mean = "geometric" if self.geometric_mean else "arithmetic"
        return f"log2 fold change of {mean} means, {values}"


@dataclass(frozen=True)
class Sums:
    """Sums over the cells of a control and of some units, for some features.

    Attributes
    ----------
    control : ControlSums
    groups : GroupSums
        Of the units, against all control cells.
    within : bool, shape (n_units,)
        Units that are among the control cells; they are compared with the others.
    """

    control: ControlSums
    groups: GroupSums
    within: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Units and features."""
        return self.groups.n_nonzero.shape

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The sums as arrays by name, for a file; without those that were not wanted."""
        arrays = {f"control_{name}": getattr(self.control, name) for name in _PER_CONTROL}
        arrays |= {f"groups_{name}": getattr(self.groups, name) for name in _PER_GROUP}
        arrays["within"] = self.within
        return {name: np.asarray(array) for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Sums":
        """The inverse of :meth:`as_arrays`."""
        n_cells, *others = (arrays.get(f"control_{name}") for name in _PER_CONTROL)
        return cls(
            ControlSums(int(n_cells), *others),
            GroupSums(*(arrays.get(f"groups_{name}") for name in _PER_GROUP)),
            arrays["within"],
        )

    @classmethod
    def of_features(cls, blocks: "Sequence[Sums]") -> "Sums":
        """Join blocks of features of the same units and control, in order."""
        first = blocks[0]
        for block in blocks:
            if block.control.n_cells != first.control.n_cells or any(
                not np.array_equal(getattr(block.groups, name), getattr(first.groups, name))
                for name in _CELLS
            ):
                raise ValueError("the blocks of features are not of the same cells")

        def joined(part: str, name: str) -> object:
            arrays = [getattr(getattr(block, part), name) for block in blocks]
            return arrays[0] if name in _CELLS else _joined(arrays, axis=-1)

        return cls(
            ControlSums(*(joined("control", name) for name in _PER_CONTROL)),
            GroupSums(*(joined("groups", name) for name in _PER_GROUP)),
            first.within,
        )

    @classmethod
    def of_units(cls, parts: "Sequence[Sums]") -> "Sums":
        """Join units compared with the same control, in order."""
        control = parts[0].control
        if any(part.control.n_cells != control.n_cells for part in parts):
            raise ValueError("the parts have not the same control")
        groups = [
            _joined([getattr(part.groups, name) for part in parts], axis=0) for name in _PER_GROUP
        ]
        return cls(control, GroupSums(*groups), np.concatenate([part.within for part in parts]))

    def of(self, units: np.ndarray) -> "Sums":
        """Of some of the units."""
        return Sums(self.control, _groups_of(self.groups, units), self.within[units])


def _groups_of(groups: GroupSums, which: np.ndarray | slice) -> GroupSums:
    """Sums of some groups."""
    arrays = (getattr(groups, name) for name in _PER_GROUP)
    return GroupSums(*(None if array is None else array[which] for array in arrays))


def _joined(arrays: list, axis: int) -> np.ndarray | None:
    """Arrays joined; what one job was not asked for, no other was."""
    return None if arrays[0] is None else np.concatenate(arrays, axis=axis)


def sums(
    control: ControlTables,
    rows: "np.ndarray | sp.csr_matrix",
    group_ptr: np.ndarray,
    within: np.ndarray,
    library: np.ndarray | None = None,
    *,
    order: np.ndarray | None = None,
    threads: int = 1,
) -> Sums:
    """Sums of units beside a control.

    Parameters
    ----------
    control : ControlTables
        From :meth:`.ControlTables.of`, of the control's rows and with :attr:`Settings.needs`.
    rows : CSR or dense, shape (n_rows, n_features)
    group_ptr : int64, shape (n_units + 1,)
        First cell of each unit, and the end of the last.
    within : bool, shape (n_units,)
        From :meth:`condrand.groups.Control.compared`.
    library : float64, shape (n_rows,), optional
        Library sizes, where the control has them.
    order : int64, shape (n_cells,), optional
        Row of each cell, one unit after the other; by default the rows are the cells.
    threads : int
        Results do not depend on it.
    """
    groups = group_sums(control, rows, group_ptr, library, order=order, threads=threads)
    of_control = ControlSums(*(getattr(control, name) for name in _PER_CONTROL))
    return Sums(of_control, groups, np.asarray(within, bool))


def results(sums: Sums, settings: Settings, threads: int = 1) -> dict[str, np.ndarray]:
    """Tests and effects of every unit and feature.

    Parameters
    ----------
    sums : Sums
    settings : Settings
    threads : int
        Results do not depend on it.

    Returns
    -------
    dict of arrays, shape (n_units, n_features)
        ``n_target``, ``n_control`` (int64, shape (n_units,)); ``statistic`` (U of the target, or
        t), ``p_value``, ``neg_log10_p``, ``target_mean``, ``control_mean`` (of natural values),
        ``log2_fold_change``, ``percent_change`` (a fraction), ``target_fraction``,
        ``control_fraction`` (of cells with a nonzero value), ``auroc`` (NaN where the sums have
        no ranks, as Welch's test needs none) and, of Welch's test, ``df`` (float64);
        ``p_source`` and ``note`` (int8: where in SOURCES and NOTES).

    Notes
    -----
    Fold and percent change are NaN where epsilon leaves a mean negative, or that of the control 0.
    """
    n_units, n_features = sums.shape
    names = [
        *("statistic", "p_value", "neg_log10_p", "target_mean", "control_mean"),
        *("log2_fold_change", "percent_change", "target_fraction", "control_fraction", "auroc"),
        *(("df",) if settings.test == "welch" else ()),
    ]
    out = {name: np.empty(sums.shape) for name in names}
    out |= {name: np.empty(sums.shape, np.int8) for name in ("p_source", "note")}
    n_control = sums.control.n_cells - np.where(sums.within, sums.groups.n_cells, 0)
    step = max(1, _TESTS_AT_A_TIME // max(1, n_features))

    def run(units: np.ndarray) -> None:
        # Most often they follow each other, and need no copies.
        if units[-1] - units[0] == units.size - 1:
            units = slice(units[0], units[-1] + 1)
        for name, values in _tests(sums, units, settings).items():
            out[name][units] = values

    blocks = [
        of[start : start + step]
        for of in (np.flatnonzero(~sums.within), np.flatnonzero(sums.within))
        for start in range(0, of.size, step)
    ]
    each(run, blocks, threads)
    return {"n_target": sums.groups.n_cells, "n_control": n_control, **out}


def _tests(sums: Sums, units: np.ndarray | slice, settings: Settings) -> dict[str, np.ndarray]:
    """:func:`results` of units that are all within the control, or all outside."""
    target = _groups_of(sums.groups, units)
    control = sums.control
    m = np.full((target.n_cells.size, 1), control.n_cells)
    if sums.within[units][0]:
        target, control = rest_sums(control, target)
        m = control.n_cells[:, None]
    n = target.n_cells[:, None]
    has_ranks = target.two_u is not None
    out = {"auroc": auroc(target.two_u, n, m) if has_ranks else np.nan}
    if settings.test == "mwu":
        log_p, source = _mann_whitney(target, n, m, settings)
        statistic = np.where(np.isnan(log_p), np.nan, target.two_u / 2)
    else:
        statistic, out["df"], log_p = welch(
            *(target.total, target.squares, n, control.total, control.squares, m)
        )
        source = np.where(np.isnan(log_p), 0, _T)
    # Not -0 where p is 1.
    out |= {"statistic": statistic, "p_value": np.exp(log_p), "p_source": source}
    out["neg_log10_p"] = 0.0 - log_p / np.log(10)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        out["target_mean"] = mean = _mean(target, n, settings)
        out["control_mean"] = control_mean = _mean(control, m, settings)
        raised, of_control = mean + settings.epsilon, control_mean + settings.epsilon
        known = (raised >= 0) & (of_control > 0)
        out["log2_fold_change"] = np.where(known, np.log2(raised / of_control), np.nan)
        out["percent_change"] = np.where(known, (mean - control_mean) / of_control, np.nan)
        out["target_fraction"] = target.n_nonzero / n
        out["control_fraction"] = control.n_nonzero / m
    out["note"] = np.select(
        [
            np.broadcast_to(n == 0, log_p.shape),
            np.broadcast_to(m == 0, log_p.shape),
            np.isnan(log_p) & ((n < 2) | (m < 2)) & (settings.test == "welch"),
            np.isnan(log_p),
            (target.n_nonzero > 0) & (control.n_nonzero == 0),
            (target.n_nonzero == 0) & (control.n_nonzero > 0),
        ],
        [_NO_TARGET, _NO_CONTROL, _TOO_FEW, _CONSTANT, _TARGET_ALONE, _CONTROL_ALONE],
        0,
    )
    return out


def _mann_whitney(
    target: GroupSums, n: np.ndarray, m: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Log p, and where in SOURCES it comes from."""
    _, log_p = mann_whitney(target.two_u, target.ties, n, m, settings.continuity)
    source = np.where(np.isnan(log_p), 0, _ASYMPTOTIC)
    for unit in np.flatnonzero(n + m <= settings.exact_max_cells):
        exact = mann_whitney_exact(
            target.two_u[unit], target.ties[unit], n[unit].item(), m[unit].item()
        )
        known = ~np.isnan(exact)
        log_p[unit, known] = exact[known]
        source[unit, known] = _EXACT
    return log_p, source


def _mean(side: GroupSums | ControlSums, n: np.ndarray, settings: Settings) -> np.ndarray:
    """Pseudobulk of a group's natural values, shape (n_units, n_features)."""
    if settings.geometric:
        return np.expm1(side.total / n)
    return side.natural / n


def effects(
    screen: str,
    analysis: str,
    units: Sequence[str],
    features: Sequence[str],
    sums: Sums,
    settings: Settings,
    values: str,
    threads: int = 1,
) -> pd.DataFrame:
    """One row per unit and feature, as :func:`condrand.tables.effects_table` wants them.

    Parameters
    ----------
    screen, analysis : str
    units : sequence of str
        Names of the units; no name twice.
    features : sequence of str
    sums : Sums
    settings : Settings
    values : str
        What the natural values are, as in "counts per 10,000".
    threads : int

    Returns
    -------
    pandas.DataFrame
        Own columns: ``fdr_target`` (NaN until all features are merged), ``log2_fold_change``,
        ``percent_change``, ``target_mean``, ``control_mean``, ``target_fraction``,
        ``control_fraction``, ``auroc`` (NaN without ranks) and ``df`` (NaN of Mann-Whitney
        tests). Texts are categories, those of ``target`` sorted.
    """
    found = results(sums, settings, threads)
    n_units, n_features = sums.shape
    n_rows = n_units * n_features
    by_name = np.argsort(np.array(units, object))
    rank = np.empty(n_units, np.int32)
    rank[by_name] = np.arange(n_units, dtype=np.int32)

    def flat(name: str) -> np.ndarray:
        return found[name].reshape(n_rows)

    fold_change = settings.measure != "plain"
    effect = flat("log2_fold_change")
    if not fold_change:
        effect = flat("target_mean") - flat("control_mean")
    own = [
        *("log2_fold_change", "percent_change", "target_mean", "control_mean"),
        *("target_fraction", "control_fraction", "auroc"),
    ]
    return effects_table(
        {
            "screen": one_text(screen, n_rows),
            "analysis": one_text(analysis, n_rows),
            "target": pd.Categorical.from_codes(
                np.repeat(rank, n_features), [units[i] for i in by_name]
            ),
            "feature": pd.Categorical.from_codes(
                np.tile(np.arange(n_features, dtype=np.int32), n_units), list(features)
            ),
            "n_target": np.repeat(found["n_target"], n_features),
            "n_control": np.repeat(found["n_control"], n_features),
            "effect": effect,
            "effect_scale": one_text(settings.effect_scale(values), n_rows),
            "statistic": flat("statistic"),
            "p_value": flat("p_value"),
            "neg_log10_p": flat("neg_log10_p"),
            "p_source": pd.Categorical.from_codes(flat("p_source"), SOURCES),
        },
        {
            "fdr_target": np.nan,
            **{name: flat(name) for name in own},
            "df": flat("df") if settings.test == "welch" else np.nan,
        },
        pd.Categorical.from_codes(flat("note"), NOTES),
    )
