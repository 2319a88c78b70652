"""The signature of a failure: equal for the same failure in two builds.

`normalized` replaces what differs between two runs of the same thing: times, durations, numbers,
ids, hashes, addresses, and the folders in which a machine keeps a checkout.
"""

from __future__ import annotations

import re
from hashlib import sha256

from bk_pipeline.spans.secrets import mask_log_secrets

_DIGITS = 16
_LONGEST = 2_000

_CLOCK = r"\d{1,2}:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?: ?[AP]M)?"
_WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_UNIT = r"(?:ns|us|µs|μs|ms|s|sec|secs|seconds?|m|min|mins|minutes?|h|hours?|[KMGT]i?B|bytes|B|%)"

# In this order: what contains others comes first.
_MASKS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # dates and times of day
        (
            r"\b\d{4}[-/]\d\d?[-/]\d\d?(?:[T ]" + _CLOCK + r"(?:Z| ?[+-]\d\d:?\d\d)?)?(?![\w/-])",
            "<time>",
        ),
        (r"(?<![\w:.])" + _CLOCK + r"(?![\w:])", "<time>"),
        (
            r"\b(?:" + _WEEKDAY + r",? )?(?:\d\d? )?" + _MONTH + r" \d\d?(?:,? \d{4})?(?: <time>)?",
            "<time>",
        ),
        # ids and addresses
        (r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", "<id>"),
        (r"(?i)\b0x[0-9a-f]{1,16}\b", "<address>"),
        (r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.])", "<host>"),
        (r"(?i)(?<![\w:])\[?(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}\]?(?![\w:])", "<host>"),
        (r"\bip-\d{1,3}(?:-\d{1,3}){3}[\w.-]{0,100}", "<host>"),
        # paths: temporary ones as a whole, of others the folders above the last name
        (
            r"(?<![\w.~/-])(?:/private)?/(?:tmp|var/tmp|var/folders|dev/shm)/[^\s:;,'\"()\[\]<>]++",
            "<path>",
        ),
        (r"(?i)\b[a-z]:\\(?:[^\s\\/:*?\"<>|']{1,100}\\)*+", "<path>/"),
        (r"\bfile:/{1,3}(?:[^\s/:;,'\"()\[\]<>]{1,200}/)++", "<path>/"),
        (r"(?<![\w.<>~/-])~?/(?:[^\s/:;,'\"()\[\]<>]{1,200}/)++", "<path>/"),
        # hashes and random names
        (
            r"(?<=[a-z0-9]-)(?:[a-f0-9]{8,10}|[bcdf0-9]{8,10})-[bcdfghjklmnpqrstvwxz0-9]{5}(?![\w-])",
            "<id>",
        ),
        (r"(?<=[a-z0-9]-)(?=[a-z]{0,4}\d)[bcdfghjklmnpqrstvwxz2456789]{5}(?![\w-])", "<id>"),
        (
            r"(?i)\b(?:sha\d{1,3}[:-])?(?=[0-9a-f]{0,63}[0-9])(?=[0-9a-f]{0,63}[a-f])[0-9a-f]{7,128}\b",
            "<hash>",
        ),
        (r"(?<![A-Za-z0-9])(?=[A-Z]{0,30}\d++[A-Z]++\d)[A-Z0-9]{10,64}(?![A-Za-z0-9])", "<id>"),
        (r"(?<![A-Za-z0-9])(?=[a-z]{0,30}\d++[a-z]++\d)[a-z0-9]{8,64}(?![A-Za-z0-9])", "<id>"),
        (r"(?<![A-Za-z0-9_])[A-Za-z0-9+/]{40,}={0,2}(?![A-Za-z0-9_])", "<id>"),
        # numbers that are not a part of a name
        (r"(?<![A-Za-z_\d])(?:\d{1,4}(?:\.\d{1,9})?(?:h|ms|m|s)){2,4}(?![A-Za-z_\d])", "<n>"),
        (r"(?<![A-Za-z_\d])[-+]?\d[\d,.]*+(?:e[-+]?\d++)? ?" + _UNIT + r"(?![A-Za-z_\d])", "<n>"),
        (r"(?<![A-Za-z_\d])(?:[-+](?=\d))?\d++(?:[.,]\d++)*+(?![A-Za-z_\d])", "<n>"),
        (r"\s++", " "),
    )
]


def normalized(message: str) -> str:
    """Return a message with all that differs between two runs replaced by placeholders."""
    text = mask_log_secrets(message[:_LONGEST]).strip()
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text.strip()


def signature_of(message: str) -> str:
    """Return the signature of a failure's message: 16 hex digits."""
    return sha256(normalized(message).encode(errors="replace")).hexdigest()[:_DIGITS]
