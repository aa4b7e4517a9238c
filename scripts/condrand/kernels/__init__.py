"""Numba kernels: arrays in, arrays out. Nothing here knows files, tables or Snakemake.

Importing this package points numba's cache at a folder named by the digest of the kernel
sources, because ``cache=True`` alone does not notice edits in *other* modules.

Every kernel is compiled with :data:`KERNEL`: no ``fastmath`` and no fused multiply-add are
requested, and sums run over independent lanes in a fixed order, so that LLVM may vectorize but
never reassociate: the bits do not depend on the vector width of the machine.
"""

from condrand.kernels.cache import use_cache

use_cache()

# error_model="numpy": a Python-style ZeroDivisionError check in a loop prevents vectorization.
KERNEL = {"nogil": True, "cache": True, "error_model": "numpy"}
INLINE = {"inline": "always", "error_model": "numpy"}
