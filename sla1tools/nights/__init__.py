"""Notebook 04: nights in order, their control limits, and the pixels that come back."""
