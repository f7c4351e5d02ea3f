"""The numbers: masters, leaders, fits and injected stars, each against its peers on the same pixels."""

import numpy as np
import observers
import pytest
import sep
from astropy.io import fits
from astropy.table import Table
from ccdproc import Combiner, combine
from fitted import fit_stamps
from flashes import flashes
from observers_rule import find_leaders as find_leaders_slowly
from photutils.detection import DAOStarFinder, find_peaks
from photutils.psf import CircularGaussianPRF, PSFPhotometry

from sla1tools.candidates.criteria import neighbor_ratio
from sla1tools.candidates.leaders import find_leaders
from sla1tools.candidates.psf import PSF, pixel_integrated_gaussian
from sla1tools.darks.reference import DarkReference, middle_counts

# the capture program's DATE-OBS, and a reader that builds a WCS from it
pytestmark = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")

MASTER = "median master, exact"
READ_AND_FIND = "read, ten held-out residuals, leaders at the floor"
WHOLE = "the observers' whole computation: read, combine, subtract, find"
WHOLE_HELD_OUT = "the same, held out"
LEADERS = "leaders at 200 e-, one frame"
FITS = "10,000 PSF fits with sub-pixel position"
MEASURED_FITS = "10,000 PSF fits, 45 coefficients that vary over the field, with errors"
FIT_SHARE = 25  # 400 of 10,000
NOISE = 37.0
SPACING = 20


@pytest.fixture(scope="module")
def stack(night):
    return night.band(0, night.shape[0])


@pytest.fixture(scope="module")
def darks(parameters):
    return observers.read_darks(parameters)


@pytest.fixture(scope="module")
def residual(night, dark):
    counts = night.rows(1, 0, night.shape[0])
    return (dark.reference.residual(counts, "leave_one_out") * dark.scale).astype(np.float32)


def places(leaders):
    return {(int(row[0]), int(row[1])) for row in leaders}


def places_of(table):
    return set(zip(table["x"].tolist(), table["y"].tolist(), strict=True))


def test_master_of_ours(benchmark, comparison, stack, parameters):
    def master():
        return DarkReference(len(stack), "median", middle_counts(stack)).master * parameters.scale

    comparison.ours(benchmark, MASTER, master, rounds=5)


def test_master_of_ccdproc(benchmark, comparison, darks):
    master = comparison.peer(
        benchmark,
        MASTER,
        "`ccdproc.combine(median)`, as the observers call it",
        lambda: combine(darks, method="median"),
        wanted=100,
        rounds=1,
    )
    np.testing.assert_allclose(comparison.results[MASTER], master.data, rtol=1e-12, atol=1e-9)


def test_master_of_combiner(benchmark, comparison, darks):
    def master():
        combiner = Combiner(darks, dtype=np.float32)
        return combiner.median_combine(uncertainty_func=lambda counts, axis: np.zeros(counts.shape[1:], np.float32))

    combined = comparison.peer(
        benchmark, MASTER, "`ccdproc.Combiner`, float32, bottleneck, without its uncertainty", master, wanted=15
    )
    np.testing.assert_allclose(comparison.results[MASTER], combined.data, rtol=1e-6, atol=1e-3)


def test_master_of_numpy(benchmark, comparison, stack, parameters):
    master = comparison.peer(
        benchmark, MASTER, "`np.median` of the counts", lambda: np.median(stack, axis=0), wanted=15, rounds=2
    )
    np.testing.assert_array_equal(comparison.results[MASTER], master * parameters.scale)


def test_read_and_find_of_ours(benchmark, comparison, night, parameters):
    floor = 120.0  # electrons, three times the noise
    tables = comparison.ours(benchmark, READ_AND_FIND, lambda: flashes(night, floor), rounds=5)
    others = np.stack([night.rows(k, 0, night.shape[0]) for k in range(1, len(night.frames))])
    counts = night.rows(0, 0, night.shape[0])
    slow = (counts - np.median(others, axis=0)) * parameters.scale
    assert places_of(tables[0]) == places(find_leaders_slowly(slow, floor))


def test_reading_of_astropy(benchmark, comparison, parameters):
    paths = sorted(parameters.capture_directory.glob("*.fits"))
    comparison.peer(
        benchmark,
        READ_AND_FIND,
        "`fits.getdata` of the ten files",
        lambda: [fits.getdata(path, memmap=False) for path in paths],
        wanted=3,
        rounds=5,
        at_most=True,
    )


def candidates_of(night, parameters, reference):
    tables = flashes(night, parameters.threshold, reference)
    return [(table, table[neighbor_ratio(table, parameters.threshold, parameters.ratio)]) for table in tables]


def test_whole_computation_of_ours(benchmark, comparison, night, parameters):
    comparison.ours(benchmark, WHOLE, lambda: candidates_of(night, parameters, "all"), rounds=5)


def test_whole_computation_of_the_observers(benchmark, comparison, parameters):
    found = comparison.peer(
        benchmark, WHOLE, "their way, in sample", lambda: observers.run(parameters), wanted=20, rounds=1
    )
    for ours, theirs in zip(comparison.results[WHOLE], found, strict=True):
        assert [places_of(table) for table in ours] == [places(pixels) for pixels in theirs]


def test_held_out_computation_of_ours(benchmark, comparison, night, parameters):
    comparison.ours(benchmark, WHOLE_HELD_OUT, lambda: candidates_of(night, parameters, "leave_one_out"), rounds=5)


def test_held_out_computation_of_the_observers(benchmark, comparison, darks, parameters):
    theirs = comparison.peer(
        benchmark,
        WHOLE_HELD_OUT,
        "their way, combining the others for each frame",
        lambda: observers.held_out(darks, 0, parameters),
        wanted=100,
        rounds=1,
        times=len(darks),
    )
    ours = comparison.results[WHOLE_HELD_OUT][0]
    assert [places_of(table) for table in ours] == [places(pixels) for pixels in theirs]
    comparison.notes.append("Held out, their time is that of its first frame (reading apart) times ten.")


def test_leaders_of_ours(benchmark, comparison, residual, parameters):
    leaders = comparison.ours(benchmark, LEADERS, lambda: find_leaders(residual, parameters.threshold), rounds=10)
    assert places_of(leaders) == places(find_leaders_slowly(residual, parameters.threshold))


def test_leaders_of_find_peaks(benchmark, comparison, residual, parameters):
    peaks = comparison.peer(
        benchmark,
        LEADERS,
        "photutils `find_peaks`, 3x3",
        lambda: find_peaks(residual, parameters.threshold, box_size=3),
        wanted=5,
    )
    ours = find_leaders(residual, parameters.threshold, neighbors=8)
    assert places_of(ours) == set(zip(peaks["x_peak"].tolist(), peaks["y_peak"].tolist(), strict=True))


def test_leaders_of_daofind(benchmark, comparison, residual, parameters):
    finder = DAOStarFinder(parameters.threshold, parameters.fwhm)
    assert len(
        comparison.peer(benchmark, LEADERS, "photutils `DAOStarFinder`", lambda: finder(residual), wanted=50, rounds=2)
    )


def test_leaders_of_sep_alike(benchmark, comparison, residual, parameters):
    found = comparison.peer(
        benchmark,
        LEADERS,
        "`sep.extract`, one pixel enough, not smoothed",
        lambda: sep.extract(residual, parameters.threshold, minarea=1, filter_kernel=None),
        wanted=5,
    )
    # an object is a connected group above the threshold: its peak leads
    peaks = set(zip(found["xpeak"].tolist(), found["ypeak"].tolist(), strict=True))
    assert peaks <= places_of(comparison.results[LEADERS])


def test_leaders_of_sep(benchmark, comparison, residual, parameters):
    assert len(
        comparison.peer(
            benchmark,
            LEADERS,
            "`sep.extract`, as it comes",
            lambda: sep.extract(residual, parameters.threshold),
            wanted=5,
        )
    )


@pytest.fixture(scope="module")
def stars():
    """10,000 stars in their stamps, and their truth; the first 400 in one image, far from each other."""
    rng = np.random.default_rng(0)
    n = 400 * FIT_SHARE
    x, y = rng.uniform(-0.5, 0.5, (2, n))
    flux = np.geomspace(1500, 15000, n)
    rng.shuffle(flux)
    signal = flux[:, None, None] * pixel_integrated_gaussian(x, y, 2.0, SPACING - 1)
    signal = np.pad(signal, ((0, 0), (0, 1), (0, 1)))
    observed = rng.poisson(signal) + NOISE * rng.standard_normal(signal.shape)
    tiles = [
        values[:400].reshape(20, 20, SPACING, SPACING).swapaxes(1, 2).reshape(20 * SPACING, -1)
        for values in (observed, np.sqrt(NOISE**2 + signal))
    ]
    middle = SPACING // 2 - 1
    return observed[:, middle - 2 : middle + 3, middle - 2 : middle + 3], *tiles, middle


def test_fits_of_ours(benchmark, comparison, stars):
    comparison.ours(benchmark, FITS, lambda: fit_stamps(stars[0], NOISE, True, 2.0), rounds=3)


def test_fits_of_photutils(benchmark, comparison, stars):
    _, image, error, middle = stars
    grid = np.arange(20) * SPACING + middle
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    start = Table({"x": x, "y": y, "flux": np.full(400, 5000.0)})
    photometry = PSFPhotometry(CircularGaussianPRF(fwhm=2.0), fit_shape=(5, 5), aperture_radius=3)
    theirs = comparison.peer(
        benchmark,
        FITS,
        "photutils `PSFPhotometry`",
        lambda: photometry(image, error=error, init_params=start),
        wanted=200,
        rounds=1,
        times=FIT_SHARE,
    )
    ours = comparison.results[FITS][:400]
    # ours leaves the background free: its scatter, not its place, is a little wider
    away = np.hypot(ours["x_fit"] - (theirs["x_fit"] - x), ours["y_fit"] - (theirs["y_fit"] - y))
    assert np.median(away) < 0.01
    np.testing.assert_allclose(np.median(ours["flux"] / theirs["flux_fit"]), 1, atol=0.01)
    assert np.mean(np.abs(ours["flux"] - theirs["flux_fit"]) < 3 * theirs["flux_err"]) > 0.99
    comparison.notes.append("`PSFPhotometry` fitted 400 stars, times 25; its background is fixed, ours is free.")


def test_fits_of_a_measured_psf(benchmark, comparison, stars):
    coefficients = np.zeros((3, 9, 9))
    coefficients[:, *np.nonzero(np.add.outer(np.arange(9), np.arange(9)) <= 8)] = 0.01
    coefficients[:, 0, 0], coefficients[:, [0, 1], [1, 0]] = (1, 0, 0), 0
    psf = PSF(2.0, coefficients, 0.03, 0.06, 0.03, (2048, 2048))
    places = np.random.default_rng(1).uniform(0, 2047, (2, len(stars[0])))
    comparison.ours(benchmark, MEASURED_FITS, lambda: fit_stamps(stars[0], NOISE, True, psf, places=places))


def test_fits_of_a_known_gaussian(benchmark, comparison, stars):
    comparison.peer(
        benchmark,
        MEASURED_FITS,
        "a Gaussian that is known exactly",
        lambda: fit_stamps(stars[0], NOISE, True, 2.0),
        wanted=2.5,
        at_most=True,
    )
    comparison.done.add("kernels")
