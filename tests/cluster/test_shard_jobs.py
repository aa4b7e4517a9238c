"""Shards that fail by chance, as many as a test may take; the benchmark has hundreds."""

import pytest

from benchmarks import shard_jobs

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_of_shards_that_fail_by_chance_none_is_lost_or_made_with_other_bytes(
    cluster, tmp_path, capsys
):
    shard_jobs.benchmark(cluster, tmp_path, batches=1, shards=12, fewer=3, share=0.3, haste=True)
    assert "nothing lost, nothing different" in capsys.readouterr().out
