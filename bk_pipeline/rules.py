"""Files of rules on builds and jobs, in TOML: conditions, reading, and errors with lines.

What markers (`honeycomb/rules.py`), sampling (`deliver/sampling.py`) and prices (`prices.py`) have
in common.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bk_pipeline.errors import ConfigError
from bk_pipeline.spans.model import SpanKind

# Keys of tables and indexes of arrays, outermost first.
Path = tuple[str | int, ...]
FileT = TypeVar("FileT", bound=BaseModel)

SIZE_LIMIT_BYTES = 100_000
RULE = "rule"
EXPECTED_ID = "expected 1 to 100 letters, digits, dots, dashes or underlines, like failed-main."

# For each condition, the column that its globs match, by kind; other kinds do not have it.
_KINDS = (SpanKind.BUILD, SpanKind.JOB)
CONDITIONS: Mapping[str, Mapping[SpanKind, str]] = {
    "pipeline": dict.fromkeys(_KINDS, "buildkite.pipeline.slug"),
    "branch": dict.fromkeys(_KINDS, "buildkite.build.branch"),
    "source": dict.fromkeys(_KINDS, "buildkite.build.source"),
    "state": {SpanKind.BUILD: "buildkite.build.state", SpanKind.JOB: "buildkite.job.state"},
    "step_key": {SpanKind.JOB: "buildkite.step.key"},
    "job_name": {SpanKind.JOB: "buildkite.job.label"},
    "queue": {SpanKind.JOB: "buildkite.agent.queue"},
}


def _globs(value: Any) -> tuple[str, ...]:
    globs = (value,) if isinstance(value, str) else tuple(value) if type(value) is list else ()
    if not globs or not all(isinstance(one, str) and one for one in globs):
        raise ValueError("expected a text, or a list of texts, none of them empty")
    return globs


Globs = Annotated[tuple[str, ...], BeforeValidator(_globs)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
RuleId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class Conditions(BaseModel):
    """The name of a rule, and its conditions on a build or job. All that are set must hold.

    Globs are case-sensitive; a leading `!` excludes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: RuleId
    pipeline: Globs | None = None
    branch: Globs | None = None
    source: Globs | None = None
    state: Globs | None = None
    step_key: Globs | None = None
    job_name: Globs | None = None
    queue: Globs | None = None
    min_duration_s: Seconds | None = None
    min_wait_s: Seconds | None = None

    def globs(self, names: Iterable[str] = CONDITIONS) -> dict[str, tuple[str, ...]]:
        """Return the globs of those conditions in `names` that are set."""
        return {name: globs for name in names if (globs := getattr(self, name))}


class KindConditions(Conditions):
    """Conditions on builds, or on jobs, as the rule says."""

    on: Literal["build", "job"] = "build"

    @property
    def kind(self) -> SpanKind:
        """The kind of span that the rule is about."""
        return SpanKind.BUILD if self.on == "build" else SpanKind.JOB

    @property
    def column_globs(self) -> dict[str, tuple[str, ...]]:
        """The globs by the column of the span table that they match."""
        return {CONDITIONS[name][self.kind]: globs for name, globs in self.globs().items()}


def misplaced_conditions(rules: Iterable[KindConditions]) -> Iterable[tuple[Path, str]]:
    """Yield an error for each condition that spans of the rule's kind do not have."""
    for number, rule in enumerate(rules):
        for name in rule.globs():
            if rule.kind not in CONDITIONS[name]:
                yield (RULE, number, name), 'is a condition on jobs; set on = "job" too.'


def read_rules(
    path: FilePath,
    file: type[FileT],
    rule: type[BaseModel],
    *,
    setting: str,
    page: str,
    expected: Mapping[str, str],
    check: Callable[[FileT], Iterable[tuple[Path, str]]],
    table: str = RULE,
) -> FileT:
    """Read the rules in the file at `path`.

    Args:
        path: The file.
        file: The model of the whole file.
        rule: The model of each rule.
        setting: The variable that names the file.
        page: The page of the documentation with examples.
        expected: The messages for values that do not match a pattern, by key.
        check: Yields the errors of rules that are well-formed: where, and what.
        table: The name of the array of rules: `rule` for `[[rule]]`.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    text = _text(path, setting, page)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}.") from exc
    try:
        found = file.model_validate(document)
    except ValidationError as exc:
        known = {False: list(file.model_fields), True: list(rule.model_fields)}
        errors = [_validation_error(error, known, expected, table) for error in exc.errors()]
        raise ConfigError(_error_text(path, text, document, errors, table)) from None
    errors = list(check(found))
    if errors:
        raise ConfigError(_error_text(path, text, document, errors, table))
    return found


def repeated_ids(ids: Iterable[str], table: str = RULE) -> Iterable[tuple[Path, str]]:
    """Yield an error for each rule of `table` whose id an earlier one has."""
    seen: dict[str, int] = {}
    for number, one in enumerate(ids):
        first = seen.setdefault(one, number)
        if first != number:
            yield (table, number, "id"), f'{table} {first + 1} has the same id "{one}".'


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


def _text(path: FilePath, setting: str, page: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT_BYTES + 1)
        # An error at the very end has a line number only if another line follows.
        text = content.decode("utf-8-sig").replace("\r\n", "\n") + "\n"
    except OSError as exc:
        raise ConfigError(
            f"{setting} names {path}, which cannot be read: {exc.strerror}. Set it to "
            f"the path of the rules file; {page} has examples."
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path} is not valid TOML: it is not UTF-8 from byte {exc.start} on."
        ) from exc
    if len(content) > SIZE_LIMIT_BYTES:
        raise ConfigError(
            f"{setting} names {path}, which has more than {SIZE_LIMIT_BYTES:,} bytes "
            "and so is not a rules file."
        )
    return text


def _validation_error(
    error: Any, known: Mapping[bool, list[str]], expected: Mapping[str, str], table: str
) -> tuple[Path, str]:
    """Return the path and a short message of a pydantic error."""
    at: Path = tuple(error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        names = known[len(at) > 1]
        similar = get_close_matches(str(at[-1]), names, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"there are: {', '.join(names)}."
        return at, f"is unknown; {hint}"
    if kind == "missing":
        return at, "is missing."
    if kind == "string_pattern_mismatch":
        return at, expected.get(str(at[-1]) if at[0] == table else str(at[0]), error["msg"])
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return at, f"{message[0].lower()}{message[1:]}."


def _error_text(
    path: FilePath,
    text: str,
    document: Mapping[str, Any],
    errors: list[tuple[Path, str]],
    table: str,
) -> str:
    lines = sorted(
        (line_of(text, at), _label(document, at, table), message) for at, message in errors
    )
    return "\n".join(f"{path} line {line}: {place}: {message}" for line, place, message in lines)


def _label(document: Mapping[str, Any], at: Path, table: str) -> str:
    """Return a label like `rule "deploys", branch`; a rule without an id has its number, from 1."""
    if at[0] != table or len(at) == 1 or not isinstance(at[1], int):
        return ".".join(str(step) for step in at)
    rule = document[table][at[1]]
    name = rule.get("id") if isinstance(rule, dict) else None
    where = f'{table} "{name}"' if isinstance(name, str) and name else f"{table} {at[1] + 1}"
    fields = [str(step) for step in at[2:] if isinstance(step, str)]
    return ", ".join([where, *fields[:1]])
