"""Least squares of every feature on one design, and contrasts of the coefficients."""

import ast
import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from condrand.kernels.linear import RANK_TOLERANCE, common, row_means, weighted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A linear model of every feature: G features, n samples, p coefficients or contrasts.

    Attributes
    ----------
    coefficients : float64[:, ::1], shape (G, p)
        NaN where not estimable.
    stdev_unscaled : float64[:, ::1], shape (G, p)
        Standard errors over sigma: ``sqrt(diag((X'WX)**-1))``; NaN where not estimable.
    sigma : float64, shape (G,)
        Residual standard deviation; NaN without residual degrees of freedom.
    df_residual : float64, shape (G,)
    amean : float64, shape (G,)
        Mean of what was observed of a feature, whatever the weights.
    cov_coefficients : float64, shape (p, p)
        ``(X'X)**-1`` of the unweighted design, or ``(X'WX)**-1`` where one vector of sample
        weights serves every feature and no value is missing; NaN in row and column of a
        coefficient not estimable.
    features, names : list of str
        Of the rows, and of the coefficients or contrasts.
    rank : int
        Of the design.
    contrasts : float64, shape (p0, p), optional
        After :func:`contrasts_fit`: how the p contrasts are made of the p0 coefficients.
    df_prior, s2_prior : float64, shape (G,) or one number, optional
        Prior of the residual variance; this and what follows is filled by moderation.
    s2_post, df_total : float64, shape (G,), optional
    t, log_p, p_value, lods : float64, shape (G, p), optional
        Moderated t, natural logarithm of its two-sided p value, the p value, and log odds.
    F, F_df2, F_log_p, F_p_value : float64, shape (G,), optional
    F_df1 : int, optional
    var_prior : float64, shape (p,), optional
    treat_lfc : float, optional
    design : float64[:, ::1], shape (n, p0), optional
    weights : float64, shape (n,), (G, 1) or (G, n), optional
        As they were used: 0 where a value is missing. None if there were none. Design and
        weights serve the exact standard errors of contrasts.
    """

    coefficients: np.ndarray
    stdev_unscaled: np.ndarray
    sigma: np.ndarray
    df_residual: np.ndarray
    amean: np.ndarray
    cov_coefficients: np.ndarray
    features: list[str]
    names: list[str]
    rank: int
    contrasts: np.ndarray | None = None
    df_prior: np.ndarray | float | None = None
    s2_prior: np.ndarray | float | None = None
    s2_post: np.ndarray | None = None
    t: np.ndarray | None = None
    df_total: np.ndarray | None = None
    log_p: np.ndarray | None = None
    p_value: np.ndarray | None = None
    lods: np.ndarray | None = None
    F: np.ndarray | None = None
    F_df1: int | None = None
    F_df2: np.ndarray | None = None
    F_log_p: np.ndarray | None = None
    F_p_value: np.ndarray | None = None
    var_prior: np.ndarray | None = None
    treat_lfc: float | None = None
    design: np.ndarray | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True)
class Basis:
    """The columns of a design that count, as ``X[:, kept] = QR``.

    Attributes
    ----------
    kept : list of int
        Columns that are no combination of those before them.
    q : float64[:, ::1], shape (n_samples, rank)
    r : float64[:, ::1], shape (rank, rank)
        Upper triangular.
    """

    kept: list[int]
    q: np.ndarray
    r: np.ndarray

    @classmethod
    def of(cls, design: np.ndarray) -> "Basis":
        """Of a design, float64 of shape (n_samples, n_coefficients)."""
        n, p = design.shape
        q, r, kept = np.empty((n, min(n, p))), np.zeros((min(n, p), min(n, p))), []
        for j in range(p):
            column, whole, rank = design[:, j].copy(), np.linalg.norm(design[:, j]), len(kept)
            products = np.zeros(rank)
            for _ in range(2):  # twice, or rounding leaves the basis skew
                step = q[:, :rank].T @ column
                column -= q[:, :rank] @ step
                products += step
            length = np.linalg.norm(column)
            if rank < n and length > 0.0 and length >= RANK_TOLERANCE * whole:
                q[:, rank] = column / length
                r[:rank, rank], r[rank, rank] = products, length
                kept.append(j)
        rank = len(kept)
        return cls(kept, np.ascontiguousarray(q[:, :rank]), np.ascontiguousarray(r[:rank, :rank]))

    def covariance(self) -> np.ndarray:
        """``(X'X)**-1`` of the columns that count: float64, shape (rank, rank)."""
        inverse = np.linalg.inv(self.r)
        return inverse @ inverse.T


def non_estimable(design: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of coefficients that the design cannot estimate: earlier columns win.

    Parameters
    ----------
    design : float64, shape (n_samples, n_coefficients)
    names : sequence of str
    """
    design, names = checked_design(design, names)
    kept = Basis.of(design).kept
    return [name for j, name in enumerate(names) if j not in kept]


def lm_fit(
    E: np.ndarray,
    design: np.ndarray,
    features: Sequence[str],
    names: Sequence[str],
    weights: np.ndarray | None = None,
    *,
    threads: int = 1,
) -> Fit:
    """Least squares of every feature on one design.

    Parameters
    ----------
    E : float64, shape (G, n)
        Values, such as log2 expression; NaN where missing.
    design : float64, shape (n, p)
    features, names : sequence of str
        Of the rows of E, and of the columns of the design.
    weights : float64, optional
        Of samples, shape (n,) or (1, n); of features, shape (G,) or (G, 1); or of both, shape
        (G, n). A weight that is not finite or not positive means a missing value.
    threads : int
        The numbers do not depend on it.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        If shapes do not fit together, or a value of E or of the design is infinite.

    Notes
    -----
    Definition: ``B_g = (X'WX)**-1 X'Wy``, ``sigma_g**2 = sum w r**2 / df_g``, ``df_g`` the
    samples observed less the rank of their design. A coefficient that is a combination of
    earlier ones, in the design or in the samples that a feature has, is NaN.
    Bits: those of a feature depend on its own row alone, not on the features beside it.
    Source: Smyth 2004, section 2; Law 2014 for the weights.
    """
    E = checked_matrix(E)
    design, names = checked_design(design, names)
    if design.shape[0] != E.shape[1]:
        raise ValueError(f"the design has {design.shape[0]} rows, E has {E.shape[1]} samples")
    features = [str(name) for name in features]
    if len(features) != E.shape[0]:
        raise ValueError(f"{len(features)} names of features for {E.shape[0]} rows of E")
    fit = fit_rows(E, design, features, names, weights, threads=threads)
    lost = [name for j, name in enumerate(names) if not np.isfinite(fit.cov_coefficients[j, j])]
    if lost:
        log.warning("coefficients not estimable: %s", ", ".join(lost))
    estimable = [j for j, name in enumerate(names) if name not in lost]
    absent = np.isnan(fit.coefficients[:, estimable])
    partly = int(np.count_nonzero(absent.any(axis=1) & ~absent.all(axis=1)))
    if partly:
        log.warning("missing values leave some coefficients of %d features undetermined", partly)
    return fit


def fit_rows(
    E: np.ndarray,
    design: np.ndarray,
    features: list[str],
    names: list[str],
    weights: np.ndarray | None,
    *,
    threads: int = 1,
) -> Fit:
    """:func:`lm_fit` of arguments that are known to be right, without its warnings."""
    n_features, n = E.shape
    p = design.shape[1]
    amean, n_present = np.empty(n_features), np.empty(n_features, np.int64)
    in_rows(lambda at: row_means(E[at], amean[at], n_present[at]), n_features, threads)
    if not np.isfinite(amean).all() and np.isinf(E).any():
        raise ValueError("E holds infinite values; missing ones are NaN")
    complete = bool((n_present == n).all())
    weights = checked_weights(weights, n_features, n)
    if weights is not None and weights.shape != (n_features, n):
        if not complete or not (np.isfinite(weights) & (weights > 0)).all():
            weights = np.array(np.broadcast_to(weights, E.shape))
    elif weights is None and not complete:
        weights = np.ones(E.shape)
    per_row = weights is not None and weights.shape == E.shape
    if per_row and not complete:
        weights = np.where(np.isnan(E), 0.0, weights)
    shared = weights is not None and weights.ndim == 1

    root = np.sqrt(weights) if shared else np.ones(n)
    basis = Basis.of(design * root[:, None])
    rank = len(basis.kept)
    found, squares = np.empty((n_features, rank)), np.empty(n_features)
    if per_row:
        df, stdev = np.empty(n_features), np.empty((n_features, rank))
        none, nothing = np.empty((0, rank)), np.empty((n_features, 0))

        def run(at: slice) -> None:
            rows = (E[at], weights[at], basis.q, basis.r, none)
            weighted(*rows, found[at], stdev[at], nothing[at], squares[at], df[at])
    else:
        df = np.full(n_features, float(n - rank))
        stdev = np.tile(np.sqrt(np.diag(basis.covariance())), (n_features, 1))

        def run(at: slice) -> None:
            common(E[at], root, basis.q, basis.r, found[at], squares[at])

    in_rows(run, n_features, threads)
    if weights is not None and weights.shape == (n_features, 1):
        squares *= weights[:, 0]
        stdev /= np.sqrt(weights)
    coefficients, stdev_unscaled = np.full((2, n_features, p), np.nan)
    coefficients[:, basis.kept], stdev_unscaled[:, basis.kept] = found, stdev
    covariance = np.full((p, p), np.nan)
    covariance[np.ix_(basis.kept, basis.kept)] = basis.covariance()
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.where(df > 0, np.sqrt(squares / df), np.nan)
    return Fit(
        coefficients=coefficients,
        stdev_unscaled=stdev_unscaled,
        sigma=sigma,
        df_residual=df,
        amean=amean,
        cov_coefficients=covariance,
        features=features,
        names=names,
        rank=rank,
        design=design,
        weights=weights,
    )


def contrasts_fit(
    fit: Fit,
    contrasts: np.ndarray,
    names: Sequence[str],
    exact: bool = False,
    *,
    threads: int = 1,
) -> Fit:
    """Combinations of the coefficients of a fit, in their place.

    Parameters
    ----------
    fit : Fit
        Not yet moderated.
    contrasts : float64, shape (p, q)
        One column per contrast, see :func:`make_contrasts`; a vector is one contrast.
    names : sequence of str
        Of the contrasts.
    exact : bool
        Standard errors from the weights of each feature. The default takes the correlation of
        the coefficients from the design alone, as limma does.
    threads : int
        The numbers do not depend on it.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        If shapes do not fit, a contrast is not finite or uses a coefficient that the design
        cannot estimate, the fit is moderated, or `exact` is asked of a fit without its design.

    Notes
    -----
    Definition: ``B C``, and ``su_k**2 = sum_ij (su_i C_ik) R_ij (su_j C_jk)`` with R the
    correlation of the coefficients. Exact where features have no weights of their own, or where
    R is the identity; else the standard error may be off by a factor (0.8 to 1.7 seen).
    NaN: a feature that lacks a coefficient lacks the contrasts that use it, and no others.
    Source: Smyth 2004, section 2.
    """
    contrasts = np.asarray(contrasts, np.float64)
    if contrasts.ndim == 1:
        contrasts = contrasts[:, None]
    names = [str(name) for name in names]
    if contrasts.ndim != 2 or contrasts.shape != (len(fit.names), len(names)):
        raise ValueError(
            f"contrasts of shape {contrasts.shape} for {len(fit.names)} coefficients "
            f"and {len(names)} names of contrasts"
        )
    if not np.isfinite(contrasts).all():
        raise ValueError("a contrast has a weight that is not finite")
    if fit.s2_post is not None or fit.t is not None:
        raise ValueError("contrasts come before moderation: this fit is already moderated")
    covariance = fit.cov_coefficients
    for j in np.flatnonzero(np.isnan(np.diag(covariance))):
        if contrasts[j].any():
            using = names[int(np.flatnonzero(contrasts[j])[0])]
            raise ValueError(f"contrast {using}: the design cannot estimate {fit.names[j]}")
    covariance = np.where(np.isnan(covariance), 0.0, covariance)
    scale = np.sqrt(np.diag(covariance))
    scale[scale == 0.0] = 1.0
    correlation = covariance / np.outer(scale, scale)

    # Term by term over whole columns: a feature's bits must not depend on those beside it.
    coefficients, square = np.zeros((2, len(fit.features), len(names)))
    for k in range(len(names)):
        used = np.flatnonzero(contrasts[:, k])
        for i in used:
            coefficients[:, k] += fit.coefficients[:, i] * contrasts[i, k]
            part = fit.stdev_unscaled[:, i] * contrasts[i, k]
            square[:, k] += part * part
            for j in used[used < i]:
                other = fit.stdev_unscaled[:, j] * contrasts[j, k]
                square[:, k] += 2.0 * correlation[i, j] * (part * other)
    # Rounding may bring the variance of a contrast of nearly equal coefficients below 0.
    stdev = np.sqrt(np.where(square < 0.0, 0.0, square))
    overall = contrasts if fit.contrasts is None else fit.contrasts @ contrasts
    if exact and (fit.weights is None or fit.weights.shape == (len(fit.features), 1)):
        exact = False  # the formula above is exact already
    if exact and fit.weights.ndim == 2:
        stdev = _exact_stdev(fit, overall, threads)
    return replace(
        fit,
        coefficients=coefficients,
        stdev_unscaled=stdev,
        cov_coefficients=contrasts.T @ covariance @ contrasts,
        names=names,
        contrasts=overall,
    )


def _exact_stdev(fit: Fit, contrasts: np.ndarray, threads: int) -> np.ndarray:
    """``sqrt(c'(X'W_gX)**-1 c)`` of every feature and contrast of the coefficients."""
    if fit.design is None:
        raise ValueError("exact standard errors need the design, which this fit does not carry")
    basis = Basis.of(fit.design)
    rank, n_features = len(basis.kept), len(fit.features)
    wanted = np.ascontiguousarray(contrasts[basis.kept].T)
    coefficients, stdev = np.empty((2, n_features, rank))
    out = np.empty((n_features, len(wanted)))
    squares, df = np.empty((2, n_features))
    values = np.zeros(fit.weights.shape)  # only their weights matter

    def run(at: slice) -> None:
        rows = (values[at], fit.weights[at], basis.q, basis.r, wanted)
        weighted(*rows, coefficients[at], stdev[at], out[at], squares[at], df[at])

    in_rows(run, n_features, threads)
    return out


def checked_matrix(E: np.ndarray) -> np.ndarray:
    """E as float64[:, ::1]; ValueError if it is not features by samples."""
    E = np.ascontiguousarray(E, np.float64)
    if E.ndim != 2 or not E.size:
        raise ValueError(f"E must be features by samples, at least one of each, not {E.shape}")
    return E


def checked_design(design: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Design as float64[:, ::1] and its names; ValueError where they cannot be used."""
    design = np.ascontiguousarray(design, np.float64)
    if design.ndim != 2 or not design.size:
        raise ValueError(f"the design must be samples by coefficients, not {design.shape}")
    names = [str(name) for name in names]
    if len(names) != design.shape[1]:
        raise ValueError(f"{len(names)} names for {design.shape[1]} columns of the design")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"columns of the design share a name: {', '.join(twice)}")
    for j, name in enumerate(names):
        if not np.isfinite(design[:, j]).all():
            raise ValueError(f"column {name} of the design has a missing or infinite value")
    return design, names


def checked_weights(weights: np.ndarray | None, n_features: int, n: int) -> np.ndarray | None:
    """Weights as (n,), (n_features, 1) or (n_features, n), or None."""
    if weights is None:
        return None
    weights = np.ascontiguousarray(weights, np.float64)
    if weights.shape == (n,) and n == n_features:
        raise ValueError(
            f"{n} weights for as many features as samples: give them the shape (1, {n}) "
            f"for samples or ({n}, 1) for features"
        )
    if weights.shape == (n_features, n):
        return weights
    if weights.shape in {(n,), (1, n)}:
        return weights.reshape(n)
    if weights.shape in {(n_features,), (n_features, 1)}:
        return weights.reshape(n_features, 1)
    raise ValueError(
        f"weights of shape {weights.shape}: expected ({n},) for samples, ({n_features},) for "
        f"features, or ({n_features}, {n})"
    )


def in_rows(run: Callable[[slice], None], n_rows: int, threads: int) -> None:
    """Call a function on consecutive ranges of rows, one per thread."""
    pieces = max(1, min(threads, n_rows))
    cuts = [n_rows * piece // pieces for piece in range(pieces + 1)]
    ranges = [slice(first, end) for first, end in zip(cuts[:-1], cuts[1:], strict=True)]
    if pieces == 1:
        run(ranges[0])
        return
    with ThreadPoolExecutor(pieces) as pool:
        list(pool.map(run, ranges))


# A number, a name with dots and colons in it, a name in backquotes, or a sign.
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.:])"
    r"|(?P<name>[^\W\d][\w.:]*|\.[^\W\d][\w.:]*)|`(?P<quoted>[^`]+)`|(?P<sign>[-+*/()]))"
)


def make_contrasts(
    expressions: Mapping[str, str] | Sequence[str], names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Contrast matrix from expressions in the names of coefficients.

    Parameters
    ----------
    expressions : mapping of str to str, or sequence of str
        Such as ``luminal - basal`` or ``(a + b)/2 - c``, by name of the contrast; in a sequence
        each is its own name. A name may hold dots and colons; any other goes in backquotes, as
        in ``3``. An expression that is the name of a coefficient needs none.
    names : sequence of str
        Of the coefficients.

    Returns
    -------
    contrasts : float64, shape (n_coefficients, n_contrasts)
    names : list of str
        Of the contrasts.

    Raises
    ------
    ValueError
        If an expression cannot be read, names an unknown coefficient, or is not linear.
    """
    names = [str(name) for name in names]
    if isinstance(expressions, str):
        expressions = [expressions]
    if not isinstance(expressions, Mapping):
        if len(set(expressions)) < len(expressions):
            raise ValueError("a contrast is given twice")
        expressions = {text: text for text in expressions}
    if not expressions:
        raise ValueError("no contrast is given")
    columns = [_read(text, names, str(label)) for label, text in expressions.items()]
    return np.column_stack(columns) + 0.0, [str(label) for label in expressions]


def _read(text: str, names: list[str], label: str) -> np.ndarray:
    """Weights of the coefficients in one expression: float64, shape (n_coefficients,)."""
    where = f"contrast {label!r}" if label == text else f"contrast {label!r}, {text!r}"
    if text.strip() in names:
        return (np.array(names) == text.strip()).astype(np.float64)
    # Every name becomes an identifier of its own, so that Python's grammar can read the rest.
    source, at, end = [], 0, len(text.rstrip())
    while at < end:
        token = _TOKEN.match(text, at)
        if not token:
            raise ValueError(f"{where}: cannot read {text[at:].strip()!r}")
        name = token["name"] or token["quoted"]
        if name is None:
            source.append(token["number"] or token["sign"])
        else:
            source.append(f"c{_place(name, names, where)}")
        at = token.end()
    try:
        tree = ast.parse(" ".join(source), mode="eval")
    except SyntaxError:
        raise ValueError(f"{where} is not an expression in + - * / ( )") from None
    weights, constant = _linear(tree.body, len(names), where)
    if constant:
        raise ValueError(f"{where} adds the number {constant:g} to coefficients")
    if not weights.any():
        raise ValueError(f"{where} is zero whatever the coefficients")
    return weights


def _place(name: str, names: list[str], where: str) -> int:
    """Place of a coefficient; ValueError naming the nearest if there is none."""
    for candidate in (name, f"({name})"):  # R calls the intercept "(Intercept)"
        if candidate in names:
            return names.index(candidate)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"{where}: there is no coefficient {name!r}{hint} The coefficients: {', '.join(names)}"
    )


def _linear(node: ast.expr, n: int, where: str) -> tuple[np.ndarray, float]:
    """Weights of the n coefficients, and the number added to them."""
    if isinstance(node, ast.Constant):
        return np.zeros(n), float(node.value)
    if isinstance(node, ast.Name):
        return np.eye(n)[int(node.id[1:])], 0.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        weights, constant = _linear(node.operand, n, where)
        return (weights, constant) if isinstance(node.op, ast.UAdd) else (-weights, -constant)
    if isinstance(node, ast.BinOp):
        (left, a), (right, b) = (_linear(side, n, where) for side in (node.left, node.right))
        if isinstance(node.op, ast.Add):
            return left + right, a + b
        if isinstance(node.op, ast.Sub):
            return left - right, a - b
        if isinstance(node.op, ast.Mult) and not (left.any() and right.any()):
            return left * b + right * a, a * b
        if isinstance(node.op, ast.Div) and not right.any():
            if not b:
                raise ValueError(f"{where} divides by zero")
            return left / b, a / b
    raise ValueError(f"{where} is not linear in the coefficients")
