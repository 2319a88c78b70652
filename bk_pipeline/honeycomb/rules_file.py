"""Read the TOML file of marker rules, and report every error with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bk_pipeline.display import BUILDKITE
from bk_pipeline.errors import ConfigError
from bk_pipeline.honeycomb.account import dataset_slug
from bk_pipeline.honeycomb.rules import ALL_DATASETS, CONDITIONS, Color, Rule, Rules, field_error

# Keys of tables and indexes of arrays, outermost first.
Path = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int:
    """Return the line (from 1) where the value at `path` starts; for a table, its header.

    For a missing value, it is the line of the innermost existing value around it. Finds it by
    parsing the file up to each line, because `tomllib` gives line numbers of syntax errors only.
    Rules files are short, and this is only for errors.
    """
    lines = text.split("\n")
    existing = path
    while existing and not _has(tomllib.loads(text), existing):
        existing = existing[:-1]
    start = 1
    for number in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # within a multi-line value
        if _has(document, existing):
            return start
        start = number + 1
    return 1


def _has(document: Any, path: Path) -> bool:
    here = document
    for step in path:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


SIZE_LIMIT_BYTES = 100_000
RULE = "rule"
# The messages for values that do not match a pattern.
EXPECTED = {
    "id": "expected 1 to 100 letters, digits, dots, dashes or underlines, like failed-main.",
    "dataset": "expected a dataset's name, without a slash, or __all__ for the environment.",
    "url": "expected https://, a host and a slash, or a field with a Buildkite URL, at the start.",
    "colors": "expected a colour like #7b1fa2.",
}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = ()
    colors: dict[str, Color] = {}


def load_rules(path: FilePath, *, dataset: str, hosts: Collection[str] = (BUILDKITE,)) -> Rules:
    """Read the rules in the file at `path`.

    Args:
        path: The file.
        dataset: The name of the default dataset.
        hosts: Hosts of Buildkite's pages.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    text = _text(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}.") from exc
    try:
        file = _File.model_validate(document)
    except ValidationError as exc:
        errors = [_validation_error(error) for error in exc.errors()]
        raise ConfigError(_error_text(path, text, document, errors)) from None
    errors = list(_rule_errors(file.rule))
    if errors:
        raise ConfigError(_error_text(path, text, document, errors))
    return Rules(
        tuple(
            rule.model_copy(update={"dataset": _slug(rule.dataset or dataset)})
            for rule in file.rule
        ),
        {kind: color.lower() for kind, color in file.colors.items()},
        frozenset(hosts),
    )


def _text(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT_BYTES + 1)
        # An error at the very end has a line number only if another line follows.
        text = content.decode("utf-8-sig").replace("\r\n", "\n") + "\n"
    except OSError as exc:
        raise ConfigError(
            f"BK_PIPELINE_MARKERS names {path}, which cannot be read: {exc.strerror}. Set it to "
            "the path of the rules file; docs/markers.md has examples."
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path} is not valid TOML: it is not UTF-8 from byte {exc.start} on."
        ) from exc
    if len(content) > SIZE_LIMIT_BYTES:
        raise ConfigError(
            f"BK_PIPELINE_MARKERS names {path}, which has more than {SIZE_LIMIT_BYTES:,} bytes "
            "and so is not a rules file."
        )
    return text


def _slug(name: str) -> str:
    return name if name == ALL_DATASETS else dataset_slug(name)


def _validation_error(error: Any) -> tuple[Path, str]:
    """Return the path and a short message of a pydantic error."""
    at: Path = tuple(error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        known = list(Rule.model_fields) if len(at) > 1 else list(_File.model_fields)
        similar = get_close_matches(str(at[-1]), known, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"there are: {', '.join(known)}."
        return at, f"is unknown; {hint}"
    if kind == "missing":
        return at, "is missing."
    if kind == "string_pattern_mismatch":
        return at, EXPECTED.get(str(at[-1]) if at[0] == RULE else str(at[0]), error["msg"])
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return at, f"{message[0].lower()}{message[1:]}."


def _rule_errors(rules: tuple[Rule, ...]) -> Iterator[tuple[Path, str]]:
    """Yield the errors of rules that are well-formed."""
    seen: dict[str, int] = {}
    for number, rule in enumerate(rules):
        first = seen.setdefault(rule.id, number)
        if first != number:
            yield (RULE, number, "id"), f'rule {first + 1} has the same id "{rule.id}".'
        for name in rule.conditions:
            if rule.kind not in CONDITIONS[name]:
                yield (RULE, number, name), 'is a condition on jobs; set on = "job" too.'
        for field in ("message", "url"):
            template = getattr(rule, field)
            for name in template.names if template else ():
                message = field_error(name, rule.kind)
                if message:
                    yield (RULE, number, field), message
        if rule.url is not None and rule.url.host == "":
            yield (RULE, number, "url"), EXPECTED["url"]


def _error_text(
    path: FilePath, text: str, document: Mapping[str, Any], errors: list[tuple[Path, str]]
) -> str:
    lines = sorted((line_of(text, at), _label(document, at), message) for at, message in errors)
    return "\n".join(f"{path} line {line}: {place}: {message}" for line, place, message in lines)


def _label(document: Mapping[str, Any], at: Path) -> str:
    """Return a label like `rule "deploys", branch`; a rule without an id has its number, from 1."""
    if at[0] != RULE or len(at) == 1 or not isinstance(at[1], int):
        return ".".join(str(step) for step in at)
    rule = document[RULE][at[1]]
    name = rule.get("id") if isinstance(rule, dict) else None
    where = f'rule "{name}"' if isinstance(name, str) and name else f"rule {at[1] + 1}"
    fields = [str(step) for step in at[2:] if isinstance(step, str)]
    return ", ".join([where, *fields[:1]])
