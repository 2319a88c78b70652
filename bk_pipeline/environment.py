"""Read the variables of this process and of `.env`, with one rule for all of them.

Exported variables take precedence over `.env`. White space around a value is ignored, and an
empty value counts as unset. Values that can only be mistakes are errors: quotation marks that
are part of the value, line breaks, invisible characters, a token in a variable that takes
none. Messages name the variable and never show its value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from dotenv.main import resolve_variables
from dotenv.parser import Binding, parse_stream

from bk_pipeline.errors import ConfigError
from bk_pipeline.tokens import looks_like_token

# Some editors put a byte order mark before the first name.
ENV_FILE, ENCODING = ".env", "utf-8-sig"

# What python-dotenv makes of a backslash between double quotes: \b is a backspace, and no
# longer the word boundary of a regular expression.
_CONTROL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\[abfnrtv]")
_EXPANSION = re.compile(r"\$\{([^}:]*)(:-)?[^}]*\}")
_QUOTED = re.compile(r"""[^=]*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)')""", re.DOTALL)


def env_path() -> Path:
    """Path of `.env`: always in the working directory."""
    return Path(ENV_FILE).absolute()


def env_file(ours: Callable[[str], bool] = lambda _: False) -> dict[str, str]:
    """The variables in `.env` of the working directory, including empty ones; `{}` without it.

    Args:
        ours: Whether to check a variable's line for ambiguous syntax, by the variable's name.
            Lines of other programs may hold anything.

    Raises:
        ConfigError: The file cannot be read, or its syntax would silently change a value. Names
            the line, but does not show it.
    """
    bindings = _bindings()
    for one in bindings:
        wrong = _unclear(one, bindings) if one.key and one.value and ours(one.key) else ""
        if wrong:
            raise ConfigError(f"{env_path()}, line {_line(one)}: {one.key} {wrong}")
    pairs = [(one.key, one.value) for one in bindings if one.key is not None]
    # As `dagster dev` does: the file's own variables are expanded before the process's.
    return {name: value or "" for name, value in resolve_variables(pairs, override=True).items()}


def _bindings() -> list[Binding]:
    path = env_path()
    if not path.is_file():
        return []
    try:
        with path.open(encoding=ENCODING) as file:
            bindings = list(parse_stream(file))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not valid UTF-8. Save it with that encoding.") from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}.") from exc
    wrong = next((one for one in bindings if one.error), None)
    if wrong is not None:
        raise ConfigError(
            f"{path}, line {_line(wrong)} is not of the form NAME=value. Check for an unclosed "
            "quote, or put # before a comment."
        )
    return bindings


def _line(binding: Binding) -> int:
    """The line of the binding itself; python-dotenv counts from the empty lines before it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _unclear(binding: Binding, bindings: Iterable[Binding]) -> str:
    """A message if python-dotenv would change the value unexpectedly; otherwise ""."""
    found = _QUOTED.match(binding.original.string)
    double, single = found.groups() if found else (None, None)
    if double is not None and _CONTROL_ESCAPE.search(double):
        return (
            r"has an escape between double quotes, where \b is a backspace and \n a line break. "
            "Put single quotes around the value, or none: a backslash then stays as it is."
        )
    if single is not None and "\\\\" in single:
        return (
            r"has \\ between single quotes, which would become one \. Put no quotes around the "
            "value, or double ones."
        )
    names = {one.key for one in bindings} | set(os.environ)
    for name, default in _EXPANSION.findall(binding.value or ""):
        if single is not None or (name not in names and not default):
            return (
                "holds ${…}, which is replaced by the variable of that name, between any quotes, "
                "and "
                + ("single quotes promise otherwise. " if name in names else "none is set. ")
                + "Put double quotes around the value if that is meant. Else export the variable "
                "from the shell instead, or write %24 for $ in a URL or a header."
            )
    return ""


OURS = "BK_PIPELINE_"
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
CA_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
NETWORK = frozenset({*PROXIES, *(name.lower() for name in PROXIES), *CA_BUNDLES})
# A job of Buildkite's has dozens of variables of this prefix, with anything in them.
BUILDKITE = frozenset({"BUILDKITE_API_TOKEN", "BUILDKITE_ORGANIZATION_SLUG", "BUILDKITE_API_URL"})
OTLP = "OTEL_EXPORTER_OTLP_"
# OpenTelemetry specification, "OpenTelemetry Protocol Exporter".
_OTLP_OPTIONS = (
    "ENDPOINT",
    "HEADERS",
    "PROTOCOL",
    "TIMEOUT",
    "COMPRESSION",
    "CERTIFICATE",
    "CLIENT_CERTIFICATE",
    "CLIENT_KEY",
    "INSECURE",
    "TEMPORALITY_PREFERENCE",
    "DEFAULT_HISTOGRAM_AGGREGATION",
)
OTLP_NAMES = frozenset(
    f"{OTLP}{signal}{option}"
    for signal in ("", "TRACES_", "METRICS_", "LOGS_", "PROFILES_")
    for option in _OTLP_OPTIONS
)
SDK_DISABLED = "OTEL_SDK_DISABLED"
SERVICE_NAME_VARIABLE = "OTEL_SERVICE_NAME"
# What Honeycomb's older distributions call it.
SERVICE_NAME_ALIAS = "HONEYCOMB_SERVICE_NAME"
RESOURCE_VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"
SERVICE_TEMPLATE_VARIABLE = "BK_PIPELINE_SPANS_SERVICE_NAME"
_SERVICE_ATTRIBUTE = re.compile(r"(?:^|,)\s*service\.name\s*=")
# Variables that may hold a key: what is in them is never shown.
_MAY_HOLD_SECRETS = re.compile(
    r"(?:_TOKEN|_KEY|HEADERS|_OTLP_(?:[A-Z]+_)?ENDPOINT|ATTRIBUTES|LEDGER_URL|SPANS_MASK|_proxy)$",
    re.IGNORECASE,
)
# Plain, typographic, and the backtick of Markdown.
_QUOTES = "\"'`“”„‟‘’‚‛«»‹›"  # noqa: RUF001  # exactly these
# The end of a pattern, `"[^"]*"`, is not a slip; its beginning might be.
_MAY_END_QUOTED = ("SPANS_MASK",)
# What Kubernetes sets in every pod of a namespace that has a service bk-pipeline-….
_SERVICE_LINK = re.compile(r"_SERVICE_(?:HOST|PORT)(?:_\w+)?$|_PORT(?:_\d+_(?:TCP|UDP)(?:_\w+)?)?$")
# Variables of this project's own tests.
_TESTS = "BK_PIPELINE_TEST_"
_NEAR = 0.85


def ours(name: str) -> bool:
    """Whether a variable has a name or prefix that this package reads."""
    return name.startswith((OURS, "HONEYCOMB_", "OTEL_")) or name in BUILDKITE or name in NETWORK


def environment() -> dict[str, str]:
    """All variables: the exported ones, and those of `.env` that are not exported.

    Raises:
        ConfigError: `.env` cannot be read. `value_problems` checks the values.
    """
    exported = trimmed(os.environ)
    # https_proxy and HTTPS_PROXY are one variable.
    proxies = {name.upper() for name in exported if name in NETWORK}
    file = {n: v for n, v in trimmed(env_file(ours)).items() if n.upper() not in proxies}
    return {**file, **exported}


def trimmed(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables without empty ones, with white space stripped from this package's values."""
    stripped = {n: v.strip() if ours(n) else v for n, v in variables.items()}
    return {name: value for name, value in stripped.items() if value}


def value_problems(variables: Mapping[str, str]) -> dict[str, str]:
    """For each of this package's variables with an invalid value: what is wrong, by name."""
    found = {name: _problem(name, value) for name, value in variables.items() if ours(name)}
    return {name: problem for name, problem in found.items() if problem}


def validated(variables: Mapping[str, str], *, shown_prefix: str = "") -> dict[str, str]:
    """The trimmed variables.

    Raises:
        ConfigError: Values are malformed. One line per variable, with `shown_prefix` before its
            name.
    """
    tidy = trimmed(variables)
    wrong = value_problems(tidy)
    if wrong:
        lines = (f"{shown_prefix}{name} is malformed: {what}." for name, what in wrong.items())
        raise ConfigError("\n".join(lines))
    return tidy


def names_service(variables: Mapping[str, str]) -> bool:
    """Whether these variables set a service name."""
    return (
        SERVICE_NAME_VARIABLE in variables
        or SERVICE_NAME_ALIAS in variables
        or bool(_SERVICE_ATTRIBUTE.search(variables.get(RESOURCE_VARIABLE, "")))
    )


def has_quotes(value: str, *, end: bool = True) -> bool:
    """Whether `value` begins with a quotation mark, or ends with one."""
    return value[:1] in _QUOTES or (end and value[-1:] in _QUOTES) if value else False


def _problem(name: str, value: str) -> str:
    issued = " as it was issued," if name.endswith(("_TOKEN", "_KEY")) else ""
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"it is not valid UTF-8: give it{issued} in that encoding"
    if not value.isprintable():
        return f"give it{issued} on one line, without characters that cannot be seen"
    if has_quotes(value, end=not name.endswith(_MAY_END_QUOTED)):
        return (
            f"give it{issued} with no quotes around it: they are part of the value where no "
            "shell takes them off, as in docker's --env-file"
        )
    shown = value
    if _MAY_HOLD_SECRETS.search(name):
        # Of an endpoint, which may have a key in its path, the host is shown.
        shown = value.partition("//")[2].partition("/")[0] if name.endswith("ENDPOINT") else ""
    if looks_like_token(shown):
        return "it looks like a token or key, which this variable does not take"
    return ""


def unknown(
    exported: Collection[str],
    file: Collection[str],
    *,
    settings: Collection[str],
    prefixes: tuple[str, ...] = (),
) -> list[str]:
    """A message for each variable that looks like a setting but is not one.

    Args:
        exported: Names of the exported variables.
        file: Names of the variables in `.env`.
        settings: Names of the settings.
        prefixes: Prefixes of the variables of named destinations.
    """
    names = {*exported, *file}
    known = {*settings, *OTLP_NAMES, SERVICE_NAME_ALIAS}
    found = []
    for name in sorted(names):
        prefix = next((one for one in prefixes if name.startswith(one)), "")
        plain = name.removeprefix(prefix)
        if _read(plain, known, named=bool(prefix)) or _of_others(name, in_file=name in file):
            continue
        near = _suggestion(plain, known)
        near = f"{prefix}{near.removeprefix(OURS) if prefix else near}" if near else ""
        meant = f". Did you mean {near}?" if near else "; docs/settings.md lists all settings."
        # Other programs have variables of the other prefixes too.
        if (
            name.startswith((OURS, OTLP))
            or name in file
            or (near and near not in names and get_close_matches(name, [near], cutoff=_NEAR))
        ):
            found.append(f"{name} is not a known setting{meant}")
    return found


def _read(name: str, known: Collection[str], *, named: bool) -> bool:
    """Whether the variable is used. `name` is without the prefix of a named destination."""
    if named and (f"{OURS}{name}" in known or name in NETWORK):
        return True
    # OpenTelemetry variables other than the exporter's are for the SDK.
    return name in known or (name.startswith("OTEL_") and not name.startswith(OTLP))


def _of_others(name: str, *, in_file: bool) -> bool:
    """Whether the variable belongs to another program, like Kubernetes or the Buildkite agent."""
    if name.startswith(OURS):
        return not in_file and bool(name.startswith(_TESTS) or _SERVICE_LINK.search(name))
    if name.startswith("BUILDKITE_"):
        return not in_file and os.environ.get("BUILDKITE") == "true"
    return not name.startswith(("HONEYCOMB_", OTLP))


def _suggestion(name: str, known: Collection[str]) -> str:
    """The known variable most similar to `name`; "" if there is none."""
    bare = name.removeprefix(OURS)
    if bare in known:
        return bare
    # What all of ours begin with would make each of them near to each other.
    tails = {one.removeprefix(OURS) if bare != name else one: one for one in known}
    return next((tails[tail] for tail in get_close_matches(bare, tails, n=1)), "")
