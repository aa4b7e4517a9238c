"""Files appear whole or not at all."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write to a temporary name beside `path`, and rename to it when the block ends well.

    Parameters
    ----------
    path : str or pathlib.Path
        The file to make; its folder is created.

    Yields
    ------
    pathlib.Path
        Where to write. It is removed if the block raises. A process that is killed leaves it
        behind under a name nobody reads; the next writer of `path` on the same host clears it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    litter = re.compile(re.escape(f".{path.name}.{host}.") + r"(\d+)\.tmp")
    for left in path.parent.iterdir():
        match = litter.fullmatch(left.name)
        if match and not _alive(int(match[1])):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{host}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
