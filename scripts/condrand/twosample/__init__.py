"""Many groups of cells against one control group, feature by feature: U, Welch's t, p values."""
