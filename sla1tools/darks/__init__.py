"""Notebook 01: the reference, its noise, photon transfer, structure, and the classes of bad pixels."""
