"""What the browser must show beside the gallery, from the criteria and the injected stars alone."""

import numpy as np

from sla1tools.candidates import criteria, rates
from sla1tools.injections import completeness
from sla1tools.show.explorer.payload import HELD_OUT


def live_numbers(leaders, injections, parameters, n_frames, flux):
    """Count what a setting lets through and what it finds: the numbers beside the gallery.

    Parameters
    ----------
    leaders : Table
        The night's leaders.
    injections : Injections or None
        The night's injected stars; None, or of no rows, where nothing was injected.
    parameters : Parameters
        The setting: criterion and its cuts.
    n_frames : int
        Frames searched.
    flux : float
        Where completeness is wanted, in electrons.

    Returns
    -------
    numbers : dict
        `held_out`, `in_sample` (candidates against each reference); `rate`, `limit` (false alarms a frame against the
        configured reference, and the 95 % upper limit); `completeness`, `low`, `high`, `found`, `injected` in the flux
        bin that holds `flux` (None where nothing was injected); `flux_50` (electrons; None where completeness never
        rises through 0.5).
    """
    passes = criteria.candidates(leaders, parameters)
    held = np.asarray(leaders["reference"]) == HELD_OUT
    held_out, in_sample = int(np.sum(passes & held)), int(np.sum(passes & ~held))
    rate = rates.poisson_rate(held_out if parameters.reference == HELD_OUT else in_sample, n_frames)
    numbers = {
        "held_out": held_out,
        "in_sample": in_sample,
        "rate": rate.rate,
        "limit": rate.high,
        **dict.fromkeys(("completeness", "low", "high", "found", "injected", "flux_50")),
    }
    if injections is None or len(injections.trials) == 0:
        return numbers
    edges = completeness.flux_bins(parameters.injection_flux_range)
    criterion = criteria.criteria_of(parameters)[parameters.criterion]
    found = injections.recovered(criterion, criterion.configured(parameters))
    curve = completeness.completeness_curve(np.asarray(injections.trials["flux_true"]), found, edges)
    place = curve[int(completeness.bin_of_flux(np.array([flux]), edges)[0])]
    numbers |= {"found": int(place["recovered"]), "injected": int(place["injected"])}
    if place["injected"]:
        numbers |= {name: float(place[name]) for name in ("completeness", "low", "high")}
    some = curve[np.asarray(curve["injected"]) > 0]
    if len(some) > 1:
        crossing = completeness.crossings(
            np.log(np.asarray(some["flux"])), np.asarray(some["completeness"])[None], 0.5
        )[0]
        numbers["flux_50"] = float(np.exp(crossing)) if np.isfinite(crossing) else None
    return numbers
