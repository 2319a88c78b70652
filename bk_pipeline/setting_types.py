"""Types of the settings' values. They validate a value and say what is expected instead.

Error messages never quote the value, which may be a secret.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from string import Formatter
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from bk_pipeline.environment import has_quotes

# Honeycomb API description, "Dataset"; a slash cannot be sent in the path of a batch.
DATASET_NAME_LIMIT = 255
# The id of a key: the first 32 of an ingest key's 64 characters.
KEY_ID = re.compile(r"hc[a-z][a-z]k_[a-z0-9]{26}")
# Of agents' sessions and jobs, of their registration, and of a cluster's agents. Source:
# Buildkite's documentation, "Token security".
AGENT_TOKENS = ("bkaa_", "bkaj_", "bkar_", "bkct_")
HONEYCOMB_KEY = re.compile(r"hc[a-z]{3}_")
BUILDKITE_TOKEN = re.compile(r"bk[a-z]{2,4}_")
AGE = re.compile(
    r"([0-9]{1,6})\s*(m(?=in|$)|h(?=our|$)|d(?=ay|$))(?:in(?:ute)?s?|ours?|ays?)?", re.ASCII
)
LARGEST_AGE = 100_000
MINUTE = timedelta(minutes=1)
NAME = re.compile(r"[a-z][a-z0-9_]*")
SLUG = re.compile(r"[\w.~-]+", re.ASCII)
# What a template of the service name may contain; each stands for `buildkite.<name>.slug`.
SERVICE_PLACEHOLDERS = ("pipeline", "organization")
# Leaves room for the slugs within the limit of a name.
SERVICE_TEMPLATE_BYTES = 100


def _url(example: str) -> AfterValidator:
    def checked(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError(f"give a URL like {example}")
        if parts.username or parts.password:
            raise ValueError("give the URL without a user name or password")
        if parts.query or parts.fragment:
            raise ValueError("give the URL without anything behind '?' or '#'")
        return value.rstrip("/")

    return AfterValidator(checked)


def _zone(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError("give a time zone like UTC or Europe/Berlin") from exc


def _day(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value)
    except ValueError as exc:
        raise ValueError("give a date like 2026-01-31") from exc


def _age(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    found = AGE.fullmatch(text)
    if text == "0":
        return timedelta()
    if found is None or int(found[1]) > LARGEST_AGE:
        raise ValueError("give a number of minutes, hours or days, like 90m, 24h or 60d, or 0")
    return int(found[1]) * {"m": MINUTE, "h": 60 * MINUTE, "d": 1_440 * MINUTE}[found[2]]


def _globs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    globs = tuple(value.replace(",", " ").split())
    if any(has_quotes(one.removeprefix("!")) for one in globs):
        raise ValueError("give the names with no quotes around them")
    return globs


def _dataset(value: str) -> str:
    if "/" in value or not value.isprintable() or not 1 <= len(value.strip()) <= DATASET_NAME_LIMIT:
        raise ValueError("give a name of 1 to 255 characters without a slash, like buildkite")
    return value.strip()


def _slug(value: str) -> str:
    if not SLUG.fullmatch(value):
        raise ValueError("give the slug alone, like acme: no URL, no spaces, no quotes")
    return value


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable() or set(text) & set(" '\""):
        raise ValueError("give it as it was issued: no spaces, line breaks or quotes")
    return value


def _buildkite_token(value: SecretStr) -> SecretStr:
    if value.get_secret_value().startswith(AGENT_TOKENS):
        raise ValueError(
            "this is an agent token; create an API access token, under Personal Settings > API "
            "Access Tokens in Buildkite"
        )
    if HONEYCOMB_KEY.match(value.get_secret_value()):
        raise ValueError("this is a key of Honeycomb; give an API access token of Buildkite")
    return value


def _honeycomb_key(value: SecretStr) -> SecretStr:
    if KEY_ID.fullmatch(value.get_secret_value()):
        raise ValueError(
            "that is a key's id: give the whole key, which is shown once, as it is made"
        )
    if BUILDKITE_TOKEN.match(value.get_secret_value()):
        raise ValueError("this is a token of Buildkite; give a key of Honeycomb")
    return value


def _database(value: SecretStr) -> SecretStr:
    """What the ledger can open; in the errors no part of the value, which holds a password."""
    text = value.get_secret_value()
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises if it is no number
    except ValueError:
        parts = urlsplit("")
    scheme = parts.scheme.partition("+")[0] if "://" in text else ""
    named = parts.path.strip("/") or "dbname=" in parts.query
    if (
        scheme in {"postgres", "postgresql"}
        and named
        and not parts.fragment
        and text.isprintable()
        and " " not in text
    ):
        return value
    if text.startswith("sqlite:///") and text != "sqlite:///" and text.isprintable():
        return value
    raise ValueError(
        "give a URL like postgresql://user:password@host:5432/database, with %-escapes for "
        "special characters in the password, or sqlite:////folder/ledger.sqlite"
    )


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as exc:
        # What is quoted in the message is a part of the value.
        reason = re.split(r"['\"\\?]", exc.msg)[0].strip()
        raise ValueError(f"give a regular expression; at character {exc.pos}: {reason}") from exc
    return value


def _service_template(value: str) -> str:
    try:
        parts = list(Formatter().parse(value))
    except ValueError:
        parts = [("", "", "", None)]
    placeholders = [part[1:] for part in parts if part[1] is not None]
    allowed = {(name, "", None) for name in SERVICE_PLACEHOLDERS}
    names = " and ".join(f"{{{name}}}" for name in SERVICE_PLACEHOLDERS)
    if not allowed.issuperset(placeholders):
        raise ValueError(
            f"give a template like ci-{{pipeline}}; only {names} are replaced, and {{{{ or }}}} "
            "stands for a brace of the name itself"
        )
    if ("pipeline", "", None) not in placeholders:
        raise ValueError(
            "give a template with {pipeline} in it, like ci-{pipeline}; a name that all pipelines "
            "have in common is a matter of OTEL_SERVICE_NAME"
        )
    if len(value.encode()) > SERVICE_TEMPLATE_BYTES:
        raise ValueError(f"give a template of at most {SERVICE_TEMPLATE_BYTES} bytes")
    return value


def _umask(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"0?o?[0-7]{3}", value):
        raise ValueError("give three octal digits like 077 or 027")
    return int(value[-3:], 8)


def _key_prefix(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = tuple(value.strip("/").split("/"))
    if not all(NAME.fullmatch(one) for one in parts):
        raise ValueError("give names of small letters, digits and _ between slashes, like ci/acme")
    return parts


def _instance_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("give a name of small letters, digits and _, like acme")
    return value


Umask = Annotated[int, BeforeValidator(_umask)]
BuildkiteUrl = Annotated[str, _url("https://api.buildkite.com")]
HoneycombUrl = Annotated[str, _url("https://api.honeycomb.io")]
Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Day = Annotated[date, BeforeValidator(_day)]
Age = Annotated[timedelta, BeforeValidator(_age)]
Globs = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_globs)]
Dataset = Annotated[str, AfterValidator(_dataset)]
InstanceName = Annotated[str, AfterValidator(_instance_name)]
KeyPrefix = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_key_prefix)]
Slug = Annotated[str, AfterValidator(_slug)]
Pattern = Annotated[str, AfterValidator(_pattern)]
ServiceTemplate = Annotated[str, AfterValidator(_service_template)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
BuildkiteToken = Annotated[Secret, AfterValidator(_buildkite_token)]
HoneycombKey = Annotated[Secret, AfterValidator(_honeycomb_key)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database)]
