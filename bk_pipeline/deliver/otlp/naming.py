"""What the ledger calls an OTLP endpoint: the same as long as it is the same place.

Host, port and path say where. Who we are there mostly follows from a secret, and a secret
is replaced now and then: if the name came from it, every rotation would make a new
destination, to which all that is materialized again would be sent, and billed, twice; and
nothing sent can be taken back. So credentials are not part of the name. What is: the
tenant, where a header says it that is no secret, or a user name says it (Grafana Cloud's
instance). Two teams whom only their keys tell apart are told apart by a word of the user's
own, BK_PIPELINE_OTLP_ACCOUNT; forgetting that sends too little, which a later delivery can
make good.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from urllib.parse import SplitResult, urlsplit

# Whose spans they are, by name: Grafana's Tempo and Mimir, Honeycomb (classic), Axiom, OpenObserve.
TENANT_HEADERS = (
    "x-scope-orgid",
    "x-tenant-id",
    "x-honeycomb-dataset",
    "x-axiom-dataset",
    "organization",
    "stream-name",
)
DEFAULT_PORTS = {"https": 443, "http": 80}
HASH_DIGITS = 8
# A part of a path that may be a key, as Sumo Logic's is: long, the more so without digits.
OPAQUE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z]).{16,}|.{24,}")


def destination_name(
    url: str, headers: Mapping[str, str], account: str, *, kind: str = "otlp"
) -> str:
    """`<kind>:<host>[:port]/<path>`, and `#` with what tells the tenants of it apart.

    Parts of the path that may be secrets stand there as short hashes; so does the tenant.
    Scheme and query are no part of it: the same place answers to both schemes, and queries
    hold keys. Nor are spellings of one place: upper case in the host, a dot behind it, a slash
    at the end of the path, or two instead of one.
    """
    tenants = [f"{name}={headers[name]}" for name in TENANT_HEADERS if headers.get(name)]
    tenants += _user(headers)
    marks = [account] if account else []
    if tenants:
        marks.append(_hash("\0".join(tenants)))
    return f"{kind}:{place_shown(url)}" + "".join(f"#{mark}" for mark in marks)


def place_shown(url: str) -> str:
    """`<host>[:port]/<path>` with short hashes for what may be secret."""
    parts = urlsplit(url)
    segments = [one for one in parts.path.split("/") if one]
    shown = [_hash(one) if OPAQUE.fullmatch(one) else one for one in segments]
    return f"{_netloc(parts)}/{'/'.join(shown)}"


def secrets_in(url: str) -> list[str]:
    """What a URL's path and query hold that should not be shown."""
    parts = urlsplit(url)
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    opaque = [one for one in parts.path.split("/") if OPAQUE.fullmatch(one)]
    return [one for one in (parts.query, *values, *opaque) if one]


def _netloc(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    shown = f"[{host}]" if ":" in host else host
    ours = parts.port is not None and parts.port != DEFAULT_PORTS.get(parts.scheme)
    return f"{shown}:{parts.port}" if ours else shown


def _user(headers: Mapping[str, str]) -> Iterator[str]:
    """The user of basic authentication. Without a password it is a secret itself."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        user, _, password = base64.b64decode(credentials).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return
    if user and password:
        yield f"user={user}"


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:HASH_DIGITS]
