"""condrand: calibrated, FDR-controlled effects from perturbation screens.

The workflow's entry scripts and a notebook call the same functions. Importing the package is
cheap; numba, anndata and pandas are imported by the modules that need them, and those of the
notebook (:mod:`condrand.api`) when one of its names is first asked for.
"""

from importlib import import_module
from importlib.util import find_spec

from condrand.version import __version__ as __version__


def __getattr__(name: str) -> object:
    # `from condrand import plan` asks for an attribute before it looks for a module.
    is_module = not name.startswith("__") and find_spec(f"{__name__}.{name}") is not None
    if name == "__all__" or not (is_module or name.startswith("__")):
        api = import_module("condrand.api")
        if name == "__all__" or name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("condrand.api").__all__})
