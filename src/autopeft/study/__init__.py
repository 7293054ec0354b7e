"""Studies: stored searches that survive their processes."""
