"""Quality weights of samples, estimated from how well each follows the others."""

from dataclasses import replace

import numpy as np

from condrand.kernels.linear import NO_VARIANCE, quality_by_gene
from condrand.linear.fit import Basis, checked_design, checked_matrix, checked_weights
from condrand.linear.voom import Voom, voom

METHODS = ("auto", "gene_by_gene", "reml")


def array_weights(
    E: np.ndarray,
    design: np.ndarray,
    weights: np.ndarray | None = None,
    method: str = "auto",
    prior_n: float = 10.0,
    max_iterations: int = 50,
    tolerance: float = 1e-5,
) -> np.ndarray:
    """Relative quality of samples: the inverse of a variance factor that all features share.

    Parameters
    ----------
    E : float64, shape (G, n)
        Log expression; NaN where missing.
    design : float64, shape (n, p)
    weights : float64, optional
        As in :func:`.lm_fit`; they are kept beside those estimated.
    method : {"auto", "gene_by_gene", "reml"}
        ``reml`` fits all features at once and takes neither weights nor missing values;
        ``gene_by_gene`` makes one step a feature, so that their order has a slight effect.
        ``auto`` is ``reml`` where it can be.
    prior_n : float
        Features' worth of information that all samples are alike.
    max_iterations, tolerance
        Of ``reml``: it stops once a step promises to raise the log likelihood by less than
        `tolerance` per value. The default is limma's; it can leave weights 1% from where they
        converge, so set a smaller one for the converged weights.

    Returns
    -------
    float64, shape (n,)
        Geometric mean 1.

    Raises
    ------
    ValueError
        If the method is unknown or cannot be used, or there are too few samples.

    Notes
    -----
    Definition: ``var(y_gi) = sigma_g**2 / (a_i w_gi)``, ``log a`` summing to 0.
    Source: Ritchie 2006; the information of ``reml`` is
    that of Smyth 2002 (Journal of Computational and Graphical Statistics 11:836), and its prior,
    ``prior_n (a - 1)`` in the score as of features with equal variances, is an own derivation.
    Both are held to limma in ``tests/oracle/test_voom.py``.
    """
    E = checked_matrix(E)
    n_features, n = E.shape
    design = np.asarray(design, np.float64)
    design, _ = checked_design(design, [str(j) for j in range(design.shape[-1])])
    if design.shape[0] != n:
        raise ValueError(f"the design has {design.shape[0]} rows, E has {n} samples")
    if method not in METHODS:
        raise ValueError(f"method {method!r}: {', '.join(METHODS)}")
    if not prior_n > 0.0:
        raise ValueError(f"prior_n is {prior_n}; it must be positive")
    if n < 3 or n <= len(Basis.of(design).kept):
        raise ValueError(f"{n} samples are too few for quality weights with this design")
    weights = checked_weights(weights, n_features, n)
    simple = weights is None and bool(np.isfinite(E).all())
    if method == "auto":
        method = "reml" if simple else "gene_by_gene"
    if method == "reml":
        if not simple:
            raise ValueError("reml takes neither weights nor missing values: gene_by_gene does")
        return np.exp(-_reml(E, design, prior_n, max_iterations, tolerance))
    each = np.ones(E.shape) if weights is None else np.broadcast_to(weights, E.shape)
    log_variance = np.empty(n)
    columns = np.ascontiguousarray(design.T)
    quality_by_gene(E, np.ascontiguousarray(each), columns, float(prior_n), log_variance)
    return np.exp(-log_variance)


def _reml(
    E: np.ndarray, design: np.ndarray, prior_n: float, max_iterations: int, tolerance: float
) -> np.ndarray:
    """Log variances of the samples, float64 of shape (n,), by Fisher scoring."""
    n = E.shape[1]
    # Log variances sum to 0: the last is minus the sum of the others.
    contrast = np.vstack([np.eye(n - 1), -np.ones(n - 1)])
    log_variance = np.zeros(n)
    for _ in range(max_iterations):
        quality = np.exp(-log_variance)
        root = np.sqrt(quality)
        q = Basis.of(design * root[:, None]).q
        residual = E * root
        residual -= (residual @ q) @ q.T
        residual *= residual
        variance = residual.mean(axis=1) * (n / (n - q.shape[1]))
        varying = variance >= NO_VARIANCE
        used = np.count_nonzero(varying)
        hat = q @ q.T
        leverage = np.diag(hat)
        score = np.sum(residual[varying] / variance[varying, None], axis=0)
        score -= used * (1.0 - leverage)
        score += prior_n * (quality - 1.0)
        per_feature = np.diag(1.0 - 2.0 * leverage) + hat**2
        total = per_feature.sum(axis=0)
        per_feature -= np.outer(total, total) / total.sum()  # each feature has its own variance
        information = contrast.T @ (used * per_feature + prior_n * np.eye(n)) @ contrast
        along = contrast.T @ score
        step = np.linalg.solve(information, along)
        log_variance += contrast @ step
        if along @ step < tolerance * max(used, 1) * n:
            break
    return log_variance


def voom_with_quality_weights(
    counts: np.ndarray,
    design: np.ndarray,
    lib_size: np.ndarray | None = None,
    span: float | None = None,
    *,
    prior_n: float = 10.0,
    threads: int = 1,
) -> Voom:
    """Log counts with weights of counts and of samples together.

    Parameters
    ----------
    counts, design, lib_size, span, threads
        As in :func:`.voom`.
    prior_n : float
        As in :func:`array_weights`.

    Returns
    -------
    Voom
        With ``sample_weights``; its ``weights`` are already multiplied by them.

    Notes
    -----
    Definition: voom, sample weights by ``gene_by_gene``, voom with them in the fit of its trend,
    sample weights once more.
    Source: Liu 2015.
    """
    made = voom(counts, design, lib_size, span, threads=threads)
    for first in (True, False):
        found = array_weights(made.E, design, made.weights, "gene_by_gene", prior_n)
        if first:
            per_sample = found[None, :]  # two-dimensional: there may be as many features
            made = voom(counts, design, lib_size, span, per_sample, threads=threads)
    return replace(made, weights=made.weights * found, sample_weights=found)
