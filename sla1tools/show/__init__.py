"""Figures, tables, pages and the explorer: renders, writes nothing."""
