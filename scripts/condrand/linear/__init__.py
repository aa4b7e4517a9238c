"""Linear models of many features at once, in the manner of limma: arrays in, arrays out.

A numerical layer: it knows numpy, scipy and ``condrand.kernels``, but no files and no tables.
Names of features and coefficients travel as lists inside :class:`~condrand.linear.fit.Fit`.
"""
