"""The shapes that a camera makes and a star does not, and how often they pass for a star."""

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import CRITERIA
from sla1tools.candidates.fit import fit_stamps
from sla1tools.candidates.leaders import STAMP_SIZE
from sla1tools.candidates.psf import as_psf


def rival_templates():
    """Return the shapes that a camera makes and a star does not: name -> (k, 5, 5) float array.

    All contain the centre pixel. The k templates of a name are its orientations and positions; a plus is flat, or has
    the threefold centre of the observers' test pattern. Each is fitted with a free amplitude and a free background.
    """
    plus = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
    lines = [[(k * dy, k * dx) for k in range(-2, 3)] for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))]
    return {
        "single pixel": paint([[(0, 0)]]),
        "pair": paint([[(0, 0), step] for step in plus[1:]]),
        "track": paint([line[first : first + 3] for line in lines for first in range(3)]),
        "column": paint([lines[1]]),
        "plus": paint([plus, [*plus, (0, 0), (0, 0)]]),
        "block": paint([[(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)] for y in (-1, 0) for x in (-1, 0)]),
    }


def paint(shapes):
    """Make (k, 5, 5) templates of lists of pixels, (y, x) from the centre; a pixel listed twice counts twice."""
    templates = np.zeros((len(shapes), STAMP_SIZE, STAMP_SIZE))
    for template, pixels in zip(templates, shapes, strict=True):
        for y, x in pixels:
            template[y + STAMP_SIZE // 2, x + STAMP_SIZE // 2] += 1
    return templates


def contaminant_pass_rates(psf, noise, fluxes, snr_min, p_min, trials, seed):
    """Simulate stars and the shapes that are not stars, and count how many pass for a star.

    Parameters
    ----------
    psf : PSF or float
        The star's image, in the middle of the frame; a number is the FWHM of a Gaussian, in pixels. Stars are drawn
        with its errors of size and shape.
    noise : float
        1-sigma noise of every pixel in electrons, without the source's own.
    fluxes : sequence of float
        Electrons in the whole source (a column's in five of its pixels).
    snr_min, p_min : float
        Cuts of `psf_chi2`, by which a stamp passes.
    trials, seed : int
        Stamps of each kind at each flux; of the random numbers.

    Returns
    -------
    rates : Table
        Columns kind, flux, passed, trials; kinds 'star' (any sub-pixel phase), those of `rival_templates`, and 'L'.
    """
    rng, psf = np.random.default_rng(seed), as_psf(psf)
    rows = []
    for kind in ("star", *rival_templates(), "L"):
        for flux in fluxes:
            stamps = _leader_stamps(flux * _sources(kind, psf, trials, rng), noise, rng)
            fits = fit_stamps(stamps, noise, True, psf)
            measured = {"snr": fits["snr"], "p_value": fits["p_value"], "dq": np.zeros(trials, int)}
            passed = np.count_nonzero(CRITERIA["psf_chi2"].passes(measured, {"snr_min": snr_min, "p_min": p_min}))
            rows.append((kind, float(flux), passed, trials))
    return Table(rows=rows, names=("kind", "flux", "passed", "trials"), units={"flux": "electron"})


def _leader_stamps(sources, noise, rng):
    """Add noise to (n, 7, 7) expected electrons and cut (n, 5, 5) around the brightest of the nine pixels amid them."""
    scenes = rng.poisson(sources) + rng.normal(0.0, noise, sources.shape)
    y, x = np.divmod(scenes[:, 2:5, 2:5].reshape(-1, 9).argmax(1), 3)
    windows = np.lib.stride_tricks.sliding_window_view(scenes, (STAMP_SIZE, STAMP_SIZE), (1, 2))
    return windows[np.arange(len(scenes)), y, x]


def _sources(kind, psf, trials, rng):
    """Return (trials, 7, 7) scenes of unit flux."""
    if kind == "star":
        dx, dy = rng.uniform(-0.5, 0.5, (2, trials))
        return psf.stars(dx, dy, psf.draw_modes(trials, rng), size=STAMP_SIZE + 2)
    templates = paint([[(0, 0), (0, 1), (1, 0)]]) if kind == "L" else rival_templates()[kind]
    scenes = np.pad(templates / templates.sum((1, 2), keepdims=True), ((0, 0), (1, 1), (1, 1)))
    if kind == "column":  # it goes on beyond the stamp
        scenes[:, [0, -1]] = scenes[:, [1, -2]]
    return scenes[rng.integers(len(scenes), size=trials)]
