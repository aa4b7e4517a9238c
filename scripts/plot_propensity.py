"""Rule plot_propensity: treated cells and propensities of every unit."""

from condrand.entry import start

start(snakemake)

from condrand.io.figures import save_figure
from condrand.io.tables import read_tsv
from condrand.plots.propensity import propensity

save_figure(
    propensity(read_tsv(snakemake.input.units)), snakemake.output.png, snakemake.output.svg
)
