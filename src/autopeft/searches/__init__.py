"""Searches that answer a parameter budget by a search of their own, under the names that users type."""
