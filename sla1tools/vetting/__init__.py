"""Flashes of science frames, judged by the darks: is it the camera?"""
