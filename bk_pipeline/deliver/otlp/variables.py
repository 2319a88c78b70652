"""The exporter's variables one by one: which of two decides, and what its value means."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote_to_bytes

from bk_pipeline.environment import SDK_DISABLED, quoted
from bk_pipeline.errors import ConfigError
from bk_pipeline.http.session import Timeouts


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of telemetry.

    Attributes:
        name: As it stands in variables, in small letters, and in messages.
        things: What a request holds and an answer counts.
        ledger: What a destination's name in the ledger begins with. An endpoint may take both
            signals at one URL, and what was sent of one was not sent of the other.
    """

    name: str
    things: str
    ledger: str

    @property
    def prefix(self) -> str:
        """What the variables for this signal alone begin with."""
        return f"OTEL_EXPORTER_OTLP_{self.name.upper()}_"

    @property
    def switch(self) -> str:
        """The variable that says which exporters there are for it."""
        return f"OTEL_{self.name.upper()}_EXPORTER"

    @property
    def path(self) -> str:
        """What is added to a general endpoint."""
        return f"v1/{self.name}"


TRACES = Signal("traces", "spans", "otlp")
METRICS = Signal("metrics", "data points", "otlp_metrics")


GENERAL = "OTEL_EXPORTER_OTLP_"
PROTOCOL = "http/protobuf"
# What metrics of builds that are over can be, and how their durations leave.
TEMPORALITIES = ("delta", "lowmemory")
AGGREGATION = "base2_exponential_bucket_histogram"
DEFAULT_TIMEOUT_MS = 10_000
# The specification's 0, "indefinite".
LONGEST_TIMEOUT_S = 3_600.0
# Nobody means so few milliseconds: opentelemetry-python reads the variable as seconds.
SHORTEST_TIMEOUT_MS = 100
CONNECT_S = 10.0
# What the specification has for programs that trace themselves, and would change what is sent:
# refused, with why. Values in the second place are as good as none.
# Source: OpenTelemetry specification, "Environment Variable Specification".
_WHOLE = "a span keeps what BK_PIPELINE_SPANS_DROP leaves it"
UNSUPPORTED: Mapping[str, tuple[str, frozenset[str]]] = {
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("values are cut at 65,535 bytes", frozenset()),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("values are cut at 65,535 bytes", frozenset()),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": (_WHOLE, frozenset()),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": (_WHOLE, frozenset()),
    "OTEL_SPAN_LINK_COUNT_LIMIT": ("a span keeps its links", frozenset()),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": ("a link keeps its attributes", frozenset()),
    "OTEL_TRACES_SAMPLER": (
        "every build is sent",
        frozenset({"always_on", "parentbased_always_on"}),
    ),
    "OTEL_CONFIG_FILE": ("there is no declarative configuration here", frozenset()),
    "OTEL_EXPERIMENTAL_CONFIG_FILE": ("there is no declarative configuration here", frozenset()),
    "OTEL_ENTITIES": ("put attributes into OTEL_RESOURCE_ATTRIBUTES instead", frozenset()),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("the size of batches is fixed", frozenset({"512"})),
}


class Compression(StrEnum):
    """What becomes of a body before it leaves."""

    NONE = "none"
    GZIP = "gzip"


class Variables:
    """The exporter's variables, each by the end of its name."""

    def __init__(
        self, environment: Mapping[str, str], signal: Signal, *, shown_prefix: str
    ) -> None:
        self._environment = environment
        self._signal = signal
        self._shown_prefix = shown_prefix

    def get(self, option: str) -> tuple[str, str]:
        """The variable that decides, as messages name it, and its value, "" if there is none."""
        for variable in (self._signal.prefix + option, GENERAL + option):
            value = self._environment.get(variable, "").strip()
            if value:
                return self._shown_prefix + variable, value
        return self._shown_prefix + GENERAL + option, ""

    @property
    def switched_off(self) -> bool:
        """Whether the signal is to be exported otherwise, or not at all.

        Raises:
            ConfigError: OTEL_SDK_DISABLED is neither true nor false.
        """
        disabled = self._environment.get(SDK_DISABLED, "").strip().lower()
        if disabled not in {"", "true", "false"}:
            raise ConfigError(
                f"{self._shown_prefix}{SDK_DISABLED} is malformed: give true or false."
            )
        if disabled == "true":
            return True
        chosen = self._environment.get(self._signal.switch, "").strip().lower()
        return bool(chosen) and "otlp" not in chosen.split(",")

    def refuse_other_protocols(self) -> None:
        variable, value = self.get("PROTOCOL")
        if value and value.lower() != PROTOCOL:
            raise ConfigError(
                f"{variable} asks for a protocol that is not spoken here. Only {PROTOCOL} is: "
                "put that there (its port is 4318 by custom, gRPC's 4317), or unset it."
            )

    def refuse_unsupported(self) -> None:
        for variable, (instead, harmless) in UNSUPPORTED.items():
            value = self._environment.get(variable, "").strip().lower()
            if value and value not in harmless:
                raise ConfigError(
                    f"{self._shown_prefix}{variable} is not supported: {instead}. Unset it for this "
                    "program; a Collector on the way can do what it asks for."
                )

    def refuse_other_metrics(self) -> None:
        """Metrics are deltas and exponential histograms, whatever a program's own would be."""
        variable, value = self.get("TEMPORALITY_PREFERENCE")
        if value and value.lower() not in TEMPORALITIES:
            raise ConfigError(
                f"{variable} asks for running totals, which nobody has of builds that are over. "
                "Put delta there, or unset it; deltatocumulative in a Collector adds them up."
            )
        variable, value = self.get("DEFAULT_HISTOGRAM_AGGREGATION")
        if value and value.lower() != AGGREGATION:
            raise ConfigError(
                f"{variable} asks for other histograms than durations leave as. Put {AGGREGATION} "
                "there, or unset it."
            )

    def timeouts(self) -> Timeouts:
        variable, value = self.get("TIMEOUT")
        if value and not (value.isascii() and value.isdecimal()):
            raise ConfigError(
                f"{variable} is no whole number. Give milliseconds: 10000 for ten seconds."
            )
        timeout_ms = int(value) if value else DEFAULT_TIMEOUT_MS
        if 0 < timeout_ms < SHORTEST_TIMEOUT_MS:
            raise ConfigError(
                f"{variable} is {timeout_ms}, and its unit is the millisecond, as the "
                "OpenTelemetry specification says (its Python SDK reads seconds). Give "
                f"{timeout_ms * 1_000} for {timeout_ms} seconds."
            )
        return timeouts_of(timeout_ms)

    def compression(self) -> Compression:
        variable, value = self.get("COMPRESSION")
        try:
            return Compression(value.lower() or Compression.NONE)
        except ValueError:
            raise ConfigError(
                f"{variable} asks for a compression that is not known here: give gzip or none."
            ) from None

    def ca_file(self) -> str | None:
        variable, path = self._file("CERTIFICATE")
        if not path:
            return None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (ssl.SSLError, OSError):
            raise ConfigError(f"{variable} is no file of certificates in PEM form.") from None
        return path

    def client_cert(self) -> tuple[str, str] | None:
        """The paths of our certificate and of its key; one file may hold both."""
        variable, certificate = self._file("CLIENT_CERTIFICATE")
        key_variable, key = self._file("CLIENT_KEY")
        if key and not certificate:
            raise ConfigError(
                f"{key_variable} is set without a certificate: put its path into {variable}."
            )
        if not certificate:
            return None
        pair = certificate, key or certificate
        try:
            # Without a password at hand OpenSSL would ask for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*pair, password="")
        except (ssl.SSLError, OSError):
            raise ConfigError(
                f"{variable} and {key_variable} are no certificate and the unencrypted key "
                "that belongs to it, in PEM form."
            ) from None
        return pair

    def _file(self, option: str) -> tuple[str, str]:
        variable, path = self.get(option)
        if path and not Path(path).is_file():
            raise ConfigError(f"{variable} is not the path of a file that can be seen from here.")
        return variable, path


def timeouts_of(timeout_ms: int) -> Timeouts:
    """What a timeout for the whole of an attempt allows to its parts."""
    timeout_s = timeout_ms / 1_000 or LONGEST_TIMEOUT_S
    return Timeouts(min(CONNECT_S, timeout_s), timeout_s, timeout_s)


# RFC 9110, "token": what a header may be called.
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Unencoded, they mean something else in W3C Baggage.
RESERVED = frozenset('";\\')


def headers(variable: str, text: str) -> dict[str, str]:
    """The headers in `text`, by their names in small letters; of equal ones the last.

    A space in a value may stand there unencoded, as in `Authorization=Basic abc`: all
    documentation of vendors has it so.

    Raises:
        ConfigError: A pair is none, or cannot be sent as a header.
    """
    found = {}
    for place, name, value in _pairs(variable, text):
        if not HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{variable}: the name of {place} is not that of a header.")
        if not value:
            raise ConfigError(
                f"{variable}: {place} has no value. Put one there, or take the pair out."
            )
        decoded = _decoded(variable, place, value).strip()
        if RESERVED & set(value) or not decoded.isascii() or not decoded.isprintable():
            raise ConfigError(
                f"{variable}: the value of {place} cannot be sent as a header. Give it "
                "on one line without letters beyond ASCII, and percent-encode what is no letter "
                'or digit: %2C for a comma, %3B for a semicolon, %22 for a ".'
            )
        found[name.lower()] = decoded
    return found


def attributes(variable: str, text: str) -> dict[str, str]:
    """The resource attributes in `text`, keys and values decoded; of equal ones the last.

    Raises:
        ConfigError: A pair is none. The specification has all of them discarded then, and an
            error reported; but what was sent without them could not be mended.
    """
    return {
        _decoded(variable, place, key): _decoded(variable, place, value)
        for place, key, value in _pairs(variable, text)
    }


def _pairs(variable: str, text: str) -> Iterator[tuple[str, str, str]]:
    """What to call it in a message, key and value of each pair; empty ones are passed over."""
    pairs = [pair for pair in text.split(",") if pair.strip()]
    for number, pair in enumerate(pairs, start=1):
        place = f"pair {number} of {len(pairs)}"
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals:
            raise ConfigError(
                f"{variable}: {place} is not key=value. Give pairs like "
                "key1=value1,key2=value2, and write a comma within a value as %2C."
            )
        if quoted(key) or quoted(value):
            raise ConfigError(
                f"{variable}: {place} has quotes, which would be part of the value. Take them "
                "off; percent-encode what is no letter or digit, %22 for a quote that belongs there."
            )
        yield place, key, value


def _decoded(variable: str, place: str, text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ConfigError(
            f"{variable}: {place} is no UTF-8 after percent-decoding. Write a percent sign as %25."
        ) from None
