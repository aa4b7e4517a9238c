"""U, ties, means and squares of groups against one control group: scipy, and by definition."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu, ttest_ind

from condrand.twosample import groups as groups_module
from condrand.twosample import moments as moments_module
from condrand.twosample.control import ControlTables
from condrand.twosample.groups import group_sums, rest_sums
from condrand.twosample.p_values import mann_whitney, welch
from condrand.twosample.rows import Facts, Needs, Scaling

N_CONTROL, N_FEATURES = 80, 300
# One cell, none, many.
GROUP_PTR = np.array([0, 40, 41, 41, 110, 120])
FORMS = ["dense", "sparse"]


def values_of(kind: str, n_cells: int, seed: int = 0) -> np.ndarray:
    """Cells x features; the first feature is all zero, the second constant, the last dense."""
    random = np.random.default_rng(seed)
    shape = (n_cells, N_FEATURES)
    if kind == "counts":
        values = random.negative_binomial(0.5, random.uniform(0.05, 0.9, N_FEATURES), shape)
        values[:, 2] *= 1000 * (random.random(n_cells) < 0.3)
    elif kind == "signed ties":
        values = random.integers(-2, 3, shape)
    elif kind == "positive":
        values = np.where(random.random(shape) < 0.3, random.gamma(2.0, size=shape), 0.0)
    else:
        values = random.normal(size=shape) * 10.0 ** random.integers(-9, 9, N_FEATURES)
        values[random.random(shape) < 0.2] = 0.0
    values = values.astype(np.float64)
    values[:, 0] = 0.0
    values[:, 1] = 3.0
    return values


def in_form(form: str, values: np.ndarray):
    return values if form == "dense" else sp.csr_matrix(values)


def compute(control, target, form="sparse", library=None, threads=1, group_ptr=GROUP_PTR, **key):
    """Tables and sums; `library` of control and target together."""
    of_control = None if library is None else library[: control.shape[0]]
    of_target = None if library is None else library[control.shape[0] :]
    tables = ControlTables.of(in_form(form, control), of_control, threads=threads, **key)
    sums = group_sums(tables, in_form(form, target), group_ptr, of_target, threads=threads)
    return tables, sums


def pair(kind: str) -> tuple[np.ndarray, np.ndarray]:
    both = values_of(kind, N_CONTROL + GROUP_PTR[-1])
    return both[:N_CONTROL], both[N_CONTROL:]


def cubes(values: np.ndarray) -> np.ndarray:
    """sum(t**3 - t) of every column."""
    t = [np.unique(column, return_counts=True)[1].astype(float) for column in values.T]
    return np.array([np.sum(n**3 - n) for n in t])


def arrays_of(sums) -> list[np.ndarray]:
    return list(vars(sums).values())


def assert_equal_bits(one, other):
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def check_by_definition(control, target, sums, group_ptr):
    for g, (a, b) in enumerate(zip(group_ptr[:-1], group_ptr[1:], strict=True)):
        part = target[a:b]
        less = (control[None] < part[:, None]).sum(axis=(0, 1))
        equal = (control[None] == part[:, None]).sum(axis=(0, 1))
        np.testing.assert_array_equal(sums.two_u[g], 2 * less + equal)
        np.testing.assert_array_equal(sums.ties[g], cubes(np.vstack([control, part])))
        np.testing.assert_array_equal(sums.n_nonzero[g], np.count_nonzero(part, axis=0))


# Against scipy


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["counts", "signed ties", "positive", "signed"])
def test_both_tests_are_those_of_scipy_on_every_feature(form, kind):
    control, target = pair(kind)
    tables, sums = compute(control, target, form, scaling=Scaling("plain"))
    _, log_p = mann_whitney(sums.two_u, sums.ties, sums.n_cells[:, None], tables.n_cells)
    t, _, log_welch = welch(
        *(sums.total, sums.squares, sums.n_cells[:, None]),
        *(tables.total, tables.squares, tables.n_cells),
    )
    for g, (a, b) in enumerate(zip(GROUP_PTR[:-1], GROUP_PTR[1:], strict=True)):
        if a == b:
            assert np.all(np.isnan(log_p[g])) and np.all(np.isnan(t[g]))
            continue
        by_scipy = mannwhitneyu(target[a:b], control, method="asymptotic")
        np.testing.assert_array_equal(sums.two_u[g], 2 * by_scipy.statistic)
        # scipy divides -1/2 by 0 where all values tie, and gives 1.
        constant = np.ptp(np.vstack([control, target[a:b]]), axis=0) == 0
        assert 2 <= constant.sum() < 10
        assert np.all(np.isnan(log_p[g, constant]))
        expected = by_scipy.pvalue[~constant]
        np.testing.assert_allclose(np.exp(log_p[g, ~constant]), expected, rtol=1e-12)
        by_scipy = ttest_ind(target[a:b], control, equal_var=False)
        varies = (control.std(axis=0) > 0) | (target[a:b].std(axis=0) > 0)
        wanted = np.isfinite(by_scipy.statistic) & varies & (b - a > 1)
        assert np.all(np.isnan(t[g, ~wanted]))
        assert wanted.sum() > 0 or b - a == 1
        # scipy's own mean and variance are rounded: cancellation in t near 0.
        np.testing.assert_allclose(
            t[g, wanted], by_scipy.statistic[wanted], rtol=1e-11, atol=1e-13
        )
        np.testing.assert_allclose(np.exp(log_welch[g, wanted]), by_scipy.pvalue[wanted], 1e-10)


# By definition


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["counts", "signed ties", "positive", "signed"])
def test_u_and_ties_are_exact(form, kind):
    control, target = pair(kind)
    _, sums = compute(control, target, form, scaling=Scaling("plain"))
    check_by_definition(control, target, sums, GROUP_PTR)


@pytest.mark.parametrize("form", FORMS)
def test_u_and_ties_of_counts_by_their_own_tables_are_exact(form):
    control, target = pair("counts")
    tables, sums = compute(control, target, form, counts=True)
    check_by_definition(control, target, sums, GROUP_PTR)
    # Feature 2 has counts beyond its table, in both groups.
    assert tables.tables.above.size > 0
    assert tables.tables.table_ptr[3] - tables.tables.table_ptr[2] - 2 < target[:, 2].max()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.uint16])
def test_counts_of_any_type_by_either_kind_of_table_agree(dtype):
    control, target = pair("counts")
    _, general = compute(control, target)
    _, sums = compute(
        sp.csr_matrix(control.astype(dtype)), sp.csr_matrix(target.astype(dtype)), counts=True
    )
    for name in ("two_u", "ties", "n_nonzero"):
        np.testing.assert_array_equal(getattr(sums, name), getattr(general, name))
    for name in ("total", "squares", "natural"):
        # Squares of a constant are rounding.
        np.testing.assert_allclose(
            getattr(sums, name), getattr(general, name), rtol=1e-12, atol=1e-26
        )


@pytest.mark.parametrize("empty", ["control", "target"])
def test_values_seen_on_one_side_only_tie_among_themselves(empty):
    control, target = pair("signed ties")
    (control if empty == "control" else target)[:] = 0.0
    _, sums = compute(control, target, scaling=Scaling("plain"))
    check_by_definition(control, target, sums, GROUP_PTR)
    control, target = np.abs(control), np.abs(target)
    for counts in (False, True):
        _, sums = compute(control, target, counts=counts)
        check_by_definition(control, target, sums, GROUP_PTR)


def test_many_values_in_one_bucket_and_in_one_gap_are_found():
    random = np.random.default_rng(0)
    # One value far away leaves all others in few buckets.
    control = np.vstack([random.integers(1, 2000, (3000, 1)) / 977, [[1e300]], [[1e-300]]])
    target = np.vstack([random.integers(1, 2000, (300, 1)) / 977, [[1e200]] * 40, [[1e201]] * 30])
    group_ptr = np.array([0, 300, 370])
    _, sums = compute(control, target, group_ptr=group_ptr, scaling=Scaling("plain"))
    check_by_definition(control, target, sums, group_ptr)


def test_sums_are_those_of_numpy():
    control, target = pair("positive")
    ways = {
        "log1p": (np.log1p, lambda v: v),
        "logged": (lambda v: v, np.expm1),
        "plain": (lambda v: v, lambda v: v),
    }
    for measure, (scale, natural) in ways.items():
        tables, sums = compute(control, target, scaling=Scaling(measure))
        for part, got in [(control, tables)] + [
            (target[a:b], type("Group", (), {k: v[g] for k, v in vars(sums).items()}))
            for g, (a, b) in enumerate(zip(GROUP_PTR[:-1], GROUP_PTR[1:], strict=True))
            if b > a
        ]:
            x = scale(part)
            # Squares of a constant are rounding, of the order of (2**-52 x)**2 a cell.
            np.testing.assert_allclose(got.total, x.sum(axis=0), rtol=1e-13)
            np.testing.assert_allclose(
                got.squares, ((x - x.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-12, atol=1e-26
            )
            np.testing.assert_allclose(got.natural, natural(part).sum(axis=0), rtol=1e-13)


# Libraries


def test_true_ties_of_fractions_are_kept():
    random = np.random.default_rng(1)
    control, target = pair("counts")
    library = random.integers(900, 930, N_CONTROL + GROUP_PTR[-1]) * random.choice(
        [1, 2, 3], N_CONTROL + GROUP_PTR[-1]
    )
    tables, sums = compute(control, target, library=library.astype(float))
    # Over a common denominator the fractions are integers.
    common = int(np.lcm.reduce(library.astype(object)))
    exact = np.vstack([control, target]).astype(int).astype(object) * np.array(
        [common // int(size) for size in library], object
    ).reshape(-1, 1)
    codes = np.column_stack([np.unique(c, return_inverse=True)[1] for c in exact.T])
    zero = np.count_nonzero(np.vstack([control, target]), axis=1)
    assert zero.any()
    for g, (a, b) in enumerate(zip(GROUP_PTR[:-1], GROUP_PTR[1:], strict=True)):
        part, whole = codes[N_CONTROL + a : N_CONTROL + b], codes[:N_CONTROL]
        less = (whole[None] < part[:, None]).sum(axis=(0, 1))
        equal = (whole[None] == part[:, None]).sum(axis=(0, 1))
        np.testing.assert_array_equal(sums.two_u[g], 2 * less + equal)
        np.testing.assert_array_equal(sums.ties[g], cubes(np.vstack([whole, part])))
    x = np.log1p(control / library[:N_CONTROL, None] * 1e4)
    np.testing.assert_allclose(tables.total, x.sum(axis=0), rtol=1e-13)


def test_counts_are_counts_divided_by_libraries_of_one():
    control, target = pair("counts")
    ones = np.ones(N_CONTROL + GROUP_PTR[-1])
    _, divided = compute(control, target, library=ones, scaling=Scaling(target_sum=1.0))
    _, as_is = compute(control, target)
    assert_equal_bits(divided, as_is)


# The same bits whichever way


@pytest.mark.parametrize("kind", ["counts", "signed ties", "signed"])
def test_dense_and_sparse_and_explicit_zeros_have_the_same_bits(kind):
    control, target = pair(kind)
    key = {"scaling": Scaling("plain"), "counts": kind == "counts"}
    _, dense = compute(control, target, "dense", **key)
    _, sparse = compute(control, target, "sparse", **key)
    assert_equal_bits(dense, sparse)

    def mixed(values):
        """Every second zero stored, as 0 or -0; features of a row in falling order."""
        rows, columns = np.nonzero((values != 0) | (np.indices(values.shape).sum(axis=0) % 2 == 0))
        data = values[rows, columns]
        data[data == 0] = np.where(np.arange((data == 0).sum()) % 2, 0.0, -0.0)
        order = np.lexsort([-columns, rows])
        indptr = np.searchsorted(rows, np.arange(values.shape[0] + 1))
        return sp.csr_matrix((data[order], columns[order], indptr), shape=values.shape)

    tables = ControlTables.of(mixed(control), **key)
    assert mixed(control).nnz > np.count_nonzero(control)
    assert_equal_bits(group_sums(tables, mixed(target), GROUP_PTR), sparse)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_and_batches_do_not_change_the_bits(counts, threads, monkeypatch):
    control, target = pair("counts")
    tables, one = compute(control, target, counts=counts)
    monkeypatch.setattr(groups_module, "_BATCH", 2000)
    monkeypatch.setattr(groups_module, "_BATCH_PER_CONTROL", 0)
    monkeypatch.setattr(groups_module, "_COUNT_BATCHES_PER_THREAD", 2)
    other, many = compute(control, target, threads=threads, counts=counts)
    assert_equal_bits(one, many)
    for name in ("ties", "total", "squares", "natural", "n_nonzero"):
        np.testing.assert_array_equal(getattr(tables, name), getattr(other, name))


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("size", [1, 7, N_FEATURES - 1])
def test_blocks_of_features_do_not_change_the_bits(counts, size):
    control, target = pair("counts")
    _, whole = compute(control, target, counts=counts)
    for start in [0, 2, N_FEATURES - size]:
        part = slice(start, start + size)
        _, block = compute(control[:, part], target[:, part], counts=counts)
        for name in ("two_u", "ties", "n_nonzero", "total", "squares", "natural"):
            np.testing.assert_array_equal(getattr(block, name), getattr(whole, name)[:, part])


def test_inputs_are_left_alone_and_rows_may_start_anywhere():
    control, target = (sp.csr_matrix(values) for values in pair("counts"))
    before = target.copy()
    tables = ControlTables.of(control)
    whole = group_sums(tables, target, GROUP_PTR)
    later = group_sums(tables, target, GROUP_PTR[3:])
    for a, b in zip(arrays_of(whole), arrays_of(later), strict=True):
        np.testing.assert_array_equal(a[3:], b)
    np.testing.assert_array_equal(before.data, target.data)
    np.testing.assert_array_equal(before.indices, target.indices)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("counts", [False, True])
def test_rows_in_any_order_and_more_than_once_are_as_if_copied(form, counts):
    cells = np.vstack(pair("counts"))
    random = np.random.default_rng(4)
    of_control, of_target = random.integers(0, len(cells), (2, GROUP_PTR[-1]))
    library = None if counts else random.integers(500, 600, len(cells)).astype(float)
    sizes = [None if counts else library[of] for of in (of_control, of_target)]
    tables = ControlTables.of(in_form(form, cells[of_control]), sizes[0], counts=counts)
    expected = group_sums(tables, in_form(form, cells[of_target]), GROUP_PTR, sizes[1])
    whole = in_form(form, cells)
    tables = ControlTables.of(whole, library, order=of_control, counts=counts)
    assert_equal_bits(group_sums(tables, whole, GROUP_PTR, library, order=of_target), expected)
    for wrong in (-1, len(cells)):
        with pytest.raises(ValueError, match="numbered"):
            ControlTables.of(whole, library, order=np.array([0, wrong]), counts=counts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 3])
def test_facts_are_sums_and_numbers_of_odd_values(form, threads):
    _, values = pair("signed ties")
    values[4, 7], values[5, 8], values[6, 9], values[9, 9] = np.nan, 0.5, np.inf, -0.25
    order = np.array([9, 5, 4, 6, 20, 21, 22])
    facts = Facts.of(in_form(form, values), order, threads)
    part = values[order]
    np.testing.assert_array_equal(facts.totals, part.sum(axis=1))
    assert facts.n_negative == (part < 0).sum() and facts.n_not_finite == 2
    assert facts.n_fractional == 2 and facts.largest == np.inf
    joined = Facts.joined([Facts.of(in_form(form, values), of) for of in (order[:3], order[3:])])
    np.testing.assert_array_equal(joined.totals, facts.totals)
    for name in ("n_negative", "n_not_finite", "n_fractional", "largest"):
        assert getattr(joined, name) == getattr(facts, name)


# One versus rest


@pytest.mark.parametrize("measure", ["log1p", "plain"])
def test_a_rest_that_does_not_vary_has_no_squares_and_one_value_apart_has(measure):
    cells = np.full((100_000, 3), 7.3)
    cells[:40] = np.random.default_rng(0).gamma(2.0, size=(40, 3))
    cells[50_000, 1], cells[:40, 2] = 7.4, 7.3
    everyone, sums = compute(
        cells, cells, "dense", group_ptr=np.array([0, 40]), scaling=Scaling(measure)
    )
    _, rest = rest_sums(everyone, sums)
    scaled = np.log1p(cells[40:]) if measure == "log1p" else cells[40:]
    assert rest.squares[0, 0] == 0 and rest.squares[0, 2] == 0
    np.testing.assert_allclose(rest.squares[0, 1], scaled[:, 1].var() * len(scaled), rtol=1e-3)


@pytest.mark.parametrize("counts", [False, True])
def test_groups_against_the_rest_are_groups_against_a_control_of_the_others(counts):
    _, cells = pair("counts")
    everyone, sums = compute(cells, cells, counts=counts)
    versus, rest = rest_sums(everyone, sums)
    for g, (a, b) in enumerate(zip(GROUP_PTR[:-1], GROUP_PTR[1:], strict=True)):
        others = np.delete(cells, np.arange(a, b), axis=0)
        tables, alone = compute(others, cells[a:b], group_ptr=np.array([0, b - a]), counts=counts)
        np.testing.assert_array_equal(versus.two_u[g], alone.two_u[0])
        np.testing.assert_array_equal(versus.ties[g], alone.ties[0])
        np.testing.assert_array_equal(rest.n_nonzero[g], tables.n_nonzero)
        assert versus.n_control[g] == rest.n_cells[g] == tables.n_cells
        # Differences of sums over all cells.
        np.testing.assert_allclose(rest.total[g], tables.total, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(rest.squares[g], tables.squares, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(rest.natural[g], tables.natural, rtol=1e-12, atol=1e-12)


# Without ranks, and other sums left out


MOMENTS = ("n_nonzero", "total", "squares", "natural")
NO_RANKS = Needs(ranks=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("measure", ["log1p", "logged", "plain"])
def test_moments_straight_from_rows_have_the_bits_of_those_beside_ranks(form, dtype, measure):
    kind = "signed ties" if measure == "plain" else "counts"
    control, target = (values.astype(dtype) % 50 for values in pair(kind))
    library = np.random.default_rng(2).uniform(500, 900, N_CONTROL + GROUP_PTR[-1])
    for divisors in (None, library):
        key = {"form": form, "library": divisors, "scaling": Scaling(measure)}
        for threads in (1, 3):
            one = compute(control, target, threads=threads, **key)
            other = compute(control, target, threads=threads, needs=NO_RANKS, **key)
            for with_ranks, without in zip(one, other, strict=True):
                for name in MOMENTS:
                    np.testing.assert_array_equal(
                        getattr(without, name), getattr(with_ranks, name), err_msg=name
                    )
                assert without.ties is None
            assert other[1].two_u is None and other[0].tables is None


def test_moments_of_rows_with_explicit_zeros_and_in_any_order_have_the_same_bits():
    control, target = pair("signed ties")
    every = np.vstack([control, target])
    rows, columns = np.nonzero(np.ones(every.shape))
    full = sp.csr_matrix((every.ravel(), columns, np.arange(len(every) + 1) * N_FEATURES))
    assert full.nnz == every.size > np.count_nonzero(every)
    key = {"scaling": Scaling("plain"), "needs": NO_RANKS}
    of_control, of_target = np.arange(N_CONTROL), N_CONTROL + np.arange(GROUP_PTR[-1])
    tables = ControlTables.of(full, order=of_control, **key)
    sums = group_sums(tables, full, GROUP_PTR, order=of_target)
    expected = compute(control, target, **key)
    for name in MOMENTS:
        np.testing.assert_array_equal(getattr(tables, name), getattr(expected[0], name))
        np.testing.assert_array_equal(getattr(sums, name), getattr(expected[1], name))


def test_large_groups_are_summed_in_pieces_whatever_the_threads(monkeypatch):
    control, target = pair("positive")
    expected = compute(control, target)
    monkeypatch.setattr(moments_module, "_PIECE", 7)
    monkeypatch.setattr(moments_module, "_MOST_PIECES", 5)
    one, many = (compute(control, target, threads=k, needs=NO_RANKS) for k in (1, 4))
    for k in range(2):
        for name in MOMENTS:
            np.testing.assert_array_equal(getattr(one[k], name), getattr(many[k], name))
            np.testing.assert_allclose(
                getattr(one[k], name), getattr(expected[k], name), rtol=1e-12, atol=1e-26
            )


@pytest.mark.parametrize("size", [None, 7])
def test_moments_keep_small_deviations_from_large_values(size, monkeypatch):
    if size is not None:
        monkeypatch.setattr(moments_module, "_PIECE", size)
    random = np.random.default_rng(0)
    noise = random.integers(-8, 9, (2, 120, 3)) / 8.0
    control, target = 1e12 + noise
    control[:, 2] = target[:, 2] = 1e12 / 7
    tables, sums = compute(control, target, scaling=Scaling("plain"), needs=NO_RANKS)
    for got, part in ((tables.squares, noise[0]), (sums.squares[0], noise[1, :40])):
        expected = ((part - part.mean(axis=0)) ** 2).sum(axis=0)
        # The mean is rounded to 2**-13, its error enters squared.
        np.testing.assert_allclose(got[:2], expected[:2], rtol=1e-6)
        # A constant may not seem to vary, however its sum is rounded.
        assert got[2] <= 2.0**-104 * 120 * (1e12 / 7) ** 2 / 2**40


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("measure", ["log1p", "logged"])
def test_sums_left_out_are_none_and_the_others_have_the_same_bits(counts, measure):
    control, target = pair("counts")
    control, target = control % 50, target % 50
    key = {"counts": counts, "scaling": Scaling(measure)}
    whole = compute(control, target, **key)
    for needs in (Needs(squares=False), Needs(natural=False), Needs(True, False, False)):
        part = compute(control, target, needs=needs, **key)
        for some, every in zip(part, whole, strict=True):
            assert (some.squares is None) == (not needs.squares)
            assert (some.natural is None) == (not needs.natural)
            for name in ("ties", "n_nonzero", "total", "squares", "natural"):
                if getattr(some, name) is not None:
                    np.testing.assert_array_equal(getattr(some, name), getattr(every, name))
        np.testing.assert_array_equal(part[1].two_u, whole[1].two_u)


def test_the_rest_of_groups_without_ranks_is_that_beside_ranks():
    _, cells = pair("counts")
    with_ranks = rest_sums(*compute(cells, cells))
    without = rest_sums(*compute(cells, cells, needs=NO_RANKS))
    for one, other in zip(with_ranks, without, strict=True):
        for name in ("n_cells", "n_control", *MOMENTS):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert other.two_u is None and other.ties is None


# What is refused


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("piece", [7, 2048])
def test_values_that_are_not_finite_are_refused_without_ranks_too(wrong, piece, monkeypatch):
    monkeypatch.setattr(moments_module, "_PIECE", piece)
    control, target = pair("positive")
    bad = target.copy()
    bad[7, -1] = wrong
    for first, second in ((bad, target), (control, bad)):
        with pytest.raises(ValueError, match="finite"):
            compute(first, second, needs=NO_RANKS)
    bad[7, -1] = -1.0
    with pytest.raises(ValueError, match="negative"):
        compute(control, bad, needs=NO_RANKS)
    compute(control, bad, needs=NO_RANKS, scaling=Scaling("plain"))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_in_control_and_groups(wrong):
    control, target = pair("positive")
    bad = target.copy()
    bad[7, -1] = wrong
    with pytest.raises(ValueError, match="finite"):
        compute(bad, target)
    with pytest.raises(ValueError, match="finite"):
        compute(control, bad)


def test_negative_values_have_no_log():
    control, target = pair("signed")
    with pytest.raises(ValueError, match="negative"):
        compute(control, np.abs(target))
    with pytest.raises(ValueError, match="negative"):
        compute(np.abs(control), target)


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0**31, np.nan, np.inf])
def test_what_is_no_count_is_refused_where_counts_are_promised(wrong):
    control, target = pair("counts")
    bad = target.copy()
    bad[3, 5] = wrong
    with pytest.raises(ValueError, match="counts|finite|negative"):
        compute(bad, target, counts=True)
    with pytest.raises(ValueError, match="not counts"):
        compute(control, bad, counts=True)


def test_libraries_and_features_must_fit():
    control, target = pair("counts")
    tables = ControlTables.of(control)
    with pytest.raises(ValueError, match="libraries"):
        group_sums(tables, target, GROUP_PTR, np.ones(len(target)))
    with pytest.raises(ValueError, match="features"):
        group_sums(tables, target[:, 1:], GROUP_PTR)
    with pytest.raises(ValueError, match="group_ptr"):
        group_sums(tables, target, np.array([0, len(target) + 1]))
    with pytest.raises(ValueError, match="positive"):
        ControlTables.of(control, np.zeros(N_CONTROL))
    with pytest.raises(ValueError, match="counts=False"):
        ControlTables.of(control, np.ones(N_CONTROL), counts=True)
