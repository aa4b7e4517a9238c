"""A private cluster for all tests here, and checkouts whose runs go through it."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster.checkouts import BATCHES, Checkout, environment_of_runs, new_checkout, small_demo
from cluster.slurm import OURS, CannotStartError, Cluster, install_if_missing, private_cluster


def do_without(reason: str) -> None:
    """Skip, with the reason; fail where there must be a cluster, as `.ci/run` says."""
    (pytest.fail if os.environ.get("CONDRAND_NEEDS_CLUSTER") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of four cores."""
    if " " in str(tmp_path_factory.getbasetemp()):
        do_without("on a cluster there may be no space in a path")
    try:
        install_if_missing()
        # Not below pytest's folder: the name of a socket has at most 107 characters.
        with (
            TemporaryDirectory(prefix=f"{OURS}-", dir="/tmp") as folder,
            private_cluster(Path(folder)) as started,
        ):
            yield started
    except CannotStartError as reason:
        do_without(str(reason))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every run; jobs inherit it."""
    return environment_of_runs(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Checkout:
    """A checkout, configured, in which nothing has run; not to be changed."""
    return new_checkout(tmp_path_factory.mktemp("fresh"), environment, small_demo())


@pytest.fixture(scope="session")
def local(fresh: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A complete run on this machine alone; not to be changed."""
    made = fresh.copy(tmp_path_factory.mktemp("local") / "checkout")
    made.run("--cores", "2", profile="profiles/default")
    return made


@pytest.fixture(scope="module")
def copies(local: Checkout) -> Iterator:
    """Make copies of the complete run, whose processes end with the module."""
    made = []

    def copy(to: Path) -> Checkout:
        made.append(local.copy(to))
        return made[-1]

    yield copy
    for each in made:
        each.stop()


@pytest.fixture
def before_last_batch(cluster: Cluster, copies, tmp_path: Path) -> Iterator[Checkout]:
    """A checkout in which the shards of the last batch are to be made, and what follows."""
    checkout = copies(tmp_path / "checkout")
    checkout.remove_shards(BATCHES - 1)
    yield checkout
    checkout.stop()
    cluster.cancel_all()
