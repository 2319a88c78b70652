"""The OTLP exporter's variables: which of two takes precedence, and how values are parsed."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bk_pipeline.deliver.resource import decoded, pairs
from bk_pipeline.environment import SDK_DISABLED
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.network import Timeouts


@dataclass(frozen=True, slots=True)
class Signal:
    """A telemetry signal.

    Attributes:
        name: Its name in lower case, as in messages and (in upper case) in variables.
        noun: The plural noun for what requests contain and responses count.
        ledger_prefix: The prefix of destination names in the ledger. An endpoint may accept both signals
            at the same URL, and what was sent of one signal was not sent of the other.
        grpc_service: The gRPC service that takes it, below `opentelemetry.proto.collector`.
    """

    name: str
    noun: str
    ledger_prefix: str
    grpc_service: str

    @property
    def variable_prefix(self) -> str:
        """The prefix of variables that apply to this signal only."""
        return f"OTEL_EXPORTER_OTLP_{self.name.upper()}_"

    @property
    def exporter_variable(self) -> str:
        """The variable that lists the signal's exporters."""
        return f"OTEL_{self.name.upper()}_EXPORTER"

    @property
    def path(self) -> str:
        """The path that is added to a general endpoint."""
        return f"v1/{self.name}"

    @property
    def grpc_method(self) -> str:
        """The method of the gRPC service."""
        return f"/opentelemetry.proto.collector.{self.grpc_service}/Export"


TRACES = Signal("traces", "spans", "otlp", "trace.v1.TraceService")
METRICS = Signal("metrics", "data points", "otlp_metrics", "metrics.v1.MetricsService")


GENERAL = "OTEL_EXPORTER_OTLP_"
# Why not http/json: every receiver of it takes protobuf, which is smaller and quicker to encode.
HTTP, GRPC = "http/protobuf", "grpc"
# The temporalities possible for finished builds, and the aggregation of their durations.
TEMPORALITIES = ("delta", "lowmemory")
AGGREGATION = "base2_exponential_bucket_histogram"
DEFAULT_TIMEOUT_MS = 10_000
# Used for 0, which means no timeout in the specification.
MAX_TIMEOUT_S = 3_600.0
# A smaller value is meant as seconds, which is how opentelemetry-python reads the variable.
MIN_TIMEOUT_MS = 100
CONNECT_TIMEOUT_S = 10.0
# Variables of the specification that would change what is sent and are not supported: the reason
# for the message, and the values that make no difference.
# Source: OpenTelemetry specification, "Environment Variable Specification".
UNSUPPORTED: Mapping[str, tuple[str, frozenset[str]]] = {
    "OTEL_TRACES_SAMPLER": (
        "every build is sent",
        frozenset({"always_on", "parentbased_always_on"}),
    ),
    "OTEL_CONFIG_FILE": ("there is no declarative configuration here", frozenset()),
    "OTEL_EXPERIMENTAL_CONFIG_FILE": ("there is no declarative configuration here", frozenset()),
    "OTEL_ENTITIES": ("put attributes into OTEL_RESOURCE_ATTRIBUTES instead", frozenset()),
}
# The variables of each limit, the one that takes precedence first.
VALUE_LENGTH = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")
ATTRIBUTE_COUNT = ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT")
LINK_COUNT = ("OTEL_SPAN_LINK_COUNT_LIMIT",)
BATCH_SIZE = ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE",)


@dataclass(frozen=True, slots=True)
class SpanLimits:
    """Limits of each span; None sets no limit.

    Attributes:
        value_length: The length of a string value, also within a list, in characters.
        attributes: The number of attributes. Keys of maps (meta-data) are dropped first, then those
            of steps and jobs, and those of the build last.
        links: The number of links.
    """

    value_length: int | None = None
    attributes: int | None = None
    links: int | None = None


NO_LIMITS = SpanLimits()


class Compression(StrEnum):
    """The compression of request bodies."""

    NONE = "none"
    GZIP = "gzip"


class Variables:
    """The exporter's variables of one signal, by the end of their names.

    Args:
        environment: Variables and their values.
        signal: The signal.
        shown_prefix: The prefix of the variables as users set them, for messages.
    """

    def __init__(
        self, environment: Mapping[str, str], signal: Signal, *, shown_prefix: str
    ) -> None:
        self._environment = environment
        self._signal = signal
        self._shown_prefix = shown_prefix

    def get(self, option: str) -> tuple[str, str]:
        """Return the variable that takes precedence, as named in messages, and its value or ""."""
        for variable in (self._signal.variable_prefix + option, GENERAL + option):
            value = self._environment.get(variable, "").strip()
            if value:
                return self._shown_prefix + variable, value
        return self._shown_prefix + GENERAL + option, ""

    @property
    def disabled(self) -> bool:
        """Whether the signal is not to be exported by OTLP.

        Raises:
            ConfigError: OTEL_SDK_DISABLED is neither true nor false.
        """
        value = self._environment.get(SDK_DISABLED, "").strip().lower()
        if value not in {"", "true", "false"}:
            raise ConfigError(
                f"{self._shown_prefix}{SDK_DISABLED} is malformed: expected true or false."
            )
        if value == "true":
            return True
        exporters = self._environment.get(self._signal.exporter_variable, "").strip().lower()
        return bool(exporters) and "otlp" not in exporters.split(",")

    def protocol(self) -> str:
        """Return the protocol, `http/protobuf` or `grpc`.

        Raises:
            ConfigError: It is another one.
        """
        variable, value = self.get("PROTOCOL")
        protocol = value.lower() or HTTP
        if protocol not in {HTTP, GRPC}:
            reason = " Every receiver of http/json takes http/protobuf too." * ("json" in protocol)
            raise ConfigError(
                f"{variable} asks for an unsupported protocol. Set it to {HTTP} (usual port 4318) or "
                f"{GRPC} (usual port 4317), or unset it for {HTTP}.{reason}"
            )
        return protocol

    def with_scheme(self, endpoint: str) -> str:
        """Return an endpoint of gRPC, which may be `host:port`, as a URL."""
        if "://" in endpoint:
            return endpoint
        insecure = self.get("INSECURE")[1].lower() == "true"
        return f"{'http' if insecure else 'https'}://{endpoint}"

    def check_unsupported(self) -> None:
        """Check that no unsupported variable is set.

        Raises:
            ConfigError: One is set to a value that would change what is sent.
        """
        for variable, (reason, harmless) in UNSUPPORTED.items():
            value = self._environment.get(variable, "").strip().lower()
            if value and value not in harmless:
                raise ConfigError(
                    f"{self._shown_prefix}{variable} is not supported: {reason}. Unset it for this "
                    "program; a Collector on the way can do what it asks for."
                )

    def span_limits(self) -> SpanLimits:
        """Return the limits of each span.

        Raises:
            ConfigError: A limit is not a whole number.
        """
        return SpanLimits(
            value_length=self._whole_number(VALUE_LENGTH),
            attributes=self._whole_number(ATTRIBUTE_COUNT),
            links=self._whole_number(LINK_COUNT),
        )

    def batch_spans(self) -> int | None:
        """Return the maximum number of spans in a request; None without the variable.

        Raises:
            ConfigError: It is not a positive whole number.
        """
        return self._whole_number(BATCH_SIZE, minimum=1)

    def _whole_number(self, variables: Sequence[str], *, minimum: int = 0) -> int | None:
        for variable in variables:
            value = self._environment.get(variable, "").strip()
            if not value:
                continue
            if not (value.isascii() and value.isdecimal()) or int(value) < minimum:
                expected = "a whole number" if not minimum else f"a whole number from {minimum} up"
                raise ConfigError(
                    f"{self._shown_prefix}{variable} is malformed: expected {expected}."
                )
            return int(value)
        return None

    def check_metrics(self) -> None:
        """Check that metrics may be deltas and exponential histograms.

        Raises:
            ConfigError: A variable asks for another temporality or aggregation.
        """
        variable, value = self.get("TEMPORALITY_PREFERENCE")
        if value and value.lower() not in TEMPORALITIES:
            raise ConfigError(
                f"{variable} asks for running totals, which cannot be computed for finished builds. "
                "Set it to delta or unset it; a Collector's deltatocumulative adds them up."
            )
        variable, value = self.get("DEFAULT_HISTOGRAM_AGGREGATION")
        if value and value.lower() != AGGREGATION:
            raise ConfigError(
                f"{variable} asks for an unsupported histogram aggregation. Set it to "
                f"{AGGREGATION}, or unset it."
            )

    def timeouts(self) -> Timeouts:
        """Return the timeouts of each attempt.

        Raises:
            ConfigError: The variable is not a plausible number of milliseconds.
        """
        variable, value = self.get("TIMEOUT")
        if value and not (value.isascii() and value.isdecimal()):
            raise ConfigError(
                f"{variable} is not a whole number. Give milliseconds: 10000 for ten seconds."
            )
        timeout_ms = int(value) if value else DEFAULT_TIMEOUT_MS
        if 0 < timeout_ms < MIN_TIMEOUT_MS:
            raise ConfigError(
                f"{variable} is {timeout_ms}, and its unit is the millisecond, as the "
                "OpenTelemetry specification says (its Python SDK reads seconds). Give "
                f"{timeout_ms * 1_000} for {timeout_ms} seconds."
            )
        return timeouts_of(timeout_ms)

    def compression(self) -> Compression:
        """Return the compression of request bodies.

        Raises:
            ConfigError: It is neither gzip nor none.
        """
        variable, value = self.get("COMPRESSION")
        try:
            return Compression(value.lower() or Compression.NONE)
        except ValueError:
            raise ConfigError(
                f"{variable} asks for an unsupported compression: expected gzip or none."
            ) from None

    def ca_file(self) -> str | None:
        """Return the path of the CA bundle, or None if none is set.

        Raises:
            ConfigError: It is not a file of PEM certificates.
        """
        variable, path = self._file("CERTIFICATE")
        if not path:
            return None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (ssl.SSLError, OSError):
            raise ConfigError(f"{variable} is not a file of PEM certificates.") from None
        return path

    def client_cert(self) -> tuple[str, str] | None:
        """Return the paths of the client certificate and its key; one file may hold both.

        Returns:
            None if no certificate is set.

        Raises:
            ConfigError: The files are not a certificate and its unencrypted key.
        """
        variable, certificate = self._file("CLIENT_CERTIFICATE")
        key_variable, key = self._file("CLIENT_KEY")
        if key and not certificate:
            raise ConfigError(
                f"{key_variable} is set without a certificate: put the certificate's path into {variable}."
            )
        if not certificate:
            return None
        pair = certificate, key or certificate
        try:
            # Without a password argument, OpenSSL would prompt for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*pair, password="")
        except (ssl.SSLError, OSError):
            raise ConfigError(
                f"{variable} and {key_variable} are not a certificate and its "
                "unencrypted key in PEM format."
            ) from None
        return pair

    def _file(self, option: str) -> tuple[str, str]:
        variable, path = self.get(option)
        if path and not Path(path).is_file():
            raise ConfigError(f"{variable} is not the path of an existing file.")
        return variable, path


def timeouts_of(timeout_ms: int) -> Timeouts:
    """Return timeouts for the phases of a request, given the limit for the whole of it."""
    timeout_s = timeout_ms / 1_000 or MAX_TIMEOUT_S
    return Timeouts(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s, timeout_s)


# A header name: "token" in RFC 9110.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Characters that have another meaning in W3C Baggage unless they are encoded.
RESERVED = frozenset('";\\')


def headers(variable: str, text: str) -> dict[str, str]:
    """Parse a list of headers; names become lower case, and of equal names the last one wins.

    A space in a value may be unencoded, as in `Authorization=Basic abc`, because the documentation
    of all vendors has it so.

    Raises:
        ConfigError: A pair is malformed or cannot be sent as a header.
    """
    found = {}
    for label, name, value in pairs(variable, text):
        if not HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{variable}: the name of {label} is not a valid header name.")
        if not value:
            raise ConfigError(f"{variable}: {label} has no value. Add one, or remove the pair.")
        content = decoded(variable, label, value).strip()
        if RESERVED & set(value) or not content.isascii() or not content.isprintable():
            raise ConfigError(
                f"{variable}: the value of {label} cannot be sent as a header. Use one "
                "line of ASCII, and percent-encode everything but letters and digits: "
                '%2C for a comma, %3B for a semicolon, %22 for a ".'
            )
        found[name.lower()] = content
    return found
