"""Comparisons described in YAML, and the pages made of their results."""
