"""Which cells are compared: those of each group, those of the control, samples of either."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from condrand.samplers.streams import stream_key

# Words for controls; any other is the name of a group.
NTC, REST, PERTURBED = "ntc", "rest", "perturbed"
CONTROLS = (NTC, REST, PERTURBED)


def at_most(cells: np.ndarray, most: int | None, seed: int, name: str) -> np.ndarray:
    """A sorted random sample of a group's cells.

    Parameters
    ----------
    cells : int64, shape (n_cells,)
        Numbers of the cells in the screen, sorted.
    most : int or None
        Size of the sample; None, or as many as there are cells, takes all.
    seed : int
    name : str
        Of the group.

    Returns
    -------
    int64, shape (at most `most`,)

    Notes
    -----
    Definition: the cells with the smallest random words; a cell's word depends on the seed, the
    group's name and the cell's number alone, so other groups do not matter, and a larger sample
    contains a smaller one.
    Cost: one word for each cell of the screen up to the group's last.
    """
    cells = np.asarray(cells, np.int64)
    if most is None or cells.size <= most:
        return cells
    low, high = (int(word) for word in stream_key(seed, "sample", name))
    words = np.random.Philox(key=low | high << 32).random_raw(int(cells[-1]) + 1)[cells]
    return np.sort(cells[np.argsort(words, kind="stable")[:most]])


@dataclass(frozen=True)
class Control:
    """The cells that groups are compared with.

    Attributes
    ----------
    name : str
        "ntc", "rest", "perturbed" or the name of a group.
    pool, taken : bool, shape (n_cells,)
        Cells that may be control cells, and the sample of them that is.
    most : int or None
        Largest sample.
    seed : int
    """

    name: str
    pool: np.ndarray
    taken: np.ndarray
    most: int | None = None
    seed: int = 0

    @classmethod
    def of(
        cls,
        name: str,
        groups: Mapping[str, np.ndarray],
        is_ntc: np.ndarray,
        is_perturbed: np.ndarray,
        most: int | None = None,
        seed: int = 0,
        is_used: np.ndarray | None = None,
    ) -> "Control":
        """The control that a word or a group's name stands for.

        Parameters
        ----------
        name : str
            A group, or, where there is none of that name: "ntc", NTC cells; "rest", all cells;
            "perturbed", cells of any target.
        groups : mapping of str to int64
            Sorted cells of every group of the screen, tested or not.
        is_ntc, is_perturbed : bool, shape (n_cells,)
            Cells that carry NTC guides alone, and cells that belong to a target.
        most : int, optional
            Sample so many cells: of the control, or of each group where the control is "rest" or
            "perturbed" and the groups are part of it.
        seed : int
        is_used : bool, shape (n_cells,), optional
            Cells that "rest" and "perturbed" may take; all by default.

        Raises
        ------
        ValueError
            If there is no such group.
        """
        if name in (REST, PERTURBED) and name not in groups:
            pool = is_perturbed if name == PERTURBED else np.ones(is_ntc.size, bool)
            pool = pool if is_used is None else pool & is_used
            if most is None:
                return cls(name, pool, pool, most, seed)
            taken, alone = np.zeros_like(pool), pool.copy()
            for group, cells in groups.items():
                taken[at_most(cells, most, seed, group)] = True
                alone[cells] = False
            taken[at_most(np.flatnonzero(alone), most, seed, "")] = True
            return cls(name, pool, taken & pool, most, seed)
        if name in groups:
            return cls.of_cells(name, groups[name], is_ntc.size, most, seed)
        if name == NTC:
            return cls.of_cells(name, np.flatnonzero(is_ntc), is_ntc.size, most, seed)
        raise ValueError(f"there is no group {name!r} to compare with")

    @classmethod
    def of_cells(
        cls, name: str, cells: np.ndarray, n_cells: int, most: int | None = None, seed: int = 0
    ) -> "Control":
        """The control of these cells, int64 and sorted, out of `n_cells`."""
        pool, taken = np.zeros((2, n_cells), bool)
        pool[cells] = True
        taken[at_most(cells, most, seed, name)] = True
        return cls(name, pool, taken, most, seed)

    @property
    def cells(self) -> np.ndarray:
        """The control cells: int64, sorted."""
        return np.flatnonzero(self.taken)

    def compared(self, name: str, cells: np.ndarray) -> tuple[np.ndarray, bool]:
        """Cells of a group that are compared, and whether they are among the control cells.

        Parameters
        ----------
        name : str
        cells : int64
            All cells of the group, sorted.

        Returns
        -------
        int64, bool
            A group within the control is compared with the control less these cells. They are
            all of the group's cells that the control has, so no cell is on both sides.

        Raises
        ------
        ValueError
            If some but not all of its cells may be control cells.
        """
        inside = int(np.count_nonzero(self.pool[cells]))
        if inside == 0:
            return at_most(cells, self.most, self.seed, name), False
        if inside == cells.size:
            return cells[self.taken[cells]], True
        raise ValueError(
            f"{inside:,} of the {cells.size:,} cells of {name!r} are control cells "
            f"({self.name!r}): take these cells out of one of the two"
        )
