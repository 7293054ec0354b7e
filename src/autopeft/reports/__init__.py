"""Reports: what a study has found, as tables and pages."""
