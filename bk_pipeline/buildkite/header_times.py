"""Read the fields of a job's log in JSON without holding the log.

Buildkite gives the times of a log's section headers only together with its text, in one object:
`{"url": ..., "content": "...", "size": ..., "header_times": [...]}`. The text can have a gigabyte,
so long strings are left out while the object arrives, and the rest is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

# Longer strings are replaced by empty ones.
LONGEST_STRING_BYTES = 1024
# A log of a gigabyte has far fewer headers than fit here.
MOST_BYTES = 16 * 1024 * 1024

# The rest of a string up to its closing quotation mark or the end of the chunk. A backslash at
# the end of the chunk is left for the next one.
_IN_STRING = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)


class Skeleton:
    """A JSON text of which long strings are dropped while it is received."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._string: bytearray | None = None
        self._string_bytes = 0
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Add the next chunk.

        Raises:
            ValueError: What has to be kept is too large.
        """
        data, at = self._rest + chunk, 0
        self._rest = b""
        while at < len(data):
            if self._string is None:
                quote = data.find(b'"', at)
                end = len(data) if quote < 0 else quote
                self._kept += data[at:end]
                at = end
                if quote >= 0:
                    self._string, self._string_bytes, at = bytearray(), 0, quote + 1
            else:
                at = self._read_string(data, at)
                if at < 0:
                    break
        if len(self._kept) > MOST_BYTES:
            raise ValueError("too large")

    def decode(self) -> Any:
        """The value without its long strings.

        Raises:
            msgspec.DecodeError: The text is not JSON, or truncated.
        """
        return msgspec.json.decode(bytes(self._kept))

    def _read_string(self, data: bytes, at: int) -> int:
        """Read on in a string from `at`. Returns the position after it, or -1 if it goes on."""
        assert self._string is not None
        match = _IN_STRING.match(data, at)
        assert match is not None
        end = match.end()
        self._string_bytes += end - at
        if self._string_bytes <= LONGEST_STRING_BYTES:
            self._string += data[at:end]
        if end == len(data) or data[end] != ord('"'):
            self._rest = data[end:]
            return -1
        text = self._string if self._string_bytes <= LONGEST_STRING_BYTES else b""
        self._kept += b'"' + text + b'"'
        self._string = None
        return end + 1


def read_header_times(chunks: Iterable[bytes]) -> list[int] | None:
    """The `header_times` of a log in JSON, in nanoseconds since 1970, in the order given.

    Values that are not whole numbers are left out.

    Args:
        chunks: The body.

    Returns:
        Empty if there is no such field; None if the body is not a JSON object, or truncated.
    """
    skeleton = Skeleton()
    try:
        for chunk in chunks:
            skeleton.feed(chunk)
        found = skeleton.decode()
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    times = found.get("header_times")
    values = times if isinstance(times, list) else []
    return [one for one in values if isinstance(one, int) and not isinstance(one, bool)]
