"""What the loader and the markers both know of Honeycomb: whose a key is, and its error bodies.

Sources: Honeycomb's API description, `/1/auth` and its three shapes of errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bk_pipeline.errors import ServiceUnavailable, UnexpectedAnswer
from bk_pipeline.http.session import Response

INGEST = "ingest"
DEFAULT_PORTS = {"https": 443, "http": 80}

Quote = Callable[[str], str]

_object = msgspec.json.Decoder(dict[str, Any])


class _Named(msgspec.Struct):
    name: str = ""
    slug: str = ""


class _Access(msgspec.Struct, rename="camel"):
    events: bool = False
    markers: bool = False
    create_datasets: bool = False


class _Auth(msgspec.Struct):
    type: str = ""
    api_key_access: _Access = msgspec.field(default_factory=_Access)
    environment: _Named | None = None
    team: _Named | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What `/1/auth` tells of a key. `environment` is empty for a classic key."""

    team: str
    environment: str
    key_kind: str
    may_send_events: bool
    may_create_datasets: bool
    may_place_markers: bool


def account_in(response: Response, *, place: str, quote: Quote) -> Account:
    """The account in a 200 of `/1/auth`.

    Raises:
        UnexpectedAnswer: It is something else, or names no team.
    """
    try:
        auth = msgspec.json.decode(response.body, type=_Auth)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise _unexpected(response, place, quote) from exc
    if auth.team is None or not auth.team.slug:
        raise _unexpected(response, place, quote)
    access = auth.api_key_access
    return Account(
        team=auth.team.slug,
        environment=auth.environment.slug if auth.environment else "",
        key_kind=auth.type,
        may_send_events=access.events or auth.type == INGEST,
        may_create_datasets=access.create_datasets,
        may_place_markers=access.markers,
    )


def dataset_slug(name: str) -> str:
    """The slug that Honeycomb gives to a dataset of this name."""
    return re.sub(r"[^a-z0-9_~.-]", "-", name.strip().lower())


def host_shown(endpoint: str) -> str:
    """Host and, unless it is the usual one, port: the same for all spellings of a URL."""
    parts = urlsplit(endpoint)
    port = parts.port if parts.port != DEFAULT_PORTS.get(parts.scheme) else None
    return f"{parts.hostname}:{port}" if port else f"{parts.hostname}"


def unreachable(place: str, exc: ServiceUnavailable) -> ServiceUnavailable:
    """The same, with what cannot be reached and what to look at."""
    return ServiceUnavailable(
        f"{place} cannot be reached. {exc} Check HONEYCOMB_API_ENDPOINT and the network if that "
        "goes on.",
        maybe_processed=exc.maybe_processed,
    )


def said_in(response: Response, quote: Quote) -> str:
    """Honeycomb's own words on a failure, on one line, else what kind of body came."""
    try:
        fields = _object.decode(response.body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return shown(response, quote)
    return next((quote(words) for words in _words(fields)), None) or shown(response, quote)


def shown(response: Response, quote: Quote) -> str:
    """`text/html beginning with "<html>..."`, for a body that is not what it should be."""
    if not response.body:
        return "an empty body"
    kind = quote(response.headers.get("Content-Type", "")) or "a body of no declared type"
    return f'{kind} beginning with "{quote(response.body[:400].decode(errors="replace"))}"'


def _words(fields: dict[str, Any]) -> Iterator[str]:
    """From each of the three shapes that its error bodies have, the plainest first."""
    errors = fields.get("errors")
    inner = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    for one in (fields, *inner):
        for name in ("error", "detail", "title"):
            words = one.get(name)
            if isinstance(words, str) and words.strip():
                yield words


def _unexpected(response: Response, place: str, quote: Quote) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{place} did not say whose the key is, but {shown(response, quote)}. Check "
        "HONEYCOMB_API_ENDPOINT and what stands between us and it; nothing was sent."
    )
