"""What a user did not mean: collected, then reported once."""

from collections.abc import Iterable
from dataclasses import dataclass, field


class InputError(ValueError):
    """Bad input. The message names the file, the key, the values found and the mend."""


def listed(values: Iterable[object], most: int = 5) -> str:
    """The first few of `values` as text, and how many more there are."""
    values = list(values)
    shown = ", ".join(str(value) for value in values[:most])
    more = len(values) - most
    return f"{shown} and {more:,} more" if more > 0 else shown


@dataclass
class Problems:
    """Everything found wrong with one source, to be reported together.

    Attributes
    ----------
    source : str
        File or configuration the problems are in, as the user named it.
    """

    source: str
    found: list[str] = field(default_factory=list)

    def add(self, key: str, what: str, mend: str) -> None:
        """Note that `key` holds `what`, which `mend` would put right."""
        self.found.append(f"{key}: {what}\n      -> {mend}")

    def report(self) -> None:
        """Raise what was found.

        Raises
        ------
        InputError
            Listing every problem, if there is any.
        """
        if not self.found:
            return
        count = "1 problem" if len(self.found) == 1 else f"{len(self.found)} problems"
        lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(self.found, 1))
        raise InputError(f"{self.source}: {count}\n{lines}")
