"""Notebook 03: injected stars, completeness, the operating point."""
