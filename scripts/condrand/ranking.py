"""Targets ranked by the number of features they change."""

import numpy as np
import pandas as pd


def ranked_targets(effects: pd.DataFrame, fdr: float) -> pd.DataFrame:
    """Count the effects of every target, those with most first.

    Parameters
    ----------
    effects : pandas.DataFrame
        One row per target and feature, columns of the results contract and ``fdr_target``.
        Text columns may be categorical.
    fdr : float
        Largest false discovery rate called an effect.

    Returns
    -------
    pandas.DataFrame
        One row per target, targets without effects and untested ones included: ``target``,
        ``n_target``, ``n_control``, ``n_tested`` features, ``n_effects`` (``fdr`` over all
        tests), ``n_effects_target_fdr`` (``fdr_target`` over those of the target), ``n_up`` and
        ``n_down`` of the ``n_effects``, and the most significant test: ``top_feature``,
        ``top_effect``, ``top_neg_log10_p``. Sorted by ``n_effects``, then by the top test, then
        by name; the order of the rows given plays no part.

    Notes
    -----
    An effect of exactly 0 counts as up. Cost: a few passes over the table, no sorting of it.
    """
    codes, names = pd.factorize(effects["target"])
    n = len(names)
    tested = np.isfinite(effects["p_value"].to_numpy(np.float64))
    significant = tested & (effects["fdr"].to_numpy(np.float64) <= fdr)
    in_target = tested & (effects["fdr_target"].to_numpy(np.float64) <= fdr)
    down = significant & (effects["effect"].to_numpy(np.float64) < 0.0)

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(codes[rows], minlength=n)

    n_effects, n_down = count(significant), count(down)
    ranked = pd.DataFrame(
        {
            "target": np.asarray(names, dtype=object),
            "n_target": _largest(codes, effects["n_target"], n),
            "n_control": _largest(codes, effects["n_control"], n),
            "n_tested": count(tested),
            "n_effects": n_effects,
            "n_effects_target_fdr": count(in_target),
            "n_up": n_effects - n_down,
            "n_down": n_down,
            **_top(effects, codes, np.flatnonzero(tested), n),
        }
    )
    return ranked.sort_values(
        ["n_effects", "top_neg_log10_p", "target"],
        ascending=[False, False, True],
        kind="stable",
        na_position="last",
        ignore_index=True,
    )


def _largest(codes: np.ndarray, values: pd.Series, n: int) -> np.ndarray:
    found = np.zeros(n, dtype=np.int64)
    np.maximum.at(found, codes, values.to_numpy(np.int64))
    return found


def _top(
    effects: pd.DataFrame, codes: np.ndarray, rows: np.ndarray, n: int
) -> dict[str, np.ndarray]:
    """Give the most significant test of each target: by p, size of the effect, and name."""
    for column in ("neg_log10_p", "effect"):
        size = np.abs(effects[column].to_numpy(np.float64)[rows])
        # A test without an effect must not win or be compared.
        size = np.where(np.isnan(size), -1.0, size)
        best = np.full(n, -np.inf)
        np.maximum.at(best, codes[rows], size)
        rows = rows[size == best[codes[rows]]]
    left = effects.iloc[rows]
    left = left.assign(code=codes[rows], feature=left["feature"].astype(str))
    first = left.sort_values("feature", kind="stable").drop_duplicates("code")
    at = first["code"].to_numpy()
    feature = np.full(n, "", dtype=object)
    effect, height = np.full(n, np.nan), np.full(n, np.nan)
    feature[at] = first["feature"].to_numpy(object)
    effect[at] = first["effect"].to_numpy(np.float64)
    height[at] = first["neg_log10_p"].to_numpy(np.float64)
    return {"top_feature": feature, "top_effect": effect, "top_neg_log10_p": height}
