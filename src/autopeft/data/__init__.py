"""Data as rows and examples: tables, splits, metrics."""
