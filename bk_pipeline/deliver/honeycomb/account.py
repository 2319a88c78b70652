"""Whose key it is: team, environment and what it may do; and links into Honeycomb's pages.

Sources: Honeycomb's API description, `/1/auth`; buildevents, for the links' form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote as percent_encoded
from urllib.parse import urlencode, urlsplit

import msgspec

from bk_pipeline.deliver.honeycomb.answers import Quote, shown
from bk_pipeline.errors import UnexpectedAnswer
from bk_pipeline.http.session import Response

# Around a trace in its link; without times a trace must be of the last two hours.
LINK_MARGIN_S = 60
NS_PER_S = 1_000_000_000
INGEST = "ingest"


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


def trace_link(
    account: Account, *, endpoint: str, dataset: str, trace_text: str, start_ns: int, end_ns: int
) -> str:
    """The page that shows a trace.

    Args:
        account: Whose it is.
        endpoint: The API's URL, US or EU.
        dataset: Its name.
        trace_text: The trace's id as the events have it.
        start_ns: The root's start.
        end_ns: The root's end.
    """
    parts = urlsplit(endpoint)
    host = parts.netloc.replace("api", "ui", 1)
    environment = (
        f"/environments/{percent_encoded(account.environment)}" if account.environment else ""
    )
    query = urlencode(
        {
            "trace_id": trace_text,
            "trace_start_ts": start_ns // NS_PER_S - LINK_MARGIN_S,
            "trace_end_ts": -(-end_ns // NS_PER_S) + LINK_MARGIN_S,
        }
    )
    page = f"{percent_encoded(account.team)}{environment}/datasets/{percent_encoded(dataset_slug(dataset))}/trace"
    return f"{parts.scheme}://{host}/{page}?{query}"


def _unexpected(response: Response, place: str, quote: Quote) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{place} did not say whose the key is, but {shown(response, quote)}. Check "
        "HONEYCOMB_API_ENDPOINT and what stands between us and it; nothing was sent."
    )
