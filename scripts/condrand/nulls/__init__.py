"""From resampled statistics to p values: empirical, or a curve fitted to their summary."""
