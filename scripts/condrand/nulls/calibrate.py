"""From the summary of a null distribution to p values and where each comes from."""

import numpy as np

from condrand.nulls import skew_normal
from condrand.nulls.p_values import PValues
from condrand.nulls.summary import NullSummary


def calibrate(
    summary: NullSummary,
    observed: np.ndarray,
    centre: np.ndarray,
    scale: np.ndarray,
    tail: str,
    calibration: str,
    refined: PValues | None = None,
) -> dict[str, np.ndarray]:
    """P values, their sources and the shape of the null, by feature.

    Parameters
    ----------
    summary : NullSummary
        Of all resamples.
    observed, centre, scale : float64, shape (n_features,)
        Observed statistic, and the units of the summary.
    tail : {"two_sided", "two_sided_centred", "left", "right"}
    calibration : str
        ``skew_normal`` is used for a feature where its diagnostics pass, ``empirical`` elsewhere.
    refined : PValues, optional
        What is reported where p values were refined; the empirical ones by default.

    Returns
    -------
    dict of numpy.ndarray, shape (n_features,)
        ``statistic`` (observed, in standard deviations of the resampled null from its mean), the
        columns of :class:`condrand.nulls.p_values.PValues`, ``p_empirical``, ``p_skew_normal``
        (NaN unless asked for), moments of the null, parameters of the fit, ``calibration``
        (``passed``, or why the fit was not used) and ``note``. A feature that does not vary is
        NaN with a note.
    """
    n = int(summary.n[0])
    varies = scale > 0
    mean, sd, skewness = summary.moments() if n else (np.full(observed.size, np.nan),) * 3
    null_mean, null_sd = centre + scale * mean, scale * sd
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (observed - null_mean) / null_sd
    found = PValues.of_resamples(summary.exceed, n, tail, varies)
    p_empirical = found.p_value.copy()
    found = refined or found
    fitted = np.full((4, observed.size), np.nan)
    verdict = np.full(observed.size, "", object)
    if calibration == "skew_normal" and n:
        z_fit = skew_normal.fit_moments(mean, sd, np.nan_to_num(skewness))
        why = skew_normal.diagnose(summary, z_fit)
        fit = skew_normal.SkewNormal(
            centre + scale * z_fit.location, scale * z_fit.scale, z_fit.shape
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            log_fitted = skew_normal.log_p_values(observed, fit, tail, centre)
        fitted[:] = np.exp(log_fitted), fit.location, fit.scale, fit.shape
        # A fit that gives no finite probability cannot speak, whatever its diagnostics.
        why[(why == "") & ~np.isfinite(log_fitted)] = "degenerate"
        passed = varies & (why == "")
        verdict = np.where(varies, np.where(passed, "passed", why), "").astype(object)
        fitted[:, ~varies] = np.nan
        found.set_log(passed, log_fitted[passed], "skew_normal", np.nan, n)
    return {
        "statistic": np.where(varies, statistic, np.nan),
        **found.columns(),
        "p_empirical": p_empirical,
        "p_skew_normal": fitted[0],
        "null_mean": np.where(varies, null_mean, np.nan),
        "null_sd": np.where(varies, null_sd, np.nan),
        "null_skewness": np.where(varies, skewness, np.nan),
        "sn_location": fitted[1],
        "sn_scale": fitted[2],
        "sn_shape": fitted[3],
        "calibration": verdict,
        "note": np.where(varies, "", "the feature does not vary beyond the covariates").astype(
            object
        ),
    }
