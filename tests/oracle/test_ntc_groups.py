"""Groups of control guides matched to genes by the frequencies of their guides."""

from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.nulls.ntc_groups import (
    build_ntc_group_inputs,
    guide_frequency,
    make_ntc_groups_ensemble,
    make_ntc_groups_matched_by_freq,
)


@pytest.fixture
def screen():
    """40 genes of 4 to 8 guides and 150 controls: (names, guide2gene, frequency).

    Rounded, so that frequencies tie with each other and with the edges of bins.
    """
    random = np.random.default_rng(0)
    guide2gene = {f"g{gene}_{i}": f"gene{gene}" for gene in range(40) for i in range(4 + gene % 5)}
    guide2gene |= {f"c{i}": ("NTC", "safe")[i % 2] for i in range(150)}
    names = list(random.permutation(list(guide2gene)))
    values = np.round(random.gamma(3, 1e-3, len(names)), 4).tolist()
    frequency = dict(zip(names, values, strict=True))
    return names, guide2gene, frequency


def inputs_of(screen, labels=("NTC", "safe"), **options):
    return build_ntc_group_inputs(*screen, labels, **options)


def bins_of(group, guide_to_bin):
    return tuple(sorted(guide_to_bin[guide] for guide in group))


# Frequency


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_the_frequency_counts_positive_values(form):
    dense = np.array([[0, 2, 1], [0, 1, 0], [0, 3, 0], [0, 0, 0]])
    assert guide_frequency(form(dense), ["a", "b", "c"]) == {"a": 0, "b": 0.75, "c": 0.25}


def test_a_stored_zero_is_no_guide():
    calls = sp.csr_matrix(np.ones((4, 2)))
    calls.data[0] = 0.0
    assert calls.nnz == 8
    assert guide_frequency(calls, ["a", "b"]) == {"a": 0.75, "b": 1.0}


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_that_do_not_fit_the_columns_are_refused(names):
    with pytest.raises(ValueError, match="one name per column"):
        guide_frequency(np.ones((3, 2)), names)


# Bins and signatures


@pytest.mark.parametrize("n_bins", [1, 2, 7, 20])
def test_bins_are_those_between_the_quantiles_of_the_real_guides(screen, n_bins):
    names, guide2gene, frequency = screen
    _, _, guide_to_bin, _ = inputs_of(screen, n_bins=n_bins)
    real = [frequency[g] for g in names if guide2gene[g] not in ("NTC", "safe")]
    inner = [np.quantile(real, i / n_bins) for i in range(1, n_bins)]
    for guide in names:
        # A value on an edge belongs below it, so only edges strictly below count.
        assert guide_to_bin[guide] == sum(edge < frequency[guide] for edge in inner)
    assert set(guide_to_bin.values()) <= set(range(n_bins))


def test_the_signature_of_a_gene_is_the_bins_of_its_rarest_guides(screen):
    names, guide2gene, frequency = screen
    controls, _, guide_to_bin, signatures = inputs_of(screen, group_size=6)
    expected = []
    for gene in sorted(set(guide2gene.values()) - {"NTC", "safe"}):
        guides = sorted((g for g in names if guide2gene[g] == gene), key=frequency.get)
        if len(guides) >= 6:
            expected.append(bins_of(guides[:6], guide_to_bin))
    assert signatures == expected and len(signatures) == 24
    assert controls == sorted(g for g in names if guide2gene[g] in ("NTC", "safe"))


def test_one_label_leaves_the_other_controls_as_a_gene(screen):
    controls, _, _, _ = inputs_of(screen, "NTC")
    assert len(controls) == 75
    with pytest.raises(ValueError, match="'ntc'.*correct the NTC label"):
        inputs_of(screen, "ntc")


def test_no_gene_of_the_size_says_which_size_would_do(screen):
    with pytest.raises(ValueError, match=r"no gene has 9 guides \(the most is 8\).*group_size"):
        inputs_of(screen, group_size=9)
    with pytest.raises(ValueError, match="at least 1"):
        inputs_of(screen, n_bins=0)


def test_guides_without_a_gene_are_left_out(screen):
    names, guide2gene, frequency = screen
    stray = {**frequency, "stray": 0.5}
    assert build_ntc_group_inputs([*names, "stray"], guide2gene, stray, ["NTC", "safe"]) == (
        inputs_of(screen)
    )


# Groups


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_disjoint_and_look_like_genes(screen, seed):
    controls, frequency, guide_to_bin, signatures = inputs_of(screen, n_bins=5)
    groups = make_ntc_groups_matched_by_freq(
        controls, frequency, signatures, guide_to_bin, seed=seed
    )
    assert list(groups) == [f"ntc_{i}" for i in range(len(groups))] and len(groups) > 5
    used = [guide for group in groups.values() for guide in group]
    assert len(set(used)) == len(used) and set(used) <= set(controls)
    assert {bins_of(group, guide_to_bin) for group in groups.values()} <= set(signatures)


def test_groups_depend_on_the_seed_alone(screen):
    names, guide2gene, frequency = screen

    def ensemble(names, seed0, n_ensemble, step=1):
        inputs = inputs_of((names, guide2gene, frequency), n_bins=5)
        controls, of_guide, guide_to_bin, signatures = inputs
        return make_ntc_groups_ensemble(
            controls[::step],
            of_guide,
            signatures[::step],
            guide_to_bin,
            n_ensemble=n_ensemble,
            seed0=seed0,
        )

    made = ensemble(names, 7, 3)
    again = ensemble(names[::-1], 7, 3)
    shuffled = ensemble(names, 8, 2, step=-1)
    assert made == again
    assert made[1:] == shuffled
    assert made[0] != made[1]


def test_frequent_signatures_are_drawn_often():
    # Two bins, each with enough controls; nine genes in ten are all of bin 0.
    controls = [f"c{i:03d}" for i in range(400)]
    guide_to_bin = {guide: i % 2 for i, guide in enumerate(controls)}
    groups = make_ntc_groups_matched_by_freq(
        controls, {}, [(0, 0)] * 9 + [(1, 1)], guide_to_bin, group_size=2, max_groups=60
    )
    assert len(groups) == 60
    found = Counter(bins_of(group, guide_to_bin) for group in groups.values())
    # 54 expected, standard deviation 2.3.
    assert 46 <= found[0, 0] <= 60


def test_what_is_left_over_is_grouped_on_request(screen):
    controls, frequency, guide_to_bin, signatures = inputs_of(screen, n_bins=5)
    matched = make_ntc_groups_matched_by_freq(controls, frequency, signatures, guide_to_bin)
    every = make_ntc_groups_matched_by_freq(
        controls, frequency, signatures, guide_to_bin, drop_remainder=False
    )
    assert {name: every[name] for name in matched} == matched
    assert sorted(guide for group in every.values() for guide in group) == controls
    assert {len(group) for group in every.values()} == {6}


def test_a_signature_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"signatures have \[2\] bins, groups 3 guides"):
        make_ntc_groups_matched_by_freq(["a"], {}, [(0, 0)], {"a": 0}, group_size=3)


def test_an_empty_replicate_says_which_bins_ran_out():
    guide_to_bin = {"a": 0, "b": 0, "c": 0, "d": 2}
    wanted = [(0, 0, 1), (1, 1, 0), (0, 0, 2), (2, 2, 2)]
    served = make_ntc_groups_ensemble("abcd", {}, wanted, guide_to_bin, group_size=3, n_ensemble=2)
    assert [list(groups) for groups in served] == [["ntc_0"], ["ntc_0"]]
    with pytest.raises(ValueError) as told:
        make_ntc_groups_ensemble("abcd", {}, wanted[:2] + wanted[3:], guide_to_bin, group_size=3)
    assert (
        "replicate 0 of the NTC groups is empty: frequency bins ran out: bin 1 has 0 control "
        "guides, signatures want 1 to 2 (2 of 3 genes stopped); bin 2 has 1 control guides, "
        "signatures want 3 (1 of 3 genes stopped). Use fewer bins (n_bins), a smaller group_size, "
        "or more control guides (there are 4)"
    ) == str(told.value)


def test_an_empty_replicate_that_only_luck_explains_says_so():
    guide_to_bin = {"a": 0, "b": 0}
    with pytest.raises(ValueError, match="1 of 1001 gene signatures could be served"):
        make_ntc_groups_ensemble(
            "ab", {}, [(1, 1)] * 1000 + [(0, 0)], guide_to_bin, group_size=2, max_attempts=1
        )
