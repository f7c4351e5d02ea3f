"""What a frame's header says, under the names that different capture programs give it, and despite cards that break
the standard.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from astropy.io import fits

from sla1tools.errors import FrameError, Reason
from sla1tools.parameters import Parameters
from sla1tools.text import printable

UNIQUE_KEYS = ("EXPTIME", "EXPOSURE", "EXP_TIME", "CCD-TEMP", "CCDTEMP", "CAMTEMP", "GAIN")  # no two values of one
READ_KEYS = (*UNIQUE_KEYS, "FILTER", "BUNIT", "DATE-OBS", "DATE-END", "XBINNING", "YBINNING", "BAYERPAT")
SCALE_KEYS = ("OFFSET", "EGAIN", "EGAINSAV", "ADCBITS", "XPIXSZ")
HEADER_KEYS = ("OBJECT", "IMAGETYP", "INSTRUME", *SCALE_KEYS, "SET-TEMP", "SWCREATE")
COUNT_UNITS = ("", "adu", "count", "counts", "ct", "dn")
EXPOSURE_NAMES = ("EXPTIME", "EXPOSURE", "EXP_TIME")
TEMPERATURE_NAMES = ("CCD-TEMP", "CCDTEMP", "CAMTEMP")
SET_POINT = "SET-TEMP"
NO_DARK = re.compile(r"light|flat|bias|zero|offset|object|science", re.IGNORECASE)
NO_EXPOSURE = re.compile(r"bias|zero|offset", re.IGNORECASE)
NOTED_EXPOSURE = 1e-3  # relative
NOTED_SIZE = 0.02  # relative
LEAST_KELVIN = 150.0  # a temperature above it is in kelvin: no camera survives that many degrees Celsius
COLDEST = -200.0  # degrees Celsius: below it a sensor that is not there is read


@dataclass(frozen=True)
class Facts:
    """Header facts of one frame; None where the header does not say.

    `exposure` in seconds, `temperature` in degrees Celsius; `start` and `end` are naive UTC datetimes. A note is a
    remark, or one with the frame's own value after ": ".
    """

    exposure: float
    start: datetime | None
    end: datetime | None
    temperature: float | None
    gain: float | None
    binning: tuple[int, int] | None
    filter_name: str | None
    notes: tuple[str, ...]


def read_facts(header: dict, parameters: Parameters) -> Facts:
    """Judge a frame by its header.

    Raises
    ------
    FrameError
        `imagetype`, `keyword`, `exposure`, `filter` or `unit`, where the header says what no dark of the night can say:
        the first as reason, all in the detail.
    """
    found: dict[str, Any] = {}
    mistakes = []
    for name, judge in JUDGES.items():
        try:
            found[name] = judge(header, parameters)
        except FrameError as error:
            mistakes.append(error)
    if mistakes:
        raise mistakes[0].and_then(*mistakes[1:])
    exposure, notes = found["exposure"]
    temperature, remarks = found["temperature"]
    gain = _number(header, "GAIN")
    binning = tuple(int(side) for side in (_number(header, f"{axis}BINNING") for axis in "XY") if side is not None)
    stated = {"GAIN": gain, "CCD-TEMP": temperature, "FILTER": found["filter"]}
    start, end, repaired = _times(header, exposure)
    colours = str(header.get("BAYERPAT") or "").strip()
    if colours.upper() not in ("", "NONE", "MONO"):
        remarks.append(f"BAYERPAT is that of a colour sensor, whose neighbouring pixels differ: {printable(colours)}")
    size = _number(header, "XPIXSZ")
    if size is not None and abs(size - parameters.pixel_size) > NOTED_SIZE * parameters.pixel_size:
        remarks.append(f"XPIXSZ is not the {parameters.pixel_size:g} um of pixel_size: {size:g} um")
    return Facts(
        exposure=exposure,
        start=start,
        end=end,
        temperature=temperature,
        gain=gain,
        binning=binning if len(binning) == 2 else None,
        filter_name=found["filter"],
        notes=(*notes, *remarks, *(f"{key} unknown" for key in stated if stated[key] is None), *repaired),
    )


def _judge_type(header: dict, parameters: Parameters) -> None:
    image_type = str(header.get("IMAGETYP") or "")
    if NO_DARK.search(image_type) and not (parameters.dark_exposure == 0 and NO_EXPOSURE.search(image_type)):
        raise FrameError(Reason.IMAGETYPE, f"IMAGETYP {image_type!r} is no dark")


def _judge_unit(header: dict, parameters: Parameters) -> None:
    if str(header.get("BUNIT") or "").lower() not in COUNT_UNITS:
        raise FrameError(Reason.UNIT, f"BUNIT {header['BUNIT']!r}, but raw counts are wanted")


def _filter(header: dict, parameters: Parameters) -> str | None:
    name = None if header.get("FILTER") is None else str(header["FILTER"])
    if parameters.filter_name and name not in (None, parameters.filter_name):
        raise FrameError(Reason.FILTER, f"FILTER {name!r}, not {parameters.filter_name!r}")
    return name


def _number(header: dict, key: str) -> float | None:
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _exposure(header: dict, parameters: Parameters) -> tuple[float, list[str]]:
    names = [name for name in EXPOSURE_NAMES if header.get(name) is not None]
    name = names[0] if names else EXPOSURE_NAMES[0]
    exposure, wanted = _number(header, name), parameters.dark_exposure
    if exposure is None:
        raise FrameError(Reason.KEYWORD, f"{name} must be a number of seconds; got {header.get(name)!r}")
    for other in names[1:]:
        second = _number(header, other)
        if second is not None and abs(second - exposure) > parameters.exposure_tolerance * max(exposure, second):
            raise FrameError(Reason.KEYWORD, f"{name} {exposure:g} s and {other} {second:g} s disagree")
    if abs(exposure - wanted) > parameters.exposure_tolerance * wanted:
        raise FrameError(Reason.EXPOSURE, f"{name} {exposure:g} s, not {wanted:g} s")
    notes = [] if name == EXPOSURE_NAMES[0] else [f"exposure read from {name}"]
    if abs(exposure - wanted) > NOTED_EXPOSURE * wanted:
        notes.append(f"exposure is not quite the {wanted:g} s of dark_exposure: {exposure:g} s")
    return exposure, notes


def chip_temperature(header: dict, parameters: Parameters) -> tuple[float | None, list[str]]:
    """Return the chip's temperature in degrees Celsius, the set point where nothing else is stated."""
    stated = {name: _number(header, name) for name in (*TEMPERATURE_NAMES, SET_POINT)}
    found = {name: value for name, value in stated.items() if value is not None}
    if len(found) > 1:
        found.pop(SET_POINT, None)  # what the cooler is asked for, not what the chip has
    if not found:
        return None, []
    celsius = {name: value - 273.15 if value > LEAST_KELVIN else value for name, value in found.items()}
    known = {name: value for name, value in celsius.items() if value > COLDEST}
    if not known:
        return None, [f"{next(iter(found))} is that of no camera: {next(iter(found.values())):g}"]
    name, value = next(iter(known.items()))
    for other, second in known.items():
        if abs(second - value) > parameters.temperature_tolerance:
            raise FrameError(Reason.KEYWORD, f"{name} {value:.2f} C and {other} {second:.2f} C disagree")
    notes = [] if name == TEMPERATURE_NAMES[0] else [f"temperature read from {name}"]
    return value, notes + [f"{name} is in kelvin"] * (found[name] > LEAST_KELVIN)


def _times(header: dict, exposure: float) -> tuple[datetime | None, datetime | None, list[str]]:
    """Start and end in UTC. Without a GPS lock SharpCap writes DATE-OBS in year 1: then DATE-END minus EXPTIME."""
    start, end = _sane_time(header.get("DATE-OBS")), _sane_time(header.get("DATE-END"))
    if start is not None:
        return start, end or start + timedelta(seconds=exposure), []
    if end is None:
        return None, None, ["time unknown, as neither DATE-OBS nor DATE-END is sane"]
    stated = printable(header.get("DATE-OBS"))
    note = f"start is DATE-END minus EXPTIME, as DATE-OBS is not sane: {stated}"
    return end - timedelta(seconds=exposure), end, [note]


def _sane_time(text) -> datetime | None:
    """Return a time in UTC; one without an offset is taken for UTC, as the FITS standard has it."""
    stamp = re.sub(" (?=[Z+-])", "", str(text))
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    whole = len(stamp) >= len("1990-01-01T00:00:00") and 1990 <= time.year < 2200
    return time.replace(tzinfo=None) - (time.utcoffset() or timedelta()) if whole else None


JUDGES = {
    "type": _judge_type,
    "exposure": _exposure,
    "filter": _filter,
    "unit": _judge_unit,
    "temperature": chip_temperature,
}


def read_values(text: str, header: fits.Header) -> dict:
    """Return the values that are read of a header, as plain bool, int, float, text or None, by their keys.

    Parameters
    ----------
    text : str
        The header's cards, 80 characters each.
    header : Header
        The same, parsed.

    Raises
    ------
    FrameError
        `keyword`, where one of a kind is given twice with different values.
    """
    for key in UNIQUE_KEYS:
        cards = [card for card in _cards(text) if card[:10] == f"{key:8}= "]
        if len(cards) > 1 and len({str(fits.Card.fromstring(card).value) for card in cards}) > 1:
            raise FrameError(Reason.KEYWORD, f"{key} is given {len(cards)} times, with different values")
    return {key: _value(text, header, key) for key in (*READ_KEYS, *HEADER_KEYS) if key in header}


def _cards(header: str) -> list[str]:
    return [header[at : at + 80] for at in range(0, len(header), 80)]


def with_primary(values: dict, primary: dict) -> tuple[dict, list[str]]:
    """Take keys that an image's own header lacks from the file's primary header."""
    for key in UNIQUE_KEYS:
        if key in values and primary.get(key, values[key]) != values[key]:
            raise FrameError(Reason.KEYWORD, f"{key} is {primary[key]!r} in the primary header, then {values[key]!r}")
    more = [] if primary.keys() <= values.keys() else ["header keys read from the primary header"]
    return primary | values, more


def _value(text: str, header: fits.Header, key: str):
    """Return a header value as plain bool, int, float or text; None where the card has no value."""
    try:
        value = header[key]
    except fits.VerifyError:
        return _unruly_text(text, key)
    return value.strip() if isinstance(value, str) else value if isinstance(value, bool | int | float) else None


def _unruly_text(header: str, key: str) -> str:
    """Return the text of a card that breaks the standard: control or non-ASCII characters, no quotes."""
    card = next((card for card in _cards(header) if card[:8].rstrip() == key), "")
    return card_text(card[9:].encode("latin-1").decode("utf-8", "replace"))


def card_text(value: str) -> str:
    """Return what stands after a card's ``=``, without quotes and comment."""
    quoted = re.match(r"\s*'((?:[^']|'')*)'", value)
    return (quoted[1].replace("''", "'") if quoted else value.partition("/")[0]).strip()
