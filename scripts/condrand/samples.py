"""The samples of a linear model: read from the user's files, checked whole, and stored."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condrand.errors import Problems
from condrand.inputs.samples import read_count_table, read_rows, read_sums
from condrand.io.h5ad import open_anndata
from condrand.io.samples import write_samples

log = logging.getLogger(__name__)


def load_samples(
    path: str | Path,
    table: str | Path | None,
    screen_settings: Mapping[str, Any],
    settings: Mapping[str, Any],
    samples_out: str | Path,
) -> None:
    """Check a user's samples, or sum cells to samples, and write them for the analysis.

    Parameters
    ----------
    path : str or pathlib.Path
        A count table, .h5ad or Zarr, opened for reading only.
    table : str, pathlib.Path or None
        The sample table of a count table.
    screen_settings : mapping
        The screen's section: ``annotation_columns``, and for targets the keys of its guides.
    settings : mapping
        Of the analysis: ``key`` of the matrix, ``pseudobulk``, names of samples to ``exclude``,
        whether values must be ``counts``, and ``columns`` the sample table must have.
    samples_out : str or pathlib.Path
        File to write.

    Raises
    ------
    InputError
        Listing everything that is wrong. Nothing is written then.
    """
    problems = Problems(str(path))
    pseudobulk = settings["pseudobulk"]
    if table is not None:
        columns = screen_settings["annotation_columns"]
        samples = read_count_table(path, table, columns, settings, problems)
    else:
        with open_anndata(path) as file:
            if pseudobulk["by"] or pseudobulk["targets"]:
                samples = read_sums(file, path, screen_settings, settings, problems)
            else:
                samples = read_rows(file, path, settings, problems)
    problems.report()
    write_samples(samples_out, samples)
    log.info("%s", samples.words["source"])
