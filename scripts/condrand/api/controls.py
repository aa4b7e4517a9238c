"""Tests of sets of guides: groups of control guides that look like the guides of a gene."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from condrand.api.inputs import CRTInputs
from condrand.api.propensities import fit_propensity_logistic
from condrand.api.resampling import Model, Options, Tested, Tests, guide_set_of, n_threads
from condrand.nulls import ntc_groups
from condrand.nulls.leave_one_out import compute_null_pvals_from_null_stats
from condrand.nulls.ntc_groups import Signature, guide_frequency

Groups = Sequence[Mapping[str, Sequence[str]]]


def build_ntc_group_inputs(
    inputs: CRTInputs,
    ntc_label: str | Iterable[str] = "NTC",
    group_size: int = 6,
    n_bins: int = 20,
) -> tuple[list[str], dict[str, float], dict[str, int], list[Signature]]:
    """What :func:`condrand.api.make_ntc_groups_ensemble` needs of a screen.

    Parameters
    ----------
    inputs : CRTInputs
    ntc_label : str or iterable of str
    group_size, n_bins : int

    Returns
    -------
    ntc_guides, guide_freq, guide_to_bin, real_sigs
        See :func:`condrand.nulls.ntc_groups.build_ntc_group_inputs`.
    """
    frequency = guide_frequency(inputs.G, inputs.guide_names)
    return ntc_groups.build_ntc_group_inputs(
        inputs.guide_names, inputs.guide2gene, frequency, ntc_label, group_size, n_bins
    )


def crt_pvals_for_guide_set(
    inputs: CRTInputs,
    guide_idx: Iterable[int],
    B: int,
    seed: int,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> np.ndarray:
    """Empirical p values of the cells with any guide of a set.

    Parameters
    ----------
    inputs : CRTInputs
    guide_idx : iterable of int
        Columns of ``inputs.G``; neither their order nor repetitions matter.
    B, seed : int
        Random numbers depend on the seed and on the names of the guides.
    propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
        As in :func:`condrand.api.run_one_gene_union_crt`.

    Returns
    -------
    float64, shape (n_programs,)
        NaN if the set cannot be tested.
    """
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    return _p_values(tests, [guide_set_of(inputs, guide_idx)], B, seed)[0][0]


def crt_pvals_for_guide_set_skew(
    inputs: CRTInputs,
    guide_idx: Iterable[int],
    B: int,
    seed: int,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    side_code: int = 0,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The same with the skew-normal where its diagnostics pass.

    Parameters
    ----------
    side_code : {0, 1, -1}
        Two-sided, right or left tail.

    Returns
    -------
    pvals_skew, pvals_raw : float64, shape (n_programs,)
    """
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    skew, raw = _p_values(tests, [guide_set_of(inputs, guide_idx)], B, seed, side_code)
    return skew[0], raw[0]


def crt_pvals_for_ntc_groups_ensemble(
    inputs: CRTInputs,
    ntc_groups_ens: Groups,
    B: int,
    seed0: int,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    expected_group_size: int = 6,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> dict[int, pd.DataFrame]:
    """Empirical p values of every group of every replicate.

    Parameters
    ----------
    inputs : CRTInputs
    ntc_groups_ens : sequence of mapping of str to sequence of str
        Guides by group, one mapping per replicate
        (:func:`condrand.api.make_ntc_groups_ensemble`).
    B, seed0 : int
        A group of replicate e draws as the workflow's unit ``e0/ntc_0`` does.
    expected_group_size : int
    propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
        As in :func:`condrand.api.run_one_gene_union_crt`.

    Returns
    -------
    dict of int to pandas.DataFrame (groups x programs)

    Raises
    ------
    ValueError
        If a group has another size, or a replicate has no group.
    """
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    return _by_replicate(tests, ntc_groups_ens, expected_group_size, B, seed0)


def crt_pvals_for_ntc_groups_ensemble_skew(
    inputs: CRTInputs,
    ntc_groups_ens: Groups,
    B: int,
    seed0: int,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    side_code: int = 0,
    expected_group_size: int = 6,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> dict[int, pd.DataFrame]:
    """The same with the skew-normal where its diagnostics pass.

    Parameters
    ----------
    side_code : {0, 1, -1}
        Two-sided, right or left tail.
    """
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    return _by_replicate(tests, ntc_groups_ens, expected_group_size, B, seed0, side_code)


def compute_guide_set_null_pvals(
    guide_idx: Iterable[int],
    inputs: CRTInputs,
    B: int = 1023,
    base_seed: int = 123,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    side_code: int = 0,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> np.ndarray:
    """As :func:`condrand.api.compute_gene_null_pvals`, for columns of ``inputs.G``."""
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    null = tests.null(guide_set_of(inputs, guide_idx), B, base_seed)
    return compute_null_pvals_from_null_stats(null, side_code)


def compute_ntc_group_null_pvals_parallel(
    inputs: CRTInputs,
    ntc_groups_ens: Groups,
    B: int = 1023,
    base_seed: int = 123,
    n_jobs: int = 8,
    backend: str = "threading",
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    side_code: int = 0,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> np.ndarray:
    """Leave-one-out p values of the resamples of all groups of all replicates.

    Parameters
    ----------
    inputs, ntc_groups_ens
        As in :func:`crt_pvals_for_ntc_groups_ensemble`; groups may be of any size.
    B, base_seed : int
    n_jobs : int
        Threads; changes no bit.
    backend : str
        Accepted and ignored.
    side_code : {0, 1, -1}
    propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
        As in :func:`condrand.api.run_one_gene_union_crt`.

    Returns
    -------
    float64, shape (n_groups * B * n_programs,)
    """
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    units = [unit for of in _units(inputs, ntc_groups_ens, None) for unit in of]

    def work(unit: Tested) -> np.ndarray:
        null = tests.null(unit, B, base_seed)
        return compute_null_pvals_from_null_stats(null, side_code).ravel()

    with ThreadPoolExecutor(n_threads(n_jobs)) as pool:
        return np.concatenate([np.zeros(0), *pool.map(work, units)])


def _units(inputs: CRTInputs, ensemble: Groups, size: int | None) -> list[list[Tested]]:
    column = {guide: i for i, guide in enumerate(inputs.guide_names)}
    found = []
    for e, groups in enumerate(ensemble):
        if not groups:
            raise ValueError(f"replicate {e} of the NTC groups is empty")
        for name, guides in groups.items():
            unknown = [guide for guide in guides if guide not in column]
            if unknown:
                raise ValueError(f"group {name} of replicate {e} has unknown guides: {unknown}")
            if size is not None and len(guides) != size:
                raise ValueError(
                    f"group {name} of replicate {e} has {len(guides)} guides, not "
                    f"expected_group_size={size}"
                )
        found.append(
            [
                guide_set_of(inputs, [column[guide] for guide in guides], f"e{e}/{name}")
                for name, guides in groups.items()
            ]
        )
    return found


def _p_values(
    tests: Tests, units: list[Tested], B: int, seed: int, side_code: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reported and empirical p values: float64, shape (n_units, n_programs).

    Given a side, those of the skew-normal are reported; without, empirical two-sided ones.
    """
    settings = (0, "empirical") if side_code is None else (side_code, "skew_normal")
    rows = tests.table(tests.prepare(units), B, seed, 1, *settings)
    shape = (len(units), len(tests.inputs.program_names))
    return tuple(rows[name].to_numpy().reshape(shape) for name in ("p_value", "p_empirical"))


def _by_replicate(
    tests: Tests, ensemble: Groups, size: int, B: int, seed: int, side_code: int | None = None
) -> dict[int, pd.DataFrame]:
    """Reported p values of the groups of every replicate; see :func:`_p_values`."""
    return {
        e: pd.DataFrame(
            _p_values(tests, units, B, seed, side_code)[0],
            index=[unit.name.partition("/")[2] for unit in units],
            columns=tests.inputs.program_names,
        )
        for e, units in enumerate(_units(tests.inputs, ensemble, size))
    }
