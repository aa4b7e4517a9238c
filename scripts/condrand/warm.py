"""Compile every kernel, by running each engine on a screen small enough to be instant."""

import logging
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt, crt_refine, dex
from condrand.gp.covariance import matern52
from condrand.io.outcome import Outcome
from condrand.io.tables import write_text
from condrand.linear.fit import contrasts_fit, lm_fit
from condrand.linear.voom import voom
from condrand.samplers import SAMPLERS
from condrand.samplers.strata import STRATIFY
from condrand.statistics import ols
from condrand.twosample.control import ControlTables
from condrand.twosample.rows import Facts, Needs
from condrand.version import kernel_sources_digest

log = logging.getLogger(__name__)


def warm(stamp: str | Path) -> None:
    """Step of rule warm_kernels: fill the kernel cache and say for which sources.

    Parameters
    ----------
    stamp : str or pathlib.Path
        File to write: the digest of the kernel sources.
    """
    began = time.monotonic()
    random = np.random.default_rng(0)
    n_cells = 200
    design = standardize(random.normal(size=(n_cells, 2)))
    basis = orthonormal_basis(design)
    dense, ones = random.normal(size=(n_cells, 3)), np.ones(n_cells, np.int64)
    cells = [np.sort(random.choice(n_cells, 40, replace=False))]
    for tested in (dense, sp.csr_matrix(np.where(dense > 0.5, dense, 0.0))):
        scores = ols.score(tested, basis)
        shared = Outcome(
            scores, design, ["a", "b", "c"], "", "", batch=ones, burden=ones.astype(float)
        )
        for sampler in SAMPLERS:
            choice = {"sampler": sampler, "stratify": STRATIFY}
            batch = crt.prepare(shared, ["target"], ["A"], cells, **choice)
            summaries = crt.resample(shared, batch, range(1), resamples=19, seed=0, **choice)
            if not SAMPLERS[sampler].needs_strata:
                stage = {"below": 1.0, "method": "importance", "resamples": 19}
                draws = crt_refine.Draws(0, "two_sided", **choice)
                crt_refine.refined_p_values(shared, batch, summaries, [stage], draws)
    for dtype in (np.float32, np.float64, np.int32):
        counts = random.poisson(1.0, (n_cells, 3)).astype(dtype)
        for rows in (counts, sp.csr_matrix(counts)):
            totals = Facts.of(rows, np.arange(n_cells)).totals + 1.0
            for library in (totals, None):
                for needs in (Needs(), Needs(ranks=False)):
                    control = ControlTables.of(rows, library, counts=library is None, needs=needs)
                    dex.sums(control, rows, np.array([0, n_cells]), np.array([True]), library)
    _warm_linear(random)
    matern52(dense, dense, 1.0)
    log.info("kernels ready after %.1f s", time.monotonic() - began)
    write_text(kernel_sources_digest() + "\n", stamp)


def _warm_linear(random: np.random.Generator) -> None:
    """Fits with and without weights, of complete and of missing values."""
    counts = random.poisson(50.0, (60, 8)).astype(np.float64)
    matrix = np.repeat(np.eye(2), 4, axis=0)
    names, features = ["a", "b"], [str(g) for g in range(60)]
    made = voom(counts, matrix)
    missing = made.E.copy()
    missing[0, 0] = np.nan
    for values, weights in ((made.E, made.weights), (made.E, None), (missing, None)):
        fit = lm_fit(values, matrix, features, names, weights)
        contrast = np.array([[1.0], [-1.0]])
        contrasts_fit(fit, contrast, ["a - b"], exact=weights is not None)
