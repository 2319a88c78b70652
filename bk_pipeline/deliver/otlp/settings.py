"""OTLP endpoint settings from `OTEL_EXPORTER_OTLP_*` and `OTEL_*` resource variables.

They follow the specification: a variable of one signal takes precedence over the general one, and
an empty value counts as unset. There are two differences. Malformed values that the specification
ignores with a warning are errors, because spans sent wrongly cannot be recalled. And there is no
default endpoint (a collector on localhost), because it would make every run fail that is meant for
another destination.

Sources: OpenTelemetry specification, "OpenTelemetry Protocol Exporter", "Environment Variable
Specification" and "Resource SDK".
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

from bk_pipeline.deliver.otlp.variables import (
    DEFAULT_TIMEOUT_MS,
    GENERAL,
    GRPC,
    HTTP,
    METRICS,
    NO_LIMITS,
    TRACES,
    Compression,
    Signal,
    SpanLimits,
    Variables,
    headers,
    timeouts_of,
)
from bk_pipeline.deliver.resource import SERVICE_NAME, resource_attributes
from bk_pipeline.environment import SERVICE_TEMPLATE_VARIABLE, validated
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.network import DEFAULT_PORTS, Network, Timeouts

# Headers that select a tenant: Grafana Tempo and Mimir, Honeycomb (classic), Axiom, OpenObserve.
TENANT_HEADERS = (
    "x-scope-orgid",
    "x-tenant-id",
    "x-honeycomb-dataset",
    "x-axiom-dataset",
    "organization",
    "stream-name",
)
HASH_DIGITS = 8
# A path segment that may be a key, like Sumo Logic's: long, or even longer without digits.
OPAQUE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z]).{16,}|.{24,}")


def destination_name(
    url: str, headers: Mapping[str, str], account: str, *, kind: str = "otlp"
) -> str:
    """Return `<kind>:<host>[:port]/<path>`, plus `#` and an id for each account or tenant.

    Parts of the path that may be secret are replaced by short hashes, and so is the tenant. The
    name leaves out the scheme, because one endpoint may be reached by both, and the query, which
    may hold keys. It does not depend on spelling: upper case or a trailing dot in the host, or
    extra slashes in the path.
    """
    tenants = [f"{name}={headers[name]}" for name in TENANT_HEADERS if headers.get(name)]
    tenants += _basic_auth_user(headers)
    suffixes = [account] if account else []
    if tenants:
        suffixes.append(_hash("\0".join(tenants)))
    return f"{kind}:{place_shown(url)}" + "".join(f"#{suffix}" for suffix in suffixes)


def place_shown(url: str) -> str:
    """Return `<host>[:port]/<path>` with short hashes for parts that may be secret."""
    parts = urlsplit(url)
    segments = [one for one in parts.path.split("/") if one]
    shown = [_hash(one) if OPAQUE.fullmatch(one) else one for one in segments]
    return f"{_netloc(parts)}/{'/'.join(shown)}"


def secrets_in(url: str) -> list[str]:
    """Return the parts of a URL's path and query that must not be shown."""
    parts = urlsplit(url)
    values = [pair.partition("=")[2] for pair in parts.query.split("&")]
    opaque = [one for one in parts.path.split("/") if OPAQUE.fullmatch(one)]
    return [one for one in (parts.query, *values, *opaque) if one]


def _netloc(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    shown = f"[{host}]" if ":" in host else host
    show_port = parts.port is not None and parts.port != DEFAULT_PORTS.get(parts.scheme)
    return f"{shown}:{parts.port}" if show_port else shown


def _basic_auth_user(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the user of basic authentication; one without a password is a secret itself."""
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
    """The settings of one signal's endpoint. Its `repr` shows no secret.

    Attributes:
        url: The complete URL for requests; its path or query may hold a key.
        headers: Headers of each request, by lowercase name; mostly secrets.
        timeouts: The timeouts of each attempt.
        compression: The compression of bodies.
        ca_file: The path of a CA bundle, instead of the network's.
        client_cert: The paths of the client certificate and its key.
        network: Proxies, and the CA bundle for all services.
        resource: The attributes of every resource, service name first. A build's own values take
            precedence.
        service_template: The template of the service name of each pipeline's spans. Metrics are of
            all pipelines, so their resource has none.
        account: A word that distinguishes accounts behind the same URL.
        endpoint_variable: The variable that has the URL, for messages.
        headers_variable: The variable for the headers, for messages.
        certificate_variable: The variable for the CA bundle, for messages.
        span_limits: The limits of each span.
        batch_spans: The maximum number of spans in a request, if it is limited.
        signal: The signal to be sent.
        protocol: `http/protobuf` or `grpc`.
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
    service_template: str = ""
    account: str = ""
    endpoint_variable: str = f"{GENERAL}ENDPOINT"
    headers_variable: str = f"{GENERAL}HEADERS"
    certificate_variable: str = f"{GENERAL}CERTIFICATE"
    span_limits: SpanLimits = NO_LIMITS
    batch_spans: int | None = None
    signal: Signal = TRACES
    protocol: str = HTTP

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, signal: Signal = TRACES, shown_prefix: str = ""
    ) -> Self | None:
        """Return the settings of a signal; None without an endpoint or if OTLP export is disabled.

        Args:
            environment: Variables and their values.
            signal: The signal to be sent.
            shown_prefix: The prefix that users put before the variables, for messages.

        Raises:
            ConfigError: A variable is malformed or not supported; the message names it.
        """
        environment = validated(environment, shown_prefix=shown_prefix)
        variables = Variables(environment, signal, shown_prefix=shown_prefix)
        endpoint_variable, endpoint = variables.get("ENDPOINT")
        if not endpoint or variables.disabled:
            return None
        protocol = variables.protocol()
        variables.check_unsupported()
        if signal is METRICS:
            variables.check_metrics()
        headers_variable, header_pairs = variables.get("HEADERS")
        return cls(
            url=(
                _grpc_url(endpoint_variable, variables.with_scheme(endpoint))
                if protocol == GRPC
                else _url(endpoint_variable, endpoint, signal)
            ),
            protocol=protocol,
            headers=headers(headers_variable, header_pairs),
            timeouts=variables.timeouts(),
            compression=variables.compression(),
            ca_file=variables.ca_file(),
            client_cert=variables.client_cert(),
            network=Network.of(environment),
            resource=resource_attributes(environment, default_service=DEFAULT_SERVICE_NAME),
            service_template=environment.get(SERVICE_TEMPLATE_VARIABLE, ""),
            account=_account(environment),
            endpoint_variable=endpoint_variable,
            headers_variable=headers_variable,
            certificate_variable=variables.get("CERTIFICATE")[0],
            span_limits=variables.span_limits(),
            batch_spans=variables.batch_spans(),
            signal=signal,
        )

    @property
    def name(self) -> str:
        """The destination's id in the ledger, see `destination_name`."""
        return self.named(self.signal.ledger_prefix)

    def named(self, kind: str) -> str:
        """Return the ledger's id of the items of one kind that are sent here."""
        return destination_name(self.url, self.headers, self.account, kind=kind)

    @property
    def place(self) -> str:
        """Host, port and path without secrets, for messages."""
        return place_shown(self.url)


def _url(variable: str, endpoint: str, signal: Signal) -> str:
    """Return the URL to send to; the path of a general endpoint is extended by the signal's."""
    parts = _checked(variable, endpoint)
    path = parts.path
    if variable.endswith(GENERAL + "ENDPOINT"):
        path = f"{path.rstrip('/')}/{signal.path}"
    return urlunsplit((parts.scheme, parts.netloc, path or "/", parts.query, ""))


def _grpc_url(variable: str, endpoint: str) -> str:
    """Return the address of a gRPC server as a URL."""
    parts = _checked(variable, endpoint)
    if parts.path not in {"", "/"} or parts.query:
        raise ConfigError(
            f"{variable} has a path, and gRPC has none. Give host and port only, like "
            "https://collector.example.com:4317."
        )
    return urlunsplit((parts.scheme, parts.netloc, "/", "", ""))


def _checked(variable: str, endpoint: str) -> SplitResult:
    """Return the parts of an endpoint."""
    malformed = f"{variable} is malformed: expected a URL like https://collector.example.com:4318."
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError:
        raise ConfigError(malformed) from None
    sendable = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
    if parts.scheme not in {"http", "https"} or not parts.hostname or not sendable:
        raise ConfigError(malformed)
    if "@" in parts.netloc:
        raise ConfigError(
            f"{variable} contains a user name or password. Remove it from the URL and put the "
            f"credentials into a header in {GENERAL}HEADERS, like Authorization=Basic%20..."
        )
    return parts


def _account(environment: Mapping[str, str]) -> str:
    word = environment.get(ACCOUNT, "").strip()
    if not word.isprintable() or " " in word or "#" in word:
        raise ConfigError(f"{ACCOUNT} is malformed: expected a single word like team-a.")
    return word
