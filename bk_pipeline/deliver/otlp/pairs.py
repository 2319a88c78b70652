"""`key=value,key=value`, as OpenTelemetry's variables hold headers and resource attributes.

A complaint names the variable and the pair's place in it; never a value, and never a name:
in a malformed variable the secret may stand in the name's place.

Sources: OpenTelemetry specification, "Specifying headers via environment variables" and
"Specifying resource information via an environment variable"; W3C Baggage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from bk_pipeline.environment import quoted
from bk_pipeline.errors import ConfigError

# RFC 9110, "token": what a header may be called.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Unencoded, they mean something else in W3C Baggage.
RESERVED = frozenset('";\\')


def headers(variable: str, text: str) -> dict[str, str]:
    """The headers in `text`, by their names in small letters; of equal ones the last.

    A space in a value may stand there unencoded, as in `Authorization=Basic abc`: all
    documentation of vendors has it so.

    Raises:
        ConfigError: A pair is none, or cannot be sent as a header.
    """
    found = {}
    for place, name, value in _pairs(variable, text):
        if not HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{variable}: the name of {place} is not that of a header.")
        if not value:
            raise ConfigError(
                f"{variable}: {place} has no value. Put one there, or take the pair out."
            )
        decoded = _decoded(variable, place, value).strip()
        if RESERVED & set(value) or not decoded.isascii() or not decoded.isprintable():
            raise ConfigError(
                f"{variable}: the value of {place} cannot be sent as a header. Give it "
                "on one line without letters beyond ASCII, and percent-encode what is no letter "
                'or digit: %2C for a comma, %3B for a semicolon, %22 for a ".'
            )
        found[name.lower()] = decoded
    return found


def attributes(variable: str, text: str) -> dict[str, str]:
    """The resource attributes in `text`, keys and values decoded; of equal ones the last.

    Raises:
        ConfigError: A pair is none. The specification has all of them discarded then, and an
            error reported; but what was sent without them could not be mended.
    """
    return {
        _decoded(variable, place, key): _decoded(variable, place, value)
        for place, key, value in _pairs(variable, text)
    }


def _pairs(variable: str, text: str) -> Iterator[tuple[str, str, str]]:
    """What to call it in a message, key and value of each pair; empty ones are passed over."""
    pairs = [pair for pair in text.split(",") if pair.strip()]
    for number, pair in enumerate(pairs, start=1):
        place = f"pair {number} of {len(pairs)}"
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals:
            raise ConfigError(
                f"{variable}: {place} is not key=value. Give pairs like "
                "key1=value1,key2=value2, and write a comma within a value as %2C."
            )
        if quoted(key) or quoted(value):
            raise ConfigError(
                f"{variable}: {place} has quotes, which would be part of the value. Take them "
                "off; percent-encode what is no letter or digit, %22 for a quote that belongs there."
            )
        yield place, key, value


def _decoded(variable: str, place: str, text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ConfigError(
            f"{variable}: {place} is no UTF-8 after percent-decoding. Write a percent sign as %25."
        ) from None
