"""What every entry script does first: caps threads, opens the log, and reports bad input plainly.

Called before numpy, numba or h5py are imported, so that the caps take effect and an import error
lands in the job's log too.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from condrand.errors import InputError


def start(snakemake: Any) -> None:
    """Redirect output to the job's log and cap threads.

    Parameters
    ----------
    snakemake : snakemake.script.Snakemake
        The object Snakemake hands to a script. ``threads`` caps numba; BLAS always runs on one
        thread, because its sums change in the last bit with the number of threads.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["NUMBA_NUM_THREADS"] = str(snakemake.threads)
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    stream = open(log, "w", buffering=1)
    sys.stdout = sys.stderr = stream
    logging.basicConfig(
        stream=stream,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        force=True,
    )
    logging.captureWarnings(True)
    logging.getLogger("condrand").info("rule %s: %s", snakemake.rule, dict(snakemake.wildcards))

    def report(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if issubclass(kind, InputError):
            print(f"\nBad input. {error}\n", file=stream, flush=True)
            print(f"\nBad input. {error}\n", file=terminal, flush=True)
            return
        sys.__excepthook__(kind, error, traceback)
        message = f"rule {snakemake.rule}: {kind.__name__}: {error} (traceback in {log})"
        print(f"\n{message}\n", file=terminal, flush=True)

    sys.excepthook = report
