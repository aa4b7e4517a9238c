"""Who is treated in resample b: a function of (seed, unit, block, cell), never of scheduling."""
