"""What is computed from a treated set: a per-cell score and a finalizer on its sums."""
