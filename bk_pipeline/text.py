"""Text that others sent, truncated and sanitized; globs over names; durations for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import msgspec

# Honeycomb's limit for a string value, and enough of a command for anybody. In bytes.
VALUE_LIMIT_BYTES = 65_535
CUT_MARK = "… [cut]"

# A backslash escape of JSON, whole: so that `\\ud800`, a backslash and five letters, is
# never taken for a surrogate. Group 1 is a surrogate without its other half.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f]")


def cut(text: str, limit_bytes: int = VALUE_LIMIT_BYTES) -> str:
    """`text`, or as much of it as `limit_bytes` of UTF-8 hold together with a mark."""
    if len(text) * 4 <= limit_bytes:
        return text
    encoded = text.encode()
    if len(encoded) <= limit_bytes:
        return text
    return encoded[: limit_bytes - len(CUT_MARK.encode())].decode(errors="ignore") + CUT_MARK


def shortened(text: str, length: int) -> str:
    """`text`, or so many of its characters that it has `length` with the `…` behind them."""
    return text if len(text) <= length else text[: length - 1] + "…"


def one_line(text: str, limit: int) -> str:
    """`text` on one line, without what does not print; `…` in place of all after `limit` letters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[:limit].rstrip() + "…"


def compact(value: Any) -> str:
    """`value` as JSON text without spaces."""
    return msgspec.json.encode(value).decode()


def mended(payload: bytes) -> bytes:
    r"""The JSON text with U+FFFD for what no string can hold: half a surrogate pair, or bytes
    that are no UTF-8. Control characters in strings are escaped.

    Ruby writes `\ud83d` alone when a message was cut amid an emoji. Such a character is not
    worth a build.
    """
    whole = payload.decode(errors="replace").encode()
    return _STRING.sub(_mended_string, whole)


def _mended_string(string: re.Match[bytes]) -> bytes:
    whole = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], string[0])
    return _CONTROL.sub(lambda found: b"\\u%04x" % ord(found[0]), whole)


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether one of `globs` matches the whole of `name`, case-sensitively."""
    return any(fnmatchcase(name, glob) for glob in globs)


class Globs:
    """Globs over names, matched case-sensitively; `!` in front leaves out, in any order.

    Without a glob that takes in, all are taken that none leaves out. No name is an empty one.
    """

    def __init__(self, globs: tuple[str, ...] = ()) -> None:
        self.globs = globs
        self._taken = tuple(dict.fromkeys(glob for glob in globs if not glob.startswith("!")))
        self._left_out = tuple(glob[1:] for glob in globs if glob.startswith("!"))

    def __contains__(self, name: object) -> bool:
        name = "" if name is None else name
        if not isinstance(name, str):
            return False
        return (not self._taken or matches(name, self._taken)) and not matches(name, self._left_out)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.globs!r})"


def duration(length_ms: int) -> str:
    """Two units at most: "840 ms", "12.3 s", "4 m 05 s", "2 h 10 m", "9 d 3 h"."""
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


def counted(count: int, noun: str) -> str:
    """`1 destination`, `2,000 destinations`: for nouns with a regular plural."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
