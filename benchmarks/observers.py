"""The observers' whole computation, from its description: read and scale, combine, subtract, search by their rule."""

from astropy.nddata import CCDData
from ccdproc import combine
from observers_rule import find_candidates, find_leaders


def read_darks(parameters):
    """Read every dark of the capture folder, in electrons."""
    files = [CCDData.read(path, unit="adu") for path in sorted(parameters.capture_directory.glob("*.fits"))]
    return [CCDData(file.data * parameters.scale, unit="adu") for file in files]


def search(residual, parameters):
    """Find one residual's (leaders, candidates)."""
    leaders = find_leaders(residual, parameters.threshold)
    return leaders, find_candidates(residual, parameters.threshold, parameters.ratio)


def run(parameters):
    """Find every frame's (leaders, candidates), each less the combination of all."""
    darks = read_darks(parameters)
    master = combine(darks, method=parameters.combination_method)
    return [search(dark.data - master.data, parameters) for dark in darks]


def held_out(darks, k, parameters):
    """Find one frame's (leaders, candidates), less the combination of the others."""
    master = combine([*darks[:k], *darks[k + 1 :]], method=parameters.combination_method)
    return search(darks[k].data - master.data, parameters)
