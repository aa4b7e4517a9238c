"""A run through a cluster gives the bytes of a run on one machine."""

import pytest

pytestmark = pytest.mark.cluster


def test_the_demo_through_four_nodes_gives_the_bytes_of_a_local_run(
    cluster, fresh, local, tmp_path
):
    checkout = fresh.copy(tmp_path / "checkout")
    text = checkout.run()
    assert checkout.contents() == local.contents()

    jobs = cluster.jobs()
    assert {job.state for job in jobs} == {"COMPLETED"}
    # Each job of the workflow was one of the cluster, once; only `all` does nothing.
    assert len(jobs) == text.count("Finished jobid:") - 1
    assert {job.node for job in jobs} <= set(cluster.nodes)
