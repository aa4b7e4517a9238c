"""A run through a cluster gives the bytes of a run on one machine."""

import pytest
import yaml

from cluster.checkouts import ROOT, new_checkout

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    "config",
    ["config.yaml", pytest.param("examples/papalexi_programs.yaml", marks=pytest.mark.slow)],
)
def test_a_run_through_four_nodes_gives_the_bytes_of_a_local_run(
    config, cluster, environment, tmp_path, request
):
    if config.startswith("examples"):
        data = request.getfixturevalue("data_dir")
        environment = {**environment, "CONDRAND_DATA": str(data)}
    settings = yaml.safe_load((ROOT / "config" / config).read_text())
    fresh = new_checkout(tmp_path, environment, settings)
    local, checkout = fresh.copy(tmp_path / "local"), fresh.copy(tmp_path / "distributed")
    local.run("--cores", "2", profile="profiles/default")
    known = {job.number for job in cluster.jobs()}
    text = checkout.run()
    assert checkout.contents() == local.contents()

    jobs = [job for job in cluster.jobs() if job.number not in known]
    assert {job.state for job in jobs} == {"COMPLETED"}
    # Each job of the workflow was one of the cluster, once; only `all` does nothing.
    assert len(jobs) == text.count("Finished jobid:") - 1
    assert len({job.node for job in jobs}) > 1
