"""Nights with a known truth, and scores against it."""
