"""The account of a Honeycomb key and the API's endpoint, for both the loader and the markers.

Source: Honeycomb's API description, `/1/auth`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from bk_pipeline.errors import UnexpectedAnswer
from bk_pipeline.http.answers import Quote, body_summary, decoded
from bk_pipeline.http.network import DEFAULT_PORTS
from bk_pipeline.http.session import Response

INGEST = "ingest"
# Permissions of a configuration key, as Honeycomb's pages name them.
BOARDS, COLUMNS = "Manage Public Boards", "Manage Queries and Columns"
DATASETS, TRIGGERS, SLOS = "Create Datasets", "Manage Triggers", "Manage SLOs"


class _Named(msgspec.Struct):
    name: str = ""
    slug: str = ""


class _Access(msgspec.Struct, rename="camel"):
    events: bool = False
    markers: bool = False
    create_datasets: bool = False
    boards: bool = False
    columns: bool = False
    triggers: bool = False
    slos: bool = False

    @property
    def permissions(self) -> frozenset[str]:
        granted = {
            BOARDS: self.boards,
            COLUMNS: self.columns,
            DATASETS: self.create_datasets,
            TRIGGERS: self.triggers,
            SLOS: self.slos,
        }
        return frozenset(name for name, given in granted.items() if given)


class _Auth(msgspec.Struct):
    type: str = ""
    api_key_access: _Access = msgspec.field(default_factory=_Access)
    environment: _Named | None = None
    team: _Named | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The account and permissions of a key. `environment` is empty for a classic key.

    `permissions` has those for boards and what they need.
    """

    team: str
    environment: str
    key_kind: str
    may_send_events: bool
    may_create_datasets: bool
    may_place_markers: bool
    permissions: frozenset[str] = frozenset()


def parse_account(response: Response, *, place: str, quote: Quote) -> Account:
    """Return the account in a 200 response of `/1/auth`.

    Raises:
        ServiceUnavailable: The response is truncated.
        UnexpectedAnswer: The body is something else, or names no team.
    """
    auth = decoded(
        response, _Auth, place=place, unexpected=lambda: _unexpected(response, place, quote)
    )
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
        permissions=access.permissions,
    )


def dataset_slug(name: str) -> str:
    """Return the slug that Honeycomb gives to a dataset of this name."""
    return re.sub(r"[^a-z0-9_~.-]", "-", name.strip().lower())


def base_url(endpoint: str) -> str:
    """Return `endpoint` without the version and path, as API paths are appended to it.

    Users may copy the URL with version and more from the documentation: https://host/1/batch.
    """
    return re.sub(r"/1(/(auth|batch|events|markers)(/[^/]*)?)?/*$", "", endpoint).rstrip("/")


def host_and_port(endpoint: str) -> str:
    """Return host and, unless it is the default, port; the same for all spellings of a URL."""
    parts = urlsplit(endpoint)
    port = parts.port if parts.port != DEFAULT_PORTS.get(parts.scheme) else None
    host = (parts.hostname or "").rstrip(".")
    return f"{host}:{port}" if port else host


def _unexpected(response: Response, place: str, quote: Quote) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{place} did not return the account of the key, but {body_summary(response, quote)}. Check "
        "HONEYCOMB_API_ENDPOINT and any proxy in between; nothing was sent."
    )
