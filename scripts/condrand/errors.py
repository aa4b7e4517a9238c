"""What a user did not mean: collected, then reported once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input. The message names the file, the key, the values found and the mend."""


def listed(values: Iterable[object], most: int = 5) -> str:
    """The first few of `values` as text, and how many more there are."""
    values = list(values)
    shown = ", ".join(str(value) for value in values[:most])
    more = len(values) - most
    return f"{shown} and {more:,} more" if more > 0 else shown


def quoted(values: Iterable[object], most: int = 5) -> str:
    """As :func:`listed`, each value in quotes, so that blanks at its ends show."""
    return listed((repr(str(value)) for value in values), most)


def nearest(word: str, words: Iterable[object]) -> str:
    """The one of `words` that `word` may have been meant to be, as a question; empty if none."""
    words = [str(there) for there in words]
    # A word that differs in case or blanks alone comes before one that shares more letters.
    plain = word.strip().lower()
    close = [there for there in words if there.strip().lower() == plain]
    close = close or get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? " if close else ""


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
        text = f"{key}: {what}\n      -> {mend}"
        # Two analyses that read the same matrix find the same faults.
        if text not in self.found:
            self.found.append(text)

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
