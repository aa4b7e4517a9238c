"""Reference results of other implementations: reading them, and holding numbers to them."""

import numpy as np
import pandas as pd

from condrand.linear.fit import Fit


def read(path, **how):
    """Read a table without losing a bit: the default parser is off by one in the last place."""
    return pd.read_csv(path, float_precision="round_trip", **how)


def within(quantity, reference, actual, expected, gate, relative=False):
    """Assert the same NaN and a largest difference of at most `gate`; print the difference."""
    actual, expected = np.broadcast_arrays(np.asarray(actual, float), np.asarray(expected, float))
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    made = ~np.isnan(expected)
    assert np.any(made)
    away = np.abs(actual[made] - expected[made])
    if relative:
        away = away / np.abs(expected[made])
    kind = "rel" if relative else "abs"
    print(f"| {quantity} | {reference} | {kind} {away.max():.1e} | {gate:.0e} |")
    assert away.max() <= gate


def near(quantity, case, actual, expected, gate):
    """As `within`, the difference relative to the largest value expected."""
    assert np.shape(actual) == expected.shape
    scale = np.abs(expected).max() or 1.0
    within(quantity, case, np.asarray(actual) / scale, np.asarray(expected) / scale, gate)


def gate(quantity: str, source: str, found, expected, limit: float, relative: bool = False):
    """Print one row of the table of differences (pytest -s), and hold it to its limit.

    Missing values must be the same on both sides.
    """
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    difference = np.abs(found - expected) / (np.abs(expected) if relative else 1.0)
    largest = np.nanmax(difference)
    print(f"\n{quantity} | {source} | {largest:.1e} | {limit:.0e}", end="")
    assert largest <= limit


def fit_of(table, effect, su, df=None, cov=None, names=("x",)):
    """A fit of the columns of a reference table, not yet moderated."""
    df = np.asarray(df if df is not None else table["df_residual"], float)
    return Fit(
        coefficients=np.asarray(effect, float).reshape(len(table), -1),
        stdev_unscaled=np.asarray(su, float).reshape(len(table), -1),
        sigma=table["sigma"].to_numpy(float),
        df_residual=np.broadcast_to(df, (len(table),)).copy(),
        amean=table["Amean"].to_numpy(float),
        cov_coefficients=np.ones((1, 1)) if cov is None else cov,
        features=[str(name) for name in table["EntrezGeneID"]],
        names=list(names),
        rank=len(names),
    )


def fit_with_effects(G=300, p=3, seed=1):
    """A fit of correlated contrasts, with effects in some features, not yet moderated."""
    random = np.random.default_rng(seed)
    effect = random.normal(size=(G, p)) * (random.random((G, 1)) < 0.3) * 2
    half = random.normal(size=(p, p))
    return Fit(
        coefficients=effect + random.normal(size=(G, p)) * 0.4,
        stdev_unscaled=np.full((G, p), 0.5),
        sigma=np.sqrt(random.chisquare(8, G) / 8 * 5 / random.chisquare(5, G)),
        df_residual=np.full(G, 8.0),
        amean=random.normal(6, 2, G),
        cov_coefficients=half @ half.T + np.eye(p),
        features=[f"g{i}" for i in range(G)],
        names=["a", "b", "c"][:p],
        rank=p,
    )
