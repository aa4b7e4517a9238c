"""Sums for Newton's method on the logistic likelihoods of many targets that share covariates."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL
from condrand.kernels.elementary import exp, log1p

# Cells summed side by side; lane sums are added up at the end, in a fixed order. Wide enough to
# pay for the aliasing check before each vector loop, narrow enough that the lanes of a Hessian
# stay in the second-level cache.
LANES = 64


@njit(**KERNEL)
def _multiply_add(total, a, b):
    for lane in range(LANES):
        total[lane] += a[lane] * b[lane]


@njit(**KERNEL)
def _add(total, a):
    for lane in range(LANES):
        total[lane] += a[lane]


@njit(**KERNEL)
def _link(eta, mu, weight, loss):
    for lane in range(LANES):
        small = exp(-abs(eta[lane]))
        share = 1.0 / (1.0 + small)
        mu[lane] = share if eta[lane] >= 0.0 else small * share
        weight[lane] = small * share * share
        loss[lane] = max(eta[lane], 0.0) + log1p(small)


@njit(**KERNEL)
def newton_sums(covariates, n_cells, coefficients, loss, gradient, hessian):
    """Parts of each target's loss, gradient and Hessian that run over all cells.

    Parameters
    ----------
    covariates : float64[:, ::1], shape (n_covariates, padded)
        Standardized covariates; ``padded`` is ``n_cells`` rounded up to a multiple of LANES.
    n_cells : int
    coefficients : float64[:, ::1], shape (n_targets, n_covariates + 1)
        Intercept first.
    loss : float64[::1], shape (n_targets,)
        Overwritten with ``sum_i log(1 + exp(eta_i))``.
    gradient : float64[:, ::1], shape (n_targets, n_covariates + 1)
        Overwritten with ``sum_i mu_i x_i``, x with a leading one.
    hessian : float64[:, :, ::1], shape (n_targets, n_covariates + 1, n_covariates + 1)
        Overwritten with ``sum_i mu_i (1 - mu_i) x_i x_i'``.

    Notes
    -----
    A target's sums do not depend on which other targets are in the call; the targets of a call
    share each pass over the covariates.
    Cost: ``n_cells * n_covariates**2 / 2`` multiply-adds per target.
    """
    n_targets, width = coefficients.shape
    padded = covariates.shape[1]
    loss_lanes = np.zeros((n_targets, LANES))
    gradient_lanes = np.zeros((n_targets, width, LANES))
    hessian_lanes = np.zeros((n_targets, width * (width + 1) // 2, LANES))
    eta, mu, weight = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    each_loss, product = np.empty(LANES), np.empty(LANES)
    for start in range(0, padded, LANES):
        stop = start + LANES
        for g in range(n_targets):
            eta[:] = coefficients[g, 0]
            for j in range(1, width):
                b = coefficients[g, j]
                x = covariates[j - 1, start:stop]
                for lane in range(LANES):
                    eta[lane] += b * x[lane]
            _link(eta, mu, weight, each_loss)
            for lane in range(n_cells - start, LANES):
                mu[lane] = weight[lane] = each_loss[lane] = 0.0
            _add(loss_lanes[g], each_loss)
            _add(gradient_lanes[g, 0], mu)
            _add(hessian_lanes[g, 0], weight)
            pair = 1
            for j in range(1, width):
                x = covariates[j - 1, start:stop]
                _multiply_add(gradient_lanes[g, j], mu, x)
                for lane in range(LANES):
                    product[lane] = weight[lane] * x[lane]
                _add(hessian_lanes[g, pair], product)
                pair += 1
                for k in range(1, j + 1):
                    _multiply_add(hessian_lanes[g, pair], product, covariates[k - 1, start:stop])
                    pair += 1
    for g in range(n_targets):
        loss[g] = loss_lanes[g].sum()
        pair = 0
        for j in range(width):
            gradient[g, j] = gradient_lanes[g, j].sum()
            for k in range(j + 1):
                hessian[g, j, k] = hessian_lanes[g, pair].sum()
                hessian[g, k, j] = hessian[g, j, k]
                pair += 1


@njit(**KERNEL)
def treated_covariate_sums(covariates, cells, out):
    """Sum over treated cells of the covariates with a leading one: the observed half of a score.

    Parameters
    ----------
    covariates : float64[:, ::1], shape (n_covariates, padded)
    cells : int64[::1]
        Treated cells, sorted.
    out : float64[::1], shape (n_covariates + 1,)
        Overwritten.
    """
    out[0] = cells.size
    for j in range(covariates.shape[0]):
        total = 0.0
        for i in cells:
            total += covariates[j, i]
        out[j + 1] = total


@njit(**KERNEL)
def propensity(coefficients, covariates, clip, out):
    """Propensity ``p = 1 / (1 + exp(-(intercept + x b)))`` of every cell, clipped.

    Parameters
    ----------
    coefficients : float64[::1], shape (n_covariates + 1,)
        Intercept first.
    covariates : float64[:, ::1], shape (n_covariates, >= n_cells)
        Standardized covariates, one row each.
    clip : float
        p is clipped to ``[clip, 1 - clip]``.
    out : float64[::1], shape (n_cells,)
        Overwritten.
    """
    n_cells = out.size
    out[:] = coefficients[0]
    for j in range(covariates.shape[0]):
        b = coefficients[j + 1]
        x = covariates[j]
        for i in range(n_cells):
            out[i] += b * x[i]
    for i in range(n_cells):
        p = 1.0 / (1.0 + exp(-out[i]))
        out[i] = min(max(p, clip), 1.0 - clip)
