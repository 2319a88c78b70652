"""The resource of the spans: service name and attributes, from OpenTelemetry's variables.

They mean the same on every route. A template may give each pipeline a service name of its own.
Source: OpenTelemetry specification, "Resource SDK".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from bk_pipeline.environment import (
    RESOURCE_VARIABLE,
    SERVICE_NAME_ALIAS,
    SERVICE_NAME_VARIABLE,
    has_quotes,
)
from bk_pipeline.errors import ConfigError
from bk_pipeline.setting_types import SERVICE_PLACEHOLDERS
from bk_pipeline.text import truncate

SERVICE_NAME = "service.name"
# The attribute that each placeholder of a template stands for.
SERVICE_SOURCES = {name: f"buildkite.{name}.slug" for name in SERVICE_PLACEHOLDERS}
# Honeycomb's limit for the name of a dataset, which the service name is by OTLP.
SERVICE_NAME_BYTES = 255


def resource_attributes(environment: Mapping[str, str], *, default_service: str) -> dict[str, str]:
    """Return the resource attributes, the service name first.

    OTEL_SERVICE_NAME takes precedence over HONEYCOMB_SERVICE_NAME, and both over
    OTEL_RESOURCE_ATTRIBUTES.

    Args:
        environment: Variables and their values.
        default_service: The service name if no variable has one.

    Raises:
        ConfigError: OTEL_RESOURCE_ATTRIBUTES is malformed.
    """
    configured = attributes(RESOURCE_VARIABLE, environment.get(RESOURCE_VARIABLE, ""))
    names = (
        environment.get(one, "").strip() for one in (SERVICE_NAME_VARIABLE, SERVICE_NAME_ALIAS)
    )
    service = next(filter(None, names), "") or configured.get(SERVICE_NAME) or default_service
    return {SERVICE_NAME: service} | {k: v for k, v in configured.items() if k != SERVICE_NAME}


def service_name(template: str, build: Mapping[str, Any]) -> str | None:
    """Return the service name that `template` makes of a build's attributes.

    They are those of the span table, so a name holds nothing that the privacy rules remove.

    Returns:
        None if there is no template, or an attribute that it needs is missing or empty: the name of
        the resource applies.
    """
    if not template:
        return None
    values = {name: build[source] for name, source in SERVICE_SOURCES.items() if build.get(source)}
    try:
        return truncate(template.format_map(values), SERVICE_NAME_BYTES)
    except KeyError:
        return None


def attributes(variable: str, text: str) -> dict[str, str]:
    """Parse a list of resource attributes; of equal keys the last one wins.

    Raises:
        ConfigError: A pair is malformed. The specification discards all attributes and reports an
            error in this case, but spans sent without them cannot be corrected later.
    """
    return {
        decoded(variable, label, key): decoded(variable, label, value)
        for label, key, value in pairs(variable, text)
    }


def pairs(variable: str, text: str) -> Iterator[tuple[str, str, str]]:
    """Yield a label for messages, the key and the value of each pair; empty pairs are skipped."""
    found = [pair for pair in text.split(",") if pair.strip()]
    for number, pair in enumerate(found, start=1):
        label = f"pair {number} of {len(found)}"
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals:
            raise ConfigError(
                f"{variable}: {label} is not key=value. Give pairs like "
                "key1=value1,key2=value2, and write a comma in a value as %2C."
            )
        if has_quotes(key) or has_quotes(value):
            raise ConfigError(
                f"{variable}: {label} has quotes, which would be part of the value. Remove them, "
                "and percent-encode special characters: %22 for a quote that belongs to the value."
            )
        yield label, key, value


def decoded(variable: str, label: str, text: str) -> str:
    """Return percent-decoded text; an error names `variable` and `label`, not the text."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ConfigError(
            f"{variable}: {label} is not UTF-8 after percent-decoding. Write a percent sign as %25."
        ) from None
