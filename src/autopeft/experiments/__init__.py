"""Comparisons described in YAML, one class a kind of them, and the pages made of their results."""

from __future__ import annotations

from autopeft.experiments._experiment import Experiment, Part, Place, read, results_of, run
from autopeft.experiments._page import summary, write_summary

__all__ = ["Experiment", "Part", "Place", "read", "results_of", "run", "summary", "write_summary"]
