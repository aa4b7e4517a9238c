"""The plot stage: tables in, figure files out."""

from pathlib import Path

from condrand.io.figures import save_figure
from condrand.io.tables import read_parquet
from condrand.plots.p_histogram import p_histogram
from condrand.plots.qq import qq
from condrand.plots.volcano import volcano, volcano_by_feature


def draw_effects(
    effects: str | Path, controls: str | Path, fdr: float, figures: dict[str, str]
) -> None:
    """Step of rule plot_effects: every figure made from the tables of effects.

    Parameters
    ----------
    effects, controls : str or pathlib.Path
        Tables of the merge stage.
    fdr : float
        Threshold of a discovery.
    figures : dict of str to str
        Files to write, named ``{figure}_png`` and ``{figure}_svg``.
    """
    table, null = read_parquet(effects), read_parquet(controls)
    drawn = {
        "qq": qq(table, null),
        "volcano": volcano(table, fdr=fdr),
        "volcano_by_feature": volcano_by_feature(table, fdr=fdr),
        "p_histogram": p_histogram(table, null),
    }
    for name, figure in drawn.items():
        save_figure(figure, figures[f"{name}_png"], figures[f"{name}_svg"])
