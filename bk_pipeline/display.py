"""Make untrusted text safe to show: for terminals, logs, Markdown and links.

Branch names, labels, messages and responses of services can contain anything: escape sequences,
bidirectional control characters, Markdown. All of it passes through here before it reaches a
terminal, a log, or Dagster's UI.
"""

from __future__ import annotations

import re
import unicodedata
from binascii import b2a_base64
from collections.abc import Collection
from html import escape
from typing import TYPE_CHECKING, NewType
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import logging

# Categories of characters that move the cursor, hide or reorder text, or are undefined.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINER = "\u200d"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_BLANKS = re.compile(r"[^\S\N{NO-BREAK SPACE}]+")
_UNESCAPED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_IN_URL = {ord(one): f"%{ord(one):02X}" for one in "()<>[]|\\`\"' "}
BUILDKITE = "buildkite.com"
_API = "api."

# The address of a web page that may be linked. Only `safe_url` makes one.
Page = NewType("Page", str)


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
    return _MARKDOWN.sub(r"\\\1", _one_line(text))


def escape_html(text: str) -> str:
    """Return `text` escaped as one line of HTML, for an element or a quoted attribute."""
    return escape(_one_line(text))


def _one_line(text: str) -> str:
    """Return printable text with single spaces; those that do not break the line stay."""
    return _BLANKS.sub(" ", printable(text)).strip()


def safe_url(url: object, hosts: Collection[str] = (BUILDKITE,)) -> Page | None:
    """Return `url`, fit for Markdown's `(…)`, if it is an HTTPS URL on one of `hosts`; else None.

    Args:
        url: The URL; anything that is not a string gives None.
        hosts: Host names in lower case, without ports. Their subdomains do not count.
    """
    # urlsplit ignores white space at the start and line breaks anywhere; browsers may not.
    if not isinstance(url, str) or printable(url) != url or url.strip() != url:
        return None
    if url[:8].lower() != "https://" or any(one in url for one in "\n\t\\"):
        return None
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return None
    if not host or host not in hosts or "@" in parts.netloc:
        return None
    return Page(url.translate(_IN_URL))


def web_host(api_url: str, prefix: str = "") -> str:
    """Return the host of the web pages that belong to an API.

    It is the API's own, in which a leading `api.` is replaced: `https://api.acme.dev` gives
    `acme.dev`, and with the prefix `ui.` it gives `ui.acme.dev`.
    """
    host = (urlsplit(api_url).hostname or "").rstrip(".")
    return prefix + host.removeprefix(_API) if host.startswith(_API) else host


def link(shown: str, address: Page | None) -> str:
    """Return `shown`, which is Markdown already, as a link to `address` if there is one."""
    return f"[{shown}]({address})" if address else shown


def html_link(shown: str, address: Page | None) -> str:
    """Return `shown`, which is HTML already, as a link to `address` if there is one."""
    return f'<a href="{escape(address)}" rel="noreferrer">{shown}</a>' if address else shown


def picture(alt: str, svg: bytes) -> str:
    """Return Markdown that holds an SVG picture; `alt` is plain text."""
    return f"![{escape_markdown(alt)}](data:image/svg+xml;base64,{b2a_base64(svg, newline=False).decode()})"


class Log:
    """A log that gets clean lines only. The package writes to no other.

    Args:
        log: The log to write to: Python's, or the `context.log` of Dagster.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    def info(self, message: str) -> None:
        """Log `message` as information."""
        self._log.info("%s", printable(message))

    def warning(self, message: str) -> None:
        """Log `message` as a warning."""
        self._log.warning("%s", printable(message))
