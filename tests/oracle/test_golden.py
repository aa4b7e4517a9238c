"""Numbers do not change unnoticed: a small analysis against the table kept beside this file.

A deliberate change raises ``RESULTS_VERSION`` of its stage, renews the table by running this file
(``PYTHONPATH=scripts python tests/oracle/test_golden.py``) and gets a line in CHANGELOG.md under
"Numbers that change", all in one commit.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from condrand.engines import crt
from condrand.engines.crt_refine import Draws, refined_p_values
from condrand.io.outcome import Outcome
from condrand.normalize import make_design, transform_outcome
from condrand.simulate import simulate_screen
from condrand.statistics import ols
from condrand.version import RESULTS_VERSION

GOLDEN = Path(__file__).with_suffix(".json")
OUTCOME = {"transform": "clr", "floor_quantile": 1e-4, "floor_epsilon": None}
SETTINGS = {"tail": "two_sided", "calibration": "skew_normal"}
# Counts of resamples are exact; the rest passes through BLAS, whose last bits differ by machine.
EXACT = ("target", "feature", "n_target", "p_empirical", "p_source", "calibration")
EXACT += ("refined_source",)
CLOSE = ("effect", "statistic", "p_value", "null_mean", "null_sd", "null_skewness", "sn_shape")
CLOSE += ("refined_neg_log10_p", "p_saddlepoint")
# Refined: every test by importance, the smaller ones anew by plain resamples.
STAGES = [
    {"below": 1.0, "method": "importance", "resamples": 200},
    {"below": 0.2, "method": "resamples", "resamples": 1500},
]


def small_analysis(folder):
    import anndata as ad

    from condrand.covariates import orthonormal_basis

    path = folder / "screen.h5ad"
    simulate_screen(path, n_cells=600, n_programs=3, n_targets=4, near_zero_fraction=0, seed=11)
    screen = ad.read_h5ad(path)
    design = make_design(screen.obsm["covar"], 20).columns
    clr, scale = transform_outcome(screen.obsm["cnmf_usage"], OUTCOME)
    scores = ols.score(clr, orthonormal_basis(design))
    outcome = Outcome(scores, design, list(screen.uns["program_names"]), scale, "")
    carried = screen.obsm["guide_assignment"].toarray() > 0
    gene_of = np.array([screen.uns["guide2gene"][name] for name in screen.uns["guide_names"]])
    names = sorted(set(gene_of) - {"non-targeting"})
    treated = [np.flatnonzero(carried[:, gene_of == name].any(axis=1)) for name in names]
    batch = crt.prepare(outcome, ["target"] * len(names), names, treated)
    summaries = crt.resample(outcome, batch, range(2), resamples=2000, seed=42)
    table = crt.batch_table(outcome, batch, summaries, ("screen", "analysis"), SETTINGS)
    refined = refined_p_values(outcome, batch, summaries, STAGES, Draws(42, "two_sided"))
    return table.assign(
        refined_source=refined.p_source.ravel(),
        refined_neg_log10_p=refined.neg_log10_p.ravel(),
        p_saddlepoint=refined.p_saddlepoint.ravel(),
    )


def test_the_numbers_are_those_of_this_version(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    assert golden["versions"] == RESULTS_VERSION, "RESULTS_VERSION changed: renew the table"
    table = small_analysis(tmp_path)
    for name in EXACT:
        assert table[name].tolist() == golden["columns"][name], f"{name} changed: see above"
    for name in CLOSE:
        # 1e-9: the last bits of BLAS and LAPACK, amplified by differences of sums.
        assert table[name].tolist() == pytest.approx(
            golden["columns"][name], rel=1e-9, abs=1e-12, nan_ok=True
        )


def renew(folder):
    table = small_analysis(folder)
    columns = {name: table[name].tolist() for name in (*EXACT, *CLOSE)}
    GOLDEN.write_text(json.dumps({"versions": RESULTS_VERSION, "columns": columns}, indent=1))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        renew(Path(temporary))
    sys.exit(f"wrote {GOLDEN}")
