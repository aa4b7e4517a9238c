"""A private cluster for all tests here, and checkouts whose runs go through it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

import launch
from cluster.checkouts import BATCHES, ROOT, Checkout, small_demo
from cluster.slurm import OURS, CannotStartError, Cluster, install_if_missing, private_cluster
from workflow.conftest import PARTS


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of four cores."""
    if " " in str(tmp_path_factory.getbasetemp()):
        pytest.skip("on a cluster there may be no space in a path")
    try:
        install_if_missing()
        # Not below pytest's folder: the name of a socket has at most 107 characters.
        with (
            TemporaryDirectory(prefix=f"{OURS}-", dir="/tmp") as folder,
            private_cluster(Path(folder)) as started,
        ):
            yield started
    except CannotStartError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every run; jobs inherit it."""
    made = launch.snakemake_environment()
    made.setdefault("CONDRAND_CACHE", str(tmp_path_factory.mktemp("kernels")))
    made.pop("SNAKEMAKE_PROFILE", None)
    # Without bytecode each of a job's three starts compiles all it imports.
    made.pop("PYTHONDONTWRITEBYTECODE", None)
    return made


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Checkout:
    """A checkout, configured, in which nothing has run; not to be changed."""
    place = tmp_path_factory.mktemp("fresh") / "checkout"
    place.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, place / part)
    (place / "config.yaml").write_text(yaml.safe_dump(small_demo()))
    return Checkout(place, environment, place.with_suffix(".txt"))


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
