"""Notebook 02: leaders, the star's image, criteria, false alarms and their limits."""
