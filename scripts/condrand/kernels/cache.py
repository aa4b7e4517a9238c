"""Where compiled kernels are kept: one folder per state of the kernel sources."""

import os
import tempfile
from pathlib import Path

import numba

from condrand.version import kernel_sources_digest


def use_cache() -> Path:
    """Point numba at ``$CONDRAND_CACHE`` (default ``.cache/condrand``), per source digest.

    Falls back to a temporary folder where the place is not writable, so that a read-only
    working directory costs compile time instead of the run.

    Returns
    -------
    pathlib.Path
        The folder numba will use in this process.
    """
    root = Path(os.environ.get("CONDRAND_CACHE", ".cache/condrand")).absolute()
    folder = root / "kernels" / f"{kernel_sources_digest()}-numba-{numba.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="condrand-kernels-"))
    numba.config.CACHE_DIR = str(folder)
    return folder
