"""A screen larger than a job's memory, through the whole workflow.

    make benchmark-out-of-core   (or: python tests/benchmarks/dex_out_of_core.py [--gib 20])

Writes a CSR file of that size in chunks, counts of float32, and runs engine dex on it with every
process limited to `--limit-gib` of address space. Prints wall time, CPU time and the largest
resident set of each rule, and seconds per 1e9 nonzeros and target.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import scipy.sparse as sp  # noqa: E402
import yaml  # noqa: E402

import launch  # noqa: E402
from condrand.io.h5ad import SparseRows, new_anndata, write_element  # noqa: E402

_CELLS_AT_A_TIME = 2000


def write_screen(path, gib, n_features, n_targets, density):
    """Counts whose number follows the gene's mean; a tenth of the cells are controls."""
    random = np.random.default_rng(1)
    per_cell = density * n_features
    n_cells = int(gib * 2**30 / 8 / per_cell)
    share = random.gamma(0.7, size=n_features)
    share = np.minimum(share / share.mean() * density, 0.9)
    names = np.array(["non-targeting", *(f"target{t}" for t in range(n_targets))], dtype=object)
    group = random.integers(0, n_targets, n_cells) + 1
    group[random.random(n_cells) < 0.1] = 0
    cells = pd.Index([f"cell{i}" for i in range(n_cells)], dtype=object)
    features = pd.Index([f"gene{j}" for j in range(n_features)], dtype=object)
    with new_anndata(path, cells, features) as file:
        target = pd.Categorical.from_codes(group, names)
        del file["obs"]
        write_element(file, "obs", pd.DataFrame({"target": target}, index=cells))
        rows = SparseRows(file, "X", n_features, np.float32)
        for start in range(0, n_cells, _CELLS_AT_A_TIME):
            n = min(_CELLS_AT_A_TIME, n_cells - start)
            stored = random.random((n, n_features), np.float32) < share.astype(np.float32)
            indptr = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
            indices = np.nonzero(stored)[1].astype(np.int32)
            # Geometric: whole numbers from 1, mostly small.
            data = random.geometric(0.6, indices.size).astype(np.float32)
            rows.append(sp.csr_matrix((data, indices, indptr), shape=(n, n_features)))
        rows.finish()
        return n_cells, int(rows.indptr[-1][-1])


def jobs(folder):
    """Wall seconds, CPU seconds and largest resident set of every job, from its benchmark."""
    found = []
    for path in sorted((folder / "logs").rglob("*.benchmark.tsv")):
        row = pd.read_csv(path, sep="\t").iloc[0]
        name = path.name.removesuffix(".benchmark.tsv")
        name = "shard" if name.startswith("shard") else name
        name = "batch" if name.startswith("batch") else name
        found.append((name, row["s"], row["cpu_time"], row["max_rss"]))
    return pd.DataFrame(found, columns=["job", "wall s", "cpu s", "max RSS MiB"])


def main():
    """Generate, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=20)
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--limit-gib", type=float, default=4)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where there is room for twice the size")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dex_out_of_core_", dir=given.folder))
    try:
        began = time.monotonic()
        n_cells, nnz = write_screen(
            folder / "screen.h5ad", given.gib, given.features, given.targets, given.density
        )
        size = (folder / "screen.h5ad").stat().st_size / 2**30
        print(
            f"{n_cells:,} cells x {given.features:,} features, {nnz:,} nonzeros, {size:.1f} GiB, "
            f"written in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        config = {
            "screens": {"S": {"path": "screen.h5ad"}},
            "analyses": {"mwu": {"engine": "dex", "groupby": "target"}},
            "scatter": {"batches": given.batches, "shards": given.shards},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        command = [
            *launch.snakemake_command(),
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)),
            *("--configfile", str(folder / "config.yaml"), "--cores", str(given.cores)),
        ]
        limited = ["sh", "-c", f'ulimit -v {int(given.limit_gib * 2**20)}; exec "$@"', "sh"]
        environment = launch.snakemake_environment()
        environment.setdefault("CONDRAND_CACHE", str(folder / "kernels"))
        began = time.monotonic()
        log = folder / "snakemake.log"
        with open(log, "w") as out:
            done = subprocess.run(
                [*limited, *command], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        wall = time.monotonic() - began
        print(
            jobs(folder)
            .groupby("job", sort=False)
            .agg(
                jobs=("wall s", "size"),
                wall=("wall s", "sum"),
                cpu=("cpu s", "sum"),
                max_rss_mib=("max RSS MiB", "max"),
            )
            .round(0)
            .to_string()
        )
        if done.returncode:
            sys.exit(log.read_text()[-3000:])
        tests = given.targets * nnz / 1e9
        print(
            f"whole run {wall:.0f} s on {given.cores} cores, every process within "
            f"{given.limit_gib:g} GiB of address space: {wall / tests:.3f} s per 1e9 nonzeros x "
            f"target ({wall / (nnz / 1e9):.0f} s per 1e9 nonzeros)"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
