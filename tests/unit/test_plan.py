"""How the work is split: every resample once, whatever the shards; fair, stable batches."""

import ast
import inspect
import itertools
import random
from functools import partial

import pytest

from condrand import plan
from condrand.plan import BLOCK

RESAMPLES = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, 5 * BLOCK + 1, 999, 99_999, 1_000_000]


# Blocks and shards


@pytest.mark.parametrize("resamples", RESAMPLES)
@pytest.mark.parametrize("n_shards", [1, 2, 3, 7, 16, 100, 2000])
def test_the_shards_cover_every_block_once_in_order(resamples, n_shards):
    runs = [plan.blocks_of_shard(resamples, n_shards, shard) for shard in range(n_shards)]
    covered = list(itertools.chain.from_iterable(range(*run) for run in runs))
    assert covered == list(range(plan.n_blocks(resamples)))


@pytest.mark.parametrize("resamples", RESAMPLES)
@pytest.mark.parametrize("n_shards", [1, 3, 16, 100])
def test_shards_differ_by_at_most_one_block(resamples, n_shards):
    sizes = [
        end - first
        for first, end in (plan.blocks_of_shard(resamples, n_shards, s) for s in range(n_shards))
    ]
    assert max(sizes) - min(sizes) <= 1


def test_more_shards_than_blocks_leave_some_empty():
    runs = [plan.blocks_of_shard(2 * BLOCK, 5, shard) for shard in range(5)]
    assert sum(first == end for first, end in runs) == 3


@pytest.mark.parametrize("resamples", RESAMPLES)
def test_the_blocks_hold_all_resamples_and_only_the_last_is_short(resamples):
    blocks = plan.n_blocks(resamples)
    sizes = [plan.resamples_of_block(resamples, block) for block in range(blocks)]
    assert sum(sizes) == resamples
    assert all(size == BLOCK for size in sizes[:-1]) and 1 <= sizes[-1] <= BLOCK


def test_more_resamples_only_add_blocks():
    for few, many in itertools.pairwise(sorted(RESAMPLES)):
        for block in range(plan.n_blocks(few) - 1):
            assert plan.resamples_of_block(many, block) == BLOCK
        assert plan.n_blocks(few) <= plan.n_blocks(many)


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_that_does_not_exist_is_refused(shard):
    with pytest.raises(ValueError, match=f"shard {shard} is not one of 3"):
        plan.blocks_of_shard(5000, 3, shard)


def test_the_block_size_is_part_of_every_random_number():
    # Changing it changes all results; this line makes that a decision.
    assert BLOCK == 1024


# Batches


def weights(n: int, seed: int = 0) -> dict[str, int]:
    """Treated cells of some targets, a few large and many small, ties among them."""
    generator = random.Random(seed)
    return {f"gene{i}": int(generator.paretovariate(1.0) * 20) for i in range(n)}


@pytest.mark.parametrize("n_batches", [1, 2, 7])
def test_every_item_is_dealt_to_one_batch(n_batches):
    items = weights(100)
    batch = plan.deal(items, n_batches)
    assert batch.keys() == items.keys()
    assert set(batch.values()) == set(range(n_batches))


@pytest.mark.parametrize("seed", range(5))
def test_the_deal_does_not_depend_on_the_order_of_the_items(seed):
    items = weights(60)
    shuffled = list(items.items())
    random.Random(seed).shuffle(shuffled)
    assert plan.deal(dict(shuffled), 7) == plan.deal(items, 7)


@pytest.mark.parametrize("n_batches", [2, 3, 8])
def test_batches_are_balanced_as_well_as_the_theorem_promises(n_batches):
    items = weights(200)
    load = [0] * n_batches
    for name, b in plan.deal(items, n_batches).items():
        load[b] += items[name] + 1
    total = sum(load)
    best = max(total / n_batches, max(items.values()) + 1)
    # Graham 1969: at most 4/3 - 1/(3m) of the best makespan, which is at least this one.
    assert max(load) <= (4 / 3 - 1 / (3 * n_batches)) * best + 1


def test_items_without_cells_are_spread_too():
    batch = plan.deal({f"g{i}": 0 for i in range(12)}, 4)
    assert sorted(batch.values()) == sorted([0, 1, 2, 3] * 3)


def test_more_batches_than_items_leave_some_empty():
    assert sorted(plan.deal({"a": 5, "b": 3}, 4).values()) == [0, 1]


def test_numbers_in_paths_have_four_digits_and_sort_as_text():
    assert [plan.number(i) for i in (0, 7, 9999)] == ["0000", "0007", "9999"]


def test_the_load_of_a_batch_is_read_from_the_targets(tmp_path):
    table = tmp_path / "targets.tsv"
    table.write_text(
        "target\tkind\tn_cells\tbatch\nA\ttarget\t10\t0\nB\ttarget\t5\t10\nC\ttarget\t7\t0\n"
    )
    assert plan.batch_load([table], 0) == (2, 17)
    assert plan.batch_load([table], 10) == (1, 5)
    assert plan.batch_load([table], 1) == (0, 0)


# Resources


@pytest.mark.parametrize(
    "need",
    [
        *(plan.load_mem_mb, plan.normalize_mem_mb, plan.propensity_mem_mb),
        *(plan.ntc_null_mem_mb, plan.dex_groups_mem_mb),
    ],
)
def test_memory_grows_with_the_input(need):
    values = [need(mb) for mb in (0, 100, 1000, 10_000)]
    assert values == sorted(set(values)) and values[0] >= 400 + plan.SNAKEMAKE_MB
    assert all(isinstance(value, int) for value in values)


def test_every_job_has_memory_for_snakemake_beside_its_script():
    functions = [node for node in ast.parse(inspect.getsource(plan)).body if is_of_memory(node)]
    assert len(functions) > 10
    for function in functions:
        called = [ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)]
        # By itself or through another one, once.
        assert sum(name.endswith("mem_mb") for name in called) == 1, function.name
    assert plan.job_mem_mb(400) == 400 + plan.SNAKEMAKE_MB


def is_of_memory(node: ast.AST) -> bool:
    name = getattr(node, "name", "")
    return name.endswith("_mem_mb") and name != "job_mem_mb"


def test_the_resources_of_a_shard_never_fall_with_the_work():
    base = {"outcome_mb": 500, "n_units": 20, "n_treated": 40_000, "blocks": 64, "threads": 2}
    for name in ("outcome_mb", "n_units", "n_treated", "blocks"):
        minutes = [
            plan.shard_runtime_min(**{**base, name: base[name] * k}) for k in (1, 2, 10, 100)
        ]
        assert minutes == sorted(minutes) and minutes[-1] > minutes[0], name
    with_threads = [plan.shard_runtime_min(**{**base, "threads": t}) for t in (1, 2, 8)]
    assert with_threads == sorted(with_threads, reverse=True)
    assert plan.shard_mem_mb(500, 8) > plan.shard_mem_mb(500, 1)
    assert plan.shard_mem_mb(5000, 1) > plan.shard_mem_mb(500, 1)


def test_the_memory_of_a_job_holds_what_it_reads():
    # The file is read whole; the null of NTC guides holds a batch, or its half, once more.
    for need in (plan.propensity_mem_mb, partial(plan.shard_mem_mb, threads=1)):
        assert need(10_000) > 10_000 + 400
    assert plan.ntc_null_mem_mb(10_000) > 20_000


def test_comparisons_of_blocks_need_memory_for_the_largest_and_for_all_tests(tmp_path):
    table = tmp_path / "blocks.tsv"
    table.write_text(
        "block\tfirst_feature\tn_features\tn_stored\tmb\n0\t0\t512\t10\t700.5\n1\t512\t88\t9\t20\n"
    )
    blocks_mb, n_features = plan.feature_blocks(table)
    assert (blocks_mb, n_features) == ([700.5, 20.0], 600)
    assert plan.dex_shard_mem_mb(blocks_mb, 0) > 2 * 700.5
    # Eight bytes for each of six sums, twice.
    assert plan.dex_shard_mem_mb([1.0], 10**8) > 2 * 6 * 8 * 10**8 / 2**20
    assert plan.dex_merge_mem_mb(10**8) > 2 * 6 * 8 * 10**8 / 2**20
    minutes = [plan.dex_shard_runtime_min([1e5] * 40, shards) for shards in (1, 4, 40)]
    assert minutes == sorted(set(minutes), reverse=True)


def test_a_folder_is_as_large_as_its_files(tmp_path):
    (tmp_path / "screen.zarr" / "X").mkdir(parents=True)
    for name in ("zarr.json", "X/0"):
        (tmp_path / "screen.zarr" / name).write_bytes(bytes(2**20))
    assert plan.read_mb(tmp_path / "screen.zarr") >= 2


def test_small_jobs_still_get_five_minutes():
    assert plan.shard_runtime_min(1, 0, 0, 0, 1) == 5
    assert plan.propensity_runtime_min(1, 1) == 5
    assert plan.propensity_runtime_min(2000, 1000) > 5


def test_sizes_of_files_are_rounded_up(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert plan.read_mb(path) == 0
    path.write_bytes(b"x")
    assert plan.read_mb(path) == 1


# Refining


IMPORTANCE = {"below": 0.01, "method": "importance", "resamples": 1023}
SADDLEPOINT = {"below": 0.01, "method": "saddlepoint", "resamples": 255}


def test_refining_takes_as_long_as_it_was_measured_to():
    # 20 targets x 70 features of 100,000 cells, an effect in every twentieth: 2.6 s for 91 tests.
    batch = (69, 20 * 70, 20, 20 * 1085)
    assert 1.3 < plan.refine_seconds(*batch, IMPORTANCE) < 5.2
    assert 0.2 < plan.refine_seconds(*batch, SADDLEPOINT) < 0.8


@pytest.mark.parametrize(
    ("n_shards", "resamples", "stage", "expected"),
    [
        (1, 1023, IMPORTANCE, 1),
        (4, 1023, IMPORTANCE, 4),
        (50, 102_300, IMPORTANCE, 1),
        (100, 102_300, IMPORTANCE, 2),
        (10, 20_000, IMPORTANCE, 1),
        (10, 4_000, SADDLEPOINT, 5),
        (10, 102_300, {"below": 1.0, "method": "importance", "resamples": 1023}, 10),
        (10, 102_300, {"below": 0.005, "method": "resamples", "resamples": 102_300}, 10),
    ],
)
def test_a_stage_has_no_more_shards_than_its_work_is_worth(n_shards, resamples, stage, expected):
    assert plan.refine_shards(n_shards, resamples, stage) == expected


@pytest.mark.parametrize("method", ["importance", "saddlepoint", "resamples"])
def test_refining_more_tests_takes_longer(method):
    stage = {"below": 0.01, "method": method, "resamples": 102_300}
    small = plan.refine_seconds(69, 1400, 20, 20_000, stage)
    assert plan.refine_seconds(69, 2800, 40, 40_000, stage) == pytest.approx(2 * small)
    assert plan.refine_seconds(690, 1400, 20, 20_000, stage) > small
    if method != "resamples":
        # All tests, not those below a hundredth and a twentieth that may have an effect.
        every = plan.refine_seconds(69, 1400, 20, 20_000, {**stage, "below": 1.0})
        assert every == pytest.approx(small / 0.06)
    few, many = (plan.refine_runtime_min(69, 1e7, 1e5, 1e8, stage, n) for n in (100, 1))
    assert 5 <= few < many
