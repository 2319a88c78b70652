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
from bk_pipeline.http.body import is_cut
from bk_pipeline.http.session import Response

INGEST = "ingest"
DEFAULT_PORTS = {"https": 443, "http": 80}

# What msgspec raises for a body that is no JSON, or other JSON than was wanted.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

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
        ServiceUnavailable: It was cut on its way.
        UnexpectedAnswer: It is something else, or names no team.
    """
    try:
        auth = msgspec.json.decode(response.body, type=_Auth)
    except UNDECODABLE as exc:
        if is_cut(exc, response.body):
            raise cut_short(response, place) from exc
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


def base_url(endpoint: str) -> str:
    """`endpoint` as the API's paths are added to it.

    Some copy the documentation's, which has the version and more: https://host/1/batch.
    """
    return re.sub(r"/1(/(auth|batch|events|markers)(/[^/]*)?)?/*$", "", endpoint).rstrip("/")


def host_shown(endpoint: str) -> str:
    """Host and, unless it is the usual one, port: the same for all spellings of a URL."""
    parts = urlsplit(endpoint)
    port = parts.port if parts.port != DEFAULT_PORTS.get(parts.scheme) else None
    host = (parts.hostname or "").rstrip(".")
    return f"{host}:{port}" if port else host


def cut_short(response: Response, place: str) -> ServiceUnavailable:
    """What to raise for a 2xx of which a part is missing: what was asked for may be done."""
    return ServiceUnavailable(
        f"{place}: the JSON of the answer to {response.request} is broken or cut short."
    )


def unreachable(place: str, exc: ServiceUnavailable) -> ServiceUnavailable:
    """The same, with what cannot be reached and what to look at."""
    return ServiceUnavailable(
        f"{place} cannot be reached. {exc} Check HONEYCOMB_API_ENDPOINT and the network if that "
        "goes on.",
        maybe_processed=exc.maybe_processed,
    )


def said_in(response: Response, quote: Quote) -> str:
    """Honeycomb's own words on a failure, on one line, else what kind of body came."""
    return quote(words_in(response) or "") or shown(response, quote)


def words_in(response: Response) -> str | None:
    """Honeycomb's own words, as they came; None if the body is none of its error bodies."""
    try:
        return next(_words(_object.decode(response.body)), None)
    except UNDECODABLE:
        return None


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
