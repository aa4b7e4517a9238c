"""Rule crt_units: one table of every unit's treated cells and propensities."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_steps import units_table
from condrand.io.tables import write_tsv

labels = (snakemake.wildcards.screen, snakemake.wildcards.analysis)
write_tsv(units_table(snakemake.input.propensities, labels), snakemake.output.units)
