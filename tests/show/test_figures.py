"""Figures show all that they are given."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.text import Text
from PIL import Image

from sla1tools.parameters import Parameters
from sla1tools.show import curves, figures, pages
from sla1tools.show.figures import leader_scatter


def drawn(leaders, parameters=Parameters()):  # noqa: B008
    axes = leader_scatter(leaders, parameters).axes[0]
    dots = [tuple(place) for c in axes.collections if isinstance(c, PathCollection) for place in c.get_offsets()]
    cells = [c.get_array() for c in axes.collections if isinstance(c, PolyCollection)]
    return dots, int(sum(cell.sum() for cell in cells))


def test_every_leader_is_counted_and_every_candidate_is_a_dot():
    rng = np.random.default_rng(1)
    peak, ratio = rng.uniform(-20, 1500, 50_000), rng.uniform(-3, 0.29, 50_000)
    places = {400: (321.0, 0.3), 49_999: (900.0, 0.55)}  # one on the cut; one in the very last row
    for row, place in places.items():
        peak[row], ratio[row] = place
    ratio[7] = 40.0  # of two negative numbers
    peak[7] = -1.0
    leaders = Table({"peak": peak, "neighbor_ratio": ratio, "neighbor_min": ratio * peak})
    dots, counted = drawn(leaders)
    assert sorted(dots) == sorted(places.values())
    assert counted == 50_000


def test_the_scatter_follows_the_configured_criterion():
    """Of psf_chi2: S/N and p-value, the cuts on them, and its own candidates; a leader without a fit has no place."""
    snr, p_value = np.array([4.5, 7.0, 9.0, 20.0, np.nan]), np.array([0.5, 0.2, 1e-30, 0.9, np.nan])
    columns = {"x": np.arange(5) * 50, "y": np.zeros(5, int), "dq": np.zeros(5, int), "reference": ["all"] * 5}
    leaders = Table(columns | {"frame": ["a"] * 5, "snr": snr, "p_value": p_value, "peak": 5 * snr})
    parameters = Parameters(criterion="psf_chi2", snr_min=6.0, p_min=0.001)
    axes = leader_scatter(leaders, parameters).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("snr", "p_value")
    dots, cells = drawn(leaders, parameters)
    assert sorted(dots) == [(7.0, 0.2), (20.0, 0.9)]
    assert cells == 4
    assert sorted(line.get_xydata()[0].max() for line in axes.lines) == [0.001, 6.0]


def test_where_there_is_nothing_to_draw_a_sentence_says_so():
    empty = np.zeros(0)
    none = Table({"peak": empty, "neighbor_ratio": empty, "neighbor_min": empty})
    curve = Table({"flux": empty, "low": empty, "high": empty, "completeness": empty, "value": empty})
    grid = Table({"criterion": ["psf_chi2"], "flux_50": [np.nan]})
    transfer = SimpleNamespace(level=empty, variance=empty)
    for sentence in (
        leader_scatter(none, Parameters()),
        figures.montage(np.zeros((0, 5, 5)), [], "Candidates"),
        figures.class_map(np.zeros((4, 4), int), {"hot": 16}),
        figures.counts_per_frame({"held out": np.zeros(4, int)}, "Candidates"),
        curves.transfer(transfer, 1.0),
        curves.calibration(Table({"level": empty, "std": empty, "mad": empty})),
        curves.completeness({"psf_chi2": curve}, {"psf_chi2": None}),
        curves.share_by({"x": curve}, "Stars"),
        curves.tradeoff(grid, 10, {}, {}),
    ):
        assert re.fullmatch(r"<p>[A-Z].*\.</p>", sentence.data)


def some_figures():
    """One of every kind."""
    rng, n = np.random.default_rng(1), 60
    narrow = 1303.8 + rng.normal(0, 0.02, (64, 64))  # a level whose digits matplotlib would cut off, as "+1.303e3"
    frames = Table({"level": 11734.2 + narrow[0, :5], "noise": narrow[1, :5], "temperature": [0.0] * 5})
    peak, flux = rng.uniform(100, 900, n), np.geomspace(300, 15000, 8)
    leaders = Table({"peak": peak, "neighbor_min": peak * rng.uniform(0, 0.5, n)})
    share = Table(
        {"flux": flux, "value": flux, "completeness": flux / 16000, "low": flux / 17000, "high": flux / 15000}
    )
    grid = Table({"criterion": ["psf_chi2"] * 8, "flux_50": flux, "rate": np.geomspace(9, 0.1, 8)})
    counted = {"held out": (flux, range(8)), "in sample": (flux, range(8))}
    level = narrow[0]
    transfer = SimpleNamespace(level=level, variance=level * 9, error=level / 99, slope=9.0, intercept=0.0)
    names = [f"{k:05d}.fits\nx=148:152, y=248:252 around Pixel(x=150, y=250, value=300.0)" for k in range(20)]
    histogram = SimpleNamespace(pixels=np.full(9, 1e7), edges=np.arange(10), gaussian=np.full(9, 1e6), sigma=1.0)
    yield figures.maps({"Master dark": (narrow, "level [e-]"), "Noise": (narrow, "noise [e-]")})
    yield figures.class_map(rng.integers(0, 2, (64, 64)) * 16, {"hot": 16})
    yield figures.histograms({"Master dark": (narrow, "level [e-]")})
    yield figures.drift(frames)
    yield figures.montage(rng.normal(0, 50, (20, 5, 5)), names, "Candidates")
    yield figures.counts_per_frame({"held out": np.arange(5), "in sample": np.arange(5)}, "Candidates")
    yield figures.leader_scatter(leaders, Parameters())
    yield curves.low_bits(SimpleNamespace(low_bit_use=[0.5] * 4))
    yield curves.transfer(transfer, 0.0869)
    yield curves.calibration(Table({"level": level, "std": level / 1303.8, "mad": level / 1303.8}))
    yield curves.deviations(histogram)
    yield curves.profiles(level, level)
    for criterion in ("neighbor_ratio", "psf_chi2"):
        yield curves.false_alarm_curve(counted, (flux, flux / 1e4), Parameters(criterion=criterion), 10)
    yield curves.completeness({"psf_chi2": share}, {"psf_chi2": 900.0})
    yield curves.share_by({"x, column [px]": share}, "Stars of 300 e-")
    for zero_point in (None, 25.0):
        yield curves.tradeoff(grid, 10, {"psf_chi2": (900.0, 0.1)}, {"psf_chi2": (800.0, 0.2)}, zero_point)


@pytest.mark.slow
def test_few_colours_show_what_all_of_them_do():
    """Gradients, colour bars, thin lines and letters: no pixel is off by what an eye could see beside another."""
    every = [figure for figure in some_figures() if "Maps" in figure.alt or "False alarms" in figure.alt]
    assert len(every) > 1
    for figure in every:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        shown = Image.open(io.BytesIO(figures.png(figure)))
        drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        assert shown.mode == "P"
        assert np.abs(drawn - np.asarray(shown.convert("RGB"))).max() <= 10, figure.alt


@pytest.mark.slow
def test_every_text_has_its_room():
    """Places are fixed: nothing is cut off at the edge of the figure, no label lies on the numbers of its axis."""
    for figure in some_figures():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        left, bottom, right, top = figure.get_tightbbox(canvas.get_renderer()).extents  # inches
        assert min(left, bottom) >= 0, figure.alt
        assert (right <= figure.get_figwidth(), top <= figure.get_figheight()) == (True, True), figure.alt
        axes = [inner for ax in figure.axes for inner in (ax, *ax.child_axes) if inner.axison]
        for axis in (axis for ax in axes for axis in (ax.xaxis, ax.yaxis) if axis.label.get_text()):
            numbers = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            low, high = sorted(axis.get_view_interval())
            shown = [text.get_window_extent() for place, text in numbers if low <= place <= high]
            assert axis.label.get_window_extent().count_overlaps(shown) == 0, (figure.alt, axis.label.get_text())


@pytest.mark.slow
def test_numbers_stand_whole_at_their_ticks_and_a_telephone_shows_every_letter():
    """On 390 px every text is 9 px or more; dots are twice as dense as its pixels, as far as a page can show them."""
    for figure in some_figures():
        bundle, metadata = figure._repr_mimebundle_()
        width, image = metadata["image/png"]["width"], base64.b64decode(bundle["image/png"])
        assert width == pytest.approx(figure.get_figwidth() * figures.DPI, abs=1)
        assert Image.open(io.BytesIO(image)).width == pytest.approx(min(figures.SHARP * width, figures.BROADEST), abs=2)
        offsets = [axis.get_offset_text().get_text() for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
        assert not any(offsets), figure.alt
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        scale = max(390 - 32, pages.LEAST * width) / width
        for text in texts:
            assert text.get_fontsize() * figures.DPI / 72 * scale >= 8.99, (figure.alt, text.get_text())
