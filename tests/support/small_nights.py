"""Small simulated nights on disk, for the tests of detection, injection, rates and measurement."""

from dataclasses import replace

from simulated import simulate_counts, write_night

from sla1tools.frames.capture import judge_capture
from sla1tools.parameters import Parameters


def parameters_of(directory, shape, **changes) -> Parameters:
    return Parameters(**({"sessions_directory": str(directory), "frame_shape": shape, "injections": 400} | changes))


def write_small_night(directory, frames=5, shape=(96, 96), seed=1, changes=None, **options):
    """Write a night (noise alone unless `clean=False`) and judge it; returns the night and its simulation."""
    simulated = simulate_counts(frames, shape, seed, **({"clean": True, "glow": 0.0} | options))
    parameters = parameters_of(directory, shape, **(changes or {}))
    write_night(parameters.capture_directory, simulated)
    return judge_capture(parameters), simulated


def with_parameters(night, **changes):
    """The same frames under other parameters."""
    return replace(night, parameters=night.parameters.model_copy(update=changes))


def with_counts(night, k, counts):
    """The same night with other raw counts in frame k; nothing else is judged anew."""
    frame = night.frames[k]
    changed = replace(frame, stored=replace(frame.stored, counts=counts))
    return replace(night, frames=(*night.frames[:k], changed, *night.frames[k + 1 :]))
