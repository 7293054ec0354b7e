"""What Bayesian optimisation needs: surrogates, acquisition, local search."""
