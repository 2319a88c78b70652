"""Text of others, fit to be shown: one function for terminals and logs, one for Markdown.

Branches, labels, messages and the answers of services can hold anything: escape sequences,
bidirectional marks, Markdown. Nothing of them goes to a terminal or to Dagster's pages but
through here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from urllib.parse import urlsplit

# What moves the cursor, hides, reorders or has no meaning; lines and tabs stay.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINER = "\u200d"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_UNESCAPED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_IN_URL = {ord(one): f"%{ord(one):02X}" for one in "()<>[]|\\`\"' "}
BUILDKITE = "buildkite.com"


def plain(text: str) -> str:
    """`text` without characters that a terminal acts on or does not show. Lines stay lines.

    A zero-width joiner stays within an emoji.
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


def json_line(text: str) -> str:
    """The same JSON, with escapes for what a terminal acts on and JSON lets stand as it is."""
    return _UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def markdown(text: str) -> str:
    """`text` as one line of Markdown that shows it as it is: no markup, links, pictures, HTML."""
    return _MARKDOWN.sub(r"\\\1", " ".join(plain(text).split()))


def page(url: object, hosts: Collection[str] = (BUILDKITE,)) -> str | None:
    """`url` where it is an HTTPS address on one of `hosts`, fit for Markdown's `(…)`; else None."""
    if not isinstance(url, str) or plain(url) != url:
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
