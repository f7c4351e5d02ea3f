"""Audit of the raw counts: which codes the files really use, and whether the configured zero padding is there."""

from dataclasses import dataclass, field

import numpy as np

from sla1tools.frames.pixels import bands

CODES = 1 << 16
_COUNTED = 1 << 19  # pixels at a time: numpy counts whole numbers of eight bytes
TOLERATED_SHARE = 1e-4  # of pixels off the padding grid: a GPS camera's metadata is 5e-6 of a frame


@dataclass(frozen=True)
class CountsAudit:
    """What a night's codes say of the analogue-to-digital conversion.

    Attributes
    ----------
    low_bit_use : list of float
        Share of pixels with bit 0, 1, ... set; as many bits as the padding has, at least four. A bit in honest use is
        set in about half of the pixels, a padded one in none.
    step : int
        Greatest common divisor of the differences between the used codes, top code left out, and the rarest that no
        more than one pixel in 10,000 has: a camera's metadata; 0 for a single code.
    top_code_seen : int
        The highest code.
    padding_holds : bool
        All codes but the top code are multiples of the configured padding, save one pixel in 10,000.
    verdict : str
        One sentence with the numbers.
    """

    low_bit_use: list[float]
    step: int
    top_code_seen: int
    padding_holds: bool
    verdict: str = field(repr=False)


def code_histogram(counts: np.ndarray) -> np.ndarray:
    """Count the pixels at each code.

    Parameters
    ----------
    counts : uint16 array of any shape
        A frame or a band of raw counts; not changed.

    Returns
    -------
    histogram : (65536,) int64 array
        Histograms of several frames add.
    """
    parts = (np.bincount(np.ravel(counts)[part], minlength=CODES) for part in bands(np.size(counts), _COUNTED))
    return sum(parts, np.zeros(CODES, np.int64))


def audit_counts(
    histogram: np.ndarray, top_code: int, scale_due_to_padding: float, declared_padding: float | None = None
) -> CountsAudit:
    """Judge a night's codes.

    Parameters
    ----------
    histogram : (65536,) integer array
        Pixels at each code, of all frames together.
    top_code : int
        The ADC's rail. Pixels there may be off the padding grid.
    scale_due_to_padding : float
        The configured division that undoes zero padding; 1 for none.
    declared_padding : float, optional
        What the headers say: EGAIN / EGAINSAV, or 2 to the power of 16 - ADCBITS.

    Raises
    ------
    ValueError
        Where the histogram holds no pixel.
    """
    histogram = np.asarray(histogram)
    pixels = int(histogram.sum())
    if not pixels:
        raise ValueError("no pixels in the histogram")
    codes = np.arange(CODES)
    bits = max(4, int(np.ceil(np.log2(scale_due_to_padding))) if scale_due_to_padding > 1 else 0)
    low_bit_use = [float(histogram[codes >> bit & 1 == 1].sum() / pixels) for bit in range(min(bits, 16))]
    used = codes[histogram > 0]
    below = used[used < top_code]
    rarest_first = below[np.argsort(histogram[below], kind="stable")]
    usual = np.sort(rarest_first[np.cumsum(histogram[rarest_first]) > TOLERATED_SHARE * pixels])
    step = int(np.gcd.reduce(np.diff(usual))) if len(usual) > 1 else 0
    multiples = int(histogram[(codes % scale_due_to_padding == 0) | (codes >= top_code)].sum())
    holds = pixels - multiples <= TOLERATED_SHARE * pixels
    return CountsAudit(
        low_bit_use=low_bit_use,
        step=step,
        top_code_seen=int(used[-1]),
        padding_holds=bool(holds),
        verdict=_verdict(scale_due_to_padding, declared_padding, holds, pixels, multiples, step),
    )


def audit_capture(capture) -> CountsAudit:
    """Judge the codes of a capture's used frames, at least one, with what their headers declare."""
    parameters, header = capture.parameters, capture.frames[0].header
    padding = declared_padding(header)
    return audit_counts(capture.histogram, parameters.top_code, parameters.scale_due_to_padding, padding)


def declared_padding(header: dict) -> float | None:
    """Return the padding that a file itself declares: EGAIN is at the ADC's depth, EGAINSAV at the saved one."""
    true, saved, bits = (positive(header.get(key)) for key in ("EGAIN", "EGAINSAV", "ADCBITS"))
    if true and saved:
        return true / saved
    return 2.0 ** (16 - bits) if bits and bits <= 16 else None


def positive(value) -> float | None:
    """Return a header's value if it is a positive number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and value > 0 else None


def _verdict(padding, declared, holds, pixels, multiples, step) -> str:
    share = f"{multiples:,} of {pixels:,} pixels ({multiples / pixels:.1%}) are multiples of {padding:g}"
    declaration = "" if declared is None else f"; the headers declare {declared:.4g}"
    if padding == 1:
        return f"No padding is configured; the codes' greatest common step is {step}{declaration}."
    if holds:
        return f"The padding of {padding:g} holds: {share}, and the greatest common step is {step}{declaration}."
    return (
        f"The padding of {padding:g} does not hold: only {share}, where chance alone gives {1 / padding:.1%}, "
        f"and the greatest common step is {step}{declaration}."
    )
