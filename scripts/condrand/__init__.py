"""condrand: calibrated, FDR-controlled effects from perturbation screens.

The workflow's entry scripts and a notebook call the same functions. Importing the package is
cheap; numba, anndata and pandas are imported by the modules that need them.
"""

from condrand.version import __version__

__all__ = ["__version__"]
