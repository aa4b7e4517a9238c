"""Simulated screens, tested by the functions that the workflow calls; rejection rates."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from condrand.config import complete_config, needs_of, outcomes_of
from condrand.covariates import orthonormal_basis
from condrand.engines import crt
from condrand.io.outcome import Outcome, read_outcome, read_treated
from condrand.io.stages import StoredScreen
from condrand.normalize import normalize, transform_outcome
from condrand.samplers.strata import STRATIFY
from condrand.screen import load_screen
from condrand.simulate import simulate_screen
from condrand.statistics import STATISTICS
from condrand.units import units_of_batch

LEVELS = (0.05, 0.01, 1e-3, 1e-4)


@dataclass(frozen=True)
class Units:
    """What is tested."""

    kinds: list[str]
    names: list[str]
    treated: list[np.ndarray]

    def pieces(self, size: int, seed: int) -> "Units":
        """Disjoint random sets of `size` treated cells, as many as each unit has, as units."""
        rng = np.random.default_rng(seed)
        made = []
        for kind, name, cells in zip(self.kinds, self.names, self.treated, strict=True):
            shuffled = rng.permutation(cells)
            for i in range(cells.size // size):
                made.append((kind, f"{name}/{i}", np.sort(shuffled[i * size : (i + 1) * size])))
        return Units(*map(list, zip(*made, strict=True)))

    def some(self, n: int) -> "Units":
        """`n` of the units, evenly spread."""
        return self.only(*np.linspace(0, len(self.names) - 1, n).astype(int))

    def only(self, *at: int) -> "Units":
        """Those of the units."""
        return Units(*([of[i] for i in at] for of in (self.kinds, self.names, self.treated)))


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
        """All targets, and NTC guides if asked for."""
        found = units_of_batch([self.folder / "targets.tsv"], 0, "all", controls)
        pairs = [(kind, name) for kind, name, _ in found]
        kinds, names = map(list, zip(*pairs, strict=True))
        return Units(kinds, names, read_treated(self.folder / "screen.h5ad", pairs))

    def outcome(
        self, statistic: str = "ols", control: str = "complement", residualize: bool = True
    ) -> Outcome:
        """What the normalize stage makes, for both samplers."""
        path = self.folder / f"{statistic}-{control}-{residualize}.h5ad"
        if not path.exists():
            screen = self.folder / "screen.h5ad"
            normalize(
                screen,
                path,
                self.section,
                statistic=statistic,
                residualize=residualize,
                control=control,
                batch_key="batch",
                by_burden=True,
            )
        return read_outcome(path)

    def outcome_given(self, statistic: str, design: np.ndarray) -> Outcome:
        """The same with another design; nothing is residualized."""
        values, _ = transform_outcome(self.stored().values, self.section)
        scores = STATISTICS[statistic].score(values, orthonormal_basis(design))
        return replace(
            self.outcome(), scores=scores, design=design, statistic=statistic, residualize=False
        )


def test_units(
    outcome: Outcome,
    units: Units,
    samplers: Iterable[str] = ("bernoulli_index",),
    resamples: int = 1023,
    threads: int = 1,
) -> pd.DataFrame:
    """The results of some units by each sampler: the columns of the contract that matter here."""
    # A batch serves all samplers: they differ in its diagnostics alone, and only the last of
    # SAMPLERS has any.
    which = {"sampler": list(samplers)[-1], "stratify": STRATIFY}
    batch = crt.prepare(outcome, units.kinds, units.names, units.treated, **which)
    blocks = range(-(-resamples // 1024))
    settings = {"tail": "two_sided", "calibration": "skew_normal"}
    columns = ["kind", "target", "feature", "n_target", "p_empirical", "p_value", "p_skew_normal"]
    tables = []
    for sampler in samplers:
        which["sampler"] = sampler
        summaries = crt.resample(outcome, batch, blocks, resamples, 5, threads, **which)
        table = crt.batch_table(outcome, batch, summaries, ("s", "crt"), settings)[columns]
        auc = np.repeat(batch.diagnostics["auc"], len(outcome.features))
        tables.append(table.assign(auc=auc, sampler=sampler))
    return pd.concat(tables, ignore_index=True)


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
        needs = {**needs_of(config, "s"), "batch_keys": ["batch"]}
        load_screen(path, config["screens"]["s"], outcomes, needs, 1, screen, targets)
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
