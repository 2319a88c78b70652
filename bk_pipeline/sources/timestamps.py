"""Reads the times and durations that programs write into reports of tests and profiles."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import msgspec

SECOND_NS = 1_000_000_000
# A report of before or after this is no report of a build.
FIRST_NS = 946_684_800 * SECOND_NS  # 2000
LAST_NS = 4_102_444_800 * SECOND_NS  # 2100

_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d{0,9})?"
    r"\s?(?:(Z|UTC|GMT)|([+-]\d\d):?(\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)
# Fri May 17 2024 09:00:00 GMT+0200 (of JavaScript), Fri May 17 09:00:00 UTC 2024 (of Java and C).
_JAVASCRIPT = re.compile(
    r"[A-Za-z]{3} ([A-Za-z]{3}) (\d\d?) (\d{4}) (\d\d:\d\d:\d\d) GMT([+-]\d{4})(?: \(.{0,60}\))?"
)
_JAVA = re.compile(
    r"[A-Za-z]{3} ([A-Za-z]{3}) {1,2}(\d\d?) (\d\d:\d\d:\d\d) (?:(UTC|GMT|Z) |[A-Z]{3,5} )?(\d{4})"
)
_UNIX = re.compile(r"(\d{9,11})(\d{3})?(?:\.(\d{1,9})\d{0,9})?", re.ASCII)
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,2})?|\.\d{1,30}", re.ASCII)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_MOST_S = 366 * 86_400


class Timestamp(msgspec.Struct, frozen=True, gc=False):
    """A moment. Without a zone it is local time somewhere, or UTC; `at_ns` takes it for UTC."""

    at_ns: int
    zoned: bool


def parse_timestamp(text: str | None) -> Timestamp | None:
    """Return the moment that `text` names: ISO 8601, what JavaScript and Java print, Unix time.

    None if it names none, or one that is not from 2000 to 2100.
    """
    text = (text or "").strip()
    if not text or len(text) > 100:  # noqa: PLR2004
        return None
    try:
        found = _iso(text) or _unix(text) or _dated(text)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None  # the 31st of February and the like
    return found if found and FIRST_NS <= found.at_ns < LAST_NS else None


def _iso(text: str) -> Timestamp | None:
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    *parts, fraction, utc, hours, minutes = found.groups()
    year, month, day, hour, minute, second = map(int, parts)
    moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    if hours:
        offset = timedelta(hours=int(hours), minutes=int(hours[0] + (minutes or "0")))
        moment -= offset
    at_ns = _seconds(moment) * SECOND_NS + int((fraction or "0").ljust(9, "0"))
    return Timestamp(at_ns, zoned=bool(utc or hours))


def _unix(text: str) -> Timestamp | None:
    found = _UNIX.fullmatch(text)
    if found is None:
        return None
    seconds, milliseconds, fraction = found.groups()
    if milliseconds:
        return Timestamp(int(seconds + milliseconds) * 1_000_000, zoned=True)
    nanoseconds = int((fraction or "0").ljust(9, "0"))
    return Timestamp(int(seconds) * SECOND_NS + nanoseconds, zoned=True)


def _dated(text: str) -> Timestamp | None:
    if found := _JAVASCRIPT.fullmatch(text):
        month, day, year, clock, zone = found.groups()
        return _rfc(f"{day} {month} {year} {clock} {zone}", zoned=True)
    if found := _JAVA.fullmatch(text):
        month, day, clock, zone, year = found.groups()
        return _rfc(f"{day} {month} {year} {clock} +0000", zoned=bool(zone))
    return _rfc(text, zoned=True) if is_rfc_date(text) else None


def is_rfc_date(text: str) -> bool:
    """Return whether `text` is a date as of HTTP and mail: `Fri, 17 May 2024 09:00:00 GMT`."""
    return text[3:5] == ", "


def _rfc(text: str, *, zoned: bool) -> Timestamp | None:
    moment = parsedate_to_datetime(text)
    naive = moment.tzinfo is None
    moment = moment.replace(tzinfo=UTC) if naive else moment.astimezone(UTC)
    return Timestamp(_seconds(moment) * SECOND_NS, zoned=zoned and not naive)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def parse_duration_ns(text: str | None, *, longest_ns: int | None = None) -> int | None:
    """Return a duration in nanoseconds, given in seconds; None if `text` is none.

    A comma is a decimal point (`0,25`), or stands between thousands (`1,234.5`). `1,234` is 1234,
    or 1.234 if that would be longer than `longest_ns`. Negative and infinite numbers, and those
    above a year, are no durations.
    """
    text = (text or "").strip().removesuffix("s").rstrip()
    if not text or len(text) > 50:  # noqa: PLR2004
        return None
    if "," in text:
        if _THOUSANDS.fullmatch(text):
            length_ns = _length_ns(text.replace(",", ""))
            ambiguous = text.count(",") == 1 and "." not in text
            if not (ambiguous and longest_ns is not None and (length_ns or 0) > longest_ns):
                return length_ns
        text = text.replace(".", "") if text.rfind(",") > text.rfind(".") else text
        text = text.replace(",", ".")
    return _length_ns(text)


def _length_ns(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    seconds = float(text)
    return round(seconds * SECOND_NS) if seconds <= _MOST_S else None
