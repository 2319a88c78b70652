"""Escapes text from outside for terminals, logs and Markdown.

Branches, labels, messages and responses of services can contain anything: escape sequences,
bidirectional marks, Markdown. All of them pass through here before they reach a terminal or
Dagster's pages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from urllib.parse import urlsplit

# Categories of characters that move the cursor, hide or reorder text, or are undefined.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINER = "\u200d"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_UNESCAPED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_IN_URL = {ord(one): f"%{ord(one):02X}" for one in "()<>[]|\\`\"' "}
BUILDKITE = "buildkite.com"


def printable(text: str) -> str:
    """Return `text` without characters that a terminal interprets or does not show.

    Newlines, tabs and zero-width joiners inside emoji are kept.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        one
        for at, one in enumerate(text)
        if one in "\n\t"
        or unicodedata.category(one) not in _HIDDEN
        or (one == _JOINER and _joins(text, at))
    )


def _joins(text: str, at: int) -> bool:
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    return all(one and unicodedata.category(one) in {"So", "Sk", "Mn"} for one in (before, after))


def escape_json_line(text: str) -> str:
    """Return the same JSON, with characters escaped that a terminal interprets."""
    return _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escape_markdown(text: str) -> str:
    """Return `text` escaped as one line of Markdown: no markup, links, images or HTML."""
    return _MARKDOWN.sub(r"\\\1", " ".join(printable(text).split()))


def safe_url(url: object, hosts: Collection[str] = (BUILDKITE,)) -> str | None:
    """Return `url` escaped for a Markdown link if it is HTTPS and on one of `hosts`, else None."""
    if not isinstance(url, str) or printable(url) != url:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return None
    if parts.scheme != "https" or "@" in parts.netloc or "\\" in url:
        return None
    if not any(host == one or host.endswith(f".{one}") for one in hosts):
        return None
    return url.translate(_IN_URL)
