"""R-style formulas before they are evaluated: the columns they name."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from condrand.errors import Problems, listed, nearest, quoted

if TYPE_CHECKING:  # formulaic is imported where a formula is read
    from formulaic import Formula


def right_side(formula: str) -> str:
    """A formula without the tilde it may begin with."""
    return formula.strip().removeprefix("~").strip()


def words_of(right: str) -> set[str]:
    """All that may name a column; formulaic does not name those inside ``bs()`` and its like."""
    return {quote or word for quote, word in re.findall(r"`([^`]+)`|([^\W\d][\w.]*)", right)}


def note_strangers(
    key: str,
    formula: str,
    parsed: "Formula",
    there: Sequence[str],
    holder: str,
    mend: str,
    problems: Problems,
) -> bool:
    """Whether a formula names columns that there are not; noted if so.

    Parameters
    ----------
    key : str
    formula : str
        As the user wrote it.
    parsed : formulaic.Formula
    there : sequence of str
        Columns.
    holder : str
        What has them.
    mend : str
    problems : Problems
    """
    unknown = sorted(set(parsed.required_variables) - set(there))
    if unknown:
        close = "".join(nearest(name, there) for name in unknown)
        problems.add(
            key,
            f"{formula!r} names {quoted(unknown)}, which {holder} does not have",
            f"{mend} {close}There are: {listed(there, 20)}.",
        )
    return bool(unknown)
