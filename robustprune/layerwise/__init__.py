"""Pruning without training: one least-squares problem a layer, many solvers."""
