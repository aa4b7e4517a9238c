"""Groups of samples: one colour each, in every figure the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import natural_key, shorten

# Okabe & Ito (2008); their yellow, which is faint on white, comes last.
_COLOURS = (
    style.BLUE,
    style.ORANGE,
    "#009E73",
    style.VERMILLION,
    "#CC79A7",
    "#56B4E9",
    style.BLACK,
    "#F0E442",
)
# More names than these would lie over each other.
MAX_NAMES = 60
_LETTERS = 20
_NAME = 1.0


@dataclass(frozen=True)
class Groups:
    """Groups of n samples.

    Attributes
    ----------
    names : list of str
        In natural order.
    codes : int64 array, shape (n,)
        Position of the group of each sample.
    colours : list of str
        One per group, told apart by colour-blind readers up to eight; more of them are steps of
        one scale.
    """

    names: list[str]
    codes: np.ndarray
    colours: list[str]

    @classmethod
    def of(cls, labels: Sequence) -> "Groups":
        """Give the groups of samples by their labels."""
        labels = [str(label) for label in labels]
        names = sorted(set(labels), key=natural_key)
        place = {name: i for i, name in enumerate(names)}
        codes = np.array([place[label] for label in labels], dtype=np.int64)
        if len(names) <= len(_COLOURS):
            return cls(names, codes, list(_COLOURS[: len(names)]))
        scale = matplotlib.colormaps["viridis"]
        return cls(names, codes, [to_hex(c) for c in scale(np.linspace(0, 1, len(names)))])

    @property
    def order(self) -> np.ndarray:
        """Samples by group; in each as given."""
        return np.argsort(self.codes, kind="stable")

    def colour_of(self, sample: int) -> str:
        """Give the colour of the group of a sample."""
        return self.colours[self.codes[sample]]

    def legend(self, figure: Figure, title: str) -> None:
        """Put a legend of the groups above the panels, headed by the title of the figure."""
        handles = [
            Line2D([], [], linestyle="none", marker="o", color=c, markersize=4, markeredgewidth=0)
            for c in self.colours
        ]
        names = [shorten(name, 24) for name in self.names]
        longest = max((len(name) for name in names), default=1)
        # A letter of a small font is some 0.05 inches wide, a mark and its gaps 0.3.
        columns = int((figure.get_figwidth() - 0.2) // (0.3 + 0.05 * longest))
        style.legend_above(figure, handles, names, title, max(1, min(columns, len(names))))

    def strip(self, panel: Axes, samples: np.ndarray) -> None:
        """Draw a bar of the colours of groups over the columns of a heat map.

        Parameters
        ----------
        panel
            Changed in place: column j is the range from j - 0.5 to j + 0.5.
        samples : int64 array
            The sample of each column.
        """
        panel.pcolormesh(
            np.arange(samples.size + 1) - 0.5,
            [0.0, 1.0],
            self.codes[samples][None],
            cmap=ListedColormap(self.colours),
            vmin=-0.5,
            vmax=len(self.names) - 0.5,
            gid="groups",
        )
        panel.set_xlim(-0.5, samples.size - 0.5)
        panel.set_axis_off()


def name_samples(panel: Axes, samples: Sequence, axis_label: str = "Sample") -> None:
    """Name samples below a panel, where they are few enough to be read.

    Parameters
    ----------
    panel
        Changed in place: sample j is at j.
    samples
        Names in the order drawn.
    axis_label
        Of the axis; followed by the number of samples where they are not named.
    """
    if len(samples) > MAX_NAMES:
        panel.set_xticks([])
        panel.set_xlabel(f"{axis_label} ({len(samples):,}, by group)")
        return
    size = style.SMALL_FONT - 0.5
    names = [fit(shorten(name, _LETTERS), 72.0 * _NAME, size=size) for name in samples]
    panel.set_xticks(range(len(names)), names, rotation=90)
    panel.tick_params(axis="x", labelsize=size, length=0)
    panel.set_xlabel(axis_label)
