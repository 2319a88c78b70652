"""`OTEL_EXPORTER_OTLP_*` and `OTEL_*` of the resource, as the specification has them.

Each variable has a form for one signal alone, which goes before the general one; an empty
value counts as none. What the specification has ignored with a warning is refused here:
nothing that was sent wrongly can be called back.

Sources: OpenTelemetry specification, "OpenTelemetry Protocol Exporter", "Environment
Variable Specification" and "Resource SDK".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from bk_pipeline.deliver.otlp.shape import SERVICE_NAME
from bk_pipeline.deliver.otlp.variables import (
    DEFAULT_TIMEOUT_MS,
    GENERAL,
    METRICS,
    TRACES,
    Compression,
    Signal,
    Variables,
    attributes,
    headers,
    timeouts_of,
)
from bk_pipeline.environment import sound
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.network import Network
from bk_pipeline.http.session import DEFAULT_PORTS, Timeouts

# Whose spans they are, by name: Grafana's Tempo and Mimir, Honeycomb (classic), Axiom, OpenObserve.
TENANT_HEADERS = (
    "x-scope-orgid",
    "x-tenant-id",
    "x-honeycomb-dataset",
    "x-axiom-dataset",
    "organization",
    "stream-name",
)
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


ACCOUNT = "BK_PIPELINE_OTLP_ACCOUNT"
DEFAULT_SERVICE_NAME = "buildkite"


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where a signal goes and how. Its `repr` shows no secret.

    Attributes:
        url: Takes the requests, as it is; its path or query may hold a key.
        headers: Sent with each request, by names in small letters; mostly secrets.
        timeouts: Of each attempt.
        compression: Of bodies.
        ca_file: Path of a CA bundle instead of the network's.
        client_cert: Paths of our certificate and its key.
        network: Proxies, and the CA bundle for all services.
        resource: Attributes of every resource, the service's name first. A build's own
            value of the same name goes before.
        account: A word that tells us from others behind the same URL.
        endpoint_variable: Where the URL comes from, for messages.
        headers_variable: Where the headers come from or should, for messages.
        certificate_variable: Where the CA bundle comes from or should, for messages.
        signal: What goes there.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeouts: Timeouts = field(default_factory=lambda: timeouts_of(DEFAULT_TIMEOUT_MS))
    compression: Compression = Compression.NONE
    ca_file: str | None = None
    client_cert: tuple[str, str] | None = None
    network: Network = field(default_factory=Network)
    resource: Mapping[str, str] = field(
        default_factory=lambda: {SERVICE_NAME: DEFAULT_SERVICE_NAME}, repr=False
    )
    account: str = ""
    endpoint_variable: str = f"{GENERAL}ENDPOINT"
    headers_variable: str = f"{GENERAL}HEADERS"
    certificate_variable: str = f"{GENERAL}CERTIFICATE"
    signal: Signal = TRACES

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, signal: Signal = TRACES, shown_prefix: str = ""
    ) -> Self | None:
        """What the variables say; None if no endpoint is set: then nothing goes anywhere.

        None too if OTEL_TRACES_EXPORTER, or what it is for the signal, names others than otlp,
        and if OTEL_SDK_DISABLED is true.

        The specification's default, a collector on this host, would have every run fail
        that was meant for another destination.

        Args:
            environment: Variables and their values.
            signal: What is to go there.
            shown_prefix: What the exporter's variables begin with where people set them, for
                messages; `environment` has them without it.

        Raises:
            ConfigError: A variable is malformed, or asks for what is not supported; names it.
        """
        environment = sound(environment, shown_prefix=shown_prefix)
        variables = Variables(environment, signal, shown_prefix=shown_prefix)
        endpoint_variable, endpoint = variables.get("ENDPOINT")
        if not endpoint or variables.switched_off:
            return None
        variables.refuse_other_protocols()
        variables.refuse_unsupported()
        if signal is METRICS:
            variables.refuse_other_metrics()
        headers_variable, header_pairs = variables.get("HEADERS")
        return cls(
            url=_url(endpoint_variable, endpoint, signal),
            headers=headers(headers_variable, header_pairs),
            timeouts=variables.timeouts(),
            compression=variables.compression(),
            ca_file=variables.ca_file(),
            client_cert=variables.client_cert(),
            network=Network.of(environment),
            resource=_resource(environment),
            account=_account(environment),
            endpoint_variable=endpoint_variable,
            headers_variable=headers_variable,
            certificate_variable=variables.get("CERTIFICATE")[0],
            signal=signal,
        )

    @property
    def name(self) -> str:
        """What the ledger knows the destination by; see `naming.py`."""
        return destination_name(self.url, self.headers, self.account, kind=self.signal.ledger)

    @property
    def place(self) -> str:
        """Host, port and path, for messages; no secret."""
        return place_shown(self.url)


def _url(variable: str, endpoint: str, signal: Signal) -> str:
    """The URL to send to: a general endpoint's path is only the beginning of it."""
    wanted = f"{variable} is malformed: give a URL like https://collector.example.com:4318."
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError:
        raise ConfigError(wanted) from None
    sendable = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
    if parts.scheme not in {"http", "https"} or not parts.hostname or not sendable:
        raise ConfigError(wanted)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{variable} holds a user name or password: give the URL without it, and the "
            f"credentials as a header in {GENERAL}HEADERS, like Authorization=Basic%20..."
        )
    path = parts.path
    if variable.endswith(GENERAL + "ENDPOINT"):
        path = f"{path.rstrip('/')}/{signal.path}"
    return urlunsplit((parts.scheme, parts.netloc, path or "/", parts.query, ""))


def _resource(environment: Mapping[str, str]) -> dict[str, str]:
    """OTEL_SERVICE_NAME goes before OTEL_RESOURCE_ATTRIBUTES, and that before our default."""
    variable = "OTEL_RESOURCE_ATTRIBUTES"
    given = attributes(variable, environment.get(variable, ""))
    named = environment.get("OTEL_SERVICE_NAME", "").strip()
    service = named or given.get(SERVICE_NAME) or DEFAULT_SERVICE_NAME
    return {SERVICE_NAME: service} | {k: v for k, v in given.items() if k != SERVICE_NAME}


def _account(environment: Mapping[str, str]) -> str:
    word = environment.get(ACCOUNT, "").strip()
    if not word.isprintable() or " " in word or "#" in word:
        raise ConfigError(f"{ACCOUNT} is no single word: give one like team-a.")
    return word
