"""Truncates and sanitizes text from outside, matches globs, formats durations and counts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import msgspec

# Honeycomb's limit for a string value. OTLP backends get the same.
VALUE_LIMIT_BYTES = 65_535
TRUNCATION_MARK = "… [cut]"

# A whole backslash escape, so that `\\ud800` (a backslash and five letters) is not taken for a
# surrogate. Group 1 is an unpaired surrogate.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f]")


def truncate(text: str, limit_bytes: int = VALUE_LIMIT_BYTES) -> str:
    """Return `text`, truncated with a mark if its UTF-8 has more than `limit_bytes`.

    The result has at most `limit_bytes` including the mark, and never half a character.
    """
    if len(text) * 4 <= limit_bytes:
        return text
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    return (
        encoded[: limit_bytes - len(TRUNCATION_MARK.encode())].decode(errors="ignore")
        + TRUNCATION_MARK
    )


def shortened(text: str, length: int) -> str:
    """Return `text`, shortened to `length` characters including a final `…` if it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def one_line(text: str, limit: int) -> str:
    """Return `text` on one line, without unprintable characters and runs of white space.

    After `limit` characters it is cut off and `…` is added.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[:limit].rstrip() + "…"


def compact_json(value: Any) -> str:
    """Return `value` as JSON text without spaces."""
    return msgspec.json.encode(value).decode()


def sanitize_json(payload: bytes) -> bytes:
    r"""Return JSON text whose strings can be decoded.

    Invalid UTF-8 and unpaired surrogates are replaced by U+FFFD, control characters in strings
    are escaped. Ruby writes an unpaired `\ud83d` when a message was truncated inside an emoji;
    a whole build must not be lost for that.
    """
    valid_utf8 = payload.decode(errors="replace").encode()
    return _STRING.sub(_sanitize_string, valid_utf8)


def _sanitize_string(string: re.Match[bytes]) -> bytes:
    paired = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], string[0])
    return _CONTROL.sub(lambda found: b"\\u%04x" % ord(found[0]), paired)


def matches(name: str, globs: Iterable[str]) -> bool:
    """Return whether one of `globs` matches the whole of `name`, case-sensitively."""
    return any(fnmatchcase(name, glob) for glob in globs)


class Globs:
    """A filter of names: globs that include, and globs with a leading `!` that exclude.

    Matching is case-sensitive, and the order of the globs does not matter. Without an
    including glob, every name is included that is not excluded. None counts as an empty name.
    """

    def __init__(self, globs: tuple[str, ...] = ()) -> None:
        self.globs = globs
        self._included = tuple(dict.fromkeys(glob for glob in globs if not glob.startswith("!")))
        self._excluded = tuple(glob[1:] for glob in globs if glob.startswith("!"))

    def __contains__(self, name: object) -> bool:
        name = "" if name is None else name
        if not isinstance(name, str):
            return False
        included = not self._included or matches(name, self._included)
        return included and not matches(name, self._excluded)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.globs!r})"


def duration(length_ms: int) -> str:
    """Format a duration with at most two units: "840 ms", "12.3 s", "4 m 05 s", "9 d 3 h"."""
    seconds, milliseconds = divmod(length_ms, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} m"
    if minutes:
        return f"{minutes} m {seconds:02} s"
    return f"{length_ms / 1_000:.1f} s" if seconds else f"{milliseconds} ms"


def money(amount: float, currency: str | None) -> str:
    """Format a cost: "1,234.50 USD", "0.0312 USD", "0.000080 USD"."""
    decimals = 2 if amount >= 1 or not amount else 4 if amount >= 0.01 else 6  # noqa: PLR2004
    return f"{amount:,.{decimals}f} {currency or ''}".rstrip()


def counted(count: int, noun: str) -> str:
    """Return `1 destination` or `2,000 destinations`, for a noun with a regular plural."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
