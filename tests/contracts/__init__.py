"""Contracts: every member of a kind, found by discovery. A package, so that its files may share names with `tests/`."""
