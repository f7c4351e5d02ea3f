"""How often something that is not a star passes for one: simulated contaminants of `psf_chi2`."""

import numpy as np
from astropy.table import Table

from sla1tools.candidates.psf import fit_stamps, pixel_integrated_gaussian
from sla1tools.candidates.shapes import SIZE, paint, rival_templates


def contaminant_pass_rates(fwhm, noise, fluxes, snr_min, p_min, trials, seed):
    """Simulate stars and the shapes that are not stars, and count how many pass for a star.

    Parameters
    ----------
    fwhm, noise : float
        Of the star in pixels, and the 1-sigma noise of every pixel in electrons, without the source's own.
    fluxes : sequence of float
        Electrons in the whole source (a column's in five of its pixels).
    snr_min, p_min : float
        A stamp passes with snr >= snr_min and p_value >= p_min.
    trials, seed : int
        Stamps of each kind at each flux; of the random numbers.

    Returns
    -------
    rates : Table
        Columns kind, flux, passed, trials; kinds 'star' (any sub-pixel phase), those of `rival_templates`, and 'L'.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for kind in ("star", *rival_templates(), "L"):
        for flux in fluxes:
            stamps = _leader_stamps(flux * _sources(kind, fwhm, trials, rng), noise, rng)
            fits = fit_stamps(stamps, noise, True, fwhm)
            passed = np.count_nonzero((fits["snr"] >= snr_min) & (fits["p_value"] >= p_min))
            rows.append((kind, float(flux), passed, trials))
    return Table(rows=rows, names=("kind", "flux", "passed", "trials"), units={"flux": "electron"})


def _leader_stamps(sources, noise, rng):
    """Add noise to (n, 7, 7) expected electrons and cut (n, 5, 5) around the brightest of the nine pixels amid them."""
    scenes = rng.poisson(sources) + rng.normal(0.0, noise, sources.shape)
    y, x = np.divmod(scenes[:, 2:5, 2:5].reshape(-1, 9).argmax(1), 3)
    windows = np.lib.stride_tricks.sliding_window_view(scenes, (SIZE, SIZE), (1, 2))
    return windows[np.arange(len(scenes)), y, x]


def _sources(kind, fwhm, trials, rng):
    """Return (trials, 7, 7) scenes of unit flux."""
    if kind == "star":
        dx, dy = rng.uniform(-0.5, 0.5, (2, trials))
        return pixel_integrated_gaussian(dx, dy, fwhm, SIZE + 2)
    templates = paint([[(0, 0), (0, 1), (1, 0)]]) if kind == "L" else rival_templates()[kind]
    scenes = np.pad(templates / templates.sum((1, 2), keepdims=True), ((0, 0), (1, 1), (1, 1)))
    if kind == "column":  # it goes on beyond the stamp
        scenes[:, [0, -1]] = scenes[:, [1, -2]]
    return scenes[rng.integers(len(scenes), size=trials)]
