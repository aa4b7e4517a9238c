"""Steps of analyses as the rules run them, in a folder of their own, and their settings."""

from condrand.engines import limma_steps as steps
from condrand.io.tables import read_parquet, read_tsv
from condrand.screen import load_screen

# Of engine limma: all but the design, groups and contrasts.
LIMMA_FILTER = {
    "transform": "counts",
    "filter": {"method": "cpm", "min_count": 10},
    "strip_prefix": True,
    "colour": None,
}
LIMMA_VOOM = {
    "transform": "voom",
    "span": None,
    "prior_count": 2.0,
    "strip_prefix": True,
    "array_weights": False,
}
LIMMA_TESTS = {
    "exact_contrasts": False,
    "moderation": {"trend": False, "robust": False, "proportion": 0.01, "legacy": True},
    "treat": None,
    "decide": {"method": "separate", "adjust": "BH", "lfc": 0.0},
}
_LIMMA_WRITTEN = {
    "effects": "effects.parquet",
    "effects_tsv": "effects.tsv.gz",
    "features": "features.tsv.gz",
    "calls": "calls.tsv",
    "moderation": "moderation.tsv",
}
# Of engine kompot: where the cells lie.
STATES = {
    "outcome": {
        **{"key": "X", "transform": "auto", "library_size": None, "target_sum": 1e4},
    },
    "condition": "treatment",
    "levels": ["ctrl", "stim"],
    "sample": None,
    "embedding": {
        **{"key": None, "method": "pca", "n_components": 3, "n_features": 100},
        "n_neighbors": 15,
    },
    "plot_embedding": None,
    "n_landmarks": 20,
    "length_scale": None,
    "ls_factor": 10.0,
    "sample_variance": "auto",
    "min_cells": 10,
}


class LimmaFolder:
    """Files of one limma analysis."""

    def __init__(self, path, labels, design, contrasts, groups=None, normalization="tmm"):
        self.path, self.labels = path, labels
        self.design, self.contrasts = {"design": design}, {"contrasts": contrasts}
        self.filtering = {
            **LIMMA_FILTER,
            **self.design,
            "filter": {**LIMMA_FILTER["filter"], "groups": groups},
            "normalization": normalization,
        }

    def __getitem__(self, name):
        return self.path / name

    def filter(self, samples=None, matrix=None, **changes):
        settings = self.filtering | changes
        settings["filter"] = self.filtering["filter"] | changes.get("filter", {})
        source, made = samples or self["samples.h5ad"], self["filtered.h5ad"]
        steps.filter_features(source, made, settings, design_matrix=matrix)
        return self

    def voom(self, filtered=None, threads=1, matrix=None, **changes):
        settings = LIMMA_VOOM | self.design | changes
        source, made = filtered or self["filtered.h5ad"], self["outcome.h5ad"]
        steps.voom_samples(source, matrix, made, settings, threads)
        return self

    def fit(self, n_shards=2, threads=1):
        shards = [self[f"shard-{n_shards}-{s}.h5"] for s in range(n_shards)]
        for s, shard in enumerate(shards):
            steps.fit_shard(self["outcome.h5ad"], shard, (s, n_shards), threads)
        return shards

    def test(self, shards=None, threads=1, fdr=0.05, **changes):
        settings = LIMMA_TESTS | self.contrasts | changes
        written = {key: self[name] for key, name in _LIMMA_WRITTEN.items()}
        shards = self.fit() if shards is None else shards
        outcome = self["outcome.h5ad"]
        steps.test_contrasts(outcome, shards, self.labels, settings, fdr, written, threads)
        return self

    def bits(self):
        return {name: self[name].read_bytes() for name in _LIMMA_WRITTEN.values()}

    @property
    def effects(self):
        return read_parquet(self["effects.parquet"])

    @property
    def prior(self):
        return read_tsv(self["moderation.tsv"]).set_index("name")["value"]


def load_conditions(user, stored, outcome, embeddings, levels=("ctrl", "stim")):
    """Load cells with the columns `treatment` and `donor`, as an analysis of kompot wants it."""
    groupings = [
        {"groupby": column, "targets": targets, "control": "rest", "control_group": None}
        for column, targets in (("treatment", list(levels)), ("donor", "all"))
    ]
    needs = {
        **{"guides": False, "covariates": False, "targets": [], "controls": False},
        **{"ntc_cells": False, "batch_keys": [], "groupings": groupings},
        "embeddings": list(embeddings),
    }
    settings = {"ntc_labels": [], "program_names": "program_names"}
    load_screen(user, settings, [outcome], needs, 1, stored, stored.parent / "targets.tsv")
