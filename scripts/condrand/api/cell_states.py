"""What the notebook classes of kompot's names share: cells as given, and their samples."""

import numpy as np

from condrand.errors import Problems

NOT_FITTED = "Model not fitted. Call fit() first."
NO_SAMPLES = (
    "use_sample_variance=True needs condition1_sample_indices or condition2_sample_indices in "
    "fit(), or a variance_predictor."
)


def check_numbers(n_landmarks: int | None, batch_size: int | None, problems: Problems) -> None:
    """Note numbers of landmarks, or of cells predicted at a time, that cannot be."""
    if n_landmarks is not None and (n_landmarks < 0 or n_landmarks == 1):
        problems.add("n_landmarks", f"is {n_landmarks}", "it is 2 or more, or None for none.")
    if batch_size is not None and batch_size < 0:
        problems.add("batch_size", f"is {batch_size}", "it is 1 or more, or None.")


def cells_of(
    values: object,
    key: str,
    problems: Problems,
    features: int | None = None,
    others: str = "the other cells",
) -> np.ndarray | None:
    """Cells by features, float64; None where they are something else.

    Parameters
    ----------
    values : array-like
    key : str
        Name of the argument.
    problems : Problems
    features : int, optional
        How many there must be, as there are of `others`.
    others : str
        What has so many.
    """
    cells = np.ascontiguousarray(values, np.float64)
    if cells.ndim != 2 or 0 in cells.shape:
        problems.add(key, f"has shape {cells.shape}", "give cells by features, with some of each.")
        return None
    if features is not None and cells.shape[1] != features:
        what = f"has {cells.shape[1]} features, {others} {features}"
        problems.add(key, what, "give all in the same space.")
    bad = np.flatnonzero(~np.isfinite(cells).all(axis=1))
    if bad.size:
        what = f"{bad.size} cells have a missing or infinite value, first in row {bad[0]}"
        problems.add(key, what, "leave these cells out.")
    return cells


def _is_missing(labels: np.ndarray) -> np.ndarray:
    """Which labels are no label: None, NaN, NaT."""
    if labels.dtype.kind in "iubSU":
        return np.zeros(labels.shape, bool)
    import pandas as pd

    return pd.isna(labels)


def samples_of(
    values: object, key: str, cells: np.ndarray | None, problems: Problems
) -> np.ndarray | None:
    """Sample of each cell; None where none are given, or they or the cells are useless."""
    if values is None or cells is None:
        return None
    labels = np.asarray(values)
    if labels.shape != (len(cells),):
        what = f"has shape {labels.shape} for {len(cells)} cells"
        problems.add(key, what, "give one sample per cell.")
        return None
    missing = _is_missing(labels)
    if missing.any():
        what = f"{int(missing.sum())} cells have no sample"
        problems.add(key, what, "name their sample, or leave these cells out.")
        return None
    return labels
