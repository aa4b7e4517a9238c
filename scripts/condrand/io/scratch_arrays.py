"""Arrays too large for memory: files in a folder of their own that goes when they do."""

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

# Share of the free space that arrays may take.
_SHARE = 0.9


class ScratchArrays:
    """A folder of arrays, deleted with this object, at the latest when Python ends.

    Parameters
    ----------
    within : str or pathlib.Path, optional
        Existing folder for the new one; that for temporary files if not given.

    Attributes
    ----------
    folder : pathlib.Path
        Unique.
    """

    def __init__(self, within: str | Path | None = None) -> None:
        if within is not None and not Path(within).is_dir():
            raise ValueError(f"disk_storage_dir: {str(within)!r} is no folder: make it first")
        self.folder = Path(tempfile.mkdtemp(prefix="condrand-arrays-", dir=within))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def reserve(self, n_bytes: int) -> None:
        """Make sure that there is room.

        Raises
        ------
        OSError
            If arrays of so many bytes would take more than nine tenths of the free space.
        """
        free = shutil.disk_usage(self.folder).free
        if n_bytes > _SHARE * free:
            raise OSError(
                f"{self.folder}: {n_bytes / 2**30:.1f} GB of arrays, {free / 2**30:.1f} GB free: "
                "name another disk_storage_dir, or predict fewer cells or genes"
            )

    def array(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        """A new array of float64 in a file of its own.

        It keeps this object alive, so that its file lasts as long as it is used.
        """
        made = np.lib.format.open_memmap(
            self.folder / f"{name}.npy", mode="w+", dtype=np.float64, shape=shape
        )
        made.scratch = self
        return made

    def remove(self) -> None:
        """Delete the folder now."""
        self._remove()
