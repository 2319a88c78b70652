"""On which line of a TOML file something stands: `tomllib` says so of syntax errors only."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bk_pipeline.errors import ConfigError
from bk_pipeline.honeycomb.account import dataset_slug
from bk_pipeline.honeycomb.rules import CONDITIONS, EVERYWHERE, Color, Rule, Rules, complaint

# Keys of tables and places in arrays, from the outermost in.
Path = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int:
    """The line, from 1, on which the value at `path` begins; of a table, its header's.

    What is not there has the line of the innermost thing around it that is. Found by parsing
    the file up to each line, so the parser itself says what belongs to what; a file of rules is
    short, and this is for errors.
    """
    lines = text.split("\n")
    present = path
    while present and not _has(tomllib.loads(text), present):
        present = present[:-1]
    begins = 1
    for number in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # amid a value of several lines
        if _has(document, present):
            return begins
        begins = number + 1
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
# What to put where a pattern is not met.
WANTED = {
    "id": "give 1 to 100 letters, digits, dots, dashes or underlines, like failed-main.",
    "dataset": "give a dataset's name, without a slash, or __all__ for the environment.",
    "colors": "give a colour like #7b1fa2.",
}


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = ()
    colors: dict[str, Color] = {}


def load_rules(path: FilePath, *, dataset: str) -> Rules:
    """The rules in the file at `path`.

    Args:
        path: Of the file.
        dataset: The name of the one for rules that name none.

    Raises:
        ConfigError: The file cannot be read, or is wrong; a line for each fault.
    """
    text = _text(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is no TOML: {exc}.") from exc
    try:
        file = _File.model_validate(document)
    except ValidationError as exc:
        faults = [_fault(error) for error in exc.errors()]
        raise ConfigError(_told(path, text, document, faults)) from None
    faults = list(_faults(file.rule))
    if faults:
        raise ConfigError(_told(path, text, document, faults))
    return Rules(
        tuple(
            rule.model_copy(update={"dataset": _slug(rule.dataset or dataset)})
            for rule in file.rule
        ),
        {kind: color.lower() for kind, color in file.colors.items()},
    )


def _text(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT_BYTES + 1)
        # Faults at the very end have a line only if one follows.
        text = content.decode("utf-8-sig").replace("\r\n", "\n") + "\n"
    except OSError as exc:
        raise ConfigError(
            f"BK_PIPELINE_MARKERS names {path}, which cannot be read: {exc.strerror}. Put the "
            "path of the rules file there; docs/markers.md has ready rules."
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is no TOML: it is not UTF-8 from byte {exc.start} on.") from exc
    if len(content) > SIZE_LIMIT_BYTES:
        raise ConfigError(
            f"BK_PIPELINE_MARKERS names {path}, which has more than {SIZE_LIMIT_BYTES:,} bytes: "
            "that is no file of rules."
        )
    return text


def _slug(name: str) -> str:
    return name if name == EVERYWHERE else dataset_slug(name)


def _fault(error: Any) -> tuple[Path, str]:
    """Where pydantic found something, and what in a few words."""
    at: Path = tuple(error["loc"])
    kind = error["type"]
    if kind == "extra_forbidden":
        known = list(Rule.model_fields) if len(at) > 1 else list(_File.model_fields)
        near = get_close_matches(str(at[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."
        return at, f"is unknown; {hint}"
    if kind == "missing":
        return at, "is missing."
    if kind == "string_pattern_mismatch":
        return at, WANTED.get(str(at[-1]) if at[0] == RULE else str(at[0]), error["msg"])
    words = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return at, f"{words[0].lower()}{words[1:]}."


def _faults(rules: tuple[Rule, ...]) -> Iterator[tuple[Path, str]]:
    """What is wrong with rules of the right form."""
    seen: dict[str, int] = {}
    for number, rule in enumerate(rules):
        first = seen.setdefault(rule.id, number)
        if first != number:
            yield (RULE, number, "id"), f'rule {first + 1} is called "{rule.id}" too.'
        for name in rule.conditions:
            if rule.kind not in CONDITIONS[name]:
                yield (RULE, number, name), 'is a condition on jobs; give on = "job" as well.'
        for field in ("message", "url"):
            template = getattr(rule, field)
            for name in template.names if template else ():
                wrong = complaint(name, rule.kind)
                if wrong:
                    yield (RULE, number, field), wrong


def _told(
    path: FilePath, text: str, document: Mapping[str, Any], faults: list[tuple[Path, str]]
) -> str:
    lines = sorted((line_of(text, at), _place(document, at), words) for at, words in faults)
    return "\n".join(f"{path} line {line}: {place}: {words}" for line, place, words in lines)


def _place(document: Mapping[str, Any], at: Path) -> str:
    """`rule "deploys", branch`; a rule without an id has its number, from 1."""
    if at[0] != RULE or len(at) == 1 or not isinstance(at[1], int):
        return ".".join(str(step) for step in at)
    rule = document[RULE][at[1]]
    name = rule.get("id") if isinstance(rule, dict) else None
    where = f'rule "{name}"' if isinstance(name, str) and name else f"rule {at[1] + 1}"
    fields = [str(step) for step in at[2:] if isinstance(step, str)]
    return ", ".join([where, *fields[:1]])
