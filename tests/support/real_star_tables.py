"""The tables and the figure of docs/real-stars.md, computed.

python tests/real_star_tables.py [SESSIONS]      writes both into docs/
"""

import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from astropy.stats import binom_conf_interval, sigma_clipped_stats
from astropy.table import Table, vstack
from fitted import fit_stamps
from real_stars import EDGES, P_MIN, Field, Judged, judge, measured_fwhm, read_field, stamps_of
from star_psf import HIT_BANDS, Way, cut_by_cause, distance_from_uniform, hits_that_pass, recall, ways
from star_stamps import (
    SHAPES,
    SHARE,
    dark_hits,
    excused,
    gaussian_twins,
    inject_stamps,
    misfit,
    rival_stamps,
    rules,
    shape_chi2,
    templates,
)

from sla1tools.candidates.psf import pixel_integrated_gaussian
from sla1tools.candidates.shapes import rival_templates
from sla1tools.places import CHECKOUT

PAGE = CHECKOUT / "docs" / "real-stars.md"
FIGURE = CHECKOUT / "docs" / "real-stars.png"
FLUXES = np.geomspace(220, 10_000, 10)  # electrons
RIVAL_SNR = (10, 20, 50)
SNR_BANDS = ((8, 20), (20, 50), (50, 100), (100, np.inf))
BANDS = ((1000, 3000), (3000, 10_000), (10_000, np.inf))


@dataclass(frozen=True)
class Analysis:
    """Everything that the page says, before it is written down.

    `stars` are those of all three frames, `fits` the isolated ones with `misfit`'s columns, `stamp` and `sigma`; `hits`
    those of the darks; `real` and `model` the trials of injected stamps.
    """

    field: Field
    fwhm: float
    judged: tuple[Judged, ...]
    stars: Table
    fits: Table
    real: Table
    model: Table
    templates: Table
    hits: Table
    ways: dict[str, Way]

    @property
    def finders(self) -> list[str]:
        """Names of the criteria and finders, as columns of `stars`."""
        return list(self.judged[0].extra)


def analyse(sessions: Path, with_sep: bool) -> Analysis:
    """Read, match, fit and inject: about ten seconds."""
    field = read_field(sessions)
    fwhm = measured_fwhm(field)
    judged = tuple(judge(field, k, fwhm, with_sep) for k in range(3))
    fits = []
    for k, frame in enumerate(judged):
        alone = frame.stars[frame.stars["isolated"]]
        fits.append(misfit(field, k, alone, fwhm))
        fits[-1]["stamp"], fits[-1]["sigma"] = stamps_of(field, k, alone)
    real, hits = templates(field), dark_hits(field, fwhm)
    twins = gaussian_twins(field, real, fwhm, np.random.default_rng(3))
    return Analysis(
        field=field,
        fwhm=fwhm,
        judged=judged,
        stars=vstack([frame.stars for frame in judged]),
        fits=vstack(fits, metadata_conflicts="silent"),
        real=inject_stamps(field, np.array(real["stamp"]), FLUXES, fwhm, seed=5),
        model=inject_stamps(field, twins, FLUXES, fwhm, seed=5),
        templates=real,
        hits=hits,
        ways=ways(field, fwhm, [frame.stars for frame in judged], hits),
    )


def between(table: Table, low: float, high: float) -> Table:
    """Rows of a range of flux."""
    return table[(table["flux"] >= low) & (table["flux"] < high)]


def percent(passed) -> str:
    """Share of a bool array, in per cent."""
    return f"{100 * np.mean(passed):.0f}"


def recall_table(analysis: Analysis) -> list[list[str]]:
    """Recall against flux of every finder, all stars."""
    rows = [["flux, e-", "stars", *analysis.finders]]
    for low, high in pairwise(EDGES[1:]):
        stars = between(analysis.stars, low, high)
        rows.append([_range(low, high), str(len(stars)), *(percent(stars[name]) for name in analysis.finders)])
    return rows


def extra_table(analysis: Analysis) -> list[list[str]]:
    """What is no star of the list, summed over the three frames."""
    kinds = list(analysis.judged[0].extra["psf_chi2"])
    rows = [["detected, three frames", *analysis.finders]]
    return rows + [
        [kind, *(str(sum(frame.extra[name][kind] for frame in analysis.judged)) for name in analysis.finders)]
        for kind in kinds
    ]


def miss_table(analysis: Analysis) -> list[list[str]]:
    """Why stars are missed, in per cent of the stars of a range of flux."""
    rows = [["criterion", "first cut failed", *(f"{_range(low, high)} e-" for low, high in BANDS)]]
    for name, column in (("neighbor_ratio, 5 sigma", "miss_ratio"), ("psf_chi2", "miss_psf")):
        parts = [between(analysis.stars, low, high) for low, high in BANDS]
        counts = [Counter(str(reason) for reason in part[column][~part[name]]) for part in parts]
        for reason in sorted(set().union(*counts)):
            shares = (f"{100 * count[reason] / len(part):.1f}" for count, part in zip(counts, parts, strict=True))
            rows.append([name, reason, *shares])
    return rows


def misfit_table(analysis: Analysis) -> list[list[str]]:
    """How far isolated stars are from the model."""
    rows = [["flux, e-", "stars", "snr", "χ²/dof", "misfit, %", "p ≥ 1e-3", "p ≥ 1e-6"]]
    for low, high in pairwise(EDGES[1:]):
        fits = between(analysis.fits, low, high)
        ratio = np.median(fits["chi2"] / fits["dof"])
        share = f"{100 * np.nanmedian(fits['share']):.0f}" if ratio > 1.1 else "-"  # of noise there is no misfit
        passed = fits["p_value"] >= P_MIN, fits["p_value"] >= 1e-6
        numbers = [f"{np.median(fits['snr']):.0f}", f"{ratio:.2f}", share]
        rows.append([_range(low, high), str(len(fits)), *numbers, *map(percent, passed)])
    return rows


def rival_table(analysis: Analysis) -> list[list[str]]:
    """What shapes that are no stars would pass, at this noise: p_min alone / a misfit excused / the star beats them."""
    rows = [["shape", *(f"snr {snr}" for snr in RIVAL_SNR)]]
    sigma, rng = float(np.median(analysis.field.sigma)), np.random.default_rng(4)
    for name in rival_templates():
        rows.append([name])
        for snr in RIVAL_SNR:
            stamps = rival_stamps(name, snr, sigma, 200, rng)
            fits = fit_stamps(stamps, sigma, True, analysis.fwhm)
            loose = excused(stamps, sigma, analysis.fwhm, SHARE)["p_value"] >= P_MIN
            rows[-1].append(" / ".join(map(percent, (fits["p_value"] >= P_MIN, loose, fits["rival_margin"] < 0))))
    return rows


def rule_table(analysis: Analysis) -> list[list[str]]:
    """Stars in per cent / hits of the darks, by number, that each rule takes for stars."""
    titles = []
    for low, high in SNR_BANDS:
        stars, hits = (in_band(table, low, high).sum() for table in (analysis.fits, analysis.hits))
        titles.append(f"snr {_range(low, high)}: % of {stars} / of {hits}")
    rows = [["rule, above snr 6", *titles]]
    of_stars, of_hits = (
        rules(table["stamp"], table["sigma"], analysis.fwhm) for table in (analysis.fits, analysis.hits)
    )
    for name in of_stars:
        rows.append([name])
        for band in SNR_BANDS:
            stars, hits = of_stars[name][in_band(analysis.fits, *band)], of_hits[name][in_band(analysis.hits, *band)]
            rows[-1].append(f"{percent(stars)} / {np.sum(hits)}")
    hits = (np.sum(analysis.hits["neighbor_ratio"][in_band(analysis.hits, *band)]) for band in SNR_BANDS)
    return [*rows, ["neighbor_ratio, 5 sigma", *(f"- / {count}" for count in hits)]]


def in_band(table: Table, low: float, high: float) -> np.ndarray:
    """Rows of a range of snr."""
    return np.asarray((table["snr"] >= low) & (table["snr"] < high))


def shape_table(analysis: Analysis) -> list[list[str]]:
    """χ² of bright isolated stars of the first frame for other shapes."""
    rows = [["shape", "FWHM, px", "β", "median χ²/dof"]]
    stars = between(analysis.judged[0].stars, 10_000, 40_000)
    stamps, sigma = stamps_of(analysis.field, 0, stars[stars["isolated"]])
    for name, shape in SHAPES.items():
        width = f"{shape[0]:.2f}" if shape[0] == shape[1] else f"{shape[0]:.2f} × {shape[1]:.2f}"
        chi2 = np.median(shape_chi2(stamps, sigma, shape, analysis.fwhm)) / 21
        rows.append([name, width, "-" if np.isinf(shape[3]) else f"{shape[3]:.1f}", f"{chi2:.2f}"])
    return rows


def injected_table(analysis: Analysis) -> list[list[str]]:
    """Completeness of stamps in a dark frame: real / Gaussian."""
    names = ("neighbor_ratio", "any_p", "psf_chi2")
    rows = [["flux, e-", "stars", "neighbor_ratio, 5 sigma", "psf_chi2, any p", "psf_chi2"]]
    for flux in FLUXES:
        both = [trials[trials["flux"] == flux] for trials in (analysis.real, analysis.model)]
        shares = [" / ".join(percent(trials[name]) for trials in both) for name in names]
        rows.append([f"{flux:.0f}", str(len(both[0])), *shares])
    return rows


def facts_table(analysis: Analysis) -> list[list[str]]:
    """Single numbers of the page."""
    field, fits = analysis.field, analysis.fits
    bright, loose = fits["p_value"] >= P_MIN, fits["p_value"] >= 1e-6
    share = typical_share(fits)
    rejected = rejected_snr(fits, bright)
    facts = {
        "sky of the three frames, counts": ", ".join(f"{level:.0f}" for level in np.median(field.sky, axis=(1, 2))),
        "sky noise, counts": f"{sky_rms(field):.1f}",
        "gain, e-/count, by the sky's variance": f"{field.gain:.2f} ± {field.gain_error:.3f}",
        "gain by the header, EGAIN": f"{field.header_gain:.2f}",
        "gain by the darks' photon transfer": f"{field.dark_gain:.2f} ± {field.dark_gain_error:.2f}",
        "sky noise that the header's gain would mean, counts": f"{header_rms(field):.1f}",
        "best FWHM of the pixel-integrated Gaussian, px": f"{analysis.fwhm:.2f}",
        "light of a bright star that this model holds, %": f"{100 * light_held(fits):.0f}",
        "misfit of stars of 5,000 to 100,000 e-, % of the light": f"{100 * share:.0f}",
        "snr where 90 % of isolated stars still pass p ≥ 1e-3": f"{rejected_snr(fits, bright, 0.9):.0f}",
        "snr where 50 % do": f"{rejected:.0f}",
        "snr where 50 % pass p ≥ 1e-6": f"{rejected_snr(fits, loose):.0f}",
        "flux of snr 40 at this FWHM and 40 e- a pixel, e-": f"{flux_of(40, 40.0, analysis.fwhm):.0f}",
        "50 % flux of psf_chi2 in a dark, real over Gaussian": f"{flux_ratio(analysis):.2f}",
        "real stamps": str(len(analysis.templates)),
    }
    return [["", "measured"], *([name, value] for name, value in facts.items())]


def psf_recall_table(analysis: Analysis) -> list[list[str]]:
    """Recall of isolated stars by each PSF, and how p spreads."""
    rows = [["flux, e-", "isolated stars", *analysis.ways, *(f"KS of p, {name}" for name in analysis.ways)]]
    found = [recall(way) for way in analysis.ways.values()]
    spread = [distance_from_uniform(way) for way in analysis.ways.values()]
    for i, (low, high) in enumerate(pairwise(EDGES[1:])):
        stars = between(next(iter(analysis.ways.values())).stars, low, high)
        shares = [f"{way[i]:.0f}" for way in found]
        distances = [f"{way[i - 2]:.2f}" if 2 <= i < 7 else "-" for way in spread]
        rows.append([_range(low, high), str(len(stars)), *shares, *distances])
    return rows


def psf_hits_table(analysis: Analysis) -> list[list[str]]:
    """Hits of the darks that pass by each PSF; measured by the PSFs for each of the three frames."""
    snr = np.asarray(analysis.hits["snr"])
    rows = [["PSF", *(f"snr {_range(*band)}: of {np.sum((snr >= band[0]) & (snr < band[1]))}" for band in HIT_BANDS)]]
    for name, way in analysis.ways.items():
        counts = hits_that_pass(way, analysis.hits).T
        rows.append([name, *(" / ".join(map(str, dict.fromkeys(map(int, count)))) for count in counts)])
    return rows


def cause_table(analysis: Analysis) -> list[list[str]]:
    """What a bound on a rival's lead would do at snr 6 to 20."""
    rows = [["frame tested", "bound on a rival's lead", "stars lost, %", "hits that pass", "with the bound"]]
    for k, (bound, lost, before, after) in enumerate(cut_by_cause(analysis.ways["measured"], analysis.hits)):
        rows.append([f"frame {k + 1}", f"{bound:.1f}", f"{100 * lost:.1f}", str(before), str(after)])
    return rows


def typical_share(fits: Table) -> float:
    """Median misfit of isolated stars that are bright enough to show it."""
    return float(np.nanmedian(between(fits, 5000, 100_000)["share"]))


def light_held(fits: Table) -> float:
    """Median share of a bright star's light that the fitted Gaussian holds."""
    return float(np.median(between(fits, 20_000, 300_000)["light"]))


def sky_rms(field: Field) -> float:
    """Noise of the sky's pixels by the difference of two frames, counts: clipped, so without most star light."""
    difference = (field.stars[1] - field.stars[0]) / field.gain
    return float(sigma_clipped_stats(difference, sigma=3, maxiters=20)[2] / np.sqrt(2))


def header_rms(field: Field) -> float:
    """The same, if the header's gain were right: Poisson noise of the sky, and the noise of the darks."""
    level = float(np.median(field.sky[:2]))
    return float(np.sqrt(level / field.header_gain + np.median(field.dark.variance)))


def flux_of(snr: float, sigma: float, fwhm: float) -> float:
    """Electrons of a centred model star of this snr, in noise of sigma a pixel."""
    return snr * sigma / float(np.sqrt((pixel_integrated_gaussian(0.0, 0.0, fwhm) ** 2).sum()))


def half_flux(trials: Table) -> float:
    """Flux at which the matched filter recovers half of the stamps; p is not what limits it there."""
    share = [np.mean(trials["any_p"][trials["flux"] == flux]) for flux in FLUXES[:3]]
    return float(np.exp(np.interp(0.5, share, np.log(FLUXES[:3]))))


def flux_ratio(analysis: Analysis) -> float:
    """How much brighter than the model a real star has to be to be found half of the time."""
    return half_flux(analysis.real) / half_flux(analysis.model)


def _range(low, high):
    return f"{low:,.0f}-{high:,.0f}" if np.isfinite(high) else f"over {low:,.0f}"


TABLES = {
    "facts": facts_table,
    "recall": recall_table,
    "extra": extra_table,
    "misses": miss_table,
    "misfit": misfit_table,
    "shapes": shape_table,
    "rivals": rival_table,
    "rules": rule_table,
    "injected": injected_table,
    "psf recall": psf_recall_table,
    "psf hits": psf_hits_table,
    "cause": cause_table,
}


def rejected_snr(fits: Table, passed, level: float = 0.5) -> float:
    """Where passing stars fall to a level: first downward crossing over groups of 80 stars of like snr."""
    order = np.argsort(fits["snr"])
    order = order[np.asarray(fits["snr"])[order] > 8]
    groups = np.array_split(order, len(order) // 80)
    snr = np.log([np.median(fits["snr"][group]) for group in groups])
    share = np.array([np.mean(np.asarray(passed)[group]) for group in groups])
    i = np.flatnonzero((share[:-1] >= level) & (share[1:] < level))[0]
    return float(np.exp(np.interp(-level, [-share[i], -share[i + 1]], [snr[i], snr[i + 1]])))


def page_tables(text: str) -> dict[str, list[list[str]]]:
    """Tables of the page: each follows a comment <!-- table: name -->."""
    tables = {}
    for part in text.split("<!-- table: ")[1:]:
        name, rest = part.split(" -->", 1)
        lines = rest.strip().split("\n\n")[0].splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        tables[name] = [row for row in cells if not set("".join(row)) <= {"-", ":"}]
    return tables


def write_page(analysis: Analysis) -> None:
    """Put the computed tables in the place of the page's."""
    text = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        before, after = text.split(f"<!-- table: {name} -->\n", 1)
        rows = make(analysis)
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        rest = after[after.index("\n\n") :] if after.startswith("|") else "\n" + after
        text = before + f"<!-- table: {name} -->\n" + "\n".join(lines) + rest
    PAGE.write_text(text, encoding="utf-8")


def draw(analysis: Analysis) -> None:
    """Recall in the star frames, and completeness of real and Gaussian stamps in a dark."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    centres = np.sqrt(EDGES[1:-2] * EDGES[2:-1])
    for name in ("neighbor_ratio, 5 sigma", "psf_chi2", "psf_chi2, any p", "DAOStarFinder", "sep"):
        passed = [between(analysis.stars, *edges)[name] for edges in pairwise(EDGES[1:-1])]
        _curve(left, centres, passed, name, "-")
    left.set(xlabel="flux (e-)", ylabel="share of stars detected", title="three star frames")
    for name in ("neighbor_ratio", "psf_chi2"):
        for trials, kind, style in ((analysis.real, "real stars", "-"), (analysis.model, "Gaussian", "--")):
            passed = [trials[name][trials["flux"] == flux] for flux in FLUXES]
            _curve(right, FLUXES, passed, f"{name}, {kind}", style)
    right.set(xlabel="flux (e-)", title="stamps injected into a dark")
    for axes in (left, right):
        axes.set(xscale="log", ylim=(-0.02, 1.02))
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, 0.92))
    figure.savefig(FIGURE, dpi=110, metadata={"Software": None})


def _curve(axes, flux, passed, name, style):
    share = np.array([np.mean(group) for group in passed])
    counts = [int(np.sum(group)) for group in passed], [len(group) for group in passed]
    low, high = binom_conf_interval(*counts, confidence_level=0.95, interval="wilson")
    error = np.maximum([share - low, high - share], 0)  # rounding at shares of 0 and 1
    axes.errorbar(flux, share, error, fmt=f"o{style}", markersize=3, linewidth=1, label=name)


if __name__ == "__main__":
    default = CHECKOUT.parent / "shared" / "data" / "sessions"
    found = analyse(Path(sys.argv[1]) if len(sys.argv) > 1 else default, with_sep=True)
    write_page(found)
    draw(found)
