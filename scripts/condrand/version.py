"""Versions: of the package, and of the numbers each stage produces.

Standard library only: the Snakefile imports this module.
"""

import hashlib
from pathlib import Path

__version__ = "0.1.0"

# Snakemake does not see edits in imported modules, so every rule carries the version of its
# stage's numbers as a parameter. Raise the number when, and only when, results change; add a
# line to CHANGELOG.md ("Numbers that change") and renew the golden digest in the same commit.
RESULTS_VERSION = {
    "simulate": 1,
    "load": 3,
    "ntc_groups": 1,
    "normalize": 2,
    "crt_propensity": 2,
    "crt_shard": 2,
    "crt_merge": 3,
    "crt_refine": 2,
    "crt_effects": 1,
    "crt_ntc_null": 1,
    "dex_groups": 1,
    "dex_shard": 1,
    "dex_merge": 1,
    "load_samples": 1,
    "limma_filter": 1,
    "limma_voom": 1,
    "limma_shard": 1,
    "limma_effects": 1,
    "anova_shard": 1,
    "anova_effects": 1,
    "kompot_states": 1,
    "kompot_abundance": 1,
    "kompot_shard": 1,
    "kompot_null": 1,
    "kompot_effects": 1,
    "kompot_panels": 1,
    "merge": 3,
    "plots": 2,
}


def kernel_sources_digest() -> str:
    """Digest of every kernel source, as 16 hexadecimal digits.

    Names the folder of compiled kernels: numba's own cache does not notice an edit in another
    module than the one it compiled.
    """
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted((Path(__file__).parent / "kernels").glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()
