"""Simulated screens, tested by the functions that the workflow calls; rejection rates."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from condrand.config import complete_config, outcomes_of
from condrand.engines import crt
from condrand.io.outcome import Outcome, read_carriers, read_outcome
from condrand.io.stages import StoredScreen
from condrand.normalize import normalize
from condrand.samplers.strata import STRATIFY
from condrand.screen import load_screen
from condrand.simulate import simulate_screen
from condrand.units import units_of_batch

LEVELS = (0.05, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class Units:
    """What is tested: names, treated cells, and how many guides leave the burden in each."""

    kinds: list[str]
    names: list[str]
    treated: list[np.ndarray]
    n_own: list[np.ndarray]

    def with_whole_burden(self) -> "Units":
        """The same, the burden counting the unit's own guides too."""
        return Units(
            self.kinds, self.names, self.treated, [np.zeros(t.size) for t in self.treated]
        )

    def pieces(self, size: int, seed: int) -> "Units":
        """Disjoint random sets of `size` treated cells, as many as each unit has, as units."""
        rng = np.random.default_rng(seed)
        kinds, names, treated, n_own = [], [], [], []
        for kind, name, cells, own in zip(
            self.kinds, self.names, self.treated, self.n_own, strict=True
        ):
            order = rng.permutation(cells.size)
            for i in range(cells.size // size):
                some = np.sort(order[i * size : (i + 1) * size])
                kinds.append(kind)
                names.append(f"{name}/{i}")
                treated.append(cells[some])
                n_own.append(own[some])
        return Units(kinds, names, treated, n_own)

    def first(self, n: int) -> "Units":
        """The first units."""
        return Units(self.kinds[:n], self.names[:n], self.treated[:n], self.n_own[:n])


@dataclass(frozen=True)
class Simulated:
    """A simulated screen after the load stage."""

    folder: Path
    config: Mapping[str, Any]
    simulation: Path

    @property
    def section(self) -> Mapping[str, Any]:
        """The outcome section."""
        return self.config["analyses"]["crt"]["outcome"]

    def stored(self) -> StoredScreen:
        """What the load stage wrote."""
        return StoredScreen.read(self.folder / "screen.h5ad", self.section, "batch")

    def units(self, controls: str = "none") -> Units:
        """All targets, and NTC guides if asked for, with the burden as the workflow has it."""
        found = units_of_batch([self.folder / "targets.tsv"], 0, "all", controls)
        pairs = [(kind, name) for kind, name, _ in found]
        carriers = read_carriers(self.folder / "screen.h5ad", pairs)
        # As in condrand.engines.crt_steps: NTC guides are no burden.
        own = [
            n if kind == "target" else np.zeros(n.size)
            for (kind, _), (_, n) in zip(pairs, carriers, strict=True)
        ]
        kinds, names = map(list, zip(*pairs, strict=True))
        return Units(kinds, names, [cells for cells, _ in carriers], own)

    def outcome(self, statistic: str = "ols", control: str = "complement") -> Outcome:
        """What the normalize stage makes, for both samplers."""
        path = self.folder / f"{statistic}-{control}.h5ad"
        if not path.exists():
            screen = self.folder / "screen.h5ad"
            normalize(screen, path, self.section, statistic, control, "batch", by_burden=True)
        return read_outcome(path)


def test_units(
    outcome: Outcome, units: Units, sampler: str = "bernoulli_index", resamples: int = 1023
) -> pd.DataFrame:
    """The results of some units: the columns of the contract that matter here."""
    which = {"sampler": sampler, "stratify": STRATIFY}
    batch = crt.prepare(
        outcome, units.kinds, units.names, units.treated, n_own=units.n_own, **which
    )
    blocks = range(-(-resamples // 1024))
    summaries = crt.resample(outcome, batch, blocks, resamples, seed=5, threads=1, **which)
    settings = {"tail": "two_sided", "calibration": "skew_normal"}
    table = crt.batch_table(outcome, batch, summaries, ("s", "crt"), settings)
    columns = ["kind", "target", "feature", "n_target", "statistic", "p_empirical", "p_value"]
    table = table[[*columns, "p_skew_normal"]]
    return table.assign(auc=np.repeat(batch.diagnostics["auc"], len(outcome.features)))


test_units.__test__ = False


def of_each(work: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    """What `work` gives for each item, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables of several screens as one, with a column `screen`."""
    numbered = [table.assign(screen=i) for i, table in enumerate(tables)]
    return pd.concat(numbered, ignore_index=True)


def rejections(
    table: pd.DataFrame, column: str, clusters: tuple[str, ...] = ("screen", "target")
) -> pd.DataFrame:
    """Share of tests below each level, its standard error by clusters, and the ratio to nominal.

    Where no test is below a level the standard error is that of independent uniform tests.
    """
    made = table[table[column].notna()]
    code = made.groupby(list(clusters), observed=True, sort=False).ngroup().to_numpy()
    size = np.bincount(code)
    rows = []
    for level in LEVELS:
        below = made[column].to_numpy() < level
        rate = below.mean()
        deviation = np.bincount(code, below) - rate * size
        variance = size.size / (size.size - 1) * np.sum(deviation**2) / below.size**2
        variance = max(variance, level * (1 - level) / below.size if rate == 0 else 0.0)
        rows.append((level, below.size, rate, np.sqrt(variance), rate / level))
    return pd.DataFrame(rows, columns=["level", "n", "rate", "se", "ratio"]).set_index("level")


def report(name: str, rates: pd.DataFrame) -> None:
    """Print a row of the table of rejection rates."""
    cells = [f"{row.rate:.5f} +- {row.se:.5f} ({row.ratio:5.2f})" for row in rates.itertuples()]
    print(f"{name:44s} n={rates['n'].iloc[0]:6d}  {'  '.join(cells)}")


@pytest.fixture(scope="session")
def simulate(tmp_path_factory, schema) -> Callable[..., Simulated]:
    """Simulate a screen and load it; `burden` says whether burden is a covariate."""
    numbers = count()

    def make(burden: bool = True, **arguments: Any) -> Simulated:
        folder = tmp_path_factory.mktemp(f"screen{next(numbers)}")
        path = folder / "simulation.h5ad"
        simulate_screen(path, **arguments)
        config = complete_config(
            {
                "screens": {"s": {"path": str(path), "covariates": {"burden": burden}}},
                "analyses": {"crt": {"engine": "crt"}},
            },
            schema,
            "test",
        )
        screen, targets = folder / "screen.h5ad", folder / "targets.tsv"
        outcomes = outcomes_of(config, "s")
        load_screen(
            path, config["screens"]["s"], outcomes, "all", True, 1, screen, targets, ["batch"]
        )
        return Simulated(folder, config, path)

    return make


class Tools:
    """The functions of this module: a conftest cannot be imported."""

    test_units = staticmethod(test_units)
    of_each = staticmethod(of_each)
    joined = staticmethod(joined)
    rejections = staticmethod(rejections)
    report = staticmethod(report)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    """Testing, and rejection rates."""
    return Tools
