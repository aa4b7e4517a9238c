"""Gaussian processes over cell states: arrays in, arrays out.

A numerical layer: it knows numpy, scipy and ``condrand.kernels``, but no files and no tables.
Rows are cells and columns are dimensions or genes. With m inducing points and n cells nothing
larger than ``n x m`` is made, and that only where it is asked for.

Sums over cells run in batches of fixed size. The bits are those of BLAS on one thread, as in jobs:
on several it splits its sums otherwise, so a notebook's last digits may differ.

Symbols: U inducing points; K the Matern-5/2 covariance; ``L L' = K(U, U) + jitter I``;
``A' = K(X, U) L**-T``, the whitened covariance of cells.
"""
