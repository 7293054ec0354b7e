"""Trained adapters on disk: saving, loading, predicting, exporting."""
