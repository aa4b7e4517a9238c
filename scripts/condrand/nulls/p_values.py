"""P values of tests and where each comes from, before and after they are refined."""

from dataclasses import dataclass, fields

import numpy as np

from condrand.nulls import empirical


@dataclass
class PValues:
    """What tests report; arrays of one shape.

    Attributes
    ----------
    p_value, neg_log10_p : float64
        NaN where nothing is tested. The logarithm stays right where the p value underflows to 0.
    p_source : object
        ``empirical``, ``skew_normal``, ``saddlepoint``, ``importance``, or empty.
    p_relative_error : float64
        Standard error over p of an empirical or importance p value; the error estimate of a
        saddlepoint's; NaN where there is none.
    n_resamples : float64
        Draws behind the p value.
    p_saddlepoint : float64
        NaN where it was not computed.
    """

    p_value: np.ndarray
    neg_log10_p: np.ndarray
    p_source: np.ndarray
    p_relative_error: np.ndarray
    n_resamples: np.ndarray
    p_saddlepoint: np.ndarray

    @classmethod
    def none(cls, shape: int | tuple[int, ...]) -> "PValues":
        """Of no test."""
        numbers = {field.name: np.full(shape, np.nan) for field in fields(cls)}
        return cls(**{**numbers, "p_source": np.full(shape, "", object)})

    @classmethod
    def of_resamples(
        cls, exceed: np.ndarray, n_resamples: int, tail: str, varies: np.ndarray
    ) -> "PValues":
        """Empirical ones; see :func:`condrand.nulls.empirical.p_values`.

        Parameters
        ----------
        exceed : int64, shape (4, n_features)
        n_resamples : int
        tail : str
        varies : bool, shape (n_features,)
            Which features are tested.
        """
        found = cls.none(varies.shape)
        p = empirical.p_values(exceed, n_resamples, tail)[varies]
        found.set_empirical(varies, p, n_resamples)
        return found

    def set_empirical(
        self, at: np.ndarray | tuple[np.ndarray, ...], p: np.ndarray, n_resamples: int
    ) -> None:
        """Let some tests report empirical p values.

        Parameters
        ----------
        at
            Which tests, as arrays are indexed.
        p : float64, shape (n_tests,)
        n_resamples : int
            B behind each.
        """
        self.p_value[at] = p
        self.neg_log10_p[at] = -np.log10(p)
        self.p_source[at] = "empirical"
        with np.errstate(divide="ignore"):
            self.p_relative_error[at] = np.sqrt((1.0 - p) / (p * n_resamples))
        self.n_resamples[at] = n_resamples

    def set_log(
        self,
        at: np.ndarray | tuple[np.ndarray, ...],
        log_p: np.ndarray,
        source: str | np.ndarray,
        relative_error: np.ndarray | float,
        n_resamples: np.ndarray | int,
    ) -> None:
        """Let some tests report p values of another source, by their natural logarithms."""
        self.p_value[at] = np.exp(log_p)
        self.neg_log10_p[at] = -log_p / np.log(10)
        self.p_source[at] = source
        self.p_relative_error[at] = relative_error
        self.n_resamples[at] = n_resamples

    def of(self, units: np.ndarray) -> "PValues":
        """Of some units (bool), their features one after the other."""
        return PValues(*(getattr(self, field.name)[units].ravel() for field in fields(self)))

    def columns(self) -> dict[str, np.ndarray]:
        """Arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
