"""Lowess against R, and against a slow reading of its definition."""

import numpy as np
import pandas as pd
import pytest

from condrand.linear.lowess import lowess, lowess_in_place

REFERENCE = {
    "f50": {"span": 0.5},
    "f20": {"span": 0.2},
    "f50_iter0": {"span": 0.5, "iterations": 0},
    "f50_delta0": {"span": 0.5, "delta": 0.0},
    "f50_delta05": {"span": 0.5, "delta": 0.5},
}


def gate(quantity: str, source: str, difference: float, limit: float) -> None:
    """Print one row of the table of differences (pytest -s), and hold it to its limit."""
    print(f"\n{quantity} | {source} | {difference:.1e} | {limit:.0e}", end="")
    assert difference <= limit


def slow_lowess(x, y, span, iterations):
    """Every point by itself, ``delta`` 0, in the order of ascending distinct or tied x."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    n = x.size
    k = min(max(int(np.floor(span * n + 1e-7)), 2), n)
    robust, fitted = np.ones(n), np.empty(n)
    for round_ in range(iterations + 1):
        for i in range(n):
            first = int(np.flatnonzero(x == x[i])[0])  # ties share the window of the first
            left = 0
            while left + k < n and x[first] - x[left] > x[left + k] - x[first]:
                left += 1
            h = max(x[first] - x[left], x[left + k - 1] - x[first])
            r = np.abs(x - x[first])
            with np.errstate(invalid="ignore", divide="ignore"):
                w = np.where(r <= 0.001 * h, 1.0, (1 - (r / h) ** 3) ** 3)
            w = np.where(r > 0.999 * h, 0.0, w) * robust
            w[:left] = 0.0
            if w.sum() == 0:
                fitted[i] = y[first]
                continue
            root = np.sqrt(w)
            spread = np.sqrt(np.average((x - np.average(x, weights=w)) ** 2, weights=w))
            columns = [np.ones(n)] + [x - x[first]] * bool(spread > 0.001 * (x[-1] - x[0]))
            design = np.column_stack(columns)
            fitted[i] = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0][0]
        residual = np.abs(y - fitted)
        c = 6 * np.median(residual)
        if round_ == iterations or c < 1e-7 * residual.mean():
            break
        robust = (1 - (residual / c) ** 2) ** 2
        robust[residual <= 0.001 * c] = 1.0
        robust[residual > 0.999 * c] = 0.0
    return x, fitted


@pytest.mark.parametrize("column", REFERENCE)
def test_lowess_is_that_of_r(data_dir, column):
    path = data_dir / "limma" / "limma_ref_small_lowess.csv"
    points = pd.read_csv(path, float_precision="round_trip")
    x, fitted = lowess(points.x.to_numpy(), points.y.to_numpy(), **REFERENCE[column])
    assert np.array_equal(x, points.x)
    gate(f"lowess {column}", path.name, np.abs(fitted - points[column]).max(), 1e-13)


@pytest.mark.parametrize("tag", ["seed", "v354"])
def test_the_line_through_14453_genes_is_that_of_r(data_dir, tag):
    folder = data_dir / "limma"
    points = pd.read_csv(folder / f"limma_ref_{tag}_voom_xy.csv.gz", float_precision="round_trip")
    line = folder / f"limma_ref_{tag}_voom_line.csv.gz"
    expected = pd.read_csv(line, float_precision="round_trip")
    span = 0.5 if tag == "v354" else 0.3 + 0.7 * (50 / len(points)) ** (1 / 3)
    x, fitted = lowess(points.x.to_numpy(), points.y.to_numpy(), span)
    assert np.array_equal(x, expected.x)
    gate("lowess, rel", line.name, np.abs(fitted / expected.y - 1).max(), 1e-12)


# Windows of few points fit exactly: robust rounds would then weigh rounding errors.
@pytest.mark.parametrize(
    ("n", "iterations"), [(2, 0), (3, 0), (5, 0), (12, 0), (12, 1), (16, 3), (41, 1), (41, 3)]
)
@pytest.mark.parametrize("tied", [False, True])
def test_lowess_is_its_definition(n, iterations, tied):
    random = np.random.default_rng(n + iterations)
    x = random.normal(size=n)
    if tied:
        x = np.round(x * 2) / 2
    y = np.sin(x) + 0.3 * random.standard_t(2, size=n)
    for span in (0.6, 0.85, 1.0) if iterations else (0.2, 0.5, 1.0):
        at, fitted = lowess(x, y, span, iterations, delta=0.0)
        expected_at, expected = slow_lowess(x, y, span, iterations)
        assert np.array_equal(at, expected_at)
        np.testing.assert_allclose(fitted, expected, rtol=0, atol=1e-11)


def test_delta_interpolates_between_fits():
    x = np.arange(11.0)
    y = np.random.default_rng(0).normal(size=11)
    _, whole = lowess(x, y, 0.6, 0, delta=0.0)
    _, some = lowess(x, y, 0.6, 0, delta=3.0)
    # Fits at 0, 3, 6, 9 and 10: the last point within delta of the fit before.
    np.testing.assert_allclose(some, np.interp(x, [0, 3, 6, 9, 10], whole[[0, 3, 6, 9, 10]]))
    assert np.abs(some - whole).max() > 1e-3


def test_the_default_delta_is_a_hundredth_of_the_range():
    x, y = np.random.default_rng(1).normal(size=(2, 500))
    default, said = lowess(x, y)[1], lowess(x, y, delta=0.01 * np.ptp(x))[1]
    assert np.array_equal(default, said)
    assert not np.array_equal(default, lowess(x, y, delta=0.0)[1])


def test_an_outlier_is_thrown_out():
    x = np.arange(60.0)
    y = 2 * x + np.random.default_rng(2).normal(size=60)
    y[30] += 100
    assert np.abs(lowess(x, y, 0.5)[1] - 2 * x).max() < 1.5
    assert np.abs(lowess(x, y, 0.5, iterations=0)[1] - 2 * x).max() > 4


def test_a_window_thrown_out_whole_keeps_its_own_value():
    # Half the points lie on a line, so that the median residual is nearly 0 and the outlier's
    # whole neighbourhood goes with it.
    x = np.arange(30.0)
    y = 2 * x + np.random.default_rng(2).normal(scale=0.01, size=30)
    y[15] += 1000
    assert lowess(x, y, 0.5)[1][15] == y[15]


def test_a_straight_line_is_left_as_it_is():
    x = np.random.default_rng(3).normal(size=50)
    at, fitted = lowess(x, 3 * x - 1)
    np.testing.assert_allclose(fitted, 3 * at - 1, atol=1e-13)


def test_values_in_place_follow_the_order_given():
    x, y = np.random.default_rng(4).normal(size=(2, 40))
    at, fitted = lowess(x, y)
    placed = lowess_in_place(x, y)
    assert not np.array_equal(x, at)
    assert np.array_equal(placed[np.argsort(x)], fitted)


def test_a_window_without_spread_has_a_mean_and_no_slope():
    x = np.append(np.linspace(0, 5e-4, 12), 1.0)
    y = np.append(np.arange(12.0), 0.0)
    found, expected = lowess(x, y, 0.5, 0, delta=0.0)[1], slow_lowess(x, y, 0.5, 0)[1]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # A slope would have found the line through the points.
    assert found[0] > 0.5


def test_one_point_and_one_x_have_their_mean():
    assert lowess(np.array([2.0]), np.array([5.0]))[1].tolist() == [5.0]
    # Without robust rounds: the window is left to right, ties beyond it included.
    fitted = lowess(np.ones(4), np.array([1.0, 2.0, 3.0, 6.0]), 0.5, iterations=0)[1]
    np.testing.assert_allclose(fitted, 3.0)


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [
        ([], [], {}),
        ([1.0, 2.0], [1.0], {}),
        ([1.0, np.nan], [1.0, 2.0], {}),
        ([1.0, 2.0], [1.0, np.inf], {}),
        ([1.0, 2.0], [1.0, 2.0], {"span": 0.0}),
        ([1.0, 2.0], [1.0, 2.0], {"iterations": -1}),
        ([1.0, 2.0], [1.0, 2.0], {"delta": -1.0}),
    ],
)
def test_what_cannot_be_smoothed_is_refused(x, y, options):
    with pytest.raises(ValueError, match="lowess"):
        lowess(np.array(x), np.array(y), **options)
