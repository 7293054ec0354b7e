"""Bayesian optimisation on the lattice: surrogates, acquisition, local search."""
