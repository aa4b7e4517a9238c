"""The same bits on machines with different vector instructions: clusters are mixed."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Dense and sparse scores, both samplers, all statistics; sums of counts, of divided and of logged
# values: every kernel of the engines, and a digest of every array that comes out.
DIGEST = """
import hashlib, sys
import numpy as np
import scipy.sparse as sp
from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt
from condrand.io.outcome import Outcome
from condrand.nulls.summary import NullSummary
from condrand.statistics import STATISTICS

random = np.random.Generator(np.random.Philox(3))
n = 1000
design = standardize(random.normal(size=(n, 5)))
basis = orthonormal_basis(design)
values = random.normal(size=(n, 11))
digest = hashlib.sha256()
burdens = random.normal(size=(2, n))
batches = random.integers(0, 3, n)
ways = [
    ("ols", "bernoulli_index"),
    ("ols_t", "stratified_perm"),
    ("rank", "stratified_perm"),
    ("welch", "bernoulli_index"),
]
for outcome in (values, sp.csr_matrix(np.where(values > 0.7, values, 0.0))):
    for statistic, sampler in ways:
        scores = STATISTICS[statistic].score(outcome, basis)
        shared = Outcome(
            scores, design, list("abcdefghijk"), "", "", statistic,
            batch=batches, burden=burdens[0], ntc_burden=burdens[1],
        )
        cells = [np.sort(random.choice(n, size, replace=False)) for size in (9, 80, 500)]
        batch = crt.prepare(
            shared, ["target", "target", "ntc_group"], ["A", "B", "C"], cells, sampler=sampler
        )
        assert batch.notes == [""] * 3, batch.notes
        counts = np.zeros(1024, np.int64)
        summaries = crt.resample(shared, batch, range(2), 1500, 0, 1, sampler, null_counts=counts)
        arrays = [batch.model.coefficients, batch.effect, batch.observed]
        arrays += [batch.centre, batch.scale, *NullSummary.stacked(summaries, 11).values(), counts]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())

from condrand.engines import dex
from condrand.twosample.control import ControlTables
from condrand.twosample.rows import Facts, Needs, Scaling

counts = random.negative_binomial(0.5, 0.1, (n, 11))
ptr = np.array([0, 90, 90, 91, 600])
for dtype in (np.float32, np.float64, np.int32):
    for rows in (counts.astype(dtype), sp.csr_matrix(counts.astype(dtype))):
        totals = Facts.of(rows, np.arange(n)).totals + 1.0
        for library, measure in [(totals, "log1p"), (None, "log1p"), (None, "logged")]:
            common = {"counts": measure == "log1p" and library is None}
            for needs in (Needs(), Needs(ranks=False)):
                control = ControlTables.of(rows, library, Scaling(measure), needs=needs, **common)
                sums = dex.sums(control, rows, ptr, np.ones(4, bool), library)
                for array in sums.as_arrays().values():
                    digest.update(np.ascontiguousarray(array).tobytes())
print(digest.hexdigest())
"""


def digest_on(cpu, folder):
    # numba compiles for the named processor; BLAS keeps the host's kernels, as it does not see
    # the name, so what is compared is our own code.
    environment = {
        **os.environ,
        "PYTHONPATH": str(SCRIPTS),
        "CONDRAND_CACHE": str(folder / cpu),
        "OPENBLAS_NUM_THREADS": "1",
    }
    if cpu != "host":
        environment |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86-64 processors")
def test_sse_avx2_and_the_host_give_the_same_bits(tmp_path):
    digests = {cpu: digest_on(cpu, tmp_path) for cpu in ("host", "haswell", "nehalem")}
    assert len(digests["host"]) == 64
    assert len(set(digests.values())) == 1, digests
