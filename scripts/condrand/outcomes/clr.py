"""Centred log-ratios of program usage."""

import logging

import numpy as np

log = logging.getLogger(__name__)

EFFECT_SCALE = "CLR (natural log)"
USAGE_SCALE = "share of usage"
_PIECE = 65_536


def usage_floor(usage: np.ndarray, quantile: float, epsilon: float | None) -> float:
    """The smallest usage that is believed: entries below are raised to it.

    Parameters
    ----------
    usage : float64, shape (n_cells, n_programs)
        Non-negative.
    quantile : float
        Of all entries, 0 to 1, linear interpolation.
    epsilon : float or None
        Used instead of the quantile when given.

    Returns
    -------
    float
        Positive. Where the quantile is zero (more than that share of exact zeros, usual for
        matrix factorizations) it is the smallest positive entry, and the log says so: a floor of
        zero would make the logarithm infinite.
    """
    if epsilon is not None:
        return float(epsilon)
    floor = float(np.quantile(usage, quantile))
    if floor <= 0.0:
        floor = float(usage[usage > 0].min())
        log.warning(
            "the %g quantile of usage is 0 (%.2f %% of the entries are): "
            "flooring at the smallest positive usage, %.3g",
            quantile,
            100 * np.mean(usage == 0),
            floor,
        )
    return floor


def floored(usage: np.ndarray, floor: float) -> np.ndarray:
    """Usage raised to at least `floor`, rows divided by their sums, in place.

    Parameters
    ----------
    usage : float64, shape (n_cells, n_programs)
        Overwritten and returned.
    floor : float
        Positive.
    """
    np.maximum(usage, floor, out=usage)
    usage /= usage.sum(axis=1, keepdims=True)
    return usage


def clr(usage: np.ndarray, floor: float) -> np.ndarray:
    """Centred log-ratio ``log u - mean(log u)`` of floored, renormalized rows, in place.

    Parameters
    ----------
    usage : float64, shape (n_cells, n_programs)
        Overwritten and returned.
    floor : float
        Positive.

    Returns
    -------
    float64, shape (n_cells, n_programs)
        Rows sum to zero. Natural logarithm.

    Notes
    -----
    Source: Aitchison 1982, "The statistical analysis of compositional data", section 4.2.
    Renormalizing cancels in the ratio; it is kept out of the arithmetic.
    """
    for start in range(0, usage.shape[0], _PIECE):
        piece = usage[start : start + _PIECE]
        np.maximum(piece, floor, out=piece)
        np.log(piece, out=piece)
        piece -= piece.mean(axis=1, keepdims=True)
    return usage
