"""Fixtures of the unit tests alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import condrand

PACKAGE = str(Path(condrand.__file__).parents[1])


@pytest.fixture
def kill_midway() -> Callable[..., None]:
    """Run code in a process of its own, and end it by a signal once it has printed a line."""

    def run(code: str, path: Path, says: str, by: signal.Signals = signal.SIGKILL) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONPATH": PACKAGE},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout.readline() == f"{says}\n"
        finally:
            process.send_signal(by)
            process.wait(timeout=30)
            process.stdout.close()

    return run
